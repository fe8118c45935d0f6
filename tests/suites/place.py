# SPDX-License-Identifier: Apache-2.0
"""Where a suite runs, plain or merged: a folder, a cgroup from which nothing escapes, and, for merged, a
daemon that scans as fast as it can."""

import os
import pathlib
import signal
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

from lib.cgroup import Cgroup  # noqa: E402
from lib.daemon import Daemon  # noqa: E402
from lib.place import SLACK  # noqa: E402

# What lib's asserts and waits raise where something did not happen.
FAILURES = (AssertionError, OSError, pytest.fail.Exception)
# The signals that asked for the end. Where Python drops exceptions, as in what it does after a fork, a
# handler's is lost: so whoever waits looks here, too.
ASKED = []
FULL_SPEED = {"pages_to_scan": 1000000000, "sleep_millisecs": 0}


def end_in_order(number, frame):
    """TERM and HUP clean up as Ctrl-C does."""
    ASKED.append(number)
    raise KeyboardInterrupt


def go_on():
    """Unless the end was asked for."""
    if ASKED:
        raise KeyboardInterrupt


class Place:
    """A suite runs inside of `with Place(...)`: whatever it started is gone afterwards. pages_merged
    are those that were, all in all, when that was looked at last."""

    def __init__(self, build, merged):
        self.merged, self.pages_merged, self.said, self.logs = merged, 0, [], []
        self.cgroup = Cgroup()
        self.daemon = Daemon(build=build, cgroup=self.cgroup)
        self.folder = self.daemon.directory

    def __enter__(self):
        try:
            if self.merged:
                self.daemon.start()
                self.daemon.set(**FULL_SPEED)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.look()
        except BaseException:
            self._end()
            raise
        for log in self.logs:
            self.said += [line for line in text_of(log).splitlines() if line.startswith("samepage:")]
        try:
            self._end()
        except FAILURES:
            if kind is None:
                raise

    def start(self, *argv, env=None):
        """Starts argv as lib's Program: merged here, or as it stands."""
        return (self.daemon.run if self.merged else self.daemon.plain)(*argv, env=env)

    def start_logged(self, folder, *argv, env=None):
        """The same in a folder of its own, with nothing to read; program.log has all that it says."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log"
        program = self.start("/bin/sh", "-c", 'cd "$1" && log=$2 && shift 2 && exec "$@" </dev/null '
                             '>"$log" 2>&1', "sh", folder, log, *argv,
                             env={"TMPDIR": str(folder), **(env or {})})
        program.log = log
        self.logs.append(log)
        return program

    def look(self):
        """Notes how many pages were merged so far."""
        go_on()
        if self.merged:
            self.pages_merged = max(self.pages_merged, self.daemon.status("pages_merged"))

    def wait_all(self, programs, seconds):
        """Waits for the programs' ends, and looks meanwhile. The ones that had to be killed because
        that took too long."""
        deadline = time.monotonic() + seconds * SLACK
        while any(program.alive() for program in programs):
            if time.monotonic() > deadline:
                late = [program for program in programs if program.alive()]
                for program in late:
                    program.destroy()
                return late
            self.look()
            time.sleep(0.1)
        return []

    def _end(self):
        """Also what made itself a daemon, with an environment of its own."""
        try:
            self.daemon.close()
        finally:
            for pid in map(int, (self.cgroup.path / "cgroup.procs").read_text().split()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.cgroup.close()


def text_of(path):
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
