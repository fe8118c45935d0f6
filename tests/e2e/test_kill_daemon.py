# SPDX-License-Identifier: Apache-2.0
"""D1: the daemon dies at any instant; programs go on with their bytes, nothing of it is left, and
a new daemon takes the programs over without their restart."""

import os
import signal

import pytest

from lib import lifts, proc
from lib.place import A_SECOND, longer, wait_for

KILLS = longer(5, 20)


def test_d1_kill_daemon(daemon, compiled):
    programs = [daemon.checker(compiled) for _ in range(2)]
    for kill in range(KILLS):
        daemon.wait_sharing(500)
        dead = daemon.pid
        daemon.kill()
        for program in programs:
            assert program.alive(), program.stderr()
            program.progress.wait_all_go_on(f"checker, kill {kill}, no daemon")
        wait_for("something of the dead daemon is left",
                 lambda: not proc.exists(dead) and
                 not [p for p in daemon.left() if p.comm == "samepaged"], A_SECOND)
        daemon.start()
        daemon.set_full_speed()
        for program in programs:
            program.progress.wait_all_go_on(f"checker, kill {kill}, new daemon")
    daemon.wait_sharing(500)
    # Merging goes on in memory that is new, not only in what was taken over.
    fresh = [daemon.checker(compiled) for _ in range(2)]
    for program in fresh:
        daemon.wait_merged(program, program.area, share=0.5)
    programs += fresh
    for program in programs:
        program.popen.terminate()
    for program in programs:
        program.must_finish(0)


def test_d1_every_daemon_knows_the_programs_of_the_one_before(daemon, compiled):
    """D1, D3: the keeper has a record of each program, under one daemon after the other."""
    programs = [daemon.checker(compiled, mib=8) for _ in range(2)]
    for takeovers in range(1, 4):
        for program in programs:
            daemon.wait_state(program.pid, "merging")
        daemon.kill()
        daemon.start()
        assert daemon.status()["takeovers"] == takeovers
    for program in programs:
        program.popen.terminate()
    for program in programs:
        program.must_finish(0)


def test_d1_program_ends_without_daemon(daemon, compiled):
    """D1, D4: programs whose daemon is dead also end as before, and their agents with them."""
    programs = [daemon.checker(compiled, mib=16) for _ in range(2)]
    daemon.wait_sharing(1000)
    daemon.kill()
    for program in programs:
        program.popen.terminate()
        program.must_finish(0)
    wait_for(lambda: f"left: {daemon.left()}", lambda: not daemon.left(), A_SECOND)


def test_d5_ordinary_stop(daemon, compiled):
    """D5: TERM ends the daemon, status 0; programs go on, unmerged or merged. The next one finds every agent
    alive and no lift that somebody died in."""
    programs = [daemon.checker(compiled, mib=16) for _ in range(2)]
    agents = [wait_for("no agent", program.agents) for program in programs]
    daemon.wait_sharing(1000)
    daemon.stop()
    for program in programs:
        program.progress.wait_all_go_on("checker after an ordinary stop")
    daemon.start()
    for program in programs:
        daemon.wait_state(program.pid, "merging")
    assert [program.agents() for program in programs] == agents
    assert (daemon.status("takeovers"), daemon.status("repairs")) == (1, 0)
    for program in programs:
        program.popen.terminate()
    for program in programs:
        program.must_finish(0)


@pytest.mark.parametrize("point", ["lift-moved", "lift-mapped"])
def test_d5_ordinary_stop_in_a_lift(fault_daemon, compiled, point):
    """D5: the agent ends its lift without the daemon, and nothing is left to be put right. It stands still until
    the daemon is gone, so that TERM comes in the middle."""
    daemon = fault_daemon
    other, program, agent = lifts.start_one(daemon, compiled, point)
    daemon.stop()
    assert lifts.stands(agent)
    os.kill(agent, signal.SIGCONT)
    daemon.start()
    daemon.wait_state(program.pid, "merging")
    assert program.agents() == [agent]
    lifts.end(other, program)
    assert (daemon.status("takeovers"), daemon.status("repairs")) == (1, 0)
