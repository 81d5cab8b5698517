"""P01-P51: every program is owned, as probing.py says, in a chain started as always; what its claims forbid fails."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import owned  # noqa: E402
from qpy import unix_kernel  # noqa: E402

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]
REFUSED = {'EPERM', 'EACCES'}
NOT_THERE = REFUSED | {'EINVAL'}                # an id, or a namespace's file, that does not exist in there
ABI = unix_kernel.landlock_abi()


@pytest.fixture(scope='module')
def answers():
    chain = owned.Owned()
    try:
        yield chain.answers
        assert chain.house.stop() == 0
    finally:
        chain.remove()


def possible(answers, claim, fine=REFUSED, but=()):
    """What this claim forbids and the kernel did not refuse; the claim must have been tried at all."""
    tried = {key: answer for key, answer in answers.get(claim, {}).items() if key[1] not in but}
    assert tried, 'nobody tried ' + claim
    return {key: answer for key, answer in tried.items() if answer not in fine}


def test_what_programs_need_goes_on(answers):
    """Confined programs connect again to their neighbours, and read control files, accounts and resolv.conf again."""
    assert len(answers['P00']) >= 9
    assert {answer for answer in answers['P00'].values()} == {'possible'}, answers['P00']


def test_P01_start_reads_nothing(answers):
    """start, once the chain runs, reads no network, no queue, no user's and no other file but control files."""
    assert not possible(answers, 'P01')


def test_P02_start_cannot_become_root(answers):
    """start takes no other identity, makes no namespace, runs nothing any more."""
    assert not possible(answers, 'P02', REFUSED | {'ENOSYS'})


def test_P05_smtpd_and_the_queue(answers):
    """smtpd reads, lists, creates and unlinks nothing in queue/."""
    assert not possible(answers, 'P05')


def test_P06_smtpd_writes_nowhere(answers):
    """smtpd writes to no inode of the system, and changes no mode, time or attribute of one, not even of its own."""
    assert not possible(answers, 'P06')


def test_P07_smtpd_runs_and_signals_nothing(answers):
    """smtpd executes nothing, has no child, looks into nobody and signals nobody."""
    assert not possible(answers, 'P07', REFUSED | {'EAGAIN'})


def test_P09_smtpd_goes_nowhere(answers):
    """smtpd makes no socket but Unix ones, binds and listens to none, and a client's socket cannot be disconnected
    and connected elsewhere, opened fast, or made to listen."""
    assert not possible(answers, 'P09')
    assert any(what.startswith('client-') for _, what in answers['P09'])


def test_P10_queued_is_nobody_else(answers):
    """queued takes no other identity and no capability."""
    assert not possible(answers, 'P10')


def test_P11_queued_has_no_network_and_runs_nothing(answers):
    """queued makes no socket of any family, executes nothing, forks nothing."""
    assert not possible(answers, 'P11', REFUSED | {'EAGAIN'})


def test_P12_queued_writes_into_mess_only(answers):
    """queued writes nowhere but in queue/mess: not in state/, not in damaged/, which its account owns."""
    assert not possible(answers, 'P12')


def test_P13_queued_opens_no_path_of_a_client(answers):
    """Whatever path a client might get into queued, it opens nothing: no file outside queue/mess can be read."""
    assert not possible(answers, 'P13')


def test_P19_send_and_mess(answers):
    """send (and bouncer, which shares its account) creates, alters, moves and unlinks nothing in mess/."""
    assert not possible(answers, 'P19', REFUSED | {'EXDEV'})
    assert {program for program, _ in answers['P19']} == {'send', 'bouncer'}


def test_P20_send_becomes_nobody(answers):
    """send becomes no user and looks into no process."""
    assert not possible(answers, 'P20')


def test_P21_send_has_no_network_and_runs_nothing(answers):
    """send and bouncer have no network, execute nothing, write to nothing but the state."""
    assert not possible(answers, 'P21', REFUSED | {'EAGAIN'})


def test_P22_clean_does_nothing_else(answers):
    """clean, owned, makes nothing, alters nothing, and removes no state."""
    assert not possible(answers, 'P22', REFUSED | {'EAGAIN'})


def test_P24_the_seed_becomes_no_system_id(answers):
    """The seed, owned, or asked by an owned lspawn: not uid or gid 0, shadow, disk, nobody, a service, nor
    what no user has above the minimum; no nested namespace, no new map."""
    assert not possible(answers, 'P24', NOT_THERE | {'ENOSPC'})
    assert {program for program, _ in answers['P24']} == {'seed', 'lspawn'}


def test_P25_lspawn_runs_nothing(answers):
    """lspawn executes nothing, becomes nobody, has no network, writes nowhere."""
    assert not possible(answers, 'P25', REFUSED | {'EAGAIN'})


def test_P26_lspawn_reads_no_queue(answers):
    """lspawn reads no file of the queue, nor any other."""
    assert not possible(answers, 'P26')


def test_P29_users_writes_nowhere(answers):
    """users writes nowhere, starts nothing, becomes nobody."""
    assert not possible(answers, 'P29', REFUSED | {'EAGAIN'})


def test_P30_local_is_the_user_and_nothing_else(answers):
    """A process that became a user has no way to another identity or group."""
    assert not possible(answers, 'P30', NOT_THERE | {'ENOSPC'})


def test_P31_local_opens_what_the_user_could(answers):
    """... nor to the queue, private control files, another's home."""
    assert not possible(answers, 'P31')


def test_P38_rspawn_has_no_queue(answers):
    """rspawn reads and writes no queue, becomes nobody, executes nothing."""
    assert not possible(answers, 'P38')


def test_P39_remote_connects_to_mail_ports_only(answers):
    """remote writes no file, executes nothing, has no UDP, and reaches only ports of mail, by none of the other ways."""
    landlock_only = ('connect-plain', 'connect-fast-open-connect') if ABI < 4 else ()
    assert not possible(answers, 'P39', REFUSED | {'EAGAIN'}, landlock_only)
    assert any(what == 'connect-plain' for _, what in answers['P39'])


def test_P41_log_does_nothing_else(answers):
    """log opens nothing, makes nothing, and has no socket at all."""
    assert not possible(answers, 'P41', REFUSED | {'EAGAIN'})


def test_P47_resolve_writes_nowhere(answers):
    """resolve writes nowhere, executes nothing, does not reach the queue."""
    assert not possible(answers, 'P47', REFUSED | {'EAGAIN'})


def test_P48_who_judges_clients_keeps_nothing_else(answers):
    """check writes into DIR/check and milter into files without a name, neither anywhere else; both execute nothing, have no
    UDP, listen nowhere, and do not reach the queue's files."""
    assert {who for who, _ in answers['P48']} == {'check', 'milter'}
    assert not possible(answers, 'P48', REFUSED | {'EAGAIN'})


def test_P49_who_reads_keys_and_hashes(answers):
    """The private keys are read by tls and by nobody else, the hashes of passwords by auth and by nobody else."""
    tried = {(who, what.rpartition('/')[2]) for who, what in answers['P49']}
    assert {who for who, what in tried if what == 'probe.pem'} >= {'smtpd', 'auth', 'queued', 'send', 'remote', 'users', 'check', 'log'}
    assert not possible(answers, 'P49')


def test_P50_tls_keeps_to_its_keys(answers):
    """tls makes no socket of any network, executes nothing, writes nowhere, and reaches neither queue nor hashes."""
    assert {who for who, _ in answers['P50']} == {'tls'}
    assert not possible(answers, 'P50', REFUSED | {'EAGAIN'})


def test_P51_auth_keeps_to_its_hashes(answers):
    """auth executes nothing where control/auth names no program, makes no socket of any network, writes nowhere."""
    assert {who for who, _ in answers['P51']} == {'auth'}
    assert not possible(answers, 'P51', REFUSED | {'EAGAIN'})


# --- the probes see what is open ----------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def unconfined():
    """The same chain whose programs leave confine out."""
    chain = owned.Owned(('confine',), ('queued', 'smtpd', 'client', 'remote', 'send', 'resolve'))
    yield chain.answers
    chain.remove()


def open_doors(answers, claim):
    """What of a claim was not refused."""
    return {what for (_, what), answer in answers[claim].items() if answer not in REFUSED}


@pytest.mark.parametrize('claim, whats', [
    ('P06', {'create-in-/tmp', 'write-open-file', 'chmod', 'mkdir'}),
    ('P07', {'execve', 'write-execute-memory', 'fork', 'kill', 'io_uring', 'personality', 'signal-by-setown', 'signal-by-setown-ex',
             'signal-by-setsig', 'signal-by-fiosetown', 'signal-by-siocspgrp', 'signal-by-descriptor'}),
    ('P09', {'client-disconnect-connect', 'client-listen', 'socket-tcp', 'socket-mptcp'}),
    ('P11', {'socket-tcp', 'execve', 'fork'}), ('P12', {'create-damaged'}), ('P13', {'read /etc/passwd'}),
    ('P39', {'connect-plain', 'connect-fast-open-connect', 'udp', 'bind', 'listen'}), ('P47', {'execve', 'listen'})])
def test_without_confine_the_probes_find_the_doors_open(unconfined, claim, whats):
    """Counter-test of files, exec, memory, processes, the system's calls, sockets, ports: each is possible without."""
    if os.uname().machine not in ('x86_64', 'aarch64') or not ABI:
        pytest.skip('no Landlock here')
    assert whats <= open_doors(unconfined, claim)


def test_without_landlock_the_probes_find_files_and_ports():
    """Counter-test of Landlock alone: files can be read and made, and any port reached; the filter still refuses exec."""
    chain = owned.Owned(('landlock',), ('queued', 'smtpd', 'remote'))
    try:
        assert {'create-in-/tmp', 'write-open-file'} <= open_doors(chain.answers, 'P06')
        assert 'connect-plain' in open_doors(chain.answers, 'P39')
        assert not open_doors(chain.answers, 'P07') - {'EAGAIN'}
    finally:
        chain.remove()


def test_without_the_namespace_the_probe_becomes_root():
    """Counter-test of the seed's namespace: with its two capabilities outside it can take any id."""
    chain = owned.Owned(('namespace',), ('seed',))
    try:
        assert {'setresuid-0', 'setresgid-0', 'setgroups-0'} <= open_doors(chain.answers, 'P24')
    finally:
        chain.remove()
