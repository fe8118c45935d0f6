# SPDX-License-Identifier: Apache-2.0
"""Made memory: known contents in runs of known lengths (programs/made.c)."""

import contextlib
import subprocess

PROGRAMS = 4
MIB = 128  # of each
COSTS = 4000  # pages of which the costs are taken


class Workload:
    advises = False
    scale = 1.0

    def __init__(self, run, about):
        self.run = run
        self.name = f"made-run{run}" if isinstance(run, int) else f"made-{run}"
        self.idle_has_target = run == "distinct"
        self.about = f"{PROGRAMS} programs of {MIB} MiB: {about}"
        self.programs = []

    def start(self, place):
        self.programs = [
            place.launch([place.tools / "made", max(1, int(MIB * self.scale)), number, self.run],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for number in range(PROGRAMS)]
        for program in self.programs:
            self._expect(program, b"ready")

    def _line(self, program):
        line = program.stdout.readline().strip()
        assert line, f"made ended with status {program.poll()}"
        return line

    def _expect(self, program, want):
        line = self._line(program)
        assert line == want, f"made says {line.decode()!r}"

    def _ask(self, program, question):
        program.stdin.write(question + b"\n")
        program.stdin.flush()

    def _cost(self, question):
        """Nanoseconds a page, of the last program."""
        self._ask(self.programs[-1], b"%b %d" % (question, int(COSTS * self.scale)))
        return float(self._line(self.programs[-1]))

    def pids(self):
        return [program.pid for program in self.programs]

    def after_merge(self):
        return {"first_read_ns": self._cost(b"read")} if self.run != "distinct" else {}

    def at_end(self):
        costs = {} if self.run == "distinct" else {
            "write_merged_ns": self._cost(b"write"),
        }
        if self.run != "equal":
            costs["write_own_ns"] = self._cost(b"write-own")
        return costs

    def check(self):
        for program in self.programs:
            self._ask(program, b"verify")
        for program in self.programs:
            self._expect(program, b"right")

    def stop(self):
        for program in self.programs:
            program.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(10)
        self.programs = []


def workloads():
    return [
        Workload(1, "single pages that all have, at other places, one page of its own after each"),
        Workload(4, "runs of 4 pages that all have, one page of its own after each"),
        Workload(16, "runs of 16 pages that all have, one page of its own after each"),
        Workload("equal", "one content in every page"),
        Workload("distinct", "no page like another"),
    ]
