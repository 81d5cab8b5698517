"""Accounts, asked so that "there is none" and "nobody can say now" are different answers.

Python's pwd module makes KeyError of both, and a mail server that believes that bounces everybody's mail
while LDAP is down. Here getpwnam_r(3) is called as it is. A part of the seam, beside unix, because ctypes
costs 3 ms at start.
"""
import ctypes
import errno
import os

LARGEST = 1 << 20               # bytes of one passwd entry
ABSENT = (0, errno.ENOENT, errno.ESRCH)


class Passwd(ctypes.Structure):
    """struct passwd of glibc and musl."""

    _fields_ = [('pw_name', ctypes.c_char_p), ('pw_passwd', ctypes.c_char_p), ('pw_uid', ctypes.c_uint32),
                ('pw_gid', ctypes.c_uint32), ('pw_gecos', ctypes.c_char_p), ('pw_dir', ctypes.c_char_p),
                ('pw_shell', ctypes.c_char_p)]


_getpwnam_r = ctypes.CDLL(None).getpwnam_r
_getpwnam_r.argtypes = [ctypes.c_char_p, ctypes.POINTER(Passwd), ctypes.c_void_p, ctypes.c_size_t,
                        ctypes.POINTER(ctypes.POINTER(Passwd))]
_getpwnam_r.restype = ctypes.c_int


def getpwnam(name):
    """(name, uid, gid, home) of an account, bytes and numbers; None: there is none. OSError."""
    if not name or b'\0' in name:
        return None
    entry, found, size = Passwd(), ctypes.POINTER(Passwd)(), 1024
    while True:
        buffer = ctypes.create_string_buffer(size)
        code = _getpwnam_r(name, ctypes.byref(entry), buffer, size, ctypes.byref(found))
        if code != errno.ERANGE or size >= LARGEST:
            break
        size *= 4
    if code == 0 and found:
        return entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir
    if code in ABSENT:
        return None
    raise OSError(code, os.strerror(code))
