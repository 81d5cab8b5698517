"""Records on the channels between qpy's programs.

A record is one letter and then a fixed number of fields, each ended by NUL: no quoting, no options.  A packet is
one or more records.  Which letters a channel knows, how many fields each has and whether it takes the next
descriptor of the packet stands in a table per channel and direction; all of them are below, so that both ends and
the manual answer to the same page.

    pack(b'K', b'7', b'', b'did 1+0+0/')  ->  b'K7\\0\\0did 1+0+0/\\0'
"""


class ChannelError(ValueError):
    """The other side sent what its table does not allow."""


#: letter: (number of fields, takes a descriptor)
REPORT = {b'K': (3, False), b'Z': (3, False), b'D': (3, False)}          # delnum, scope, text
LSPAWN_JOB = {b'L': (5, True)}               # delnum, ID, sender, recipient, options (envelope records, by newline)
LSPAWN_REPORT = {b'C': (1, False), **REPORT}                             # C capacity
RSPAWN_JOB = {b'R': (6, True)}                                           # ID, host, sender, flags, length, recipients
RSPAWN_REPORT = LSPAWN_REPORT
SEED_JOB = {b'U': (2, True), b'K': (1, False)}                           # uid, gid | pid: end it, and all of it
SEED_REPORT = {b'G': (2, False), b'X': (2, False)}                       # uid, pid | uid, reason
WORKER_JOB = {b'J': (10, True)}    # n, user, home, local, dash, ext, domain, sender, default, options
WORKER_REPORT = {b'R': (3, False)}                                       # n, exit code, text
BOUNCE_JOB = {b'B': (3, False)}                                          # ID, recipients (state.pack_indices), kind
BOUNCE_REPORT = {b'K': (3, False), b'Z': (2, False)}                # ID, new ID or empty, pid | ID, reason
USERS_ASK = {b'W': (2, False), b'Q': (2, False)}                         # n, local part | n, address
EXISTS_ASK = {b'Q': (2, False)}                                          # the same for everybody
USERS_ANSWER = {b'w': (9, False), b'q': (3, False)}  # n, verdict, user, uid, gid, home, dash, ext, reason
RESOLVE_ASK = {b'M': (2, False), b'A': (2, False), b'T': (2, False), b'X': (2, False), b'I': (2, False),
               b'P': (2, False)}                                              # n, name; of P an address
MTASTS_ASK = {b'S': (2, False)}                                          # n, domain
MTASTS_ANSWER = {b's': (4, False)}                                       # n, mode, patterns, reason
CHECK_ASK = {b'Q': (18, False), b'E': (1, False)}   # n, and core.checks.FIELDS | the session that has ended
CHECK_ANSWER = {b'a': (5, False)}                                        # n, verdict, reply, reason, header lines
AUTH_ASK = {b'A': (6, False), b'R': (2, False), b'X': (1, False)}
# A: n, mechanism, client's address, version of TLS, its binding in hexadecimal, response in base64 or -; R: n, response
AUTH_ANSWER = {b'M': (1, False), b'c': (2, False), b'k': (2, False), b'n': (3, False)}
# M: mechanisms; c: n, challenge in base64; k: n, login; n: n, no or later, reason for the log
TLSLOG_ASK = {b'R': (8, False), b'W': (1, False), b'M': (1, False)}      # core.tlsrpt's fields | place | n
TLSLOG_ANSWER = {b'm': (2, False)}                                       # n, lines of place and seconds; last: none
TOKEN_ASK = {b'K': (2, False), b'F': (2, False)}                         # n, user@relay; F: the last one was refused
TOKEN_ANSWER = {b'k': (4, False)}                                        # n, ok or temp, token, reason
RESOLVE_ANSWER = {b'a': (5, False)}                                      # n, status, authenticated, reason, answers


def pack(letter, *fields):
    """One record as bytes; ValueError if a field holds a NUL."""
    body = b'\0'.join(fields)
    if body.count(b'\0') != len(fields) - 1:
        raise ValueError('NUL in a field of record %r' % letter)
    return b'%s%s\0' % (letter, body)


def unpack(packet, table):
    """[(letter, [fields])] of a whole packet; ChannelError for anything the table does not allow."""
    if not packet.endswith(b'\0'):
        raise ChannelError('packet does not end with NUL')
    pieces = packet.split(b'\0')
    pieces.pop()
    records, i = [], 0
    while i < len(pieces):
        letter = pieces[i][:1]
        if letter not in table:
            raise ChannelError('unknown record %r' % letter)
        count = table[letter][0]
        fields = pieces[i:i + count]
        if len(fields) < count:
            raise ChannelError('record %r is cut off' % letter)
        fields[0] = fields[0][1:]
        records.append((letter, fields))
        i += count
    return records
