#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run.py - programs that nobody here wrote, plain and in a quarter to a half of their memory: the same results. TAP.

  run.py               the quick set
  run.py --long        all of it
  run.py redis         what has that word in its name

A program that is not installed is skipped, with the reason. What a program prints is compared where it is a function of its input.
"""
import argparse
import hashlib
import os
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "live"))
import harness as h  # noqa: E402


def sha(path):
    d = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            d.update(block)
    return d.hexdigest()


def both(key, command, ram, tier="lz4+file", limit=120, compare=True, evicted=True, env=None, result=None, prepare=None, lines=""):
    """A test: `command` (a list, or a function of a fresh directory that makes one) gives the same managed as plainly. The result is
    what it prints (the lines with `lines` in them), or what result(directory) says."""
    def once(hs, name, **how):
        d = os.path.join(hs.scratch, f"{key}-{name}")
        os.makedirs(d, exist_ok=True)
        if prepare:
            prepare(d)
        cmd = command(d) if callable(command) else command
        r = hs.run(cmd, cwd=d, env=env, limit=limit, **how)
        if r.rc != 0:
            return r, None
        return r, (result(d) if result else [x for x in r.out.splitlines() if lines in x])

    def run(hs):
        if callable(command):
            command("/nonexistent")  # says what is not installed before anything is run
        plain, want = once(hs, "plain")
        if plain.rc != 0:
            raise h.Skip(f"does not pass plainly here: exit {plain.rc}, " + " / ".join(h.tail(plain, 2)))
        if hs.args.plain:
            return h.note(plain)
        hs.tandem()
        r, got = once(hs, "managed", ram=ram, tier=tier)
        h.judge(r, evicted=evicted)
        if compare and got != want:
            raise h.Failed("\n".join([f"the results differ: plain {str(want)[:300]!r}, managed {str(got)[:300]!r}"] + h.tail(r)))
        return h.note(r, plain)
    return run


# --- stress-ng: each stressor with --verify, some seconds of it -------------------------------------------------------------

def stress(args, ram, tier="lz4+file", seconds=4, limit=90, evicted=True):
    def command(d):
        return [h.need("stress-ng"), "--verify", "--timeout", str(seconds), "--temp-path", d, "--oomable", "--no-rand-seed"] + args
    return both("stress-" + args[0].strip("-") + str(abs(hash(tuple(args)))), command, ram, tier, limit=limit, compare=False, evicted=evicted)


STRESS_QUICK = {
    "vm-all-methods": (["--vm", "1", "--vm-bytes", "96M", "--vm-keep", "--vm-method", "all"], "40M"),
    "vm-two-threads": (["--vm", "2", "--vm-bytes", "96M", "--vm-method", "incdec"], "72M"),
    "malloc": (["--malloc", "1", "--malloc-bytes", "1M", "--malloc-max", "200", "--malloc-touch"], "48M"),
}
# Stressors whose memory comes and goes: nothing may ever be evicted, the tests are of events and of correctness. Without --daemon, which gives up
# CAP_SYS_PTRACE: such processes cannot be managed, and are said not to be.
STRESS_EVENTS = {
    "mmap": (["--mmap", "1", "--mmap-bytes", "128M", "--mmap-mprotect"], "64M"),
    "mremap": (["--mremap", "1", "--mremap-bytes", "64M"], "32M"),
    "madvise": (["--madvise", "1"], "40M"),
    "brk": (["--brk", "1"], "64M"),
    "stack": (["--stack", "1", "--stack-fill"], "48M"),
    "bigheap": (["--bigheap", "1", "--bigheap-growth", "1M"], "96M"),
    "fork": (["--fork", "2"], "48M"),
    "vfork": (["--vfork", "2"], "48M"),
    "mmapfork": (["--mmapfork", "1"], "128M"),
    "mmapmany": (["--mmapmany", "1"], "48M"),
    "mmapfixed": (["--mmapfixed", "1"], "48M"),
    "munmap": (["--munmap", "1"], "48M"),
    "mlock": (["--mlock", "1"], "64M"),
    "mprotect": (["--mprotect", "1"], "48M"),
    "mincore": (["--mincore", "1"], "48M"),
    "pthread": (["--pthread", "1", "--pthread-max", "64"], "48M"),
    "clone": (["--clone", "1", "--clone-max", "32"], "48M"),
    "sigsegv": (["--sigsegv", "2"], "48M"),
    "futex": (["--futex", "2"], "48M"),
    "bad-altstack": (["--bad-altstack", "1"], "48M"),
    "vm-rw": (["--vm-rw", "1", "--vm-rw-bytes", "64M"], "48M"),
    "vm-splice": (["--vm-splice", "1"], "48M"),
    "pagemove": (["--pagemove", "1", "--pagemove-bytes", "32M"], "24M"),
    "exec": (["--exec", "2"], "64M"),
    "zombie": (["--zombie", "1", "--zombie-max", "64"], "48M"),
    "qsort": (["--qsort", "1", "--qsort-size", "4000000"], "16M"),
    "tree": (["--tree", "1", "--tree-size", "500000"], "24M"),
    "matrix": (["--matrix", "1", "--matrix-size", "1024"], "12M"),
    "userfaultfd": (["--userfaultfd", "1"], "48M"),
    "io-uring": (["--io-uring", "1"], "48M"),
}

PAGE_METHODS = ["flip", "galpat-1", "gray", "mscan", "move-inv", "modulo-x", "rand-set", "rand-sum", "walk-1a", "walk-0d", "write64nt", "wrrd128nt",
                "zero-one", "swap", "ror", "prime-1", "fwdrev", "checkerboard", "cache-lines", "lfsr32", "inc-nybble"]


# --- memtester ----------------------------------------------------------------------------------------------------------------

def memtester(mb, ram):
    # It wants to lock its memory; with no right to it says so and goes on, which is what it is to do here.
    def command(d):
        return ["/bin/sh", "-c", f"ulimit -l 64; exec {'setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock ' if os.getuid() == 0 else ''}"
                f"{h.need('memtester')} {mb}M 1 >out; rc=$?; tail -n 1 out | tr -d '\\b' | grep -o Done || true; exit $rc"]
    return both(f"memtester-{mb}", command, ram, limit=400)


# --- redis --------------------------------------------------------------------------------------------------------------------

class Redis:
    """A server on a unix socket, spoken to in its own protocol."""

    def __init__(self, path):
        self.path = path

    def call(self, *words, limit=60):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(limit * h.slow())
        with s:
            s.connect(self.path)
            s.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in (str(x).encode() for x in words)))
            got = b""
            while b"\r\n" not in got or (got[:1] == b"$" and len(got) < self.expected(got)):
                part = s.recv(1 << 16)
                if not part:
                    break
                got += part
        return got.decode(errors="replace").strip()

    @staticmethod
    def expected(got):
        head, _, _ = got.partition(b"\r\n")
        n = int(head[1:])
        return len(head) + 2 + (n + 2 if n >= 0 else 0)

    def until(self, what, limit=60):
        end = time.monotonic() + limit * h.slow()
        while True:
            try:
                if what():
                    return
            except OSError:
                pass
            if time.monotonic() > end:
                raise h.Failed("redis did not get there in time")
            time.sleep(0.05)


def redis(hs):
    """Load, change, save under load; the digest of the data must be the same before, after, and in a server that loads the dump."""
    server, bench, _ = h.need("redis-server", "redis-benchmark", "redis-cli")
    keys, digests, notes = 60000, [], []

    def drive(d, proc):
        r = Redis(d + "/s")
        r.until(lambda: "PONG" in r.call("PING"))
        # 60,000 hashes and strings of about 1 KiB, the same every time: about 120 MiB in the server.
        script = ("for i=tonumber(ARGV[1]),tonumber(ARGV[2]) do redis.call('SET','k'..i,string.rep(tostring(i)..':',60+i%200)); "
                  "if i%4==0 then redis.call('HSET','h'..i,'a',i,'b',string.rep('x',i%500)) end end return 1")
        for at in range(0, keys, 2000):
            got = r.call("EVAL", script, 0, at, at + 1999)
            if ":1" not in got:
                raise h.Failed(f"redis: EVAL gave {got[:200]}")
        first = r.call("DEBUG", "DIGEST")
        r.call("BGSAVE")
        # Load while the child of BGSAVE writes; keys of redis-benchmark have names of their own, and are removed again.
        subprocess.run([bench, "-s", d + "/s", "-n", "40000", "-r", "20000", "-d", "300", "-c", "16", "-t", "set,get,incr", "-q", "--threads", "2"],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=200 * h.slow(), check=True)
        r.until(lambda: "rdb_bgsave_in_progress:0" in r.call("INFO", "persistence"), 120)
        if "rdb_last_bgsave_status:ok" not in r.call("INFO", "persistence"):
            raise h.Failed("redis: BGSAVE failed")
        saved = sha(d + "/dump.rdb") and os.path.getsize(d + "/dump.rdb")
        r.call("EVAL", "for _,k in ipairs(redis.call('KEYS','*:*')) do redis.call('DEL',k) end return 1", 0)
        second = r.call("DEBUG", "DIGEST")
        if first != second or len(first) < 41:
            raise h.Failed(f"redis: the digest was {first} before and {second} after")
        # The dump, loaded by this very server.
        r.call("SAVE")
        r.call("DEBUG", "RELOAD")
        third = r.call("DEBUG", "DIGEST")
        if third != first:
            raise h.Failed(f"redis: the digest was {first}, after a reload {third}")
        digests.append(first)
        notes.append(f"dump {saved >> 20}M")
        try:
            r.call("SHUTDOWN", "NOSAVE")
        except OSError:
            pass

    plain = None
    for name, how in (("plain", {}), ("managed", {"ram": "56M", "tier": "lz4+file"})):
        if how and hs.args.plain:
            break
        if how:
            hs.tandem()
        d = os.path.join(hs.scratch, "redis-" + name)
        os.makedirs(d)
        cmd = [server, "--port", "0", "--unixsocket", d + "/s", "--dir", d, "--save", "", "--enable-debug-command", "yes", "--daemonize", "no",
               "--loglevel", "warning", "--dbfilename", "dump.rdb"]
        try:
            r = hs.run(cmd, limit=240, act=lambda proc, d=d: drive(d, proc), **how)
        except (OSError, subprocess.SubprocessError) as e:
            h.end_all()
            raise h.Failed(f"redis, {name}: {e}") from e
        except h.Failed:
            h.end_all()
            raise
        if how:
            h.judge(r)
        plain = plain or r
    if len(set(digests)) != 1:
        raise h.Failed(f"redis: the digests differ: {digests}")
    return h.note(r, plain) + ", " + notes[-1]


# --- python, sqlite, node, gcc, sort, xz --------------------------------------------------------------------------------------

def python_with_tests():
    """The Debian one if its test modules are there, else whichever has them."""
    for p in ("/usr/bin/python3", os.path.realpath(sys.executable)):
        if os.access(p, os.X_OK) and subprocess.run([p, "-c", "import test.test_gc"], capture_output=True, check=False).returncode == 0:
            return p
    raise h.Skip("no python3 with its test modules (libpython3.11-testsuite)")


def python_test(module, ram, limit=150):
    # Ballast first: without it these tests are too small for anything to be evicted.
    code = ("import sys,random;b=[bytes(random.Random(i).getrandbits(8) for _ in range(64))*1024 for i in range(1400)];"
            "from test import support;import unittest;"
            f"r=unittest.main(module='test.{module}',argv=['x','-f'],exit=False).result;"
            "ok=all(x==bytes(random.Random(i).getrandbits(8) for _ in range(64))*1024 for i,x in enumerate(b));"
            "print('ran',r.testsRun>0,'ballast',ok);sys.exit(0 if r.wasSuccessful() and ok else 1)")
    # unittest, not regrtest: one module, in this process, no workers.
    # Our own line: test_signal, for one, prints times.
    return both("python-" + module, lambda d: [python_with_tests(), "-c", code], ram, limit=limit, lines="ballast")


def sqlite(d):
    sql = ("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c REAL);"
           "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<400000) "
           "INSERT INTO t SELECT i, printf('row %d of a table that is held in memory %d', i*7919%400000, i), i*0.5 FROM n;"
           "CREATE INDEX x ON t(b); CREATE INDEX y ON t(c,a);"
           "SELECT count(*), sum(a), min(b), max(b) FROM t;"
           "SELECT sum(length(b)), avg(c) FROM t WHERE b > 'row 2';"
           "UPDATE t SET b = b || 'x' WHERE a % 7 = 0; DELETE FROM t WHERE a % 11 = 0;"
           "PRAGMA integrity_check; SELECT count(*), total(c), group_concat(b) FROM (SELECT * FROM t ORDER BY b LIMIT 20);")
    return [h.need("sqlite3"), ":memory:", sql]


NODE = """
const m = new Map(); let h = 0;
for (let i = 0; i < 150000; i++) m.set('key' + i, { i, s: 'value ' + i + ' '.repeat(i % 50), a: [i, i + 1] });
for (let r = 0; r < 3; r++) {
  for (let i = r; i < 150000; i += 3) { const v = m.get('key' + i); v.a.push(r); v.s += r; }
  for (const [k, v] of m) h = (h * 31 + v.a.length + v.s.length + k.length) >>> 0;
  const b = Buffer.alloc(20 << 20, r + 1); for (let i = 0; i < b.length; i += 997) h = (h * 33 + b[i]) >>> 0;
}
const text = JSON.stringify([...m.values()].slice(0, 40000)); const back = JSON.parse(text);
console.log(m.size, h, text.length, back.length, back[777].s);
"""


def c_source(d):
    """A C file that makes the compiler want some 100 MiB."""
    with open(d + "/big.c", "w", encoding="utf-8") as f:
        f.write("#include <stdio.h>\n#include <string.h>\nstruct s { int a, b; char c[40]; double d; };\n")
        for i in range(1000):
            f.write(f"static int f{i}(struct s *p, int n) {{ int i, t = {i}; for (i = 0; i < n; i++) {{ p[i].a = t * i + {i % 17}; p[i].b ^= p[(i + {i % 5}) % n].a; "
                    f"p[i].d += t / (i + 1.0); if (p[i].b & 1) t += (int)strlen(p[i].c); else switch (i % 5) {{ case 0: t ^= {i}; break; case 1: t += p[i].b; break; "
                    f"default: t -= {i % 9}; }} }} return t; }}\n")
        f.write("int run(struct s *p, int n) { int t = 0;\n" + "".join(f"t += f{i}(p, n);\n" for i in range(1000)) + "return t; }\n")


def text_file(d, mb=60):
    """Lines of words in no order, the same every time."""
    x = 12345
    with open(d + "/text", "wb") as f:
        left = mb << 20
        words = [b"alpha", b"beta", b"gamma", b"delta", b"epsilon", b"zeta", b"eta", b"theta", b"iota", b"kappa", b"lambda", b"mu"]
        while left > 0:
            block = []
            for _ in range(20000):
                x = (x * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
                block.append(b"%016x %s %s %d\n" % (x, words[x >> 40 & 7], words[x >> 50 & 7], x >> 20 & 0xffff))
            data = b"".join(block)
            f.write(data)
            left -= len(data)


QUICK = ("stress-ng-vm-all-methods", "stress-ng-malloc", "stress-ng-mremap", "stress-ng-madvise", "stress-ng-pagemove")


def tests():
    t = h.Tests()
    for name, (args, ram) in STRESS_QUICK.items():
        t.add("stress-ng-" + name, stress(args, ram))
    for name, (args, ram) in STRESS_EVENTS.items():
        t.add("stress-ng-" + name, stress(args, ram, evicted=False, seconds=3), quick=name in ("mremap", "madvise", "pagemove"))
    for m in PAGE_METHODS:
        t.add("stress-ng-vm-" + m, stress(["--vm", "1", "--vm-bytes", "128M", "--vm-keep", "--vm-method", m], "48M", seconds=8), quick=False)
    t.add("memtester-32M", memtester(32, "14M"), quick=False)
    t.add("memtester-64M", memtester(64, "24M"), quick=False)
    t.add("redis", redis)
    for m in ("test_gc", "test_dict"):
        t.add("python-" + m, python_test(m, "48M"))
    for m in ("test_subprocess", "test_list", "test_zlib", "test_mmap", "test_threading", "test_bytes", "test_array", "test_set", "test_heapq", "test_weakref", "test_fork1",
              "test_signal", "test_io", "test_memoryview", "test_pickle", "test_json", "test_re", "test_sort", "test_thread", "test_queue", "test_select",
              "test_os", "test_faulthandler", "test_concurrent_futures", "test_hashlib"):
        t.add("python-" + m, python_test(m, "48M", limit=400), quick=False)
    t.add("sqlite3", both("sqlite3", sqlite, "60M", limit=150))
    t.add("node", both("node", lambda d: [h.need("node"), "-e", NODE], "112M", limit=200))
    t.add("gcc", both("gcc", lambda d: [h.need("gcc"), "-O1", "-c", "big.c", "-o", "big.o"], "80M", prepare=c_source, result=lambda d: sha(d + "/big.o"), limit=300))
    t.add("gcc-O2", both("gcc-O2", lambda d: [h.need("gcc"), "-O2", "-c", "big.c", "-o", "big.o"], "100M", prepare=c_source, result=lambda d: sha(d + "/big.o"),
                         limit=500), quick=False)
    t.add("sort", both("sort", lambda d: ["env", "LC_ALL=C", h.need("sort"), "-S", "400M", "--parallel=2", "text", "-o", "sorted"], "64M", limit=200, prepare=text_file,
                       result=lambda d: sha(d + "/sorted")))
    t.add("zstd-long", both("zstd-long", lambda d: ["/bin/sh", "-c", f"{h.need('zstd')} -q -5 --long=27 -T1 text -o text.zst && zstd -q --long=27 -dc text.zst | cmp - text"],
                            "32M", limit=400, result=lambda d: sha(d + "/text.zst"), prepare=text_file), quick=False)
    t.add("shell-and-children", both("shell", ["/bin/sh", "-c", "i=0; while [ $i -lt 100 ]; do x=$(printf '%s\\n' $i | tr 0-9 a-j | rev 2>/dev/null); "
                                               "i=$((i+1)); done; echo $i $x; seq 1 20000 | sort -R --random-source=/bin/sh | sort -n | tail -n 1"], "48M", evicted=False))
    # The quick set: what is done in seconds, and has passed every time.
    t.list = [(name, run, quick and name in QUICK) for name, run, quick in t.list]
    return t


def main():
    args = h.options(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)).parse_args()
    return tests().main(args, h.Harness(args))


if __name__ == "__main__":
    sys.exit(main())
