# SPDX-License-Identifier: Apache-2.0
"""A program of the workload python: builds a pandas data frame of so many rows, the same in every
process, says "ready", and answers every line on its standard input with a checksum of the frame."""

import gc
import hashlib
import sys

import numpy
import pandas

GROUPS = 5000


def build(rows):
    chance = numpy.random.default_rng(7)
    return pandas.DataFrame({
        "id": numpy.arange(rows),
        "time": pandas.date_range("2024-01-01", periods=rows, freq="s"),
        "price": chance.normal(100, 15, rows).round(2),
        "volume": chance.integers(1, 100000, rows),
        "share": chance.random(rows),
        **{f"measure_{i}": chance.standard_normal(rows) for i in range(12)},
        "group": pandas.Categorical.from_codes(
            chance.integers(0, GROUPS, rows), [f"group-{i:06d}" for i in range(GROUPS)]),
        "name": [f"customer {n:08d}" for n in chance.integers(0, rows, rows)],
    })


def checksum(frame):
    """Column by column, without copies that would grow the process."""
    sum_ = hashlib.blake2b(digest_size=16)
    for name in frame.columns:
        column = frame[name]
        if name == "group":
            sum_.update(column.cat.codes.to_numpy())
        elif name == "name":
            for value in column:
                sum_.update(value.encode())
        else:
            sum_.update(column.to_numpy().view(numpy.uint8))
    return sum_.hexdigest()


def main():
    frame = build(int(sys.argv[1]))
    gc.collect()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(checksum(frame), flush=True)


main()
