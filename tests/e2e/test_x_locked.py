# SPDX-License-Identifier: Apache-2.0
"""X, K13: un-merged memory that the program has locked is locked as before, and counted once. (What each call
on locked memory answers is in programs/x_calls_*.h.)"""

import errno
import resource

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
