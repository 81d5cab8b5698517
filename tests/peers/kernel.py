"""A Linux of its own that runs as a plain process (Debian's user-mode-linux): for what the kernel at hand does not give.

    said = run(tmp_path, script, *words)    what a Python program has printed that was process 1 there, as root

It sees the file system of this machine read-only, with an empty /run and control groups of version 2 with all controllers.
RuntimeError, with the reason, where it cannot be had.
"""
import os
import subprocess

from tests.peers import debian

PATIENCE = 60
FIRST = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
echo begin
/usr/bin/python3 -IS - %s <<'END' 2>&1
%s
END
echo "end $?"
echo o >/proc/sysrq-trigger
read wait
"""


def run(directory, script, *words):
    """directory: an empty one to work in."""
    linux = debian.unpack('user-mode-linux') + '/usr/bin/linux.uml'
    first = os.path.join(directory, 'first')
    with open(first, 'w') as file:
        file.write(FIRST % (' '.join("'%s'" % word for word in words), script))
    os.chmod(first, 0o755)
    try:
        done = subprocess.run([linux, 'mem=256M', 'root=/dev/root', 'rootfstype=hostfs', 'rootflags=/', 'ro', 'init=' + first,
                               'con=null', 'con0=null,fd:1', 'quiet', 'umid=first', 'uml_dir=%s/' % directory],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
                              env={'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'HOME': str(directory), 'TMPDIR': str(directory)})
    except subprocess.TimeoutExpired:
        raise RuntimeError('the Linux of Debian\'s user-mode-linux does not come to an end here') from None
    said = done.stdout.replace('\r', '').partition('begin\n')[2].rpartition('end ')
    if not said[1]:
        raise RuntimeError('Debian\'s user-mode-linux does not start here: ' + (done.stdout + done.stderr).strip()[-200:])
    assert said[2].split()[0] == '0', said[0]
    return said[0]
