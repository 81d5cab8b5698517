"""qpy-ctl, for the administrator: look at the queue and act on what is in it.

Each command is a question to qpy-send (qpys.control).  Exit: 0 done; 100 wrong usage, or send refused; 111 send
cannot be asked.
"""
import json
import os
import sys
import time

from qpy import unix
from qpy.core import exits
from qpy.lib import owner, program, sendctl

RECIPIENT = ('status', 'channel', 'address', 'reason')


def main(home, args):
    """See qpy-ctl(8)."""
    owner.become(home)
    import_click(home)
    try:
        return commands(home).main([unix.fsdecode(word) for word in args], prog_name='qpy-ctl',
                                   standalone_mode=False) or 0
    except SystemExit:                      # so click ends when nobody reads: who has enough is no error
        return exits.OK
    except click.exceptions.Abort:
        return exits.TEMP
    except click.exceptions.Exit as end:
        return exits.PERM if end.exit_code else exits.OK
    except click.ClickException as problem:
        problem.show()
        return exits.PERM
    except sendctl.Refused as refusal:
        print('qpy-ctl: ' + refusal.args[0].decode('ascii', 'replace'), file=sys.stderr)
        return exits.PERM
    except OSError as problem:
        print('qpy-ctl: ' + sendctl.trouble(problem).decode('ascii', 'replace'), file=sys.stderr)
        return exits.TEMP


def import_click(home):
    """click, from DIR/lib/site or from the distribution's directory."""
    global click
    for directory in (os.path.join(os.fsdecode(home), 'lib/site'), '/usr/lib/python3/dist-packages'):
        if os.path.isdir(directory) and directory not in sys.path:
            sys.path.append(directory)
    try:
        import click as module
    except ModuleNotFoundError:
        raise program.Fatal(exits.TEMP, b'click is missing; apt install python3-click and run qpy-install again, or use '
                            b'qpy-qread and qpy-qstat') from None
    click = module


def commands(home):
    """The command line."""
    group = click.Group(help='Look at the queue and act on what is in it.',
                        params=[click.Option(['--json', 'as_json'], is_flag=True,
                                             help='A line of JSON per record.')],
                        callback=lambda as_json: None)
    id_argument, any_id = click.Argument(['id']), click.Argument(['id'], required=False)
    for name, params, callback, text in (
            ('list', [any_id], show_list, 'What is in the queue.'),
            ('stat', [], show_stat, 'How much there is of everything.'),
            ('run', [any_id], act('run'), 'Try everything, or one message, now.'),
            ('etrn', [click.Argument(['domain'])], act('etrn'), 'Try what waits for a domain of control/etrn now.'),
            ('hold', [id_argument, click.Argument(['reason'], nargs=-1)], act('hold'),
             'Leave a message alone.'),
            ('release', [id_argument], act('release'), 'End a hold.'),
            ('drop', [id_argument], act('drop'), 'Remove a message and tell nobody.'),
            ('bounce', [id_argument], act('bounce'), 'Give a message up and tell its sender.'),
            ('destinations', [], show_destinations, 'What goes on at each remote destination.'),
            ('tcpto', [], show_trouble, 'Destinations that are left alone for a while.'),
            ('tcpok', [click.Argument(['host'], required=False)], act('tcpok'),
             'Try such destinations again.')):
        group.add_command(click.Command(name, params=params, callback=bound(callback, home), help=text))
    return group


def bound(callback, home):
    """The callback with DIR and the choice of --json."""
    return lambda **words: callback(home, click.get_current_context().parent.params['as_json'], **words)


def act(verb):
    """A command that only says a word and its arguments."""
    def command(home, as_json, **words):
        rest = [word for value in words.values()
                for word in ((value,) if isinstance(value, str) else value or ())]
        for record in sendctl.ask(home, verb.encode(), *map(os.fsencode, rest)):
            print(record.decode('ascii', 'replace'))
    return command


def show_list(home, as_json, id):
    """One paragraph, or one line of JSON, per message."""
    from qpy.core import dates
    for message in sendctl.listed(home, *([id.encode()] if id else [])):
        fields = as_fields(message)
        if as_json:
            print(json.dumps(fields))
            continue
        due = time.strftime('%d %b %H:%M:%S UTC', time.gmtime(message.due)) if message.due else 'now'
        print('%s  %s  %d bytes  <%s>  %s%s  attempts %d' % (
            fields['id'], dates.clock_date(message.birth).decode(), message.size, fields['sender'],
            fields['place'], ', due ' + due if fields['place'] == 'waiting' else '', message.attempts))
        if fields['hold']:
            print('    held: ' + fields['hold'])
        for recipient in fields['recipients']:
            print('    %-7s %-6s %s' % (recipient['status'], recipient['channel'], recipient['address']))
            if recipient['reason']:
                print('            ' + recipient['reason'])


def as_fields(message):
    """A Message as what JSON knows."""
    return {'id': message.name.decode(), 'size': message.size, 'arrival_time': message.birth,
            'sender': message.sender.decode(), 'place': message.place.decode(), 'due': message.due,
            'attempts': message.attempts, 'uid': message.uid, 'hold': message.hold.decode(),
            'recipients': [dict(zip(RECIPIENT, map(bytes.decode, recipient)))
                           for recipient in message.recipients]}


def show_stat(home, as_json):
    """Names and numbers."""
    counts = {name.decode(): int(value) for name, value in (record.split(b'\t') for record in
                                                            sendctl.ask(home, b'stat'))}
    if as_json:
        print(json.dumps(counts))
    else:
        for name, value in counts.items():
            print('%-12s %d' % (name, value))


DESTINATION = ('host', 'active', 'allowed', 'window', 'waiting', 'rate', 'failures', 'left', 'reason')


def show_destinations(home, as_json):
    """Hosts: transactions under way, how many there may be and are ventured, what waits, rate, trouble."""
    for record in sendctl.ask(home, b'destinations'):
        fields = dict(zip(DESTINATION, record.decode('ascii', 'replace').split('\t')))
        fields.update({name: int(fields[name]) for name in DESTINATION if fields[name].isdigit()})
        if as_json:
            print(json.dumps(fields))
            continue
        print('%(host)s  active %(active)d of %(allowed)d, window %(window)d, waiting %(waiting)d, rate %(rate)s' % fields)
        if fields['failures']:
            print('    %(failures)d failures in a row, left alone for %(left)d more seconds: %(reason)s' % fields)


def show_trouble(home, as_json):
    """Hosts, how long they are left alone, and why."""
    for record in sendctl.ask(home, b'tcpto'):
        host, failures, since, left, reason = record.decode('ascii', 'replace').split('\t')
        if as_json:
            print(json.dumps({'host': host, 'failures': int(failures), 'since': int(since), 'left': int(left), 'reason': reason}))
        else:
            print('%s  %s failures in a row, the last %s seconds ago, left alone for %s more seconds: %s'
                  % (host, failures, since, left, reason))
