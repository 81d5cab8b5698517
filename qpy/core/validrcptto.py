"""Is this a recipient that control/validrcptto lists?

    ann@example.org         this address, in any case
    @example.net            every address there: somebody else checks them
    -spamtrap@example.net   not this one, though its domain is listed
    -@old.example.org       none there (the same as not listing the domain; it says so to the reader)

The address is looked for first, then its domain; the line with the minus wins over the one without.
validrcptto.cdb has the entries as keys, in lower case, and is asked instead of the list where there is one.
"""
from qpy.core import text


class ValidRecipients:
    """The recipients that are listed. entries: {lower-case entry: anything}, or a Cdb."""

    __slots__ = ('entries',)

    def __init__(self, entries):
        self.entries = entries

    def permits(self, address: bytes) -> bool:
        """May this canonical address have mail? CdbError: not known now."""
        address = text.lower(address)
        for key in (address, address[address.rfind(b'@'):] if b'@' in address else b''):
            if key and self.entries.get(b'-' + key) is not None:
                return False
            if key and self.entries.get(key) is not None:
                return True
        return False
