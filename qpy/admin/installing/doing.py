"""What every step of qpy-install does again and again: say something, run a command, write a file in one step.

Root writes, reads and looks in a directory of another as_its_owner(), and nowhere by a name that was there before.
"""
import contextlib
import os
import re
import shutil
import subprocess
import sys

from qpy import unix_kernel

OK, WRONG, TEMP = 0, 100, 111


class Trouble(Exception):
    """Something that cannot be done; the text holds the remedy."""


def say(line):
    """One line for the person who typed the command."""
    print(line, flush=True)


def fatal(program, problem):
    """Say why it ends; what could not be printed is not tried again."""
    if isinstance(problem, OSError) and problem.filename is None:
        sys.stdout = None
    print('%s: fatal: %s' % (program, words(problem)), file=sys.stderr, flush=True)


def words(problem):
    """What went wrong, for a person: without Python's number."""
    if isinstance(problem, shutil.Error):           # one for each file: the first says it all
        _, target, why = problem.args[0][0]
        return '%s: %s' % (target, re.sub(r'^\[Errno \d+\] ([^:]*).*', r'\1', why))
    if not isinstance(problem, OSError) or not problem.strerror:
        return str(problem)
    if problem.filename is None:
        return 'unable to write what there is to say: ' + problem.strerror
    remedy = '; chmod a+rX it if that is wrong' if isinstance(problem, PermissionError) else ''
    return '%s: %s%s' % (os.fsdecode(problem.filename), problem.strerror, remedy)


def run(*words):
    """Run a command; Trouble with its own words if it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        raise Trouble('%s is missing; run this by hand in your system\'s way: %s' % (words[0], ' '.join(words))) from None
    if done.returncode:
        raise Trouble('%s: %s' % (' '.join(words), (done.stderr or done.stdout).strip()))
    return done.stdout


def exists(look_up, name):
    """Whether a name is known."""
    try:
        look_up(name)
    except KeyError:
        return False
    return True


@contextlib.contextmanager
def as_its_owner(directory, home='/'):
    """Stand in a directory, for as long as this lasts, with the rights of whoever it belongs to (or DIR, where that is not
    root's): a link that he has put there leads root nowhere that he could not go.  Names are relative to it, so that it may lie
    where he cannot pass."""
    here, groups, gid = os.open('.', os.O_PATH | os.O_CLOEXEC), os.getgroups(), os.getegid()
    owner = next((there for there in (os.stat(home), os.stat(directory)) if there.st_uid), None)
    os.chdir(directory)
    changes = owner is not None and os.geteuid() == 0
    if changes:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    try:
        yield
    except OSError as problem:
        if problem.filename is not None:
            problem.filename = os.path.join(directory, os.fsdecode(problem.filename))
        raise
    finally:
        if changes:
            os.seteuid(0)
            os.setegid(gid)
            os.setgroups(groups)
        os.fchdir(here)
        os.close(here)


def write(path, content, mode=0o644):
    """Write a file in one step."""
    os.rename(written(path + '.new', content, mode), path)


def written(path, content, mode, durable=False):
    """path, a new file with this content (str or bytes); durable: on the disk."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, 'w' if isinstance(content, str) else 'wb') as file:
        os.fchmod(fd, mode)
        file.write(content)
        if durable:
            file.flush()
            os.fsync(fd)
    return path


def write_all(files, mode):
    """Write {path: content}: all of them are on the disk before one takes the place of another, so that a power cut leaves
    the old file or the new one."""
    for path, content in files.items():
        written(path + '.new', content, mode)
    sync(os.path.dirname(next(iter(files))))
    for path in files:
        os.rename(path + '.new', path)


def sync(directory):
    """Make what was written on the file system of a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unix_kernel.syncfs(fd)
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, directory) from None
    finally:
        os.close(fd)


def link(path, target):
    """A symbolic link, in one step."""
    new = path + '.new'
    if os.path.lexists(new):
        os.unlink(new)
    os.symlink(target, new)
    os.rename(new, path)


def first(path, content, mode=0o644):
    """Write a file that is not there yet; True if it was written."""
    if os.path.lexists(path):
        return False
    write(path, content, mode)
    return True


def read(path):
    """The text of a file; nothing if there is none."""
    try:
        with open(path, errors='replace') as file:
            return file.read()
    except FileNotFoundError:
        return ''


def read_first_line(path):
    """The first line of a file."""
    with open(path) as file:
        return file.readline().strip()


def ways_to(path):
    """Every directory above path."""
    while path != '/':
        path = os.path.dirname(path)
        yield path


def nearest(path):
    """path if it is there, else the lowest directory above it that is."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path
