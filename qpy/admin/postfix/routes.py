"""Where mail goes, with which login, and what protects it: smtproutes, senderroutes, smtplogins, tlsdestinations.

config: a Translation."""
import re

from qpy.admin.postfix import reading
from qpy.core import smtproutes

PLACE = re.compile(r'(?:\[([^][\s]+)\]|([^][:\s]+))(?::(\w+))?')
SERVICES = {'smtp': 25, 'submission': 587, 'submissions': 465, 'smtps': 465, 'lmtp': 24}
LEVELS = {'none': 'none', 'may': 'may', 'encrypt': 'encrypt', 'dane': 'dane', 'dane-only': 'dane', 'verify': 'verify',
          'secure': 'verify', 'fingerprint': ''}


def place(config, nexthop, parameter, smtp=True):
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
        config.say('%s: for %s Postfix looks up MX records, we do not: see that the name has an address'
                   % (parameter, host))
    host = '[%s]' % host[5 * host.lower().startswith('ipv6:'):] if ':' in host else host
    if not smtp or port != '465' and config.value('smtp_tls_wrappermode') != 'yes':
        return host + (':' + port if port else '')
    return 'smtps=' + host + ('' if port == '465' else ':' + (port or '25'))


def places(config, value, parameter, smtp=True):
    """[place as in smtproutes] of a list, whose places are tried in turn, there (postconf(5), relayhost) as here; None if one
    of them is something else."""
    found = [place(config, word, parameter, smtp) for word in value.replace(',', ' ').split()]
    return None if None in found or not 0 < len(found) <= smtproutes.HOPS else found


def transports(config):
    """relayhost and transport_maps, into smtproutes."""
    as_without = []                     # what goes where it would without the table (transport(5), "do not change")
    for key, value in config.tables('transport_maps'):
        if value.strip() == ':':
            as_without.append(key.lower())
            continue
        place = transport(config, value, 'transport ' + key) if '@' not in key else None
        if place is None:
            config.lost('transport: "%s %s" is not taken over' % (key, value))
            continue
        host = key.lower() if key != '*' else ''
        config.routes[host] = place
        if host in config.local:
            config.say('transport: %s is in mydestination too: a domain in control/locals is never sent on, so it '
                       'is left out there' % host)
            config.local.remove(host)
            config.write('locals', config.local)
    relay = relay_transport(config)
    default, host = config.value('default_transport'), config.value('relayhost')
    everything = transport(config, ':' + host, 'relayhost') if host else transport(config, default, 'default_transport')
    if everything is None:
        config.no_equal['relayhost' if host else 'default_transport'] = host or default
    elif everything:
        config.routes.setdefault('', everything)
    for key in as_without:
        if '@' not in key and key != '*' and key not in config.local:
            passed_on = any(key in (domain, '.' + domain) or key.endswith('.' + domain) and '.' + domain in config.accepted
                            for domain in config.relayed)
            config.routes[key] = relay if passed_on and relay else everything or ''


def relay_transport(config):
    """Where the mail of relay_domains goes, unless transport_maps says otherwise; the place, '' if it is nowhere special."""
    value = config.value('relay_transport')
    place = transport(config, value, 'relay_transport')
    if place is None:
        config.no_equal['relay_transport'] = value
    elif place and '' not in config.routes:       # a * of transport_maps comes first
        for domain in config.relayed:
            if domain not in config.local:
                config.routes.setdefault(domain, place)
                if '.' + domain in config.accepted:
                    config.routes.setdefault('.' + domain, place)
    return place or ''


def transport(config, value, parameter):
    """TRANSPORT:NEXTHOP[, NEXTHOP...] as in smtproutes, '' if it says nothing of where to; None if it is something else."""
    kind, _, nexthop = value.partition(':')
    if kind not in ('', 'smtp', 'relay', 'lmtp'):
        return None
    if not nexthop:
        return ''
    if kind == 'lmtp' and nexthop.startswith('unix:') and len(reading.words(nexthop)) == 1:
        path = nexthop[5:]
        found = [path if path[:1] == '/' else config.value('queue_directory', '/var/spool/postfix') + '/' + path]
    else:
        found = places(config, nexthop, parameter, kind != 'lmtp')
    return found and ' '.join('lmtp=' + each if kind == 'lmtp' else each for each in found)


def senders(config):
    """sender_dependent_relayhost_maps, into senderroutes; DUNNO stands for what would be without them."""
    config.by_sender, entries = {}, config.tables('sender_dependent_relayhost_maps')
    keys = {key.lower() for key, _ in entries}
    for key, value in entries:
        nothing = value.upper() == 'DUNNO'
        if nothing and (key[:1] == '@' or '@' + key.lower().rpartition('@')[2] not in keys):
            continue
        place = None if nothing else transport(config, ':' + value, key)
        if place is None:
            config.lost('sender_dependent_relayhost_maps: "%s %s" is not taken over' % (key, value))
        else:
            config.by_sender[key.lower()] = place


def passwords(config):
    """smtp_sasl_password_maps: the login in front of each place that has one, the password in smtplogins.  Postfix looks
    for the name of the server, then for the next hop as it is written (SASL_README)."""
    found = {}                      # what of a place it is for: (key, user, password)
    for key, value in config.tables('smtp_sasl_password_maps'):
        user, _, password = value.partition(':')
        if '@' in key and '[' not in key:
            config.lost('smtp_sasl_password_maps: the login by sender of %s is not taken over' % key)
        else:
            what = host_and_port(place(config, key, 'password') or key) if '[' in key or ':' in key else key.lower()
            found.setdefault(what, (key, user, password))
    config.notes = [note for note in config.notes if not note.startswith('password:')]
    lines, used = [], set()
    for table in (config.routes, config.by_sender):
        for name, hops in table.items():
            table[name] = ' '.join(logged_in(config, hop, login(config, hop, found), used, lines) for hop in hops.split(' '))
    for key, _, _ in found.values():
        if key not in used:
            config.lost('smtp_sasl_password_maps: no relay in relayhost or another map is %s; its login is not taken over: write '
                        'it into control/smtproutes and smtplogins if it is that of a relay by another name' % key)
    if lines and config.value('smtp_sasl_auth_enable') != 'yes':
        config.say('smtp_sasl_auth_enable is not yes in main.cf: Postfix did not log in, unless master.cf says so; here logins in '
                   'control/smtproutes and senderroutes are used')
    config.write('smtplogins', lines)
    config.write('smtproutes', ['%s:%s' % pair for pair in config.routes.items()])
    config.write('senderroutes', ['%s:%s' % pair for pair in config.by_sender.items()])


def logged_in(config, place, login, used, lines):
    """A place in smtproutes with its (key, user, password), if it has one: its key goes to used, its line to lines."""
    if not login:
        return place
    key, user, password = login
    used.add(key)
    kind, equals, rest = place.rpartition('=')
    if ':' in host_of(rest):
        config.lost('smtp_sasl_password_maps: control/smtplogins holds no login for an IPv6 address: write the '
                    'name of %s into control/smtproutes, and its login' % rest)
        return place
    lines.append('%s@%s:%s' % (user, host_of(rest), password))
    return kind + equals + user + '@' + rest


def login(config, place, found):
    """(key, user, password) for a place in smtproutes; None if there is none."""
    if not place or place.startswith('lmtp='):
        return None
    host, port = host_and_port(place)
    exact = found.get(host.strip('[]')) or found.get((host, port))
    loose = None if exact else found.get((host, ''))
    if loose:
        config.say('smtp_sasl_password_maps: %s is taken for %s; Postfix wants the port there, too' % (loose[0], place))
    return exact or loose


def tls(config):
    """Levels of TLS on the way out."""
    lines = []
    default = LEVELS.get(config.value('smtp_tls_security_level'), '')
    for key, value in config.tables('smtp_tls_policy_maps'):
        level, *attributes = value.split()
        here = LEVELS.get(level, '')
        if not here or attributes or ':' in key.rpartition(']')[2]:
            config.say('smtp_tls_policy_maps: look at "%s %s"' % (key, value))
        if here:
            lines.append('%s:%s' % (key.strip('[]').partition(']')[0].lower(), here))
    if default not in ('', 'may'):
        lines.append(':' + default)
    config.write('tlsdestinations', lines)


def host_and_port(place):
    """(host, port or '') of a place in smtproutes."""
    kind, _, rest = place.lower().rpartition('=')
    host = host_of(rest)
    return host, rest[len(host):].lstrip(':') or ('465' if kind == 'smtps' else '')


def host_of(place):
    """The host of a place in smtproutes, without its port."""
    return place.rpartition(']')[0] + ']' if place[:1] == '[' else place.partition(':')[0]
