# SPDX-License-Identifier: Apache-2.0
"""The rows of programs/x_calls.c, done one after the other, and what each was told by the kernel."""

import re
import subprocess
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
HANGS = 480 # seconds, in which a program has done its rows, however busy the machine


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


def expected(compiled):
    """What the rows are told that are done again and again: no more than does not depend on when."""
    lines = [subprocess.run([compiled("x_calls"), "expected", *names], check=True, text=True,
                            stdin=subprocess.DEVNULL, capture_output=True).stdout
             for names in [TOGETHER, *([name] for name in ALONE)]]
    return "".join(line[4:] + "\n" for line in "".join(lines).splitlines()
                   if line.startswith("row "))


class Moving:
    """Rows done again and again while their memory is merged and un-merged as fast as that goes.
    differs: what was told and not expected, by name; stat: rounds, and those that began while part of
    the memory was merged; ended: how a program ended that should not have."""

    def __init__(self, daemon, program, path, rounds):
        self.daemon, self.program, self.path, self.rounds = daemon, program, path, rounds
        self.differs, self.stat, self.ended = {}, {}, {}

    def run(self, parts):
        """One program for each list of names, all at the same time."""
        programs = [self.daemon.run(self.program, "moving", self.rounds, self.path, *names)
                    for names in parts]
        threads = [threading.Thread(target=self._follow, args=(program,)) for program in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _unmerge(self, program):
        try:
            control.ask(self.daemon, "unmerge", pid=program.pid)
        except AssertionError:
            pass # a thread stayed in a call, or the program ended; who waits in vain asks again
        control.ask(self.daemon, "set", key="run", value="1")

    def _follow(self, program):
        now = "before the first row"
        watch = threading.Timer(HANGS * place.SLACK, program.popen.kill)
        watch.start()
        for line in program.popen.stdout:
            word, _, rest = line.decode().rstrip("\n").partition(" ")
            name, _, told = rest.partition("\t")
            if word == "begin":
                now = rest
            elif word == "differs":
                self.differs.setdefault(name, set()).add(told)
            elif word == "stat":
                self.stat[name] = tuple(int(n) for n in told.split())
            elif word == "unmerge":
                threading.Thread(target=self._unmerge, args=(program,)).start()
        watch.cancel()
        status = program.popen.wait()
        if status:
            self.ended[now] = f"ended with status {status}: {program.stderr()[-2000:]}"


def moving(compiled, rounds):
    daemon = Daemon()
    path = daemon.directory / "expected"
    lines = expected(compiled)
    path.write_text(lines)
    moving = Moving(daemon, compiled("x_calls"), path, rounds)

    def rows():
        moving.run([TOGETHER[0::2], TOGETHER[1::2]])
        moving.run([[name] for name in ALONE])

    beside_partner(daemon, compiled, rows)
    moving.expected = dict(line.split("\t") for line in lines.splitlines())
    return moving
