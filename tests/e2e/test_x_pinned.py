# SPDX-License-Identifier: Apache-2.0
"""K6, X: pages that something has pinned are left where they are, and those beside them are merged and
un-merged as any other."""

import pytest


def test_x_pages_between_pinned_ones(daemon, compiled):
    """A lift that tries its pinned pages a second time leaves what it merged the first time such that it
    can be un-merged."""
    programs = [daemon.run(compiled("pinned_between")) for _ in range(2)]
    for program in programs:
        line = program.line()
        if line.startswith("skip"):
            pytest.skip(line[5:])
        program.area = tuple(int(word, 0) for word in line.split()[1:])
    for program in programs:
        daemon.wait_merged(program, program.area, share=0.6)
    for program in programs:
        program.say()
        assert program.line() == "done"
        program.must_finish(0)


@pytest.mark.parametrize("rights", [(), ("nobody",)], ids=["", "nobody"])
@pytest.mark.parametrize("agent", [True, False], ids=["agent", "no-agent"])
@pytest.mark.parametrize("protection", ["none", "read", "exec"])
@pytest.mark.parametrize("holder", ["ring", "pipe", "drop", "drop-protected"])
def test_x_what_the_kernel_holds_stays(daemon, compiled, holder, protection, agent, rights):
    """The pages that a ring or a pipe has stay the program's, whatever it does to their protection: also those
    that were merged, where an agent was killed before they were held, and where the program may not look at itself."""
    programs = [daemon.run(compiled("held_by_kernel"), holder, protection, *rights) for _ in range(2)]
    for program in programs:
        line = program.line()
        if line.startswith("skip"):
            pytest.skip(line[5:])
        program.area = tuple(int(word, 0) for word in line.split()[1:])
    for program in programs:
        daemon.wait_merged(program, program.area, share=0.9)
    if not agent:
        daemon.kill_with_agents(programs[0])
    for program in programs:
        program.say()
        assert program.line() == "ok", program.stderr()
        program.must_finish(0)
