"""CHUNKING in a session of core.smtp_server (RFC 3030): BDAT, and the bytes that follow it.  They are read whatever is the
matter with the command.
"""
from qpy.core import asking, smtp_replies as replies, text
from qpy.core.smtp_words import BODY, CHUNKS, DROP, NEED

DRAIN_MAX = 64 << 20        # bytes read beyond what is wanted before the connection is closed on the client
SIZE_MAX = 1 << 40          # bytes that one chunk may claim


def begin(session, argument):
    """BDAT (RFC 3030, 2)"""
    word, _, last = argument.partition(b' ')
    size = text.parse_uint(word, SIZE_MAX)
    if size is None or last.strip(b' ').upper() not in (b'', b'LAST'):
        return session.leave(replies.BDAT_SYNTAX)
    refusal = (replies.MAIL_FIRST, replies.RCPT_FIRST, b'', b'')[session.state]
    if refusal:
        session.skip = size
        return session.leave(refusal) if size > DRAIN_MAX else session.error(b'bdat', refusal)
    session.left, session.last = size, bool(last)
    if session.state == CHUNKS:
        session.decoder = session.chunks
        return None
    return session.judge(asking.DATA, lambda: first(session))


def first(session):
    """Is there somewhere to put a message?"""
    session.state = CHUNKS
    return session.start()


def read(session):
    """Decode what came of a chunk."""
    chunks, data = session.chunks, session.input[session.at:session.at + session.left]
    if not data and session.left:
        return NEED
    session.at, session.left = session.at + len(data), session.left - len(data)
    stored, _ = chunks.feed(data)
    over = session.last and not session.left
    if over:
        stored += chunks.finish()
    if chunks.fault:
        return session.smuggled(chunks.fault)
    stored = session.completion.feed(stored) + (session.completion.finish() if over else b'')
    refusal = session.verdict or session.bad_text(chunks)
    if refusal:
        return refuse(session, refusal)
    if over:
        session.decoder = session.chunks = None
        session.waiting = True
        return session.submit(stored)
    if not session.left:
        session.decoder = None
        session.reply(b'250 2.0.0 ok')
    return (BODY, stored) if stored else None


def refuse(session, refusal):
    """The message is refused before its end: what comes of the chunk is dropped (RFC 3030, 2)."""
    session.decoder, session.skip, session.left = None, session.left, 0
    if session.skip > DRAIN_MAX:
        return session.leave(refusal)
    session.refuse(b'message', refusal, b'', text.logsafe(session.completion.foreign))
    session.reset()
    return DROP, None
