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
