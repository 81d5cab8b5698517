"""What qpy-send's log lines say, as a story a person can follow: each message's way, with times."""
import time


class Message:
    """One message in the log: a short number, when it appeared, what is known of it."""

    __slots__ = ('number', 'begun', 'size', 'sender', 'ended', 'results')

    def __init__(self, number, begun):
        self.number, self.begun = number, begun
        self.size, self.sender, self.ended, self.results = 0, '', False, []


class Trace:
    """Feeds on log lines; tell(text) gets each line of the story; explain(message, address) may add where it went.

    messages: {ID: Message}; results: [(message, channel, address, verdict, text)]."""

    def __init__(self, tell, explain=lambda channel, address: ''):
        self.tell, self.explain = tell, explain
        self.messages, self.deliveries, self.results, self.lines = {}, {}, [], []

    def feed(self, line):
        """One line of the log, without its newline."""
        self.lines.append(line)
        del self.lines[:-1000]
        words = line.split(' ')
        now = time.monotonic()
        if line.startswith('new msg '):
            self.messages[words[2]] = Message(len(self.messages) + 1, now)
        elif line.startswith('info msg ') and len(words) > 6:
            self.info(words, now)
        elif line.startswith('starting delivery ') and len(words) > 7:
            self.starting(words, now)
        elif line.startswith('delivery ') and len(words) > 2:
            self.finished(words, now)
        elif line.startswith('bounce msg '):
            self.say(self.messages.get(words[2]), now, 'bounce', 'a report goes back to the sender')
        elif line.startswith('notice msg '):
            self.say(self.messages.get(words[2]), now, 'notice', 'the sender is told: ' + words[-1])
        elif line.startswith('end msg '):
            self.ended(self.messages.get(words[2]), now)
        elif not line.startswith('status:'):
            self.tell('                   %s' % line)

    def say(self, message, now, what, text):
        """One line of the story."""
        if message is not None:
            self.tell('  %+9.3f s  #%-3d  %-9s %s' % (now - message.begun, message.number, what, text))

    def info(self, words, now):
        """info msg ID: bytes N from <SENDER> ..."""
        message = self.messages.setdefault(words[2].rstrip(':'), Message(len(self.messages) + 1, now))
        message.size, message.sender = int(words[4]), words[6]
        self.tell('')
        self.tell('%s  #%-3d  %-9s %s bytes from %s' % (time.strftime('  %H:%M:%S   '), message.number, 'queued',
                                                       words[4], words[6]))

    def starting(self, words, now):
        """starting delivery D: msg ID to CHANNEL ADDRESS"""
        number, message = words[2].rstrip(':'), self.messages.get(words[4])
        self.deliveries[number] = (message, words[6], words[7])
        self.say(message, now, 'to ' + words[6], words[7])

    def finished(self, words, now):
        """delivery D: success|failure|deferral: TEXT"""
        message, channel, address = self.deliveries.pop(words[1].rstrip(':'), (None, '', ''))
        verdict, text = words[2].rstrip(':'), ' '.join(words[3:])
        said = {'success': 'delivered', 'failure': 'failed', 'deferral': 'later'}.get(verdict, verdict)
        if message is not None:
            message.results.append((channel, address, verdict, text))
        self.results.append((message, channel, address, verdict, text))
        where = self.explain(channel, address) if verdict == 'success' else text.replace('_', ' ').rstrip('/')
        self.say(message, now, said, address + (': ' + where if where else ''))

    def ended(self, message, now):
        """end msg ID"""
        if message is not None:
            message.ended = True
            self.say(message, now, 'finished', '')
