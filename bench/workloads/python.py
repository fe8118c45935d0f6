# SPDX-License-Identifier: Apache-2.0
"""Four Python programs, each with the same pandas data frame."""

import pathlib

from pipes import Pipes

PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "programs" / "frame.py"
PROGRAMS = 4
ROWS = 440000  # about 200 MB
# glibc would raise its threshold as the program runs, so that chance decides which arrays lie in the
# heap, and so whether two programs have one at the same place within a page: of two runs one would
# have twice as many equal pages as the other, and no two runs could be compared.
FIXED = {"MALLOC_MMAP_THRESHOLD_": "131072"}


class Workload(Pipes):
    name = "python"
    about = f"{PROGRAMS} Python programs, each with the same pandas data frame of 200 MB"
    advises = False
    scale = 1.0

    def start(self, place):
        super().start(place, ["/usr/bin/python3", PROGRAM, int(ROWS * self.scale)], PROGRAMS, FIXED)
