"""argon2id (RFC 9106) by libargon2, which Debian has wherever systemd is; Python's own library has scrypt alone.

    argon2id        function(password, salt, memory in KB, passes, lanes, bytes of the hash) -> the hash; None: no library

A part of the seam, beside unix, because ctypes costs 3 ms at start.  One thread does all lanes: those who call may not
have any.
"""
import ctypes

LIBRARIES = ('libargon2.so.1', 'libargon2.so.0', 'libargon2.so')
VERSION = 0x13


class Context(ctypes.Structure):
    """argon2_context of argon2.h."""

    _fields_ = [('out', ctypes.c_void_p), ('outlen', ctypes.c_uint32), ('pwd', ctypes.c_char_p), ('pwdlen', ctypes.c_uint32),
                ('salt', ctypes.c_char_p), ('saltlen', ctypes.c_uint32), ('secret', ctypes.c_void_p),
                ('secretlen', ctypes.c_uint32), ('ad', ctypes.c_void_p), ('adlen', ctypes.c_uint32),
                ('t_cost', ctypes.c_uint32), ('m_cost', ctypes.c_uint32), ('lanes', ctypes.c_uint32),
                ('threads', ctypes.c_uint32), ('version', ctypes.c_uint32), ('allocate', ctypes.c_void_p),
                ('free', ctypes.c_void_p), ('flags', ctypes.c_uint32)]


def _load(names):
    """argon2id_ctx of the first library that is there; None."""
    for name in names:
        try:
            function = ctypes.CDLL(name).argon2id_ctx
        except (OSError, AttributeError):
            continue
        function.argtypes, function.restype = [ctypes.POINTER(Context)], ctypes.c_int
        return function
    return None


def _hash(password, salt, memory, passes, lanes, size):
    """See above.  OSError: there is no memory for it, or the numbers cannot be."""
    out = ctypes.create_string_buffer(size)
    context = Context(ctypes.addressof(out), size, password, len(password), salt, len(salt), None, 0, None, 0,
                      passes, memory, lanes, 1, VERSION, None, None, 0)
    code = _argon2id_ctx(ctypes.byref(context))
    if code:
        raise OSError(0, 'libargon2 fails with %d' % code)
    return out.raw


_argon2id_ctx = _load(LIBRARIES)
argon2id = _hash if _argon2id_ctx else None
