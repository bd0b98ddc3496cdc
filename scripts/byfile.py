#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""byfile.py TEXT MIB OUT - the first MIB MiB of a text, whose lines begin with the name of the file they are from, held in memory by file.

One of the programs that `make run` runs: plain Python, a dictionary of lists of strings, gone through once for each question.
"""
import sys


def main():
    files, left = {}, int(float(sys.argv[2]) * (1 << 20))
    with open(sys.argv[1], 'rb') as f:
        for line in f:
            name, _, rest = line.partition(b':')
            files.setdefault(name, []).append(rest)
            left -= len(line)
            if left <= 0:
                break
    with open(sys.argv[3], 'w') as out:
        for name, lines in files.items():
            print(name.decode(errors='replace'), len(lines), sum(map(len, lines)), max(map(len, lines)), file=out)
        for word in (b'struct', b'return', b'the'):
            for name, lines in files.items():
                n = sum(word in line for line in lines)
                if n:
                    print(word.decode(), name.decode(errors='replace'), n, file=out)


if __name__ == '__main__':
    main()
