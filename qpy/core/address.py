"""Addresses: the wire's quoted form, and the canonical unquoted form that everything inside uses.

Canonical: local part as it is meant, without quotes, then the last `@` and the domain. No CR, LF or NUL.

    <joe@example.com>              joe@example.com
    <"a b"@example.com>            a b@example.com
    <@relay.example:joe@x.example> joe@x.example      the route is dropped, RFC 5321 appendix C
    <joe>                          joe                no domain: qmail's, sent on to envnoathost
    <>                             (empty)            the null sender
"""

ADDRESS_MAX = 900       # bytes of a canonical address taken from the network, qmail's limit
QUEUE_MAX = 1002        # bytes of an address in the queue, qmail-queue's limit
DOMAIN_MAX = 255        # RFC 5321 4.5.3.1.2
LABEL_MAX = 63          # RFC 1035 2.3.4
DOUBLE_BOUNCE = b'#@[]'     # sender of a double bounce: the one literal that is no address

SYNTAX, EIGHT_BIT, LONG = 'syntax', '8-bit', 'long'

_ALNUM = b'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
_DOTTED = _ALNUM + b"!#$%&'*+-/=?^_`{|}~."      # RFC 5321 4.1.2 atext, and the dot
_DOMAIN = _ALNUM + b'-_.'
_QTEXT = bytes(range(32, 127))                  # RFC 5321 4.1.2 qtextSMTP and quoted-pairSMTP
_HEX = b'0123456789abcdefABCDEF'
_DIGITS = b'0123456789'
_HIGH = bytes(range(128, 256))                    # RFC 6531 3.3: beside all of these, in valid UTF-8


class AddressError(ValueError):
    """An address that is refused; `kind` is SYNTAX, EIGHT_BIT (needs SMTPUTF8, RFC 6531) or LONG."""

    def __init__(self, kind):
        ValueError.__init__(self, kind)
        self.kind = kind


def split(address: bytes) -> tuple:
    """(local, domain) of a canonical address, at the last `@`; domain is empty if there is none."""
    local, at, domain = address.rpartition(b'@')
    return (local, domain) if at else (address, b'')


def quote(address: bytes) -> bytes:
    """The wire form, without brackets: the local part quoted if it must be (qmail's quote.c), domain
    unaltered."""
    local, at, domain = address.rpartition(b'@')
    if not at:
        local, domain = domain, b''
    if not address or plain(local):
        return address
    for byte in (b'\\', b'"', b'\r', b'\n'):
        local = local.replace(byte, b'\\' + byte)
    return b'"' + local + b'"' + at + domain


def plain(local: bytes) -> bool:
    """May this local part stand without quotes (RFC 5321 Dot-string; RFC 6531 3.3: UTF-8 is atext, too)?"""
    atext = _DOTTED if local.isascii() or local.decode('utf-8', 'ignore').encode() != local else _DOTTED + _HIGH
    return (bool(local) and not local.translate(None, atext)
            and local[:1] != b'.' and local[-1:] != b'.' and b'..' not in local)


def unquote(wire: bytes) -> bytes:
    """The canonical form of a bare `local@domain` in wire form. Raises AddressError."""
    address, end = _mailbox(wire, 0, b'')
    if end != len(wire):
        raise AddressError(SYNTAX)
    return address


def parse_path(arg: bytes, in_ascii=None) -> tuple:
    """(canonical address, what follows) of MAIL's or RCPT's argument. Raises AddressError.

    Path of RFC 5321 4.1.2; besides: no brackets (up to the first blank), no domain, and dots anywhere in the
    local part, as qmail. `<>` gives the empty address; without brackets an empty one is an error.

    in_ascii: the address may be internationalised (RFC 6531); this says what its domain is in ASCII, or None."""
    if in_ascii and not arg.isascii():
        return _international(arg, in_ascii)
    if arg[:1] != b'<':
        address, end = _mailbox(arg, 0, b' ')
        return address, arg[end:].strip(b' ')
    end = arg.find(b'>')
    if end == 1:
        address, end = b'', 2
    elif not arg[1:end].translate(None, _DOTTED + b'@'):        # the common case, at speed
        address, end = _simple(arg[1:end]), end + 1
    else:
        address, end = _bracketed(arg)
    if arg[end:end + 1] not in (b'', b' '):
        raise AddressError(SYNTAX)
    return address, arg[end:].strip(b' ')


def _international(arg, in_ascii):
    """parse_path for an argument that holds more than ASCII; such an address has no route."""
    try:
        arg.decode('utf-8')
    except UnicodeDecodeError:
        raise AddressError(SYNTAX) from None
    bracket = arg[:1] == b'<'
    address, end = _mailbox(arg, 1 if bracket else 0, b'>' if bracket else b' ', _HIGH, in_ascii)
    end += bracket
    if bracket and arg[end - 1:end] != b'>' or arg[end:end + 1] not in (b'', b' '):
        raise AddressError(SYNTAX)
    return address, arg[end:].strip(b' ')


def _simple(text):
    """A mailbox that holds nothing but atoms, dots and `@`."""
    local, at, domain = text.partition(b'@')
    if not local or (at and not valid_domain(domain)):
        raise AddressError(SYNTAX)
    return _measured(text)


def _bracketed(arg):
    start = _after_route(arg, 1) if arg[1:2] == b'@' else 1
    address, end = _mailbox(arg, start, b'>')
    if arg[end:end + 1] != b'>':
        raise AddressError(SYNTAX)
    return address, end + 1


def _after_route(arg, start):
    """Where the mailbox begins after `@a,@b:` (RFC 5321 A-d-l)."""
    while arg[start:start + 1] == b'@':
        end = _domain_end(arg, start + 1, b',:')
        if not valid_domain(arg[start + 1:end]):
            raise AddressError(_kind(arg[start:end]))
        start = end + 1
        if arg[end:start] == b':':
            return start
    raise AddressError(SYNTAX)


def _mailbox(text, start, stop, high=b'', in_ascii=None):
    """(canonical address, index of the stop byte or of the end) of the mailbox at `start`.  high: bytes beyond ASCII
    that it may hold."""
    local, at = _local_part(text, start, stop, high)
    if text[at:at + 1] != b'@':
        if b'@' in local:           # "a@b" without a domain would become another address
            raise AddressError(SYNTAX)
        return _measured(local), at
    end = _domain_end(text, at + 1, stop)
    domain = text[at + 1:end]
    if high and not domain.isascii():
        domain = in_ascii(domain) or b''
    if not valid_domain(domain) and local + b'@' + domain != DOUBLE_BOUNCE:
        raise AddressError(_kind(domain))
    return _measured(local + b'@' + domain), end


def _local_part(text, start, stop, high=b''):
    """(unquoted local part, index of what follows): words, with dots around each quoted one (RFC 5322
    4.4)."""
    parts, at, after_quoted = [], start, False
    while at < len(text) and text[at:at + 1] != b'@' and (not stop or text[at:at + 1] != stop):
        if text[at:at + 1] == b'"':
            if after_quoted or (parts and parts[-1][-1:] != b'.'):
                raise AddressError(SYNTAX)
            word, at = _quoted_string(text, at + 1, high)
            after_quoted = True
        else:
            word, at = _atoms(text, at, stop, high)
            if after_quoted and word[:1] != b'.':
                raise AddressError(SYNTAX)
            after_quoted = False
        parts.append(word)
    local = b''.join(parts)
    if not local:
        raise AddressError(SYNTAX)
    return local, at


def _atoms(text, start, stop, high=b''):
    """(run of atoms and dots, index after it)."""
    end = start
    while end < len(text) and text[end:end + 1] not in (b'@', b'"') and text[end:end + 1] != stop:
        end += 1
    run = text[start:end]
    if run.translate(None, _DOTTED + high):
        raise AddressError(_kind(run))
    return run, end


def _quoted_string(text, at, high=b''):
    """(content of the quoted string whose opening quote is just before `at`, index after the closing one)."""
    out = bytearray()
    while at < len(text):
        byte = text[at]
        if byte == 0x22:
            return bytes(out), at + 1
        if byte == 0x5c:
            at += 1
            byte = text[at] if at < len(text) else 0
        if byte not in _QTEXT and byte not in high:
            raise AddressError(EIGHT_BIT if byte > 127 else SYNTAX)
        out.append(byte)
        at += 1
    raise AddressError(SYNTAX)


def _domain_end(text, start, stops):
    """Index of the first of `stops` after the domain at `start`; a colon inside a literal does not count."""
    if text[start:start + 1] == b'[':
        start = max(text.find(b']', start), start)
    found = [text.find(stops[n:n + 1], start) for n in range(len(stops))]
    return min([at for at in found if at >= 0], default=len(text))


def _measured(address):
    if len(address) > ADDRESS_MAX:
        raise AddressError(LONG)
    return address


def _kind(piece):
    return EIGHT_BIT if not piece.isascii() else SYNTAX


# Domains: the one function that says what a domain is.

def valid_domain(domain: bytes) -> bool:
    """Is this a Domain or an address literal of RFC 5321 4.1.2? Underscores are let pass; a last label of
    digits alone is not (it would be an address in disguise), nor is a trailing dot."""
    if domain[:1] == b'[':
        return parse_literal(domain) is not None
    if not 0 < len(domain) <= DOMAIN_MAX or domain.translate(None, _DOMAIN):
        return False
    labels = domain.split(b'.')
    for label in labels:
        if not 0 < len(label) <= LABEL_MAX or label[:1] == b'-' or label[-1:] == b'-':
            return False
    return not labels[-1].isdigit()


def parse_literal(literal: bytes) -> 'bytes | None':
    """4 or 16 address bytes of `[192.0.2.1]` or `[IPv6:2001:db8::1]`; None for anything else (RFC 5321
    4.1.3)."""
    if literal[:1] != b'[' or literal[-1:] != b']':
        return None
    text = literal[1:-1]
    if text[:5].upper() == b'IPV6:':
        return parse_ipv6(text[5:])
    return parse_ipv4(text)


def parse_ipv4(text: bytes) -> 'bytes | None':
    """4 bytes of a strict dotted quad: four decimal numbers up to 255, no leading zeros; else None."""
    if text.translate(None, _DIGITS) != b'...':
        return None
    parts = text.split(b'.')
    for part in parts:
        if not 0 < len(part) <= 3 or (part[:1] == b'0' and part != b'0'):
            return None
    numbers = [int(part) for part in parts]
    return bytes(numbers) if max(numbers) < 256 else None


def parse_ipv6(text: bytes) -> 'bytes | None':
    """16 bytes of an IPv6 address in text (RFC 4291 2.2, no zone); else None."""
    head, gap, tail = text.partition(b'::')
    left, right = _groups(head), _groups(tail, last=True)
    if not gap:
        left, right = _groups(text, last=True), b''
    if left is None or right is None or len(left) + len(right) > (14 if gap else 16):
        return None
    if not gap and len(left) != 16:
        return None
    return left + bytes(16 - len(left) - len(right)) + right


def _groups(text, last=False):
    """Bytes of hex groups parted by colons; a dotted quad may be the last. None if malformed."""
    out = b''
    parts = text.split(b':') if text else []
    for n, part in enumerate(parts):
        if last and n == len(parts) - 1 and b'.' in part:
            quad = parse_ipv4(part)
            if quad is None:
                return None
            return out + quad
        if not 0 < len(part) <= 4 or part.translate(None, _HEX):
            return None
        out += int(part, 16).to_bytes(2, 'big')
    return out


def normal_ip(text: bytes) -> bytes:
    """An IP address as text with `::ffff:192.0.2.1` written as `192.0.2.1`; anything else as it is."""
    if text[:7].lower() == b'::ffff:' and parse_ipv4(text[7:]):
        return text[7:]
    return text
