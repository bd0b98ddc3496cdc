# SPDX-License-Identifier: MIT
"""The programs that `make run` shows and `make bench` times: unmodified programs of Debian on text of this machine."""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = '/usr/bin/python3' if os.path.exists('/usr/bin/python3') else sys.executable
OUT = 'out'  # what each program writes; always the same name, since some programs write names into their output

SQL = '''PRAGMA temp_store = 2;
CREATE TABLE raw(line TEXT);
.mode ascii
.separator "\\037" "\\n"
.import part raw
.mode list
CREATE TABLE line AS
  SELECT substr(line, 1, instr(line, ':') - 1) AS path, substr(line, instr(line, ':') + 1) AS rest FROM raw;
DROP TABLE raw;
CREATE INDEX bypath ON line(path);
SELECT path, count(*), sum(length(rest)) FROM line GROUP BY path ORDER BY 2 DESC, 1 LIMIT 100;
SELECT count(*), sum(length(rest)) FROM line WHERE path LIKE '%a%' AND rest LIKE '%struct%';
'''

CXX = '''struct k%d {
	int a;
	std::string s;
	bool operator<(const k%d &o) const { return std::tie(a, s) < std::tie(o.a, o.s); }
};
std::size_t f%d(std::istream &in)
{
	std::map<k%d, std::vector<std::string>> m;
	k%d k;
	std::string w;
	while (in >> k.a >> k.s >> w)
		m[k].push_back(w);
	std::vector<std::pair<k%d, std::size_t>> v;
	for (auto &e : m)
		v.emplace_back(e.first, e.second.size());
	std::sort(v.begin(), v.end(), [](auto &a, auto &b) { return a.second < b.second; });
	return v.empty() ? 0 : v.back().second;
}
'''


class Failed(Exception):
    """str() is one line for the user."""


class Program:
    """name, what it does in a few words, its command in the work directory, optionally files for its input and output."""

    def __init__(self, name, what, argv, package, stdin=None, stdout=None, slow=False):
        self.name, self.what, self.argv, self.package, self.stdin, self.stdout = name, what, argv, package, stdin, stdout
        self.slow = slow  # uses all of its memory at random all the time: only on demand


def make_text(directory, mib):
    """The text that all of them work on."""
    subprocess.run([PYTHON, HERE + '/corpus.py', os.path.join(directory, 'text'), str(mib)], check=True)


def make_part(directory, mib):
    """The first mib MiB of the text, whole lines."""
    left = int(mib * (1 << 20))
    with open(os.path.join(directory, 'text'), 'rb') as f, open(os.path.join(directory, 'part'), 'wb') as out:
        for line in f:
            left -= len(line)
            if left < 0:
                break
            out.write(line)


def make_sources(directory, functions):
    with open(os.path.join(directory, 'load.sql'), 'w') as f:
        f.write(SQL)
    with open(os.path.join(directory, 'many.cc'), 'w') as f:
        f.write('#include <bits/stdc++.h>\n')
        for i in range(functions):
            f.write(CXX % ((i,) * 6))


def programs(text_mib, index_mib, part_mib, functions):
    return [
        Program('sort', f'GNU sort of {text_mib:.0f} MiB of text',
                ['sort', '-S', '4G', '--parallel=2', '-o', OUT, 'text'], 'coreutils'),
        Program('python3', f'{index_mib:.0f} MiB of text in a dictionary, by file',
                [PYTHON, HERE + '/byfile.py', 'text', str(index_mib), OUT], 'python3'),
        Program('sqlite3', f'loading, indexing, querying {part_mib:.0f} MiB in :memory:',
                ['sqlite3', '-bail', ':memory:'], 'sqlite3', stdin='load.sql', stdout=OUT),
        Program('zstd', f'zstd -9 --long=28 of {text_mib:.0f} MiB of text',
                ['zstd', '-q', '-f', '-9', '--long=28', '-T1', 'text', '-o', OUT], 'zstd'),
        Program('g++', f'compiling {functions} functions over the C++ library',
                ['g++', '-std=c++17', '-O1', '-c', 'many.cc', '-o', OUT], 'g++', slow=True),
        Program('words', f'python3: an index of the words of {index_mib:.0f} MiB of text',
                [PYTHON, HERE + '/wordindex.py', 'text', str(index_mib), OUT], 'python3', slow=True),
    ]


def check_present(some):
    for p in some:
        if not shutil.which(p.argv[0]):
            raise Failed(f'{p.argv[0]} is missing: apt-get install {p.package}')


def digest(path):
    h = hashlib.sha256()
    with open(path, 'rb') as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def kill_group(child):
    """End the process group that we started child in, politely first."""
    for sig, wait in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        try:
            os.killpg(child.pid, sig)
            child.wait(wait)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass


def run(program, directory, sampler, front=(), timeout=None):
    """Run it in directory, behind the words of front. Returns the sampler's measurements and the digest of the output."""
    out, measured = os.path.join(directory, OUT), os.path.join(directory, 'measured')
    for path in (out, measured):
        if os.path.exists(path):
            os.unlink(path)
    env = dict(os.environ, LC_ALL='C', PYTHONHASHSEED='0', PYTHONDONTWRITEBYTECODE='1')
    # What the program writes to stderr appears only if it fails.
    with open(os.path.join(directory, program.stdin) if program.stdin else os.devnull, 'rb') as stdin, \
            open(os.path.join(directory, program.stdout) if program.stdout else os.devnull, 'wb') as stdout, \
            open(os.path.join(directory, 'err'), 'wb+') as err:
        child = subprocess.Popen([sampler, '-o', measured, '--', *front, *program.argv], cwd=directory, env=env,
                                 stdin=stdin, stdout=stdout, stderr=err, start_new_session=True)
        try:
            rc = child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f'{program.name}: not finished after {timeout} s') from None
        finally:
            if child.returncode is None:
                kill_group(child)
        err.seek(0)
        said = [line for line in err.read().decode(errors='replace').splitlines() if line.strip()]
    if rc != 0:
        how = f'signal {rc - 128}' if rc > 128 else f'exit status {rc}'
        raise Failed(f'{program.name}: {how}' + (f': {said[-1]}' if said else ''))
    if not os.path.exists(out):
        raise Failed(f'{program.name}: it wrote no output')
    with open(measured) as f:
        m = json.load(f)
    m['digest'], m['said'] = digest(out), said
    return m
