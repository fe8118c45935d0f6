# SPDX-License-Identifier: Apache-2.0
"""The rows of programs/x_calls.c, done one after the other, and what each was told by the kernel."""

import re
import threading

from lib import control, place
from lib.daemon import Daemon

ROW = re.compile(r'\{ "([a-z0-9-]+)", [a-z_0-9]+')
# The names as x_calls --list has them; test_x_list says so.
NAMES = [name + way
         for topic in ("map", "mremap", "protect", "madvise", "other")
         for name in ROW.findall((place.HERE / "programs" / f"x_calls_{topic}.h").read_text())
         for way in ("", "-syscall")]
# What concerns the whole process, or the one heap, has a process to itself.
ALONE = [n for n in NAMES if n.startswith(("mlockall", "brk"))]
TOGETHER = [n for n in NAMES if n not in ALONE]
PROGRAMS = 12 # for the rows that can be done in one: the fewer there are, the sooner each is merged again
HANGS = 240 # seconds, in which a program has done its rows


class Rows:
    """Does rows in programs that start(names) starts. told: what each was told; a row that ended its
    program told how, and the others go on without it."""

    def __init__(self, start, daemon=None):
        self.start, self.daemon, self.told = start, daemon, {}

    def all(self):
        """They begin together, and are answered one after the other."""
        parts = [[name] for name in ALONE] + [TOGETHER[i::PROGRAMS] for i in range(PROGRAMS)]
        for program, names in [(self.start(names), names) for names in parts]:
            self._follow(program)
            while left := [name for name in names if name not in self.told]:
                self._follow(self.start(left))
        return self.told

    def _follow(self, program):
        now = "" # before the first row
        watch = threading.Timer(HANGS * place.SLACK, program.popen.kill)
        watch.start()
        for line in program.popen.stdout:
            word, _, rest = line.decode().rstrip("\n").partition(" ")
            if word == "begin":
                now = rest
            elif word == "ask":
                self._answer(program, rest)
            elif word == "row":
                self.told[now] = rest.partition("\t")[2]
                now = None
                if self.daemon:
                    control.ask(self.daemon, "set", key="run", value="1") # un-merged no more
        watch.cancel()
        status = program.finish()
        ended = f"ended with status {status}: {program.stderr()[-2000:]}"
        assert now != "" and (now or not status), ended
        if now:
            self.told[now] = ended

    def _answer(self, program, what):
        """Un-merges the program until its row ends; or has samepage look at all of its memory."""
        if self.daemon and what == "unmerge":
            control.ask(self.daemon, "unmerge", pid=program.pid)
        if self.daemon and what == "merge":
            control.passes(self.daemon, 3)
        program.say()


def beside_partner(daemon, compiled, what):
    """Runs what() beside a program that has the same pages, and must not notice."""
    try:
        daemon.start()
        daemon.set_full_speed()
        partner = daemon.run(compiled("x_calls"), "partner")
        assert partner.line() == "ready"
        what()
        partner.say()
        assert partner.line() == "ok", partner.stderr()
        partner.must_finish(0)
    finally:
        daemon.close()


def plain(compiled):
    """What the rows are told on memory that samepage never saw."""
    daemon = Daemon() # never started: only a place for programs
    try:
        return Rows(lambda names: daemon.plain(compiled("x_calls"), "plain", *names)).all()
    finally:
        daemon.close()


def merged(compiled):
    """And on memory that is merged when its row comes."""
    daemon, told = Daemon(), {}

    def rows():
        told.update(Rows(lambda names: daemon.run(compiled("x_calls"), "merged", *names),
                         daemon).all())

    beside_partner(daemon, compiled, rows)
    return told
