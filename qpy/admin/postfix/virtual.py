"""virtual_alias_maps: a line of control/virtualdomains for each domain, and a .qmail file of alias for each address.

config: a Translation."""
import re

from qpy.admin.postfix import reading

TARGET = re.compile(r'(?:[^\s,"]|"(?:[^"\\]|\\.)*")+')
FORWARD_ALL = '|forward "$DEFAULT"@'


def virtual(config):
    """virtual_alias_maps: a virtual domain each, and a .qmail file per address, all of the user alias."""
    entries, here = {}, {}
    for key, value in config.tables('virtual_alias_maps'):
        entries.setdefault(key.lower(), value)              # the first one counts
    domains = virtual_domains(config, entries)
    entries = at_origin(config, entries, domains)
    lines = {domain: '%s:alias-%s' % (domain, domain) for domain in domains}
    for key, value in entries.items():
        local, at, domain = key.rpartition('@') if '@' in key else (key, '', '')
        local = reading.unquoted(local)
        if not at and key in domains:
            continue
        if '"' in local:
            config.left.append(key)
            config.lost('virtual: %s is not taken over: a quotation mark in it' % key)
        elif not at or domain in config.local:
            here.setdefault(local, {})[key] = value
        elif domain in domains:
            alias(config, '%s-%s' % (domain, local or 'default'), forwards(config, local, value, key), key)
        else:
            targets = forwards(config, local, value, key)
            if [line.lower() for line in targets] == [own_line(local, domain)]:
                continue            # Postfix stops at the address itself, and sends it on
            if not local:
                config.lost('virtual: %s is neither a virtual domain nor local; not taken over' % key)
            elif alias(config, '%s-%s' % (domain, local), targets, key):
                lines['%s@%s' % (local, domain)] = '%s@%s:alias-%s' % (local, domain, domain)
    config.accepted += domains
    config.write('virtualdomains', lines.values())
    for local, same in here.items():
        local_alias(config, local, same)
    circles(config, lines)
    wider = [key for local, same in here.items() if local and not serves_all(config, same) for key in same
             if 'alias/.qmail-' + local.replace('.', ':') in config.files]
    if wider:
        config.say('virtual: these count in all domains of control/locals, now: ' + ', '.join(wider))
    caught = [key for key in config.left if '@' + key.rpartition('@')[2] in entries.keys() - set(config.left)]
    if caught:
        config.say('virtual: the mail of these comes to the catch-all of their domain, now: ' + ', '.join(caught))


def at_origin(config, entries, domains):
    """The entries, and a key without a domain at myorigin too, where that is not local: there it counts as well."""
    origin = config.origin[0].lower() if config.origin else ''
    if not origin or origin in config.local:
        return entries
    bare = {key: value for key, value in entries.items() if '@' not in reading.QUOTED.sub('', key) and key not in domains}
    return {**entries, **{key + '@' + origin: entries.get(key + '@' + origin, value) for key, value in bare.items()}}


def circles(config, lines):
    """No file whose addresses lead back to it: its mail would go round. Postfix stops at an address that is its own
    target, and tables of local domains count in one of them only.  lines: {key: line} of control/virtualdomains."""
    def file_of(address):
        local, _, domain = address.lower().rpartition('@')
        names = [local] if domain in config.local else [domain + '-' + local, domain + '-default'] \
            if address.lower() in lines or domain in lines else []
        paths = ['alias/.qmail-' + name.replace('.', ':') for name in names]
        return next((path for path in paths if path in config.keys), '')

    leads = {path: {file_of(target) for target in targets_of(config.files[path])} - {''} for path in config.keys}
    for path in sorted(on_circles(leads)):
        del config.files[path]
        key = config.keys.pop(path)
        lines.pop(reading.unquoted(key), None)
        config.left += key.split(', ')
        config.lost('virtual: %s: not taken over: its targets lead back to it, and its mail would go round' % key)
    config.files.pop('control/virtualdomains', None)
    config.write('virtualdomains', lines.values())


def virtual_domains(config, entries):
    """The virtual alias domains; not one whose addresses are all in a table that cannot be read: it would refuse
    its mail."""
    if config.values.get('virtual_alias_domains'):
        written = reading.words(config.value('virtual_alias_domains').lower())
        domains = [d for d in config.domains_of('virtual_alias_domains') if '@' not in d and ('.' in d or d in written)]
    else:
        domains = [key for key in entries if '@' not in key and '.' in key]
    known = {key.rpartition('@')[2] for key in entries if '@' in key}
    for domain in [d for d in domains if d not in known] if 'virtual_alias_maps' in config.unread else []:
        config.lost('virtual: no address of %s could be read; the domain is not taken over' % domain)
        domains.remove(domain)
    return domains


def local_alias(config, local, entries):
    """The entries {key: value} of one local part in local domains: one .qmail file of alias serves them all, and
    only if no account has the name."""
    found = [forwards(config, local, value, key) for key, value in entries.items()]
    own = {own_line(local, domain) for domain in config.local}
    forms = {frozenset('' if line.lower() in own else line for line in lines) for lines in found}
    keys, owner = ', '.join(entries), local and config.owner(local)
    if forms == {frozenset([''])}:
        return None                     # itself: Postfix, too, leaves it at that
    if not all(found) or any('' in form for form in forms):
        why = 'a target has no equal, or is the address itself'
    elif len(forms) > 1:
        why = 'they differ, but one alias/.qmail-%s serves all domains of control/locals' % (local or 'default')
    elif owner:
        why = owner + ', and its mail never comes to alias; forward it in his .qmail'
    elif not local and 'control/virtualdomains' in config.files:
        why = 'alias/.qmail-default would catch what nobody has in the virtual domains, too'
    elif not local and not serves_all(config, entries):
        why = 'alias/.qmail-default would serve all domains of control/locals'
    elif alias(config, local or 'default', found[0], keys) and not local:
        return config.say('virtual: %s: accounts and /etc/aliases keep their own mail, and alias/.qmail-default gets the rest'
                          % keys)
    else:
        return None
    config.left += [] if owner else entries
    return config.lost('virtual: %s: not taken over: %s' % (keys, why))


def serves_all(config, entries):
    """Are these the entries of one local part in every domain that is local, but for those of localhost?"""
    served = {key.rpartition('@')[2] for key in entries}
    return any('@' not in key for key in entries) or \
        all(domain in served or domain.partition('.')[0] == 'localhost' for domain in config.local)


def forwards(config, local, value, key):
    """The lines of a .qmail file that forwards to the addresses of value; none if one of them has no equal."""
    lines = []
    for word in TARGET.findall(value):
        target = addressed(config, word)
        if target[:1] == '@':
            lines.append('&' + local + target if local else FORWARD_ALL + target[1:])
        elif target[:1] in ('', '|', '/') or ':' in word.partition('@')[0] or set('<>()') & set(word):
            config.lost('virtual: %s: the target %s is not taken over' % (key, word))
            return []
        else:
            lines.append('&' + target)
    return lines


def addressed(config, word):
    """An address as .qmail files hold it, with myorigin where it has no domain; '' if that is not known."""
    if '@' in reading.QUOTED.sub('', word) or word[:1] in '|/':
        return reading.unquoted(word)
    return reading.unquoted(word) + '@' + config.origin[0] if config.origin else ''


def alias(config, extension, lines, key):
    """alias/.qmail-EXTENSION with these lines; False if it cannot be."""
    if '/' in extension or not lines:
        config.left.append(key)
        config.lost('virtual: %s is not taken over' % key)
        return False
    path = 'alias/.qmail-' + extension.replace('.', ':')
    config.files[path], config.keys[path] = ''.join(line + '\n' for line in lines), key
    return True


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
