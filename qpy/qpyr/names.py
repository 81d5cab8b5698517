"""Asking qpy-mtasts and qpy-token, and qpy-resolve (lib.names)."""
from qpy import unix
from qpy.core import channel, mta_sts, text
from qpy.lib.names import PATIENCE, TEMP, Names  # noqa: F401


class Policies(Names):
    """The same for qpy-mtasts, if it runs: ask(b'S', domain, callback), callback(mode or TEMP, patterns, reason)."""

    PROGRAM, SOCKET, ANSWER = b'qpy-mtasts', b'mtasts', channel.MTASTS_ANSWER

    __slots__ = ()

    def there(self):
        """Whether the administrator runs it."""
        return unix.access(self.home + b'/run/mtasts', unix.R_OK)

    @staticmethod
    def trouble(reason):
        """The mail waits: it was wanted that policies are obeyed."""
        return TEMP, (), reason

    def _records(self, records):
        for _, (number, mode, patterns, reason), _ in records:
            mode = mode if mode in mta_sts.MODES else TEMP
            self._answer(number, mode, patterns.split(b'\n'), text.printable(reason))


class Tokens(Names):
    """The same for qpy-token: ask(b'K', account, callback), callback(status, token, reason).  F: not the one we had."""

    PROGRAM, SOCKET, ANSWER = b'qpy-token', b'token', channel.TOKEN_ANSWER

    __slots__ = ()

    @staticmethod
    def trouble(reason):
        """The mail waits."""
        return TEMP, b'', reason

    def _records(self, records):
        for _, (number, status, token, reason), _ in records:
            self._answer(number, status if token else TEMP, token, text.printable(reason))
