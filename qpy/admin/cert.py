"""qpy-cert, as root (or DIR's owner): puts a private key and its certificates where qpy-tls reads them.

    qpy-cert                        what is there; as a hook of certbot (RENEWED_LINEAGE): put that there
    qpy-cert NAME CHAIN KEY         DIR/keys/NAME.pem from two files in PEM: the certificates, the server's first; the key
    qpy-cert --self NAME            a key of its own and a certificate that nobody has signed
    exit    0; 100 wrong use, or files that do not fit together; 111 something cannot be read or written
"""
import grp
import os
import subprocess
import sys
import tempfile
import time

from qpy import unix_tls
from qpy.admin.installing import doing
from qpy.core import dates, tls_certificate
from qpy.lib import controls, hostnames, packets

OK, WRONG, TEMP = 0, 100, 111
USAGE = 'usage: qpy-cert [NAME CHAIN KEY | --self NAME]'
YEARS = 10
SELF = ('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days',
        str(365 * YEARS))


class Refused(Exception):
    """Not done, and why."""


def main(home, args):
    """Look, or put."""
    os.umask(0o077)
    words = [os.fsdecode(word) for word in args]
    lineage = os.environ.get('RENEWED_LINEAGE')
    if not words and lineage:
        words = [os.path.basename(lineage), lineage + '/fullchain.pem', lineage + '/privkey.pem']
    try:
        code = obey(home, words)
        line = os.fsdecode(mismatch(home))
        if line:
            print('qpy-cert: warning: ' + line, file=sys.stderr)
        return code
    except Refused as problem:
        return complain(problem, WRONG)
    except OSError as problem:
        return complain(problem, TEMP)


def obey(home, words):
    """What was asked for."""
    if not words:
        return show(home)
    if len(words) == 2 and words[0] == '--self':
        return put(home, words[1], *signed_by_itself(words[1]))
    if len(words) != 3 or words[0][:1] == '-':
        raise Refused(USAGE)
    return put(home, words[0], *map(content, words[1:]))


def complain(problem, code):
    """One line."""
    print('qpy-cert: fatal: %s' % problem, file=sys.stderr)
    return code


def content(path):
    """The bytes of a file, a line end at their end."""
    with open(path, 'rb') as file:
        return file.read().rstrip(b'\n') + b'\n'


def signed_by_itself(name):
    """(certificate, key) that openssl(1) makes."""
    plain_name(name)
    with tempfile.TemporaryDirectory() as place:
        files = [os.path.join(place, 'chain'), os.path.join(place, 'key')]
        words = [*SELF, '-out', files[0], '-keyout', files[1], '-subj', '/CN=' + name, '-addext', 'subjectAltName=DNS:' + name]
        try:
            done = subprocess.run(words, capture_output=True, text=True)
        except FileNotFoundError:
            raise Refused('openssl is missing; install it, or give a certificate and a key') from None
        if done.returncode:
            raise Refused('openssl: ' + done.stderr.strip().rpartition('\n')[2])
        return [content(path) for path in files]


def plain_name(name):
    """Refused for what cannot be the name of a file of ours."""
    if not name or name[0] == '.' or not set(name) <= set('abcdefghijklmnopqrstuvwxyz0123456789-._'):
        raise Refused('%s: not a name; lower-case letters, digits, - . and _ only' % name)


def put(home, name, chain, key):
    """DIR/keys/NAME.pem, which qpy-tls alone can read beside its owner: in one step, and only if it works."""
    plain_name(name)
    path = os.path.join(os.fsdecode(home), 'keys', name + '.pem')
    owner = os.stat(home)
    group = owner.st_gid
    if owner.st_uid == 0:
        try:
            group = grp.getgrnam(os.fsdecode(packets.account_name(home, b'qpyt'))).gr_gid
        except KeyError:
            raise Refused('the group of qpy-tls is missing; run qpy-install %s' % os.fsdecode(home)) from None
    with doing.as_its_owner(os.path.dirname(path), os.fsdecode(home)):
        new = doing.written(name + '.pem.new', key + chain if key != chain else key, 0o600, durable=True)
        try:
            print('%s: %s' % (path, words_of(new)))
            os.chown(new, owner.st_uid, group)
            os.chmod(new, 0o640)
            os.rename(new, name + '.pem')
        except BaseException:
            os.unlink(new)
            raise
    return OK


def words_of(path):
    """Names and dates of a file."""
    try:
        info = unix_tls.certificate_of(unix_tls.server(os.fsencode(path)))[1]
    except unix_tls.TlsError as problem:
        raise Refused('%s: %s; it must hold a private key without a pass phrase and its certificate, in PEM'
                      % (path, problem.words.decode())) from None
    ends = dates.of_certificate(info['notAfter'])
    names = b' '.join(sorted(tls_certificate.names(info))).decode() or 'no names at all'
    return '%s; %s %s' % (names, 'expired on' if ends <= time.time() else 'until', dates.clock_date(ends).decode())


def show(home):
    """What is there."""
    directory, code = os.path.join(os.fsdecode(home), 'keys'), OK
    for name in sorted(os.listdir(directory)):
        if name.endswith('.pem'):
            try:
                print('%s: %s' % (name, words_of(os.path.join(directory, name))))
            except Refused as problem:
                code = complain(problem, WRONG)
    return code


def mismatch(home):
    """What is wrong where no certificate that is valid now is for this host, b'' where one is, or none is there."""
    keys, files = home + b'/keys', {}
    for path in [keys + b'/' + name for name in sorted(os.listdir(keys)) if name.endswith(b'.pem')] if os.path.isdir(keys) else []:
        try:
            info = unix_tls.certificate_of(unix_tls.server(path))[1]
        except unix_tls.TlsError:
            continue                            # which show() names
        if dates.of_certificate(info['notBefore']) <= time.time() < dates.of_certificate(info['notAfter']):
            files[path] = tls_certificate.names(info)
    try:
        own = hostnames.own(home)
    except (controls.Broken, OSError):
        return b''                              # which qpy-install --check names
    path, ours = tls_certificate.general(files, own, keys + b'/default.pem')
    return tls_certificate.not_ours(path, own) if path and not ours else b''
