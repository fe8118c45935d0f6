# SPDX-License-Identifier: Apache-2.0
"""A client that lies harms only itself: whatever arrives, the daemon lives and goes on answering."""

import json
import os
import random
import select
import signal
import socket
import struct
import time

import pytest

from lib import fake_agent as fa
from lib.place import A_SECOND, patient, wait_for

BASE = 0x10000000


def ask(daemon, request):
    """Answer to one request; a daemon that died is shown with its log."""
    sock = fa.connect(daemon.socket)
    sock.send(request if isinstance(request, bytes) else json.dumps(request).encode())
    try:
        answer = json.loads(sock.recv(65536))
    except OSError as error:
        pytest.fail(f"{error}; status {daemon.popen.poll()}; {daemon.log()}")
    sock.close()
    return answer


def still_answers(daemon):
    assert ask(daemon, {"op": "status"})["ok"]
    assert daemon.popen.poll() is None


def page(fill):
    return bytes([fill]) * fa.PAGE


def first_packets():
    rnd = random.Random(1)
    hello = fa.hello_body()
    yield "empty body", fa.packet(fa.HELLO)
    yield "wrong magic", fa.packet(fa.HELLO, hello, magic=0x12345678)
    yield "wrong version", fa.packet(fa.HELLO, hello, version=9)
    yield "length too large", fa.packet(fa.HELLO, hello, length=1 << 31)
    yield "length too small", fa.packet(fa.HELLO, hello, length=3)
    yield "cut in the header", fa.packet(fa.HELLO, hello)[:7]
    yield "cut in the body", fa.packet(fa.HELLO, hello)[:40]
    yield "no userfaultfd", fa.packet(fa.HELLO, hello)
    yield "pid 0", fa.packet(fa.HELLO, fa.hello_body(pid=0))
    yield "pid of another", fa.packet(fa.HELLO, fa.hello_body(pid=1))
    yield "odd wait page", fa.packet(fa.HELLO, fa.hello_body(wait_page=3))
    yield "other page size", fa.packet(fa.HELLO, fa.hello_body(page=1))
    yield "domain without end", fa.packet(fa.HELLO, fa.hello_body(domain=b"x" * 32))
    yield "domain with a slash", fa.packet(fa.HELLO, fa.hello_body(domain=b"../u0"))
    yield "answer without question", fa.packet(fa.MERGE, b"\0" * 600)
    yield "one byte", b"\0"
    yield "full packet", rnd.randbytes(131072)
    for i in range(40):
        yield f"random {i}", rnd.randbytes(rnd.randrange(1, 400))


def test_first_packets_of_any_kind(daemon):
    """X, Trust: malformed first packets are refused or cut, one after the other."""
    for name, data in first_packets():
        sock = fa.connect(daemon.socket)
        sock.send(data)
        kind = fa.receive(sock)[0]
        assert kind in (None, fa.REFUSE), name
        sock.close()
    still_answers(daemon)


def test_wrong_descriptors_in_hello(daemon):
    """A HELLO with something else than a userfaultfd, or with several descriptors, is refused."""
    null = os.open("/dev/null", os.O_RDWR)
    sock = fa.connect(daemon.socket)
    fa.send_fd(sock, fa.packet(fa.HELLO, fa.hello_body()), null)
    kind, _, body, _ = fa.receive(sock)
    assert kind == fa.REFUSE and b"userfaultfd" in body
    sock = fa.connect(daemon.socket)
    sock.sendmsg([fa.packet(fa.HELLO, fa.hello_body())],
                 [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("<5i", *[null] * 5))])
    assert fa.receive(sock)[0] in (None, fa.REFUSE)
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    for _ in range(20):
        sock = fa.connect(daemon.socket)
        sock.sendmsg([fa.packet(fa.HELLO, fa.hello_body())],
                     [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("<5i", *[null] * 5))])
        fa.receive(sock)
        sock.close()
    wait_for(lambda: "descriptors leak", lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <=
             before + 1, 3)
    os.close(null)
    still_answers(daemon)


def told(daemon):
    """How often the log says what, of connections that were cut."""
    log = (daemon.directory / "samepaged.log").read_text(errors="replace")
    return {what: sum(what in line for line in log.splitlines())
            for what in ("said nothing", "more than one descriptor", "no message that", "a malformed message")}


def send_descriptors(sock, data, n=5):
    null = os.open("/dev/null", os.O_RDWR)
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"<{n}i", *[null] * n))])
    os.close(null)


def new_connection(daemon):
    return fa.connect(daemon.socket)


def of_a_command(daemon):
    sock = fa.connect(daemon.socket)
    sock.send(b'{"op":"status"}')
    assert json.loads(sock.recv(65536))["ok"]
    return sock


def of_an_agent(daemon):
    return fa.FakeAgent(daemon.socket).sock


SENDS = {"random bytes": lambda sock: sock.send(random.Random(7).randbytes(300)),
         "descriptors": lambda sock: send_descriptors(sock, b"{}"),
         "as many as there may be": lambda sock: send_descriptors(sock, b"x" * 200, 253),
         "a large packet": lambda sock: sock.send(b"{" * 150000),
         "end": lambda sock: sock.shutdown(socket.SHUT_WR)}


@pytest.mark.parametrize("sender", [new_connection, of_a_command, of_an_agent])
def test_strangers_are_cut_and_told_of_once(daemon, sender):
    """Random bytes and too many descriptors, on a connection of each kind, again and again: refused, and told once
    of a connection that never was an agent's; two others are merged meanwhile."""
    def merged():
        wait_for(lambda: f"not merged: {ask(daemon, {'op': 'status'})}",
                 lambda: ask(daemon, {"op": "status"})["pages_sharing"] == 8, 10)

    def descriptors():
        return len(os.listdir(f"/proc/{daemon.pid}/fd"))

    children = two_equal(daemon)
    merged()
    before = descriptors()
    for name, send in SENDS.items():
        for _ in range(4):
            sock = sender(daemon)
            send(sock)
            sock.settimeout(patient(9))
            said = sock.recv(65536)
            if sender is of_an_agent:  # it is asked before it is cut
                while said:
                    assert said[6:8] != fa.REFUSE.to_bytes(2, "little"), f"{name}: {said}"
                    said = sock.recv(65536)
            refused = said and (b'"ok":false' in said or said[6:8] == fa.REFUSE.to_bytes(2, "little"))
            assert not said or refused, f"{name}: {said}"
            sock.close()
    for run in ("2", "1"):
        assert ask(daemon, {"op": "set", "key": "run", "value": run})["ok"]
    merged()
    times = told(daemon)
    assert times["more than one descriptor"] <= 1 and times["no message that"] <= 1, daemon.log()
    assert times["a malformed message"] == (sender is of_an_agent), daemon.log()
    if sender is new_connection:
        assert times["more than one descriptor"] == times["no message that"] == 1, daemon.log()
    wait_for(lambda: f"descriptors leak: {descriptors()}, and were {before}", lambda: descriptors() <= before + 1)
    end(children)


def test_strangers_of_many_users_do_not_fill_the_log(daemon):
    """Of all together so many lines an hour; the daemon goes on cutting them."""
    if os.geteuid():
        pytest.skip("needs root, to connect as many users")
    os.chmod(daemon.directory, 0o711)
    for uid in range(70000, 70100):
        os.seteuid(uid)
        try:
            sock = fa.connect(daemon.socket)
        finally:
            os.seteuid(0)
        SENDS["random bytes"](sock)
        sock.settimeout(patient(9))
        said = sock.recv(65536)
        assert not said or said[6:8] == fa.REFUSE.to_bytes(2, "little"), said
        sock.close()
    still_answers(daemon)
    assert told(daemon)["no message that"] == 63, daemon.log()
    assert daemon.log().count("no more of that is told") == 1, daemon.log()


def test_json_garbage(daemon):
    """Commands that make no sense get exit 2 and change nothing."""
    before = ask(daemon, {"op": "status"})
    for request in (b"{", b"{}", b"{\"op\":7}", b"{\"op\":\"x\"}", b"{" * 4000,
                    b'{"op":"status"}trailing', b'{"op":"status","a":1}', b'{"op":"get"}',
                    b'{"op":"get","key":"' + b"k" * 300 + b'"}', b'{"op":"get","key":"a\\u0000b"}',
                    b'{"op":"set","key":"run"}', b'{"op":"set","key":"run","value":1}',
                    b'{"op":"set","key":"run","value":"-1"}',
                    b'{"op":"set","key":"pages_to_scan","value":"18446744073709551616"}',
                    b'{"op":"set","key":"pages_to_scan","value":"4294967296"}',
                    b'{"op":"unmerge","pid":-1}', b'{"op":"unmerge","pid":1e99}',
                    b'{"op":"unmerge","pid":"1"}', b'{"op":"ps","pid":1}', b"{\xff\xfe}",
                    b'{"op":"status"' + b" " * 5000 + b"}"):
        answer = ask(daemon, request)
        assert answer["ok"] is False and answer["exit"] == 2 and answer["error"], request[:60]
    after = ask(daemon, {"op": "status"})
    for key in ("run", "pages_to_scan", "sleep_millisecs", "max_kernel_pages", "max_mappings"):
        assert before[key] == after[key]


def test_300_connections_that_say_nothing(daemon):
    """Silent connections hold nobody up, and are ended after five seconds."""
    silent = [fa.connect(daemon.socket) for _ in range(300)]
    still_answers(daemon)
    for sock in silent:
        sock.settimeout(patient(9))
        assert sock.recv(16) == b""
    assert told(daemon)["said nothing"] == 1, daemon.log()


def test_request_that_waited_while_the_daemon_was_away(daemon):
    """Who spoke in time is answered, though the daemon comes to it only after the time for that."""
    early = [fa.connect(daemon.socket) for _ in range(16)]
    still_answers(daemon)  # they are accepted
    os.kill(daemon.pid, signal.SIGSTOP)
    for sock in early:
        sock.send(b'{"op":"get","key":"run"}')
    time.sleep(6)  # longer than a connection may be silent
    os.kill(daemon.pid, signal.SIGCONT)
    for sock in early:
        assert json.loads(sock.recv(4096))["ok"]
        sock.close()


def test_600_connections_at_once(daemon):
    """More connections than there is room for: the oldest silent ones go, commands still work."""
    silent = []
    for _ in range(600):
        silent.append(fa.connect(daemon.socket))
    still_answers(daemon)
    for sock in silent:
        sock.close()


def bad_reports():
    """Answers to SCAN that no agent of ours gives."""
    def answer(body, **how):
        return lambda agent, seq, _: fa.packet(how.pop("kind", fa.SCAN), body(agent),
                                               how.pop("seq", seq), **how)

    h = (1, 2)
    yield "no body", answer(lambda a: b"")
    yield "short body", answer(lambda a: a.report()[:30])
    yield "wrong type", lambda a, seq, _: fa.packet(fa.MERGE, a.report(), seq)
    yield "wrong seq", lambda a, seq, _: fa.packet(fa.SCAN, a.report(), seq + 1)
    yield "lying length", answer(lambda a: a.report(), length=7)
    yield "more pages than sent", answer(lambda a: a.report(npages=500))
    yield "oversize counts", answer(lambda a: a.report(npages=0xffffffff, nchanged=0xffffffff,
                                                       ngone=0xffffffff))
    yield "too many pages", answer(lambda a: a.report([(BASE + i * fa.PAGE, h)
                                                       for i in range(2100)]))
    yield "not ascending", answer(lambda a: a.report([(BASE + fa.PAGE, h), (BASE, h)]))
    yield "twice the same", answer(lambda a: a.report([(BASE, h), (BASE, h)]))
    yield "not aligned", answer(lambda a: a.report([(BASE + 2, h)]))
    yield "beyond user space", answer(lambda a: a.report([((1 << 64) - fa.PAGE, h)]))
    yield "run overflows", answer(lambda a: a.report(nchanged=1) +
                                  struct.pack("<QQ", BASE, (1 << 64) - 1))
    yield "empty run", answer(lambda a: a.report(ngone=1) + struct.pack("<QQ", BASE, 0))
    yield "next goes nowhere", answer(lambda a: a.report(next_=5))
    yield "mad counters", answer(lambda a: a.report(tracked=(1 << 64) - 1))
    yield "random", lambda a, seq, _: random.Random(2).randbytes(5000)


@pytest.mark.parametrize("name,lie", list(bad_reports()), ids=[n for n, _ in bad_reports()])
def test_bad_reports_cut_the_connection(daemon, name, lie):
    """A malformed answer ends the connection of that client, and nothing else."""
    child = fa.Child(daemon.socket, pages={BASE: page(1)}, lie={fa.SCAN: lie})
    assert child.wait() == 0, "the daemon kept the connection"
    still_answers(daemon)


def two_equal(daemon, **how):
    pages = {BASE + i * fa.PAGE: page(i + 1) for i in range(8)}
    return [fa.Child(daemon.socket, pages=pages, **how), fa.Child(daemon.socket, pages=pages)]


def end(children):
    for child in children:
        child.kill()


def test_two_honest_fakes_merge(daemon):
    """The whole way by messages: report, candidates, fill, segment, merge, and un-merge (K7, K13)."""
    children = two_equal(daemon)
    wait_for(lambda: f"nothing merged: {ask(daemon, {'op': 'status'})}",
             lambda: ask(daemon, {"op": "status"})["pages_sharing"] == 8, 10)
    status = ask(daemon, {"op": "status"})
    assert (status["pages_shared"], status["processes"], status["domains"]) == (8, 2, 1)
    assert ask(daemon, {"op": "unmerge", "pid": children[0].pid}) == {"ok": True, "pages": 8}
    assert ask(daemon, {"op": "set", "key": "run", "value": "2"})["ok"]
    status = ask(daemon, {"op": "status"})
    assert (status["pages_shared"], status["pages_sharing"], status["run"]) == (0, 0, 2)
    assert ask(daemon, {"op": "set", "key": "run", "value": "1"})["ok"]
    wait_for(lambda: "nothing merged again",
             lambda: ask(daemon, {"op": "status"})["pages_sharing"] == 8, 10)
    end(children)
    wait_for(lambda: f"the pool is not empty: {ask(daemon, {'op': 'status'})}",
             lambda: ask(daemon, {"op": "status"})["segments"] == 0, 3)


def test_domains_do_not_mix(daemon):
    """Equal pages of two domains stay apart."""
    pages = {BASE: page(1)}
    children = [fa.Child(daemon.socket, pages=pages, domain=d) for d in (b"a", b"b")]
    wait_for(lambda: "no passes", lambda: ask(daemon, {"op": "status"})["domains"] == 2, 5)
    scans = ask(daemon, {"op": "status"})["full_scans"]
    wait_for(lambda: "no passes", lambda: ask(daemon, {"op": "status"})["full_scans"] > scans + 3,
             10)
    assert ask(daemon, {"op": "status"})["pages_shared"] == 0
    end(children)


def test_offered_bytes_that_do_not_hash(daemon):
    """K6, Trust: an offer of other bytes than were reported never becomes a frame."""
    def lie(agent, seq, body):
        n, = struct.unpack_from("<I", body)
        agent.shm[fa.OFFER:fa.OFFER + n * fa.PAGE] = b"\xee" * (n * fa.PAGE)
        return fa.packet(fa.FILL, ((1 << n) - 1).to_bytes(fa.FILL_PAGES // 8, "little"), seq)

    pages = {BASE + i * fa.PAGE: page(i + 1) for i in range(8)}
    children = [fa.Child(daemon.socket, pages=pages, lie={fa.FILL: lie}) for _ in range(2)]
    wait_for(lambda: "no passes", lambda: ask(daemon, {"op": "status"})["processes"] == 2, 5)
    scans = ask(daemon, {"op": "status"})["full_scans"]
    wait_for(lambda: "no passes", lambda: ask(daemon, {"op": "status"})["full_scans"] > scans + 3,
             10)
    assert ask(daemon, {"op": "status"})["pages_shared"] == 0
    end(children)


def test_an_agent_that_does_not_answer_holds_nobody_up_for_long(daemon):
    """A stalled client is skipped; others go on merging; its late answer brings it back."""
    class Late:
        held = None

        def __call__(self, agent, seq, body):
            if self.held is None:
                self.held = True
                time.sleep(3.5)
            return fa.packet(*agent._scan(body), seq)

    stalled = fa.Child(daemon.socket, pages={BASE: page(99)}, lie={fa.SCAN: Late()})
    time.sleep(0.3)
    children = two_equal(daemon)
    wait_for(lambda: "nothing merged beside a stalled client",
             lambda: ask(daemon, {"op": "status"})["pages_sharing"] == 8, 10)
    assert daemon.ps(stalled.pid) is not None
    wait_for(lambda: f"it does not come back: {daemon.ps(stalled.pid)}",
             lambda: daemon.ps(stalled.pid)["state"] == "merging", 10)
    end([stalled, *children])
    still_answers(daemon)


def test_bad_answers_to_merge_keep_others_right(daemon):
    """K7, K11: a client whose answer to MERGE is lost costs frames, never another's bytes."""
    def lie(agent, seq, body):
        agent._merge(body)  # it maps, and does not say so
        return fa.packet(fa.MERGE, b"\xff" * 9, seq)

    pages = {BASE + i * fa.PAGE: page(i + 1) for i in range(8)}
    liar = fa.Child(daemon.socket, pages=pages, lie={fa.MERGE: lie})
    children = [fa.Child(daemon.socket, pages=pages), fa.Child(daemon.socket, pages=pages)]
    assert liar.wait() == 0
    wait_for(lambda: f"nothing merged: {ask(daemon, {'op': 'status'})}",
             lambda: ask(daemon, {"op": "status"})["pages_sharing"] == 8, 30)
    end(children)
    still_answers(daemon)


def test_clients_die_at_any_instant(daemon):
    """D4: killed clients disturb nobody and leave nothing."""
    for i in range(10):
        children = two_equal(daemon)
        time.sleep(0.01 * i)
        end(children)
    wait_for(lambda: f"not gone: {ask(daemon, {'op': 'ps'})}",
             lambda: not ask(daemon, {"op": "ps"})["processes"], A_SECOND)
    still_answers(daemon)


def test_512_commands_that_keep_their_connection(daemon):
    """Connections that asked once and stay do not lock others out."""
    kept = []
    for _ in range(513):
        sock = fa.connect(daemon.socket)
        sock.send(b'{"op":"get","key":"run"}')
        assert json.loads(sock.recv(65536))["ok"]
        kept.append(sock)
    still_answers(daemon)
    for sock in kept:
        sock.close()


def test_commands_without_a_pause_do_not_stop_merging(daemon):
    """Some that ask all the time get their answers, and merging goes on."""
    asking = []
    for _ in range(6):
        pid = os.fork()
        if not pid:
            socks = [fa.connect(daemon.socket) for _ in range(16)]
            for sock in socks * 4:
                sock.send(b'{"op":"status"}')
            while True:
                for sock in socks:
                    sock.recv(65536)
                    sock.send(b'{"op":"status"}')
        asking.append(pid)
    try:
        children = two_equal(daemon)
        wait_for(lambda: f"nothing merged: {ask(daemon, {'op': 'status'})}",
                 lambda: ask(daemon, {"op": "status"})["pages_sharing"] == 8, 10)
        end(children)
    finally:
        for pid in asking:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def test_slow_answers_take_a_tenth_of_the_time(daemon):
    """A client that answers just within the limit, always, does not get all of the one thread."""
    ours, theirs = os.pipe()

    def slow(agent, seq, body):
        os.write(theirs, struct.pack("<d", time.monotonic()))
        time.sleep(0.5)
        os.write(theirs, struct.pack("<d", time.monotonic()))
        return fa.packet(*agent._scan(body), seq)

    child = fa.Child(daemon.socket, pages={BASE: page(99)}, lie={fa.SCAN: slow})
    asked = []
    while len(asked) < 5:
        assert select.select([ours], [], [], patient(60))[0], "it is not asked (any more)"
        asked += struct.unpack("<d", os.read(ours, 8))
    child.kill()
    for answered, again in (asked[1:3], asked[3:5]):
        assert again - answered > 0.9 * 9 * 0.5, f"asked again after {again - answered:.1f} s"
    os.close(ours)
    os.close(theirs)
