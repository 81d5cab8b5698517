"""users/aliases.cdb: what a value of it says, for whoever only reads it; core.aliases makes the values.

The key is a name in lower case, the value is lines: `?owner`, `&address`, `|command`, `:include file`, `#` nothing,
`!why mail for it waits`.
"""
from qpy.core import text

OWNER, INCLUDE, NOTHING, WAITS = b'?', b':', b'#', b'!'


def keys(local):
    """[key] of a local part, [its own, the one it inherits]: list+subscribe is its own alias, or, behind a .qmail file of its
    own, list's, as for Sendmail: the lists whose alias is a program have all their addresses so."""
    whole = text.lower(local)
    name = whole.partition(b'+')[0]
    return [whole] if name in (b'', whole) else [whole, name]


def parse(data):
    """(owner or b'', [(kind, word)]) of a value."""
    lines = [(line[:1], line[1:]) for line in data.split(b'\n') if line]
    owner = next((word for kind, word in lines if kind == OWNER), b'')
    return owner, [(kind, word) for kind, word in lines if kind not in (OWNER, NOTHING)]


def shown(data):
    """A value for people: `&ann@example.org, :include file, in the name of owner-list`."""
    owner, items = parse(data)
    words = [b':include: ' + word if kind == INCLUDE else kind + word for kind, word in items] or [b'nothing']
    return b', '.join(words + [b'in the name of ' + owner] * bool(owner))


def waiting(data):
    """Why mail for a name with this value waits, b'' if it does not."""
    return next((word for kind, word in parse(data)[1] if kind == WAITS), b'')
