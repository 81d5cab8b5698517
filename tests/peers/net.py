"""Hosts on a network of their own: namespaces joined by veth, with real ports 25 and 53.  Needs root and
iproute2.

    with Net(('a', 'b')) as net: net.hub, net.hosts['a'] ...
The hub routes: it has HUB, and any address under WORLD that is asked for (Net.world).  Host number n has
10.99.n.2 and fd99:n::2.  Nothing of it is visible outside, and all of it goes when its holders end: with the
test's process.
"""
import ctypes
import os
import subprocess
import threading

HUB = '10.99.0.1'           # the DNS server
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def call(pid, function):
    """The result of function(), run in a thread that is on the network of process pid."""
    result = []

    def thread():
        try:
            with open('/proc/%d/ns/net' % pid, 'rb') as namespace:
                if LIBC.setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), 'setns')
            result[:] = [function(), None]
        except Exception as problem:        # carried to the caller's thread
            result[:] = [None, problem]
    worker = threading.Thread(target=thread)
    worker.start()
    worker.join()
    if result[1]:
        raise result[1]
    return result[0]


class Host:
    """A mount namespace, and unless told otherwise a network namespace too, held by one sleeping process."""

    def __init__(self, name, network=True):
        self.name, self.address = name, HUB
        self.files, self.overlaid = {}, False
        kinds = ['-n', '-m'] if network else ['-m']
        self.holder = subprocess.Popen(['unshare', *kinds, 'sh', '-c',
                                        'mount --make-rprivate / && echo && read x'],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self.holder.stdout.readline() == b'\n', 'no namespace to be had'
        self.prefix = ['nsenter', '-t', str(self.holder.pid), *kinds, '--']
        if network:
            self.run('ip', 'link', 'set', 'lo', 'up')

    def run(self, *command, data=b''):
        """Run a command on this host, to its success, with data as its input; its output."""
        done = subprocess.run([*self.prefix, *command], capture_output=True, input=data)
        if done.returncode:
            raise RuntimeError('%s: exit %d\n%r'
                               % (' '.join(command), done.returncode, done.stdout + done.stderr))
        return done.stdout.decode()

    def call(self, function):
        """The result of function(), run in a thread that is on this host: the sockets it makes stay there."""
        return call(self.holder.pid, function)

    def etc(self, directory, files):
        """Let this host see these as files of its /etc: {name: text}; directory: where they may lie."""
        self.files.update(files)
        top = os.path.join(directory, 'etc.' + self.name)
        os.makedirs(top, mode=0o755, exist_ok=True)
        for name, text in self.files.items():
            os.makedirs(os.path.dirname(os.path.join(top, name)), exist_ok=True)
            with open(os.path.join(top, name), 'w') as file:
                file.write(text)
        # Over the directory: a mount on a file is lost when somebody outside replaces that file.
        if self.overlaid:
            self.run('umount', '/etc')
        self.run('mount', '-t', 'overlay', 'overlay', '-o', 'lowerdir=%s:/etc' % top, '/etc')
        self.overlaid = True

    def resolver(self, address, directory):
        """Make `address` the DNS server of this host."""
        self.etc(directory, {'resolv.conf': 'nameserver %s\noptions timeout:1 attempts:2\n' % address})

    def accounts(self, users, directory):
        """Let users, (name, uid, home), be known on this host, beside those the machine has now."""
        with open('/etc/passwd') as known:
            lines = [known.read()]
        lines += ['%s:*:%d:%d::%s:/bin/sh\n' % (name, uid, uid, home) for name, uid, home in users]
        self.etc(directory, {'passwd': ''.join(lines)})

    def usr(self, *roots):
        """Let this host see the files under these directories, the first of them first, beside those of its
        /usr."""
        self.run('mount', '-t', 'overlay', 'overlay', '-o', 'lowerdir=%s:/usr' % ':'.join(roots), '/usr')

    def end(self):
        """Let the namespaces go."""
        self.holder.stdin.close()
        self.holder.stdout.close()
        self.holder.wait(10)


class Net:
    """A hub and some hosts around it."""

    def __init__(self, names, directory):
        self.hub, self.hosts, self.addresses = Host('hub'), {}, 0
        self.hub.run('ip', 'addr', 'add', HUB + '/32', 'dev', 'lo')
        self.hub.run('sh', '-c',
                     'echo 1 | tee /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding')
        for number, name in enumerate(names, 1):
            self._join(number, name).resolver(HUB, directory)

    def _join(self, number, name):
        host, link = Host(name), 'h%d' % number
        self.hosts[name] = host
        host.address, gateway = '10.99.%d.2' % number, '10.99.%d.1' % number
        self.hub.run('ip', 'link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns',
                     str(host.holder.pid))
        self.hub.run('ip', 'addr', 'add', gateway + '/24', 'dev', link)
        self.hub.run('ip', '-6', 'addr', 'add', 'fd99:%d::1/64' % number, 'dev', link, 'nodad')
        self.hub.run('ip', 'link', 'set', link, 'up')
        host.run('ip', 'addr', 'add', host.address + '/24', 'dev', 'eth0')
        host.run('ip', '-6', 'addr', 'add', 'fd99:%d::2/64' % number, 'dev', 'eth0', 'nodad')
        host.run('ip', 'link', 'set', 'eth0', 'up')
        host.run('ip', 'route', 'add', 'default', 'via', gateway)
        host.run('ip', '-6', 'route', 'add', 'default', 'via', 'fd99:%d::1' % number)
        return host

    def world(self, six=False):
        """A fresh address of the outer world, which is on the hub: its ports are closed until somebody
        listens."""
        self.addresses += 1
        address = 'fd98::%x' % self.addresses if six else '10.98.0.%d' % self.addresses
        self.hub.run('ip', *(('-6',) if six else ()), 'addr', 'add', address + ('/128' if six else '/32'),
                     'dev', 'lo',
                     *(('nodad',) if six else ()))
        return address

    def hole(self):
        """A fresh address that swallows everything sent to it."""
        self.addresses += 1
        address = '10.97.0.%d' % self.addresses
        self.hub.run('ip', 'route', 'add', 'blackhole', address + '/32')
        return address

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for host in (*self.hosts.values(), self.hub):
            host.end()
