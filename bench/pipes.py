# SPDX-License-Identifier: Apache-2.0
"""Programs that say "ready" when their data is made, and a checksum of it when they get a line."""

import select
import subprocess

READY_SECONDS = CHECKSUM_SECONDS = 240


class Pipes:
    """The programs of a workload whose every program does the same."""

    def __init__(self):
        self.programs, self.sum = [], None

    def start(self, place, argv, count, env=None):
        """Starts them all, waits until all are ready, and lets each answer once, which may make its
        memory grow a little."""
        self.programs = [place.launch(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                         for _ in range(count)]
        for program in self.programs:
            said = self._line(program, READY_SECONDS)
            assert said == "ready", f"pid {program.pid} said {said!r} instead of ready"
        self.sum = self._ask(self.programs[0])
        self.check()

    def pids(self):
        return [program.pid for program in self.programs]

    def check(self):
        """Asks one after the other, so that each has its memory for itself while it answers."""
        for program in self.programs:
            got = self._ask(program)
            assert got == self.sum, f"pid {program.pid}: the checksum is {got}, not {self.sum}"

    def stop(self):
        for program in self.programs:
            program.kill()
        for program in self.programs:
            program.wait()
            for pipe in (program.stdin, program.stdout):
                try:
                    pipe.close()
                except OSError:
                    pass

    @staticmethod
    def _line(program, seconds):
        if not select.select([program.stdout], [], [], seconds)[0]:
            raise AssertionError(f"pid {program.pid} says nothing for {seconds} s")
        line = program.stdout.readline()
        assert line, f"pid {program.pid} ended with status {program.wait()}"
        return line.decode().strip()

    def _ask(self, program):
        program.stdin.write(b"sum\n")
        program.stdin.flush()
        return self._line(program, CHECKSUM_SECONDS)
