"""What clients may do, and who is asked about them: tcp.smtp, dnsbl, policyservers, milters, auth.  config: a Translation."""
import re

from qpy.admin.postfix import reading

RATES = (('smtpd_client_connection_rate_limit', 'connections'), ('smtpd_client_message_rate_limit', 'messages'),
         ('smtpd_client_recipient_rate_limit', 'recipients'))
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


def networks(config):
    """Who may relay."""
    networks = config.listed('mynetworks', reading.NETWORK_TYPES)
    if not config.value('mynetworks'):
        networks = ['127.0.0.0/8', '[::1]/128']
        if config.value('mynetworks_style', 'host') != 'host':
            config.no_equal['mynetworks_style'] = config.value('mynetworks_style')
    relaying = {network.lstrip('!'): network[:1] != '!' for network in networks}
    known = proxies(config)
    tls = ',FORCETLS="1"' if tls_is_forced(config) else ''
    lines = ['%s:allow%s%s%s' % (network, ',RELAYCLIENT=""' if nearest(network, relaying) else '', tls,
                                 ',XCLIENT="1"' if nearest(network, known) else '') for network in {**relaying, **known}]
    config.write('tcp.smtp', lines + [':allow' + tls])
    config.write('rcpthosts', config.accepted)


def tls_is_forced(config):
    """Does nobody get a word in without TLS?  Levels above encrypt mean encrypt for a server (postconf(5))."""
    level = config.value('smtpd_tls_security_level')
    if level in ('', 'none', 'may') and (level or config.value('smtpd_enforce_tls') != 'yes'):
        return False
    config.say('smtpd_tls_security_level %s: FORCETLS="1" in control/tcp.smtp is that; no mail comes in until qpy-tls runs '
               'and has a certificate: add this line to control/services: %s' % (level or 'encrypt', TLS_LINE))
    return True


def proxies(config):
    """{network: True} of those who may say who their clients are; in the protocol that all are to speak, none: an
    address has to be named."""
    if config.value('smtpd_upstream_proxy_protocol'):
        config.lost('smtpd_upstream_proxy_protocol: there everybody was heard about who he is, here only whose address '
                    'has PROXY="1": write the line ADDRESS:allow,PROXY="1" of each proxy into control/tcp.smtp '
                    '(qpy-tcp.smtp.5); nothing is written')
    found = {}
    for word in config.listed('smtpd_authorized_xclient_hosts', reading.NETWORK_TYPES):
        if reading.network_of(word.lstrip('!')) is None:
            config.lost('smtpd_authorized_xclient_hosts: %s is not taken over: write its address into control/tcp.smtp, '
                        'with XCLIENT="1"' % word)
        else:
            found.setdefault(word.lstrip('!'), word[:1] != '!')
    return found


def clients(config):
    """What is asked about clients: lists in DNS, and policy services; the rest of the restrictions is told."""
    lists, services = [], []
    for parameter in RESTRICTIONS:
        found, left = iter(reading.words(config.value(parameter))), []
        for word in found:
            if word == 'reject_rbl_client':
                lists.append(next(found, '').replace('[', '').replace(']', '').replace('..', '-').replace('=', ' ='))
            elif word == 'check_policy_service':
                services.append(policy_server(config, next(found, ''), parameter))
            elif word not in UNDERSTOOD:
                left.append(word)
        if left:
            config.no_equal[parameter] = ' '.join(left)
    config.write('dnsbl', filter(None, lists))
    config.write('policyservers', filter(None, services))
    if rates(config) - {'connections'} or lists or services:
        config.say('control/dnsbl, policyservers and ratelimits are read by qpy-check, and mail waits (451) until it '
                   'runs: add this line to control/services: ' + CHECK_LINE)


def policy_server(config, word, parameter):
    """As endpoint, but not a socket where only Postfix's own can come; its master's go with it."""
    if re.match(r'unix:/?(?:private|public)/|unix:%s/(?:private|public)/' % re.escape(queue(config)), word):
        config.lost('%s: check_policy_service %s is where only Postfix can come, and goes with it if master.cf spawns it: run that '
                    'server with a socket elsewhere and write it into control/policyservers; for SPF there is control/spfrules'
                    % (parameter, word))
        return ''
    return endpoint(config, word)


def queue(config):
    """Where paths begin that do not begin with /."""
    return config.value('queue_directory', '/var/spool/postfix')


def logins(config):
    """Who judges logins, and who may send as whom."""
    path, kind = config.value('smtpd_sasl_path'), config.value('smtpd_sasl_type', 'cyrus')
    asked = path or config.value('smtpd_sasl_auth_enable') == 'yes'
    if asked and kind == 'dovecot' and path and not path.startswith('inet:'):
        path = path.removeprefix('unix:')
        path = path if path[:1] == '/' else queue(config) + '/' + path
        config.write('auth', ['dovecot ' + path])
        config.say('smtpd_sasl_path: qpy-auth asks that Dovecot, once its socket is open to the account qpya '
                   '(unix_listener, qpy-auth.8) and this line stands in control/services: ' + AUTH_LINE)
    elif asked:
        config.lost('smtpd_sasl_type %s, smtpd_sasl_path %s: logins are judged by users/passwd (qpy-passwd), a program or '
                    'the Unix socket of a Dovecot, as control/auth says (qpy-auth.8); nothing is written' % (kind, path))
    lines = []
    for key, value in config.tables('smtpd_sender_login_maps'):
        key = reading.unquoted(key.lower())
        lines += ['%s:%s' % (login, at) for login in reading.words(value)
                  for at in ([key] if '@' in key else ['%s@%s' % (key, domain) for domain in config.local])]
    config.write('authsenders', lines)
    if lines:
        config.say('smtpd_sender_login_maps: here who has logged in sends as himself in control/locals, too, beside what '
                   'control/authsenders says')


def rates(config):
    """How much one client may do in anvil_rate_time_unit, into ratelimits; what is limited."""
    unit = reading.seconds(config.value('anvil_rate_time_unit', '60s'))
    found = {what: config.value(name) for name, what in RATES if config.value(name).isdigit() and int(config.value(name))}
    config.write('ratelimits', ['%s:%s/%ds' % (what, number, unit) for what, number in found.items()] if unit else [])
    return set(found) if unit else set()


def filters(config):
    """Milters; and the key and certificate of the server, which are not read here."""
    action = ' default=accept' if config.value('milter_default_action') == 'accept' else ''
    places = [endpoint(config, word) for word in reading.words(config.value('smtpd_milters'))]
    config.write('milters', [place + action for place in places if place])
    if places:
        config.say('control/milters is read by qpy-milter, and mail waits (451) until it runs: add this line to '
                   'control/services: ' + MILTER_LINE)
    if config.value('non_smtpd_milters') not in ('', config.value('smtpd_milters')):
        config.no_equal['non_smtpd_milters'] = config.value('non_smtpd_milters')
    chain = reading.words(config.value('smtpd_tls_chain_files')) or reading.words(config.value('smtpd_tls_cert_file'))
    key = config.value('smtpd_tls_key_file') or (chain[0] if chain else '')
    if chain:
        config.say('smtpd_tls_cert_file: qpy-cert default %s %s gives them to qpy-tls, whose line must stand in '
                   'control/services' % (chain[0], key))


def endpoint(config, word):
    """inet:HOST:PORT as ADDRESS:PORT, unix:PATH as its whole path; '' for what is neither, which is told."""
    kind, _, place = word.partition(':')
    if kind in ('unix', 'local') and place:
        return place if place[:1] == '/' else queue(config) + '/' + place
    host, _, port = place.rpartition(':')
    if kind == 'inet' and '@' in place:
        port, _, host = place.partition('@')
    host = '127.0.0.1' if host in ('localhost', '') else host
    if kind == 'inet' and port.isdigit() and (host[:1] == '[' or host.replace('.', '').isdigit()):
        return '%s:%s' % (host, port)
    config.lost('%s is not taken over: write its address' % word)
    return ''


def nearest(word, table):
    """What {network: value} says of a network: its own entry, or of those around it the smallest one's; None if none."""
    inside = reading.network_of(word)
    if word in table or inside is None:
        return table.get(word)
    around = [(network, value) for network, value in ((reading.network_of(key), value) for key, value in table.items())
              if network is not None and network.version == inside.version and inside.subnet_of(network)]
    return max(around, key=lambda pair: pair[0].prefixlen, default=(None, None))[1]
