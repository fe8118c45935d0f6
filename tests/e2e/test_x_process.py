# SPDX-License-Identifier: Apache-2.0
"""X: processes and threads (programs/x_process.c), and programs that give up rights or go elsewhere
(programs/x_confine.c), are on merged memory as on any other."""

import sys

import pytest

from lib import x_table
from lib.x_table import shared_daemon  # noqa: F401

ROWS = [(program, row) for program in ("x_process", "x_confine")
        for row in x_table.rows_of(program)]
IDS = [row for _, row in ROWS]


@pytest.mark.parametrize("program", ["x_process", "x_confine"])
def test_x_process_rows(compiled, program):
    """The rows below are all that there are."""
    x_table.check_list(compiled(program), program)


@pytest.mark.parametrize("program, row", ROWS, ids=IDS)
def test_x_process(shared_daemon, compiled, program, row):  # noqa: F811
    x_table.once(shared_daemon, compiled(program), row)


@pytest.mark.parametrize("program, row", ROWS, ids=IDS)
def test_x_process_while_merging(shared_daemon, compiled, program, row):  # noqa: F811
    x_table.while_merging(shared_daemon, compiled(program), row)


def test_x_children_of_who_called_exec(shared_daemon):  # noqa: F811
    """A program that has children when it begins is told how they ended, whenever that was."""
    program = shared_daemon.run("/bin/sh", "-c", '(exit 7) & (exit 7) & exec "$0" -c "$1"', sys.executable,
                                "import os; print(os.wait()[1] >> 8, os.wait()[1] >> 8)")
    assert program.line() == "7 7"
    program.must_finish(0)
