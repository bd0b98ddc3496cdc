#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""test_cmd.py TANDEM STUB [PATTERN] - the command line, as a user and a shell meet it. Output is TAP.

TANDEM is the command, STUB a preload library (stub.c) that stands in for the engine. The C compiler of $CC (cc) makes small programs.
"""
import fnmatch
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

TANDEM, STUB = (os.path.realpath(p) for p in sys.argv[1:3])
CC = os.environ.get("CC", "cc").split()
TESTS = []
ROOT = os.getuid() == 0
SANITIZED = os.environ.get("TANDEM_SANITIZED")  # the command is larger then, and does not bear a library before its own


class Skip(Exception):
    pass


def test(f):
    TESTS.append(f)
    return f


def check(x, what):
    if not x:
        raise AssertionError(what)


def environment(**more):
    env = dict(os.environ, TANDEM_PRELOAD=STUB, LC_ALL="C")
    for k in ("LD_PRELOAD", "TANDEM_CONTROL", "TANDEM_VERIFY", "TANDEM_DMIRROR_PRELOAD", "TANDEM_DMIRROR_QUIET", "TMPDIR"):
        env.pop(k, None)
    env.update({k: v for k, v in more.items() if v is not None})
    return env


def tandem(*args, env=None, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([TANDEM, *args], env=environment(**(env or {})), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=30, **kw)


def start(*args, env=None, **kw):
    kw.setdefault("stdout", subprocess.PIPE)
    kw.setdefault("stderr", subprocess.PIPE)
    return subprocess.Popen([TANDEM, *args], env=environment(**(env or {})), **kw)


def refused(status, wanted, *args, **kw):
    """One line on stderr that contains `wanted`, this exit status, and the program has not run."""
    with tempfile.TemporaryDirectory() as d:
        mark = os.path.join(d, "ran")
        r = tandem(*[mark if a is RAN else a for a in args], **kw)
        err = r.stderr.decode()
        check(r.returncode == status, f"{args}: status {r.returncode}, not {status}: {err}")
        check(re.fullmatch(r"tandem: [^\n]+\n", err), f"{args}: not one line: {err!r}")
        check(wanted in err, f"{args}: '{wanted}' is not in {err!r}")
        check(not r.stdout, f"{args}: stdout: {r.stdout!r}")
        check(not os.path.exists(mark), f"{args}: the program was started")


RAN = object()
TOUCH = ("touch", RAN)


def wait_for(f, what, seconds=10):
    end = time.time() + seconds
    while time.time() < end:
        x = f()
        if x:
            return x
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for: {what}")


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0]
    except OSError:
        return None


def child_of(pid):
    for p in os.listdir("/proc"):
        if p.isdigit():
            try:
                with open(f"/proc/{p}/stat") as f:
                    if int(f.read().rpartition(")")[2].split()[1]) == pid:
                        return int(p)
            except OSError:
                pass
    return None


def compiled(dir_, name, source, *flags):
    path = os.path.join(dir_, name)
    r = subprocess.run([*CC, "-x", "c", "-", "-o", path, *flags], input=source.encode(), stderr=subprocess.PIPE, check=False)
    if r.returncode:
        raise Skip(f"cannot compile with {' '.join(flags)}")
    return path


# ---- tandem itself ----------------------------------------------------------------------------------------------------------


@test
def version_and_help():
    r = tandem("--version")
    check(r.returncode == 0 and re.fullmatch(rb"tandem \d+\.\d+\.\d+\n", r.stdout), r)
    for args in (["--help"], ["help"], ["-h"]):
        r = tandem(*args)
        check(r.returncode == 0 and all(c in r.stdout for c in (b"run ", b"stat ", b"dmirror ", b"sim ")) and not r.stderr, r)
    for c in ("run", "stat", "dmirror", "sim"):
        a, b = tandem("help", c), tandem(c, "--help")
        check(a.returncode == b.returncode == 0 and a.stdout == b.stdout and a.stdout.startswith(b"usage: tandem " + c.encode()), a)


@test
def no_command_prints_usage():
    r = tandem()
    check(r.returncode == 2 and r.stderr.startswith(b"usage:") and not r.stdout, r)


@test
def unknown_command_suggests_the_nearest():
    refused(2, "did you mean 'run'", "rnu", *TOUCH)
    refused(2, "did you mean 'stat'", "status")
    refused(2, "there is no command 'frobnicate'", "frobnicate")
    refused(2, "there is no option '--ram' before a command", "--ram", "1G")
    refused(2, "there is no command 'x'", "help", "x")


# ---- options of run ---------------------------------------------------------------------------------------------------------


@test
def unknown_option():
    refused(2, "unknown option '--rma'", "run", "--rma", "1G", *TOUCH)
    refused(2, "unknown option '-x'", "run", "-x", *TOUCH)
    refused(2, "unknown option '--quiet=1'", "run", "--quiet=1", *TOUCH)
    refused(2, "option '--ram' wants a value", "run", "--ram")
    refused(2, "no program", "run", "--ram", "1G")
    refused(2, "no program", "run", "--")


@test
def options_end_at_the_program():
    r = tandem("run", "--quiet", "echo", "--ram", "--nonsense", "-x")
    check(r.returncode == 0 and r.stdout == b"--ram --nonsense -x\n" and not r.stderr, r)
    r = tandem("run", "--quiet", "--", "echo", "--", "a")
    check(r.stdout == b"-- a\n", r)


@test
def malformed_size():
    for s in ("", "x", "12Q", "1..5G", "-5G", "1.5", "5 G", "G", "999999999999T", "1,5G", "0x10M", "1.G", ".5G", "1GG"):
        refused(2, "is not a size", "run", "--ram", s, *TOUCH)
    for s in ("0%", "101%", "-3%", "x%", "5%%", "%", "nan%", "inf%"):
        refused(2, "is not a percentage", "run", "--ram", s, *TOUCH)


@test
def budget_too_small():
    for s in ("0", "1", "8191K", "7.9M", "0.0001%"):
        refused(2, "at least 8M", "run", "--ram", s, *TOUCH)


@test
def sizes_are_understood():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "s")

        def budget(s):
            r = tandem("run", "--ram", s, "--stats", out, "--quiet", "true")
            check(r.returncode == 0 and not r.stderr, r)
            with open(out) as f:
                return json.load(f)["budget"]

        for s, n in (("8M", 8 << 20), ("1.5G", 3 << 29), ("16m", 1 << 24), ("2GiB", 2 << 30), ("64MB", 64 << 20), ("16777216", 1 << 24),
                     ("8192K", 8 << 20), ("16777216B", 1 << 24), ("1T", 1 << 40)):
            check(budget(s) == n, s)
        half, all_ = budget("50%"), budget("100%")
        check(abs(all_ - 2 * half) <= 8192 and all_ <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE"), (half, all_))


@test
def default_budget_is_three_quarters():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "s")
        budgets = []
        for args in ([], ["--ram", "75%"]):
            tandem("run", *args, "--stats", out, "--quiet", "true")
            with open(out) as f:
                budgets.append(json.load(f)["budget"])
        check(abs(budgets[0] - budgets[1]) <= 4096, budgets)


# ---- tiers ------------------------------------------------------------------------------------------------------------------


@test
def unknown_tier():
    for s in ("zram", "", "lz", "lz4x", "LZ4", ":", "files:/tmp"):
        refused(2, "there is no tier", "run", "--tier", s, *TOUCH)
    refused(2, "at most 8 tiers", "run", *["--tier", "lz4"] * 9, *TOUCH)


@test
def malformed_tier():
    for s in ("lz4:", "lz4:x", "zstd:5Q", "lz4:0", "lz4:100", "zstd:1M:2M", "file:/var/tmp:", "file:/var/tmp:9Q", "file:/var/tmp:1K"):
        refused(2, "is not a size", "run", "--tier", s, *TOUCH)


@test
def tier_that_cannot_be_written():
    with tempfile.TemporaryDirectory() as d:
        refused(2, "No such file or directory", "run", "--tier", f"file:{d}/none", *TOUCH)
        refused(2, "No such file or directory", "run", "--tier", f"file:{d}/none:1G", *TOUCH)
        refused(2, "write file::SIZE", "run", "--tier", "file:8G", *TOUCH)
        plain = os.path.join(d, "plain")
        with open(plain, "w"):
            pass
        refused(2, "is not a directory", "run", "--tier", f"file:{plain}", *TOUCH)
        refused(2, "no file can be made in /proc", "run", "--tier", "file:/proc", *TOUCH)
        deep = os.path.join(d, "x" * 110)
        os.mkdir(deep)
        refused(2, "too long", "run", "--tier", f"file:{deep}", *TOUCH)


@test
def tier_without_permission():
    if not ROOT:
        with tempfile.TemporaryDirectory() as d:
            os.chmod(d, 0o500)
            refused(2, "no file can be made", "run", "--tier", f"file:{d}", *TOUCH)
        return
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o755)
        r = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", TANDEM, "run", "--tier", f"file:{d}", "true"],
                           env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        check(r.returncode == 2 and b"no file can be made" in r.stderr and b"may write" in r.stderr, r)


@test
def tiers_reach_the_processes():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "s")
        sub = os.path.join(d, "a:b")
        os.mkdir(sub)
        r = tandem("run", "--quiet", "--stats", out, "--tier", "lz4:256M", "--tier", "zstd:1.5G", "--tier", f"file:{d}:8G", "--tier", "file:.",
                   "--tier", f"file:{sub}", "true", cwd=d)
        check(r.returncode == 0 and not r.stderr, r)
        with open(out) as f:
            specs = [t["spec"] for t in json.load(f)["tiers"]]
        check(specs == ["lz4:256M", "zstd:1536M", f"file:{d}:8G", f"file:{d}", f"file:{sub}/"], specs)
        check(sorted(os.listdir(d)) == ["a:b", "s"], os.listdir(d))


@test
def default_tiers():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as d:
        out = os.path.join(d, "s")
        for tmpdir, expect in ((d, d), (None, "/var/tmp"), ("/nonexistent", "/var/tmp"), ("/dev/shm", "/var/tmp")):
            tandem("run", "--quiet", "--stats", out, "true", env={"TMPDIR": tmpdir})
            with open(out) as f:
                specs = [t["spec"] for t in json.load(f)["tiers"]]
            check(specs == ["lz4", f"file:{expect}"], (tmpdir, specs))


@test
def tier_in_memory_is_warned_about():
    if not os.path.isdir("/dev/shm"):
        raise Skip("no /dev/shm")
    r = tandem("run", "--quiet", "--tier", "file:/dev/shm", "true")
    check(r.returncode == 0 and b"saves nothing" in r.stderr, r)


# ---- programs that cannot be managed ----------------------------------------------------------------------------------------


@test
def missing_program():
    refused(127, "no such program in PATH", "run", "no-such-program-here")
    refused(127, "No such file", "run", "/no/such/program")
    refused(127, "no such program", "run", "")


@test
def program_that_cannot_be_executed():
    with tempfile.TemporaryDirectory() as d:
        plain = os.path.join(d, "plain")
        with open(plain, "w") as f:
            f.write("true\n")
        refused(126, "Permission denied", "run", plain)
        refused(126, "directory", "run", d)
        refused(126, "Permission denied", "run", "plain", env={"PATH": d})
        script = os.path.join(d, "script")
        with open(script, "w") as f:
            f.write("#!/no/such/interpreter -x\n")
        os.chmod(script, 0o755)
        refused(126, "/no/such/interpreter", "run", script)
        loop = os.path.join(d, "loop")
        with open(loop, "w") as f:
            f.write(f"#!{loop}\n")
        os.chmod(loop, 0o755)
        refused(126, "too many interpreters", "run", loop)


@test
def static_program():
    with tempfile.TemporaryDirectory() as d:
        p = compiled(d, "static", "int main(void){return 0;}", "-static")
        refused(2, "statically linked", "run", p)
        pie = compiled(d, "static-pie", "int main(void){return 0;}", "-static-pie")
        refused(2, "statically linked", "run", pie)
        script = os.path.join(d, "script")
        with open(script, "w") as f:
            f.write(f"#! {p} x\n")
        os.chmod(script, 0o755)
        refused(2, "statically linked", "run", script)


@test
def other_kinds_of_programs():
    with tempfile.TemporaryDirectory() as d:
        p = compiled(d, "dyn", "int main(void){return 7;}")
        with open(p, "rb") as f:
            elf = bytearray(f.read())

        def variant(name, offset, value):
            path = os.path.join(d, name)
            copy = bytearray(elf)
            copy[offset:offset + len(value)] = value
            with open(path, "wb") as f:
                f.write(copy)
            os.chmod(path, 0o755)
            return path

        check(tandem("run", "--quiet", p).returncode == 7, "the program itself")
        refused(2, "32-bit", "run", variant("elf32", 4, b"\1"))
        refused(126, "not a program for this machine", "run", variant("arm", 18, b"\xb7\0"))
        interp = elf.index(b"ld-linux-x86-64.so.2")
        refused(2, "GNU C library", "run", variant("musl", interp, b"ld-musl-x86_64.so.1\0"))
        path = os.path.join(d, "short")
        with open(path, "wb") as f:
            f.write(elf[:80])
        os.chmod(path, 0o755)
        refused(126, "damaged", "run", path)


@test
def set_uid_program():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as d:
        os.chmod(d, 0o755)
        p = compiled(d, "suid", "int main(void){return 0;}")
        if not ROOT:
            raise Skip("not root")
        os.chown(p, 65534, 65534)
        os.chmod(p, 0o4755)
        if os.statvfs(d).f_flag & os.ST_NOSUID:
            raise Skip("a nosuid file system")
        refused(2, "set-uid", "run", p)
        os.chmod(p, 0o2755)
        refused(2, "set-gid", "run", p)


@test
def scripts_run():
    with tempfile.TemporaryDirectory() as d:
        for name, text in (("plain", "#!/bin/sh\necho ran $1; exit 4\n"), ("env", "#!/usr/bin/env sh\necho ran $1; exit 4\n"),
                           ("none", "echo ran $1; exit 4\n")):
            path = os.path.join(d, name)
            with open(path, "w") as f:
                f.write(text)
            os.chmod(path, 0o755)
            r = tandem("run", "--quiet", path, "x")
            check(r.returncode == 4 and r.stdout == b"ran x\n" and not r.stderr, (name, r))
            r = tandem("run", "--quiet", name, "y", env={"PATH": f":{os.environ['PATH']}"}, cwd=d)
            check(r.returncode == 4 and r.stdout == b"ran y\n", (name, r))


# ---- the machine ------------------------------------------------------------------------------------------------------------


@test
def no_right_to_a_userfaultfd():
    if not ROOT or not shutil.which("setpriv"):
        raise Skip("not root")
    with open("/proc/sys/vm/unprivileged_userfaultfd") as f:
        if f.read().strip() != "0":
            raise Skip("vm.unprivileged_userfaultfd is set")
    r = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", TANDEM, "run", "true"], env=environment(), stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, check=False)
    check(r.returncode == 2 and r.stderr.count(b"\n") == 1, r)
    for remedy in (b"root", b"/dev/userfaultfd", b"vm.unprivileged_userfaultfd=1", b"CAP_SYS_PTRACE"):
        check(remedy in r.stderr, r)


FAKE_KERNEL = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
int ioctl(int fd, unsigned long req, ...)
{
	va_list ap; va_start(ap, req); void *arg = va_arg(ap, void *); va_end(ap);
	const char *fake = getenv("FAKE");
	if (req == UFFDIO_API && fake) {
		struct uffdio_api *api = arg;
		if (!strcmp(fake, "old") && api->features >> 16) { errno = EINVAL; return -1; }
		if (!strcmp(fake, "nofork") && (api->features & 2)) { errno = EPERM; return -1; }
		if (!strcmp(fake, "old")) { api->features = 0xffff; return 0; }
	}
	return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(fd, req, arg);
}
long syscall(long n, ...)
{
	va_list ap; va_start(ap, n); long a = va_arg(ap, long); va_end(ap);
	if (n == SYS_userfaultfd && getenv("FAKE") && !strcmp(getenv("FAKE"), "none")) { errno = ENOSYS; return -1; }
	return ((long (*)(long, ...))dlsym(RTLD_NEXT, "syscall"))(n, a);
}
"""


@test
def kernels_that_cannot():
    if SANITIZED:
        raise Skip("sanitized")
    with tempfile.TemporaryDirectory() as d:
        lib = compiled(d, "fake.so", FAKE_KERNEL, "-shared", "-fPIC")
        if ROOT:
            refused(2, "Linux 6.8 or later", "run", *TOUCH, env={"LD_PRELOAD": lib, "FAKE": "old"})
            refused(2, "CAP_SYS_PTRACE", "run", *TOUCH, env={"LD_PRELOAD": lib, "FAKE": "nofork"})
        refused(2, "CONFIG_USERFAULTFD", "run", *TOUCH, env={"LD_PRELOAD": lib, "FAKE": "none"})


@test
def preload_library_missing():
    refused(2, "TANDEM_PRELOAD", "run", *TOUCH, env={"TANDEM_PRELOAD": "/no/such/lib.so"})
    with tempfile.TemporaryDirectory(prefix="with space ") as d:
        lib = os.path.join(d, "lib.so")
        shutil.copy(STUB, lib)
        refused(2, "LD_PRELOAD takes no path", "run", *TOUCH, env={"TANDEM_PRELOAD": lib})


# ---- dmirror ----------------------------------------------------------------------------------------------------------------


@test
def dmirror_with_wrong_options():
    refused(2, "unknown option '--rma'", "dmirror", "--rma", *TOUCH)
    refused(2, "unknown option '-x'", "dmirror", "-x", *TOUCH)
    refused(2, "unknown option '--quiet=1'", "dmirror", "--quiet=1", *TOUCH)
    refused(2, "no program", "dmirror")
    refused(2, "no program", "dmirror", "--quiet", "--")
    refused(2, "did you mean 'dmirror'", "dmiror", *TOUCH)


@test
def dmirror_of_programs_that_cannot():
    refused(127, "no such program in PATH", "dmirror", "no-such-program-here")
    refused(127, "No such file", "dmirror", "/no/such/program")
    with tempfile.TemporaryDirectory() as d:
        refused(126, "directory", "dmirror", d)
        refused(2, "statically linked", "dmirror", compiled(d, "static", "int main(void){return 0;}", "-static"))


@test
def dmirror_where_it_cannot():
    refused(2, "TANDEM_DMIRROR_PRELOAD", "dmirror", *TOUCH, env={"TANDEM_DMIRROR_PRELOAD": "/no/such/lib.so"})
    refused(2, "tandem run", "dmirror", *TOUCH, env={"TANDEM_CONTROL": "/proc/1/fd/3"})
    if not SANITIZED:
        r = tandem("run", "--quiet", TANDEM, "dmirror", "true")
        check(r.returncode == 2 and b"managed already" in r.stderr, r)
    if not ROOT or not shutil.which("setpriv"):
        raise Skip("not root")
    with open("/proc/sys/vm/unprivileged_userfaultfd") as f:
        if f.read().strip() != "0":
            raise Skip("vm.unprivileged_userfaultfd is set")
    r = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", TANDEM, "dmirror", "true"], env=environment(), stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, check=False)
    check(r.returncode == 2 and r.stderr.count(b"\n") == 1 and b"CAP_SYS_PTRACE" in r.stderr, r)


@test
def dmirror_becomes_the_program():
    if SANITIZED:
        raise Skip("sanitized")
    p = start("dmirror", "--", "sh", "-c", "echo $$ $1; exit 7", "sh", "--quiet")
    out, err = p.communicate(timeout=30)
    check(p.returncode == 7 and out.decode() == f"{p.pid} --quiet\n" and not err, (p.returncode, out, err))
    check(tandem("dmirror", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM, "a signal")
    for args, quiet in ((["--quiet"], "1"), ([], None)):
        r = tandem("dmirror", *args, "env", env={"LD_PRELOAD": "libc.so.6"})
        env = dict(l.split("=", 1) for l in r.stdout.decode().splitlines() if "=" in l)
        check(env.get("TANDEM_DMIRROR_QUIET") == quiet, env)
        check(re.fullmatch(r"\S+/libtandem-dmirror\.so:libc\.so\.6", env["LD_PRELOAD"]), env)


# ---- as if it were not there ------------------------------------------------------------------------------------------------


@test
def exit_status_passes_through():
    for n in (0, 1, 2, 77, 126, 127, 128, 255):
        check(tandem("run", "--quiet", "sh", "-c", f"exit {n}").returncode == n, n)
    for sig in ("TERM", "KILL", "SEGV", "INT", "HUP", "USR1", "PIPE", "ALRM"):
        r = tandem("run", "--quiet", "sh", "-c", f"kill -{sig} $$")
        check(r.returncode == 128 + getattr(signal, "SIG" + sig), (sig, r.returncode))
        check(not r.stderr, r)


@test
def streams_pass_through():
    data = os.urandom(1 << 20)
    p = start("run", "--quiet", "cat", stdin=subprocess.PIPE)
    out, err = p.communicate(data, timeout=30)
    check(out == data and not err and p.returncode == 0, "cat")
    r = tandem("run", "--quiet", "sh", "-c", "echo out; echo err >&2")
    check(r.stdout == b"out\n" and r.stderr == b"err\n", r)
    # What the caller has closed stays closed, and no descriptor of ours is left open.
    seen = "import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + f)))"
    bare = subprocess.run([sys.executable, "-S", "-c", seen], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True).stdout
    r = tandem("run", "--quiet", sys.executable, "-S", "-c", seen)
    check(r.stdout == bare, (r.stdout, bare))
    r = subprocess.run(["sh", "-c", 'exec "$0" run sh -c "test ! -e /proc/\\$\\$/fd/2 && test ! -e /proc/\\$\\$/fd/0" 2>&- <&-', TANDEM],
                       env=environment(), stdout=subprocess.PIPE, check=False)
    check(r.returncode == 0, "closed descriptors")


@test
def environment_is_kept():
    if SANITIZED:
        raise Skip("sanitized")
    r = tandem("run", "--quiet", "env", env={"LD_PRELOAD": "libc.so.6", "TDM_X": "a b"})
    env = dict(l.split("=", 1) for l in r.stdout.decode().splitlines() if "=" in l)
    check(env["LD_PRELOAD"] == f"{STUB}:libc.so.6" and env["TDM_X"] == "a b", env)
    check(re.fullmatch(r"/proc/\d+/fd/\d+", env["TANDEM_CONTROL"]), env)
    r = tandem("run", "--quiet", "env")
    check(f"LD_PRELOAD={STUB}\n" in r.stdout.decode(), r)


SIGNALS = """
import os, signal, sys
d = [n for n in range(1, 65) if n not in (32, 33) and signal.getsignal(n) == signal.SIG_IGN]
print(d, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), os.getpgrp() == int(sys.argv[1]), os.getsid(0) == int(sys.argv[2]))
"""


@test
def signal_dispositions_are_kept():
    def prepare():
        for s in (signal.SIGHUP, signal.SIGCHLD, signal.SIGTSTP, signal.SIGUSR2):
            signal.signal(s, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGWINCH, signal.SIGCHLD])

    args = [sys.executable, "-S", "-c", SIGNALS, str(os.getpgrp()), str(os.getsid(0))]
    bare = subprocess.run(args, stdout=subprocess.PIPE, preexec_fn=prepare, check=True).stdout
    p = start("run", "--quiet", *args, preexec_fn=prepare)
    out, err = p.communicate(timeout=20)
    check(p.returncode == 0 and out == bare and b"True True" in out, (out, bare, err))


COUNTER = """
import signal, sys, time
got = {}
def handler(n, f):
    got[n] = got.get(n, 0) + 1
for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH, signal.SIGRTMIN + 3):
    signal.signal(n, handler)
print("ready", flush=True)
end = time.time() + float(sys.argv[1])
while time.time() < end:
    time.sleep(0.05)
print(sorted((int(k), v) for k, v in got.items()))
"""


def counting(seconds, **kw):
    p = start("run", "--quiet", sys.executable, "-S", "-c", COUNTER, str(seconds), **kw)
    check(p.stdout.readline() == b"ready\n", "the program starts")
    return p


@test
def signals_sent_to_it_alone_are_passed_on_once():
    p = counting(1.0)
    sent = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH, signal.SIGRTMIN + 3]
    for n in sent:
        p.send_signal(n)
        time.sleep(0.05)
    out, _ = p.communicate(timeout=20)
    check(eval(out) == sorted((int(n), 1) for n in sent), out)
    check(p.returncode == 0, p.returncode)


@test
def kill_term_ends_both():
    p = start("run", "--quiet", "sleep", "100")
    child = wait_for(lambda: child_of(p.pid), "a child")
    wait_for(lambda: state(child) == "S", "sleep")
    p.terminate()
    check(p.wait(timeout=10) == 128 + signal.SIGTERM, p.returncode)
    check(state(child) is None, "the program is still there")


@test
def signals_of_the_program_to_its_group_are_not_passed_back():
    code = COUNTER.replace('print("ready", flush=True)', 'import os; os.kill(0, signal.SIGUSR1); print("ready", flush=True)')
    p = start("run", "--quiet", sys.executable, "-S", "-c", code, "0.5", start_new_session=True)
    out, _ = p.communicate(timeout=20)
    check(out.split(b"\n", 1)[1].strip() == b"[(10, 1)]" and p.returncode == 0, (out, p.returncode))


@test
def alarm_set_before_is_meant_for_the_program():
    def prepare():
        signal.setitimer(signal.ITIMER_REAL, 0.3)

    p = start("run", "--quiet", "sleep", "20", preexec_fn=prepare)
    check(p.wait(timeout=10) == 128 + signal.SIGALRM, p.returncode)


@test
def stop_and_continue():
    # In a process group of its own, as under a shell: SIGTSTP does nothing in an orphaned group, in which a test may run.
    p = start("run", "--quiet", "sleep", "100", preexec_fn=lambda: os.setpgid(0, 0))
    child = wait_for(lambda: child_of(p.pid), "a child")
    for sig in (signal.SIGSTOP, signal.SIGTSTP):
        # Sent to the program alone: we stop likewise, and say by which signal.
        os.kill(child, sig)
        _, st = os.waitpid(p.pid, os.WUNTRACED)
        check(os.WIFSTOPPED(st) and os.WSTOPSIG(st) == sig, st)
        check(state(child) == "T", state(child))
        # And when somebody lets it go on, so do we.
        os.kill(child, signal.SIGCONT)
        wait_for(lambda: state(p.pid) != "T" and state(child) != "T", "both going on")
        wait_for(lambda: state(p.pid) == "S", "waiting")
        os.kill(child, signal.SIGSTOP)
        wait_for(lambda: state(p.pid) == "T", "both stopped")
        # SIGCONT to us alone goes to the program too.
        os.kill(p.pid, signal.SIGCONT)
        wait_for(lambda: state(p.pid) == "S" and state(child) == "S", "both going on")
    p.terminate()
    check(p.wait(timeout=10) == 143, p.returncode)


@test
def killed_while_stopped_is_seen():
    p = start("run", "--quiet", "sleep", "100")
    child = wait_for(lambda: child_of(p.pid), "a child")
    os.kill(child, signal.SIGSTOP)
    wait_for(lambda: state(p.pid) == "T", "both stopped")
    os.kill(child, signal.SIGKILL)
    check(p.wait(timeout=10) == 137, p.returncode)


@test
def stopped_for_a_moment_only():
    # Whoever goes on before we have stopped likewise must not leave us stopped for ever.
    code = "import os, signal, time\n" \
           "if os.fork() == 0:\n" \
           "    for i in range(1500):\n" \
           "        os.kill(os.getppid(), signal.SIGSTOP); time.sleep(0.00005 * (i % 10)); os.kill(os.getppid(), signal.SIGCONT); time.sleep(0.0003)\n" \
           "    os._exit(0)\n" \
           "os.wait()\n"
    p = start("run", "--quiet", sys.executable, "-S", "-c", code)
    check(p.wait(timeout=40) == 0, p.returncode)


# ---- on a terminal ----------------------------------------------------------------------------------------------------------


class Terminal:
    """A command on a terminal of its own, as session leader."""

    def __init__(self, argv, env):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(argv[0], argv, env)
        self.seen = b""

    def read(self, seconds):
        end = time.time() + seconds
        while time.time() < end:
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.fd, 65536)
                except OSError:
                    return self.seen
        return self.seen

    def until(self, what, seconds=10):
        wait_for(lambda: what in self.read(0.05), f"{what!r} in {self.seen!r}", seconds)

    def finish(self):
        self.read(0.2)
        for _ in range(200):
            pid, st = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.read(0.2)
                os.close(self.fd)
                return os.waitstatus_to_exitcode(st)
            self.read(0.05)
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"does not end: {self.seen!r}")


@test
def ctrl_c_reaches_the_program_once():
    t = Terminal([TANDEM, "run", "--quiet", sys.executable, "-S", "-c", COUNTER, "1"], environment())
    t.until(b"ready")
    os.write(t.fd, b"\x03")
    time.sleep(0.2)
    os.write(t.fd, b"\x1c")
    t.until(b"[(")
    check(b"[(2, 1), (3, 1)]" in t.seen, t.seen)
    check(t.finish() == 0, "status")


@test
def ctrl_c_ends_the_program():
    t = Terminal([TANDEM, "run", "--quiet", "sleep", "100"], environment())
    wait_for(lambda: child_of(t.pid), "a child")
    time.sleep(0.2)
    os.write(t.fd, b"\x03")
    check(t.finish() == 130, t.seen)


@test
def a_shell_stops_and_continues_it():
    if not shutil.which("bash"):
        raise Skip("no bash")
    t = Terminal([shutil.which("bash"), "--norc", "--noprofile", "-i"], environment(PS1="$ ", TERM="dumb", HISTFILE=""))
    t.until(b"$ ")
    os.write(t.fd, f"'{TANDEM}' run --quiet sh -c 'echo on; read x; echo got $x'\n".encode())
    t.until(b"on\r\n")
    os.write(t.fd, b"\x1a")
    t.until(b"Stopped")
    os.write(t.fd, b"echo shell-is-$((40+2))\n")
    t.until(b"shell-is-42")
    os.write(t.fd, b"fg\n")
    time.sleep(0.4)
    os.write(t.fd, b"word\n")
    t.until(b"got word")
    os.write(t.fd, b"exit 5\n")
    check(t.finish() == 5, t.seen)


@test
def live_line_and_summary():
    t = Terminal([TANDEM, "run", "--ram", "64M", "sleep", "1.6"], environment())
    status = t.finish()
    check(status == 0, (status, t.seen))
    live, _, summary = t.seen.rpartition(b"\x1b[K")
    check(b"tandem: 3.0 MiB of 64 MiB resident, 2.0 MiB out in 1.0 MiB (2.0:1)" in live.replace(b"\r", b""), t.seen)
    check(summary.count(b"\n") == 5 and all(l.startswith(b"tandem: ") for l in summary.strip().split(b"\n")), summary)
    t = Terminal([TANDEM, "run", "--ram", "64M", "--quiet", "sleep", "1.3"], environment())
    t.finish()
    check(t.seen == b"", t.seen)


@test
def live_line_fits_and_keeps_off_a_raw_terminal():
    sized = "import fcntl,struct,sys,termios;fcntl.ioctl(2,termios.TIOCSWINSZ,struct.pack('HHHH',24,40,0,0));import os;os.execv(sys.argv[1],sys.argv[1:])"
    t = Terminal([sys.executable, "-S", "-c", sized, TANDEM, "run", "--ram", "64M", "sleep", "1.3"], environment())
    t.finish()
    lines = re.findall(rb"\r(tandem: [^\r\x1b\n]*)\x1b\[K\r", t.seen)
    check(lines and all(len(l) <= 39 for l in lines), t.seen)
    t = Terminal([TANDEM, "run", "sh", "-c", "stty raw; sleep 2.3; stty sane"], environment())
    t.finish()
    check(b"\x1b[K" not in t.seen, t.seen)


@test
def summary_is_five_lines():
    r = tandem("run", "--ram", "64M", "true")
    lines = r.stderr.decode().splitlines()
    check(len(lines) == 5 and all(l.startswith("tandem: ") for l in lines), r)
    for want, line in zip(("budget 64 MiB, peak 3.0 MiB", "evicted 3.0 MiB to 1.0 MiB (3.0:1), restored 2.0 MiB", "100 soft, 50 hard, p50 3.1 us",
                           "2 stalls, 1.5 s spent waiting", "1 process"), lines):
        check(want in line, (want, line))


@test
def messages_are_printed_even_when_quiet():
    r = tandem("run", "--quiet", "sh", "-c", "sleep 0.4", env={"STUB_SAY": "every tier is full"})
    lines = r.stderr.decode().splitlines()
    check(any(re.fullmatch(r"tandem: sh\[\d+\]: every tier is full", l) for l in lines), lines)
    r = tandem("run", "--quiet", "true", env={"STUB_SAY": "two\nlines\x1b[2J"})
    check(re.fullmatch(rb"tandem: true\[\d+\]: two\?lines\?\[2J\n", r.stderr), r)


@test
def messages_are_rate_limited():
    r = tandem("run", "--quiet", "true", env={"STUB_SAY": "again", "STUB_SAY_TIMES": "40"})
    lines = r.stderr.decode().splitlines()
    check(len(lines) == 11 and "30 more messages" in lines[-1], lines)


# ---- --stats ----------------------------------------------------------------------------------------------------------------


def load(path):
    with open(path) as f:
        return json.load(f)


@test
def stats_hold_what_happened():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "s.json")
        r = tandem("run", "--quiet", "--ram", "64M", "--stats", out, "sh", "-c", "sh -c true; sh -c true; exit 3")
        s = load(out)
        check(r.returncode == 3 and s["exit"] == 3 and s["signal"] is None, s)
        check(s["command"] == ["sh", "-c", "sh -c true; sh -c true; exit 3"] and s["budget"] == 64 << 20, s)
        check(s["processes"] == 3 and s["unmanaged"] == 0 and 6 << 20 <= s["peak"] <= 9 << 20, s)
        check(s["faults"] == {"soft": 300, "hard": 150, "zero": 0, "other": 0} and s["pages"]["hard"] == 1500, s)
        check(s["ratio"] == 3.0 and s["bytes_out"] == 9 << 20 and s["bytes_packed"] == 3 << 20 and s["bytes_in"] == 6 << 20, s)
        check(s["stalls"] == 6 and abs(s["seconds_waiting"] - 4.5) < 1e-6 and s["refaults"] == 0 and s["over_budget"] == 0, s)
        check(s["tiers"][0] == {"spec": "lz4", "bytes_out": 3 << 20, "bytes_in": 0, "bytes_now": 0}, s)
        lat = s["latency"]
        check(2.048 < lat["p50_us"] < lat["p90_us"] < lat["p99_us"] <= 4.096 and lat["max_us"] == 1048.576, lat)
        check(sum(b["faults"] for b in lat["buckets"]) == 450, lat)
        check(s["wall_seconds"] > 0 and re.fullmatch(r"\d+\.\d+\.\d+", s["version"]) and "peak_pss" not in s, s)
        check(os.listdir(d) == ["s.json"] and stat.S_IMODE(os.stat(out).st_mode) == 0o666 & ~umask(), os.listdir(d))


@test
def losses_are_told_of():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "s.json")
        r = tandem("run", "--quiet", "--stats", out, "true", env={"STUB_LOSES": "1"})
        s = load(out)
        check((s["lost"], s["poisoned"], s["late_drops"]) == (1, 2, 3), s)
        check(b"1 page vanished" in r.stderr and b"2 pages could not be read back" in r.stderr, r.stderr)
        r = tandem("run", "--quiet", "--stats", out, "true")
        check(load(out)["lost"] == 0 and not r.stderr, r.stderr)


def umask():
    m = os.umask(0)
    os.umask(m)
    return m


@test
def stats_of_a_killed_program():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "s.json")
        p = start("run", "--quiet", "--stats", out, "sleep", "100")
        child = wait_for(lambda: child_of(p.pid), "a child")
        wait_for(lambda: state(child) == "S" and b"sleep" in open(f"/proc/{child}/cmdline", "rb").read(), "sleep")
        time.sleep(1.2)
        os.kill(child, signal.SIGKILL)
        check(p.wait(timeout=10) == 137, p.returncode)
        s = load(out)
        # The stub had no chance to give its slot back: its totals are there nevertheless.
        check(s["exit"] == 137 and s["signal"] == 9 and s["faults"]["hard"] == 50 and s["now"]["usage"] == 0, s)
        check([(x["pid"], x["program"], x["managed"]) for x in s["seen"]] == [(child, "sleep", True)], s["seen"])


@test
def stats_file_that_cannot_be_written():
    with tempfile.TemporaryDirectory() as d:
        refused(2, "No such file", "run", "--stats", f"{d}/none/s", *TOUCH)
        refused(2, "is a directory", "run", "--stats", d, *TOUCH)
        refused(2, "is not the name", "run", "--stats", "", *TOUCH)
        refused(2, "cannot be written", "run", "--stats", "/proc/s", *TOUCH)
        check(os.listdir(d) == [], os.listdir(d))


@test
def stats_replace_at_once():
    with tempfile.TemporaryDirectory() as d:
        target, link = os.path.join(d, "target"), os.path.join(d, "link")
        with open(target, "w") as f:
            f.write("old")
        os.symlink("target", link)
        r = tandem("run", "--quiet", "--stats", link, "cat", target)
        check(r.stdout == b"old" and os.path.islink(link) and load(target)["exit"] == 0, r)
        check(sorted(os.listdir(d)) == ["link", "target"], os.listdir(d))
        # What is no regular file is not replaced.
        r = tandem("run", "--quiet", "--stats", "/dev/stdout", "true")
        check(json.loads(r.stdout)["exit"] == 0 and stat.S_ISCHR(os.stat("/dev/null").st_mode), r)
        r = tandem("run", "--quiet", "--stats", "/dev/null", "true")
        check(r.returncode == 0 and stat.S_ISCHR(os.stat("/dev/null").st_mode), r)


@test
def arguments_that_are_not_utf8():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "s")
        tandem("run", "--quiet", "--stats", out, "true", b"a\xffb")
        check(load(out)["command"] == ["true", "a?b"], load(out))


@test
def verify_samples_the_true_pss():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "s")
        grow = "x = bytearray(60 << 20); import time; time.sleep(0.5)"
        tandem("run", "--quiet", "--stats", out, sys.executable, "-S", "-c", grow, env={"TANDEM_VERIFY": "1"})
        a = load(out)["peak_pss"]
        tandem("run", "--quiet", "--verify-pss", "--stats", out, "sh", "-c", f"{sys.executable} -S -c '{grow}' & {sys.executable} -S -c '{grow}'; wait")
        b = load(out)["peak_pss"]
        check(60 << 20 < a < 90 << 20 and 120 << 20 < b < 170 << 20, (a, b))


@test
def supervisor_is_small():
    if SANITIZED:
        raise Skip("sanitized")
    p = start("run", "--quiet", "sleep", "100")
    child = wait_for(lambda: child_of(p.pid), "a child")
    time.sleep(1.3)
    with open(f"/proc/{p.pid}/smaps_rollup") as f:
        pss = int(re.search(r"^Pss: +(\d+) kB", f.read(), re.M).group(1))
    with open(f"/proc/{p.pid}/stat") as f:
        ticks = sum(map(int, f.read().rpartition(")")[2].split()[11:13]))
    os.kill(child, signal.SIGKILL)
    p.wait()
    check(pss < 1024, f"{pss} KiB: TDM_CONTROL_RESERVE in run/control.h is what the budget keeps for it")
    check(ticks <= 2, f"{ticks} ticks of CPU in 1.3 s of waiting")


# ---- stat -------------------------------------------------------------------------------------------------------------------


@test
def stat_finds_the_segment_by_any_process():
    p = start("run", "--quiet", "--ram", "64M", "sh", "-c", "sleep 100; true")
    shell = wait_for(lambda: child_of(p.pid), "a child")
    sleep = wait_for(lambda: child_of(shell), "a grandchild")
    wait_for(lambda: b"sleep" in open(f"/proc/{sleep}/cmdline", "rb").read(), "sleep")
    time.sleep(0.1)
    for pid in (p.pid, shell, sleep):
        r = tandem("stat", str(pid))
        out = r.stdout.decode()
        check(r.returncode == 0 and not r.stderr, r)
        check("budget 64 MiB, peak 6.0 MiB" in out and "2 processes, 2 running" in out, out)
        check(re.search(rf"^ *{sleep} sleep +3.0 MiB +\d+ MiB +2.0 MiB +1.0 MiB +yes$", out, re.M), out)
        r = tandem("stat", "--json", str(pid))
        s = json.loads(r.stdout)
        check(s["exit"] is None and s["command"] is None and s["budget"] == 64 << 20 and s["now"]["usage"] == 6 << 20, s)
        check({x["pid"] for x in s["seen"]} == {shell, sleep}, s["seen"])
    os.kill(sleep, signal.SIGKILL)
    p.wait(timeout=10)


@test
def stat_of_what_outlives_the_supervisor():
    if not ROOT:
        raise Skip("not root")
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "pid")
        r = tandem("run", "--quiet", "sh", "-c", f"sleep 100 >/dev/null 2>&1 & echo $! >{out}; sleep 0.4")
        check(r.returncode == 0, r)
        with open(out) as f:
            daemon = int(f.read())
        try:
            wait_for(lambda: tandem("stat", str(daemon)).returncode == 0, "the daemon's segment", 3)
        finally:
            os.kill(daemon, signal.SIGKILL)


@test
def stat_errors():
    for args, want in ((["x"], "not a process id"), (["-5"], "unknown option"), ([], "which process"), (["1x"], "not a process id"),
                       (["99999999999"], "not a process id"), (["4194304"], "there is no process"), (["1", "2"], "one process"),
                       (["0"], "not a process id"), ([str(os.getpid())], "does not run under tandem")):
        refused(2, want, "stat", *args)
    if ROOT and shutil.which("setpriv"):
        p = start("run", "--quiet", "sleep", "100")
        child = wait_for(lambda: child_of(p.pid), "a child")
        r = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", TANDEM, "stat", str(p.pid)], stderr=subprocess.PIPE, check=False)
        os.kill(child, signal.SIGKILL)
        p.wait()
        check(r.returncode == 2 and b"no permission" in r.stderr, r)


@test
def stat_distrusts_the_environment():
    with tempfile.TemporaryDirectory() as d:
        for value in ("/etc/passwd", f"{d}/fifo", "/proc/self/fd/0", "/proc/1/fd/99999", f"/proc/{os.getpid()}/fd/0"):
            p = subprocess.Popen(["sleep", "100"], env=dict(os.environ, TANDEM_CONTROL=value))
            time.sleep(0.05)
            r = tandem("stat", str(p.pid))
            p.kill()
            p.wait()
            check(r.returncode == 2 and r.stderr.count(b"\n") == 1, r)


# ---- tandem sim: the messages about a file's contents are in tests/unit/test_sim_scenario.c -----------------------------------------

SIM = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))), "examples", "sim")
SMALL = """# How long?
[process p]
[mapping m]
process = p
kind = anonymous
size = 1M
[agent a]
kind = cpu
mapping = m
pattern = uniform
writes = 30%
accesses = 10k
[sweep]
machine.cpus = 1 2
[print]
columns = cycles accesses cycles/accesses a.done
"""


def written(dir_, name, text):
    path = os.path.join(dir_, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


@test
def sim_examples_are_right():
    names = [n for n in os.listdir(SIM) if n.endswith(".sim")]
    check(len(names) >= 6, names)
    for n in names:
        r = tandem("sim", "--check", os.path.join(SIM, n))
        check(r.returncode == 0 and not r.stdout and not r.stderr, r)
        with open(os.path.join(SIM, n), encoding="utf-8") as f:
            check(re.match(r"# [A-Z].*[?]", f.readline()), f"{n}: no question")


@test
def sim_refuses():
    with tempfile.TemporaryDirectory() as d:
        f = written(d, "a.sim", SMALL)
        refused(2, "which scenario? Write: tandem sim FILE", "sim")
        refused(2, "unknown option '--fast'; see 'tandem help sim'", "sim", "--fast", f)
        refused(2, "unknown option '-x'", "sim", "-x", f)
        for option in ("--seed", "--costs", "--set"):
            refused(2, f"{option} needs a value", "sim", option)
        refused(2, "one scenario, please; what is 'b.sim'?", "sim", f, "b.sim")
        for seed in ("-1", "x", "1.5", "", "9223372036854775808", "99999999999999999999999"):
            refused(2, "--seed: expected a number from 0 to 9223372036854775807", "sim", f"--seed={seed}", f)
        refused(2, "--print-costs goes with --costs alone", "sim", "--print-costs", f)
        refused(2, "--print-costs goes with --costs alone", "sim", "--print-costs", "--json")
        refused(2, "/none.sim: cannot be read: No such file", "sim", f"{d}/none.sim")
        refused(2, "cannot be read: Is a directory", "sim", d)
        refused(2, "/none: cannot be read: No such file", "sim", "--costs", f"{d}/none", f)
        refused(2, "c:1: there is no cost 'speed'", "sim", "--costs", written(d, "c", "speed = 3 ns\n"), f)
        refused(2, "c:1: there is no cost 'speed'", "sim", "--costs", f"{d}/c", "--print-costs")
        refused(2, "b.sim:2: there is no section [cow]", "sim", "--check", written(d, "b.sim", "# Why?\n[cow]\n"))
        refused(2, "--set: there is no key 'cpu' in [machine]", "sim", "--check", "--set", "machine.cpu=3", f)
        refused(2, "--set: more than 64 of them", "sim", *["--set=machine.cpus=1"] * 65, f)
        refused(2, "--set: [agent a] needs CPUs 1 to 1, and there are 1", "sim", "--check", "--set", "agent.a.cpu=1", f)


@test
def sim_checks():
    with tempfile.TemporaryDirectory() as d:
        f = written(d, "a.sim", SMALL)
        for args in ([], ["--seed", "7"], ["--set", "machine.cpus=3 4"], ["--set=agent.a.writes=1%", "--json"], ["--set=machine.ram=64M"] * 64 + ["--seed=0"]):
            r = tandem("sim", "--check", *args, f)
            check(r.returncode == 0 and not r.stdout and not r.stderr, r)


@test
def sim_prints_costs():
    with tempfile.TemporaryDirectory() as d:
        r = tandem("sim", "--print-costs")
        with open(os.path.join(SIM, "costs.txt"), "rb") as f:
            check(r.returncode == 0 and r.stdout == f.read() and not r.stderr, "not examples/sim/costs.txt")
        changed = tandem("sim", "--print-costs", "--costs", written(d, "c", "ipi_send = 2 us # here\n"))
        check(changed.returncode == 0 and re.search(rb"^ipi_send +=  ?2 us +# here$", changed.stdout, re.M), changed)
        again = tandem("sim", "--print-costs", "--costs", written(d, "c2", changed.stdout.decode()))
        check(again.stdout == changed.stdout, "does not read back")
        with open("/dev/full", "wb") as full:
            r = subprocess.run([TANDEM, "sim", "--print-costs"], env=environment(), stdout=full, stderr=subprocess.PIPE, check=False)
        check(r.returncode == 1 and b"could not be written" in r.stderr, r)


@test
def sim_twice_is_the_same():
    with tempfile.TemporaryDirectory() as d:
        f = written(d, "a.sim", SMALL)
        r = tandem("sim", f)
        check(r.returncode == 0 and not r.stderr and r.stdout == tandem("sim", f).stdout, r)
        j, k = tandem("sim", "--json", f), tandem("sim", "--json", "--seed", "2", f)
        check(j.stdout == tandem("sim", "--json", f).stdout and not j.stderr, j)
        a, b = json.loads(j.stdout), json.loads(k.stdout)
        check(a["seed"] == 1 and b["seed"] == 2 and a["generator"] != b["generator"], "another seed is another run")
        for row in a["rows"]:
            check(row["values"]["a.done"] == 10000, row)
            for name in ("cycles", "accesses", "a.done"):
                check(f"{row['values'][name]:,}".encode() in r.stdout, f"{name} is not in the table")
        check([row["point"]["machine.cpus"] for row in a["rows"]] == [1, 2], a)


def main():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for n in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTSTP):
        signal.signal(n, signal.SIG_DFL)  # whatever the test runner was started with
    chosen = [t for t in TESTS if len(sys.argv) < 4 or any(fnmatch.fnmatch(t.__name__, p) for p in sys.argv[3:])]
    print(f"1..{len(chosen)}")
    bad = 0
    for i, t in enumerate(chosen, 1):
        try:
            t()
            print(f"ok {i} - {t.__name__}", flush=True)
        except Skip as e:
            print(f"ok {i} - {t.__name__} # SKIP {e}", flush=True)
        except Exception as e:  # a test that breaks is a test that fails
            bad += 1
            print(f"not ok {i} - {t.__name__}", flush=True)
            for line in f"{type(e).__name__}: {e}".splitlines():
                print(f"# {line}", flush=True)
    return bad != 0


sys.exit(main())
