"""Bytes, numbers and dates: qpy.core.text, qpy.core.dates, qpy.core.exits."""
import time

import pytest
from hypothesis import given, strategies as st

from qpy.core import dates, exits, text


@pytest.mark.parametrize('word, number', [(b'0', 0), (b'007', 7), (b'999', 999), (b'1000', None), (b'', None),
                                          (b'-1', None), (b'+5', None), (b'1_0', None), (b' 25', None), (b'25\n', None),
                                          ('\u0663'.encode(), None), (b'9' * 20, None), (b'1e3', None)])
def test_parse_uint_knows_ascii_digits_only(word, number):
    """G-28: [0-9]{1,19} and nothing else is a number, and none above the limit."""
    assert text.parse_uint(word, 999) == number


@given(st.binary())
def test_lower_touches_ascii_letters_only(word):
    """G-27: lowering changes A-Z and no other byte, so no two names meet that differ beyond ASCII case."""
    lowered = text.lower(word)
    assert all(a == b or 65 <= a <= 90 and b == a + 32 for a, b in zip(word, lowered)) and len(word) == len(lowered)


@given(st.binary())
def test_logsafe_is_one_field_of_one_line(word):
    """L-36: text from outside cannot end a log line, start a new field, or send a control character."""
    assert all(33 <= c < 127 and c != 37 for c in text.logsafe(word))


@given(st.integers(0, 4_000_000_000))
def test_dates_agree_with_the_library(now):
    """The date forms are the C library's, with English names and unpadded header days."""
    t = time.gmtime(now)
    assert dates.header_date(now).decode() == '%d %s -0000' % (t.tm_mday, time.strftime('%b %Y %H:%M:%S', t))
    assert dates.mbox_date(now).decode() == time.strftime('%a %b %d %H:%M:%S %Y', t)


@pytest.mark.parametrize('code', range(256))
def test_unknown_exit_codes_are_temporary(code):
    """INV8: outside 11..40 (and 115) no exit code of qmail-queue is permanent."""
    letter = exits.queue_text(code)[:1]
    assert letter == (b'' if code == 0 else b'D' if 11 <= code <= 40 or code == 115 else b'Z')


def test_one_line():
    """Lines are joined, empty ones dropped; nothing that a terminal would act on stays."""
    assert text.one_line(b'a b\n\nc%\x1b[m\xff\n') == b'a b / c%?[m?' and text.one_line(b'\n') == b''
