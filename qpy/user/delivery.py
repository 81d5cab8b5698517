"""One local delivery: from a job to its .qmail lines, and the lines carried out.

    plan = delivery.prepare(job, home)    looks at the home and its .qmail, decides; Failed if it ends here
    delivery.carry_out(plan, ...)         the lines, in order: (exit code, report)

A plan of Maildir lines only may be handed to a mailbox.Batch instead.
"""
from qpy import unix
from qpy.core import address, carried, dotqmail, exits
from qpy.lib import submit
from qpy.user import child, elsewhere, mailbox
from qpy.user.mailbox import Failed, why

WHOLE = mailbox.CHUNK       # bytes of a message that is held in memory while it is delivered, if it has fewer

# Errors of open() that mean: there is no such .qmail file.  Any other is temporary.
NO_FILE = (unix.ENOENT, unix.ENOTDIR, unix.ENAMETOOLONG, unix.EISDIR, unix.ENXIO, unix.ENODEV)


class Job:
    """What is to be delivered to whom; fd is the message, read only and seekable."""

    __slots__ = ('user', 'home', 'local', 'dash', 'ext', 'host', 'sender', 'default', 'options', 'fd')

    def __init__(self, user, home, local, dash, ext, host, sender, default, options, fd):
        self.user, self.home, self.local, self.dash, self.ext = user, home, local, dash, ext
        self.host, self.sender, self.default, self.options, self.fd = host, sender, default, options, fd

    def address(self):
        """All that decides what is done with it, but for its sender and the message itself."""
        return self.user, self.home, self.local, self.dash, self.ext, self.host, self.default


class Plan:
    """A job and what its user wants done with it."""

    __slots__ = ('job', 'home_fd', 'body', 'delivered_to', 'instructions', 'is_default', 'tail', 'owner')

    def __init__(self, job):
        self.job, self.home_fd, self.body = job, -1, None
        self.delivered_to = dotqmail.delivered_to(job.local, job.host)
        self.instructions, self.is_default, self.tail, self.owner = (), False, None, b''

    def close(self):
        """Let go of the home."""
        if self.home_fd >= 0:
            unix.close_quietly(self.home_fd)
            self.home_fd = -1

    def return_path(self):
        """RPLINE."""
        return b'Return-Path: <%s>\n' % address.quote(self.job.sender).replace(b'\n', b'_')

    def maildirs(self):
        """The paths, if Maildirs are all this plan wants and there is one; else None."""
        paths = [argument for kind, argument in self.instructions if kind is dotqmail.MAILDIR]
        return paths if paths and len(paths) == len(self.instructions) else None


def prepare(job, home, real=True):
    """A Plan; Failed if the delivery ends here.  home: DIR.  real=False: only to be described (no check for loops)."""
    plan = Plan(job)
    try:
        plan.home_fd = open_home(job.home, real)
        if real:
            plan.body = look_for_loop(job.fd, plan.delivered_to)
        decide(plan, home)
    except Failed:
        plan.close()
        raise
    except unix.error as problem:
        plan.close()
        raise unforeseen(problem) from None
    return plan


def again(job, plan):
    """A Plan for one more message to the same address at the same moment: what the files said holds for it too.

    Only for a Batch that has the Maildirs of plan open: the home is not opened again.  Failed if it ends here.
    """
    other = Plan(job)
    other.instructions, other.is_default, other.tail, other.owner = (plan.instructions, plan.is_default, plan.tail,
                                                                     plan.owner)
    other.body = look_for_loop(job.fd, other.delivered_to)
    return other


def unforeseen(problem):
    """The Failed of a system call that nobody has words for."""
    return Failed(exits.TEMP, b'Temporary failure in qmail-local: %s. (#4.3.0)' % why(problem))


def open_home(home, real=True):
    """A path descriptor of the home directory, if mail may be delivered there."""
    try:
        fd = unix.open(home, unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC)
        mode = mode_of(fd)
    except unix.error as problem:
        raise Failed(exits.TEMP, b'Unable to switch to %s: %s. (#4.3.0)' % (home, why(problem))) from None
    reason = b''
    if mode & dotqmail.WRITABLE_BY_OTHERS:
        reason = b'Uh-oh: home directory is writable. (#4.7.0)'
    elif mode & dotqmail.STICKY and real:
        reason = b'Home directory is sticky: user is editing his .qmail file. (#4.2.1)'
    if reason:
        unix.close(fd)
        raise Failed(exits.TEMP, reason)
    return fd


def mode_of(fd):
    """st_mode of an open file, which is closed if it cannot be had."""
    try:
        return unix.fstat(fd).st_mode
    except unix.error:
        unix.close_quietly(fd)
        raise


def look_for_loop(fd, delivered_to):
    """The whole message if it is a short one, else None; Failed (permanent) if it has been here before."""
    portions = mailbox.pieces(fd)
    first = next(portions, b'')
    while len(first) < WHOLE and (more := next(portions, b'')):
        first += more                           # one read may give less than there is
    whole = first if len(first) < WHOLE else None
    if dotqmail.looping((first,) if whole is not None else chain(first, portions), delivered_to):
        raise Failed(exits.PERM, dotqmail.LOOPING)
    return whole


def chain(first, rest):
    """first, then what rest yields."""
    yield first
    yield from rest


# --- .qmail --------------------------------------------------------------------------------------------------

def decide(plan, home):
    """The instructions: of /etc/aliases, of a .qmail file, of .forward, or the default ones."""
    job, fd = plan.job, -1
    candidates = dotqmail.candidates(job.dash, job.ext)
    found = elsewhere.aliases(home, job, 0)
    if found is None:
        fd, plan.tail, forward_only = find(plan.home_fd, candidates[:1])
    if found is None and fd < 0:
        found = elsewhere.aliases(home, job, 1)
    if found is not None:
        plan.owner, plan.instructions = found
        return
    if fd < 0:
        fd, plan.tail, forward_only = find(plan.home_fd, candidates[1:])
    if fd < 0:
        found = elsewhere.dot_forward(home, job, plan.home_fd)
        if found is not None:
            plan.instructions, plan.is_default = found, True
            return
    choose(plan, fd, forward_only)


def find(home_fd, candidates):
    """(descriptor of the .qmail file or -1, what DEFAULT holds or None, whether it may only forward)."""
    for name, tail in candidates:
        try:
            fd = unix.open(name, unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, dir_fd=home_fd)
        except unix.error as problem:
            if problem.errno in NO_FILE:
                continue
            raise unable_to_open(name, problem) from None
        mode = mode_of(fd)
        if unix.S_ISREG(mode):
            if mode & dotqmail.WRITABLE_BY_OTHERS:
                unix.close(fd)
                raise Failed(exits.TEMP, b'Uh-oh: .qmail file is writable. (#4.7.0)')
            return fd, tail, bool(mode & dotqmail.OWNER_EXECUTE)
        unix.close(fd)
    return -1, None, False


def choose(plan, fd, forward_only):
    """The instructions: of the file, or if it is empty or there need be none, the default ones."""
    if fd < 0 and plan.job.dash:
        raise Failed(exits.PERM, dotqmail.NO_MAILBOX)
    data = read(fd) if fd >= 0 else b''
    plan.is_default = not data
    plan.instructions = dotqmail.parse(data or plan.job.default, forward_only and bool(data))


def read(fd):
    """The .qmail file, once."""
    try:
        return unix.read_all(fd, dotqmail.FILE_LIMIT)
    except unix.error as problem:
        raise Failed(exits.TEMP, b'Unable to read .qmail file: %s. (#4.3.0)' % why(problem)) from None
    finally:
        unix.close(fd)


def unable_to_open(name, problem):
    """The Failed of a .qmail file that may be there and cannot be had."""
    return Failed(exits.TEMP, b'Unable to open %s: %s. (#4.3.0)' % (name, why(problem)))


def new_sender(plan):
    """Who forwards are sent by: LOCAL-owner if there is a .qmail file of that name."""
    job = plan.job
    if not dotqmail.has_owner(job.sender):
        return job.sender
    if plan.owner:
        return plan.owner + b'@' + job.host
    owner, owner_default = dotqmail.owner_names(job.dash, job.ext)
    there = is_there(plan.home_fd, owner)
    return dotqmail.new_sender(job.sender, job.local, job.host, there, there and is_there(plan.home_fd, owner_default))


def is_there(home_fd, name):
    """Whether a file of that name exists, of any kind."""
    try:
        unix.stat(name, dir_fd=home_fd)
    except unix.error as problem:
        if problem.errno in NO_FILE:
            return False
        raise unable_to_open(name, problem) from None
    return True


# --- carrying it out -----------------------------------------------------------------------------------------

class Course:
    """A plan being carried out: what has been done, and what is still to be said."""

    __slots__ = ('plan', 'home', 'host', 'deadline', 'life', 'said', 'counts', 'forwards', 'sender', 'variables')

    def __init__(self, plan, home, host, deadline, life=-1):
        self.plan, self.home, self.host, self.deadline, self.life = plan, home, host, deadline, life
        self.said, self.counts, self.forwards = [], {b'files': 0, b'programs': 0}, []
        self.sender, self.variables = None, None

    def follow(self):
        """Carry out all lines; what ends the report of a success."""
        if any(kind is dotqmail.FORWARD and argument[:1] in (b'', b'@') for kind, argument in self.plan.instructions):
            raise Failed(exits.TEMP, dotqmail.TO_NOBODY)
        for kind, argument in self.plan.instructions:
            if self.line(kind, argument):
                break
        queued = self.forward() if self.forwards else b''
        return dotqmail.did(self.counts[b'files'], len(self.forwards), self.counts[b'programs']) + queued

    def line(self, kind, argument):
        """Carry out one line; True if it is the last one that counts."""
        if kind is dotqmail.PROGRAM:
            self.counts[b'programs'] += 1
            return self.program(argument)
        if kind is dotqmail.FORWARD:
            self.forwards.append(argument)
        elif kind is dotqmail.FAIL:
            raise Failed(exits.TEMP, argument)
        else:
            self.counts[b'files'] += 1
            (self.maildir if kind is dotqmail.MAILDIR else self.mbox)(argument)
        return False

    def maildir(self, path):
        """One Maildir line."""
        batch = mailbox.Batch(self.host)
        put(batch, None, self.plan, [path])
        problem = batch.commit()[None]
        if problem is not None:
            raise Failed(exits.TEMP, mailbox.trouble(problem))

    def mbox(self, path):
        """One mbox line."""
        plan = self.plan
        head = dotqmail.from_line(plan.job.sender, unix.time()) + plan.return_path() + plan.delivered_to
        mailbox.append(plan.home_fd, path, head, plan.job.fd)

    def program(self, command):
        """One program line; True if it said 99."""
        words = [child.SHELL, b'-c', command]
        try:
            code, printed = child.run(words, self.plan.job.fd, self.plan.home_fd, self.environment(), self.deadline,
                                      self.life)
        except child.Overstayed:
            raise Failed(exits.TEMP, b'Program ran out of time and was stopped. (#4.3.0)') from None
        except child.Forsaken:
            raise Failed(exits.TEMP, b'Program was stopped with the mail system. (#4.3.2)') from None
        except unix.error as problem:
            raise Failed(exits.TEMP, b'Unable to fork: %s. (#4.3.0)' % why(problem)) from None
        self.said.append(printed)
        if code < 0:
            raise Failed(exits.TEMP, dotqmail.CRASHED)
        result = dotqmail.program_result(code)
        if result in (exits.PERM, exits.TEMP):
            raise Failed(result, b'')
        return result == dotqmail.STOP

    def environment(self):
        """What a program finds; nothing of ours but PATH."""
        if self.variables is None:
            plan, job = self.plan, self.plan.job
            self.variables = dotqmail.environment(job.user, job.home, job.local, job.ext, job.host, job.sender,
                                                  plan.return_path())
            dotqmail.complete(self.variables, plan.tail, self.newsender(), unix.time())
            self.variables[b'PATH'] = path(self.home)
            if job.options:
                self.variables[carried.VARIABLE] = job.options
        return self.variables

    def newsender(self):
        """NEWSENDER, looked up once."""
        if self.sender is None:
            self.sender = new_sender(self.plan)
        return self.sender

    def forward(self):
        """One submission for all forward lines; the line that names it."""
        plan = self.plan
        message = chain(plan.delivered_to, mailbox.pieces(plan.job.fd))
        same = self.newsender() == plan.job.sender
        options, wishes = carried.on(plan.job.options, same)
        code, text = submit.send(self.home, self.newsender(), self.forwards, message, options,
                                 [wishes] * len(self.forwards))
        if code:
            raise Failed(exits.PERM if text[:1] == b'D' else exits.TEMP, b'Unable to forward message: %s.' % text[1:])
        return b'qp %s\n' % text


def put(batch, key, plan, paths):
    """Write a plan's message for Maildirs."""
    batch.put(key, plan.home_fd, plan.job.home, paths, plan.is_default, plan.return_path() + plan.delivered_to,
              plan.body, plan.job.fd)


def carry_out(plan, home, host, deadline, life=-1):
    """All lines in order, then the forwards: (exit code, report).

    home: DIR.  host: this machine's name, as maildir.host_part gives it.  deadline: of unix.monotonic().
    life: a pipe whose end ends programs too, or -1.
    """
    course = Course(plan, home, host, deadline, life)
    try:
        last = course.follow()
        code = exits.OK
    except Failed as end:
        code, last = end.code, end.text + b'\n' if end.text else b''
    except unix.error as problem:
        code, last = exits.TEMP, unforeseen(problem).text + b'\n'
    return code, b''.join(course.said) + last


def path(home):
    """PATH of users' programs: ours first, as under qmail-start."""
    return home + b'/bin:/usr/local/bin:/usr/bin:/bin'
