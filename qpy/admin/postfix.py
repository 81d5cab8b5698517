"""What a Postfix configuration means in qpy's files: main.cf and the tables it names, translated.

    found = Translation(values, read)     values: parse_main(...); read(path) -> text of a file, None if there is none;
                                          owner(local part) -> why its mail is not alias's, '' if it is
    found.files                           {path below DIR: text}
    found.notes                           sentences on what is not the same
    found.no_equal                        {parameter: value} that nothing here answers to
    found.modes                           {}: no file has to have the mode of another
    found.incomplete                      an entry that has an equal, or a table, was not taken over
"""
import ipaddress
import re

from qpy.core import smtproutes

TABLE_TYPES = ('hash', 'btree', 'lmdb', 'cdb', 'dbm', 'sdbm', 'texthash')       # whose source is text beside it
NETWORK_TYPES = TABLE_TYPES + ('cidr',)
WORD = re.compile(r'(?:[^\s,{}]|\{(?:[^{}]|\{[^{}]*\})*\})+')
# Key and value; a quoted key may hold blanks.
ENTRY = re.compile(r'((?:[^\s"]|"(?:[^"\\]|\\.)*"|")+)\s*(.*)', re.DOTALL)
TARGET = re.compile(r'(?:[^\s,"]|"(?:[^"\\]|\\.)*")+')
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(QUOTED.pattern + r'|\\(.)')
PLACE = re.compile(r'(?:\[([^][\s]+)\]|([^][:\s]+))(?::(\w+))?')
EXCEPTED = re.compile(r'!(?:/|[a-z]+:/)')                 # a file or table behind the !
FORWARD_ALL = '|forward "$DEFAULT"@'
# Variables that a command for a mailbox has there, and their names here.
VARIABLES = {'EXTENSION': 'EXT', 'DOMAIN': 'HOST', 'LOGNAME': 'USER'}
VARIABLE = re.compile(r'\$(\{?)(%s)\b' % '|'.join(VARIABLES))
UNITS = {'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}
SERVICES = {'smtp': 25, 'submission': 587, 'submissions': 465, 'smtps': 465, 'lmtp': 24}
NUMBERS = (('message_size_limit', 'databytes'), ('smtpd_recipient_limit', 'maxrcpt'),
           ('default_destination_concurrency_limit', 'concurrencydestination'),
           ('smtp_destination_concurrency_limit', 'concurrencydestination'),
           ('default_process_limit', 'concurrencyremote'), ('bounce_size_limit', 'bouncemaxbytes'),
           ('smtpd_client_connection_count_limit', 'concurrencyaddress'))
TIMES = (('maximal_queue_lifetime', 'queuelifetime'), ('delay_warning_time', 'delaywarning'), ('smtp_connect_timeout', 'timeoutconnect'),
         ('smtpd_timeout', 'timeoutsmtpd'), ('command_time_limit', 'timeoutlocal'))
RATES = (('smtpd_client_connection_rate_limit', 'connections'), ('smtpd_client_message_rate_limit', 'messages'),
         ('smtpd_client_recipient_rate_limit', 'recipients'))
USUAL_UNITS = {'maximal_queue_lifetime': 'd', 'delay_warning_time': 'h'}       # of a number without one
LEVELS = {'none': 'none', 'may': 'may', 'encrypt': 'encrypt', 'dane': 'dane', 'dane-only': 'dane', 'verify': 'verify',
          'secure': 'verify', 'fingerprint': ''}
# Parameters that say where things are, or what is so here anyway.
SILENT = set('''alias_database alias_maps append_dot_mydomain biff command_directory compatibility_level config_directory
    daemon_directory data_directory debug_peer_level debug_peer_list debugger_command html_directory inet_protocols
    mail_owner mailq_path manpage_directory meta_directory mydomain myhostname mydestination myorigin newaliases_path
    parent_domain_matches_subdomains queue_directory readme_directory relay_domains relayhost sample_directory
    sendmail_path setgid_group shlib_directory smtp_tls_session_cache_database smtpd_tls_session_cache_database
    transport_maps virtual_alias_domains virtual_alias_maps virtual_maps mynetworks mynetworks_style home_mailbox
    mail_spool_directory mailbox_command recipient_delimiter smtp_sasl_password_maps smtp_tls_policy_maps
    smtp_sasl_auth_enable smtp_sasl_security_options smtp_tls_security_level smtpd_banner smtp_helo_name mail_name
    sender_dependent_relayhost_maps 2bounce_notice_recipient mailbox_size_limit unknown_local_recipient_reject_code
    smtp_bind_address smtp_bind_address6 local_recipient_maps empty_address_recipient myhostname
    default_transport disable_vrfy_command luser_relay smtputf8_enable readme_directory smtp_tls_CApath smtp_tls_CAfile
    virtual_mailbox_domains virtual_mailbox_maps inet_interfaces smtpd_milters non_smtpd_milters milter_default_action
    milter_protocol milter_mail_macros smtpd_tls_cert_file smtpd_tls_key_file smtpd_tls_chain_files
    smtpd_tls_security_level smtpd_use_tls anvil_rate_time_unit smtp_destination_rate_delay
    default_destination_rate_delay smtpd_upstream_proxy_protocol smtpd_authorized_xclient_hosts smtpd_sasl_path
    smtpd_sasl_type smtpd_sasl_auth_enable smtpd_sender_login_maps relay_transport smtpd_reject_unlisted_recipient
    smtp_tls_wrappermode fast_flush_domains smtpd_enforce_tls'''.split())
# Of control/services: the programs that some of what is written needs.
CHECK_LINE = 'check qpyc seq:check:0660:qpyc:qpyd qpy-check'
AUTH_LINE = 'auth qpya seq:auth:0660:qpya:qpyd qpy-auth'
TLS_LINE = 'tls qpyt unix:tls:0660:qpyt:qpyd qpy-tls'
MILTER_LINE = 'milter qpyc seq:milter:0660:qpyc:qpyd,unix:filter:0660:qpyc:qpyd qpy-milter'
RESTRICTIONS = ('smtpd_client_restrictions', 'smtpd_helo_restrictions', 'smtpd_sender_restrictions',
                'smtpd_relay_restrictions', 'smtpd_recipient_restrictions', 'smtpd_data_restrictions')
# Words of restrictions that say what is so here anyway.
UNDERSTOOD = set('''permit permit_mynetworks permit_sasl_authenticated reject_unauth_destination defer_unauth_destination
    reject_unlisted_recipient reject_unverified_recipient reject_non_fqdn_recipient reject_unauth_pipelining
    reject_invalid_helo_hostname reject_authenticated_sender_login_mismatch'''.split())


# --- its own formats -----------------------------------------------------------------------------------------

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


class Translation:
    """See the top of the module."""

    def __init__(self, values, read, hostname='localhost', owner=lambda local: ''):
        self.values, self.read, self.hostname, self.owner = values, read, hostname, owner
        self.incomplete, self.unread, self.left = False, set(), []
        self.files, self.modes, self.notes, self.no_equal, self.routes = {}, {}, [], {}, {}
        self.keys = {}                  # {file of alias: what of virtual_alias_maps it is made of}
        for step in (self.names, self.domains, self.virtual, self.mailbox_domains, self.transports, self.senders,
                     self.passwords, self.tls, self.networks, self.clients, self.logins, self.filters, self.numbers,
                     self.pace, self.delivery, self.rest):
            step()

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

    # --- values ---

    def value(self, name, default=''):
        """A parameter with every $name in it replaced."""
        return self.expand(self.values.get(name, self.built_in(name) or default), 8)

    def built_in(self, name):
        """Postfix's own default where others are made of it."""
        if name == 'mydomain':
            host = self.value('myhostname')
            return host.partition('.')[2] if host.count('.') > 1 else host
        return {'myhostname': self.hostname, 'myorigin': '$myhostname', 'mail_name': 'Postfix',
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
        for word in words(self.value(parameter)):
            kind, colon, path = word.removeprefix('proxy:').partition(':')
            if not colon or path[:1] != '/':
                self.unread.add(parameter)
                self.no_equal.setdefault(parameter, self.value(parameter))
                before.append(word)
                continue
            text = self.read(path) if kind in TABLE_TYPES else None
            if text is None:
                self.unread.add(parameter)
                self.lost('%s: unable to use the table %s; its entries are not taken over' % (parameter, word))
                before.append(word)
            else:
                if before:
                    self.say('%s: the entries of %s come first in Postfix, and were not seen: see whether they say something else than '
                             'those of %s, which count here' % (parameter, ', '.join(before), word))
                for key, value in parse_table(text):
                    found.setdefault(key.lower(), (key, value))
        return list(found.values())

    def listed(self, parameter, kinds=TABLE_TYPES):
        """The domains or networks of a parameter: its words, the words of a file, the keys of a table of these kinds."""
        found = []
        for word in words(self.value(parameter)):
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
            return self.of_cidr(parse_table(text), '%s: %s' % (parameter, word))
        return [key for key, _ in parse_table(text)] if colon else words(' '.join(logical_lines(text)))

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

    # --- the steps ---

    def names(self):
        """Who we are."""
        self.me = self.value('myhostname')
        self.write('me', [self.me])
        origin = self.value('myorigin')
        text = self.read(origin) if origin[:1] == '/' else origin
        self.origin = (text or '').split()[:1]
        if not self.origin:
            self.lost('myorigin: unable to read %s: put a copy there; what has no domain is not taken over' % origin)
        elif self.origin != [self.me]:
            self.write('defaulthost', self.origin)
        banner = self.value('smtpd_banner').removesuffix(' (Debian/GNU)').removesuffix('Postfix').strip()
        banner = banner.removesuffix('ESMTP').strip()
        if banner and banner != self.me:
            self.write('smtpgreeting', [banner])
        if self.value('smtp_helo_name', self.me) != self.me:
            self.write('helohost', [self.value('smtp_helo_name')])
        if '2bounce_notice_recipient' in self.values:
            local, at, host = self.value('2bounce_notice_recipient').partition('@')
            self.write('doublebounceto', [local])
            self.write('doublebouncehost', [host] if at else [])
        self.sources()

    def sources(self):
        """Addresses that mail leaves from; Postfix takes a single one of inet_interfaces for it, too (postconf(5),
        smtp_bind_address)."""
        own = [network_of(word) for word in words(self.value('inet_interfaces', 'all'))]
        found = []
        for name, version in (('smtp_bind_address', 4), ('smtp_bind_address6', 6)):
            of_kind = [network.network_address for network in own if network is not None and network.version == version]
            if name in self.values:
                found.append(self.value(name).strip('[]'))
            elif None not in own and len(of_kind) == 1 and not of_kind[0].is_loopback:
                found.append(str(of_kind[0]))
        self.write('outgoingip', found)

    def domains(self):
        """What is delivered here, and what is passed on."""
        self.local = self.domains_of('mydestination')
        self.write('locals', self.local)
        if not self.local:
            self.say('mydestination is empty, nothing was delivered on that host; control/locals is left as it is')
        self.relayed = self.domains_of('relay_domains')
        self.accepted = self.local + self.with_below('relay_domains', self.relayed)
        if 'fast_flush_domains' in self.values:
            self.write('etrn', self.with_below('fast_flush_domains', self.domains_of('fast_flush_domains')))

    def with_below(self, parameter, domains):
        """These domains of a parameter, and what is below them where Postfix means that too."""
        below = parameter in self.value('parent_domain_matches_subdomains', parameter)
        return [entry for domain in domains for entry in ([domain, '.' + domain.lstrip('.')] if below else [domain])]

    def virtual(self):
        """virtual_alias_maps: a virtual domain each, and a .qmail file per address, all of the user alias."""
        entries, here = {}, {}
        for key, value in self.tables('virtual_alias_maps'):
            entries.setdefault(key.lower(), value)              # the first one counts
        domains = self.virtual_domains(entries)
        entries = self.at_origin(entries, domains)
        lines = {domain: '%s:alias-%s' % (domain, domain) for domain in domains}
        for key, value in entries.items():
            local, at, domain = key.rpartition('@') if '@' in key else (key, '', '')
            local = unquoted(local)
            if not at and key in domains:
                continue
            if '"' in local:
                self.left.append(key)
                self.lost('virtual: %s is not taken over: a quotation mark in it' % key)
            elif not at or domain in self.local:
                here.setdefault(local, {})[key] = value
            elif domain in domains:
                self.alias('%s-%s' % (domain, local or 'default'), self.forwards(local, value, key), key)
            else:
                targets = self.forwards(local, value, key)
                if [line.lower() for line in targets] == [own_line(local, domain)]:
                    continue            # Postfix stops at the address itself, and sends it on
                if not local:
                    self.lost('virtual: %s is neither a virtual domain nor local; not taken over' % key)
                elif self.alias('%s-%s' % (domain, local), targets, key):
                    lines['%s@%s' % (local, domain)] = '%s@%s:alias-%s' % (local, domain, domain)
        self.accepted += domains
        self.write('virtualdomains', lines.values())
        for local, same in here.items():
            self.local_alias(local, same)
        self.circles(lines)
        wider = [key for local, same in here.items() if local and not self.serves_all(same) for key in same
                 if 'alias/.qmail-' + local.replace('.', ':') in self.files]
        if wider:
            self.say('virtual: these count in all domains of control/locals, now: ' + ', '.join(wider))
        caught = [key for key in self.left if '@' + key.rpartition('@')[2] in entries.keys() - set(self.left)]
        if caught:
            self.say('virtual: the mail of these comes to the catch-all of their domain, now: ' + ', '.join(caught))

    def at_origin(self, entries, domains):
        """The entries, and a key without a domain at myorigin too, where that is not local: there it counts as well."""
        origin = self.origin[0].lower() if self.origin else ''
        if not origin or origin in self.local:
            return entries
        bare = {key: value for key, value in entries.items() if '@' not in QUOTED.sub('', key) and key not in domains}
        return {**entries, **{key + '@' + origin: entries.get(key + '@' + origin, value) for key, value in bare.items()}}

    def circles(self, lines):
        """No file whose addresses lead back to it: its mail would go round. Postfix stops at an address that is its own
        target, and tables of local domains count in one of them only.  lines: {key: line} of control/virtualdomains."""
        def file_of(address):
            local, _, domain = address.lower().rpartition('@')
            names = [local] if domain in self.local else [domain + '-' + local, domain + '-default'] \
                if address.lower() in lines or domain in lines else []
            paths = ['alias/.qmail-' + name.replace('.', ':') for name in names]
            return next((path for path in paths if path in self.keys), '')

        leads = {path: {file_of(target) for target in targets_of(self.files[path])} - {''} for path in self.keys}
        for path in sorted(on_circles(leads)):
            del self.files[path]
            key = self.keys.pop(path)
            lines.pop(unquoted(key), None)
            self.left += key.split(', ')
            self.lost('virtual: %s: not taken over: its targets lead back to it, and its mail would go round' % key)
        self.files.pop('control/virtualdomains', None)
        self.write('virtualdomains', lines.values())

    def virtual_domains(self, entries):
        """The virtual alias domains; not one whose addresses are all in a table that cannot be read: it would refuse
        its mail."""
        if self.values.get('virtual_alias_domains'):
            written = words(self.value('virtual_alias_domains').lower())
            domains = [d for d in self.domains_of('virtual_alias_domains') if '@' not in d and ('.' in d or d in written)]
        else:
            domains = [key for key in entries if '@' not in key and '.' in key]
        known = {key.rpartition('@')[2] for key in entries if '@' in key}
        for domain in [d for d in domains if d not in known] if 'virtual_alias_maps' in self.unread else []:
            self.lost('virtual: no address of %s could be read; the domain is not taken over' % domain)
            domains.remove(domain)
        return domains

    def local_alias(self, local, entries):
        """The entries {key: value} of one local part in local domains: one .qmail file of alias serves them all, and
        only if no account has the name."""
        found = [self.forwards(local, value, key) for key, value in entries.items()]
        own = {own_line(local, domain) for domain in self.local}
        forms = {frozenset('' if line.lower() in own else line for line in lines) for lines in found}
        keys, owner = ', '.join(entries), local and self.owner(local)
        if forms == {frozenset([''])}:
            return None                     # itself: Postfix, too, leaves it at that
        if not all(found) or any('' in form for form in forms):
            why = 'a target has no equal, or is the address itself'
        elif len(forms) > 1:
            why = 'they differ, but one alias/.qmail-%s serves all domains of control/locals' % (local or 'default')
        elif owner:
            why = owner + ', and its mail never comes to alias; forward it in his .qmail'
        elif not local and 'control/virtualdomains' in self.files:
            why = 'alias/.qmail-default would catch what nobody has in the virtual domains, too'
        elif not local and not self.serves_all(entries):
            why = 'alias/.qmail-default would serve all domains of control/locals'
        elif self.alias(local or 'default', found[0], keys) and not local:
            return self.say('virtual: %s: accounts and /etc/aliases keep their own mail, and alias/.qmail-default gets the rest' % keys)
        else:
            return None
        self.left += [] if owner else entries
        return self.lost('virtual: %s: not taken over: %s' % (keys, why))

    def serves_all(self, entries):
        """Are these the entries of one local part in every domain that is local, but for those of localhost?"""
        served = {key.rpartition('@')[2] for key in entries}
        return any('@' not in key for key in entries) or \
            all(domain in served or domain.partition('.')[0] == 'localhost' for domain in self.local)

    def forwards(self, local, value, key):
        """The lines of a .qmail file that forwards to the addresses of value; none if one of them has no equal."""
        lines = []
        for word in TARGET.findall(value):
            target = self.addressed(word)
            if target[:1] == '@':
                lines.append('&' + local + target if local else FORWARD_ALL + target[1:])
            elif target[:1] in ('', '|', '/') or ':' in word.partition('@')[0] or set('<>()') & set(word):
                self.lost('virtual: %s: the target %s is not taken over' % (key, word))
                return []
            else:
                lines.append('&' + target)
        return lines

    def addressed(self, word):
        """An address as .qmail files hold it, with myorigin where it has no domain; '' if that is not known."""
        if '@' in QUOTED.sub('', word) or word[:1] in '|/':
            return unquoted(word)
        return unquoted(word) + '@' + self.origin[0] if self.origin else ''

    def alias(self, extension, lines, key):
        """alias/.qmail-EXTENSION with these lines; False if it cannot be."""
        if '/' in extension or not lines:
            self.left.append(key)
            self.lost('virtual: %s is not taken over' % key)
            return False
        path = 'alias/.qmail-' + extension.replace('.', ':')
        self.files[path], self.keys[path] = ''.join(line + '\n' for line in lines), key
        return True

    def mailbox_domains(self):
        """Virtual mailboxes belong to one account there; here each user or extension has his own."""
        domains = self.domains_of('virtual_mailbox_domains')
        if domains:
            self.say('virtual_mailbox_domains %s: give each domain to a user in control/virtualdomains, and each address '
                     'a .qmail file with the path of its Maildir; nothing is written' % ' '.join(domains))
            self.no_equal['virtual_mailbox_domains'] = self.value('virtual_mailbox_domains')

    def place(self, nexthop, parameter, smtp=True):
        """host, [host] or [host]:port as in smtproutes; None if it is something else."""
        found = PLACE.fullmatch(nexthop)
        if not found:
            return None
        host, bare, port = found[1] or found[2], bool(found[2]), found[3] or ''
        if port and not port.isdigit():
            port = str(SERVICES.get(port, ''))
            if not port:
                return None
        if bare and not host.replace('.', '').isdigit():
            self.say('%s: for %s Postfix looks up MX records, we do not: see that the name has an address'
                     % (parameter, host))
        host = '[%s]' % host[5 * host.lower().startswith('ipv6:'):] if ':' in host else host
        if not smtp or port != '465' and self.value('smtp_tls_wrappermode') != 'yes':
            return host + (':' + port if port else '')
        return 'smtps=' + host + ('' if port == '465' else ':' + (port or '25'))

    def places(self, value, parameter, smtp=True):
        """[place as in smtproutes] of a list, whose places are tried in turn, there (postconf(5), relayhost) as here; None if one
        of them is something else."""
        found = [self.place(word, parameter, smtp) for word in value.replace(',', ' ').split()]
        return None if None in found or not 0 < len(found) <= smtproutes.HOPS else found

    def transports(self):
        """relayhost and transport_maps, into smtproutes."""
        for key, value in self.tables('transport_maps'):
            place = self.transport(value, 'transport ' + key) if '@' not in key else None
            if place is None:
                self.lost('transport: "%s %s" is not taken over' % (key, value))
                continue
            host = key.lower() if key != '*' else ''
            self.routes[host] = place
            if host in self.local:
                self.say('transport: %s is in mydestination too: a domain in control/locals is never sent on, so it '
                         'is left out there' % host)
                self.local.remove(host)
                self.write('locals', self.local)
        self.relay_transport()
        default, relay = self.value('default_transport'), self.value('relayhost')
        everything = self.transport(':' + relay, 'relayhost') if relay else self.transport(default, 'default_transport')
        if everything is None:
            self.no_equal['relayhost' if relay else 'default_transport'] = relay or default
        elif everything:
            self.routes.setdefault('', everything)

    def relay_transport(self):
        """Where the mail of relay_domains goes, unless transport_maps says otherwise."""
        value = self.value('relay_transport')
        place = self.transport(value, 'relay_transport')
        if place is None:
            self.no_equal['relay_transport'] = value
        elif place and '' not in self.routes:       # a * of transport_maps comes first
            for domain in self.relayed:
                if domain not in self.local:
                    self.routes.setdefault(domain, place)
                    if '.' + domain in self.accepted:
                        self.routes.setdefault('.' + domain, place)

    def transport(self, value, parameter):
        """TRANSPORT:NEXTHOP[, NEXTHOP...] as in smtproutes, '' if it says nothing of where to; None if it is something else."""
        transport, _, nexthop = value.partition(':')
        if transport not in ('', 'smtp', 'relay', 'lmtp'):
            return None
        if not nexthop:
            return ''
        if transport == 'lmtp' and nexthop.startswith('unix:') and len(words(nexthop)) == 1:
            path = nexthop[5:]
            places = [path if path[:1] == '/' else self.value('queue_directory', '/var/spool/postfix') + '/' + path]
        else:
            places = self.places(nexthop, parameter, transport != 'lmtp')
        return places and ' '.join('lmtp=' + place if transport == 'lmtp' else place for place in places)

    def senders(self):
        """sender_dependent_relayhost_maps, into senderroutes; DUNNO stands for what would be without them."""
        self.by_sender, entries = {}, self.tables('sender_dependent_relayhost_maps')
        keys = {key.lower() for key, _ in entries}
        for key, value in entries:
            nothing = value.upper() == 'DUNNO'
            if nothing and (key[:1] == '@' or '@' + key.lower().rpartition('@')[2] not in keys):
                continue
            place = None if nothing else self.transport(':' + value, key)
            if place is None:
                self.lost('sender_dependent_relayhost_maps: "%s %s" is not taken over' % (key, value))
            else:
                self.by_sender[key.lower()] = place

    def passwords(self):
        """smtp_sasl_password_maps: the login in front of each place that has one, the password in smtplogins.  Postfix looks
        for the name of the server, then for the next hop as it is written (SASL_README)."""
        found = {}                      # what of a place it is for: (key, user, password)
        for key, value in self.tables('smtp_sasl_password_maps'):
            user, _, password = value.partition(':')
            if '@' in key and '[' not in key:
                self.lost('smtp_sasl_password_maps: the login by sender of %s is not taken over' % key)
            else:
                what = host_and_port(self.place(key, 'password') or key) if '[' in key or ':' in key else key.lower()
                found.setdefault(what, (key, user, password))
        self.notes = [note for note in self.notes if not note.startswith('password:')]
        lines, used = [], set()
        for table in (self.routes, self.by_sender):
            for name, places in table.items():
                table[name] = ' '.join(self.logged_in(place, self.login(place, found), used, lines) for place in places.split(' '))
        for key, _, _ in found.values():
            if key not in used:
                self.lost('smtp_sasl_password_maps: no relay in relayhost or another map is %s; its login is not taken over: write '
                          'it into control/smtproutes and smtplogins if it is that of a relay by another name' % key)
        if lines and self.value('smtp_sasl_auth_enable') != 'yes':
            self.say('smtp_sasl_auth_enable is not yes in main.cf: Postfix did not log in, unless master.cf says so; here logins in '
                     'control/smtproutes and senderroutes are used')
        self.write('smtplogins', lines)
        self.write('smtproutes', ['%s:%s' % pair for pair in self.routes.items()])
        self.write('senderroutes', ['%s:%s' % pair for pair in self.by_sender.items()])

    def logged_in(self, place, login, used, lines):
        """A place in smtproutes with its (key, user, password), if it has one: its key goes to used, its line to lines."""
        if not login:
            return place
        key, user, password = login
        used.add(key)
        kind, equals, rest = place.rpartition('=')
        if ':' in host_of(rest):
            self.lost('smtp_sasl_password_maps: control/smtplogins holds no login for an IPv6 address: write the '
                      'name of %s into control/smtproutes, and its login' % rest)
            return place
        lines.append('%s@%s:%s' % (user, host_of(rest), password))
        return kind + equals + user + '@' + rest

    def login(self, place, found):
        """(key, user, password) for a place in smtproutes; None if there is none."""
        if not place or place.startswith('lmtp='):
            return None
        host, port = host_and_port(place)
        exact = found.get(host.strip('[]')) or found.get((host, port))
        loose = None if exact else found.get((host, ''))
        if loose:
            self.say('smtp_sasl_password_maps: %s is taken for %s; Postfix wants the port there, too' % (loose[0], place))
        return exact or loose

    def tls(self):
        """Levels of TLS on the way out."""
        lines = []
        default = LEVELS.get(self.value('smtp_tls_security_level'), '')
        for key, value in self.tables('smtp_tls_policy_maps'):
            level, *attributes = value.split()
            here = LEVELS.get(level, '')
            if not here or attributes or ':' in key.rpartition(']')[2]:
                self.say('smtp_tls_policy_maps: look at "%s %s"' % (key, value))
            if here:
                lines.append('%s:%s' % (key.strip('[]').partition(']')[0].lower(), here))
        if default not in ('', 'may'):
            lines.append(':' + default)
        self.write('tlsdestinations', lines)

    def networks(self):
        """Who may relay."""
        networks = self.listed('mynetworks', NETWORK_TYPES)
        if not self.value('mynetworks'):
            networks = ['127.0.0.0/8', '[::1]/128']
            if self.value('mynetworks_style', 'host') != 'host':
                self.no_equal['mynetworks_style'] = self.value('mynetworks_style')
        relaying = {network.lstrip('!'): network[:1] != '!' for network in networks}
        proxies = self.proxies()
        tls = ',FORCETLS="1"' if self.tls_is_forced() else ''
        lines = ['%s:allow%s%s%s' % (network, ',RELAYCLIENT=""' if nearest(network, relaying) else '', tls,
                                     ',XCLIENT="1"' if nearest(network, proxies) else '') for network in {**relaying, **proxies}]
        self.write('tcp.smtp', lines + [':allow' + tls])
        self.write('rcpthosts', self.accepted)

    def tls_is_forced(self):
        """Does nobody get a word in without TLS?  Levels above encrypt mean encrypt for a server (postconf(5))."""
        level = self.value('smtpd_tls_security_level')
        if level in ('', 'none', 'may') and (level or self.value('smtpd_enforce_tls') != 'yes'):
            return False
        self.say('smtpd_tls_security_level %s: FORCETLS="1" in control/tcp.smtp is that; no mail comes in until qpy-tls runs '
                 'and has a certificate: add this line to control/services: %s' % (level or 'encrypt', TLS_LINE))
        return True

    def proxies(self):
        """{network: True} of those who may say who their clients are; in the protocol that all are to speak, none: an
        address has to be named."""
        if self.value('smtpd_upstream_proxy_protocol'):
            self.lost('smtpd_upstream_proxy_protocol: there everybody was heard about who he is, here only whose address '
                      'has PROXY="1": write the line ADDRESS:allow,PROXY="1" of each proxy into control/tcp.smtp '
                      '(qpy-tcp.smtp.5); nothing is written')
        found = {}
        for word in self.listed('smtpd_authorized_xclient_hosts', NETWORK_TYPES):
            if network_of(word.lstrip('!')) is None:
                self.lost('smtpd_authorized_xclient_hosts: %s is not taken over: write its address into control/tcp.smtp, '
                          'with XCLIENT="1"' % word)
            else:
                found.setdefault(word.lstrip('!'), word[:1] != '!')
        return found

    def clients(self):
        """What is asked about clients: lists in DNS, and policy services; the rest of the restrictions is told."""
        lists, services = [], []
        for parameter in RESTRICTIONS:
            found, left = iter(words(self.value(parameter))), []
            for word in found:
                if word == 'reject_rbl_client':
                    lists.append(next(found, '').replace('[', '').replace(']', '').replace('..', '-').replace('=', ' ='))
                elif word == 'check_policy_service':
                    services.append(self.endpoint(next(found, '')))
                elif word not in UNDERSTOOD:
                    left.append(word)
            if left:
                self.no_equal[parameter] = ' '.join(left)
        self.write('dnsbl', filter(None, lists))
        self.write('policyservers', filter(None, services))
        if self.rates() - {'connections'} or lists or services:
            self.say('control/dnsbl, policyservers and ratelimits are read by qpy-check, and mail waits (451) until it '
                     'runs: add this line to control/services: ' + CHECK_LINE)

    def logins(self):
        """Who judges logins, and who may send as whom."""
        path, kind = self.value('smtpd_sasl_path'), self.value('smtpd_sasl_type', 'cyrus')
        asked = path or self.value('smtpd_sasl_auth_enable') == 'yes'
        if asked and kind == 'dovecot' and path and not path.startswith('inet:'):
            path = path.removeprefix('unix:')
            path = path if path[:1] == '/' else self.value('queue_directory', '/var/spool/postfix') + '/' + path
            self.write('auth', ['dovecot ' + path])
            self.say('smtpd_sasl_path: qpy-auth asks that Dovecot, once its socket is open to the account qpya '
                     '(unix_listener, qpy-auth.8) and this line stands in control/services: ' + AUTH_LINE)
        elif asked:
            self.lost('smtpd_sasl_type %s, smtpd_sasl_path %s: logins are judged by users/passwd (qpy-passwd), a program or '
                      'the Unix socket of a Dovecot, as control/auth says (qpy-auth.8); nothing is written' % (kind, path))
        lines = []
        for key, value in self.tables('smtpd_sender_login_maps'):
            key = unquoted(key.lower())
            lines += ['%s:%s' % (login, at) for login in words(value)
                      for at in ([key] if '@' in key else ['%s@%s' % (key, domain) for domain in self.local])]
        self.write('authsenders', lines)
        if lines:
            self.say('smtpd_sender_login_maps: here who has logged in sends as himself in control/locals, too, beside what '
                     'control/authsenders says')

    def rates(self):
        """How much one client may do in anvil_rate_time_unit, into ratelimits; what is limited."""
        unit = seconds(self.value('anvil_rate_time_unit', '60s'))
        found = {what: self.value(name) for name, what in RATES if self.value(name).isdigit() and int(self.value(name))}
        self.write('ratelimits', ['%s:%s/%ds' % (what, number, unit) for what, number in found.items()] if unit else [])
        return set(found) if unit else set()

    def filters(self):
        """Milters; and the key and certificate of the server, which are not read here."""
        action = ' default=accept' if self.value('milter_default_action') == 'accept' else ''
        places = [self.endpoint(word) for word in words(self.value('smtpd_milters'))]
        self.write('milters', [place + action for place in places if place])
        if places:
            self.say('control/milters is read by qpy-milter, and mail waits (451) until it runs: add this line to '
                     'control/services: ' + MILTER_LINE)
        if self.value('non_smtpd_milters') not in ('', self.value('smtpd_milters')):
            self.no_equal['non_smtpd_milters'] = self.value('non_smtpd_milters')
        chain = words(self.value('smtpd_tls_chain_files')) or words(self.value('smtpd_tls_cert_file'))
        key = self.value('smtpd_tls_key_file') or (chain[0] if chain else '')
        if chain:
            self.say('smtpd_tls_cert_file: qpy-cert default %s %s gives them to qpy-tls, whose line must stand in '
                     'control/services' % (chain[0], key))

    def endpoint(self, word):
        """inet:HOST:PORT as ADDRESS:PORT, unix:PATH as its whole path; '' for what is neither, which is told."""
        kind, _, place = word.partition(':')
        if kind in ('unix', 'local') and place:
            return place if place[:1] == '/' else self.value('queue_directory', '/var/spool/postfix') + '/' + place
        host, _, port = place.rpartition(':')
        if kind == 'inet' and '@' in place:
            port, _, host = place.partition('@')
        host = '127.0.0.1' if host in ('localhost', '') else host
        if kind == 'inet' and port.isdigit() and (host[:1] == '[' or host.replace('.', '').isdigit()):
            return '%s:%s' % (host, port)
        self.lost('%s is not taken over: write its address' % word)
        return ''

    def numbers(self):
        """Numbers and times."""
        if 'message_size_limit' not in self.values:
            self.values['message_size_limit'] = '10240000'          # Postfix's own default; ours is no limit
        for parameter, name in NUMBERS:
            if self.value(parameter).isdigit() and parameter in self.values:
                self.write(name, [self.value(parameter)])
        for parameter, name in TIMES:
            count = seconds(self.value(parameter), USUAL_UNITS.get(parameter, 's'))
            if parameter in self.values and count is not None:
                self.write(name, [str(count)])

    def pace(self):
        """A delay between deliveries to one destination, which there means one at a time, too; and recipients that are
        not looked for."""
        name = 'smtp_destination_rate_delay' if 'smtp_destination_rate_delay' in self.values else \
            'default_destination_rate_delay'
        delay = seconds(self.value(name, '0'))
        period = next(((length, letter) for length, letter in ((60, 'm'), (3600, 'h'), (86400, 'd'))
                       if delay and not length % delay), (86400, 'd'))
        if delay is None or delay > 86400:
            self.no_equal[name] = self.value(name)
        elif delay:
            self.write('destinationlimits', [':1 %d/%s' % (period[0] // delay, period[1])])
        if self.value('smtpd_reject_unlisted_recipient') == 'no' and not any(
                'reject_unlisted_recipient' in words(self.value(parameter)) for parameter in RESTRICTIONS):
            self.write('checkrecipients', ['no'])
        if self.value('smtp_tls_wrappermode') == 'yes' and 'smtps=' not in self.routes.get('', ''):
            self.lost('smtp_tls_wrappermode: smtps= in front of a relay in control/smtproutes is that; what goes by DNS cannot '
                      'have it')

    def delivery(self):
        """Where a user's mail goes."""
        box, command = self.value('home_mailbox'), self.values.get('mailbox_command')
        if command:                     # its $names are the command's environment, not parameters
            command = VARIABLE.sub(lambda found: '$' + found[1] + VARIABLES[found[2]], command)
            self.write('defaultdelivery', ['|preline ' + command])
            self.say('mailbox_command: its words go to the shell behind preline, with the environment of qpy-command.8')
        elif box:
            self.write('defaultdelivery', ['./' + box])
        else:
            self.say('mail went to %s/USER; here it goes to ~/Maildir/ unless control/defaultdelivery says '
                     'otherwise' % (self.value('mail_spool_directory') or '/var/mail'))
        if self.value('recipient_delimiter') not in ('', '-'):
            self.say('recipient_delimiter %s: the delimiter is - here; qpy-pw2u -c makes a users/assign with another '
                     'one' % self.value('recipient_delimiter'))
        self.catch_all()
        for table in words(self.value('alias_maps', 'hash:/etc/aliases')):
            if table.partition(':')[2] != '/etc/aliases':
                self.say('alias_maps: %s is not read; our aliases are those of /etc/aliases' % table)
        self.interfaces()

    def interfaces(self):
        """Where it listened; control/services is not written here."""
        listed = words(self.value('inet_interfaces', 'all'))
        if listed in (['loopback-only'], ['localhost']):
            self.say('inet_interfaces: listen on 127.0.0.1 only, with qpy-install --smtp 127.0.0.1:25')
        elif 'all' not in listed:
            known = [(word, '127.0.0.1' if word == 'localhost' else network_of(word)) for word in listed]
            places = ['tcp:%s:25' % in_brackets(str(network).partition('/')[0]) for _, network in known if network]
            names = ' '.join(word for word, network in known if not network)
            self.say('inet_interfaces: only these addresses were listened on: let this be the line in control/services: smtpd qpyd '
                     '%s qpy-smtpd%s' % (','.join(places) or 'tcp:ADDRESS:25',
                                         ', with the address of %s added in the same way' % names if names else ''))

    def catch_all(self):
        """luser_relay: where mail for names that nobody has goes."""
        target = self.values.get('luser_relay', '')
        if '$' in target:
            self.no_equal['luser_relay'] = target
        elif target and 'control/virtualdomains' in self.files:
            self.say('luser_relay: &%s in alias/.qmail-default is that, but it catches what nobody has in the virtual '
                     'domains, too; nothing is written' % target)
        elif target and 'alias/.qmail-default' not in self.files:         # a catch-all of virtual_alias_maps comes first
            self.alias('default', ['&' + self.addressed(target)] if self.addressed(target) else [], 'luser_relay')

    def rest(self):
        """What nothing here answers to."""
        handled = SILENT | {name for name, _ in NUMBERS + TIMES + RATES} | set(RESTRICTIONS)
        for name, value in self.values.items():
            if name not in handled and not self.referred(name):
                self.no_equal[name] = value
        self.no_equal = dict(sorted(self.no_equal.items()))

    def referred(self, name):
        """A name of the administrator's own that other values use."""
        return any('$' + name in value or '{%s}' % name in value for value in self.values.values())


def host_and_port(place):
    """(host, port or '') of a place in smtproutes."""
    kind, _, rest = place.lower().rpartition('=')
    host = host_of(rest)
    return host, rest[len(host):].lstrip(':') or ('465' if kind == 'smtps' else '')


def host_of(place):
    """The host of a place in smtproutes, without its port."""
    return place.rpartition(']')[0] + ']' if place[:1] == '[' else place.partition(':')[0]


# --- where .qmail files of virtual_alias_maps lead -----------------------------------------------------------------

def own_line(local, domain):
    """The line of a .qmail file that forwards an address, or each of a domain, to itself."""
    return '&%s@%s' % (local, domain) if local else FORWARD_ALL.lower() + domain


def targets_of(text):
    """The addresses in such a file; of a line for all of a domain that of its default."""
    return ['default@' + line[len(FORWARD_ALL):] if line.startswith(FORWARD_ALL) else line[1:] for line in text.splitlines()]


def on_circles(leads):
    """Of {file: those it leads to} the files that lie on a circle, or between two."""
    while True:
        aimed_at = {target for targets in leads.values() for target in targets}
        left = {path: targets & leads.keys() for path, targets in leads.items() if path in aimed_at and targets & leads.keys()}
        if left == leads:
            return set(left)
        leads = left


# --- clients -------------------------------------------------------------------------------------------------------

def in_brackets(address):
    """An address before a port."""
    return '[%s]' % address if ':' in address else address


def network_of(word):
    """An address or network as ipaddress has it; None if it is none."""
    try:
        return ipaddress.ip_network(word.replace('[', '').replace(']', ''), strict=False)
    except ValueError:
        return None


def nearest(word, table):
    """What {network: value} says of a network: its own entry, or of those around it the smallest one's; None if none."""
    inside = network_of(word)
    if word in table or inside is None:
        return table.get(word)
    around = [(network, value) for network, value in ((network_of(key), value) for key, value in table.items())
              if network is not None and network.version == inside.version and inside.subnet_of(network)]
    return max(around, key=lambda pair: pair[0].prefixlen, default=(None, None))[1]
