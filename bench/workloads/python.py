# SPDX-License-Identifier: Apache-2.0
"""Four Python programs, each with the same pandas data frame."""

import pathlib

from pipes import Pipes

PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "programs" / "frame.py"
PROGRAMS = 4
ROWS = 440000  # about 200 MB


class Workload(Pipes):
    name = "python"
    about = f"{PROGRAMS} Python programs, each with the same pandas data frame of 200 MB"
    advises = False
    scale = 1.0

    def start(self, place):
        super().start(place, ["/usr/bin/python3", PROGRAM, int(ROWS * self.scale)], PROGRAMS)
