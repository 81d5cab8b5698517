"""The words of core.smtp_server: its states, and its events, which are what it needs from outside.

    (ASK, stage)       has anybody to say something now?       answer: judged(reply, reason, hold, fields)
    (CHECK, address)   may this recipient have mail?           answer: recipient(verdict)
    (WHOSE, local part) is it his who has logged in?           answer: owned(True, False, or None: not known now)
    (START, None)      DATA: can a message be taken?           answer: begin(date), or refuse_text
    (BODY, bytes)      stored form of a part of the text       (no answer)
    (SUBMIT, bytes)    the last part: queue it now             answer: queued(time, pid), or failed(text)
    (DROP, None)       the message will not be: forget it      (no answer)
    (TLS, None)        STARTTLS: can that be had?              answer: tls_begun() and then secured(tls), or tls_refused()
    (AUTH, (mechanism, response or None))   a login begins     answer: challenged(base64), authenticated(login),
    (RESPONSE, base64)  a step of it                           ... or not_authenticated(later, reason)
    (CANCEL, None)     it is not wanted any more               (no answer)
    (XCLIENT, {NAME: value})    the client is another one      answer: introduced(client, attributes), or hang_up
    (ETRN, node)       can what waits for it be tried now?     answer: hurried(how many messages, reason), or not_hurried(reason)
    (CLOSE, None)      send what output() gives, then close    (no answer; nothing follows)
"""
ASK, CHECK, START, BODY, SUBMIT, DROP, CLOSE = 'ask', 'check', 'start', 'body', 'submit', 'drop', 'close'
TLS, AUTH, RESPONSE, CANCEL, XCLIENT, ETRN, WHOSE = 'tls', 'auth', 'response', 'cancel', 'xclient', 'etrn', 'whose'
NEED = object()             # of the session's own: nothing to do without more input

IDLE, SENDER, RECIPIENT, CHUNKS = range(4)      # states: no transaction; MAIL accepted; a recipient accepted; BDAT has begun
