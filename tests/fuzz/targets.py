"""What is fuzzed: functions of bytes that end without a word, whatever the bytes.

Each names the errors its reader may raise; any other exception, and any assertion, is a finding.  test_fuzz.py runs
them with hypothesis and over corpus/, run.py with atheris.  The first byte often says how the rest is cut.
"""
from qpy.core import submission as completion
from qpy.core import (accountlimits, address, aliases, asking, authbackends, cdb, channel, channel_binding, controls,
                      deliverby, destinations, dnsbl, dotforward, dotqmail, dovecot_auth, draft, esmtp, greylist,
                      header, idna, inject, mess, milter, mta_sts, netstring, notices, passwords, policyd, pop3, proxy, qmqp, qmtp, sasl_client, sasl_server,
                      services, seven_bit, smtp_client, smtp_data, smtp_policy, smtp_server, smtproutes, state, submit,
                      tcprules, text, tls_front, tlsrpt, token822)
from qpy.qpyr import resolve

IDENT = b'1764036974123456'
END = b'\r\n.\r\n'


def cut(data):
    """(the rest, the rest in pieces)."""
    step, data = data[:1] and data[0] % 16 + 1, data[1:]
    return data, [data[i:i + step] for i in range(0, len(data), step)] if data else [b'']


# --- the door -----------------------------------------------------------------------------------------------

class Everything:
    """All domains are ours."""

    @staticmethod
    def accepts(_):
        """This one too."""
        return True


def talk(pieces, stages=frozenset()):
    """(replies, messages, closed) of a server's session; at these stages whoever has an n in his name is refused."""
    policy = smtp_policy.Policy(b'mx.example.com', databytes=200, hosts=Everything, max_recipients=3, stages=stages)
    policy.etrn = {b'e.f': 1, b'.g': 2}
    session = smtp_server.Session(policy, smtp_policy.Client(ip=b'192.0.2.7', relay=b''))
    out, found, text, closed = b'', [], b'', False
    for piece in pieces:
        session.receive(piece)
        while (event := session.next()) is not None:
            kind, value = event
            while kind in (smtp_server.CHECK, smtp_server.ASK):
                said = session.helo + session.sender + session.checking
                kind, value = (session.recipient(b'no' if value[:1] == b'n' else b'yes') if kind == smtp_server.CHECK
                               else session.judged(b'550 5.7.1 no' if b'n' in said else b'')) or (None, None)
            if kind == smtp_server.ETRN:
                kind, value = (session.hurried(len(value)) if len(value) < 5 else session.not_hurried(b'later')) or (None, None)
            if kind is None:
                continue
            if kind == smtp_server.START:
                session.begin(b'now')
                text = b''
            elif kind == smtp_server.BODY:
                text += value
            elif kind == smtp_server.SUBMIT:
                found.append((session.sender, list(session.recipients), text + value))
                session.queued(1, 2)
            elif kind == smtp_server.CLOSE:
                closed = True
        out += session.output()
    return out, found, closed


def smtp_session(data):
    """However it is cut, the same replies and messages; replies are lines of printable ASCII."""
    data, pieces = cut(data)
    out, found, closed = talk(pieces)
    assert (out, found, closed) == talk([data])
    judged = talk(pieces, frozenset(asking.STAGES))
    assert judged == talk([data], frozenset(asking.STAGES)) and not any(b'n' in sender for sender, _, _ in judged[1])
    assert not out or out.endswith(b'\r\n')
    for line in out.split(b'\r\n')[:-1]:
        assert line[:3].isdigit() and line[3:4] in (b' ', b'-') and not line.strip(bytes(range(32, 127)))
    for sender, recipients, text in found:
        assert recipients and b'\r' not in text
        assert not any(c in each for each in (sender, *recipients) for c in (b'\0', b'\r', b'\n'))


def whole_text(decoder, pieces):
    """(stored, fault, rest) of a decoder; of several pieces that follow the end all are the rest."""
    stored = b''
    for at, piece in enumerate(pieces):
        text, rest = decoder.feed(piece)
        stored += text
        if decoder.fault or rest is not None:
            return stored, decoder.fault, None if decoder.fault else rest + b''.join(pieces[at + 1:])
    return stored, None, None


def data_decoder(data):
    """The fast decoder is the plain one, at any cut; what it stores passes the next server unchanged."""
    data, pieces = cut(data)
    stored, fault, rest = whole_text(smtp_data.PlainDecoder(), [data])
    for each in ([data], pieces):
        found = whole_text(smtp_data.Decoder(), each)
        assert found[1:] == (fault, rest), (found, fault, rest)
        if rest is not None:
            assert found[0] == stored
    if rest is not None:
        encoder = smtp_client.Encoder()
        wire = encoder.feed(stored) + encoder.finish()
        assert whole_text(smtp_data.PlainDecoder(), [wire]) == (stored, None, b'')


def address_parser(data):
    """A path or AddressError; what is a path is quoted and read again as the same address."""
    try:
        found, rest = address.parse_path(data)
    except address.AddressError:
        return
    assert len(found) < 1003 and not any(c in found for c in (b'\0', b'\r', b'\n')) and rest in data
    if found:
        assert address.parse_path(b'<' + address.quote(found) + b'>') == (found, b'')


def tcp_rules(data):
    """Rules, or the line that is none."""
    try:
        rules = tcprules.parse(data)
    except tcprules.RulesError as refused:
        assert refused.remedy and 1 <= refused.number <= data.count(b'\n') + 1
        return
    for ip in (b'1.2.3.4', b'::1', b'', b'x'):
        allowed, env = rules.verdict(ip, b'a.b', b'c')
        assert isinstance(allowed, bool) and all(b'\0' not in name + value for name, value in env)


def listen(kind, pieces):
    """(text of the whole messages, their envelopes, whether an error ended them)."""
    session, texts, text, found = kind(), [], b'', []
    try:
        for piece in pieces:
            session.receive(piece)
            while (event := session.next()) is not None:
                if isinstance(event[1], bytes):
                    text += event[1]
                else:
                    texts.append(text)
                    found.append(event[1])
                    text = b''
    except (netstring.Malformed, netstring.TooMuch):        # of two faults in one piece either may be told
        return texts, found, True
    return texts, found, False


def netstrings(data):
    """QMTP and QMQP: however it is cut, the same messages, and the same end."""
    data, pieces = cut(data)
    for kind in (qmtp.Session, qmqp.Session):
        assert listen(kind, pieces) == listen(kind, [data])


def pop3_session(data):
    """However it is cut, the same events and replies."""
    data, pieces = cut(data)

    def run(chunks):
        session = pop3.Session([(10, b'a'), (20, b'b')])
        events, out = [], b''
        for chunk in chunks:
            session.receive(chunk)
            while (event := session.next()) is not None:
                events.append(event)
            out += session.output()
        return events, out
    assert run(pieces) == run([data])


# --- the way out ---------------------------------------------------------------------------------------------

def client_replies(data):
    """Whole or cut, the same replies or the same refusal; nothing a server says without being asked delivers."""
    data, pieces = cut(data)

    def read(chunks):
        reader, found = smtp_client.ReplyReader(), []
        try:
            for chunk in chunks:
                found += reader.feed(chunk)
        except smtp_client.BadReply:
            return 'bad'
        return found
    assert read(pieces) == read([data])
    session = smtp_client.Session(b'192.0.2.1', b'me.example')
    transaction = smtp_client.Transaction(b's@y', [b'r@x'])
    session.begin(transaction)
    for piece in pieces:
        if not session.over:
            session.feed(piece)
            while session.wants_body:
                session.body(b'x\n')
                session.body_end()
            session.take()
    if transaction.report is None:
        session.eof()
    assert transaction.report[0] in (b'K', b'Z', b'D')


def downgraded_mime(data):
    """Whole or cut, the same; what is 7bit stays so, what is no MIME stays as it is, and no line of ours is too long."""
    data, pieces = cut(data)

    def convert(chunks):
        converter = seven_bit.Converter()
        return b''.join([converter.feed(chunk) for chunk in chunks]) + converter.finish()
    out = convert(pieces)
    assert out == convert([data])
    assert out.isascii() or not data.isascii()
    assert out == data or b'ime-version' in text.lower(data)
    for line in convert([b'MIME-Version: 1\nContent-Transfer-Encoding: 8bit\n\n' + data]).partition(b'\n\n')[2].split(b'\n'):
        assert len(line) <= 76 and line.isascii()


def way_out(data):
    """Certificates, challenges of logins, files of what was kept, entries of control files: a value or ValueError."""
    data, pieces = cut(data)
    assert isinstance(channel_binding.end_point(data), bytes)
    for kind in sasl_client.MECHANISMS.values():
        exchange = kind(sasl_client.Credentials(b'u', b'p', b'n', b't', b'h', 1, b'e'))
        exchange.first()
        try:
            for piece in pieces[:5]:
                assert isinstance(exchange.answer(piece), bytes)
        except ValueError:
            pass
    day = tlsrpt.parse(data)
    assert tlsrpt.parse(tlsrpt.build(day)) == day
    name = idna.domain(data)
    assert name is None or name.isascii()
    for parse in (destinations.parse, lambda value: deliverby.from_wire(value, 0)):
        try:
            parse(data)
        except ValueError:
            pass
    by = deliverby.parse(data)
    assert by is None or deliverby.on_wire(by, 5).isascii()
    notices.success(b'local', False, data)


def questions():
    """{kind: question}, made once."""
    if not questions.made:
        assert resolve.load(b'/nonexistent') == b''
        for kind in ('MX', 'A', 'TLSA', 'TXT'):
            questions.made[kind] = resolve.make_question(kind, b'x.example')[0]
    return questions.made


questions.made = {}


def dns_answers(data):
    """Whatever a server sends: no answer, or a result of bounded values that our records can carry."""
    for kind, question in questions().items():
        for packet in (data, question.id.to_bytes(2, 'big') + data):
            verdict, response = resolve.judge_of(question)(packet)
            if verdict != resolve.ANSWER:
                continue
            result, alias = resolve.read_answer(kind, response, True)
            assert result.status in (resolve.OK, resolve.NXDOMAIN, resolve.NODATA, resolve.TEMP)
            for value in result.values:
                word = value if isinstance(value, bytes) else value[1]
                assert word is None or not any(c in word for c in b'\0\n ' if kind != 'TLSA')
            assert alias is None or isinstance(alias, bytes)


def web_policy(data):
    """What a web server says is a policy or a ValueError; so is a TXT record."""
    for parse in (mta_sts.parse_response, mta_sts.parse_policy):
        try:
            parse(data)
        except ValueError:
            pass
    try:
        mta_sts.parse_record([data])
    except ValueError:
        pass


# --- files ---------------------------------------------------------------------------------------------------

def cdb_reader(data):
    """An answer that stands in these bytes, none, or CdbError; never a read outside."""
    def read(offset, count):
        assert 0 <= offset <= len(data)
        return data[offset:offset + count]
    try:
        database = cdb.Cdb(read, len(data))
        for key in (b'', b'one', b'!joe-', data[-8:-4]):
            assert all(value in data for value in database.all(key))
        assert all(key in data and value in data for key, value in database.records())
    except cdb.CdbError:
        pass


def queue_file(data):
    """A file that pack() made, or Damaged or Newer; a state is replayed up to where it is whole."""
    try:
        message, envelope = mess.unpack(data, IDENT)
        assert mess.pack(message, envelope.build(), IDENT) == data
    except (mess.Damaged, mess.Newer):
        pass
    try:
        assert mess.parse(data).build() == data
    except mess.Damaged:
        pass
    made = mess.pack(data[:20], data[20:], IDENT)
    try:
        assert mess.unpack(made, IDENT)[0] == data[:20]
    except mess.Damaged:
        pass
    assert 0 <= state.replay(data, IDENT, 3).end <= len(data)


def dot_qmail(data):
    """Instructions, of which a refusal is the last; the same for .forward files and aliases, or Problem."""
    for forward_only in (False, True):
        found = dotqmail.parse(data, forward_only)
        assert all(kind in (b'maildir', b'mbox', b'program', b'forward', b'fail') for kind, _ in found)
        assert all(kind != b'fail' for kind, _ in found[:-1]) and all(b'\n' not in word for _, word in found)
    assert all(b'/' not in name[7:] and b'.' not in name[1:] for name in dotqmail.candidates(b'-', data) if isinstance(name, bytes))
    for parse in (lambda: dotforward.parse(data, b'joe', b'joe', b'x.example'), lambda: aliases.compile(data)):
        try:
            parse()
        except aliases.Problem:
            pass


NAMES = [row[0] for row in controls.TABLE]
PARSERS = (controls.parse_line, controls.parse_number, controls.parse_list, controls.parse_set, controls.parse_map,
           controls.parse_map_lines, controls.parse_text)


def control_files(data):
    """A value, or an error of one printable line; services and routes too."""
    name = NAMES[data[0] % len(NAMES)] if data else NAMES[0]
    for parse in PARSERS:
        try:
            parse(data[1:], name)
        except controls.ControlError as error:
            assert error.text and not error.text.strip(bytes(range(32, 127)))
    for parse in (services.table, smtproutes.parse):
        try:
            parse(data)
        except (controls.ControlError, ValueError):
            pass


# --- what users hand in, and channels ------------------------------------------------------------------------

def header_tokens(data):
    """inject's tokenizer: parsed or Unparsable; what is composed is a header, and no address has a line break."""
    try:
        tokens = token822.parse(data)
        token822.unparse(b'To', tokens)
    except token822.Unparsable:
        pass
    splitter = header.Splitter()
    splitter.feed(data) or splitter.end()
    hosts = inject.Settings(b'd.example', b'example', b'', b'id.example')
    for strict in (True, False):
        composer = inject.Composer(hosts, inject.Identity(b'joe'), strict=strict, wants_recipients=strict)
        try:
            for field in splitter.fields:
                composer.add(field)
            new = composer.finish(1, 2, b'u')
        except inject.Refused:
            continue
        again = header.Splitter()
        again.feed(new) or again.end()
        assert b''.join(again.fields) == new and again.body == b''
        assert not any(b'\n' in each for each in composer.header_recipients())


def submission(data):
    """The submit channel, both ends: however it is cut, the same events; whatever is admitted is an envelope."""
    data, pieces = cut(data)

    def hear(chunks):
        receiver, found = submit.Receiver(), []
        for chunk in chunks:
            for kind, value in receiver.feed(chunk):
                if kind == submit.BODY and found and found[-1][0] == submit.BODY:
                    value = found.pop()[1] + value
                found.append((kind, value))
        return found
    events = hear(pieces)
    assert events == hear([data])
    for kind, value in [*events, (submit.MESSAGE, data)]:
        if kind == submit.MESSAGE:
            try:
                admitted = submit.admit(value, True, submit.stamp(1, 2, 3))
            except submit.Refused:
                continue
            assert mess.parse(admitted).build() == admitted and b'\n' not in admitted
    answers = []
    for chunks in (pieces, [data]):
        ear = submit.Answers()
        answers.append([answer for chunk in chunks for answer in ear.feed(chunk)])
    assert answers[0] == answers[1]


TABLES = [table for name, table in sorted(vars(channel).items()) if name.isupper() and isinstance(table, dict)]


def channels(data):
    """Every table of the channels: records that would be packed to the same bytes, or ChannelError."""
    for table in TABLES:
        try:
            records = channel.unpack(data, table)
        except channel.ChannelError:
            continue
        assert b''.join(channel.pack(letter, *fields) for letter, fields in records) == data
        assert all(len(fields) == table[letter][0] for letter, fields in records)


# --- who judges clients ---------------------------------------------------------------------------------------

def milter_packets(data):
    """What a milter says: the same packets however it is cut, or the same error; whatever it wants changed, the header stays
    a header, addresses stay addresses, and its reply is one line of printable ASCII that refuses."""
    data, pieces = cut(data)
    heard = []
    for chunks in (pieces, [data]):
        dialogue, found = milter.Dialogue(), []
        try:
            for chunk in chunks:
                found += dialogue.feed(chunk)
        except milter.MilterError:
            found = 'broken'
        heard.append(found)
    assert heard[0] == heard[1] or 'broken' in heard
    changed = draft.Draft(mess.Envelope(b'a@b', [b'c@d']), b'Received: us\n  by us\nSubject: x\n y\n')
    for letter, words in heard[1] if heard[1] != 'broken' else [(data[:1], data[1:])]:
        said = milter.reply(letter, words)
        assert said[:1] in b'45' and said[:3].isdigit() and not said.strip(bytes(range(32, 127)))
        if letter in draft.CHANGES:
            try:
                changed.change(letter, words)
            except ValueError:
                pass
        try:
            milter.Dialogue().agree(letter, words)
        except milter.MilterError:
            pass
    head = changed.head()
    assert draft.split(head + b'\nx') == (len(head), True) and draft.parse_fields(head) == changed.fields
    assert b'\r' not in head and b'\0' not in head and len(changed.fields) <= 2 + len(data)
    mess.parse(changed.envelope.build())
    unfolded = [draft.Unfolded(), draft.Unfolded()]
    assert b''.join(map(unfolded[0].feed, pieces)) + unfolded[0].end() == unfolded[1].feed(data) + unfolded[1].end()


def client_judges(data):
    """Answers of policy servers, lines of the lists, words of limits: a value or ValueError; the header of a message is split
    where its own fields end."""
    data, pieces = cut(data)
    for chunks in (pieces, [data]):
        heard = b''
        for chunk in chunks:
            heard += chunk
            try:
                answer = policyd.parse_answer(heard)
            except ValueError:
                break
            if answer is not None:
                verdict, said = policyd.meaning(*answer[:2])
                assert verdict != policyd.REPLY or said[:1] in (b'4', b'5')
                break
    for parse in (dnsbl.parse, policyd.parse, milter.parse, lambda line: accountlimits.parse({b'': line}),
                  lambda line: greylist.parse({line: line})):
        try:
            parse(data)
        except ValueError:
            pass
    found = draft.split(data)
    if found is not None:
        at, blank = found
        assert b''.join(b'%s:%s\n' % field for field in draft.parse_fields(data[:at])) == data[:at]
        assert not blank or data[at:at + 1] == b'\n'


def logins_and_proxies(data):
    """Logins, headers of proxies, Dovecot, qpy-tls, users/passwd, headers of mail that is sent: a value or ValueError, and no
    login without its secret."""
    data, pieces = cut(data)
    for kind in sasl_server.MECHANISMS.values():
        exchange = kind(sasl_server.Place(b'n', b'b', True, passwords.Scram(b'', b's').keys))
        for piece in pieces[:5]:
            event, _ = exchange.step(piece)
            if event == sasl_server.JUDGE:
                event, _ = exchange.judged(False)
            assert event != sasl_server.DONE
            if event == sasl_server.FAILED:
                break
    for parse in (lambda d: proxy.take(b'', d), proxy.parse_xclient, tls_front.parse, passwords.parse, esmtp.unix_time,
                  lambda d: authbackends.backends([d]), lambda d: dovecot_auth.Session(1).receive(d)):
        try:
            parse(data)
        except ValueError:
            pass
    whole, cut_up = (completion.Completion({b'date': b'Date: x\n'}) for _ in range(2))
    expected = whole.feed(data) + whole.finish()
    assert expected.endswith(data) and b''.join(map(cut_up.feed, pieces)) + cut_up.finish() == expected


ALL = (smtp_session, logins_and_proxies, milter_packets, client_judges, data_decoder, address_parser, tcp_rules, netstrings, pop3_session, client_replies,
       downgraded_mime, way_out, dns_answers, web_policy,
       cdb_reader, queue_file, dot_qmail, control_files, header_tokens, submission, channels)
