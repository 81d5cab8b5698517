"""What is said of a message and goes on with a copy of it: records of its envelope, one per line (X B U Q R E D M N O of
qpy-queue-format(5)), as qpy-send gives them to a delivery, and a delivery to its programs in $QPYENVELOPE.

A program may be told anything there: it could say the same to qpy-queued itself, and nothing is believed for it.
"""
VARIABLE = b'QPYENVELOPE'
ALIKE = (b'X', b'B', b'U', b'Q', b'M')      # whoever sends it on
HIS = (b'R', b'E', b'D')                    # wishes of its sender
EACH = (b'N', b'O')                         # of a recipient
FOR_ALL = (b'Q', b'U')                      # also of mail that is made anew of it


def on(lines, same):
    """(message-wide, of each recipient) envelope records [(letter, value)] of a forward.

    same: the sender stays; who takes its place, as that of a list, has no wishes (RFC 3461, 5.2.7.3).  Otherwise they
    go on, but that of success, which is told where the mail was expanded, and the recipient's name with them (5.2.7.2).
    """
    records = parse(lines)
    wide = [pair for pair in records if pair[0] in (ALIKE + HIS if same else ALIKE)]
    own = dict(pair for pair in records if pair[0] in EACH) if same else {}
    if b'N' in own:
        own[b'N'] = success_told(own[b'N'])
    return wide, list(own.items())


def success_told(notify):
    """NOTIFY of the copies: without SUCCESS."""
    return b','.join(word for word in notify.upper().split(b',') if word != b'SUCCESS') or b'NEVER'


def anew(lines, said=()):
    """[(letter, value)] for all other mail that comes of a delivery, but for the letters that it says itself: what had to
    travel by TLS (RFC 8689) still has to, and what may have UTF-8 in its header is known to (RFC 6531)."""
    return [pair for pair in parse(lines) if pair[0] in FOR_ALL and pair[0] not in said]


def parse(lines):
    """[(letter, value)], the first of each letter."""
    found = {}
    for record in lines.split(b'\n'):
        if record:
            found.setdefault(record[:1], record[1:])
    return list(found.items())
