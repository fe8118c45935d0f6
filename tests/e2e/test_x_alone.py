# SPDX-License-Identifier: Apache-2.0
"""X, D2: calls on merged memory do what they do on plain memory, also where the agent was killed."""

import pytest

KINDS = ["protect-hole", "protect-forbidden", "protect-bad-key", "protect-raced", "splice-protected", "splice-forbidden",
         "fork-without", "protect-kept-from-fork", "fork-filtered"]


@pytest.mark.parametrize("agent", [True, False], ids=["agent", "no-agent"])
@pytest.mark.parametrize("kind", KINDS)
def test_x_calls_on_merged_memory(daemon, compiled, kind, agent):
    programs = [daemon.run(compiled("alone"), kind) for _ in range(2)]
    for program in programs:
        program.area = tuple(int(word, 0) for word in program.line().split()[1:])
    for program in programs:
        daemon.wait_merged(program, program.area, share=0.9)
    if not agent:
        daemon.kill_with_agents(programs[0])
    for program in programs:
        program.say()
        line = program.line()
        if line and line.startswith("skip"):
            pytest.skip(line[5:])
        assert line == "ok", program.stderr()
        program.must_finish(0)
