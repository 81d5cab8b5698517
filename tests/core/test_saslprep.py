"""SASLprep: the form of a password that SCRAM's keys are made of."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import passwords, sasl_client, sasl_server
from qpy.core.saslprep import prepared


@pytest.mark.parametrize('password, form', [
    ('I\xadX', 'IX'), ('user', 'user'), ('USER', 'USER'), ('\xaa', 'a'), ('\u2168', 'IX'),                  # RFC 4013, 3
    ('Str\xaae\xa0x', 'Strae x'), ('u\u0308\u3000\u2003', '\xfc  '), ('tab\t ', 'tab\t '), ('\xad', '\xad'), ('', ''),
    ('\U0001f512\xa0', '\U0001f512 ')])
def test_examples(password, form):
    """Blanks of all kinds are blanks, what is nothing goes, the rest is NFKC of Unicode 3.2; ASCII stays as it is."""
    assert prepared(password.encode()) == form.encode()


@given(st.binary(max_size=40))
def test_any_password_has_one_form(password):
    """It is prepared only once: in its own form it stays; nothing is made of nothing."""
    form = prepared(password)
    assert prepared(form) == form and bool(form) == bool(password)


@pytest.mark.parametrize('kept, typed', [('Str\xaae\xa0x', 'Strae x'), ('Strae x', 'Str\xaae\xa0x'), ('u\u0308', '\xfc')])
def test_both_sides_of_scram(kept, typed):
    """A client that types the password in another form, with our keys on the other side: he is in; PLAIN alone is literal."""
    keys = passwords.scram_keys(kept.encode(), b'salt')
    server = sasl_server.Scram(sasl_server.Place(b'theirs', keys=lambda user: keys))
    client = sasl_client.Scram(sasl_client.Credentials(b'joe', typed.encode(), b'ours'))
    _, challenge = server.step(client.first())
    kind, challenge = server.step(client.answer(challenge))
    assert kind == sasl_server.CHALLENGE and client.answer(challenge) == b''
    assert server.step(b'') == (sasl_server.DONE, b'joe')
