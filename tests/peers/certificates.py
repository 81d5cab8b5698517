"""A private authority and certificates, made by openssl once per session of tests."""
import atexit
import functools
import os
import shutil
import ssl
import subprocess
import tempfile

KEY = 'ec -pkeyopt ec_paramgen_curve:P-256'


def openssl(line, where, **more):
    subprocess.run('openssl ' + line, shell=True, cwd=where, check=True, stderr=subprocess.DEVNULL, **more)


class Authority:
    """path of its own certificate (PEM): `ca`."""

    def __init__(self):
        self.where = tempfile.mkdtemp(prefix='qpy-ca-')
        atexit.register(self.remove, os.getpid())
        os.chmod(self.where, 0o755)
        self.ca = os.path.join(self.where, 'ca.pem')
        openssl('req -x509 -newkey %s -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 30 '
                '-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign' % KEY, self.where)

    def remove(self, maker):
        """At the end of the process that made it, not of those it has forked."""
        if os.getpid() == maker:
            shutil.rmtree(self.where, ignore_errors=True)

    @functools.lru_cache
    def certificate(self, *names, days=20, signed=True):
        """(certificate, key) paths for these names; days < 0: expired; not signed: by itself."""
        name = '%s.%d.%d' % (names[0].replace('*', 'any'), days, signed)
        alt = ','.join(('IP:' if n[-1].isdigit() or ':' in n else 'DNS:') + n for n in names)
        with open(os.path.join(self.where, name + '.ext'), 'w') as file:
            file.write('subjectAltName=%s\n' % alt)
        openssl('req -newkey %s -nodes -keyout %s.key -out %s.csr -subj /CN=%s' % (KEY, name, name, names[0]), self.where)
        by = '-CA ca.pem -CAkey ca.key -CAcreateserial' if signed else '-signkey %s.key' % name
        dates = '-days %d' % days if days > 0 else '-days 0'
        openssl('x509 -req -in %s.csr %s -out %s.pem %s -extfile %s.ext' % (name, by, name, dates, name), self.where)
        return os.path.join(self.where, name + '.pem'), os.path.join(self.where, name + '.key')

    def context(self, *names, **options):
        """A server's ssl.SSLContext with such a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate(*names, **options))
        return context


@functools.lru_cache
def authority():
    """The one of this session."""
    return Authority()
