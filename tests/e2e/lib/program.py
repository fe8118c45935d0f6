# SPDX-License-Identifier: Apache-2.0
"""A program that a test starts: its words on stdout line by line, its stderr in a file."""

import os
import select
import signal
import struct
import subprocess
import time
import uuid

import pytest

from lib import proc
from lib.place import A_SECOND, PATIENCE, NotInTime, patient, wait_for

MARK = "SAMEPAGE_TEST_PROGRAM"


def become(uid=None, cgroup=None):
    """What to do in the child before exec, or None: join a cgroup, give up root."""
    if uid is None and cgroup is None:
        return None

    def in_child():
        if cgroup:
            cgroup.join()
        if uid is not None:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)

    return in_child


class Program:
    """Starts argv in a session of its own. Every process that comes of it carries a mark in its
    environment, so that all of them can be found, agents too."""

    def __init__(self, argv, directory, env=None, uid=None, cgroup=None):
        self.mark = uuid.uuid4().hex
        self.name = os.path.basename(str(argv[-1] if len(argv) == 1 else argv[0]))
        self.stderr_path = directory / f"stderr-{self.mark}"
        with open(self.stderr_path, "wb") as stderr:
            self.popen = subprocess.Popen(
                [str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=stderr, cwd=directory, start_new_session=True,
                env={**os.environ, **(env or {}), MARK: self.mark},
                preexec_fn=become(uid, cgroup))
        self._buffer = b""

    def processes(self):
        """All living processes of this program: itself, its children, their agents."""
        wanted = f"{MARK}={self.mark}".encode()
        return [p for p in proc.all_processes() if wanted in p.environ.split(b"\0")]

    def agents(self):
        return [p.pid for p in self.processes() if p.comm == "samepage-agent"]

    @property
    def pid(self):
        """The program's own process, whether `samepage run` became it or waits for it."""
        here = proc.look(self.popen.pid)
        if not here or here.comm != "samepage":
            return self.popen.pid
        own = [p for p in self.processes() if p.comm not in ("samepage", "samepage-agent")]
        return min((p.pid for p in own), default=self.popen.pid)

    def alive(self):
        return self.popen.poll() is None

    def stderr(self):
        return self.stderr_path.read_text(errors="replace")

    def samepage_lines(self):
        return [line for line in self.stderr().splitlines() if line.startswith("samepage:")]

    def say(self, text="go"):
        self.popen.stdin.write(text.encode() + b"\n")
        self.popen.stdin.flush()

    def line(self, timeout=PATIENCE):
        """The next line on stdout; fails the test when the program ends, or did not say it in time."""
        deadline = time.monotonic() + patient(timeout)
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self.popen.stdout], [], [], left)[0]
            data = os.read(self.popen.stdout.fileno(), 65536) if ready else b""
            if not data:
                name = f"{self.name} (pid {self.popen.pid}, status {self.popen.poll()})"
                if ready:
                    pytest.fail(f"{name} ended: {self._buffer!r} {self.stderr()}")
                raise NotInTime(f"{name} said nothing for {patient(timeout):g} s: {self._buffer!r} "
                                f"{self.stderr()} {_where(self.pid)}")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode()

    def region(self, word="ready", timeout=PATIENCE):
        """Reads "WORD ADDRESS BYTES" and returns the two numbers."""
        said, address, length = self.line(timeout).split()
        assert said == word
        return int(address, 16), int(length)

    def finish(self, timeout=PATIENCE):
        """Waits for the end and returns the exit status (negative: the signal)."""
        try:
            return self.popen.wait(patient(timeout))
        except subprocess.TimeoutExpired:
            raise NotInTime(f"{self.name} (pid {self.popen.pid}) still runs after {patient(timeout):g} s: "
                            f"{self.stderr()} {_where(self.pid)}")

    def must_finish(self, status=0, timeout=PATIENCE):
        got = self.finish(timeout)
        assert got == status, f"{self.name}: status {got}, not {status}: {self.stderr()}"
        assert "WRONG BYTES" not in self.stderr()

    def signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        """KILL to the program itself, then nothing of it may be left after a second (D4)."""
        for p in self.processes():
            if p.comm != "samepage-agent":
                _kill(p.pid)
        self.popen.wait()
        wait_for(lambda: f"left of {self.name} after KILL: "
                         f"{[(p.pid, p.comm, p.state) for p in self.processes()]}",
                 lambda: not self.processes(), A_SECOND)

    def destroy(self):
        """For cleaning up: everything, without a question."""
        for p in self.processes():
            _kill(p.pid)
        if self.popen.poll() is None:
            _kill(self.popen.pid)
        self.popen.wait()
        self.popen.stdin.close()
        self.popen.stdout.close()


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _where(pid):
    """What each thread of the process waits for, for the message of a test that hangs."""
    try:
        return {int(tid): open(f"/proc/{pid}/task/{tid}/wchan", encoding="ascii").read()
                for tid in os.listdir(f"/proc/{pid}/task")}
    except OSError:
        return "gone"


class Progress:
    """The counters that a checker's threads write (programs/checker.c)."""

    def __init__(self, path, threads):
        self.path, self.threads = path, threads

    def read(self):
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            data = b""
        return struct.unpack(f"{self.threads}Q", data.ljust(8 * self.threads, b"\0"))

    def wait_all_go_on(self, whose="the checker", timeout=PATIENCE):
        """Every thread counts on: none waits for ever (D1, D2)."""
        before = self.read()
        wait_for(lambda: f"threads of {whose} hang: {before} then {self.read()}",
                 lambda: all(b > a for a, b in zip(before, self.read())), timeout)
