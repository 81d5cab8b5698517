"""What the end of a local delivery means to qpy-send: the one table, qmail-lspawn's.

The same codes come from qpy-local (0, 100, 111) and from what a site may put in its place.  Differences from
qmail: a code that is not listed is temporary, because an interpreter's own 1, 2 or 120 proves nothing about mail; and
mail for an address without a local part is returned, where qmail-lspawn says K and it is gone.
"""
from qpy.core import exits

SUCCESS, TEMPORARY, PERMANENT = b'K', b'Z', b'D'

OUTPUT_LIMIT = 3000
_KEPT = 2966
_TOO_LONG = b'\nError report too long, sorry.\n'

CRASHED = b'Zqmail-local crashed.\n'
OVERDUE = b'ZDelivery did not end in time and was given up. (#4.3.0)\n'
IN_USE = b'ZInternal error: delnum in use. (#4.3.5)\n'
AS_ROOT = b'ZNot allowed to perform deliveries as root.\n'
NO_HOST = b'DSorry, address must include host name. (#5.1.3)\n'
NO_LOCAL = b'DSorry, address must include a name in front of the @. (#5.1.3)\n'
TROUBLE = b'ZTemporary failure in qmail-lspawn.\n'
UNABLE_TO_RUN = b'ZUnable to run qmail-local.\n'
NO_LOOKUP = b'ZUnable to run qmail-getpw.\n'

_TEXTS = {112: b'ZInternal qmail-lspawn bug.\n', 113: AS_ROOT, 115: b'ZNFS failure in qmail-local.\n',
          116: b'ZUnable to find alias user!\n', 117: b'ZTrouble reading users/cdb in qmail-lspawn.\n', 118: TROUBLE,
          119: b'ZOut of memory in qmail-lspawn.\n', 120: UNABLE_TO_RUN, 121: NO_LOOKUP,
          126: b'DUnable to run qmail-local.\n'}
_LETTERS = {exits.OK: SUCCESS, exits.PERM: PERMANENT}


def cut(output):
    """At most OUTPUT_LIMIT bytes of output, up to its first NUL; a cut is said."""
    output = output.partition(b'\0')[0]
    return output if len(output) <= OUTPUT_LIMIT else output[:_KEPT] + _TOO_LONG


def report(code, output):
    """(letter, text) for an exit code (below 0: killed by that signal) and what the delivery printed."""
    if code < 0:
        return CRASHED[:1], CRASHED[1:]
    if code in _TEXTS:
        return _TEXTS[code][:1], _TEXTS[code][1:]
    return _LETTERS.get(code, TEMPORARY), cut(output)


def sentence(code):
    """The sentence of qmail-lspawn for a code of its own (112 and above), without letter and newline; else b''."""
    return _TEXTS.get(code, b'')[1:].rstrip(b'\n')
