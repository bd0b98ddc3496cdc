# SPDX-License-Identifier: MIT
"""The kernel's own answer to too little memory, to compare with: a memory cgroup (v1 or v2) that swaps to a zram device with lz4.

As a command:  zram.py --limit 300M [--disk 4G] -- PROGRAM [ARG...]   runs a program so; the last line on stderr tells what zram used.
"""
import contextlib
import os
import signal
import subprocess
import sys
import time

MIB = 1 << 20


class Missing(Exception):
    """This machine cannot do it; str() says why."""


def read(path):
    with open(path) as f:
        return f.read()


def write(path, value):
    with open(path, 'w') as f:
        f.write(str(value))


def find_cgroup():
    """(version, mount point) of the hierarchy with the memory controller."""
    v2 = None
    for line in read('/proc/mounts').splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == 'cgroup' and 'memory' in options.split(','):
            return 1, where
        if kind == 'cgroup2' and 'memory' in read(where + '/cgroup.controllers').split():
            v2 = where
    if not v2:
        raise Missing('no memory cgroup is mounted')
    return 2, v2


def meminfo(name):
    for line in read('/proc/meminfo').splitlines():
        if line.startswith(name + ':'):
            return int(line.split()[1]) << 10
    return 0


class Zram:
    """A context: sets both up, and takes both down again."""

    def __init__(self, limit, disk=4 << 30):
        self.limit, self.disk = limit, disk
        self.id = self.group = None

    def __enter__(self):
        if os.geteuid() != 0:
            raise Missing('not root')
        if not os.path.exists('/sys/class/zram-control/hot_add'):
            subprocess.run(['modprobe', 'zram'], stderr=subprocess.DEVNULL, check=False)
        if not os.path.exists('/sys/class/zram-control/hot_add'):
            raise Missing('the kernel has no zram')
        self.version, mount = find_cgroup()
        try:
            self._swap()
            self._cgroup(mount)
        except (OSError, subprocess.CalledProcessError) as e:
            self.__exit__()
            raise Missing(f'zram or the memory cgroup cannot be set up: {e}') from e
        return self

    def _swap(self):
        self.id = int(read('/sys/class/zram-control/hot_add'))
        self.sys = f'/sys/block/zram{self.id}'
        if 'lz4' not in read(self.sys + '/comp_algorithm').replace('[', '').replace(']', '').split():
            raise OSError('zram has no lz4')
        write(self.sys + '/comp_algorithm', 'lz4')
        write(self.sys + '/disksize', self.disk)
        device = f'/dev/zram{self.id}'
        # At the highest priority: other swap space of the machine stays unused.
        subprocess.run(['mkswap', device], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run(['swapon', '-p', '32767', device], check=True, stderr=subprocess.DEVNULL)

    def _cgroup(self, mount):
        if self.version == 2:
            write(mount + '/cgroup.subtree_control', '+memory')
        self.group = f'{mount}/tandem-bench-{os.getpid()}-{self.id}'
        os.mkdir(self.group)
        write(self.group + ('/memory.limit_in_bytes' if self.version == 1 else '/memory.max'), self.limit)

    def __exit__(self, *exc):
        # Whatever happens, and however often the user asks to stop: no swap device and no group is left behind.
        signals = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            left = [self._end_group() if self.group else None, self._end_swap() if self.id is not None else None]
            for what in filter(None, left):
                print(f'zram.py: {what} could not be removed', file=sys.stderr)
        finally:
            for s, handler in signals.items():
                signal.signal(s, handler)

    def _end_group(self):
        """End what runs in the group and remove it. Returns its name if that cannot be done."""
        for _ in range(100):
            with contextlib.suppress(OSError):
                for pid in read(self.group + '/cgroup.procs').split():
                    os.kill(int(pid), signal.SIGKILL)
            try:
                os.rmdir(self.group)
                return None
            except OSError:
                time.sleep(0.1)
        return self.group

    def _end_swap(self):
        device = f'/dev/zram{self.id}'
        for _ in range(100):
            if device in read('/proc/swaps'):
                subprocess.run(['swapoff', device], stderr=subprocess.DEVNULL, start_new_session=True, check=False)
            try:
                write(self.sys + '/reset', 1)
                write('/sys/class/zram-control/hot_remove', self.id)
                return None
            except OSError:
                time.sleep(0.1)
        return device

    def run(self, argv, **kw):
        """Run a program in the group. Returns the CompletedProcess."""
        return subprocess.run(argv, preexec_fn=lambda: write(self.group + '/cgroup.procs', os.getpid()), **kw)

    def used_max(self):
        """The most physical memory that the device ever had, bytes."""
        return int(read(self.sys + '/mm_stat').split()[4])

    def swapped(self):
        """(bytes stored, bytes of memory used) now."""
        s = read(self.sys + '/mm_stat').split()
        return int(s[0]), int(s[2])

    def oom_kills(self):
        for line in read(self.group + ('/memory.oom_control' if self.version == 1 else '/memory.events')).splitlines():
            if line.split()[0] == 'oom_kill':
                return int(line.split()[1])
        return 0

    def peak(self):
        path = self.group + ('/memory.max_usage_in_bytes' if self.version == 1 else '/memory.peak')
        return int(read(path)) if os.path.exists(path) else 0


def size(text):
    units = {'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}
    return int(float(text[:-1]) * units[text[-1].upper()]) if text[-1].upper() in units else int(text)


def main(argv):
    limit, disk = None, 4 << 30
    while argv and argv[0].startswith('--'):
        option = argv.pop(0)
        if option == '--':
            break
        if option == '--limit' and argv:
            limit = size(argv.pop(0))
        elif option == '--disk' and argv:
            disk = size(argv.pop(0))
        else:
            sys.exit(f'zram.py: unknown option {option}')
    if not limit or not argv:
        sys.exit('usage: zram.py --limit SIZE [--disk SIZE] -- PROGRAM [ARG...]')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Zram(limit, disk) as z:
            rc = z.run(argv).returncode
            print(f'zram.py: group peak {z.peak() / MIB:.1f} MiB, zram peak {z.used_max() / MIB:.1f} MiB, oom kills {z.oom_kills()}', file=sys.stderr)
    except Missing as e:
        sys.exit(f'zram.py: {e}')
    sys.exit(rc if rc >= 0 else 128 - rc)


if __name__ == '__main__':
    main(sys.argv[1:])
