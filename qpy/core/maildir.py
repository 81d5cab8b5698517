"""Maildir: names that nobody else will use.

    TIME.M<microseconds>P<pid>Q<sequence>R<random>.HOST

See https://cr.yp.to/proto/maildir.html.  Reader and writer never lock: all safety is in the name, in writing to
tmp/ and in appearing in new/ only when every byte is on disk.
"""

PARTS = (b'tmp', b'new', b'cur')


def host_part(host):
    """A host name as the last part of a file name: at most 63 bytes, `/`, `:` and what is not printable escaped."""
    return b''.join(b'%c' % c if 32 < c < 127 and c not in b'/:\\' else b'\\%03o' % c for c in host[:63])


def unique(now, pid, sequence, random, host):
    """A file name; now in seconds (float), random a few bytes, host as of host_part."""
    seconds = int(now)
    return b'%d.M%06dP%dQ%dR%s.%s' % (seconds, int((now - seconds) * 1e6), pid, sequence,
                                      random.hex().encode(), host)
