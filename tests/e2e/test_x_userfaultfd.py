# SPDX-License-Identifier: Apache-2.0
"""X: what a program keeps for a userfaultfd of its own is left alone, and nothing else is."""

import pytest

from lib.place import wait_for


@pytest.mark.parametrize("mode", ["missing", "protect"])
def test_x_userfaultfd_keeps_only_its_own(daemon, compiled, mode):
    """Memory between two registered stretches is merged; what takes the place of one is, too."""
    program, partner = daemon.run(compiled("uffd_apart"), mode), daemon.run(compiled("x_rows"), "hold")
    between = program.region()
    partner.region()
    daemon.wait_merged(program, between, share=1)
    scans = daemon.status("full_scans")
    wait_for("no passes", lambda: daemon.status("full_scans") >= scans + 4)
    program.say()
    for part in (program.region("below"), program.region("above")):
        assert daemon.merged_pages(program, part) == 0
    program.say()
    daemon.wait_merged(program, program.region(), share=1)
    for one in (program, partner):
        one.say()
        assert one.line() == "ok"
        one.must_finish(0)


def test_x_userfaultfd_that_comes_and_goes_all_the_time(daemon, compiled):
    """What it is given again and again is left alone, not the rest of the mapping."""
    programs = [daemon.run(compiled("uffd_often")) for _ in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area, share=1)
    for program in programs:
        program.say()
        assert program.line() == "ok"
        program.must_finish(0)


def test_x_userfaultfd_moves_merged_pages(daemon, compiled):
    """UFFDIO_MOVE takes the program's pages into the memory of its own userfaultfd, merged or not."""
    programs = [daemon.run(compiled("uffd_move")) for _ in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area)
    programs[0].say()
    assert programs[0].line() == "ok"
    for program in programs:
        program.popen.stdin.close()
        program.must_finish(0)


def ask(program, word):
    program.say(word)
    return program.line()


@pytest.mark.parametrize("mode", ["missing", "protect"])
@pytest.mark.parametrize("end", ["unregister", "close"])
def test_s4_merged_again_when_its_userfaultfd_is_gone(daemon, compiled, mode, end):
    """Advised memory that was merged is the program's own while it has a userfaultfd for it, and merged again
    afterwards, though no call says that it is gone."""
    program, partner = [daemon.run(compiled("uffd_gone"), mode, all=False) for _ in range(2)]
    for one in (program, partner):
        one.area = one.region()
    for one in (program, partner):
        daemon.wait_merged(one, one.area)
    assert ask(program, "register") == "register 0"
    assert daemon.merged_pages(program, program.area) == 0
    scans = daemon.status("full_scans")
    wait_for("no passes", lambda: daemon.status("full_scans") >= scans + 4)
    assert daemon.merged_pages(program, program.area) == 0
    assert ask(program, end) == f"{end} 0"
    daemon.wait_merged(program, program.area)
    for one in (program, partner):
        assert ask(one, "check") == "ok"
