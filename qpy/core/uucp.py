"""Who sent a message that came by UUCP: its From_ lines (RFC 976 section 2.3), the newest hop first.

    From joe Mon Nov 30 09:00:00 2026 remote from far               joe@far
    From far!joe Mon Nov 30 09:00:00 2026                           joe@far
    From uucp Mon ... remote from near, >From joe ... from far      far!joe@near
    the same, with far.example.org                                  joe@far.example.org
    From joe@example.org Mon ... remote from near                   joe@example.org
    From <> Mon ...                                                 nobody: the empty sender
"""
REMOTE = (b' remote from ', b' forwarded by ')


def sender(lines):
    """The sender that From_ lines name, '' for nobody; None if there is no such line."""
    hosts, user = [], None
    for line in lines:
        words = line.lstrip(b'>').split()
        if len(words) < 2:
            continue
        for mark in REMOTE:
            host = line.partition(mark)[2].split()
            hosts += host[:1]
        *path, user = words[1].split(b'!')
        hosts += path
    if user == b'<>':
        return b''
    return _address(hosts, user) if user and hosts and b'@' not in user else user


def _address(hosts, user):
    """A path as an address at its last host that has a domain, or at its first one (RFC 976 section 2.4)."""
    at = max((number for number, host in enumerate(hosts) if b'.' in host), default=0)
    return b'!'.join([*hosts[at + 1:], user]) + b'@' + hosts[at]
