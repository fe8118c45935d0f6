# SPDX-License-Identifier: Apache-2.0
"""D1, D2: an agent for which WELCOME came too late hangs up before it answered anything, and comes again.
It lives: who is taken for the program of a dead agent goes through a gate that is closed, and has nobody to
ask any more."""

import json
import os
import signal
import struct

from lib import fake_agent as fa, place
from lib.place import wait_for

REJOIN = 4
ABANDONED = 1


def is_there(pid, address):
    with open(f"/proc/{pid}/pagemap", "rb") as f:
        f.seek(address // fa.PAGE * 8)
        return bool(struct.unpack("<Q", f.read(8))[0] >> 62)


def test_d2_an_agent_that_hangs_up_is_not_dead(daemon, compiled):
    place.need_userfaultfd()
    program = daemon.plain(compiled("hangs_up"))
    page = int(program.line().split()[1], 16)
    program.say(fa.packet(fa.HELLO, fa.hello_body(program.pid, REJOIN, wait_page=page)).hex())
    assert program.line() == "hung up"
    wait_for("its connection is not over", lambda: daemon.ps(program.pid) is None)
    assert not is_there(program.pid, page), "the gate of a living agent is abandoned"
    program.say()
    assert program.line() == f"given {ABANDONED}"
    program.must_finish(0)


def state(daemon, pid):
    done = daemon.cli("explain", "--json", pid, check=False)
    return json.loads(done.stdout).get("state") if done.returncode == 0 else None


def test_d2_d1_an_agent_that_was_never_known_is_dead(daemon):
    """The daemon is killed after WELCOME, before the agent's first answer; the agent is dead when the next daemon comes:
    what it left is put right, and the program forgotten."""
    hears, says = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            agent = fa.FakeAgent(daemon.socket)  # for the daemon the program itself: it answers nothing
            os.write(says, b"x")
            signal.pause()
            agent.serve()
        finally:
            os._exit(0)
    try:
        assert os.read(hears, 1) == b"x"
        wait_for("not joined", lambda: daemon.ps(pid))
        daemon.kill()
        daemon.start()
        assert state(daemon, pid) == "left"
        wait_for(lambda: f"still there: {state(daemon, pid)}", lambda: state(daemon, pid) is None, 60)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
