# SPDX-License-Identifier: Apache-2.0
"""X, K13: un-merged memory that the program has locked is locked as before, and counted once. (What each call
on locked memory answers is in programs/x_calls_*.h.)"""

import errno
import resource

import pytest

from lib import proc
from lib.place import wait_for

PAGES = 512
WITHOUT_RIGHT = "setpriv", "--bounding-set=-ipc_lock" # so that RLIMIT_MEMLOCK is in force for root, too


def start(daemon, compiled):
    """A program whose memory is merged with another's."""
    programs = [daemon.run(*WITHOUT_RIGHT, compiled("locked")) for _ in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area)
    return programs[0]


def ask(program, word):
    program.say(word)
    return program.line(60)


def test_x_wipeonfork_with_no_room_to_lock_more(daemon, compiled):
    """It has locked all that RLIMIT_MEMLOCK lets it: pages that were written after their merge are un-merged
    for MADV_WIPEONFORK all the same, and stay locked."""
    program = start(daemon, compiled)
    assert ask(program, "written") == "locked"
    assert ask(program, "full") == "limited"
    assert ask(program, "wipe") == "wipe 0"
    assert ask(program, "tell") == f"locked {PAGES} {PAGES} 0"
    assert ask(program, "check") == "ok"
    assert daemon.merged_pages(program, program.area) == 0


def test_x_wipeonfork_with_less_room_than_is_locked(daemon, compiled):
    """Its limit was lowered below what it has locked: nobody can lock anything anew. The lock and the bytes
    stay, and the advice is refused (docs/design.md, Known limits)."""
    program = start(daemon, compiled)
    assert ask(program, "written") == "locked"
    assert ask(program, "less") == "limited"
    assert ask(program, "wipe") == f"wipe {errno.EINVAL}"
    assert ask(program, "tell") == f"locked {PAGES} {PAGES} 0"
    assert ask(program, "check") == "ok"


def start_locked(daemon, compiled, all=True):
    """Memory that the programs advised, and locked before anything of it was merged (S4)."""
    daemon.set(run=0)
    programs = [daemon.run(*WITHOUT_RIGHT, compiled("locked"), "advised", all=all) for _ in range(2)]
    for program in programs:
        program.area = program.region()
        assert ask(program, "lock") == "lock 0"
    daemon.set(run=1)
    return programs


@pytest.mark.parametrize("all", [True, False], ids=["all", "advised-only"])
def test_s4_locked_memory_that_was_advised_is_merged(daemon, compiled, all):
    """It stays locked, every page counted once and there; a write gives the writer its own page; refused is
    what is refused on locked memory; it can be unlocked; un-merged it is locked as before."""
    programs = start_locked(daemon, compiled, all)
    for program in programs:
        daemon.wait_merged(program, program.area, share=1)
    program = programs[0]
    wait_for(lambda: f"{ask(program, 'tell')}",
             lambda: ask(program, "tell") == f"locked {PAGES} {PAGES} 1")
    assert proc.smaps_sum(program.pid, "Rss", *program.area) == PAGES * 4096
    assert ask(program, "check") == "ok"
    assert ask(program, "drop") == f"drop {errno.EINVAL}"
    assert ask(program, "check") == "ok"
    assert ask(program, "some") == "some 0"
    assert ask(program, "check") == "ok"
    assert ask(program, "fork") == "fork 0"
    daemon.cli("off")
    assert ask(program, "tell") == f"locked {PAGES} {PAGES} 0"
    assert ask(program, "check") == "ok"
    assert ask(programs[1], "unlock") == "unlock 0"
    assert ask(programs[1], "tell") == "locked 0 0 0"
    assert ask(programs[1], "check") == "ok"


@pytest.mark.parametrize("call", ["move", "protect", "wipe", "lock", "onfault", "fork", "some"])
def test_s4_calls_on_it(daemon, compiled, call):
    """They do what they do on locked memory, the lock stays in force, and no byte is lost (X)."""
    programs = start_locked(daemon, compiled)
    for program in programs:
        daemon.wait_merged(program, program.area, share=1)
    for n in range(3):
        assert ask(programs[0], call) == f"{call} 0"
        assert ask(programs[0], "check") == "ok"
        assert ask(programs[0], "tell").split()[:3] == ["locked", str(PAGES), str(PAGES)]
    assert ask(programs[1], "check") == "ok"


def test_x_room_to_lock_is_the_programs(daemon, compiled):
    """While its locked memory is merged it can lock all that RLIMIT_MEMLOCK leaves it: what a lift locks for a
    moment is not in its way."""
    programs = start_locked(daemon, compiled)
    assert ask(programs[0], "more") == "more 0"
    for program in programs:
        assert ask(program, "check") == "ok"


@pytest.mark.parametrize("point", ["lift-moved:1", "lift-mapped:2"])
def test_d2_agent_dies_in_a_lift_of_locked_memory(fault_daemon, compiled, point):
    daemon = fault_daemon
    daemon.set(run=0)
    programs = [daemon.run(*WITHOUT_RIGHT, compiled("locked"), "advised", env=env)
                for env in ({}, {"SAMEPAGE_FAULT": point})]
    for program in programs:
        program.area = program.region()
        assert ask(program, "lock") == "lock 0"
    daemon.set(run=1)
    wait_for(lambda: f"no fault: {daemon.ps(programs[1].pid)}", lambda: not programs[1].agents())
    for program in programs:
        assert ask(program, "check") == "ok"
        assert ask(program, "tell").split()[2] == str(PAGES)


def test_k17_locked_and_not_advised_is_left_alone(daemon, compiled):
    daemon.set(run=0)
    program = daemon.run(*WITHOUT_RIGHT, compiled("locked"))
    program.area = program.region()
    assert ask(program, "lock") == "lock 0"
    daemon.set(run=1)
    daemon.wait()
    assert daemon.merged_pages(program, program.area) == 0


def limit_agent(program, limit):
    """With less address space than the program has, its agent can map nothing to un-merge into."""
    for agent in program.agents():
        resource.prlimit(agent, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def test_x_frames_that_were_locked_are_unmerged_locked(daemon, compiled):
    """K13: frames that could not be un-merged when they were locked keep the lock when they are later."""
    program = start(daemon, compiled)
    limit_agent(program, 1 << 20)
    assert ask(program, "onfault") == "onfault 0"
    limit_agent(program, resource.RLIM_INFINITY)
    assert ask(program, "check") == "ok"
    assert ask(program, "tell") == f"locked {PAGES} {PAGES} 1"
    daemon.cli("unmerge", program.pid)
    assert ask(program, "tell") == f"locked {PAGES} {PAGES} 0"
    assert ask(program, "check") == "ok"
