# SPDX-License-Identifier: Apache-2.0
"""K17, X: memory that its program keeps from its children (MADV_DONTFORK) is left alone, but merged
where the program itself asked for it, as QEMU does for its guests; then children are without it
still, whatever is done with it."""

import re

import pytest

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
        assert flags(program.pid, start, half) == (size // 2 // PAGE, 0)
        assert flags(program.pid, half, start + size) == (0, size // 2 // PAGE)
        do(program, "fork")
        do(program, "drop")
        do(program, "fork")
        assert flags(program.pid, start, half) == (size // 2 // PAGE, 0)
    daemon.wait()
    for program in programs:
        do(program, "fork")


def test_unmerged_it_is_what_it_was(daemon, two):
    programs, areas = two
    daemon.set(run=2)
    for program, (start, size) in zip(programs, areas):
        half = start + size // 2
        assert daemon.merged_pages(program, (start, size)) == 0
        assert flags(program.pid, start, half) == (size // 2 // PAGE, 0)
        assert flags(program.pid, half, start + size) == (0, size // 2 // PAGE)
        do(program, "fork")


def test_copied_by_fork_again_when_the_program_says_so(daemon, two):
    """MADV_DOFORK on merged memory, and then what makes new mappings there."""
    programs, areas = two
    for program, (start, size) in zip(programs, areas):
        do(program, "dofork")
        do(program, "fork")
        do(program, "drop")
        do(program, "fork")
        assert flags(program.pid, start, start + size // 2) == (1536, 512)
    daemon.set(run=2)
    for program, (start, size) in zip(programs, areas):
        do(program, "fork")
        assert flags(program.pid, start, start + size // 2) == (1536, 512)


def test_left_alone_where_nobody_asked(daemon, compiled):
    """With --all, what is not advised and DONTFORK stays the program's own."""
    source = ("import ctypes, mmap, sys\n"
              "m = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
              "m.madvise(mmap.MADV_DONTFORK)\n"
              "for i in range(0, 8 << 20, 4096): m[i:i + 8] = i.to_bytes(8, 'little')\n"
              "print('ready', hex(ctypes.addressof(ctypes.c_char.from_buffer(m))), 8 << 20,\n"
              "      flush=True)\n"
              "sys.stdin.read()\n")
    programs = [daemon.run("/usr/bin/python3", "-c", source) for _ in range(2)]
    areas = [program.region() for program in programs]
    daemon.wait()
    for program, area in zip(programs, areas):
        assert daemon.merged_pages(program, area) == 0
