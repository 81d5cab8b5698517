"""Who the host is, what it delivers, and which addresses it sends from.  config: a Translation."""
from qpy.admin.postfix import reading


def names(config):
    """Who we are."""
    config.me = config.value('myhostname')
    config.write('me', [config.me])
    origin = config.value('myorigin')
    text = config.read(origin) if origin[:1] == '/' else origin
    config.origin = (text or '').split()[:1]
    if not config.origin:
        config.lost('myorigin: unable to read %s: put a copy there; what has no domain is not taken over' % origin)
    elif config.origin != [config.me]:
        config.write('defaulthost', config.origin)
    banner = config.value('smtpd_banner').removesuffix(' (Debian/GNU)').removesuffix('Postfix').strip()
    banner = banner.removesuffix('ESMTP').strip()
    if banner and banner != config.me:
        config.write('smtpgreeting', [banner])
    if config.value('smtp_helo_name', config.me) != config.me:
        config.write('helohost', [config.value('smtp_helo_name')])
    if '2bounce_notice_recipient' in config.values:
        local, at, host = config.value('2bounce_notice_recipient').partition('@')
        config.write('doublebounceto', [local])
        config.write('doublebouncehost', [host] if at else [])
    sources(config)


def sources(config):
    """Addresses that mail leaves from; Postfix takes a single one of inet_interfaces for it, too (postconf(5),
    smtp_bind_address)."""
    own = [reading.network_of(word) for word in reading.words(config.value('inet_interfaces', 'all'))]
    found = []
    for name, version in (('smtp_bind_address', 4), ('smtp_bind_address6', 6)):
        of_kind = [network.network_address for network in own if network is not None and network.version == version]
        if name in config.values:
            found.append(config.value(name).strip('[]'))
        elif None not in own and len(of_kind) == 1 and not of_kind[0].is_loopback:
            found.append(str(of_kind[0]))
    config.write('outgoingip', found)


def domains(config):
    """What is delivered here, and what is passed on."""
    config.local = config.domains_of('mydestination')
    config.write('locals', config.local)
    if not config.local:
        config.say('mydestination is empty, nothing was delivered on that host; control/locals is left as it is')
    config.relayed = config.domains_of('relay_domains')
    config.accepted = config.local + with_below(config, 'relay_domains', config.relayed)
    if 'fast_flush_domains' in config.values:
        config.write('etrn', with_below(config, 'fast_flush_domains', config.domains_of('fast_flush_domains')))


def with_below(config, parameter, domains):
    """These domains of a parameter, and what is below them where Postfix means that too."""
    below = parameter in config.value('parent_domain_matches_subdomains', parameter)
    return [entry for domain in domains for entry in ([domain, '.' + domain.lstrip('.')] if below else [domain])]


def mailbox_domains(config):
    """Virtual mailboxes belong to one account there; here each user or extension has his own."""
    domains = config.domains_of('virtual_mailbox_domains')
    if domains:
        config.say('virtual_mailbox_domains %s: give each domain to a user in control/virtualdomains, and each address '
                   'a .qmail file with the path of its Maildir; nothing is written' % ' '.join(domains))
        config.no_equal['virtual_mailbox_domains'] = config.value('virtual_mailbox_domains')
