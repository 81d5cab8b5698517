"""A Debian of its own to install things in and to boot: namespaces over a directory that mmdebstrap has made once.

    with Machine() as machine: machine.run('dpkg', '-i', ...)         process 1 is a sleeper
    with Machine(systemd=True) as machine: machine.run('systemctl', ...)   process 1 is Debian's systemd

Mounts, processes, network, names, and control groups are private, and all of it goes with the machine.  Needs root,
overlayfs, and Debian's archive the first time.  RuntimeError, with the reason, where it cannot be had.
"""
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time

from tests.peers import debian

PACKAGES = ('cron', 'python3', 'python3-dnspython', 'python3-click', 'systemd', 'systemd-sysv', 'adduser', 'runit',
            'daemontools', 'ucspi-tcp')
PATIENCE = 60

BOOT = r"""
set -e
root=$1; shift
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$root"; shift 2
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
    touch "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -o remount,bind,ro "$root/sys"
ip link set lo up
hostname machine.test
echo machine.test >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 machine.test machine\n::1 localhost\n' >"$root/etc/hosts"
mkdir "$root/old"
cd "$root"
pivot_root . old            # and no chroot: who is in one gets no user namespace
exec env -i container=qpy PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c 'umount -l /old; rmdir /old; exec "$@"' sh "$@"
"""


def base():
    """The directory with the Debian that all machines share, made once."""
    root = os.path.join(debian.CACHE, 'machine-' + hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:16])
    if os.path.isdir(root):
        return root
    if os.geteuid() != 0:
        raise RuntimeError('a machine needs root')
    tool = debian.program('mmdebstrap', 'mmdebstrap')
    os.makedirs(debian.CACHE, exist_ok=True)
    work = os.path.join(tempfile.mkdtemp(prefix='machine-', dir=debian.CACHE), 'root')
    made = subprocess.run([tool, '--quiet', '--variant=essential', '--include=' + ','.join(PACKAGES), release(), work],
                          capture_output=True, text=True, timeout=400)
    try:
        if made.returncode:
            raise RuntimeError('mmdebstrap: ' + made.stderr.strip().rpartition('\n')[2])
        if not os.path.isdir(root):         # another run may have been faster
            os.rename(work, root)
    finally:
        shutil.rmtree(os.path.dirname(work), ignore_errors=True)
    return root


def release():
    """The name of the Debian that this machine is, or the one we are written for."""
    with open('/etc/os-release') as file:
        words = dict(line.strip().split('=', 1) for line in file if '=' in line)
    return words.get('VERSION_CODENAME', 'bookworm') if words.get('ID') == 'debian' else 'bookworm'


class Machine:
    """One machine that runs; path(name): where a file of it is for us."""

    def __init__(self, systemd=False):
        lower = base()
        self.top = tempfile.mkdtemp(prefix='qpy-machine-', dir='/var/tmp')
        os.chmod(self.top, 0o755)
        for name in ('root', 'layer', 'layer/upper', 'layer/work'):
            os.mkdir(os.path.join(self.top, name), 0o755)
        self.process, self.group, self.one = None, None, None
        try:
            self.group = control_group(os.path.basename(self.top))
            init = ['/lib/systemd/systemd', '--system'] if systemd else ['/bin/sleep', 'infinity']
            self.process = subprocess.Popen(
                ['sh', '-c', 'echo $$ >"$0/cgroup.procs" && exec "$@"', self.group, 'unshare', '--mount', '--pid', '--uts',
                 '--ipc', '--net', '--cgroup', '--fork', '--kill-child', 'sh', '-c', BOOT, 'boot', self.path(), lower,
                 os.path.join(self.top, 'layer'), *init],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
            self.await_that(self.booted, 'process 1')
            if systemd:
                self.await_that(lambda: self.call('systemctl', 'is-system-running', '--wait').stdout.strip() in
                                ('running', 'degraded'), 'end of booting')
        except BaseException:
            self.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def path(self, name=''):
        """A file of the machine as seen from outside, once process 1 runs."""
        if self.one is None:
            return os.path.join(self.top, 'root')
        return '/proc/%d/root/%s' % (self.one, name.lstrip('/'))

    def booted(self):
        """Whether process 1 has become what it is to be."""
        if self.process.poll() is not None:
            raise RuntimeError('no machine: ' + self.process.stdout.read().decode(errors='replace').strip())
        with open('/proc/%d/task/%d/children' % (self.process.pid, self.process.pid)) as file:
            for pid in file.read().split():
                with open('/proc/%s/comm' % pid) as name:
                    if name.read().strip() in ('systemd', 'sleep'):
                        self.one = int(pid)
        return self.one

    def await_that(self, condition, what, patience=PATIENCE):
        """Look until it holds: a machine tells nobody outside."""
        give_up = time.monotonic() + patience
        while True:
            value = condition()
            if value:
                return value
            assert time.monotonic() < give_up, 'no ' + what
            time.sleep(0.05)

    # --- inside ---

    def command(self, *words):
        """The words that run a command on the machine."""
        return ['nsenter', '-t', str(self.one), '-m', '-p', '-u', '-i', '-n', '-C', '-r', '-w', '--', 'env', '-i',
                'PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root', 'DEBIAN_FRONTEND=noninteractive', *words]

    def call(self, *words, data='', timeout=200):
        """Run a command there; its CompletedProcess."""
        return subprocess.run(self.command(*words), input=data, capture_output=True, text=True, timeout=timeout)

    def run(self, *words, data='', timeout=200):
        """Run a command there, to its success; what it has printed."""
        done = self.call(*words, data=data, timeout=timeout)
        assert done.returncode == 0, '%s: exit %d\n%s' % (' '.join(words), done.returncode, done.stdout + done.stderr)
        return done.stdout

    def start(self, *words, **more):
        """Start a command there; it ends with the machine."""
        return subprocess.Popen(self.command(*words), stdin=subprocess.DEVNULL, **more)

    def read(self, name):
        """A file of the machine."""
        with open(self.path(name)) as file:
            return file.read()

    def write(self, name, text, mode=0o644):
        """Write a file of the machine."""
        with open(self.path(name), 'w') as file:
            file.write(text)
        os.chmod(self.path(name), mode)

    def put(self, source, name):
        """Copy a file or a directory into the machine."""
        copy = shutil.copytree if os.path.isdir(source) else shutil.copy
        copy(source, self.path(name))

    def end(self):
        """Everything that runs there ends, and nothing stays."""
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()
        if self.group:
            remove_group(self.group)
        shutil.rmtree(self.top, ignore_errors=True)


# --- control groups --------------------------------------------------------------------------------------------

def control_group(name):
    """A new control group (version 2) of this name, so that a systemd in it thinks it is all there is."""
    with open('/proc/self/mounts') as file:
        places = [line.split()[1] for line in file if line.split()[2] == 'cgroup2']
    if not places:
        raise RuntimeError('no control groups of version 2 here')
    path = os.path.join(places[0], name)
    try:
        os.mkdir(path)
    except OSError as problem:
        raise RuntimeError('unable to make a control group: %s' % problem) from None
    return path


def remove_group(path):
    """End what is in it, and remove it with all below it."""
    with open(path + '/cgroup.kill', 'w') as file:
        file.write('1')
    give_up = time.monotonic() + PATIENCE
    for directory, _, _ in os.walk(path, topdown=False):
        while True:
            try:
                os.rmdir(directory)
                break
            except OSError:                 # its processes are still ending
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.02)
