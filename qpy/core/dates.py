"""The date forms of qmail, all in UTC.  Times are seconds since 1970."""
from time import gmtime

_MONTHS = (b'Jan', b'Feb', b'Mar', b'Apr', b'May', b'Jun', b'Jul', b'Aug', b'Sep', b'Oct', b'Nov', b'Dec')
_DAYS = (b'Mon', b'Tue', b'Wed', b'Thu', b'Fri', b'Sat', b'Sun')


def header_date(now):
    """As in header fields (RFC 5322 section 3.3): b'5 Nov 2026 02:16:14 -0000'."""
    return clock_date(now) + b' -0000'


def clock_date(now):
    """As header_date, without the zone: b'5 Nov 2026 02:16:14'."""
    t = gmtime(now)
    return b'%d %s %d %02d:%02d:%02d' % (t[2], _MONTHS[t[1] - 1], t[0], t[3], t[4], t[5])


def zoned_date(t, offset):
    """As header_date, from a broken-down local time and its seconds east of UTC: b'5 Nov 2026 02:16:14 +0100'."""
    sign, minutes = (b'-', -offset // 60) if offset < 0 else (b'+', offset // 60)
    return b'%d %s %d %02d:%02d:%02d %s%02d%02d' % (t[2], _MONTHS[t[1] - 1], t[0], t[3], t[4], t[5], sign,
                                                    *divmod(minutes, 60))


def mbox_date(now):
    """As in an mbox's From_ line: b'Thu Nov 05 02:16:14 2026'."""
    t = gmtime(now)
    return b'%s %s %02d %02d:%02d:%02d %d' % (_DAYS[t[6]], _MONTHS[t[1] - 1], t[2], t[3], t[4], t[5], t[0])


def day(now):
    """As in names of files: b'2026-11-05'."""
    return b'%d-%02d-%02d' % gmtime(now)[:3]


def stamp(now):
    """As in Message-IDs: b'20261105021614'."""
    return b'%d%02d%02d%02d%02d%02d' % gmtime(now)[:6]


def internet_date(now):
    """As in RFC 3339, in UTC: b'2026-11-05T02:16:14Z'."""
    return b'%04d-%02d-%02dT%02d:%02d:%02dZ' % gmtime(now)[:6]


def of_certificate(date):
    """The time of 'Jun  1 12:00:00 2026 GMT', as OpenSSL writes it.  ValueError."""
    month, day, clock, year, _ = date.encode('ascii').split()
    hours, minutes, rest = map(int, clock.split(b':'))
    year, number = int(year), _MONTHS.index(month) + 1
    if number <= 2:                             # years that begin in March have their odd day at the end
        year, number = year - 1, number + 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (number - 3) + 2) // 5 + int(day) - 1
    return (days - _MARCH_1970) * 86400 + hours * 3600 + minutes * 60 + rest


_MARCH_1970 = 719468            # days from the first of March of the year 0 to 1 January 1970
