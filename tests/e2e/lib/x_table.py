# SPDX-License-Identifier: Apache-2.0
"""Runs the rows of X that a program of programs/x_table.h knows: each on merged memory, compared with
the same on plain memory, and each while the daemon merges and un-merges that very memory."""

import contextlib
import select
import subprocess
import time

import pytest

from lib import control, place
from lib.daemon import Daemon
from lib.place import HERE, PATIENCE, NotInTime, longer, patient

LOOP_SECONDS = longer(0.3, 10)  # at least; and until memory was merged and un-merged
CYCLES = longer(2, 3)
MIN_PAGES = 64


def rows_of(program):
    """The names of the rows, from the source: the program is compiled only when a test runs."""
    text = (HERE / "programs" / f"{program}.c").read_text()
    table = text[text.index("x_row rows[]"):]
    return [line.split('"')[1] for line in table.splitlines() if line.lstrip().startswith('{"')]


def check_list(path, program):
    assert subprocess.run([path, "--list"], capture_output=True, text=True,
                          check=True).stdout.split() == rows_of(program)


def lines_to_end(program):
    """What the program says up to its "ok"; "skip" skips the test."""
    lines = []
    while True:
        line = program.line()
        if line.startswith("skip "):
            pytest.skip(line[5:])
        lines.append(line)
        if line.startswith("ok"):
            return lines


@contextlib.contextmanager
def programs(daemon, *argvs):
    """Each started under samepage and merged now; whatever happens, they are gone afterwards."""
    started = [daemon.run(*argv) for argv in argvs]
    try:
        for program in started:
            program.area = program.region()
        for program in started:
            daemon.wait_merged(program, program.area)
        yield started
        for program in started:
            program.must_finish(0)
    finally:
        for program in started:
            program.destroy()
            daemon.programs.remove(program)


def speaks(program):
    return bool(select.select([program.popen.stdout], [], [], 0)[0])


def once(daemon, path, row):
    """The row on merged memory: what it sees is what it sees on plain memory. Its partner's bytes are
    untouched, and it then does the same."""
    plain = daemon.plain(path, row)
    plain.region()
    plain.say()
    expected = lines_to_end(plain)
    plain.must_finish(0)
    with programs(daemon, (path, row), (path, row)) as (program, partner):
        for one in (program, partner):
            one.say()
            assert lines_to_end(one) == expected


def while_merging(daemon, path, row):
    """The row again and again, while its memory is merged and un-merged."""
    with programs(daemon, (path, row, "loop"), (path, row)) as (program, partner):
        program.say()
        cycles = merge_and_unmerge(daemon, program)
        program.say()
        last = lines_to_end(program)[-1]
        assert last.startswith("ok ") and int(last[3:]) > 0
        assert cycles >= CYCLES, f"{row} ended after {cycles} cycles"
        partner.say()
        lines_to_end(partner)


def merge_and_unmerge(daemon, program):
    """How often pages of the program were seen merged, and were un-merged then."""
    cycles, began = 0, time.monotonic()
    while not speaks(program) and (cycles < CYCLES or time.monotonic() - began < LOOP_SECONDS):
        if time.monotonic() - began > patient(PATIENCE):
            raise NotInTime(f"after {patient(PATIENCE):g} s: merged and un-merged only {cycles} times: "
                            f"{daemon.status()} "
                            f"{daemon.cli('explain', '--json', program.pid, check=False).stdout}")
        if daemon.merged_pages(program, program.area) < MIN_PAGES:
            time.sleep(0.005)
            continue
        answer = control.answer_to(daemon, "unmerge")
        cycles += answer.get("ok", False) and answer["pages"] >= MIN_PAGES
    return cycles


@pytest.fixture(scope="module")
def shared_daemon():
    """One for all rows of a module: they are many and short."""
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    daemon = Daemon().start()
    daemon.set_full_speed()
    yield daemon
    daemon.close()
