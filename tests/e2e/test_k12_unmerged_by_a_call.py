# SPDX-License-Identifier: Apache-2.0
"""K12: pages that a call of the program's own had un-merged are no sites any more, although their bytes are
still those of the frame: so they are merged again, and not only counted."""

import pytest

from lib.place import wait_for

PAGES = 4400


def start(daemon, compiled):
    programs = [daemon.run(compiled("protect_again"), PAGES) for _ in range(2)]
    for program in programs:
        program.area = program.region()
    wait_all_merged(daemon, programs)
    return programs


def sites(daemon, program):
    """So many does samepage count; what the programs have in common besides is among them."""
    return daemon.ps(program.pid)["sites"]


def wait_all_merged(daemon, programs):
    """By the kernel's word, and by samepage's."""
    def found():
        return [daemon.merged_pages(program, program.area) for program in programs]

    wait_for(lambda: f"{found()} of {PAGES} pages are merged: {daemon.status()} {daemon.cli('ps').stdout}",
             lambda: all(n == PAGES for n in found()), 120)
    wait_for(lambda: f"not all {PAGES} pages are counted: {daemon.cli('ps').stdout}",
             lambda: all(sites(daemon, program) >= PAGES for program in programs), 120)


def unmerge(daemon, program, apart):
    """While nothing is looked at: so all of it is told in one go, later."""
    daemon.set(run=0)
    program.say(str(apart))
    assert program.line(120) == "done", program.stderr()


def finish(*programs):
    for program in programs:
        program.popen.stdin.close()
        program.must_finish(0)


@pytest.mark.parametrize("apart", [1, 4], ids=["at_once", "every_fourth_alone"])
def test_k12_unmerged_by_a_call_is_merged_again(daemon, compiled, apart):
    """Also when there are more stretches of them than one report has room for (SP_REPORT_RUNS)."""
    programs = start(daemon, compiled)
    unmerge(daemon, programs[0], apart)
    assert daemon.merged_pages(programs[0], programs[0].area) == PAGES - PAGES // apart
    daemon.set(run=1)
    wait_all_merged(daemon, programs)
    finish(*programs)
