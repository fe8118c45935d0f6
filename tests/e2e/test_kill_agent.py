# SPDX-License-Identifier: Apache-2.0
"""D2: an agent dies at any instant, inside a lift too; its program never sees a wrong byte, and its
threads that wait go on. D3: if the daemon dies too, they wait for the next one."""

import os
import signal

import pytest

from lib import lifts, proc, sharers
from lib.place import A_SECOND, longer, wait_for

KILLS = longer(5, 20)


def survives(daemon, program, others, dead=()):
    """What must hold once an agent of program is dead."""
    program.progress.wait_all_go_on("the checker whose agent died")
    for other in others:
        other.progress.wait_all_go_on("another checker")
    wait_for(lambda: f"left of the agent: {[proc.look(pid) for pid in dead]}",
             lambda: not any(proc.exists(pid) for pid in dead), A_SECOND)
    parents = (program.pid, daemon.pid)
    wait_for(lambda: f"zombies: {proc.zombies(parents)}", lambda: not proc.zombies(parents),
             A_SECOND)
    assert daemon.popen.poll() is None, daemon.log()
    program.popen.terminate()
    program.must_finish(0)


# The gate is closed less often than pages are lifted while it is.
@pytest.mark.parametrize("point,step", [("lift-moved", 7), ("lift-mapped", 7), ("gate-closed", 2)],
                         ids=["lift-moved", "lift-mapped", "gate-closed"])
def test_d2_agent_dies_in_a_lift(fault_daemon, compiled, point, step):
    """The agent kills itself at a point of a lift: after the pages were moved, after frames were
    mapped, after the gate was closed."""
    daemon = fault_daemon
    others = sharers.start(daemon, compiled)
    for kill in range(KILLS):
        others = sharers.still(daemon, compiled, others)
        program = daemon.checker(compiled, mib=16, env={"SAMEPAGE_FAULT": f"{point}:{1 + kill * step}"})
        wait_for(lambda: f"no fault at {point}: {daemon.ps(program.pid)} {program.stderr()}",
                 lambda: not program.agents(), 20)
        survives(daemon, program, others)
    assert point == "gate-closed" or daemon.status("repairs") >= 1, daemon.status()
    others = sharers.still(daemon, compiled, others)
    for other in others:
        assert other.alive(), other.stderr()


def test_d2_agent_killed_at_random(daemon, compiled):
    """KILL from outside, whenever it comes; and TERM, INT and HUP, which are not to kill it in a
    lift."""
    others = sharers.start(daemon, compiled)
    for kill in range(KILLS):
        others = sharers.still(daemon, compiled, others)
        program = daemon.checker(compiled, mib=16)
        agents = wait_for("no agent", program.agents)
        sites = 300 * (kill % 8)
        wait_for(lambda: f"not merged: {daemon.merged_pages(program, program.area)}",
                 lambda: daemon.merged_pages(program, program.area) >= sites, 20, every=0.001)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[kill % 3:][:1]:
            os.kill(agents[0], number)
        os.kill(agents[0], signal.SIGKILL)
        survives(daemon, program, others, agents)
    others = sharers.still(daemon, compiled, others)
    for other in others:
        assert other.alive(), other.stderr()


def test_d2_d1_daemon_dies_after_the_agent(fault_daemon, compiled):
    """An agent dies in a lift, and the daemon soon after it, before or after it gave the pages back: the program
    waits or goes on, never with wrong bytes; with a new daemon it goes on."""
    daemon = fault_daemon
    other = daemon.checker(compiled, mib=16)
    program = daemon.checker(compiled, mib=16, env={"SAMEPAGE_FAULT": "lift-moved:5"})
    wait_for("no fault", lambda: not program.agents() or daemon.popen.poll() is not None, 20,
             every=0.001)
    daemon.kill()
    assert program.alive() and other.alive(), program.stderr() + other.stderr()
    daemon.start()
    daemon.set_full_speed()
    other.progress.wait_all_go_on("the checker whose agent lives")
    program.progress.wait_all_go_on("the checker whose agent and daemon died")
    for checker in (program, other):
        checker.popen.terminate()
        checker.must_finish(0)


@pytest.mark.parametrize("point", ["lift-moved", "lift-mapped"])
def test_d3_both_die_in_the_same_lift(fault_daemon, compiled, point):
    """D3: the daemon first, so that nobody can give back what the agent held: who touches a page in the air waits.
    A new daemon gives all of it back, once."""
    daemon = fault_daemon
    other, program, agent = lifts.start_one(daemon, compiled, point)
    assert daemon.status("repairs") == 0
    daemon.kill()
    assert lifts.stands(agent)
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: f"it lives: {proc.look(agent)}", lambda: not program.agents())
    if point == "lift-moved":
        wait_for("no thread meets a page in the air", lambda: lifts.waits_for_a_page(program))
    other.progress.wait_all_go_on("the checker whose agent lives")
    assert program.alive(), program.stderr()
    assert point != "lift-moved" or lifts.waits_for_a_page(program), "nobody could give the page back"

    daemon.start()
    wait_for(lambda: f"not given back: {daemon.status()} {daemon.log()}", lambda: daemon.status("repairs") > 0)
    lifts.end(other, program)
    assert daemon.status("repairs") == 1


def test_d5_term_does_not_end_an_agent(daemon, compiled):
    """TERM, INT and HUP, before it merges anything and while it does: the same agent merges on."""
    daemon.set(run=0)
    programs = [daemon.checker(compiled, mib=16) for _ in range(2)]
    agents = [wait_for("no agent", program.agents) for program in programs]

    def signal_all():
        for agent, in agents:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(agent, number)

    def enough():
        signal_all()
        return all(daemon.merged_pages(program, program.area) >= 1000 for program in programs)

    signal_all()
    daemon.set(run=1)
    wait_for(lambda: f"not merged: {daemon.status()} {daemon.cli('ps').stdout}", enough)
    assert [program.agents() for program in programs] == agents
    assert daemon.status("repairs") == 0
    for program in programs:
        program.popen.terminate()
        program.must_finish(0)
