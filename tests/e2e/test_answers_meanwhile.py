# SPDX-License-Identifier: Apache-2.0
"""While an agent does not answer, who only asks what is so is answered; who wants something changed waits until
the daemon is through with what it is at (src/daemon/meanwhile.h)."""

import json
import os
import select

import pytest

from lib import control
from lib import fake_agent as fa
from lib.place import NotInTime, patient, wait_for

AGENTS = 6  # chances, on a machine so slow that the daemon has given up an agent before it answers us
CONNECTIONS = 540  # more than the daemon has places; it accepts some, the rest waits in the backlog
WANT_UFFD = 14
BASE = 0x100000000
READS = [dict(op="status"), dict(op="ps"), dict(op="get", key="run"), dict(op="get", key="pages_shared"),
         dict(op="get", key="run", domain="u0"), dict(op="domains"), dict(op="process"), dict(op="self"),
         dict(op="nonsense")]
CHANGES = [dict(op="set", key="sleep_millisecs", value="1"), dict(op="merge"), dict(op="unmerge", pid=1),
           dict(op="explain", pid=os.getpid())]


class Silent:
    """Agents that do not answer a kind of question; asked() waits for the next one that gets it."""

    def __init__(self, daemon, kind, flags=0):
        self.daemon = daemon
        self.ours, theirs = os.pipe()

        def silent(_agent, _seq, _body):
            os.write(theirs, os.getpid().to_bytes(4, "little"))

        pages = {BASE + i * fa.PAGE: bytes([i + 1]) * fa.PAGE for i in range(2)}
        self.children = [fa.Child(daemon.socket, pages=pages, flags=flags, lie={kind: silent})
                         for _ in range(AGENTS)]
        os.close(theirs)

    def asked(self):
        assert select.select([self.ours], [], [], patient(60))[0], f"nobody is asked: {self.daemon.log()}"
        return int.from_bytes(os.read(self.ours, 4), "little")

    def is_waited_for(self, pid):
        """The daemon tells of who did not answer as soon as it waits no longer."""
        return self.states()[pid] != "stalled"

    def states(self):
        return {p["pid"]: p["state"] for p in control.ask(self.daemon, "ps")["processes"]}

    def kill(self):
        while self.children:
            self.children.pop().kill()

    def close(self):
        self.kill()
        os.close(self.ours)


@pytest.fixture
def silent(daemon):
    made = []

    def make(kind, flags=0):
        made.append(Silent(daemon, kind, flags))
        return made[-1]

    yield make
    for each in made:
        each.close()


def send(daemon, request):
    sock = fa.connect(daemon.socket)
    sock.send(json.dumps(request).encode())
    return sock


@pytest.mark.parametrize("kind, flags", [(fa.SITES, 2), (fa.SCAN, 0)], ids=["join", "scan"])
def test_reads_are_answered_while_an_agent_is_waited_for(daemon, silent, kind, flags):
    """And changes are not, nor is anything that comes on their connection after them."""
    agents = silent(kind, flags)
    for _ in range(AGENTS):
        pid = agents.asked()
        changes = [send(daemon, request) for request in CHANGES]
        changes[0].send(b'{"op":"status"}')
        for request in READS:
            answer = control.answer_to(daemon, **request)
            assert answer.get("ok") == (request["op"] != "nonsense"), f"{request}: {answer}"
        served = select.select(changes, [], [], 0)[0]
        was_waited_for = agents.is_waited_for(pid)
        assert not was_waited_for or not served, f"{[CHANGES[changes.index(s)] for s in served]} did not wait"
        if was_waited_for:
            break
    else:
        raise NotInTime("the daemon has given up each agent before all was answered")
    agents.kill()  # now there is nobody to wait for
    told = [json.loads(changes[0].recv(65536)) for _ in range(2)]
    assert told[0] == {"ok": True} and "pages_shared" in told[1], told
    for sock in changes[1:]:
        json.loads(sock.recv(65536))
    for sock in changes:
        sock.close()


def test_k13_run_2_waits_and_reads_do_not(daemon, silent):
    agents = silent(fa.UNMERGE)
    wait_for(lambda: agents.states(), lambda: set(agents.states().values()) == {"merging"})
    run2 = send(daemon, dict(op="set", key="run", value="2"))
    for _ in range(AGENTS):
        pid = agents.asked()
        run, said = control.ask(daemon, "get", key="run")["value"], select.select([run2], [], [], 0)[0]
        if agents.is_waited_for(pid):
            break
    else:
        raise NotInTime("the daemon has given up each agent before it answered")
    assert run == "2" and not said, run2.recv(65536)
    agents.kill()
    assert json.loads(run2.recv(65536))
    run2.close()


def test_files_are_read_while_an_agent_is_waited_for(ksmfs, silent):
    agents = silent(fa.SCAN)
    for _ in range(AGENTS):
        pid = agents.asked()
        read = [ksmfs.get(name) for name in ("run", "pages_shared", "domains/u0/pages_sharing")]
        if agents.is_waited_for(pid):
            break
    else:
        raise NotInTime("the daemon has given up each agent before its files were read")
    assert read == ["1", "0", "0"]


def is_answered(sock):
    """It gets userfaultfd, or is refused; or else the connection ended."""
    kind, _, _, fd = fa.receive(sock)
    if fd is not None:
        os.close(fd)
    return kind is not None


def test_who_waits_for_the_loop_is_not_pushed_out(daemon, silent):
    """More connections than there are places, each of which has asked for something that is not answered
    meanwhile: a later one does not push out an earlier one that was not heard."""
    agents = silent(fa.SCAN)
    agents.asked()
    socks = []
    for _ in range(CONNECTIONS):
        socks.append(fa.connect(daemon.socket))
        socks[-1].send(fa.packet(WANT_UFFD))
    agents.kill()
    heard = [is_answered(sock) for sock in socks]
    for sock in socks:
        sock.close()
    assert heard.count(False) == 0
