#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the seeds of the fuzz target fuzz_sim, in tests/fuzz/seeds_sim, out of the lists of steps that are
kept in tests/sim/steps: as the target reads them, 13 bytes a step."""

import pathlib
import re
import struct

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    table = (ROOT / "src/sim/steps.c").read_text().split("kinds[] = {", 1)[1].split("};", 1)[0]
    kinds = re.findall(r'\{"([a-z0-9-]+)",', table)
    out = ROOT / "tests/fuzz/seeds_sim"
    out.mkdir(exist_ok=True)
    for path in sorted((ROOT / "tests/sim/steps").glob("*.steps")):
        steps = [line.split() for line in path.read_text().splitlines() if line and line[0] != "#"]
        data = b"".join(struct.pack("<BIII", kinds.index(name), int(a), int(b), int(c))
                        for name, a, b, c in steps)
        (out / path.stem).write_bytes(data)


if __name__ == "__main__":
    main()
