# SPDX-License-Identifier: Apache-2.0
"""X: a system call that reads or writes the memory does the same as on anonymous memory, from within
the program (programs/x_io.c) and from another process (programs/x_reach.c)."""

import pytest

from lib import x_table
from lib.x_table import shared_daemon  # noqa: F401

ROWS = [(program, row) for program in ("x_io", "x_reach") for row in x_table.rows_of(program)]
IDS = [row for _, row in ROWS]


@pytest.mark.parametrize("program", ["x_io", "x_reach"])
def test_x_io_rows(compiled, program):
    """The rows below are all that there are."""
    x_table.check_list(compiled(program), program)


@pytest.mark.parametrize("program, row", ROWS, ids=IDS)
def test_x_io(shared_daemon, compiled, program, row):  # noqa: F811
    x_table.once(shared_daemon, compiled(program), row)


@pytest.mark.parametrize("program, row", ROWS, ids=IDS)
def test_x_io_while_merging(shared_daemon, compiled, program, row):  # noqa: F811
    x_table.while_merging(shared_daemon, compiled(program), row)


INLINED = [row for program, row in ROWS if row.startswith("io-uring-registered")]


@pytest.mark.parametrize("row", INLINED)
def test_x_io_inlined(shared_daemon, compiled, row):  # noqa: F811
    """What liburing registers, not by syscall(2), is kept as well."""
    x_table.once(shared_daemon, compiled("x_io", "-DURING_INLINE"), row)


@pytest.mark.parametrize("row", INLINED)
def test_x_io_inlined_while_merging(shared_daemon, compiled, row):  # noqa: F811
    x_table.while_merging(shared_daemon, compiled("x_io", "-DURING_INLINE"), row)
