"""Draws the benchmark's figures: where the CPU time of a message goes, and a message's time on an idle system."""

WIDTH, LEFT, ROW, TEXT_SIZE = 900, 110, 44, 13
COLOURS = ('#4269d0', '#efb118', '#ff725c', '#6cc5b0', '#3ca951', '#ff8ab7', '#a463f2', '#97bbf5', '#9c6b4e', '#9498a0')
HEAD = ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">\n'
        '<rect width="100%%" height="100%%" fill="white"/>\n')
LABELS = {'master': 'processes that have ended', 'seed': 'local', 'rspawn': 'remote'}    # whose time it is, mostly
STAGES = (('dialogue ms', 'SMTP dialogue'), ('until 250 ms', 'text, queue, synced, 250'), ('then Maildir ms', 'delivery'))


def draw(path, figures):
    """figures: {work: {server: {'figures': {...}, 'cost': {program: [user, system, wake-ups]}}}}."""
    parts, top = [], 10
    rows = [('%s, %s' % (server, work), shares(figures[work][server]['cost'])) for work in ('local', 'relay')
            if work in figures for server in ('qpy', 'Postfix')]
    if rows:
        top = chart(parts, top, 'CPU time per message by process, microseconds', rows, '%.0f')
    if 'latency' in figures:
        rows = [(server, [(words, figures['latency'][server]['figures'][name]) for name, words in STAGES])
                for server in ('qpy', 'Postfix')]
        top = chart(parts, top, 'One message on an idle system, milliseconds', rows, '%.2f')
    with open(path, 'w') as file:
        file.write(HEAD % (WIDTH, top) + '\n'.join(parts) + '\n</svg>\n')


def shares(cost):
    """[(program, microseconds)], the large ones by name, the others together."""
    sums = {LABELS.get(program, program): user + system for program, (user, system, _) in cost.items()}
    large = sorted((item for item in sums.items() if item[1] >= 10), key=lambda item: -item[1])[:9]
    rest = sum(sums.values()) - sum(value for _, value in large)
    return large + ([('others', rest)] if rest >= 1 else [])


def chart(parts, top, title, rows, form):
    """Horizontal bars of coloured pieces; returns where the next chart may begin."""
    longest = max(sum(value for _, value in pieces) for _, pieces in rows)
    scale = (WIDTH - LEFT - 70) / longest
    colours = {}
    parts.append('<text x="10" y="%d" font-weight="bold">%s</text>' % (top + 16, title))
    top += 26
    for label, pieces in rows:
        parts.append('<text x="10" y="%d">%s</text>' % (top + 18, label))
        x = float(LEFT)
        for name, value in pieces:
            colour = colours.setdefault(name, COLOURS[len(colours) % len(COLOURS)])
            piece(parts, x, top, value * scale, colour, name, form % value)
            x += value * scale
        parts.append('<text x="%.0f" y="%d">%s</text>' % (x + 6, top + 18, form % sum(value for _, value in pieces)))
        top += ROW
    return top + 8


def piece(parts, x, top, width, colour, name, value):
    """One piece of a bar, with its name in or below it if there is room, and always as its title."""
    parts.append('<rect x="%.1f" y="%d" width="%.1f" height="26" fill="%s"><title>%s: %s</title></rect>' % (
        x, top, max(width, 0.5), colour, name, value))
    if width > 7 * max(len(name), len(value)):
        parts.append('<text x="%.1f" y="%d" font-size="11" fill="white">%s</text>' % (x + 3, top + 17, value))
        parts.append('<text x="%.1f" y="%d" font-size="10">%s</text>' % (x + 3, top + 37, name))
    elif width > 5 * len(name):
        parts.append('<text x="%.1f" y="%d" font-size="10">%s</text>' % (x + 1, top + 37, name))
