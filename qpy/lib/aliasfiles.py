"""Where aliases are written, and where what newaliases makes of them is."""
from qpy import unix

SYSTEM, OWN = b'/etc/aliases', b'/users/aliases'
LEFT = b'%s still counts, and no source of it is there: write one, an empty one for no aliases, and run newaliases'


def source(home):
    """The path of the source, b'' if there is none: DIR/users/aliases, else /etc/aliases; in a rootless DIR only the former."""
    own = home + OWN
    paths = (own, SYSTEM) if unix.stat(home).st_uid == 0 else (own,)
    return next((path for path in paths if there(path)), b'')


def made(home):
    """The path of what newaliases makes of it."""
    return home + OWN + b'.cdb'


def there(path):
    """Is there such a file?"""
    try:
        unix.stat(path)
    except FileNotFoundError:
        return False
    return True
