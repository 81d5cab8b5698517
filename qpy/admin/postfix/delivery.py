"""Limits and times, where a user's mail goes, and what nothing here answers to.  config: a Translation."""
import re

from qpy.admin.postfix import clients, reading, virtual

# Variables that a command for a mailbox has there, and their names here.
VARIABLES = {'EXTENSION': 'EXT', 'DOMAIN': 'HOST', 'LOGNAME': 'USER'}
VARIABLE = re.compile(r'\$(\{?)(%s)\b' % '|'.join(VARIABLES))
NUMBERS = (('message_size_limit', 'databytes'), ('smtpd_recipient_limit', 'maxrcpt'),
           ('default_destination_concurrency_limit', 'concurrencydestination'),
           ('smtp_destination_concurrency_limit', 'concurrencydestination'),
           ('default_process_limit', 'concurrencyremote'), ('bounce_size_limit', 'bouncemaxbytes'),
           ('smtpd_client_connection_count_limit', 'concurrencyaddress'))
TIMES = (('maximal_queue_lifetime', 'queuelifetime'), ('delay_warning_time', 'delaywarning'),
         ('smtp_connect_timeout', 'timeoutconnect'), ('smtpd_timeout', 'timeoutsmtpd'), ('command_time_limit', 'timeoutlocal'))
USUAL_UNITS = {'maximal_queue_lifetime': 'd', 'delay_warning_time': 'h'}       # of a number without one
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


def numbers(config):
    """Numbers and times."""
    if 'message_size_limit' not in config.values:
        config.values['message_size_limit'] = '10240000'          # Postfix's own default; ours is no limit
    for parameter, name in NUMBERS:
        if config.value(parameter).isdigit() and parameter in config.values:
            config.write(name, [config.value(parameter)])
    for parameter, name in TIMES:
        count = reading.seconds(config.value(parameter), USUAL_UNITS.get(parameter, 's'))
        if parameter in config.values and count is not None:
            config.write(name, [str(count)])


def pace(config):
    """A delay between deliveries to one destination, which there means one at a time, too; and recipients that are
    not looked for."""
    name = 'smtp_destination_rate_delay' if 'smtp_destination_rate_delay' in config.values else \
        'default_destination_rate_delay'
    delay = reading.seconds(config.value(name, '0'))
    period = next(((length, letter) for length, letter in ((60, 'm'), (3600, 'h'), (86400, 'd'))
                   if delay and not length % delay), (86400, 'd'))
    if delay is None or delay > 86400:
        config.no_equal[name] = config.value(name)
    elif delay:
        config.write('destinationlimits', [':1 %d/%s' % (period[0] // delay, period[1])])
    if config.value('smtpd_reject_unlisted_recipient') == 'no' and not any(
            'reject_unlisted_recipient' in reading.words(config.value(parameter)) for parameter in clients.RESTRICTIONS):
        config.write('checkrecipients', ['no'])
    if config.value('smtp_tls_wrappermode') == 'yes' and 'smtps=' not in config.routes.get('', ''):
        config.lost('smtp_tls_wrappermode: smtps= in front of a relay in control/smtproutes is that; what goes by DNS cannot '
                    'have it')


def delivery(config):
    """Where a user's mail goes."""
    box, command = config.value('home_mailbox'), config.values.get('mailbox_command')
    transport = config.value('mailbox_transport')
    if transport:                   # it comes before the others (local(8))
        config.say('mailbox_transport: mail went to %s; here it goes to ~/Maildir/ unless control/defaultdelivery says otherwise, '
                   'and to LMTP for a domain that control/rcpthosts has, not control/locals, and control/smtproutes as '
                   'DOMAIN:lmtp=PLACE' % transport)
    elif command:                     # its $names are the command's environment, not parameters
        command = VARIABLE.sub(lambda found: '$' + found[1] + VARIABLES[found[2]], command)
        config.write('defaultdelivery', ['|preline ' + command])
        config.say('mailbox_command: its words go to the shell behind preline, with the environment of qpy-command.8')
    elif box:
        config.write('defaultdelivery', ['./' + box])
    else:
        config.say('mail went to %s/USER; here it goes to ~/Maildir/ unless control/defaultdelivery says '
                   'otherwise' % (config.value('mail_spool_directory') or '/var/mail'))
    if config.value('recipient_delimiter') not in ('', '-'):
        config.say('recipient_delimiter %s: the delimiter is - here; qpy-pw2u -c makes a users/assign with another '
                   'one' % config.value('recipient_delimiter'))
    catch_all(config)
    for table in reading.words(config.value('alias_maps', 'hash:/etc/aliases')):
        if table.partition(':')[2] != '/etc/aliases':
            config.say('alias_maps: %s is not read; our aliases are those of /etc/aliases' % table)
    interfaces(config)


def interfaces(config):
    """Where it listened; control/services is not written here."""
    listed = reading.words(config.value('inet_interfaces', 'all'))
    if listed in (['loopback-only'], ['localhost']):
        config.say('inet_interfaces: listen on 127.0.0.1 only, with qpy-install --smtp 127.0.0.1:25')
    elif 'all' not in listed:
        known = [(word, '127.0.0.1' if word == 'localhost' else reading.network_of(word)) for word in listed]
        places = ['tcp:%s:25' % in_brackets(str(network).partition('/')[0]) for _, network in known if network]
        names = ' '.join(word for word, network in known if not network)
        config.say('inet_interfaces: only these addresses were listened on: let this be the line in control/services: smtpd qpyd '
                   '%s qpy-smtpd%s' % (','.join(places) or 'tcp:ADDRESS:25',
                                       ', with the address of %s added in the same way' % names if names else ''))


def catch_all(config):
    """luser_relay: where mail for names that nobody has goes."""
    target = config.values.get('luser_relay', '')
    if '$' in target:
        config.no_equal['luser_relay'] = target
    elif target and 'control/virtualdomains' in config.files:
        config.say('luser_relay: &%s in alias/.qmail-default is that, but it catches what nobody has in the virtual '
                   'domains, too; nothing is written' % target)
    elif target and 'alias/.qmail-default' not in config.files:         # a catch-all of virtual_alias_maps comes first
        address = virtual.addressed(config, target)
        virtual.alias(config, 'default', ['&' + address] if address else [], 'luser_relay')


def rest(config):
    """What nothing here answers to."""
    handled = SILENT | {name for name, _ in NUMBERS + TIMES + clients.RATES} | set(clients.RESTRICTIONS)
    for name, value in config.values.items():
        if name not in handled and not referred(config, name):
            config.no_equal[name] = config.shown(name, value)
    config.no_equal = dict(sorted(config.no_equal.items()))


def referred(config, name):
    """A name of the administrator's own that other values use."""
    return any('$' + name in value or '{%s}' % name in value for value in config.values.values())


def in_brackets(address):
    """An address before a port."""
    return '[%s]' % address if ':' in address else address
