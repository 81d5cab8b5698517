"""DIR/lib/qpy, DIR/bin and the manual: copied so that what runs meanwhile finds the old or the new, never none."""
import ctypes
import hashlib
import os
import shutil
import stat
import subprocess

from qpy.admin.installing import doing, other_names
from qpy.lib import faults

PYTHON = '/usr/bin/python3'
CODE = os.path.abspath(__file__).rsplit('/', 4)[0]       # what holds qpy/
LEFT_OUT = ('qpy-test', 'qpy-deb')          # need the source tree
FILES = 'lib/qpy/FILES'         # sha256sum's lines, of DIR
LAUNCHER = """\
#!%(python)s -IS
import sys
sys.path.insert(0, %(code)r)
try:
    from qpy.lib import program
except Exception as problem:
    print('%(name)s: fatal: unable to load the code below', %(code)r, '(%%s); chmod -R a+rX it, or if something is '
          'missing run qpy-install from the source tree again' %% problem, file=sys.stderr)
    sys.exit(111)
program.run(%(module)r, %(home)r)
"""


def check_interpreter(home, python, rootless):
    """Trouble unless every account can run it, only root (or who installs for himself) can change it, and it is new enough."""
    if not os.path.isfile(python):
        raise doing.Trouble('%s is missing; install python3' % python)
    refuse_foreign(home, python, (), rootless)              # before it is run
    asked = subprocess.run([python, '-IS', '-c', 'import sys; print(sys.version_info >= (3, 11))'],
                           capture_output=True, text=True)
    if asked.stdout.strip() != 'True':
        raise doing.Trouble('%s is no Python of 3.11 or later; give another with --python' % python)
    refuse_foreign(home, python, directories_of(python), rootless)


def refuse_foreign(home, python, directories, rootless):
    """Trouble if others can change the interpreter, where it finds modules, or where DIR is, or an account cannot run it."""
    owner = (os.geteuid(), os.getegid()) if rootless else (0, 0)
    house = faults.House(os.fsencode(home), rootless, {b'root': owner})
    for fault in (*faults.of_home(house), *faults.of_interpreter(house, os.fsencode(python), directories)):
        raise doing.Trouble(os.fsdecode(fault.text))


def directories_of(python):
    """Where an interpreter looks for modules of its own."""
    words = doing.run(python, '-IS', '-c', 'import sys; print(*sys.path, sep=chr(0), end="")')
    return [os.fsencode(path) for path in words.split('\0') if path]


def interpreter_of(home):
    """The interpreter that launchers of DIR name, '' if there is none."""
    first = doing.read(os.path.join(home, 'bin/qpy-start')).partition('\n')[0]
    return first[2:].split()[0] if first[:3] == '#!/' else ''


def copy_code(place, home, python):
    """lib/qpy of `place`, byte-compiled, exchanged in one step, unless it would be the same.

    A link there is somebody else's business.  What runs meanwhile finds the old code or the new one, never none."""
    target = os.path.join(place, 'lib/qpy')
    if os.path.islink(target) or os.path.realpath(CODE) == os.path.realpath(os.path.join(place, 'lib')):
        return
    new, old = target + '.new', target + '.old'
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    try:
        shutil.copytree(os.path.join(CODE, 'qpy'), new, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'),
                        copy_function=copy_file)
        doing.run(python, '-IS', '-m', 'compileall', '-q', '-s', new, '-p', os.path.join(home, 'lib/qpy'), new)
        kinds = ('.py', '.pyc') if place == home else ('.py',)          # a package may compile where it is unpacked
        with open(os.path.join(new, os.path.basename(FILES)), 'w') as file:
            file.write(list_of_files(new, home, python, kinds))
        tidy(new)
        if everything_in(new) != everything_in(target):
            doing.sync(new)             # a power cut leaves the old code or the new one, not the names of files that are empty
            exchange(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)              # after a failure, too: the disk may be full


STAMP = 16                      # bytes of a compiled module that say when its source was written


def everything_in(top):
    """{path below top: (content, mode, uid)} of what is there, but for when it was written; of a compiled module also whether it is
    the one of FILES."""
    found, listed = {}, doing.read(os.path.join(top, os.path.basename(FILES))).splitlines()
    for directory, names, files in os.walk(top):
        for path in (os.path.join(directory, name) for name in (*names, *files)):
            there, name = os.lstat(path), os.path.relpath(path, top)
            content = b''
            if stat.S_ISREG(there.st_mode):
                with open(path, 'rb') as file:
                    content = file.read()
            if name.endswith('.pyc'):
                content = content[STAMP:], line_of('lib/qpy/' + name, content) in listed
            elif name == os.path.basename(FILES):
                content = [line.partition('  ')[2] if line.endswith('.pyc') else line for line in listed]
            found[name] = content, there.st_mode, there.st_uid
    return found


def changed(home):
    """When the code in DIR was last exchanged or touched: seconds of the clock."""
    top = os.path.join(home, 'lib/qpy')
    return max(os.stat(os.path.join(directory, name)).st_ctime for directory, _, files in os.walk(top + '/') for name in (*files, ''))


def sources(top, kinds=('.py',)):
    """{path below top: content} of the modules there; kinds: with these endings."""
    found = {}
    for directory, _, files in os.walk(top):
        for name in files:
            if name.endswith(kinds):
                with open(os.path.join(directory, name), 'rb') as file:
                    found[os.path.relpath(file.name, top)] = file.read()
    return found


def list_of_files(code, home, python, kinds):
    """What --check compares modules, launchers and pages with later: the text of FILES."""
    found = {'lib/qpy/' + name: content for name, content in sources(code, kinds).items()}
    found.update(('bin/' + name, launcher(name, module, home, python).encode()) for name, module in launchers())
    found.update((os.path.relpath(page(home, name), home), content) for name, content in sources(os.path.join(CODE, 'man'), SECTIONS).items())
    return ''.join(line_of(name, found[name]) + '\n' for name in sorted(found))


def line_of(name, content):
    """A line of FILES."""
    return '%s  %s' % (hashlib.sha256(content).hexdigest(), name)


RENAME_EXCHANGE, AT_FDCWD = 2, -100


def exchange(new, target):
    """Let new and target change places in one step; where a file system cannot, in two."""
    if not os.path.exists(target):
        return os.rename(new, target)
    if ctypes.CDLL(None).renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(target), RENAME_EXCHANGE) == 0:
        return None
    os.rename(target, target + '.old')
    os.rename(new, target)
    return shutil.rmtree(target + '.old', ignore_errors=True)


def copy_file(source, target, **_):
    """Content and time, but neither owner nor mode."""
    shutil.copyfile(source, target)
    there = os.stat(source)
    os.utime(target, ns=(there.st_atime_ns, there.st_mtime_ns))


def tidy(top):
    """Everybody can read it, only its owner can change it."""
    os.chmod(top, 0o755)
    for directory, directories, files in os.walk(top):
        for name in directories:
            os.chmod(os.path.join(directory, name), 0o755)
        for name in files:
            os.chmod(os.path.join(directory, name), 0o644)


def launchers():
    """[(name, module)] of the programs beside the code."""
    source = os.path.join(CODE, 'bin') if os.path.isdir(os.path.join(CODE, 'bin')) \
        else os.path.join(os.path.dirname(CODE), 'bin')
    found = []
    for name in sorted(os.listdir(source)):
        path = os.path.join(source, name)
        if name in LEFT_OUT or os.path.islink(path) or not os.path.isfile(path):
            continue
        with open(path) as file:
            module = launched(file.read())
        if module:
            found.append((name, module))
    return found


def launched(text):
    """The module that a launcher's text runs, or None."""
    last = text.rstrip('\n').rpartition('\n')[2]
    if not last.startswith("program.run('"):
        return None
    return last.split("'")[1]


def launcher(name, module, home, python):
    """Its text."""
    return LAUNCHER % {'python': python, 'code': os.path.join(home, 'lib'), 'module': module, 'home': home, 'name': name}


def write_launchers(place, home, python):
    """bin of `place`: every launcher with absolute paths of DIR, and the names that qmail's users know.

    A link there is somebody else's business."""
    if os.path.islink(os.path.join(place, 'bin')):
        return
    doing.write_all({os.path.join(place, 'bin', name): launcher(name, module, home, python) for name, module in launchers()}, 0o755)
    other_names.link_names(place, other_names.BARE_NAMES + other_names.SENDMAIL_NAMES + other_names.QMAIL_NAMES)


def copy_pages(home):
    """The manual; and in DIR/doc, never live, the samples of control files and what others need to work with us."""
    for source, target in (('man', 'man'), ('control', 'doc/control')):
        directory = os.path.join(CODE, source)
        if not os.path.isdir(directory) or os.path.realpath(directory) == os.path.realpath(os.path.join(home, target)):
            continue
        for name in sorted(os.listdir(directory)):
            place = page(home, name) if source == 'man' else os.path.join(home, target, name)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            shutil.copyfile(os.path.join(directory, name), place)
            os.chmod(place, 0o644)


SECTIONS = tuple('.%d' % number for number in range(1, 10))


def page(home, name):
    """Where a file of the manual goes: what is no page is an example."""
    return os.path.join(home, 'man/man' + name[-1] if name.endswith(SECTIONS) else 'doc', name)
