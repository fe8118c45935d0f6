# SPDX-License-Identifier: Apache-2.0
"""X: a debugger sees and changes merged memory as any other, and a core dump holds it."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import threading

import pytest

from lib import control, x_table
from lib.place import SLACK, wait_for
from lib.x_table import shared_daemon  # noqa: F401

WITH_CORES = ["prlimit", "--core=unlimited", "--"]
WAYS = pytest.mark.parametrize("merging", [False, True], ids=["merged", "while-merging"])
PIECE = 65536
UNREAD = re.compile(r"read failed for corefile section, \d+ bytes at (0x[0-9a-f]+)")


def need_gdb():
    if not shutil.which("gdb"):
        pytest.skip("gdb is not installed")


def gdb(pid, *commands):
    done = subprocess.run(
        ["gdb", "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off",
         "-iex", "set auto-solib-add off", "-p", str(pid),
         *[word for c in commands for word in ("-ex", c)]],
        capture_output=True, text=True, timeout=60 * SLACK, stdin=subprocess.DEVNULL, check=False)
    return done.stdout + done.stderr


def until_merged_too(work, right):
    """Does right() until it is true, and memory was merged and un-merged meanwhile, if it is to be."""
    wait_for(lambda: f"not right, or only {work.cycles} times merged and un-merged",
             lambda: right() and work.enough())


def gdb_does(program, command):
    """What gdb said when it could access all of the area: a page that is in the air cannot be read (a known
    limit)."""
    said = []

    def accessed():
        said.append(gdb(program.pid, command))
        missed = [int(at, 16) - program.area[0] for at in UNREAD.findall(said[-1])]
        return "Cannot access" not in said[-1] and not any(0 <= at < program.area[1] for at in missed)

    wait_for(lambda: said[-1], accessed)
    return said[-1]


def memory(program):
    """Piece by piece: what is in the air cannot be read just then, and much at once may never be."""
    start, length = program.area
    pieces = []

    def read(at, size):
        try:
            pieces.append(os.pread(mem.fileno(), size, at))
            return True
        except OSError as error:
            assert error.errno == errno.EIO
            return False

    with open(f"/proc/{program.pid}/mem", "rb", buffering=0) as mem:
        for at in range(start, start + length, PIECE):
            size = min(PIECE, start + length - at)
            wait_for(f"{at:#x} cannot be read", lambda a=at, n=size: read(a, n), every=0.001)
    return b"".join(pieces)


class Merging:
    """Un-merges again and again while something else happens, if it is wanted."""

    def __init__(self, daemon, program, wanted):
        self.daemon, self.program, self.wanted = daemon, program, wanted
        self.cycles, self.end = 0, threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        while not self.end.wait(0.01):
            if self.daemon.merged_pages(self.program, self.program.area) >= x_table.MIN_PAGES:
                control.answer_to(self.daemon, "unmerge")
                self.cycles += 1

    def __enter__(self):
        if self.wanted:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        if self.wanted:
            self.thread.join()

    def enough(self):
        return not self.wanted or self.cycles >= 2


def pair(daemon, compiled):
    return x_table.programs(daemon, *[(compiled("x_io"), "pipe")] * 2)


def finish(*programs):
    for program in programs:
        program.say()
        x_table.lines_to_end(program)


@WAYS
def test_x_gdb_attached(shared_daemon, compiled, merging):  # noqa: F811
    """gdb reads all of it, and writes a word that the program has then, and its partner has not."""
    need_gdb()
    out = shared_daemon.directory / "dumped"
    with pair(shared_daemon, compiled) as (program, partner):
        start, length = program.area
        expected = memory(partner)
        word = start + 5 * 4096 + 64

        def dumped():
            gdb_does(program, f"dump binary memory {out} {start} {start + length}")
            assert out.read_bytes() == expected
            return True

        with Merging(shared_daemon, program, merging) as work:
            until_merged_too(work, dumped)
            said = gdb_does(program, f"set var *(unsigned long *){word} = 0x123456789")
        offset = word - start
        assert memory(program)[offset:offset + 8] == struct.pack("<Q", 0x123456789), said
        assert memory(partner) == expected
        old, = struct.unpack("<Q", expected[offset:offset + 8])
        gdb_does(program, f"set var *(unsigned long *){word} = {old}")
        finish(program, partner)


def core_bytes(path, start, length):
    """[start, start + length) as the ELF core has it; what it has not is None."""
    data = path.read_bytes()
    offset, = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    out = bytearray(length)
    held = 0
    for i in range(count):
        kind, _, where, address, _, filled, _, _ = struct.unpack_from("<IIQQQQQQ", data,
                                                                       offset + i * size)
        first, last = max(address, start), min(address + filled, start + length)
        if kind == 1 and first < last:
            out[first - start:last - start] = data[where + first - address:where + last - address]
            held += last - first
    return bytes(out) if held == length else None


@WAYS
def test_x_gdb_generates_core_file(shared_daemon, compiled, merging):  # noqa: F811
    need_gdb()
    core = shared_daemon.directory / "core-of-gdb"
    with pair(shared_daemon, compiled) as (program, partner):
        expected = memory(partner)

        def dumped():
            said = gdb_does(program, f"generate-core-file {core}")
            found = core_bytes(core, *program.area)
            assert found in (None, expected), said
            return found  # None: gdb missed a mapping that changed while it read them one by one

        with Merging(shared_daemon, program, merging) as work:
            until_merged_too(work, dumped)
        finish(program, partner)


def need_core_in_cwd():
    pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if not pattern or "/" in pattern or pattern[0] == "|" or "%" in pattern:
        pytest.skip(f"core_pattern is {pattern}")


@WAYS
def test_x_core_dump(shared_daemon, compiled, merging):  # noqa: F811
    """The kernel's own. A page that is in the air is zeros in it: a known limit."""
    need_core_in_cwd()
    with pair(shared_daemon, compiled) as partners:
        program = shared_daemon.run(*WITH_CORES, compiled("x_io"), "pipe")
        program.area = program.region()
        shared_daemon.wait_merged(program, program.area)
        expected, pid = memory(partners[0]), program.pid
        with Merging(shared_daemon, program, merging) as work:
            wait_for("nothing was merged", work.enough)
            os.kill(pid, signal.SIGSEGV)
            assert program.finish() == -signal.SIGSEGV
        found = [shared_daemon.directory / name for name in ("core", f"core.{pid}")]
        core = next(path for path in found if path.exists())
        got = core_bytes(core, *program.area)
        core.unlink()
        assert got is not None, "pages are missing in the core"
        wrong = [i for i in range(0, len(got), 4096) if got[i:i + 4096] != expected[i:i + 4096]]
        assert not [i for i in wrong if merging is False or any(got[i:i + 4096])]
        assert len(wrong) <= 64, f"{len(wrong)} pages were in the air: more than one lift's"
        finish(*partners)


@contextlib.contextmanager
def shared_processor(pid):
    """The program's thread has to give way to somebody again and again. A dump of empty memory may keep the lock of
    the mappings (Linux 6.18 does) until its thread must give way: where nobody else wants its processor, that is for
    seconds each time, and nothing of the program can be un-merged meanwhile."""
    processor = {min(os.sched_getaffinity(0))}
    busy = subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"],
                            preexec_fn=lambda: os.sched_setaffinity(0, processor))
    try:
        os.sched_setaffinity(pid, processor)
        yield
    finally:
        busy.kill()
        busy.wait()


def test_x_nothing_is_lifted_while_the_kernel_writes_a_core_dump(daemon, compiled):
    """What a dump meets in the air is zeros in it. Un-merged while it is written, its program's pages stay its own;
    others' are merged again."""
    need_core_in_cwd()
    dumped, *others = [daemon.run(*WITH_CORES, compiled("dumps_long")) for _ in range(3)]
    for program in (dumped, *others):
        program.area = program.region()
        daemon.wait_merged(program, program.area, share=1.0)
    pid = dumped.pid

    def is_dumped():
        return "CoreDumping:\t1" in pathlib.Path(f"/proc/{pid}/status").read_text()

    said, merged = [], []

    def is_unmerged():
        said.append(control.answer_to(daemon, "unmerge"))
        merged.append(daemon.merged_pages(dumped, dumped.area))
        assert is_dumped(), f"the dump took too short: {said} {merged}"
        return merged[-1] == 0

    with shared_processor(pid):
        os.kill(pid, signal.SIGSEGV)
        wait_for("no core dump", is_dumped)
        wait_for(lambda: f"not un-merged: {said} {merged}", is_unmerged)
        for program in others:
            daemon.wait_merged(program, program.area, share=1.0)
        again = daemon.merged_pages(dumped, dumped.area)
        assert is_dumped(), "the dump took too short"
        assert again <= 64, f"{again} pages were merged while the kernel wrote the dump"
        dumped.kill()
    for program in others:
        program.say()
        program.must_finish(0)
