"""The one form of a password from which both sides of SCRAM make their keys (SASLprep, RFC 4013, as RFC 5802, 2.2 wants it).

What that forbids stays, as others have it: a client that refuses such a password says so itself.
"""
from unicodedata import ucd_3_2_0

BLANKS = 0xa0, 0x1680, *range(0x2000, 0x200c), 0x202f, 0x205f, 0x3000                       # RFC 3454, C.1.2
NOTHING = 0xad, 0x34f, 0x1806, *range(0x180b, 0x180e), 0x200c, 0x200d, 0x2060, *range(0xfe00, 0xfe10), 0xfeff    # B.1
MAPPED = {**dict.fromkeys(BLANKS, ' '), **dict.fromkeys(NOTHING)}


def prepared(password):
    """The password in that form; one that is no UTF-8, or would be empty, as it is."""
    if password.isascii():
        return password
    try:
        return ucd_3_2_0.normalize('NFKC', password.decode('utf-8').translate(MAPPED)).encode('utf-8') or password
    except UnicodeDecodeError:
        return password
