"""The directories of DIR, and whether DIR may be where it is to be."""
import contextlib
import fcntl
import os
import re
import socket

from qpy import unix
from qpy.admin.installing import doing, owners
from qpy.core import layout


NAME = re.compile(r'[\w/.+@-]+')      # what PATH, shells, units and a remedy that is typed again take for what it is


def check_name(home):
    """Trouble if DIR's name means something else in one of the places where it will stand."""
    odd = NAME.sub('', home)
    if odd:
        raise doing.Trouble('%s: its name holds %s, which PATH, run scripts and units take for something else; choose a directory of '
                            'letters, digits and . _ + @ -' % (home, ' '.join(map(repr, sorted(set(odd))))))


def check_place(home, rootless):
    """Trouble if a plain user cannot make DIR there, or if it would lie in another installation."""
    for above in doing.ways_to(os.path.realpath(home)):
        if all(os.path.isdir(os.path.join(above, name)) for name in ('queue/mess', 'queue/state', 'control')):
            raise doing.Trouble('%s lies in the installation %s, whose programs would find what is none of theirs: choose a '
                                'directory outside of it, or upgrade that one with: qpy-install %s' % (home, above, above))
    if is_qmail(home):
        raise doing.Trouble('%s is the home of a qmail, whose queue and files would lie among ours: choose another DIR, and let it take '
                            'over what is there: qpy-install DIR, then DIR/bin/qpy-import qmail %s' % (home, home))
    there = doing.nearest(home)
    if rootless and not os.access(there, os.W_OK | os.X_OK):
        raise doing.Trouble('you may not write to %s: run it as root, or install for yourself with: qpy-install ~/mail'
                            % there)


def is_qmail(home):
    """Does a directory have a queue of qmail (INTERNALS: info, todo, mess in parts), and none of ours?"""
    queue = os.path.join(home, 'queue')
    mess = os.path.join(queue, 'mess')
    parts = [name for name in os.listdir(mess) if name.isdigit() and os.path.isdir(os.path.join(mess, name))] \
        if os.path.isdir(mess) and os.access(mess, os.R_OK) else []
    theirs = parts or any(os.path.isdir(os.path.join(queue, name)) for name in ('info', 'todo'))
    return bool(theirs) and not os.path.isdir(os.path.join(queue, 'state'))


LOCK = '.lock'              # in DIR, while a qpy-install is at work there; what others can open, they could lock for ever


@contextlib.contextmanager
def alone(home):
    """Only one qpy-install at a time is at work in DIR, which is made if it is missing: two would take each other's files away."""
    new = not os.path.isdir(home)
    lock = take_turn(home)
    try:
        yield
    finally:
        if lock is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(home, LOCK))
            os.close(lock)
        if new and os.path.isdir(home) and not os.listdir(home):        # nothing came of it
            os.rmdir(home)


def take_turn(home):
    """The lock of DIR as a descriptor, None where there is none: in somebody else's DIR, which is named soon, and on a file
    system without locks; who waits is told.  It goes with who held it, so that he who waited may have to make another."""
    told = False
    while True:
        os.makedirs(home, exist_ok=True)
        if os.stat(home).st_uid != os.geteuid():
            return None
        path = os.path.join(home, LOCK)
        try:
            fd = unix.open_regular(path, os.O_WRONLY | os.O_CREAT, 0o600)
        except unix.NotRegular as problem:
            raise doing.Trouble('%s: %s; no qpy-install has made it: rm -r %s' % (path, problem.strerror, path)) from None
        except (FileNotFoundError, PermissionError):
            if os.path.isdir(home):
                return None
            continue                                        # DIR has just been taken away
        try:
            told = wait_for(fd, home, told)
        except OSError:
            return fd
        if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
            return fd
        os.close(fd)


def wait_for(fd, home, told):
    """Lock it; whether somebody was told that this takes time."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not told:
            doing.say('another qpy-install is at work in %s: waiting for its end' % home)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return True
    return told


def make_directories(home, rootless):
    """Every directory of the table that is missing, and the owners and modes of all but the administrator's DIR."""
    if os.path.isdir(home) and not rootless and os.stat(home).st_uid != 0:
        raise doing.Trouble('%s belongs to uid %d: chown it to root, or install as that user'
                            % (home, os.stat(home).st_uid))
    os.makedirs(home, exist_ok=True)
    if rootless and os.stat(home).st_uid != os.geteuid():
        raise doing.Trouble('%s belongs to uid %d; choose a directory of your own' % (home, os.stat(home).st_uid))
    who = owners.identities(home, rootless)
    for name, owner, group, mode in layout.rows(rootless):
        path = os.path.join(home, name.decode()) if name else home
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
        if not rootless:
            os.chown(path, who[owner.decode()][0], who[group.decode()][1])


def let_auth_read(home, rootless):
    """users/passwd of an older installation: qpy-auth reads it too."""
    path = os.path.join(home, 'users/passwd')
    if os.path.exists(path):
        if not rootless:
            os.chown(path, 0, owners.identities(home, rootless)['qpya'][1])
        os.chmod(path, 0o640)


def started(home):
    """Whether a chain runs in DIR: a qpy-start holds its lock, though its sockets may be gone, or the programs were started apart."""
    try:
        lock = unix.open_regular(os.path.join(home, 'queue/lock'), os.O_WRONLY)
    except OSError:                 # --check names what is no lock
        return running(home)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return running(home)


def since(home):
    """When the chain that runs in DIR was started, as its socket says: seconds of the clock; 0 where that has gone."""
    try:
        return os.lstat(os.path.join(home, 'run/control')).st_mtime
    except OSError:
        return 0


def running(home):
    """Whether somebody serves DIR's control socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            directory = os.open(os.path.join(home, 'run'), os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            sock.connect('/proc/self/fd/%d/control' % directory)        # a socket's path may have 107 bytes
        except OSError:
            return False
        finally:
            os.close(directory)
    return True
