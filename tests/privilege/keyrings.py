"""Keys of the kernel (keyrings(7)), as a program that a user starts sees them: also copied into installations and run there.

    keyrings.py give SECRET PROGRAM ...        in a new session keyring, with a key of root's: becomes PROGRAM
    keyrings.py find                           prints the secret of root's key, or the error
    keyrings.py put WORD                       leaves a key that everybody may read in the session keyring
    keyrings.py get                            prints what another user has put there, or the error
    keyrings.py own                            puts and finds a key of its own: prints it
"""
import ctypes
import errno
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
ADD, KEYCTL = {'x86_64': (248, 250), 'aarch64': (217, 219)}[os.uname().machine]
JOIN, SETPERM, SEARCH, READ, SESSION = 1, 5, 10, 11, -3
EVERYBODY, KIND = 0x3f3f3f3f, b'user'
ROOTS, USERS, OWN = b'qpy-test:root', b'qpy-test:user', b'qpy-test:own'


def call(number, *words):
    """A system call; OSError if it fails."""
    found = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(word) if isinstance(word, int) else word for word in words])
    if found == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


def join():
    """Be in a new session keyring, as after a login."""
    call(KEYCTL, JOIN, 0)


def put(name, word):
    """A key in the session keyring, which everybody who finds it may read."""
    number = call(ADD, KIND, name, word, len(word), SESSION)
    call(KEYCTL, SETPERM, number, EVERYBODY)


def find(name):
    """What the key of this name holds, else the name of the error."""
    room = ctypes.create_string_buffer(100)
    try:
        number = call(KEYCTL, SEARCH, SESSION, KIND, name, 0)
        length = call(KEYCTL, READ, number, room, 100)
    except OSError as problem:
        return errno.errorcode[problem.errno]
    return room.raw[:length].decode()


def main(verb, *words):
    """One line of the usage above."""
    if verb == 'give':
        join()
        put(ROOTS, words[0].encode())
        os.execv(words[1], words[1:])
    if verb == 'put':
        put(USERS, words[0].encode())
    if verb == 'own':
        put(OWN, b'mine')
    print(find({'find': ROOTS, 'get': USERS, 'own': OWN, 'put': USERS}[verb]))


if __name__ == '__main__':
    main(*sys.argv[1:])
