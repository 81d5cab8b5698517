"""What /proc/self/mountinfo says about a path.  Pure."""


def file_system(mountinfo, path):
    """The kind of file system that holds an absolute path, by the bytes of /proc/self/mountinfo; b'' if that is
    unclear."""
    best, kind = -1, b''
    for line in mountinfo.split(b'\n'):
        before, _, after = line.partition(b' - ')
        words = before.split(b' ')
        if len(words) < 6 or not after:
            continue
        place = unescaped(words[4])
        if (path == place or path.startswith(place.rstrip(b'/') + b'/')) and len(place) >= best:
            best, kind = len(place), after.partition(b' ')[0]
    return kind


def unescaped(word):
    """A path of mountinfo: blanks, tabs, newlines and backslashes stand there as three octal digits."""
    for code, byte in ((b'\\040', b' '), (b'\\011', b'\t'), (b'\\012', b'\n'), (b'\\134', b'\\')):
        word = word.replace(code, byte)
    return word
