"""qpy-predate, as the caller: runs a program with a Date field in local time and then descriptor 0 as its input.

qpy-predate program [argument ...]      exit code of the program; 100 usage, 111 trouble
"""
from qpy import unix
from qpy.core import dates, exits
from qpy.lib import program
from qpy.user import wrapped


def main(home, args):
    program.name = b'predate'
    if not args:
        program.complain(b'usage: qpy-predate program [argument ...]')
        return exits.PERM
    reading, writing = unix.pipe2(unix.O_CLOEXEC)
    child = wrapped.start(args, reading)
    unix.close(reading)
    field = b'Date: ' + dates.zoned_date(*unix.localtime(int(unix.time()))) + b'\n'
    try:
        for piece in wrapped.after(field, wrapped.rest_of(0)):
            unix.write_all(writing, piece)
    except BrokenPipeError:
        pass                                    # the program has heard enough; its exit code counts
    except unix.error as problem:
        unix.kill(child, unix.SIGTERM)          # half a message must not look like a whole one
        wrapped.wait(child)
        raise program.Fatal(exits.TEMP, b'unable to read the message: ' + program.reason(problem)) from problem
    unix.close(writing)
    code = wrapped.wait(child)
    return code if code >= 0 else exits.TEMP
