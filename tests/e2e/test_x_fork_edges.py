# SPDX-License-Identifier: Apache-2.0
"""X: corners of fork, threads and locking, while the program's memory is merged."""

import os
import signal
import time

from lib.place import wait_for


def start_all(daemon, compiled, *case, before=lambda: None):
    """Two of them, so that they have partners; merged, and the first told to go on."""
    programs = [daemon.run(compiled("fork_edges"), *case) for _ in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area)
    before()
    programs[0].say()
    return programs


def start(daemon, compiled, *case):
    return start_all(daemon, compiled, *case)[0]


def test_fork_while_the_agent_serves_another_thread(daemon, compiled):
    """The child's agent begins anew: it serves the child, though the parent's was just serving."""
    program = start(daemon, compiled, "fork_while_served")
    assert program.line().startswith("done")
    program.must_finish(0)


def test_first_calls_of_a_child(daemon, compiled):
    """The agent of a forked child answers its first call, though it does nothing else for a moment."""
    program = start(daemon, compiled, "child_asks_at_once")
    assert program.line(60).startswith("done")
    program.must_finish(0)


def test_child_whose_agent_no_daemon_knows_is_killed(daemon, compiled):
    """D2: nobody but the kernel tells the child that its agent is dead; it does not wait for it."""
    program = start_all(daemon, compiled, "child_loses_agent", before=daemon.kill)[0]
    child = int(float(program.line().split()[1]))
    agents = [pid for pid in program.agents() if pid > child]
    assert agents, "the child has no agent"
    for agent in agents:
        os.kill(agent, signal.SIGKILL)
    wait_for("the agent does not die", lambda: not set(agents) & set(program.agents()), 60)
    program.say()
    assert program.line(60).startswith("done")
    program.must_finish(0)


def test_pipe_that_a_child_closes(daemon, compiled):
    """A forked child's agent holds none of its descriptors: the end of a pipe is seen at once."""
    program = start(daemon, compiled, "pipe_end")
    ms = float(program.line().split()[1])
    assert ms < 15, f"{ms} ms"
    program.must_finish(0)


def serves_as_root(agent, child):
    """Is it root's, and shares the child's memory? Not once it has ended."""
    def size(pid):
        with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
            return statm.read().split()[0]

    try:
        return os.stat(f"/proc/{agent}").st_uid == 0 and size(agent) == size(child)
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_child_that_gives_up_root_at_once(daemon, compiled):
    """No agent of root is left to a child that is not root any more, however early that was."""
    program = start(daemon, compiled, "child_gives_up_root")
    child = int(float(program.line().split()[1]))

    def of_root():
        return [pid for pid in program.agents() if pid > child and serves_as_root(pid, child)]

    time.sleep(0.2)  # the agent takes a moment before it does anything
    wait_for(lambda: f"agents of root for a child that is not: {of_root()}",
             lambda: not of_root(), 1)
    program.say()
    program.must_finish(0)


def test_mlockall(daemon, compiled):
    """mlockall returns, and the gate goes on working."""
    program = start(daemon, compiled, "lock_all")
    assert program.line(10).startswith("locked")
    assert program.line(10).startswith("done")
    program.must_finish(0)


def test_first_thread_ends(daemon, compiled):
    """A program whose first thread ended is still merged."""
    program = start(daemon, compiled, "first_thread_ends")
    assert program.line().startswith("thread")
    time.sleep(0.7)  # the agent looks five times a second whether the program is there
    assert any(p.comm == "samepage-agent" for p in program.processes())
    assert daemon.ps(program.pid), daemon.cli("ps", "--json").stdout
    program.say()
    program.must_finish(0)


def test_x_signals_to_the_group_while_it_forks(daemon, compiled):
    """The processes that make a child's agent are in its process group, and have its handlers: none runs there."""
    program = start(daemon, compiled, "group_signals")
    _, handlers, _, foreign = program.line(60).split()
    assert int(handlers) > 100 and int(foreign) == 0, (handlers, foreign)
    program.must_finish(0)


def test_x_a_reaper_waits_for_its_children_only(daemon, compiled):
    """Of a program that is given all orphans its agent, which is one, is no child that wait() waits for."""
    program = start(daemon, compiled, "waits_for_all", "subreaper")
    assert program.line() == "reaped 1 ECHILD"
    assert program.agents()
    program.say()
    program.must_finish(0)
