# SPDX-License-Identifier: Apache-2.0
"""D4: a program is killed while one of its threads is about to ask its agent for something: the agent
ends, and does not wait for a request that never comes."""

import signal
import time

from lib import proc
from lib.place import wait_for

LOOKS = 1  # seconds: the agent looks after its program more than once


def test_d4_program_is_killed_before_it_asks(fault_daemon, compiled):
    daemon = fault_daemon
    daemon.set(run=0)  # until both wait for a line: nothing waits at a gate before
    programs = [daemon.run(compiled("protect_halves"), env=env)
                for env in ({"SAMEPAGE_FAULT": f"gate-asks:1:{int(signal.SIGSTOP)}"}, None)]
    for program in programs:
        program.area = program.region()
    daemon.set(run=1)
    for program in programs:
        daemon.wait_merged(program, program.area)
    assert programs[0].agents()
    programs[0].say()
    wait_for("the program did not stop", lambda: proc.look(programs[0].pid).state == "T", 20)
    time.sleep(LOOKS)
    programs[0].signal(signal.SIGKILL)
    programs[0].must_finish(-signal.SIGKILL)
    wait_for("the agent did not end", lambda: not programs[0].agents(), 20)
    for _ in range(2):
        programs[1].say()
    programs[1].must_finish(0)
