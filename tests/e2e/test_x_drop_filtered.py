# SPDX-License-Identifier: Apache-2.0
"""X: what a program drops under a filter of its own is zeros, also where some of its merged memory may not be
written: the gate can do nothing then that the program does not ask for, not even ask which memory that is."""

import pytest


@pytest.mark.parametrize("how", ["here", "forked", "threads", "after", "inside"])
@pytest.mark.parametrize("protection", ["none", "read", "exec"])
@pytest.mark.parametrize("agent", [True, False], ids=["", "no-agent"])
def test_x_drop_under_a_filter(daemon, compiled, protection, how, agent):
    programs = [daemon.run(compiled("drop_filtered"), protection, how) for _ in range(2)]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area, 1.0)  # a part of it would be several mappings (docs/design.md, known limits)
    if not agent:
        daemon.kill_with_agents(programs[0])
    for program in programs[: 2 if agent else 1]:
        program.say()
        assert program.line() == "ok", program.stderr()
        program.must_finish(0)
