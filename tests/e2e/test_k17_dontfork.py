# SPDX-License-Identifier: Apache-2.0
"""K17, X: memory that its program keeps from its children (MADV_DONTFORK), as QEMU and Node do, is
merged and stays so: children are without it, whatever is done with it."""

import re

import pytest

from lib.place import wait_for

PAGE = 4096


def flags(pid, start, end):
    """(whole range mapped with flag dc, none of it) by the kernel's word."""
    kept, other, at = 0, 0, None
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as smaps:
        for line in smaps:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if head:
                at = [int(x, 16) for x in head.groups()]
            elif line.startswith("VmFlags:"):
                size = min(at[1], end) - max(at[0], start)
                if size > 0 and " dc " in line:
                    kept += size
                elif size > 0:
                    other += size
    return kept // PAGE, other // PAGE


def wait_flags(pid, start, end, *want):
    """The mappings are read one after the other, while merging goes on: what is wrong for good counts."""
    wait_for(lambda: f"{flags(pid, start, end)}, not {want}", lambda: flags(pid, start, end) == want)


def do(program, word):
    program.say(word)
    assert program.line() == "ok", program.stderr()


@pytest.fixture
def two(daemon, compiled):
    """Two programs with the same memory, merged."""
    programs = [daemon.run(compiled("dontfork"), all=False) for _ in range(2)]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area)
    return programs, areas


def test_advised_memory_is_merged_and_no_child_has_it(daemon, two):
    programs, areas = two
    for program, (start, size) in zip(programs, areas):
        half = start + size // 2
        wait_flags(program.pid, start, half, size // 2 // PAGE, 0)
        wait_flags(program.pid, half, start + size, 0, size // 2 // PAGE)
        do(program, "fork")
        do(program, "drop")
        do(program, "fork")
        wait_flags(program.pid, start, half, size // 2 // PAGE, 0)
    daemon.wait()
    for program in programs:
        do(program, "fork")


def test_unmerged_it_is_what_it_was(daemon, two):
    programs, areas = two
    daemon.set(run=2)
    for program, (start, size) in zip(programs, areas):
        half = start + size // 2
        assert daemon.merged_pages(program, (start, size)) == 0
        wait_flags(program.pid, start, half, size // 2 // PAGE, 0)
        wait_flags(program.pid, half, start + size, 0, size // 2 // PAGE)
        do(program, "fork")


def test_copied_by_fork_again_when_the_program_says_so(daemon, two):
    """MADV_DOFORK on merged memory, and then what makes new mappings there."""
    programs, areas = two
    for program, (start, size) in zip(programs, areas):
        do(program, "dofork")
        do(program, "fork")
        do(program, "drop")
        do(program, "fork")
        wait_flags(program.pid, start, start + size // 2, 1536, 512)
    daemon.set(run=2)
    for program, (start, size) in zip(programs, areas):
        do(program, "fork")
        wait_flags(program.pid, start, start + size // 2, 1536, 512)


SOURCE = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
size = 8 << 20
m = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(mmap.MADV_DONTFORK)
for i in range(0, size, 4096):
    m[i:i + 8] = i.to_bytes(8, "little")
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
print("ready", hex(at), size, flush=True)
sys.stdin.readline()
want = ctypes.string_at(at, size)
to = libc.mremap(at, size, 2 * size, 1)
assert ctypes.string_at(to, 2 * size) == want + bytes(size)
print("moved", hex(to), 2 * size, flush=True)
sys.stdin.read()
"""


def test_with_all_it_is_merged_and_moved_as_what_it_is(daemon):
    """--all: merged memory that is MADV_DONTFORK is so after mremap, too."""
    programs = [daemon.run("/usr/bin/python3", "-c", SOURCE) for _ in range(2)]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area)
        wait_flags(program.pid, area[0], sum(area), area[1] // PAGE, 0)
    for program in programs:
        program.say()
        word, to, size = program.line().split()
        assert word == "moved", program.stderr()
        to, size = int(to, 16), int(size)
        wait_flags(program.pid, to, to + size, size // PAGE, 0)
