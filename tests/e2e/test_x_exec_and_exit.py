# SPDX-License-Identifier: Apache-2.0
"""D4, X: a merged program executes another one, or exits, under a daemon that lives: its agent, its line in
`samepage ps` and its frames go, and the bytes of who shared them stay."""

import pytest

from lib import proc
from lib.place import wait_for

PAGES = 4096


def wait_left(daemon, program, agents, left, new_agents):
    """Nothing is left of the image that was merged, and the daemon knows so many processes; a new image that is
    merged has one agent, and a line of its own, of a process with next to no memory."""
    def is_left():
        line = daemon.ps(program.pid)
        return (not any(proc.exists(agent) for agent in agents) and daemon.status("processes") == left and
                (line is None if new_agents == 0 else line is not None and line["sites"] < PAGES / 4) and
                len(program.agents()) == new_agents)

    wait_for(lambda: f"agents of the old image: {[proc.look(agent) for agent in agents]}; now: {program.agents()} "
                     f"{daemon.cli('ps').stdout} {daemon.status()}", is_left)


def wait_frames(daemon, key, fewer_than):
    wait_for(lambda: f"frames are left: {daemon.status()}", lambda: daemon.status(key) < fewer_than)


@pytest.mark.parametrize("way,left,new_agents", [("exec", 2, 1), ("exec-bare", 1, 0), ("exit", 1, 0)],
                         ids=["exec", "exec-bare", "exit"])
def test_d4_x_leaves_its_memory(daemon, compiled, way, left, new_agents):
    programs = [daemon.run(compiled("exec_or_exit")) for _ in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area)
    agents = [program.agents() for program in programs]
    assert daemon.status("pages_sharing") > PAGES / 2 and all(len(one) == 1 for one in agents)

    programs[0].say(way)
    if way == "exit":
        programs[0].must_finish(7)
    else:
        assert programs[0].line() == "new"
    wait_left(daemon, programs[0], agents[0], left, new_agents)
    wait_frames(daemon, "pages_sharing", PAGES / 4)

    programs[1].say("exit")
    if way != "exit":
        programs[0].say()
    for program in programs:
        program.must_finish(7)
    wait_left(daemon, programs[1], agents[1], 0, 0)
    wait_frames(daemon, "pages_shared", 1)
    wait_frames(daemon, "pool_bytes", 1)
