# SPDX-License-Identifier: Apache-2.0
"""libsamepage: a program that is linked with it is merged where it says so, at once if it waits, and goes on
where it cannot be."""

import itertools
import os
import re
import signal
import subprocess
import threading
import time

import fake_daemon
import pytest

from lib import control, fake_agent
from lib.place import BUILD, PATIENCE, patient

LINKED = "tests/lib/linked"
BASE = 0x10000000


def start(daemon, *argv, **how):
    return daemon.plain(daemon.build / LINKED, *argv, **how)


def merged(line, result="done"):
    """The two numbers of a line that merge_now() made."""
    got = re.fullmatch(rf"merged (\d+) of (\d+) {result}: .*", line)
    assert got, line
    return int(got[1]), int(got[2])


def finish(program):
    program.must_finish(0)
    assert program.samepage_lines() == []


def test_library_merges_now(daemon):
    """At the pace of a daemon that would take hours."""
    daemon.set(pages_to_scan=1, sleep_millisecs=1000)
    other = start(daemon, "hold", 8)
    merged(other.line())
    other.region()
    program = start(daemon, "merge", 8)
    assert program.line() == "init done: "
    assert merged(program.line()) == (2048, 2048)
    assert re.fullmatch(r"statistics done: tracked 2048 merged 2048 frames 2048 sites 4096 cpu some",
                        program.line())
    assert re.fullmatch(r"mappings [1-9]\d* of [1-9]\d*, 0 pages left", program.line())
    merged(program.line())
    assert program.line() == "dont done: "
    finish(program)
    other.say()
    finish(other)


def test_library_tells_what_the_mappings_do_not_suffice_for(daemon):
    """All has been decided when samepage_merge_now() returns, but for what a partner refused."""
    daemon.set(max_mappings=100)
    program = start(daemon, "apart", 4)
    pages, _ = merged(program.line())
    program.line()
    told = re.fullmatch(r"mappings (\d+) of 100, (\d+) pages left", line := program.line())
    assert told, line
    assert 0 < pages < 100 and 0 < int(told[1]) <= 100 and 256 <= int(told[2]) <= 512 - pages, (pages, line)
    finish(program)


@pytest.mark.parametrize("mode", ["threads", "fork", "constant"])
def test_library_merges_beside(daemon, mode):
    other = start(daemon, "hold", 4)
    merged(other.line())
    program = start(daemon, mode, 4)
    if mode == "constant":
        assert program.line() == "constant done: "
    pages, of = merged(program.line())
    assert of == 1024 and pages >= (700 if mode == "threads" else 1024)
    finish(program)
    other.say()
    finish(other)


def test_library_under_run(daemon):
    program = daemon.run(daemon.build / LINKED, "hold", 4)
    merged(program.line())
    program.say()
    finish(program)


def test_library_wrong_use(daemon):
    program = start(daemon, "wrong", 4)
    for what in ("unaligned", "wraps", "beyond", "advice", "hole"):
        assert program.line().startswith(f"{what} wrong-use: ")
    assert program.line() == "nothing done: "
    finish(program)


def test_library_without_daemon(make_daemon):
    """Every call answers, the program goes on, and nothing is printed."""
    daemon = make_daemon()
    program = start(daemon, "merge", 4)
    assert program.line().startswith("init not-merged: no samepaged answers at ")
    assert merged(program.line(), "not-merged") == (0, 1024)
    assert program.line() == "statistics not-merged: tracked 0 merged 0 frames 0 sites 0 cpu none"
    assert program.line() == "mappings 0 of 0, 0 pages left"
    assert merged(program.line(), "not-merged") == (0, 1024)
    assert program.line() == "dont done: "
    finish(program)


def test_library_of_a_daemon_that_stopped_merging(daemon):
    daemon.set(run=0)
    program = start(daemon, "hold", 4)
    line = program.line()
    merged(line, "not-merged")
    assert "merging is stopped" in line
    program.say()
    finish(program)


def test_library_of_a_daemon_that_is_killed(daemon):
    """Between the start of the program and its call."""
    program = start(daemon, "late", 4)
    daemon.wait_state(program.pid, "merging")
    daemon.kill()
    program.say()
    assert merged(program.line(), "not-merged") == (0, 1024)
    finish(program)


def test_library_does_not_wait_longer(daemon):
    program = start(daemon, "late", 4)
    daemon.wait_state(program.pid, "merging")
    daemon.popen.send_signal(signal.SIGSTOP)
    try:
        program.say()
        merged(program.line(), "not-in-time")
        program.must_finish(0)
    finally:
        daemon.popen.send_signal(signal.SIGCONT)


def test_library_asks_again_no_longer_than_it_may_wait(daemon):
    """A daemon that took the other's place knows the process only when its agent has joined. This one never does, and
    takes its time to say so."""
    program = start(daemon, "late", 4)
    daemon.wait_state(program.pid, "merging")
    daemon.kill()
    os.unlink(daemon.socket)
    fake = fake_daemon.FakeDaemon(str(daemon.socket))
    asked = []

    def unknown(request):
        asked.append(request)
        time.sleep(0.01)
        return {"ok": True, "state": "unknown"}

    fake.answers["merge"] = unknown
    try:
        program.say()
        merged(program.line(), "(not-merged|not-in-time)")
        finish(program)
    finally:
        fake.close()
    assert 1 <= len(asked) <= 6  # ten milliseconds each, in fifty


def test_library_opened_later(daemon):
    """Other threads run already: the gate is not put in, and the program is not told but asks."""
    done = subprocess.run([daemon.build / "tests/lib/opened", daemon.build / "libsamepage.so.0"],
                          env=daemon.env, capture_output=True, text=True, timeout=patient(PATIENCE))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1: it loaded samepage after it began; link the program with libsamepage\n"
    assert done.stderr == ""


def test_library_asks_for_nobody_else(daemon):
    """merge and self are about the asker, whoever it is: this test is not merged."""
    assert control.ask(daemon, "merge")["state"] == "unknown"
    assert control.ask(daemon, "self")["state"] == "unknown"


class Unsettled(fake_agent.FakeAgent):
    """Says at each look that more of it is merged than at the last one."""

    def __init__(self, path):
        super().__init__(path, pages={BASE: bytes(fake_agent.PAGE)}, domain=b"unsettled",
                         lie={fake_agent.SCAN: self.more})
        self.looks = 0

    def more(self, _, seq, body):
        self.looks += 1
        return fake_agent.packet(fake_agent.SCAN, self.report(merged=self.looks), seq)


def ask_for_ever(path):
    agent = Unsettled(path)
    threading.Thread(target=agent.serve, daemon=True).start()
    for n in itertools.count():
        sock = fake_agent.connect(path)
        sock.send(b'{"op":"merge"}')
        if n % 3:
            sock.recv(65536)
        sock.close()  # or hang up while it is waited for


def test_library_askers_without_a_pause_hold_nobody_up(daemon):
    """Programs that ask to be merged all the time, are never done, and hang up, leave others their share."""
    asking = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            ask_for_ever(daemon.socket)
        asking.append(pid)
    try:
        for pid in asking:
            daemon.wait_state(pid, "merging")
        usual = [daemon.run(daemon.build / "examples/merge_now", 8, all=False),
                 daemon.run(daemon.build / LINKED, "hold", 4)]
        assert "2048 of 2048 pages merged" in usual[0].line()
        merged(usual[1].line())
        usual[1].say()
        for program in usual:
            finish(program)
        assert daemon.status("daemon_pid") == daemon.pid
    finally:
        for pid in asking:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.parametrize("layout", ["", "--shuffled"])
def test_library_example(daemon, layout):
    program = daemon.plain(daemon.build / "examples/merge_now", *filter(None, [layout]), 16)
    got = re.fullmatch(r"(\d+) of 4096 pages merged in [0-9.]+ s, ([0-9.]+) MiB saved", program.line())
    assert got and int(got[1]) == 4096 and float(got[2]) == 12.0, got
    finish(program)


def test_library_exports_nothing_else():
    out = subprocess.run(["nm", "-D", "--defined-only", BUILD / "libsamepage.so.0"],
                         capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].split("@")[0] for line in out.splitlines()}
    assert names == {"SAMEPAGE_0", "samepage_advise", "samepage_init", "samepage_is_linked",
                     "samepage_merge_now", "samepage_statistics", "samepage_version", "samepage_why"}
