"""P52: keys of the kernel: nobody has those of the session that qpy-start was started from, and users exchange none."""
import errno
import os
import shutil
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), 'chain'), os.path.join(os.path.dirname(HERE), 'programs')]
import houses  # noqa: E402
import keyrings  # noqa: E402
from test_confine import in_child  # noqa: E402
from qpy import unix_kernel  # noqa: E402
from qpy.lib import confine  # noqa: E402

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
ANN, BOB = 54061, 54062
SECRET = 'of-the-session-of-root'


@pytest.fixture(scope='module', autouse=True)
def keys():
    """Visibly skipped where there are no keys."""
    def probe():
        try:
            keyrings.join()
        except OSError as problem:
            return errno.errorcode[problem.errno]
    lacking = in_child(probe)
    if lacking:
        pytest.skip('keyctl: ' + lacking)


def test_P52_programs_of_users_share_no_keys():
    """Started from a session of root's with a key in it: no user's program has that key; what one user leaves in his session
    keyring, for everybody, the other does not find; his own he finds."""
    house = houses.Rooted(users={'ann': (ANN, ANN), 'bob': (BOB, BOB)})
    try:
        path = house.top + '/keyrings.py'
        shutil.copy(keyrings.__file__, path)
        os.chmod(path, 0o644)
        house.start(through=('/usr/bin/python3', '-I', path, 'give', SECRET))
        said = [answer(house, path, *what) for what in (('ann', 'find'), ('ann', 'put', 'secret-of-ann'), ('bob', 'get'),
                                                        ('bob', 'find'), ('bob', 'own'))]
        assert said == ['ENOKEY', 'secret-of-ann', 'ENOKEY', 'ENOKEY', 'mine']
        assert house.stop() == 0
    finally:
        house.remove()


def answer(house, path, user, *words):
    """What keyrings.py says when a .qmail of this user runs it."""
    name = '-'.join(words)
    house.recipe(user, '.qmail-' + name, '|python3 -I %s %s >%s; echo end\n' % (path, ' '.join(words), name))
    house.smtp('%s-%s@here.test' % (user, name))
    house.await_line('did_', count=1 + sum('did_' in line for line in house.lines))
    with open(os.path.join(house.user_homes[user], name)) as file:
        return file.read().strip()


def below_a_session(start, become):
    """As the chain does it, in one process: a session of root's with a key, start(), and two children that become() users:
    (what ann finds of root's, what bob finds of ann's, what bob finds of his own)."""
    def probe():
        keyrings.join()
        keyrings.put(keyrings.ROOTS, SECRET.encode())
        start()

        def ann():
            become(ANN, ANN)
            found = keyrings.find(keyrings.ROOTS)
            try:
                keyrings.put(keyrings.USERS, b'of-ann')
            except OSError:
                pass
            return found

        def bob():
            become(BOB, BOB)
            found = keyrings.find(keyrings.USERS)
            keyrings.put(keyrings.OWN, b'mine')
            return found, keyrings.find(keyrings.OWN)
        return in_child(ann), *in_child(bob)
    return in_child(probe)


def step_down():
    """The seed where namespaces are forbidden."""
    confine.seal_keys()
    confine.keep_two_capabilities(700, 700)


@pytest.mark.parametrize('start, become', [(step_down, confine.become_user), (confine.seal_keys, confine.drop)])
def test_what_hides_keys(start, become):
    """Users, and daemons' accounts, have a session keyring of their own."""
    assert below_a_session(start, become) == ('ENOKEY', 'ENOKEY', 'mine')


@pytest.mark.parametrize('start, become', [(step_down, confine.become_user), (confine.seal_keys, confine.drop)])
def test_the_probe_finds_keys_that_are_shared(start, become, monkeypatch):
    """The counter-test: where nobody takes a keyring of his own, root's key and the other user's are found."""
    monkeypatch.setattr(unix_kernel, 'new_session_keyring', lambda: None)
    monkeypatch.setattr(unix_kernel, 'seal_session_keyring', lambda: None)
    assert below_a_session(start, become) == (SECRET, 'of-ann', 'mine')


def failing(number):
    """A call that the kernel answers so."""
    def fail():
        raise OSError(number, os.strerror(number))
    return fail


def test_a_user_without_quota_shares_nothing(monkeypatch):
    """EDQUOT: 200 processes of one user, or he has filled it: he stays in the sealed one, where nobody puts or finds a key."""
    def probe():
        keyrings.join()
        step_down()
        monkeypatch.setattr(unix_kernel, 'new_session_keyring', failing(errno.EDQUOT))

        def user():
            confine.become_user(ANN, ANN)
            try:
                keyrings.put(keyrings.USERS, b'of-ann')
            except OSError as problem:
                return errno.errorcode[problem.errno], keyrings.find(keyrings.USERS)
        return in_child(user)
    assert in_child(probe) == ('EACCES', 'EACCES')


@pytest.mark.parametrize('number, goes_on', [(errno.EPERM, True), (errno.ENOSYS, True), (errno.ENOMEM, False)])
def test_where_there_are_no_keys(number, goes_on, monkeypatch):
    """Forbidden, as in containers, or not in this kernel: nobody has any; any other failure ends the start."""
    monkeypatch.setattr(unix_kernel, 'new_session_keyring', failing(number))
    for take in (confine.seal_keys, confine.own_keys):
        try:
            take()
        except OSError as problem:
            assert problem.errno == number and not goes_on
        else:
            assert goes_on
