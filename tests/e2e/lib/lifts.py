# SPDX-License-Identifier: Apache-2.0
"""Programs whose agent stands still in the middle of a lift (needs the build with fault points)."""

from lib import proc
from lib.place import wait_for

LIFT = 10  # by then it lifts pages of the program's region, which the program reads all the time


def waits_for_a_page(program):
    """Whether it does; one that died, of a wrong byte perhaps, fails the test at once."""
    assert program.alive(), program.stderr()
    with open(f"/proc/{program.pid}/wchan", encoding="ascii") as wchan:
        return "userfault" in wchan.read()


def start_one(daemon, compiled, point):
    """A checker that shares pages with a program of one thread (programs/exit_7.c), the program and its agent,
    which stopped itself at the point of a lift. The program makes no call that waits for the agent: if it
    waits, it does so for a page in the air. It ends with 7 when it is told so and every byte is right."""
    daemon.set(run=0)
    other = daemon.checker(compiled, mib=16)
    program = daemon.run(compiled("exit_7"), -1, env={"SAMEPAGE_FAULT": f"{point}:{LIFT}:19"})
    program.region()
    agent, = wait_for("no agent", program.agents)
    daemon.set(run=1)
    wait_for(lambda: f"no lift stops: {proc.look(agent)} {daemon.ps(program.pid)} {program.stderr()}",
             lambda: stands(agent))
    return other, program, agent


def stands(agent):
    return proc.look(agent).state == "T"


def end(other, program):
    """Both go on, and none of their bytes is wrong."""
    program.say()
    program.must_finish(7)
    other.progress.wait_all_go_on("the checker")
    other.popen.terminate()
    other.must_finish(0)
