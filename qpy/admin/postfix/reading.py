"""What stands in Postfix's files: main.cf, the sources of tables, and the words in values.  Pure."""
import ipaddress
import re

TABLE_TYPES = ('hash', 'btree', 'lmdb', 'cdb', 'dbm', 'sdbm', 'texthash')       # whose source is text beside it
NETWORK_TYPES = TABLE_TYPES + ('cidr',)
WORD = re.compile(r'(?:[^\s,{}]|\{(?:[^{}]|\{[^{}]*\})*\})+')
# Key and value; a quoted key may hold blanks.
ENTRY = re.compile(r'((?:[^\s"]|"(?:[^"\\]|\\.)*"|")+)\s*(.*)', re.DOTALL)
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(QUOTED.pattern + r'|\\(.)')
# NAME:COMMAND of the services in Debian's master.cf; one word where both are the same.
STOCK = frozenset('''smtp:smtpd smtp pickup cleanup qmgr tlsmgr rewrite:trivial-rewrite bounce defer:bounce trace:bounce verify
    flush proxymap proxywrite:proxymap relay:smtp showq error retry:error discard local virtual lmtp anvil scache postlog:postlogd
    maildrop:pipe uucp:pipe ifmail:pipe bsmtp:pipe scalemail-backend:pipe mailman:pipe'''.split())
OWN_OPTION = re.compile(r'\s-o\s*(?!syslog_name=)\S')
UNITS = {'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}


def logical_lines(text):
    """Lines with their continuations, without comments and empty ones."""
    found = []
    for line in text.split('\n'):
        if not line.strip() or line.lstrip()[:1] == '#':
            continue
        if line[:1] in ' \t' and found:
            found[-1] += ' ' + line.strip()
        else:
            found.append(line.strip())
    return found


def parse_main(text):
    """{parameter: value as written} of a main.cf; the last line of a name counts."""
    pairs = (line.partition('=') for line in logical_lines(text))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def added_services(text):
    """['NAME/TYPE COMMAND'] of a master.cf: services that Debian's has not, and those of it with options of their own."""
    lines = [(line, line.split()) for line in logical_lines(text)]
    return ['%s/%s %s' % (*words[:2], words[7]) for line, words in lines if len(words) > 7 and (
        OWN_OPTION.search(line) or (words[0] if words[0] == words[7] else words[0] + ':' + words[7]) not in STOCK)]


def parse_table(text):
    """[(key, value)] of a table's source, in order."""
    return [ENTRY.match(line).groups() for line in logical_lines(text)]


def words(value):
    """The words of a list: commas and blanks between them; what stands in braces is one."""
    return WORD.findall(value)


def unquoted(target):
    """An address as .qmail files hold it: its local part without quotes and backslashes."""
    return ESCAPED.sub(lambda found: found[2] or re.sub(r'\\(.)', r'\1', found[1]), target)


def seconds(value, default='s'):
    """A time with its unit, in seconds; None if it is none."""
    number, unit = (value[:-1], value[-1]) if value[-1:] in UNITS else (value, default)
    return int(number) * UNITS[unit] if number.isdigit() else None


def network_of(word):
    """An address or network as ipaddress has it; None if it is none."""
    try:
        return ipaddress.ip_network(word.replace('[', '').replace(']', ''), strict=False)
    except ValueError:
        return None
