# SPDX-License-Identifier: Apache-2.0
"""X: merged memory behaves as the anonymous memory that it was. One row of the table a test; each
with every page merged when the row happens, and a partner that must not notice."""

import pytest


def merged_pair(daemon, compiled, row, *args):
    """A program that will do the row, and its partner, both merged now."""
    programs = [daemon.run(compiled("x_rows"), which, *args) for which in (row, "hold")]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area)
    return programs


@pytest.mark.parametrize("row", ["dontneed", "free", "mremap-grow", "mremap-move", "munmap-mmap",
                                 "mprotect", "mlock", "fork", "syscalls"])
def test_x_row(daemon, compiled, row):
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
