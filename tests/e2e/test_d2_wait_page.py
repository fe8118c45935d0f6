# SPDX-License-Identifier: Apache-2.0
"""D2: an agent dies while it gives the page that threads at the gate wait for: a thread that asks
something of it later does not wait for ever."""

from lib.place import wait_for


def test_d2_agent_dies_while_it_gives_the_wait_page(fault_daemon, compiled):
    daemon = fault_daemon
    daemon.set(run=0)  # until both wait for a line: nothing waits at a gate before
    programs = [daemon.run(compiled("protect_halves"), env=env)
                for env in ({"SAMEPAGE_FAULT": "gate-given:1"}, None)]
    for program in programs:
        program.area = program.region()
    daemon.set(run=1)
    for program in programs:
        daemon.wait_merged(program, program.area)
    program = programs[0]
    program.say()
    assert program.line() == "half"
    wait_for("the agent did not die", lambda: not program.agents(), 20)
    program.say()
    assert program.line() == "both"
    program.must_finish(0)
    for _ in range(2):
        programs[1].say()
    programs[1].must_finish(0)
