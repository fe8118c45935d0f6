# SPDX-License-Identifier: Apache-2.0
"""Four Node programs, each with the same objects, arrays and Buffers."""

import pathlib
import shutil

from pipes import Pipes

PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "programs" / "objects.js"
PROGRAMS = 4


class Workload(Pipes):
    name = "node"
    about = f"{PROGRAMS} Node programs, each with the same objects, arrays and Buffers, 180 MB"
    advises = False
    scale = 1.0

    def start(self, place):
        node = shutil.which("node")
        assert node, "node is not installed (scripts/deps.sh --bench)"
        super().start(place, [node, "--expose-gc", PROGRAM, self.scale], PROGRAMS)
