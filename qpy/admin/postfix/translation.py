"""What a Postfix configuration means in qpy's files: main.cf and the tables it names, translated.

    found = Translation(values, read)     values: parse_main(...); read(path) -> text of a file, None if there is none;
                                          owner(local part) -> why its mail is not alias's, '' if it is
    found.files                           {path below DIR: text}
    found.notes                           sentences on what is not the same
    found.no_equal                        {parameter: value} that nothing here answers to
    found.modes                           {}: no file has to have the mode of another
    found.incomplete                      an entry that has an equal, or a table, was not taken over
"""
import re

from qpy.admin.postfix import clients, delivery, names, reading, routes, virtual

EXCEPTED = re.compile(r'!(?:/|[a-z]+:/)')                 # a file or table behind the !
SECRET = re.compile(r'\b(static|inline):.*', re.DOTALL)
# In this order: some need what others have found.
STEPS = (names.names, names.domains, virtual.virtual, names.mailbox_domains, routes.transports, routes.senders,
         routes.passwords, routes.tls, clients.networks, clients.clients, clients.logins, clients.filters, delivery.numbers,
         delivery.pace, delivery.delivery, delivery.rest)


class Translation:
    """See the top of the module."""

    def __init__(self, values, read, hostname='localhost', owner=lambda local: ''):
        self.values, self.read, self.hostname, self.owner = values, read, hostname, owner
        self.incomplete, self.unread, self.left = False, set(), []
        self.files, self.modes, self.notes, self.no_equal, self.routes = {}, {}, [], {}, {}
        self.keys = {}                  # {file of alias: what of virtual_alias_maps it is made of}
        for step in STEPS:
            step(self)

    def say(self, words_):
        """One sentence for the report."""
        self.notes.append(words_)

    def lost(self, words_):
        """One sentence on what is not taken over."""
        self.incomplete = True
        self.say(words_)

    def write(self, name, lines):
        """A control file, if it has a line."""
        lines = list(dict.fromkeys(lines))
        if lines:
            self.files['control/' + name] = ''.join(line + '\n' for line in lines)

    def value(self, name, default=''):
        """A parameter with every $name in it replaced."""
        return self.expand(self.values.get(name, self.built_in(name) or default), 8)

    def shown(self, name, value=None):
        """A parameter as a report may say it: not the passwords that stand in it."""
        value = self.value(name) if value is None else value
        return SECRET.sub(r'\1:...', value) if 'password' in name else value

    def built_in(self, name):
        """Postfix's own default where others are made of it."""
        if name == 'mydomain':
            host = self.value('myhostname')
            return host.partition('.')[2] if host.count('.') > 1 else host
        return {'myhostname': self.hostname, 'myorigin': '$myhostname', 'mail_name': 'Postfix',
                'config_directory': '/etc/postfix', 'default_database_type': 'hash',
                'mydestination': '$myhostname, localhost.$mydomain, localhost',
                'virtual_alias_maps': '$virtual_maps', 'virtual_alias_domains': '$virtual_alias_maps'}.get(name, '')

    def expand(self, value, depth):
        """$name, ${name} and $(name) replaced; what asks for more stays, and is told by who uses it."""
        out, at = '', value.find('$')
        while at >= 0 and depth:
            out, rest = out + value[:at], value[at + 1:]
            if rest[:1] in '{(' and rest:
                name, _, rest = rest[1:].partition('}' if rest[0] == '{' else ')')
            else:
                size = next((i for i, c in enumerate(rest) if not (c.isalnum() or c == '_')), len(rest))
                name, rest = rest[:size], rest[size:]
            known = self.values.get(name, self.built_in(name))
            out, value = out + (self.expand(known, depth - 1) if name else '$'), rest
            at = value.find('$')
        return out + value

    def tables(self, parameter):
        """[(key, value)] of all tables of a parameter that can be read; the others are told.  Of one key, in whatever case,
        the first entry counts, as it does for postmap and over several tables."""
        found, before = {}, []
        for word in reading.words(self.value(parameter)):
            kind, colon, path = word.removeprefix('proxy:').partition(':')
            if not colon or path[:1] != '/':
                self.unread.add(parameter)
                self.no_equal.setdefault(parameter, self.shown(parameter))
                before.append(self.shown(parameter, word))
                continue
            text = self.read(path) if kind in reading.TABLE_TYPES else None
            if text is None:
                self.unread.add(parameter)
                self.lost('%s: unable to use the table %s; its entries are not taken over' % (parameter, word))
                before.append(word)
            else:
                if before:
                    self.say('%s: the entries of %s come first in Postfix, and were not seen: see whether they say something '
                             'else than those of %s, which count here' % (parameter, ', '.join(before), word))
                for key, value in reading.parse_table(text):
                    found.setdefault(key.lower(), (key, value))
        return list(found.values())

    def listed(self, parameter, kinds=reading.TABLE_TYPES):
        """The domains or networks of a parameter: its words, the words of a file, the keys of a table of these kinds."""
        found = []
        for word in reading.words(self.value(parameter)):
            inside = self.inside(word, kinds, parameter)
            if inside is None:
                self.lost('%s: %s is not taken over' % (parameter, word))
            else:
                found += inside
        return [word.lower() for word in found]

    def inside(self, word, kinds, parameter):
        """What one word of a list stands for; None if that cannot be said."""
        kind, colon, path = word.removeprefix('proxy:').partition(':') if word[:1].isalpha() else ('', '', word)
        if EXCEPTED.match(word):
            return None
        if not colon and path[:1] != '/':
            return [word]
        text = self.read(path) if not colon or kind in kinds else None
        if text is None:
            return None
        if kind == 'cidr':
            return self.of_cidr(reading.parse_table(text), '%s: %s' % (parameter, word))
        return [key for key, _ in reading.parse_table(text)] if colon else reading.words(' '.join(reading.logical_lines(text)))

    def of_cidr(self, entries, where):
        """The networks of a table that count by themselves; if, endif and what is between them, and what counts for all but a
        network (cidr_table(5)), is told."""
        found, left, depth = [], [], 0
        for key, value in entries:
            step = {'if': 1, 'endif': -1}.get(key.lower(), 0)
            if step or depth or key[:1] == '!':
                left.append((key + ' ' + value).rstrip())
            else:
                found.append(key)
            depth = max(0, depth + step)
        if left:
            self.lost('%s: conditions and exceptions are not taken over: %s' % (where, ', '.join(left)))
        return found

    def domains_of(self, parameter):
        """The domains of a parameter; one that is excepted is told."""
        found = self.listed(parameter)
        for word in found:
            if word[:1] == '!':
                self.lost('%s: %s is not taken over' % (parameter, word))
        return [word for word in found if word[:1] != '!']
