# SPDX-License-Identifier: Apache-2.0
"""Holds a table of records, the same in every such program, and checks it over and over.

Ends with status 1 at the first wrong byte. For each line on stdin it prints a checksum of the whole
table; it ends when stdin does.
"""
import hashlib
import random
import select
import sys
import zlib

BLOCK = 4 << 20
REST = 0.05  # seconds between two blocks, so that checking takes little CPU

rng = random.Random(7)


def make_block(number):
    rows = []
    size = 0
    while size < BLOCK:
        row = f"{number:04};{len(rows):08};{rng.getrandbits(256):064x};{rng.getrandbits(512):0128x}\n"
        rows.append(row)
        size += len(row)
    return "".join(rows).encode()[:BLOCK]


table = [make_block(number) for number in range((int(sys.argv[1]) << 20) // BLOCK)]
expected = [zlib.crc32(block) for block in table]

while True:
    for number, block in enumerate(table):
        if zlib.crc32(block) != expected[number]:
            print(f"samepage: WRONG BYTES in block {number}", file=sys.stderr)
            sys.exit(1)
        if select.select([sys.stdin], [], [], REST)[0]:
            if not sys.stdin.readline():
                sys.exit(0)
            total = hashlib.sha256()
            for other in table:
                total.update(other)
            print(total.hexdigest(), flush=True)
