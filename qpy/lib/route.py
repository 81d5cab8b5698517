"""The control files that routing depends on, as core.route takes them."""
from qpy.core import route
from qpy.lib import controls

NAMES = (b'locals', b'virtualdomains', b'percenthack', b'envnoathost', b'me')


def load(home):
    """route.Controls of DIR/control. Raises controls.Broken, OSError."""
    return route.Controls(controls.lookup(home, b'locals'), controls.mapping_lines(home, b'virtualdomains'),
                          controls.lookup(home, b'percenthack') or {}, controls.line(home, b'envnoathost'))


def watched(home):
    """The same behind .get(), which follows the files and keeps the old ones while new ones are broken."""
    return controls.Watched(home, NAMES, load)
