"""What this host says that it is called."""
from qpy.lib import controls


def own(home: bytes) -> list:
    """The name in control/me, and the first word of control/smtpgreeting.  controls.Broken, OSError."""
    return [controls.me(home), controls.line(home, b'smtpgreeting').partition(b' ')[0]]
