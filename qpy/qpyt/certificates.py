"""The keys and certificates in DIR/keys: which are good, and which one a client gets.

Each file *.pem holds a private key and its chain of certificates, the server's own first; the names it is for are those
in the certificate.  A client that asks for none of them gets default.pem, else the one for the name of this host, else,
with a warning, the first.
What is wrong with a file is said once; as long as what it held before is good, that stays.
"""
from qpy import unix, unix_tls
from qpy.core import dates, tls_certificate
from qpy.lib import controls, hostnames, program

DEFAULT = b'default.pem'
SUFFIX = b'.pem'
SOON = 10 * 86400           # seconds before its end at which a certificate is complained of
MOST = 10000                # files
OTHERS = 0o077              # modes of a key that somebody else could read: 0o007 where its group is ours


class Bad(Exception):
    """A file that cannot be used; args: why, with the remedy."""


class Certificate:
    """One file.  context: for anybody; asking: for clients who are asked for a certificate of theirs, or None."""

    __slots__ = ('path', 'stamp', 'context', 'asking', 'names', 'binding', 'begins', 'ends')

    def __init__(self, path, stamp, clients):
        self.path, self.stamp = path, stamp
        try:
            self.context = unix_tls.server(path)
            der, info = unix_tls.certificate_of(self.context)
            self.asking = unix_tls.server(path, clients) if clients else None
        except unix_tls.TlsError as problem:
            raise Bad(problem.words + b'; it must hold a private key and its certificate, in PEM') from None
        self.names, self.binding = tls_certificate.names(info), tls_certificate.binding(der)
        self.begins, self.ends = dates.of_certificate(info['notBefore']), dates.of_certificate(info['notAfter'])

    def good(self, now):
        """Is this its time?"""
        return self.begins <= now < self.ends

    def of(self, asking):
        """The context to use."""
        return self.asking if asking and self.asking is not None else self.context


class Certificates:
    """All of them.  reason: why there is none that can be used, or b''."""

    __slots__ = ('home', 'gid', 'known', 'seen', 'wrong', 'said', 'table', 'default', 'ours', 'reason', 'own')

    def __init__(self, home, said=None):
        """said: what was complained of already, shared by the processes that look."""
        self.home, self.gid = home, unix.getegid()
        self.known, self.seen, self.wrong = {}, None, []    # {path: Certificate}; how all looked; what is wrong with it
        self.said = said if said is not None else bytearray(8)
        self.table, self.default, self.ours, self.reason, self.own = {}, None, False, b'', []
        self.look()

    # --- looking ---

    def look(self):
        """Read what has changed; True if there is TLS now."""
        now, seen = unix.time(), self.stamps()
        if seen != self.seen:
            self.seen, self.wrong = seen, self.read(seen)
        self.sort_out(now)
        problems = self.wrong + [c.path + b': ' + age_of(c, now) for c in self.known.values() if not c.good(now + SOON)]
        if self.default is None:
            problems.append(b'no TLS: ' + self.reason)
        elif not self.ours:
            problems.append(tls_certificate.not_ours(self.default.path, self.own))
        self.complain(problems)
        return self.default is not None

    def stamps(self):
        """{path: what changes when it does} of all files, and of the clients' certificates; in order of names."""
        directory, found = self.home + b'/keys', {}
        try:
            names = sorted(unix.listdir(directory))[:MOST]
        except unix.error as problem:
            return {directory: program.reason(problem)}
        for path in [directory + b'/' + name for name in names if name.endswith(SUFFIX)] + [self.clients()]:
            try:
                there = unix.stat(path)
            except unix.error:
                continue
            found[path] = there.st_mtime_ns, there.st_size, there.st_ino, there.st_mode, there.st_gid
        return found

    def clients(self):
        """The file of the certificates by which clients are known."""
        return self.home + b'/control/tlsclients'

    def read(self, seen):
        """Read the files that are new; [what is wrong]."""
        problems, known = [], {}
        clients = self.clients() if self.clients() in seen else None
        for path, stamp in seen.items():
            if not path.endswith(SUFFIX):
                continue
            stamp = stamp, seen.get(clients)
            old = self.known.get(path)
            try:
                if old is None or old.stamp != stamp:
                    check_mode(stamp[0], self.gid)
                    old = self.named(Certificate(path, stamp, clients))
            except (Bad, unix.error, ValueError) as problem:
                why = problem.args[0] if isinstance(problem, Bad) else program.reason(problem)
                problems.append(path + b': ' + why + (b'; what it held before stays' if old is not None else b''))
            if old is not None:
                known[path] = old
        self.known = known
        return problems

    def named(self, certificate):
        """The same, going over to another one if the client asks for its name."""
        certificate.context.sni_callback = unix_tls.by_name(lambda name: self.context(name, False))
        if certificate.asking is not None:
            certificate.asking.sni_callback = unix_tls.by_name(lambda name: self.context(name, True))
        return certificate

    def sort_out(self, now):
        """Which one for which name, and which for all others."""
        good = [certificate for certificate in self.known.values() if certificate.good(now)]
        self.table = {name: certificate for certificate in reversed(good) for name in certificate.names}
        path, self.ours = tls_certificate.general({c.path: c.names for c in good}, self.host_names(), self.home + b'/keys/' + DEFAULT)
        self.default = self.known.get(path)
        self.reason = b'' if self.default else self.missing()

    def missing(self):
        """Why there is none."""
        if not self.known:
            return b'no key and certificate in %s/keys; qpy-cert puts them there' % self.home
        return b'no certificate in %s/keys is valid today' % self.home

    def host_names(self):
        """What this host is called; while its control files are broken, what it was before."""
        try:
            self.own = hostnames.own(self.home)
        except (controls.Broken, unix.error):
            pass
        return self.own

    def complain(self, problems):
        """Say it, unless it was said already."""
        key = (hash(tuple(problems)) & (1 << 63) - 1).to_bytes(8, 'big')
        if bytes(self.said[:8]) != key:
            self.said[:8] = key
            for line in problems:
                program.warn(line)

    # --- what follows from it ---

    def changes(self, now):
        """When it must be looked at again, if nothing else happens: at the next beginning or end."""
        times = [when for c in self.known.values() for when in (c.begins, c.ends, c.ends - SOON) if when > now]
        return min(times, default=None)

    def context(self, name, asking):
        """The context for the name a client asks for; None: the one that it has (there is no TLS for others any more)."""
        found = tls_certificate.choose(self.table, name, self.default)
        return found and found.of(asking)

    def by_context(self, context):
        """The Certificate that a context belongs to, None if it is gone."""
        for certificate in self.known.values():
            if context is certificate.context or context is certificate.asking:
                return certificate
        return None


def check_mode(stamp, gid):
    """Bad if somebody else than this account could read the key."""
    mode, group = stamp[3], stamp[4]
    if mode & (OTHERS if group != gid else 0o027):
        raise Bad(b'mode %04o: others can read or change this key; chmod 0640 and chgrp to the group of qpy-tls, and '
                  b'have a new key made: this one may be known' % (mode & 0o7777))


def age_of(certificate, now):
    """What is wrong with its dates."""
    if certificate.begins > now:
        return b'not valid before ' + dates.clock_date(certificate.begins)
    word = b'expired on ' if certificate.ends <= now else b'will expire on '
    return word + dates.clock_date(certificate.ends)
