"""DIR/lib/site: dnspython and click, by a link to the distribution's, else fetched."""
import os
import tempfile

from qpy.admin.installing import doing, program_files

PACKAGES = (('dns', 'dnspython'), ('click', 'click'))
TRIES, PATIENCE = 1, 5          # when nobody answers: once more, and so many seconds each time


def find_packages(home, options):
    """DIR/lib/site with dnspython and click: the distribution's by link, else pip's; Trouble is only said."""
    site = os.path.join(home, 'lib/site')
    os.makedirs(site, exist_ok=True)
    os.chmod(site, 0o755)
    missing = [pair for pair in PACKAGES if not os.path.isdir(os.path.join(site, pair[0]))]
    missing = [pair for pair in missing if not link_package(site, pair[0], options)]
    if not missing or options.offline:
        return
    doing.say('fetching %s with pip: this takes some seconds, and up to half a minute where no network answers; --offline '
              'does without' % ' and '.join(distribution for _, distribution in missing))
    try:
        fetch(site, [distribution for _, distribution in missing])
    except doing.Trouble as problem:
        doing.say('without %s: remote mail goes only where control/smtproutes names a host by address '
                  '(apt install python3-dnspython python3-click, and run this again): %s'
                  % (' and '.join(distribution for _, distribution in missing), str(problem).splitlines()[-1][:200]))


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
