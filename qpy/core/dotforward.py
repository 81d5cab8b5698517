r""".forward: what it asks for, in the words of .qmail.

    joe@example.org, mary      forward            \me, me, me@here     deliver as without a .forward
    "|vacation me"             program            /home/me/mbox        mbox; with / at its end a Maildir
    # a comment                                   /dev/null            nothing

A program gets the lines From_, Return-Path and Delivered-To before the message, as preline puts them.
"""
from qpy.core import aliases, dotqmail, text

SELF = b'self'              # deliver to the user himself
NO_INCLUDE = b'Uh-oh: .forward has :include:. (#4.2.1)'
SENSELESS = b'Uh-oh: .forward has a line without meaning. (#4.2.1)'
FILE_LIMIT = 1 << 20


def parse(data, user, local, host, is_local=lambda host: False):
    """[(kind, argument)] as dotqmail.parse, with SELF among the kinds; None if nothing is asked for, [] if
    the message is to be thrown away.

    user: his account; local@host: the address the message is for; is_local(host): is he the same there?"""
    if b'\0' in data:
        return [(dotqmail.FAIL, SENSELESS)]
    try:
        found = aliases.items(data)
    except aliases.Problem:
        return [(dotqmail.FAIL, SENSELESS)]
    if not found:
        return None
    names = {text.lower(user), text.lower(local)}

    def mine(word):
        """Is it he?"""
        name, at, there = word.rpartition(b'@') if b'@' in word else (word, b'', b'')
        return text.lower(name) in names and (not at or text.lower(there) == text.lower(host) or is_local(there))
    return [instruction(kind, word, mine) for kind, word in found if word != aliases.NULL]


def instruction(kind, word, mine):
    """One item."""
    if kind == aliases.PROGRAM:
        return dotqmail.PROGRAM, preline(word)
    if kind == aliases.FILE:
        return (dotqmail.MAILDIR if word[-1:] == b'/' else dotqmail.MBOX), word
    if kind == aliases.INCLUDE:
        return dotqmail.FAIL, NO_INCLUDE
    return (SELF, b'') if mine(word) else (dotqmail.FORWARD, word)


def preline(command):
    """A command line that gives command the three lines and then the message."""
    return b"exec preline /bin/sh -c '%s'" % command.replace(b"'", b"'\\''")
