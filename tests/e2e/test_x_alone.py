# SPDX-License-Identifier: Apache-2.0
"""X, D2: calls on merged memory do what they do on plain memory, also where the agent was killed."""

import pytest

from lib import proc
from lib.place import wait_for

KINDS = ["protect-hole", "protect-forbidden", "protect-bad-key", "protect-raced", "splice-protected", "splice-forbidden",
         "fork-without", "protect-kept-from-fork", "fork-filtered", "filter-protected-none", "filter-protected-read",
         "filter-protected-exec"]


@pytest.mark.parametrize("agent", [True, False], ids=["agent", "no-agent"])
@pytest.mark.parametrize("kind", KINDS)
def test_x_calls_on_merged_memory(daemon, compiled, kind, agent):
    programs = [daemon.run(compiled("alone"), kind) for _ in range(2)]
    for program in programs:
        program.area = tuple(int(word, 0) for word in program.line().split()[1:])
    for program in programs:
        daemon.wait_merged(program, program.area, share=0.9)
    finish(daemon, programs, agent)


@pytest.mark.parametrize("agent", [True, False], ids=["agent", "no-agent"])
def test_x_vmsplice_of_protected_zeros(daemon, compiled, agent):
    """K15: what may not be written now is given to the pipe as the program's own page, too."""
    daemon.set(use_zero_pages=1)
    program = daemon.run(compiled("alone"), "splice-zeros")
    program.area = tuple(int(word, 0) for word in program.line().split()[1:])
    pages = program.area[1] // 4096
    wait_for(lambda: f"{daemon.status()}", lambda: proc.zero_pages(program.pid, *program.area) == pages)
    finish(daemon, [program], agent)


def finish(daemon, programs, agent):
    if not agent:
        daemon.kill_with_agents(programs[0])
    for program in programs:
        program.say()
        line = program.line()
        if line and line.startswith("skip"):
            pytest.skip(line[5:])
        assert line == "ok", program.stderr()
        program.must_finish(0)
