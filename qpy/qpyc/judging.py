"""How the two programs of qpyc run: one worker judges, because what it knows of sessions must be in one place; a master, which
hears nobody, replaces it when it dies.
"""
from qpy import unix
from qpy.core import exits
from qpy.lib import confine, inherit, master, packets, service
from qpy.lib.loop import Loop


def run(home, name, args, load, server, doors):
    """qpy-NAME: an exit code.

    load(home): reads the control files, and ends us where they are broken.  server(loop, home): all that is judged, with
    begin() and end().  doors: {socket: what server does with a connection to it}.
    """
    found = service.begin(name, args, tuple(doors))
    load(home)
    confine.confine(home, name + b'-master')
    return master.run(found, lambda found: work(home, name, found, server, doors))


def work(home, name, found, server, doors):
    """The one that judges."""
    loop = Loop()
    inherit.life(loop, found)
    unix.raise_descriptor_limit()
    judge = server(loop, home)
    for socket, door in doors.items():
        for sock in inherit.sockets(found, socket):
            packets.serve(loop, sock, lambda *client, door=door: door(judge, *client))
    confine.confine(home, name)
    judge.begin()
    loop.run()
    judge.end()
    return exits.OK
