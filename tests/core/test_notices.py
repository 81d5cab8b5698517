"""NOTIFY (RFC 3461): who is told what, and what an alias hands on of it."""
import pytest

from qpy.core import carried, notices
from qpy.core.bounce import from_xtext

KINDS = (notices.FAILURE, notices.SUCCESS, notices.DELAY)


@pytest.mark.parametrize('notify, told', [
    (None, 'FAILURE DELAY'), (b'NEVER', ''), (b'SUCCESS', 'SUCCESS'), (b'success,Failure', 'FAILURE SUCCESS'),
    (b'DELAY', 'DELAY'), (b'FAILURE,DELAY,SUCCESS', 'FAILURE SUCCESS DELAY'), (b'', '')])
def test_who_is_told(notify, told):
    """Without NOTIFY failures and delays; with it just what it names."""
    assert b' '.join(kind for kind in KINDS if notices.wanted(notify, kind)).decode() == told


@pytest.mark.parametrize('notify, left', [
    (b'NEVER', b'NEVER'), (b'SUCCESS', b'NEVER'), (b'success,failure', b'FAILURE'), (b'FAILURE,DELAY', b'FAILURE,DELAY')])
def test_what_an_alias_hands_on(notify, left):
    """Success is told where the address was expanded, and not once more by everybody behind it."""
    assert carried.success_told(notify) == left


@pytest.mark.parametrize('channel, told, text, how', [
    (b'local', False, b'did 1+0+0\n', b'delivered'), (b'local', False, b'did 1+2+0\nqp 1\n', b'delivered'),
    (b'local', False, b'did 0+0+1\n', b'delivered'), (b'local', False, b'hello\ndid 0+2+0\nqp 1800\n', b'expanded'),
    (b'local', False, b'', b'delivered'), (b'local', False, b'did 0+1\n', b'delivered'),
    (b'remote', False, b'did 0+2+0\n', b'relayed'), (b'remote', True, b'192.0.2.1 accepted message.\n', b'')])
def test_how_it_succeeded(channel, told, text, how):
    """Delivered, relayed, expanded (RFC 3464, 2.3.3); nothing where the next hop tells it."""
    assert notices.success(channel, told, text) == how


@pytest.mark.parametrize('address, name', [
    (b'joe@x.example', b'rfc822;joe@x.example'), (b'a+b=c@x.example', b'rfc822;a+2Bb+3Dc@x.example'),
    ('josé@x.example'.encode(), b'utf-8;jos\\x{E9}@x.example'),
    ('"a\\ b"+é=@x'.encode(), b'utf-8;"a\\x{5C}\\x{20}b"\\x{2B}\\x{E9}\\x{3D}@x'), (b'a b@x', b'rfc822;a+20b@x')])
def test_a_name_for_the_report(address, name):
    """ORCPT is xtext, so that it can stand in a command, and gives the address back."""
    assert notices.orcpt(address) == name
    if address.isascii():
        assert from_xtext(name.partition(b';')[2]) == address
