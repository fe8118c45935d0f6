# SPDX-License-Identifier: Apache-2.0
"""Data in bytes, arrays and dictionaries, worked on by threads and by pools of forked and of spawned
processes."""

import array
import hashlib
import mmap
import multiprocessing
import random
import threading


def digest(data):
    return hashlib.sha256(data).hexdigest()[:32]


def part(n):
    chance = random.Random(n)
    numbers = array.array("Q", (chance.getrandbits(40) for _ in range(60000)))
    words = {f"word-{chance.randrange(5000)}": chance.randbytes(30) for _ in range(20000)}
    return digest(numbers.tobytes() + b"".join(words[key] for key in sorted(words)))


def mapped():
    with mmap.mmap(-1, 1 << 23, flags=mmap.MAP_PRIVATE) as area:
        area[:] = random.Random(5).randbytes(1 << 12) * (1 << 11)
        area.madvise(mmap.MADV_DONTNEED, 1 << 20, 1 << 20)
        area[3 << 20:(3 << 20) + 5] = b"hello"
        area.move(5 << 20, 1 << 20, 1 << 20)
        return digest(area[:])


def main():
    rows = [{"id": i, "text": f"row {i} " * 4, "value": i * 7 % 1001} for i in range(150000)]
    print("rows", digest(repr(rows).encode()))
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(3) as pool:
            print(method, pool.map(part, range(6)))
    answers = [None] * 6
    threads = [threading.Thread(target=lambda n=n: answers.__setitem__(n, part(n))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("threads", answers)
    print("mapped", mapped())
    rows.sort(key=lambda row: (row["value"], row["id"]))
    print("rows", digest(repr(rows).encode()))


if __name__ == "__main__":
    main()
