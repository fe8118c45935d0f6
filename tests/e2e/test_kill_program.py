# SPDX-License-Identifier: Apache-2.0
"""D4: a program is killed at any instant; within a second nothing of it is left, and the others go
on."""

import os
import signal
import socket

from lib import place, proc, sharers
from lib.place import A_SECOND, longer, wait_for
from lib.redis import Data, Redis

KILLS = longer(5, 20)


def test_d4_kill_program(daemon, compiled):
    others = sharers.start(daemon, compiled)
    for kill in range(KILLS):
        others = sharers.still(daemon, compiled, others)
        descriptors = proc.descriptors(daemon.pid)
        program = daemon.checker(compiled, mib=16)
        pid, agents = program.pid, wait_for("no agent", program.agents)
        sites = 300 * (kill % 8)
        wait_for(lambda: f"not merged: {daemon.merged_pages(program, program.area)}",
                 lambda: daemon.merged_pages(program, program.area) >= sites, every=0.001)
        program.kill()
        wait_for(lambda: f"agents left: {[proc.look(a) for a in agents]}",
                 lambda: not any(proc.exists(a) for a in agents), A_SECOND)
        wait_for("the dead program is still listed", lambda: not daemon.ps(pid), A_SECOND)
        wait_for(lambda: f"the daemon has {proc.descriptors(daemon.pid)} descriptors, "
                         f"{descriptors} before", lambda:
                 proc.descriptors(daemon.pid) <= descriptors + 2, A_SECOND)  # segments come and go
        for other in others:
            other.progress.wait_all_go_on("another checker")
    sharers.end(others)


def test_d4_killed_while_a_daemon_does_not_answer(daemon, compiled):
    """The agent waits for an answer to its HELLO then, and ends with the program all the same."""
    program = daemon.checker(compiled, mib=16)
    wait_for("not joined", lambda: daemon.ps(program.pid))
    agents = program.agents()
    daemon.kill()
    daemon.socket.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(daemon.socket))
        listener.listen()
        listener.settimeout(place.patient(20))
        connection, _ = listener.accept()
        assert connection.recv(4096, socket.MSG_PEEK)
        program.kill()
        wait_for(lambda: f"agents left: {[proc.look(a) for a in agents]}",
                 lambda: not any(proc.exists(a) for a in agents), A_SECOND)
        connection.close()


def test_d4_term_to_the_group_saves_redis(daemon):
    """TERM to the process group of a merged Redis: it saves, and what it saved is right."""
    place.need_redis()
    data = Data(10000)
    for _ in range(longer(2, 10)):
        servers = [Redis(daemon.run, daemon.directory / f"group-{i}", save=True) for i in range(2)]
        for server in servers:
            server.load(data)
        daemon.wait_sharing(1000)
        digest = servers[0].digest()
        os.killpg(os.getpgid(servers[0].program.pid), signal.SIGTERM)
        servers[0].program.must_finish(0)
        fresh = Redis(daemon.plain, servers[0].directory)
        wait_for("the saved data is not loaded", lambda: fresh.command("DBSIZE") == b":10000", 20)
        assert fresh.digest() == digest
        assert servers[1].digest() == digest
        for server in (fresh, servers[1]):
            server.program.popen.terminate()
            server.program.finish()
        for server in servers:
            (server.directory / "dump.rdb").unlink(missing_ok=True)
