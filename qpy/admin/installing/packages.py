"""DIR/lib/site: dnspython and click, by a link to the distribution's, else fetched."""
import os
import tempfile

from qpy.admin.installing import doing, program_files

PACKAGES = (('dns', 'dnspython'), ('click', 'click'))
DISTRIBUTIONS = '/usr/lib/python3/dist-packages'        # where Debian has them, and who uses them looks too
TRIES, PATIENCE = 1, 5          # when nobody answers: once more, and so many seconds each time


def find_packages(home, options):
    """DIR/lib/site with dnspython and click: the distribution's by link, else pip's; what is missing then is only said."""
    site = os.path.join(home, 'lib/site')
    os.makedirs(site, exist_ok=True)
    os.chmod(site, 0o755)
    missing = [pair for pair in PACKAGES if not os.path.isdir(os.path.join(site, pair[0]))]
    missing = [pair for pair in missing if not link_package(site, pair[0], options)]
    if not missing or options.destdir:
        return
    if options.offline:
        for line in lacking(home):
            doing.say('warning: ' + line)
        return
    doing.say('fetching %s with pip: this takes some seconds, and up to half a minute where no network answers; --offline '
              'does without' % ' and '.join(distribution for _, distribution in missing))
    try:
        fetch(site, [distribution for _, distribution in missing])
    except doing.Trouble as problem:
        for line in lacking(home):
            doing.say('warning: %s: %s' % (line, str(problem).splitlines()[-1][:200]))


WITHOUT = {'dns': 'mail for other hosts waits, but where control/smtproutes names a host by address',
           'click': 'some programs for administrators, such as qpy-ctl, do not run'}


def lacking(home):
    """[line for a person] on each package that is not to be found, and what does not work without it."""
    return ['without %s %s; apt install python3-%s, and run qpy-install again' % (distribution, WITHOUT[package], distribution)
            for package, distribution in PACKAGES
            if not any(os.path.isdir(os.path.join(place, package)) for place in (os.path.join(home, 'lib/site'), DISTRIBUTIONS))]


def link_package(site, package, options):
    """Link one package of the distribution; False if it is not there or others could change it."""
    try:
        found = doing.run(options.python, '-I', '-c', 'import %s; print(%s.__path__[0])' % (package, package)).strip()
    except doing.Trouble:
        return False
    if os.stat(found).st_uid not in (0, os.geteuid()) or os.stat(found).st_mode & 0o022:
        return False
    doing.link(os.path.join(site, package), found)
    return True


def fetch(site, distributions):
    """Let pip of a passing venv put packages into site."""
    with tempfile.TemporaryDirectory() as venv:
        doing.run(program_files.PYTHON, '-m', 'venv', venv)
        doing.run('env', 'RES_OPTIONS=timeout:%d attempts:1' % PATIENCE, os.path.join(venv, 'bin/pip'), 'install', '--quiet',
                  '--disable-pip-version-check', '--retries', str(TRIES), '--timeout', str(PATIENCE),
                  '--target', site, *distributions)
    program_files.tidy(site)
