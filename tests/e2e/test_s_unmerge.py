# SPDX-License-Identifier: Apache-2.0
"""K13, X: what lies in the store's mappings is un-merged while threads write to it: nothing they write is lost, and
what they had not written before is plain memory afterwards. D1, D2: whoever is killed meanwhile."""

import contextlib
import os
import random
import signal
import threading
import time

import pytest

from lib import place
from lib.place import longer, wait_for
from lib.store import store_daemon  # noqa: F401
from test_s_store import store_process

PAGES = 2048
THREADS = 2
ROUNDS = longer(4, 40)
TOOK = 0.1 # s: about that


def start(daemon, compiled, fault=None):
    """Two programs, all merged; the first one's agent dies at that point."""
    programs = [daemon.run(compiled("writes_on"), PAGES, THREADS, env={"SAMEPAGE_FAULT": fault} if fault and not k else None)
                for k in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area, share=1.0)
    return programs


def tell(program, what):
    program.say(what)
    assert program.line() == "ok", program.stderr()


def unmerge_while_writing(daemon, programs):
    """All programs' threads write from before it begins until it is over."""
    for program in programs:
        tell(program, "write")
    daemon.cli("unmerge")
    for program in programs:
        tell(program, "rest")


def test_x_unmerged_while_threads_write(store_daemon, compiled):
    daemon = store_daemon()
    for _ in range(ROUNDS):
        daemon.set(run=1)
        programs = start(daemon, compiled)
        daemon.cli("unmerge")
        for program in programs:
            assert daemon.merged_pages(program, program.area) == 0
        daemon.set(run=1)
        for program in programs:
            daemon.wait_merged(program, program.area, share=1.0)
        daemon.set(run=0)
        unmerge_while_writing(daemon, programs)
        for program in programs:
            # What a thread had written before it was un-merged stays its own, in its mapping (decision 0023).
            assert daemon.merged_pages(program, program.area) < PAGES
            program.kill()


def test_x_unmerged_while_others_read_it_by_ptrace(store_daemon, compiled):
    """Who reads through /proc/PID/mem waits for a frame with the lock on the mappings: no agent is lost by it."""
    daemon = store_daemon()
    for _ in range(ROUNDS // 2):
        daemon.set(run=1)
        programs = start(daemon, compiled)
        daemon.set(run=0)
        agents = [program.agents() for program in programs]
        start_at, length = programs[0].area
        over = threading.Event()

        def read():
            with open(f"/proc/{programs[0].pid}/mem", "rb", buffering=0) as memory:
                while not over.is_set():
                    for at in range(start_at, start_at + length, 4096):
                        memory.seek(at)
                        memory.read(4096)

        reader = threading.Thread(target=read)
        reader.start()
        daemon.cli("unmerge")
        over.set()
        reader.join()
        for program, agent in zip(programs, agents):
            assert set(agent) <= set(program.agents()), "the agent was killed"
            tell(program, "rest")
            program.kill()


@pytest.mark.parametrize("point", ["unmerge-held", "unmerge-putting"])
def test_d2_agent_dies_with_frames_held(store_daemon, compiled, point):
    """Whoever waited for the frames goes on, in this program and in the others."""
    daemon = store_daemon(build=place.BUILD_TEST)
    for kill in range(ROUNDS):
        daemon.set(run=1)
        programs = start(daemon, compiled, f"{point}:{1 + 2 * kill}")
        daemon.set(run=0)
        for program in programs:
            tell(program, "write")
        daemon.cli("unmerge", check=False)
        wait_for(lambda: "the agent does not die", lambda: not programs[0].agents())
        for program in programs:
            tell(program, "rest")
            program.kill()


def test_d1_worker_killed_while_frames_are_held(store_daemon, compiled):
    daemon = store_daemon()
    chance = random.Random(7)
    for _ in range(ROUNDS):
        daemon.set(run=1)
        programs = start(daemon, compiled)
        daemon.set(run=0)
        for program in programs:
            tell(program, "write")
        unmerging = threading.Thread(target=daemon.cli, args=["unmerge"], kwargs={"check": False})
        unmerging.start()
        time.sleep(chance.random() * TOOK)
        with contextlib.suppress(ProcessLookupError):
            os.kill(store_process(daemon, "worker"), signal.SIGKILL)
        unmerging.join()
        daemon.cli("unmerge")
        for program in programs:
            tell(program, "rest")
            program.kill()


def faults(pid):
    """Pages that a process was given so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return int(stat.read().rpartition(")")[2].split()[7])


def test_x_what_stays_costs_a_call_little(store_daemon, compiled):
    """What was written stays where it is; a call that would have it otherwise finds that out without a copy of each page
    that cannot be put there, again and again."""
    daemon = store_daemon()
    program = start(daemon, compiled)[0]
    daemon.set(run=0)
    tell(program, "touch")
    agent, = program.agents()
    before = faults(agent)
    tell(program, "wipe")
    assert program.agents() == [agent]
    assert faults(agent) - before < PAGES
    for what in ("write", "rest"):
        tell(program, what)


def test_d1_unmerged_by_a_call_with_and_without_a_daemon(store_daemon, compiled):
    """Without a daemon nobody can be held off while bytes are copied: each page becomes the program's where it is."""
    daemon = store_daemon()
    with_daemon, without = start(daemon, compiled)
    tell(with_daemon, "leave")
    assert daemon.merged_pages(with_daemon, with_daemon.area) == 0
    daemon.kill()
    tell(without, "leave")
    for program in (with_daemon, without):
        for what in ("write", "rest", "equal", "rest"):
            tell(program, what)
