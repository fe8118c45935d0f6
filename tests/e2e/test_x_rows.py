# SPDX-License-Identifier: Apache-2.0
"""X: merged memory behaves as the anonymous memory that it was. One row of the table a test; each
with every page merged when the row happens, and a partner that must not notice.

The rows of programs/x_calls.c tell all that the kernel answered: that must be what it answers to the
same program when samepage is not there."""

import subprocess

import pytest

from lib import place, x_calls


ROUNDS = place.longer(2, 30) # of each row when its memory begins to be merged, and when it begins to be un-merged


def merged_pair(daemon, compiled, row, *args):
    """A program that will do the row, and its partner, both merged now."""
    programs = [daemon.run(compiled("x_rows"), which, *args) for which in (row, "hold")]
    areas = [program.region() for program in programs]
    for program, program.area in zip(programs, areas):
        daemon.wait_merged(program, program.area)
    return programs


@pytest.mark.parametrize("row", ["dontneed", "free", "mremap-grow", "mremap-move", "munmap-mmap",
                                 "mprotect", "mlock", "fork", "syscalls"])
def test_x_row_of_all_pages(daemon, compiled, row):
    program, partner = merged_pair(daemon, compiled, row)
    program.say()
    assert program.line() == "ok"
    program.must_finish(0)
    partner.say()
    partner.must_finish(0)


def test_x_write_is_private(daemon, compiled):
    """K11: a write to a merged page is seen by nobody else, and stays."""
    program, partner = merged_pair(daemon, compiled, "write")
    program.say()
    assert program.line() == "written"
    partner.say()
    partner.must_finish(0)
    program.say()
    program.must_finish(0)


def test_x_move_pages(daemon, compiled):
    """Asked where they lie, pages stay merged; to be moved, they are the program's own when the call returns."""
    program, partner = merged_pair(daemon, compiled, "nodes")
    daemon.set(run=0)
    merged = daemon.merged_pages(program, program.area)
    program.say()
    assert program.line() == "asked"
    assert daemon.merged_pages(program, program.area) == merged
    program.say()
    assert program.line() == "moved"
    assert daemon.merged_pages(program, program.area) == 0
    program.say()
    program.must_finish(0)
    partner.say()
    partner.must_finish(0)


@pytest.fixture(scope="module")
def told(compiled):
    """Every row once, on memory that is nobody's, and on memory that is merged."""
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    return x_calls.plain(compiled), x_calls.merged(compiled)


def test_x_list(compiled):
    listed = subprocess.run([compiled("x_calls"), "--list"], capture_output=True, text=True,
                            check=True)
    assert listed.stdout.split() == x_calls.NAMES


def skip_as_told(told):
    """A row that this machine cannot do says so, plain and merged."""
    if told.startswith("skip "):
        pytest.skip(told[5:])


@pytest.mark.parametrize("name", x_calls.NAMES)
def test_x_row(told, name):
    plain, merged = told
    assert merged[name] == plain[name]
    skip_as_told(plain[name])


@pytest.fixture(scope="module")
def moving(compiled):
    """Every row again and again, on memory that is merged and un-merged all the time."""
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    return x_calls.moving(compiled, ROUNDS)


@pytest.mark.parametrize("name", x_calls.NAMES)
def test_x_row_while_merging(moving, name):
    assert name not in moving.ended
    assert name not in moving.differs, f"not {moving.expected[name]}"
    assert name in moving.stat, f"another row ended the program: {moving.ended}"
    rounds, _ = moving.stat[name]
    assert rounds >= ROUNDS
    skip_as_told(moving.expected[name])
