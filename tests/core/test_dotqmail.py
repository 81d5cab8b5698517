"""Which .qmail speaks, what it asks for, loops, the environment of programs: qpy.core.dotqmail, localstatus."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import dotqmail, localstatus


def names(dash, ext):
    return [name for name, _ in dotqmail.candidates(dash, ext)]


@pytest.mark.parametrize('dash, ext, wanted', [
    (b'', b'', [b'.qmail', b'.qmaildefault']),
    (b'-', b'a-b-c', [b'.qmail-a-b-c', b'.qmail-a-b-default', b'.qmail-a-default', b'.qmail-default']),
    (b'-', b'list-', [b'.qmail-list-', b'.qmail-list-default', b'.qmail-default']),
    (b'-', b'', [b'.qmail-', b'.qmail-default']),
    (b'-', b'Joe.Q', [b'.qmail-joe:q', b'.qmail-default']),
])
def test_the_files_are_tried_in_qmails_order(dash, ext, wanted):
    """L-10: exact name first, then -default at every dash from the end; lower case, dots as colons."""
    assert names(dash, ext) == wanted


def test_default_is_the_tail_as_it_was_typed():
    """The golden vector of a qmail build: `.qmail-a:b-default` serves A.b-c-D-e with DEFAULT c-D-e."""
    found = dict(dotqmail.candidates(b'-', b'A.b-c-D-e'))
    assert found[b'.qmail-a:b-default'] == b'c-D-e'
    assert found[b'.qmail-default'] == b'A.b-c-D-e'
    assert found[b'.qmail-a:b-c-d-e'] is None


def test_default_of_a_file_that_is_called_default():
    """When the first name itself ends in `default`, DEFAULT is the last seven bytes of the extension."""
    assert dotqmail.candidates(b'-', b'list-Default')[0] == (b'.qmail-list-default', b'Default')


@given(st.binary(max_size=300))
def test_no_extension_leads_out_of_the_home(ext):
    """L-10: whatever the extension, no file name has a dot after `.qmail`, so none climbs with `..`."""
    assert all(name.startswith(b'.qmail-') and b'.' not in name[1:] for name in names(b'-', ext))


@pytest.mark.parametrize('data, wanted', [
    (b'# c\n./Maildir/\n/var/mbox\n|cat > x\n&joe@x  \n joe2\n&\nbob\n+list\n+foo\n',
     [(b'maildir', b'./Maildir/'), (b'mbox', b'/var/mbox'), (b'program', b'cat > x'), (b'forward', b'joe@x'),
      (b'forward', b' joe2'), (b'forward', b''), (b'forward', b'bob')]),
    (b'#\n', []),
    (b'# only\n\n\n', []),
    (b'bob', [(b'forward', b'bob')]),
    (b'\nbob\n', [(b'fail', dotqmail.BLANK_FIRST)]),
    (b' \t\nbob\n', [(b'fail', dotqmail.BLANK_FIRST)]),
    (b'bob\n\n \t\nal\n', [(b'forward', b'bob'), (b'forward', b'al')]),
    (b'# c\r\nal\nbob\r\n', [(b'forward', b'al'), (b'fail', dotqmail.HAS_CR)]),
    (b'\r\nbob\n', [(b'fail', dotqmail.HAS_CR)]),
    (b'bob\n|a\0b\n', [(b'fail', dotqmail.HAS_NUL)]),
    (b'<joe@x>\n', [(b'forward', b'<joe@x>')]),
    (b'& joe\n', [(b'forward', b' joe')]),
    (b'| a | b \t\n', [(b'program', b' a | b')]),
    (b'.\n', [(b'mbox', b'.')]),
    (b'a\n+list\nb\n|x\nc\n', [(b'forward', b'a'), (b'forward', b'b'), (b'fail', dotqmail.FORWARD_ONLY_PROGRAM)]),
    (b'+list\n./Maildir/\n', [(b'fail', dotqmail.FORWARD_ONLY_FILE)]),
    (b'+list \n./mbox\n', [(b'fail', dotqmail.FORWARD_ONLY_FILE)]),
    (b'+lists\n./mbox\n', [(b'mbox', b'./mbox')]),
])
def test_lines(data, wanted):
    """L-07, L-09: every first character, blanks, blank first line, NUL, no final newline, +list."""
    assert dotqmail.parse(data) == wanted


def test_the_x_bit_forbids_all_but_forwards():
    """L-09: a file with its owner's x bit may only forward."""
    assert dotqmail.parse(b'bob\n|prog\n', True)[-1] == (b'fail', dotqmail.FORWARD_ONLY_PROGRAM)
    assert dotqmail.parse(b'bob\n', True) == [(b'forward', b'bob')]


def test_describe_prints_what_qmail_local_n_prints():
    """The golden vector of `qmail-local -n`."""
    lines = b'# c\n./Maildir/\n/var/mbox\n|cat > x\n&joe@x  \n joe2\n&\nbob\n+list\n+foo\n'
    assert dotqmail.describe(dotqmail.parse(lines)) == (
        b'maildir ./Maildir/\nmbox /var/mbox\nprogram cat > x\nforward joe@x\nforward  joe2\nforward \nforward bob\n'
        b'did 2+4+1\n')


@given(st.binary(max_size=200), st.booleans())
def test_parse_is_total(data, forward_only):
    """L-07: every byte string is a list of known instructions; after a FAIL there is none."""
    found = dotqmail.parse(data, forward_only)
    assert all(kind in (b'maildir', b'mbox', b'forward', b'program', b'fail') for kind, _ in found)
    assert not any(kind == b'fail' for kind, _ in found[:-1])
    assert not any(b'\n' in argument for _, argument in found)


def test_a_long_file_is_parsed_in_time():
    """L-07: a million lines, and a line of a megabyte."""
    assert len(dotqmail.parse(b'a@b\n' * 1000000)) == 1000000
    assert len(dotqmail.parse(b'x' * 1000000)[0][1]) == 1000000


# --- loops ---

DTLINE = b'Delivered-To: joe@x\n'


@pytest.mark.parametrize('message, loop', [
    (DTLINE, True), (b'A: b\n' + DTLINE + b'\n', True), (b'A: b\n\n' + DTLINE, False), (b'\n' + DTLINE, False),
    (DTLINE[:-1], False), (b'X-' + DTLINE, False), (DTLINE.lower(), False), (b' ' + DTLINE, False), (b'', False),
    (b'A: b\n' + DTLINE[:-1] + b'.com\n\n', False), (b'\r\n' + DTLINE, True),
])
def test_only_the_exact_line_in_the_header_is_a_loop(message, loop):
    """L-22: byte for byte, in the header only, and the same however the message is cut into portions."""
    assert dotqmail.looping([message], DTLINE) is loop
    assert dotqmail.looping((bytes([c]) for c in message), DTLINE) is loop


@given(st.lists(st.sampled_from([DTLINE, b'\n', b'A: b\n', DTLINE[:9], b'joe@x\n', b'\n\n'])), st.integers(1, 9))
def test_portions_do_not_matter(parts, size):
    """L-22: any cut gives what a line by line reader finds."""
    message = b''.join(parts)
    header = []
    for line in message.splitlines(True):
        if line == b'\n':
            break
        header.append(line)
    portions = [message[i:i + size] for i in range(0, len(message), size)]
    assert dotqmail.looping(portions, DTLINE) is (DTLINE in header)


# --- environment and senders ---

def test_environment_of_the_golden_vector():
    """EXT2..4, HOST2..4, RPLINE and UFLINE as a qmail build set them."""
    env = dotqmail.environment(b'joe', b'/home/joe', b'joe-A.b-c-D-e', b'A.b-c-D-e', b'a.b.c.dom.example', b'we ird@x',
                               b'Return-Path: <"we ird"@x>\n')
    dotqmail.complete(env, b'c-D-e', b'we ird@x', 1795455323)
    assert (env[b'EXT2'], env[b'EXT3'], env[b'EXT4']) == (b'c-D-e', b'D-e', b'e')
    assert (env[b'HOST2'], env[b'HOST3'], env[b'HOST4']) == (b'a.b.c.dom', b'a.b.c', b'a.b')
    assert env[b'UFLINE'] == b'From we-ird@x Mon Nov 23 17:35:23 2026\n'
    assert env[b'DTLINE'] == b'Delivered-To: joe-A.b-c-D-e@a.b.c.dom.example\n'
    assert env[b'RECIPIENT'] == b'joe-A.b-c-D-e@a.b.c.dom.example'
    assert env[b'DEFAULT'] == b'c-D-e'


def test_a_bounce_has_a_from_line_too():
    """An empty sender is MAILER-DAEMON in a From_ line."""
    assert dotqmail.from_line(b'', 0) == b'From MAILER-DAEMON Thu Jan 01 00:00:00 1970\n'


@pytest.mark.parametrize('sender, owner, default, wanted', [
    (b's@y', False, False, b's@y'), (b's@y', True, False, b'joe-list-owner@x'),
    (b's@y', True, True, b'joe-list-owner-@x-@[]'), (b'', True, True, b''), (b'#@[]', True, True, b'#@[]')])
def test_new_sender(sender, owner, default, wanted):
    """-owner and -owner-default; never for bounces."""
    assert dotqmail.new_sender(sender, b'joe-list', b'x', owner, default) == wanted
    assert dotqmail.owner_names(b'-', b'Li.st') == (b'.qmail-li:st-owner', b'.qmail-li:st-owner-default')


# --- codes ---

def test_program_results():
    """L-26: 0 and 99, the hard codes, and everything else temporary, signals too."""
    hard = {100, 64, 65, 70, 76, 77, 78, 112}
    for code in range(-64, 256):
        wanted = code if code in (0, 99) else 100 if code in hard else 111
        assert dotqmail.program_result(code) == wanted


def test_local_status():
    """The codes of qmail-lspawn; what is not listed is temporary, an interpreter's own 1, 2 and 120 too."""
    assert localstatus.report(0, b'did 1+0+0\n') == (b'K', b'did 1+0+0\n')
    assert localstatus.report(100, b'no\n') == (b'D', b'no\n')
    assert localstatus.report(-9, b'x') == (b'Z', b'qmail-local crashed.\n')
    assert localstatus.report(113, b'x') == (b'Z', b'Not allowed to perform deliveries as root.\n')
    assert localstatus.report(120, b'x') == (b'Z', b'Unable to run qmail-local.\n')
    for code in (1, 2, 71, 74, 75, 111, 99, 255):
        assert localstatus.report(code, b'x') == (b'Z', b'x')


@given(st.binary(), st.integers(0, 9000))
def test_report_text_is_bounded(start, size):
    """L-36: at most 3000 bytes, none of them NUL; the cut is said."""
    text = localstatus.cut(start + b'x' * size)
    assert len(text) <= 3000 and b'\0' not in text
    if b'\0' not in start and len(start) + size > 3000:
        assert text.endswith(b'\nError report too long, sorry.\n') and len(text) == 2997
