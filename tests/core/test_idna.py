"""Internationalised domains in ASCII, beside the interpreter's own codec."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import idna


@pytest.mark.parametrize('name, ascii_', [
    ('bücher.example', b'xn--bcher-kva.example'), ('BÜCHER.Example', b'xn--bcher-kva.example'),
    ('straße.example', b'xn--strae-oqa.example'), ('日本語.jp', b'xn--wgv71a119e.jp'),
    ('bu\u0308cher.example', b'xn--bcher-kva.example'), ('BU\u0308CHER.example', b'xn--bcher-kva.example'), ('A\u030a.example', b'xn--5ca.example'),
    ('пример.испытание', b'xn--e1afmkfd.xn--80akhbyknj4f'), ('plain.Example', b'plain.Example'), ('', b'')])
def test_names(name, ascii_):
    """As registries have them; ASCII is left alone."""
    assert idna.domain(name.encode()) == ascii_


@pytest.mark.parametrize('name', [b'\xff.example', 'a b\xfc.example'.encode(), 'ü@x'.encode(), ('ü' * 60).encode(),
                                  'ü\r\n.x'.encode(), 'ü>x'.encode(), 'a\u037eb'.encode()])
def test_what_has_no_such_form(name):
    """No UTF-8, blanks and signs beside letters, what NFC makes a sign, labels too long."""
    assert idna.domain(name) is None


@pytest.mark.parametrize('mailbox, ascii_', [
    ('joe@bücher.example', b'joe@xn--bcher-kva.example'), ('josé@bücher.example', None), ('josé@x.example', None),
    ('joe@x.example', b'joe@x.example'), ('', b''), ('joe', b'joe')])
def test_addresses(mailbox, ascii_):
    """A domain has two forms, a local part has one."""
    assert idna.address(mailbox.encode()) == ascii_


@given(st.tuples(st.text(), st.characters(min_codepoint=128, blacklist_categories=['Cs']), st.text()).map(''.join))
def test_punycode_is_punycode(part):
    """Letter for letter what the interpreter's codec says."""
    assert idna.punycode(part) == part.encode('punycode')
