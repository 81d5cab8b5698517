"""qpy-users, as qpyp: who an address belongs to.

Asked over DIR/run/users (SOCK_SEQPACKET, inherited as `users`), records of core.channel:
    W n, local part  ->  w n, yes|temp, user, uid, gid, home, dash, ext, reason     qpy-lspawn: as whom?
    Q n, address     ->  q n, yes|no|unknown|temp, reason                           qpy-smtpd: is there one?
Q alone, over DIR/run/exists, from anybody: a qpy-smtpd that somebody has started under his own account asks there.

Reads control/, users/cdb, passwd; looks into home directories by stat(2) as far as qpyp may. Writes
nothing, starts nothing but its own workers. Exit: 0 when the chain ends, 111 otherwise.
"""
from qpy import unix
from qpy.core import channel, exits, localstatus, route
from qpy.core.getpw import Trouble
from qpy.lib import confine, inherit, loop, packets, program, service
from qpy.lib import route as routes
from qpy.lib import users
from qpy.qpyp import board

WORKERS = 2                 # that serve; who waits for a directory that hangs is one more
MOST_CLIENTS = 500          # connections of one worker
STRANGERS, OF_ONE = 64, 8   # connections over `exists` of one worker; of one uid, who is not root
KEPT = 16                   # of these for root and qpy's own accounts
MOST_WAITING = 10000        # answers a client may leave unread


class Server:
    """One worker: answers everybody who connects.  line: its own of the board."""

    def __init__(self, home, line=None):
        self.loop, self.line = loop.Loop(), line
        self.lookup = users.Lookup(home, line)
        self.controls = routes.watched(home)
        self.clients = set()
        self.strangers = {}                 # {a client of `exists`: its uid}, who has asked nothing for longest first
        self.own = {0, *own_uids(home)}

    def accept(self, sock, peer):
        """A new client; one too many is sent away."""
        if len(self.clients) - len(self.strangers) >= MOST_CLIENTS:
            sock.close()
            return
        self.serve(sock, peer, channel.USERS_ASK)

    def accept_anybody(self, sock, peer):
        """The same over `exists`, where nobody has so many that the others have none."""
        mine = sum(uid == peer[1] for uid in self.strangers.values())
        room = mine < OF_ONE or not peer[1]
        if not room or not (len(self.strangers) < STRANGERS if peer[1] in self.own else self.room()):
            sock.close()
            return
        self.strangers[self.serve(sock, peer, channel.EXISTS_ASK)] = peer[1]

    def room(self):
        """Is there a place for a user over `exists`?  If not, the one who has asked nothing for longest gives up his: what
        is asked is answered at once."""
        others = [client for client, uid in self.strangers.items() if uid not in self.own]
        if len(others) >= STRANGERS - KEPT:
            self.send_away(others[0])
        return len(self.strangers) < STRANGERS

    def send_away(self, client):
        """The end of a client."""
        client.close()
        self.clients.discard(client)
        self.strangers.pop(client, None)

    def serve(self, sock, peer, asks):
        """The Channel of a new client."""
        client = packets.Channel(self.loop, sock, asks, lambda records: self.answer(client, records),
                                 lambda reason: self.gone(client, peer, reason))
        self.clients.add(client)
        return client

    def gone(self, client, peer, reason):
        """A client went, or was sent away for what it said."""
        self.clients.discard(client)
        stranger = self.strangers.pop(client, None) is not None     # whose nonsense fills no log
        if reason != 'closed' and not stranger:
            program.warn(b'client uid %d: %s' % (peer[1], reason.encode('ascii', 'replace')))

    def answer(self, client, records):
        """Answer each question of a packet."""
        for letter, (number, subject), _ in records:
            if letter == b'W':
                client.send(b'w', number, *self.whose(subject))
            else:
                verdict, reason = self.exists(subject)
                client.send(b'q', number, verdict, b'' if client in self.strangers else reason)
            if self.line is not None and self.line.troubled():
                client.flush()                          # the next question may hold us up
        if client in self.strangers:
            self.strangers[client] = self.strangers.pop(client)
        if client.backlog() > MOST_WAITING:
            self.send_away(client)
        if self.line is not None and self.line.over():
            self.loop.call_soon(self.loop.stop)         # after what was answered has left

    def whose(self, local):
        """The fields of a `w` record after its number."""
        try:
            user = self.lookup.find(local)
        except Trouble as trouble:
            return (route.TEMP, *[b''] * 6, told(trouble))
        return (route.YES, *user.fields(), user.reason)

    def exists(self, address):
        """The fields of a `q` record after its number."""
        way = self.lookup.resolve(address, self.controls.get())
        return way.verdict, way.reason


def own_uids(home):
    """[uid] of qpy's accounts that may ask over `exists` when they are not started by qpy-start."""
    found = []
    for role in (b'qpyd', b'qpyc', b'qpyu', b'qpys'):
        try:
            found.append(packets.owner_of(home, role))
        except (KeyError, unix.error):
            continue
    return found


def told(trouble):
    """Why a delivery has to wait: qmail-lspawn's sentence if there is one (tools look for it), then ours."""
    sentence = localstatus.sentence(trouble.code)
    return sentence + b'\n' + trouble.text if sentence else trouble.text


def worker(home, found, line):
    """Serve until the chain ends, or somebody has taken our place."""
    server = Server(home, line)
    inherit.life(server.loop, found)
    for sock in inherit.sockets(found, b'users'):
        packets.serve(server.loop, sock, server.accept)
    for sock in inherit.sockets(found, b'exists'):
        packets.serve(server.loop, sock, server.accept_anybody)
    confine.confine(home, b'users')
    server.loop.run()
    return exits.OK


def main(home, args):
    """qpy-users"""
    found = service.begin(b'users', args)
    routes.load(home)                               # broken controls end us here
    users.Lookup(home).account(b'root')             # NSS loads its modules
    boss = board.Watching(found, lambda found, line: worker(home, found, line), WORKERS)
    confine.confine(home, b'users-master')
    boss.run()
    return exits.OK
