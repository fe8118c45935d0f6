# SPDX-License-Identifier: Apache-2.0
"""X: a program that is killed while its agent comes to be leaves none of its descriptors open: who reads
from its pipes is at their end when it is gone."""

import os
import select
import signal

import pytest

from lib import proc
from lib.place import wait_for


def stopped(program):
    return [p.pid for p in program.processes() if proc.look(p.pid) and proc.look(p.pid).state == "T"]


@pytest.mark.parametrize("point", ["aside-born", "helper-born", "agent-born"])
def test_x_killed_while_its_agent_is_born(fault_daemon, point):
    """Whatever of ours stands still at its first instruction."""
    program = fault_daemon.run("/bin/sleep", 100,
                               env={"SAMEPAGE_FAULT": f"{point}:1:{int(signal.SIGSTOP)}"})
    wait_for("no agent was born", lambda: stopped(program))
    agents = stopped(program)
    os.kill(program.popen.pid, signal.SIGKILL)
    assert program.popen.wait() == -signal.SIGKILL
    try:
        wait_for("its pipe is open still",
                 lambda: select.select([program.popen.stdout], [], [], 0)[0], 20)
        assert program.popen.stdout.read() == b""
    finally:
        for pid in set(agents) - {program.popen.pid}:
            os.kill(pid, signal.SIGKILL)
    wait_for("something is left of it", lambda: not program.processes(), 20)
