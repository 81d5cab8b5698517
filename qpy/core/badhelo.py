"""Is this the name of a client that control/badhelo refuses?

    mail.example.com        this name, in any case
    .example.net            every name below example.net
    [192.0.2.1]             this address, which the client gave instead of a name
"""
from qpy.core import text
from qpy.core.rcpthosts import suffixes


def refuses(helo: bytes, names) -> bool:
    """Is the argument of HELO, or an ending of it, in these lower-case names?"""
    return bool(names) and any(key in names for key in suffixes(text.lower(helo)))
