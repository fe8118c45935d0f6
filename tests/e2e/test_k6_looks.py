# SPDX-License-Identifier: Apache-2.0
"""The looks at what a program has open, before pages that were written after their merge are merged again
(K6; src/daemon/pins_looker.h): nobody can make the daemon wait for one, and what is open at any of them
counts."""

import ctypes
import json
import os
import select
import signal
import struct
import time

from lib import fake_agent as fa
from lib import proc
from lib.place import A_SECOND, patient, wait_for

BASE = 0x10000000
WRITTEN, LOOKED, HELD = 0x2, 0x4, 0x80  # of a SCAN or MERGE; of a MERGE; a result
KEPT = 0x1
AGE = 2.0  # seconds that nothing must have been open
CAPABILITIES = 1 << 19 | 1 << 2  # SYS_PTRACE, DAC_READ_SEARCH
SYS_IO_SETUP, SYS_IO_DESTROY = {"x86_64": (206, 207), "aarch64": (0, 1)}[os.uname().machine]

libc = ctypes.CDLL(None, use_errno=True)


def page(fill):
    return bytes([fill]) * fa.PAGE


def looker_of(daemon):
    """The daemon's looker that lives, or None."""
    with open(f"/proc/{daemon.pid}/task/{daemon.pid}/children", encoding="ascii") as children:
        for pid in map(int, children.read().split()):
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                    comm, rest = stat.read().split("(", 1)[1].rsplit(")", 1)
            except OSError:
                continue
            if comm == "samepage-looker" and rest.split()[0] != "Z":
                return pid
    return None


def wait_looker(daemon):
    return wait_for("there is no looker", lambda: looker_of(daemon))


class Context:
    """An asynchronous I/O context of this process: it may have pages pinned."""

    def __init__(self):
        self.id = ctypes.c_ulong(0)
        assert libc.syscall(SYS_IO_SETUP, 8, ctypes.byref(self.id)) == 0

    def destroy(self):
        assert libc.syscall(SYS_IO_DESTROY, self.id) == 0


def tell(what):
    """To the test, in an agent."""
    os.write(3, what.encode() + struct.pack("<d", time.monotonic()))


class Written(fa.FakeAgent):
    """Has two pages that were merged before and written since, which others have too. It tells `out` what it
    is asked, a character each: "s" a scan that may not report such pages, "w" one that may, "h" a merge
    that holds them, "l" one after looking, "g" that they be let go of. when: {character: what to do before
    the answer}."""

    def __init__(self, path, out, when):
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.dup2(out, 3)
        os.closerange(4, 4096)
        self.when = when
        self.held = {BASE: page(1), BASE + fa.PAGE: page(2)}
        super().__init__(path, pages=self.held)

    def note(self, what):
        tell(what)
        if what in self.when:
            self.when.pop(what)()

    def _scan(self, body):
        flags, = struct.unpack_from("<I", body, 16)
        self.note("w" if flags & WRITTEN else "s")
        pages = [(a | KEPT, fa.page_hash(p, self.seed)) for a, p in self.held.items()
                 if a not in self.sites] if flags & WRITTEN else []
        return fa.SCAN, self.report(pages, kept=len(self.held) - len(self.sites), looked=len(pages))

    def _segment(self, body, fd):
        os.close(fd)  # agents have it, programs have not
        return fa.DONE, struct.pack("<iI", 0, 0)

    def _merge(self, body):
        nruns, npages = struct.unpack_from("<II", body)
        runs = list(struct.iter_unpack("<QIIII", body[8:8 + nruns * 24]))
        flags, result = runs[0][4] if runs else 0, 1
        if not runs:
            self.note("g")
        elif flags & LOOKED:
            self.note("l")
            result = 0
            for addr, segment, index, n, _ in runs:
                self.sites.update({addr + i * fa.PAGE: (segment, index + i) for i in range(n)})
        elif flags & WRITTEN:
            self.note("h")
            result = HELD
        return fa.MERGE, struct.pack("<II", npages, len(self.sites)) + bytes([result]) * npages


class Watched:
    """Such an agent in a process of its own, and what it was asked."""

    def __init__(self, daemon, when=None):
        self.ours, theirs = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                Written(daemon.socket, theirs, when() if when else {}).serve()
                status = 0
            finally:
                os._exit(status)
        os.close(theirs)
        self.daemon = daemon

    def wait_asked(self, what):
        """What it was asked from now on until it is asked one of these, and when that was."""
        asked, deadline = "", time.monotonic() + patient(60)
        while not asked or asked[-1] not in what:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.ours], [], [], left)[0], \
                f"asked {asked}, none of {what}: {self.daemon.status()} {self.daemon.ps(self.pid)}"
            got = os.read(self.ours, 9)
            assert len(got) == 9, f"it ended after {asked}: {self.daemon.log()}"
            asked += chr(got[0])
        return asked, struct.unpack("<d", got[1:])[0]

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.ours)


def with_a_like(daemon):
    """Two others that have its pages: then there is a frame to merge them into."""
    pages = {BASE: page(1), BASE + fa.PAGE: page(2)}
    children = [fa.Child(daemon.socket, pages=pages) for _ in range(2)]
    wait_for(lambda: f"nothing merged: {daemon.status()}", lambda: daemon.status("pages_sharing") == 2)
    return children


def end(*children):
    for child in children:
        child.kill()


def test_k6_written_pages_are_merged_when_nothing_was_open_twice(daemon):
    """The usual way: a look, an age, pages held, another look, merged."""
    like = with_a_like(daemon)
    agent = Watched(daemon)
    asked, _ = agent.wait_asked("l")
    assert "h" in asked and "g" not in asked, asked
    wait_for(lambda: f"not merged: {daemon.status()}", lambda: daemon.status("pages_sharing") == 4)
    agent.end()
    end(*like)


def test_k6_what_was_closed_just_now_counts_for_an_age(daemon):
    """As long as something is open that may pin, and for an age after, no such page is even looked at: I/O may
    go on a while on what was closed."""
    def when():
        held = Context()

        def close(_signal, _frame):
            held.destroy()
            tell("c")

        signal.signal(signal.SIGUSR1, close)
        return {}

    like = with_a_like(daemon)
    agent = Watched(daemon, when)
    wait_for(lambda: f"it is not seen: {daemon.status()}", lambda: daemon.status("kept_aio") == 2)
    os.kill(agent.pid, signal.SIGUSR1)
    asked, closed = agent.wait_asked("cw")
    assert asked[-1] == "c", "such pages were asked for though something was open"
    _, reported = agent.wait_asked("w")
    assert reported - closed > AGE, f"asked for them {reported - closed:.2f} s after it was closed"
    agent.end()
    end(*like)


def test_k6_what_was_opened_before_the_pages_were_held_keeps_them(daemon):
    """The second look: while pages are held. What it finds has them let go of, and not merged."""
    like = with_a_like(daemon)
    agent = Watched(daemon, lambda: {"h": Context})
    asked, _ = agent.wait_asked("gl")
    assert asked[-1] == "g", f"merged although it may have them pinned: {asked}"
    wait_for(lambda: f"it is not told: {daemon.status()}", lambda: daemon.status("kept_aio") == 2)
    agent.end()
    end(*like)


def test_k6_pages_held_unasked_cut_the_connection(daemon):
    """An agent that says so though it was not asked for it is none of ours."""
    def lie(agent, seq, body):
        npages, = struct.unpack_from("<I", body, 4)
        return fa.packet(fa.MERGE, struct.pack("<II", npages, 0) + bytes([HELD]) * npages, seq)

    like = with_a_like(daemon)
    liar = fa.Child(daemon.socket, pages={BASE: page(1)}, lie={fa.MERGE: lie})
    assert liar.wait() == 0, "the daemon kept the connection"
    end(*like)
    assert daemon.status()["processes"] <= 2


def test_x_a_look_that_takes_for_ever_holds_nobody_up(daemon):
    """The looker is stopped in the middle of things, as a program can make it wait. That program's pages stay
    private, and the reason is told; the looker is replaced, and others' pages are merged again."""
    like = with_a_like(daemon)
    first = Watched(daemon)
    first.wait_asked("l")
    stopped = wait_looker(daemon)
    os.kill(stopped, signal.SIGSTOP)
    slow = Watched(daemon)
    wait_for(lambda: f"the looker is waited for: {daemon.status()} {daemon.ps(slow.pid)}",
             lambda: not proc.exists(stopped))
    wait_for(lambda: f"the reason is not told: {daemon.ps(slow.pid)}",
             lambda: daemon.ps(slow.pid)["kept_because"] == "unknown")
    assert "kept_unknown" in json.loads(daemon.cli("explain", "--json", slow.pid).stdout)["because"]
    other = Watched(daemon)
    asked, _ = other.wait_asked("l")
    assert "h" in asked and wait_looker(daemon) != stopped
    for agent in (first, slow, other):
        agent.end()
    end(*like)


def test_x_a_hold_does_not_wait_for_a_look_for_ever(daemon):
    """The same while pages are held: they are let go of."""
    looker = []

    def when():
        def stop():
            looker.append(wait_looker(daemon))
            os.kill(looker[0], signal.SIGSTOP)
        return {"h": stop}

    like = with_a_like(daemon)
    agent = Watched(daemon, when)
    _, held = agent.wait_asked("h")
    asked, let_go = agent.wait_asked("gl")
    assert asked == "g", f"merged without a look: {asked}"
    assert let_go - held >= 0.1, "nobody looked"
    wait_for(lambda: f"the reason is not told: {daemon.ps(agent.pid)}",
             lambda: daemon.ps(agent.pid)["kept_because"] == "unknown")
    agent.end()
    end(*like)


def test_x_the_looker_has_nothing_that_it_does_not_need(daemon):
    """No descriptor of the daemon's, no capability but those to look at processes; and it ends with it (D4)."""
    like = with_a_like(daemon)
    agent = Watched(daemon)
    agent.wait_asked("l")
    looker = wait_looker(daemon)
    fds = {name: os.readlink(f"/proc/{looker}/fd/{name}") for name in os.listdir(f"/proc/{looker}/fd")}
    assert sorted(fds) == ["0", "1", "2", "3"] and fds["3"].startswith("socket:"), fds
    assert {fds[name] for name in "012"} == {"/dev/null"}, fds
    with open(f"/proc/{looker}/status", encoding="ascii") as status:
        status = dict(line.split(":\t", 1) for line in status.read().splitlines())
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert not int(status[kind], 16) & ~CAPABILITIES, status
    assert status["NoNewPrivs"].strip() == "1", status
    agent.end()
    end(*like)
    daemon.kill()
    wait_for("the looker is left", lambda: not proc.exists(looker), A_SECOND)
