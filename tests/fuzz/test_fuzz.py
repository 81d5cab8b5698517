"""Every target of targets.py: over what was found once, with hypothesis, and for a moment with atheris.

QPY_HYPOTHESIS=long makes the second long; QPY_ATHERIS names another interpreter that has atheris, QPY_FUZZ_SECONDS
how long each target runs with it (3).
"""
import importlib.util
import os
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given, settings, strategies as st

from tests.fuzz import targets

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = os.path.join(HERE, 'corpus')
SECONDS = os.environ.get('QPY_FUZZ_SECONDS', '3')

WORDS = {
    'smtp_session': [b'EHLO x\r\n', b'HELO x\r\n', b'MAIL FROM:<a@b.c>\r\n', b'RCPT TO:<d@e.f>\r\n', b'RCPT TO:<no@e.f>\r\n',
                     b'DATA\r\n', b'.\r\n', b'RSET\r\n', b'QUIT\r\n', b'\r\n', b'\n', b'\r', b'NOOP', b' SIZE=1', b' BODY=8BITMIME', b' SMTPUTF8', b'\xc3\xa4', b'BDAT 3\r\nabc', b'BDAT 2\r\n\r\n',
                     b'BDAT 0 LAST\r\n', b' NOTIFY=NEVER', b' RET=FULL', b'VRFY <n@e.f>\r\n', b'ETRN e.f\r\n', b'ETRN @x.g\r\n', b'ETRN #', b'STARTTLS\r\n', b'AUTH PLAIN\r\n'],
    'logins_and_proxies': [b'\0', b'\1', b'user=', b'auth=Bearer x', b'n,,n=u,r=x', b'p=', b'c=biws,r=xn,p=', b'PROXY TCP4 ', b'192.0.2.1 ',
                           b'\r\n\r\n\0\r\nQUIT\n', b'\x21\x11\0\x0c', b'ADDR=', b'MECH\tPLAIN\n', b'DONE\n', b'OK\t1\tuser=x\n', b'K', b'a:$scrypt$',
                           b'Date: x\n', b'\n', b'2026-01-01T00:00:00Z', b'passwd', b'dovecot /x'],
    'milter_packets': [b'\0\0\0\1', b'\0\0\0\x0d', b'\0\0\0\x08', b'O', b'h', b'i', b'm', b'+', b'-', b'e', b'q', b'y', b'\0\0\0\1X\0v\0',
                       b'<a@b>\0', b'550 5.7.1 no\0', b'X\0a\n\nb\0', b'\r\n', b'\0', b'<', b'"', b'\n'],
    'client_judges': [b'action=', b'\n\n', b'\n', b'REJECT', b'550 ', b'5.7.1 ', b'127.0.0.1:25', b' stages=rcpt', b'zen.x', b' =127.0.0.2-9', b' -3',
                      b'messages=1/1h', b',', b'default=', b'Subject: x\n', b' y\n', b':', b'x'],
    'data_decoder': [b'\r\n.\r\n', b'\r', b'\n', b'.', b'\r\n', b'Received: x', b'a'],
    'address_parser': [b'<', b'>', b'@', b'"', b'\\', b'.', b'a', b'x.y', b'[127.0.0.1]', b'[IPv6:::1]', b',', b':', b' '],
    'tcp_rules': [b'1.2.3.4', b'1.2.', b'=a.b', b'c@', b'1.2.3-9.', b'1.2.0.0/16', b':', b'allow', b'deny', b',X="y"', b'\n', b'"'],
    'netstrings': [b'1:', b'3:', b'0:', b'8:', b',', b'\n', b'a', b'1:a,', b'4:1:a,,', b'2:\na,', b'3:a@b,', b'999999999:'],
    'pop3_session': [b'LIST', b'RETR', b'DELE', b'TOP', b'UIDL', b'STAT', b'RSET', b'QUIT', b'CAPA', b'LAST', b' 1', b' 0', b'\r\n', b'\n'],
    'client_replies': [b'220 x\r\n', b'250-PIPELINING\r\n', b'250 SIZE 9\r\n', b'250 ok\r\n', b'354 go\r\n', b'421 x\r\n', b'550 x\r\n',
                       b'250-', b'\r\n', b'\n', b'999 ', b'STARTTLS', b'334 x\r\n'],
    'downgraded_mime': [b'MIME-Version: 1.0\n', b'Content-Transfer-Encoding: 8bit\n', b'\n', b'\n\n', b'\r', b'--b', b'--\n', b'--b--\n',
                        b'Content-Type: multipart/mixed; boundary=b\n', b'Content-Type: message/rfc822\n', b'\xc3\xa9', b' ', b'x' * 300],
    'way_out': [b'\x30\x80', b'\x30\x03', b'\x06\x01', b'r=n', b'r=nx,s=c2FsdA==,i=4096', b'v=', b'e=x', b'1\t', b'x\tsts\t', b'\t\t\t\t\t\t',
                b'\n', b'5 ', b'10/m', b'60;R', b';NT', b'179;R', b'\xc3\xbc', b'.', b'did 0+1+0', b'xn--'],
    'dns_answers': [b'\x81\x80\0\1\0\1\0\0\0\0', b'\1x\7example\0', b'\0\x0f\0\1', b'\xc0\x0c', b'\0\0\0\x3c\0\4', b'\0\5', b'\0\1\0\1', b'\0\x34\0\1'],
    'web_policy': [b'HTTP/1.1 200 OK\r\n', b'Content-Type: text/plain\r\n', b'\r\n', b'version: STSv1\r\n', b'mode: enforce\r\n',
                   b'mx: *.x\r\n', b'max_age: 9\r\n', b'v=STSv1; id=1;', b'Content-Length: 5\r\n', b'Transfer-Encoding: chunked\r\n'],
    'cdb_reader': [b'\0\0\0\0', b'\0\x08\0\0', b'\1\0\0\0', b'one', b'\xff\xff\xff\xff'],
    'queue_file': [b'F', b'T', b'N', b'\0', b'a@b', b'X', b'qpy1 ', b'0000000000000000001 ', b'0000000001 ', targets.IDENT, b'\n'],
    'dot_qmail': [b'./', b'|', b'&', b'#', b'+list', b'\n', b'/', b'~', b'\\', b'"', b',', b'joe', b': ', b':include:', b' ', b'a'],
    'control_files': [b'a.b', b':', b'#', b'\n', b'.', b' ', b'@', b'tcp:', b'unix:x:0600', b'qpyd', b'25', b'[::1]', b'lmtp=/'],
    'header_tokens': [b'To: ', b'From: ', b'Bcc: ', b'Resent-To: ', b'\n', b'\n ', b'<', b'>', b'(', b')', b'"', b'\\', b',', b'@', b':', b';',
                      b'a', b'.', b'[', b']', b'Return-Path: ', b'Subject: '],
    'submission': [b'\1', b'\0\0\0\0', b'\0\0\0\1', b'\xff\xff\xff\xff', b'F', b'T', b'\0', b'a@b', b'K', b'54 x', targets.IDENT, b'N'],
    'channels': [b'K', b'Z', b'D', b'L', b'R', b'C', b'\0', b'1', b'a', b'J', b'B', b'W', b'Q'],
}


@pytest.mark.parametrize('target', targets.ALL, ids=lambda target: target.__name__)
def test_short(target):
    """Words of the language, and any bytes, in any order: nothing but what the target allows.  (G-16, R-08, R-09, R-13, A-04,
    Q-19, P-01.)"""
    words = WORDS[target.__name__]
    strategy = st.lists(st.sampled_from(words) | st.binary(max_size=12), max_size=30).map(b''.join)

    @given(strategy)
    @settings(max_examples=settings.default.max_examples)
    def search(data):
        target(data)
    search()


FOUND = sorted((name, each) for name in os.listdir(CORPUS) for each in os.listdir(os.path.join(CORPUS, name)))


@pytest.mark.parametrize('name, file', FOUND)
def test_found_once(name, file):
    """What was found once, and seeds, do no harm now."""
    with open(os.path.join(CORPUS, name, file), 'rb') as found:
        getattr(targets, name)(found.read())


def test_every_target_is_run():
    """Each function of targets.py that fuzzes is in its table, with words of its language and a seed."""
    assert {target.__name__ for target in targets.ALL} == set(WORDS) == {name for name, _ in FOUND}


def atheris():
    """An interpreter that has atheris, or None."""
    if os.environ.get('QPY_ATHERIS'):
        return os.environ['QPY_ATHERIS']
    return sys.executable if importlib.util.find_spec('atheris') else None


@pytest.mark.skipif(not atheris(), reason='no atheris here')
@pytest.mark.parametrize('target', targets.ALL, ids=lambda target: target.__name__)
def test_atheris(target):
    """Some seconds of search guided by what is reached: nothing is found."""
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run([atheris(), os.path.join(HERE, 'run.py'), target.__name__, '-max_total_time=' + SECONDS],
                              cwd=work, capture_output=True, timeout=100 + int(SECONDS))
        assert done.returncode == 0, done.stderr[-3000:].decode(errors='replace')
