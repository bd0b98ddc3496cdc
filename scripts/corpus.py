#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""corpus.py FILE MIB - write a text of MIB MiB made of the text files of this machine, one line "path:number:line" for each of their lines.

It is what `grep -rn '' /usr/share /usr/include ...` prints, of files in the order of their names, over and over (with a different
prefix) until it is large enough: the same machine gives the same text.
"""
import gzip
import os
import sys

ROOTS = ['/usr/include', '/usr/share', '/usr/lib/python3', '/usr/lib/python3.11', '/usr/lib/gcc', '/etc']
LARGEST = 4 << 20  # of one file: no single file shall dominate
LINE = 400         # bytes; longer lines are cut


def files():
    for root in ROOTS:
        for where, dirs, names in os.walk(root):
            dirs.sort()
            for name in sorted(names):
                path = os.path.join(where, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    yield path


def text(path):
    """The bytes of a text file, unpacked where it is compressed, or None."""
    try:
        if os.path.getsize(path) > LARGEST:
            return None
        with open(path, 'rb') as f:
            data = f.read()
        if path.endswith('.gz'):
            data = gzip.decompress(data)[:LARGEST]
    except (OSError, EOFError, ValueError):
        return None
    return None if b'\0' in data[:8192] else data


def main():
    if len(sys.argv) != 3:
        sys.exit('usage: corpus.py FILE MIB')
    want, have, turn = int(float(sys.argv[2]) * (1 << 20)), 0, 0
    with open(sys.argv[1], 'wb') as out:
        while have < want:
            before = have
            for path in files():
                data = text(path)
                if data is None:
                    continue
                prefix = (f'{turn}{path}' if turn else path).encode('utf-8', 'surrogateescape')
                block = b''.join(b'%s:%d:%s\n' % (prefix, n, line[:LINE])
                                 for n, line in enumerate(data.splitlines(), 1) if line)[:want - have]
                out.write(block)
                have += len(block)
                if have >= want:
                    break
            turn += 1
            if have == before:
                sys.exit('corpus.py: there is no text below ' + ' '.join(ROOTS))


if __name__ == '__main__':
    main()
