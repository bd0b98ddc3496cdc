#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""wordindex.py TEXT MIB OUT - an inverted index of the first MIB MiB of a text, in memory: for each word, the lines that have it.

One of the programs that `make run` runs: plain Python, a dictionary of lists.
"""
import re
import sys


def main():
    index, word, left = {}, re.compile(rb'[A-Za-z_][A-Za-z_0-9]{2,}'), int(float(sys.argv[2]) * (1 << 20))
    with open(sys.argv[1], 'rb') as f:
        for number, line in enumerate(f):
            for w in set(word.findall(line)):
                index.setdefault(w, []).append(number)
            left -= len(line)
            if left <= 0:
                break
    with open(sys.argv[3], 'w') as out:
        for w in sorted(index):
            lines = index[w]
            print(w.decode(), len(lines), lines[0], lines[-1], sum(lines) % 1000003, file=out)


if __name__ == '__main__':
    main()
