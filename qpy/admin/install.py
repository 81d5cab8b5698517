"""qpy-install, as root or as a plain user: makes DIR, or brings it up to date, or checks it.

    arguments   DIR [--smtp PORT] [--me NAME] [--admin ADDRESS] [--sendmail] [--qmail-names] [--python PATH] [--offline]
                DIR --check
                DIR --uninstall [--accounts] [--purge]
                DIR --destdir PLACE [--python PATH]
    exit        0; 100 when called wrongly or --check found something; 111 when something cannot be done

As root: accounts, directories, code, launchers, manual, first control files, units.  As a plain user the same in a
directory of one's own, without accounts: rootless.  What is there already is kept: control files are never changed,
and running it again upgrades the code.  The steps are in qpy/admin/installing, a module for each kind of thing.
"""
import argparse
import os
import shutil
import sys

from qpy.admin.installing import (check, doing, first_files, other_names, owners, packages, places, program_files,
                                  supervisors, uninstall)
from qpy.core import layout
from qpy.lib import controls, program

RESTART = ('qpy runs in %s with the code it was started with, which was changed since: restart it when it suits you (systemctl '
           'restart qpy, sv restart, svc -t); mail goes on meanwhile')
RESTARTED = ('qpy in %s is started anew by systemd now, when the deliveries under way have ended: that may take %s '
             '(control/timeoutstop)')
SYSTEMD_RUNS = '/run/systemd/system'
PACKAGED = (b'bin', b'lib', b'man', b'doc', b'service')     # directories that hold nothing of one machine


def main(home, args):
    """Parse the words, then do the steps in order."""
    os.umask(0o022)
    try:
        options = parse([os.fsdecode(word) for word in args], os.fsdecode(home))
    except SystemExit as end:
        return doing.OK if not end.code else doing.WRONG
    try:
        return action(options)(options)
    except BrokenPipeError:
        sys.stdout = None                            # who listened has heard enough
    except (doing.Trouble, OSError, shutil.Error) as problem:
        doing.fatal('qpy-install', problem)
    return doing.TEMP


def action(options):
    """The function that does what the options ask for."""
    if options.uninstall:
        return uninstall.uninstall
    return check.check if options.check else stage if options.destdir else install


def parse(words, home=os.fsdecode(program.DEFAULT_HOME)):
    """The options; SystemExit after a usage line.  home: DIR if none is named, which an installed qpy-install knows."""
    parser = argparse.ArgumentParser(prog='qpy-install', description='Make, upgrade or check an installation of qpy.')
    parser.add_argument('home', metavar='DIR', nargs='?', default=home, help='default %(default)s')
    parser.add_argument('--smtp', metavar='PORT', help='receive mail on this TCP port (or ADDRESS:PORT)')
    parser.add_argument('--submission', action='store_true', help='with --smtp: ports 587 and 465 for who logs in')
    parser.add_argument('--me', metavar='NAME', help='full name of this host')
    parser.add_argument('--admin', metavar='ADDRESS', help='who gets mail for root and postmaster')
    parser.add_argument('--sendmail', action='store_true', help='be this machine\'s sendmail, mailq and newaliases')
    parser.add_argument('--qmail-names', action='store_true', help='all programs by qmail\'s names too, and /var/qmail')
    parser.add_argument('--check', action='store_true', help='only compare owners and modes; say what is wrong')
    parser.add_argument('--uninstall', action='store_true', help='take it away again; mail and control files stay')
    parser.add_argument('--accounts', action='store_true', help='with --uninstall: the accounts too')
    parser.add_argument('--purge', action='store_true', help='with --uninstall: control files, queue and aliases too')
    parser.add_argument('--destdir', metavar='PLACE', help='for packagers: put what belongs to a package below PLACE')
    parser.add_argument('--python', metavar='PATH', default=program_files.PYTHON, help='interpreter (default %(default)s)')
    parser.add_argument('--offline', action='store_true', help='download nothing')
    options = parser.parse_args(words)
    if (options.accounts or options.purge) and not options.uninstall:
        parser.error('--accounts and --purge say what --uninstall takes away')
    if sum(map(bool, (options.check, options.uninstall, options.destdir))) > 1:
        parser.error('--check, --uninstall and --destdir exclude each other')
    options.home, options.python = os.path.abspath(options.home), os.path.abspath(options.python)
    options.rootless = os.geteuid() != 0
    return options


def install(options):
    """Every step, each of which leaves alone what is there."""
    home = options.home
    program_files.check_interpreter(home, options.python, options.rootless)
    places.check_name(home)
    places.check_place(home, options.rootless)
    listen = first_files.smtp_line(options.smtp, options.rootless) if options.smtp else None
    if options.submission and (not listen or options.rootless):
        raise doing.Trouble('--submission needs --smtp, and root: ports 587 and 465 are below 1024')
    if options.admin and not all(options.admin.rpartition('@')):
        raise doing.Trouble('--admin needs a whole address, such as you@example.org')
    with places.alone(home):
        return make(home, listen, options)


def make(home, listen, options):
    """The steps that change something."""
    if not options.rootless:
        owners.make_accounts(home)
    places.make_directories(home, options.rootless)
    places.let_auth_read(home, options.rootless)
    put_code(home, home, options)
    if options.qmail_names:
        other_names.be_qmail(home, options.rootless)
    first_files.first_controls(home, options.me, listen, options.submission)
    known = {} if options.admin or not options.sendmail else first_files.system_aliases()
    try:
        first_files.first_aliases(home, options.admin, known)
    except OSError as problem:                  # whoever is alias ends no upgrade
        doing.say('warning: ' + doing.words(problem))
    trouble = first_files.admin_trouble(home, options.admin) if options.admin else ''
    if trouble:
        doing.say('warning: ' + trouble)
    supervisors.write_units(home, home, options.rootless)
    if options.sendmail:
        other_names.be_sendmail(home, options.rootless)
        first_files.new_aliases(home)
    doing.sync(home)
    wrong = check.complaints(home, options.rootless)
    for line in wrong:
        doing.say(line)
    if places.started(home):
        doing.say(of_restart(home))
    else:
        doing.say('installed in %s%s; start it with %s/bin/qpy-start'
                  % (home, ' (rootless: everything runs under your account)' if options.rootless else '', home))
    return doing.WRONG if wrong else doing.OK


def of_restart(home):
    """What becomes of the chain that runs.  A package's script (dpkg(1)) has systemd start it anew in any case."""
    if 'DPKG_MAINTSCRIPT_NAME' in os.environ and os.path.isdir(SYSTEMD_RUNS):
        return RESTARTED % (home, patience(home))
    if program_files.changed(home) < places.since(home):
        return 'qpy runs in %s with the code that is there: no restart is needed' % home
    return RESTART % home


def patience(home):
    """How long deliveries may take to end, in words."""
    try:
        seconds = controls.number(os.fsencode(home), b'timeoutstop')
    except controls.Broken:                     # --check has named it
        seconds = controls.default(os.fsencode(home), b'timeoutstop')
    return '%d seconds' % seconds if seconds else 'as long as systemd waits'


def stage(options):
    """For packagers: below --destdir what is the same on every machine; DIR/bin/qpy-install does the rest there."""
    home, place = options.home, os.path.abspath(options.destdir) + options.home
    places.check_name(home)
    for name, owner, _, mode in layout.rows(rootless=False):
        if name in PACKAGED:
            os.makedirs(os.path.join(place, name.decode()), exist_ok=True)
            os.chmod(os.path.join(place, name.decode()), mode)
    options.offline = True
    put_code(place, home, options)
    supervisors.write_units(place, home, rootless=False)
    doing.say('%s holds what belongs to a package; on the machine where it is unpacked run %s/bin/qpy-install %s, which makes '
              'accounts, directories and the first control files' % (place, home, home))
    return doing.OK


def put_code(place, home, options):
    """Code, packages, launchers and manual into `place`, where they will be found as `home`."""
    program_files.copy_code(place, home, options.python)
    packages.find_packages(place, options)
    program_files.write_launchers(place, home, options.python)
    program_files.copy_pages(place)
