"""The answer of an ident server (RFC 1413 section 6.1): who owns a connection.

    6191, 23 : USERID : UNIX : stjohns
"""
LIMIT = 1000                # bytes of an answer


def question(port, here):
    """port: of the connection on the server's side; here: on ours."""
    return b'%d, %d\r\n' % (port, here)


def user(answer, port, here):
    """The user's name, b'' if the answer names none or is about another connection."""
    line, newline, _ = answer.partition(b'\n')
    words = line.rstrip(b'\r').split(b':', 3)
    if not newline or len(words) < 4 or words[1].strip(b' \t') != b'USERID' or b'\0' in words[3]:
        return b''
    ports = [word.strip(b' \t') for word in words[0].split(b',')]
    return words[3].strip(b' \t') if ports == [b'%d' % port, b'%d' % here] else b''
