# SPDX-License-Identifier: Apache-2.0
"""K13: a merged program that opens its own /proc/self/ksm_stat or ksm_merging_pages reads samepage's
figures, those that ksmfs shows; and whoever else opens one, or cannot be told, the kernel's."""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import subprocess
import time

import pytest

from lib.control import ask
from lib.ksmfs import Ksmfs, need_ksmfs
from lib.place import BUILD, HERE, patient, wait_for

LIBC = ctypes.CDLL(None, use_errno=True)
PIDFD_GETFD = 438
NAMES = ["ksm_stat", "ksm_merging_pages"]
WAYS = ["open", "openat", "fopen", "syscall", "syscall-open", "folder", "chdir", "edge", "thread"]

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/ksm_stat"), reason="a kernel without KSM's files")


def figures(daemon, pid, name):
    """What the file must hold, as the daemon tells the figures, in one line."""
    told = ask(daemon, "process", pid=pid)
    if name == "ksm_merging_pages":
        return f"{told['ksm_merging_pages']}|"
    lines = [f"{key} {told[key]}" for key in
             ("ksm_rmap_items", "ksm_zero_pages", "ksm_merging_pages", "ksm_process_profit")]
    lines += [f"{key}: {'yes' if told[key] else 'no'}" for key in ("ksm_merge_any", "ksm_mergeable")]
    return "".join(f"{line}|" for line in lines)


def kernels(pid, name):
    with open(f"/proc/{pid}/{name}", encoding="ascii") as file:
        return file.read().replace("\n", "|")


class Reader:
    def __init__(self, program):
        self.program, self.area = program, program.region()

    @property
    def pid(self):
        return self.program.pid

    def read(self, how, path):
        self.program.say(f"{how} {path}")
        return self.program.line()

    def end(self):
        self.program.say("end")
        assert self.program.line() == "ok"
        self.program.must_finish(0)
        assert self.program.samepage_lines() == []


@pytest.fixture
def reader(daemon, compiled):
    """A merged program whose figures do not move any more."""
    both = [Reader(daemon.run(compiled("own_files"))) for _ in range(2)]
    for one in both:
        daemon.wait_merged(one.program, one.area, share=1)
    daemon.set(run=0)
    return both[0]


def must_read(daemon, reader, how, path, name, pid=None):
    """The agents may still report what they did before merging stopped."""
    got = {}

    def same():
        before = figures(daemon, pid or reader.pid, name)
        got["text"] = reader.read(how, path)
        got["told"] = figures(daemon, pid or reader.pid, name)
        return before == got["told"] == got["text"]

    wait_for(lambda: f"{how} {path}: {got}", same)
    assert int(ask(daemon, "process", pid=pid or reader.pid)["ksm_merging_pages"]) >= 512


def test_own_files_hold_samepages_figures(daemon, reader):
    """However they are opened, whatever the path is."""
    for name in NAMES:
        for how in WAYS:
            must_read(daemon, reader, how, f"/proc/self/{name}", name)
        for folder in ("thread-self", str(reader.pid), f"{reader.pid}/task/{reader.pid}", "self/task/../",
                       f"self/root/proc/{reader.pid}"):
            must_read(daemon, reader, "open", f"/proc/{folder}/{name}", name)
        must_read(daemon, reader, "thread", f"/proc/thread-self/{name}", name)
        assert kernels(reader.pid, name) != figures(daemon, reader.pid, name)
    must_read(daemon, reader, "nature", "/proc/self/ksm_stat", "ksm_stat")
    must_read(daemon, reader, "nature", "/proc/self/ksm_merging_pages", "ksm_merging_pages")
    must_read(daemon, reader, "flood", "/proc/self/ksm_stat", "ksm_stat")
    reader.end()


def test_own_files_are_those_of_ksmfs(daemon, reader):
    need_ksmfs(daemon.build)
    ksmfs = Ksmfs(daemon)
    try:
        for name in NAMES:
            must_read(daemon, reader, "open", f"/proc/self/{name}", name)
            assert reader.read("open", f"/proc/self/{name}") == reader.read("open", ksmfs / f"proc/{reader.pid}/{name}")
    finally:
        ksmfs.close()
    reader.end()


def test_own_file_of_advised_memory(daemon, compiled):
    """Of a program that is not merged whole, and has advised nothing."""
    one = Reader(daemon.run(compiled("own_files"), all=False))
    wait_for("not known", lambda: "ksm_mergeable" in ask(daemon, "process", pid=one.pid))
    text = one.read("open", "/proc/self/ksm_stat")
    assert "ksm_merging_pages 0|" in text and text.endswith("ksm_merge_any: no|ksm_mergeable: no|")
    one.end()


@pytest.fixture
def linked(tmp_path_factory):
    """The program, linked with libsamepage: nothing is preloaded."""
    target = tmp_path_factory.mktemp("linked") / "own_files"
    subprocess.run(["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-pthread", "-Wl,--no-as-needed", f"-L{BUILD}",
                    "-lsamepage", f"-Wl,-rpath,{BUILD}", "-o", target, HERE / "programs" / "own_files.c"],
                   check=True, timeout=patient(60))
    return target


@pytest.mark.parametrize("how", ["run", "linked"])
def test_own_file_of_a_program_that_advised(daemon, compiled, linked, how):
    start = {"run": lambda: daemon.run(compiled("own_files"), "advise", all=False),
             "linked": lambda: daemon.plain(linked, "advise")}[how]
    both = [Reader(start()) for _ in range(2)]
    for one in both:
        daemon.wait_merged(one.program, one.area, share=1)
    daemon.set(run=0)
    for name in NAMES:
        must_read(daemon, both[0], "open", f"/proc/self/{name}", name)
    assert both[0].read("open", "/proc/self/ksm_stat").endswith("ksm_merge_any: no|ksm_mergeable: yes|")
    for one in both:
        one.end()


def test_process_without_pid_is_the_asker(daemon):
    """docs/control.md; what the test itself asks is not merged."""
    assert ask(daemon, "process") == {"ok": True, "pid": os.getpid(), "state": "unknown"}


def test_others_files_are_the_kernels(daemon, compiled, reader):
    """What is not of this very process, or is no file of /proc."""
    plain = Reader(daemon.plain(compiled("own_files")))
    mine = daemon.directory / "ksm_stat"
    mine.write_text("mine\n")
    for name in NAMES:
        assert reader.read("open", f"/proc/{plain.pid}/{name}") == kernels(plain.pid, name)
        assert plain.read("open", f"/proc/self/{name}") == kernels(plain.pid, name)
        assert plain.read("open", f"/proc/{reader.pid}/{name}") == kernels(reader.pid, name)
    assert reader.read("open", mine) == "mine|"
    assert reader.read("open", "/proc/self/no_ksm_stat") == "error 2"
    plain.end()
    reader.end()


def test_forked_child_has_its_own(daemon, reader):
    """A child's are those of the child, once the daemon knows it."""
    reader.program.say("fork /proc/self/ksm_stat")
    word, pid = reader.program.line().split()
    assert word == "child"
    wait_for("the child is not known", lambda: "ksm_mergeable" in ask(daemon, "process", pid=int(pid)))
    got = {}

    def same():
        reader.program.say("again")
        got["text"] = reader.program.line()
        got["told"] = figures(daemon, int(pid), "ksm_stat")
        return got["text"] == got["told"]

    wait_for(lambda: f"the child reads {got}", same)
    reader.program.say("enough")
    assert reader.program.line() == "done"
    must_read(daemon, reader, "open", "/proc/self/ksm_stat", "ksm_stat")
    reader.end()


@pytest.mark.parametrize("how", ["filtered-thread", "filtered"])
def test_under_a_filter_it_is_the_kernels(daemon, reader, how):
    """X, seccomp: not one call that the filter might punish; at once, before the agent can know of it."""
    assert reader.read(how, "/proc/self/ksm_stat") == kernels(reader.pid, "ksm_stat")
    assert reader.program.alive()
    for name in NAMES:  # and so it stays: nothing is merged any more
        assert reader.read("open", f"/proc/self/{name}") == kernels(reader.pid, name)
    reader.end()


def test_under_a_filter_from_the_start_it_is_the_kernels(daemon, compiled):
    """As in a container: merged, and not one call more for this."""
    both = [Reader(daemon.run(compiled("own_files"), "filtered")) for _ in range(2)]
    for one in both:
        daemon.wait_merged(one.program, one.area, share=1)
    for name in NAMES:
        assert both[0].read("open", f"/proc/self/{name}") == kernels(both[0].pid, name)
    for one in both:
        one.end()


def test_without_a_daemon_it_is_the_kernels(daemon, reader):
    must_read(daemon, reader, "open", "/proc/self/ksm_stat", "ksm_stat")
    daemon.kill()
    assert reader.read("open", "/proc/self/ksm_stat") == kernels(reader.pid, "ksm_stat")
    daemon.start()
    wait_for("not known again", lambda: ask(daemon, "process", pid=reader.pid).get("ksm_merging_pages", 0) >= 512)
    must_read(daemon, reader, "open", "/proc/self/ksm_stat", "ksm_stat")
    reader.end()


def peer_limit(pid, kind):
    """Seconds that the program's socket waits, as it set them last."""
    for link in os.listdir(f"/proc/{pid}/fd"):
        try:
            if not os.readlink(f"/proc/{pid}/fd/{link}").startswith("socket:"):
                continue
        except FileNotFoundError:
            continue
        process = os.pidfd_open(pid)
        fd = LIBC.syscall(PIDFD_GETFD, process, int(link), 0)
        os.close(process)
        if fd < 0:
            continue
        with socket.socket(fileno=fd) as theirs:
            seconds, micros = struct.unpack("ll", theirs.getsockopt(socket.SOL_SOCKET, kind, 16))
        return seconds + micros / 1e6
    return None


def accept_asker(listener):
    """Agents look for a daemon there, too. None: nobody asked any more, after ten seconds of the machine's."""
    while True:
        try:
            theirs = listener.accept()[0]
        except TimeoutError:
            return contextlib.nullcontext()
        if theirs.recv(64) == b'{"op":"process"}':
            return theirs
        theirs.close()


def test_open_waits_for_the_daemon_once(daemon, reader):
    """docs/ksmfs.md: ten seconds at most, all steps together: what one took the next has not."""
    daemon.kill()
    path = daemon.socket
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, \
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
        listener.bind(str(path))
        listener.listen(0)
        listener.settimeout(patient(20))
        first.connect(str(path))  # no room for another one
        reader.program.say("open /proc/self/ksm_stat")
        wait_for("it does not connect", lambda: peer_limit(reader.pid, socket.SO_SNDTIMEO))
        began = time.monotonic()
        wait_for("time stands still", lambda: time.monotonic() - began > 0.2)
        waited = time.monotonic() - began
        listener.accept()[0].close()
        limits = []

        def waits():
            limits.append(peer_limit(reader.pid, socket.SO_RCVTIMEO))
            return limits[-1] or select.select([reader.program.popen.stdout], [], [], 0)[0]

        with accept_asker(listener):
            wait_for("it does not wait", waits)
            if limits[-1]:  # else ten seconds went by: on such a machine there is nothing to see
                assert limits[-1] < 10 - waited / 2  # the kernel rounds it up to its ticks
    assert reader.program.line() == kernels(reader.pid, "ksm_stat")
    path.unlink()
    reader.end()


def test_without_room_in_files_it_is_the_kernels(daemon, reader):
    """X: RLIMIT_FSIZE, which kills who goes beyond it."""
    assert reader.read("limited", "/proc/self/ksm_stat") == kernels(reader.pid, "ksm_stat")
    must_read(daemon, reader, "open", "/proc/self/ksm_stat", "ksm_stat")
    reader.end()


def test_paths_that_vanish(daemon, reader):
    """X: what open does with a path that cannot be read, or not any more, is what the kernel does."""
    assert reader.read("bad-path", "/proc/self/no_file") == "error 2"
    assert reader.read("unmapped-path", daemon.directory / "ksm_stat") == "opened"
    reader.end()


def waits_in(pid, tid, where):
    def there():
        with open(f"/proc/{pid}/task/{tid}/wchan", encoding="ascii") as file:
            now = file.read()
        return any(name in now for name in where)

    wait_for(f"thread {tid} does not wait in {where}", there)


def test_path_that_vanishes_by_a_call_that_began_before(daemon, reader):
    """X: a call that takes the path away while the open waits may have begun before the open did."""
    fifo = daemon.directory / "ksm_stat"
    protects, opens = reader.read("protected-path", fifo).split()
    agent, = reader.program.agents()
    os.kill(agent, signal.SIGSTOP)
    try:
        assert reader.read("now-protect", fifo) == "told"
        waits_in(reader.pid, protects, ["userfault"])  # for the agent, to un-merge
        assert reader.read("now-open", fifo) == "told"
        waits_in(reader.pid, opens, ["fifo", "wait_for_partner"])
    finally:
        os.kill(agent, signal.SIGCONT)
    assert reader.read("now-both-end", fifo) == "opened"
    must_read(daemon, reader, "open", "/proc/self/ksm_stat", "ksm_stat")
    reader.end()


def test_open_can_be_cancelled(daemon, reader):
    assert reader.read("cancelled", daemon.directory / "ksm_stat") == "cancelled"
    must_read(daemon, reader, "open", "/proc/self/ksm_stat", "ksm_stat")
    daemon.set(run=1)
    fresh = Reader(daemon.run(reader.program.popen.args[-1]))
    daemon.wait_merged(fresh.program, fresh.area, share=1)  # the gate still closes
    fresh.end()
    reader.end()


def test_python_reads_its_own(daemon):
    code = "import mmap\n" \
           "m = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n" \
           "m[:] = b''.join(i.to_bytes(8, 'little') * 512 for i in range(2048))\n" \
           "print('ready', flush=True)\n" \
           "while input() == 'go': print(open('/proc/self/ksm_stat').read().replace('\\n', '|'), flush=True)\n"
    programs = [daemon.run("/usr/bin/python3", "-c", code) for _ in range(2)]
    for program in programs:
        assert program.line(60) == "ready"
    wait_for(lambda: f"not merged: {daemon.ps(programs[0].pid)}",
             lambda: ask(daemon, "process", pid=programs[0].pid).get("ksm_merging_pages", 0) >= 2048)
    daemon.set(run=0)

    def same():
        before = figures(daemon, programs[0].pid, "ksm_stat")
        programs[0].say()
        return programs[0].line() == before

    wait_for("not the figures", same)
    for program in programs:
        program.say("end")
        program.must_finish(0)
