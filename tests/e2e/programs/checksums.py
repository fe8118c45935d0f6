# SPDX-License-Identifier: Apache-2.0
"""Holds 60 MB, half of it equal in every copy of this program, and verifies its checksums for
SECONDS at least and until there is a line on stdin; a slice is rewritten now and then and its checksum
updated. usage: checksums.py SECONDS
Prints "ready", then "ok ROUNDS"; a wrong checksum is told on stderr, exit status 1."""

import os
import random
import select
import sys
import time
import zlib

BLOCK = 1 << 20
COMMON, OWN = 30, 30


def make_blocks():
    blocks = [bytearray(random.Random(i).randbytes(BLOCK)) for i in range(COMMON)]
    own = random.Random(os.urandom(16))
    return blocks + [bytearray(own.randbytes(BLOCK)) for _ in range(OWN)]


def rewrite_slice(block, chance):
    size = chance.randrange(1, 3 * 4096)
    start = chance.randrange(0, BLOCK - size)
    block[start:start + size] = chance.randbytes(size)
    return zlib.crc32(block)


def told():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def main():
    blocks = make_blocks()
    sums = [zlib.crc32(b) for b in blocks]
    chance = random.Random(os.getpid())
    end = time.monotonic() + float(sys.argv[1])
    print("ready", flush=True)
    rounds = 0
    while time.monotonic() < end or not told():
        i = chance.randrange(len(blocks))
        got = zlib.crc32(blocks[i])
        if got != sums[i]:
            print(f"WRONG BYTES: block {i}, round {rounds}: {got:08x}, not {sums[i]:08x}",
                  file=sys.stderr)
            return 1
        if rounds % 16 == 0:
            sums[i] = rewrite_slice(blocks[i], chance)
        rounds += 1
        time.sleep(0.004)
    for i, block in enumerate(blocks):
        if zlib.crc32(block) != sums[i]:
            print(f"WRONG BYTES at the end: block {i}", file=sys.stderr)
            return 1
    print("ok", rounds, flush=True)
    return 0


sys.exit(main())
