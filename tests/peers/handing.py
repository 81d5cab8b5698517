"""Descriptors handed to a program under test, as service managers do it: 3 and up."""
import fcntl
import os

FIRST = 3


def place(fds):
    """In a child about to exec: fds become 3, 4 ..., whatever numbers they had, and will be inherited."""
    above = max(FIRST + len(fds), *fds) + 1
    for number, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in fds], FIRST):
        os.dup2(fd, number)
