"""core.sendmail_args: the command lines of real callers, and every option of the table."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import sendmail_args as args


def plan(line, name=b'sendmail'):
    return args.parse(name, line.split() if isinstance(line, bytes) else line)


def deliver(found):
    return found.from_header, found.sender, found.fullname, found.operands


# What callers in Debian 12 say: argv after the name -> (-t, sender, full name, operands).
CALLERS = [
    (b'-FCronDaemon -i -B8BITMIME -oem x@ex.org,joe', (False, None, b'CronDaemon', [b'x@ex.org,joe'])),
    (b'-FCronDaemon -i -odi -oem -oi -t -f root', (True, b'root', b'CronDaemon', [])),
    (b'-i joe', (False, None, None, [b'joe'])),
    (b'-i -B8BITMIME joe', (False, None, None, [b'joe'])),
    (b'-i -t', (True, None, None, [])),
    (b'-i -t -f from@x', (True, b'from@x', None, [])),
    (b'-i -f from@x -- a@b c@d', (False, b'from@x', None, [b'a@b', b'c@d'])),
    (b'-oi -f from@x -t', (True, b'from@x', None, [])),
    (b'-oem -oi -f from@x -N never -R hdrs -- a@b', (False, b'from@x', None, [b'a@b'])),
    (b'-oem -oi -N failure,delay -R full -- a@b', (False, None, None, [b'a@b'])),
    (b'-i a@b c@d', (False, None, None, [b'a@b', b'c@d'])),
    (b'-i -f env@x a@b', (False, b'env@x', None, [b'a@b'])),
    (b'-t -i -fenv@x', (True, b'env@x', None, [])),
    (b'-oi -fS -t', (True, b'S', None, [])),
    (b'-fS', (False, b'S', None, [])),
    (b'-oi addr', (False, None, None, [b'addr'])),
    (b'-i -f <> -- rcpt', (False, b'<>', None, [b'rcpt'])),
    ([b'-i', b'-f', b'', b'rcpt'], (False, b'', None, [b'rcpt'])),
    (b'-oi -t', (True, None, None, [])),
    (b'-t -oi', (True, None, None, [])),
    (b'-ti', (True, None, None, [])),
    (b'-oem -ti', (True, None, None, [])),
    (b'-f S D', (False, b'S', None, [b'D'])),
    (b'joe@x', (False, None, None, [b'joe@x'])),
    (b'-oi -t -oem -odb', (True, None, None, [])),
    (b'-odi joe', (False, None, None, [b'joe'])),
    (b'-t joe', (True, None, None, [b'joe'])),
    (b'-oi -f user -odi -oem -t', (True, b'user', None, [])),
    (b'-oi -oem -f sender a b', (False, b'sender', None, [b'a', b'b'])),
    (b'-bm -i a', (False, None, None, [b'a'])),
    (b'-r old@x a', (False, b'old@x', None, [b'a'])),
    ([b'-F', b'Joe Q', b'a'], (False, None, b'Joe Q', [b'a'])),
]


@pytest.mark.parametrize('line,wanted', CALLERS)
def test_callers(line, wanted):
    """Each caller's command line means what the caller meant."""
    found = plan(line)
    assert (found.mode, deliver(found), found.warnings) == (args.DELIVER, wanted, [])


@pytest.mark.parametrize('word', [b'-v', b'-x', b'-m', b'-n', b'-G', b'-U', b'-c', b'-s', b'-T', b'-om',
                                  b'-o7', b'-o8',
                                  b'-oo', b'-or0s', b'-oQ/tmp', b'-oA/etc/aliases', b'-em', b'-ep', b'-ee',
                                  b'-eq', b'-ew',
                                  b'-e', b'-E', b'-Ex', b'-J', b'-Jx', b'-d0-99.1', b'-X/tmp/x.php', b'-XV',
                                  b'-C/tmp/cf',
                                  b'-OQueueDirectory=/tmp', b'-Q/tmp', b'-D/tmp/x', b'-pSMTP:host', b'-h5',
                                  b'-Ltag',
                                  b'-Am', b'-Ac', b'-Mxx', b'-oMrsmtp', b'-oitrue', b'-odf', b'-odq', b'-odb',
                                  b'-oeq'])
def test_ignored(word):
    """What only other mailers need is taken without a word, and swallows no address when it is complete."""
    assert deliver(plan([word, b'joe'])) == (False, None, None, [b'joe'])


@pytest.mark.parametrize('letter', sorted(letter for letter,
                                          takes in args.OPTIONS.items() if takes == args.VALUE))
def test_values(letter):
    """A value may be glued or the next word; without any the command line is refused by the option's name."""
    value = {b'b': b'm', b'N': b'never', b'R': b'full'}.get(letter, b'x')
    assert plan([b'-' + letter, value, b'joe']).operands == [b'joe']
    assert plan([b'-' + letter + value, b'joe']).operands == [b'joe']
    with pytest.raises(args.UsageError) as caught:
        plan([b'-i' + letter])
    assert b'-' + letter in caught.value.why


@pytest.mark.parametrize('line,operands', [
    (b'a -t -f x', [b'a', b'-t', b'-f', b'x']), (b'-- -t', [b'-t']), (b'-i -- -OQueueDirectory=/tmp a',
                                                                      [b'-OQueueDirectory=/tmp', b'a']),
    (b'- a', [b'-', b'a']), (b'-f -- -- a', [b'a'])])
def test_end_of_options(line, operands):
    """The first operand or `--` ends the options: an address can never become one."""
    assert plan(line).operands == operands


@pytest.mark.parametrize('line,mode', [
    (b'-bs', args.SMTP), (b'-bs -odb -oem', args.SMTP), (b'-bp', args.LIST_QUEUE), (b'-bp -v',
                                                                                    args.LIST_QUEUE),
    (b'-bi', args.ALIASES), (b'-I', args.ALIASES), (b'-bi -oA/etc/aliases', args.ALIASES), (b'-bv joe',
                                                                                            args.VERIFY),
    (b'-bt joe', args.TEST), (b'-q', args.RUN_QUEUE), (b'-qf', args.RUN_QUEUE), (b'-q joe', args.RUN_QUEUE),
    (b'-qI123', args.RUN_QUEUE), (b'-qRx', args.RUN_QUEUE), (b'-qSx', args.RUN_QUEUE), (b'-q!Rx',
                                                                                        args.RUN_QUEUE),
    (b'-qGg', args.RUN_QUEUE), (b'-q30m', args.NOTHING), (b'-qp5m', args.NOTHING), (b'-bh', args.NOTHING),
    (b'-bH', args.NOTHING), (b'-bV', args.VERSION), (b'--version', args.VERSION), (b'--help', args.HELP),
    (b'', args.DELIVER), (b'-bm', args.DELIVER)])
def test_modes(line, mode):
    """Each mode."""
    assert plan(line).mode == mode


@pytest.mark.parametrize('name,mode', [
    (b'sendmail', args.DELIVER), (b'send-mail', args.DELIVER), (b'qpy-sendmail', args.DELIVER), (b'x',
        args.DELIVER),
    (b'mailq', args.LIST_QUEUE), (b'qpy-mailq', args.LIST_QUEUE), (b'newaliases', args.ALIASES),
    (b'qpy-newaliases', args.ALIASES), (b'runq', args.RUN_QUEUE), (b'rmail', args.RMAIL), (b'hoststat',
                                                                                           args.NOTHING)])
def test_names(name, mode):
    """The name the program was called by chooses the mode."""
    assert plan(b'', name).mode == mode
    assert plan(b'-v', name).mode == mode


@pytest.mark.parametrize('line,name,word', [
    (b'-bd', b'sendmail', b'qpy-start'), (b'-bD', b'sendmail', b'qpy-start'), (b'-bl', b'sendmail',
                                                                               b'qpy-start'),
    (b'-bd -q30m', b'sendmail', b'qpy-start'), (b'-bS', b'sendmail', b'-bS'), (b'-bP', b'sendmail', b'-bP'),
    (b'-bz', b'sendmail', b'-bz'), (b'-ba', b'sendmail', b'-ba'), (b'-bC', b'sendmail', b'-bC'), (b'-y',
        b'sendmail', b'-y'),
    (b'-iy', b'sendmail', b'-y'), (b'-\xff', b'sendmail', b'-?'), (b'--verbose', b'sendmail', b'--verbose'),
    (b'-P', b'sendmail', b'-P'), (b'', b'rsmtp', b'SMTP'), (b'', b'smtpd', b'qpy-smtpd')])
def test_refused(line, name, word):
    """What is not known or not wanted is refused, and the refusal names it."""
    with pytest.raises(args.UsageError) as caught:
        plan(line, name)
    assert word in caught.value.why


def test_envelope_options():
    """-N, -R, -V, -B and two of -O are kept for the envelope, in the form of SMTP's parameters."""
    found = plan([b'-N', b'success,DELAY', b'-R', b'hdrs', b'-V', b'id +=1~', b'-B8bitmime', b'-O',
                  b'SMTPUTF8=yes',
                  b'-ORequireTLS=yes', b'a'])
    assert found.notify == b'SUCCESS,DELAY'
    assert found.options == {b'R': b'HDRS', b'E': b'id+20+2B+3D1~', b'B': b'8BITMIME', b'U': b'', b'Q': b''}
    assert plan(b'-oi a').ignore_dot and plan(b'-i a').ignore_dot and not plan(b'a').ignore_dot
    assert plan(b'-Bother a').options == {} and plan(b'-O Timeout=5 a').options == {}


@pytest.mark.parametrize('words', [[b'-Nsometimes'], [b'-N', b'never,delay'], [b'-N', b''], [b'-R', b'half'],
                                   [b'-V', b''],
                                   [b'-V', b'x' * 101], [b'-V', b'a\nb']])
def test_bad_envelope_options(words):
    """A bad value of these is warned of and dropped: mail goes on."""
    found = plan(words + [b'a'])
    assert len(found.warnings) == 1 and not found.options and found.notify is None and found.operands == [b'a']


@given(st.lists(st.binary(max_size=6)))
def test_any_words(words):
    """S-06: any words at all are a plan or a refusal."""
    try:
        args.parse(b'sendmail', words)
    except args.UsageError as refused:
        assert b'\n' not in refused.why
