"""Lists of addresses in DNS (RFC 5782), with weights.

    control/dnsbl:      zen.example.org 3 =127.0.0.2-11
                        other.example.net
                        allow.example.com -5

    the zone; how much a listing weighs (1; below zero it speaks for the client); which answers count (all of
    127.0.0.0/8), the last number perhaps a range, several separated by commas

127.255.255.0/24 is how lists say that they will not answer (a public resolver, too many questions), and an answer
outside of 127.0.0.0/8 is none at all: both are trouble of the list, and nobody is refused for them.
"""
from qpy.core import address, ip, text

WEIGHT_MOST = 1000
LAST = 255


class Zone:
    """One line.  answers: [(first three bytes, lowest, highest)], empty for all."""

    __slots__ = ('name', 'weight', 'answers')

    def __init__(self, name, weight=1, answers=()):
        self.name, self.weight, self.answers = name, weight, answers


class Weighed:
    """weight; listed: names of the lists, if that is enough to refuse; trouble: why it cannot be said, or b''."""

    __slots__ = ('weight', 'listed', 'trouble')

    def __init__(self, weight, listed=(), trouble=b''):
        self.weight, self.listed, self.trouble = weight, listed, trouble


def parse(line):
    """The Zone of a line; ValueError says in words what is wrong."""
    name, *words = [word for word in line.replace(b'\t', b' ').split(b' ') if word]
    if not address.valid_domain(name) or b'.' not in name:
        raise ValueError('not a domain; write ZONE [WEIGHT] [=127.0.0.2-11]')
    weight, answers = 1, ()
    for word in words:
        if word[:1] == b'=':
            answers = tuple(parse_answer(part) for part in word[1:].split(b','))
        else:
            weight = parse_weight(word)
    return Zone(text.lower(name), weight, answers)


def parse_weight(word):
    """A number, perhaps below zero; ValueError."""
    number = text.parse_uint(word.removeprefix(b'-'), WEIGHT_MOST)
    if not number:
        raise ValueError('a weight is a number from -%d to %d, and not 0' % (WEIGHT_MOST, WEIGHT_MOST))
    return -number if word[:1] == b'-' else number


def parse_answer(part):
    """(first three bytes, lowest, highest) of `127.0.0.2-11`; ValueError."""
    front, _, last = part.rpartition(b'.')
    low, dash, high = last.partition(b'-')
    numbers = address.parse_ipv4(front + b'.' + low), text.parse_uint(high if dash else low, LAST)
    if numbers[0] is None or numbers[1] is None or numbers[0][0] != 127 or numbers[1] < numbers[0][3]:
        raise ValueError('an answer is an address such as 127.0.0.2 or 127.0.0.2-11')
    return numbers[0][:3], numbers[0][3], numbers[1]


def query(packed, zone):
    """The name to ask for (RFC 5782, 2.1 and 2.4)."""
    return ip.backwards(packed) + b'.' + zone


def weigh(zones, answers, threshold):
    """Weighed.  answers: for each zone (status, reason, [addresses]).

    Lists that did not answer matter only if they could still turn the decision."""
    weight, listed, unknown, reasons = 0, [], [], []
    for zone, (status, reason, values) in zip(zones, answers, strict=True):
        wrong = trouble_of(status, reason, values)
        if wrong:
            unknown.append(zone.weight)
            reasons.append(zone.name + b': ' + wrong)
        elif counts(zone, values):
            weight += zone.weight
            listed += [zone.name] * (zone.weight > 0)
    least = weight + sum(w for w in unknown if w < 0)
    most = weight + sum(w for w in unknown if w > 0)
    if least >= threshold:
        return Weighed(weight, listed)
    return Weighed(weight, (), b'; '.join(reasons) if most >= threshold else b'')


def trouble_of(status, reason, values):
    """Why an answer of a list says nothing; b'' if it does."""
    if status == b'temp':
        return reason
    for value in values:
        packed = address.parse_ipv4(value)
        if packed is None or packed[0] != 127:
            return b'answered %s, which no list does' % value
        if packed[:3] == b'\x7f\xff\xff':
            return b'refuses to answer (%s)' % value
    return b''


def counts(zone, values):
    """Is one of the answers among those that the line names?"""
    packed = [address.parse_ipv4(value) for value in values]
    return any(not zone.answers or any(value[:3] == front and low <= value[3] <= high
                                       for front, low, high in zone.answers) for value in packed)
