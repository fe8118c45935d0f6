# SPDX-License-Identifier: Apache-2.0
"""One daemon for all users: none takes all places, all connections or all of its time from the
others, and each sees and changes only what is their own."""

import errno
import json
import os
import select
import signal
import socket
import struct
import time

import pytest

from lib import fake_agent, place
from lib.place import wait_for
from lib.users import Agent, ask_as, become

NOBODY, OTHER = 65534, 12345


@pytest.fixture
def serve(make_daemon, tmp_path):
    """serve(users): root's daemon at full speed with these lines in [users]."""
    place.need_root()
    place.need_kernel_6_8()

    def start(users):
        path = tmp_path / "samepaged.conf"
        path.write_text("[users]\n" + users)
        path.chmod(0o644)
        daemon = make_daemon(options=["--config", path]).start()
        daemon.set_full_speed()
        return daemon

    return start


def test_programs_of_one_user(serve, agents):
    """The next one is refused, with the reason; other users, and root, still have room; when one
    ends there is room again."""
    daemon = serve("max_programs = 3\n")
    for _ in range(3):
        agents.append(Agent(daemon.socket, NOBODY))
        assert agents[-1].said == "welcome"
    agents.append(Agent(daemon.socket, NOBODY))
    assert "3 merged programs" in agents[-1].said and "max_programs" in agents[-1].said
    for uid in (OTHER, 0, 0, 0, 0):
        agents.append(Agent(daemon.socket, uid))
        assert agents[-1].said == "welcome"
    agents.pop(0).close()

    def has_room():
        agents.append(Agent(daemon.socket, NOBODY))
        return agents[-1].said == "welcome"

    wait_for(lambda: agents[-1].said, has_room, 5)


def test_domains_are_no_way_round_the_limit(serve, agents):
    daemon = serve("max_programs = 2\n")
    for i in range(3):
        agents.append(Agent(daemon.socket, NOBODY, domain=b"d%d" % i))
    assert [agent.said == "welcome" for agent in agents] == [True, True, False]


@pytest.mark.parametrize("uid", [None, NOBODY])
def test_program_that_could_not_be_repaired(make_daemon, agents, uid):
    """D2: where the daemon may not open the program's memory it refuses, with the reason: here because
    the program is not dumpable; Yama has the same effect on a daemon of the user's own."""
    place.need_root()
    place.need_kernel_6_8()
    daemon = make_daemon(uid=uid).start()
    agents.append(Agent(daemon.socket, NOBODY, dumpable=0))
    assert "could not repair" in agents[-1].said and "ptrace_scope" in agents[-1].said
    agents.append(Agent(daemon.socket, NOBODY))
    assert agents[-1].said == "welcome"


@pytest.mark.alone  # it must not take long
def test_connections_of_one_user(serve):
    """A user's own oldest connections go, nobody else's. (After five seconds all go that say nothing: what
    takes so long is done again.)"""
    daemon = serve("max_connections = 20\n")

    def many():
        socks = [fake_agent.connect(daemon.socket) for _ in range(60)]
        wait_for("they all stay", lambda: closed(socks) >= 40)
        return closed(socks), closed(socks[:40])

    def closed(socks):
        n = 0
        for sock in socks:
            sock.setblocking(False)
            try:
                n += sock.recv(10) == b""
            except BlockingIOError:
                pass
            except ConnectionResetError:
                n += 1
        return n

    def in_time():
        began = time.monotonic()
        ours = [fake_agent.connect(daemon.socket) for _ in range(30)]
        found = ask_as(NOBODY, many), closed(ours)
        for sock in ours:
            sock.close()
        return time.monotonic() - began < 4 and found

    assert wait_for("it takes too long each time", in_time) == ((40, 40), 0)
    assert daemon.status("processes") == 0


@pytest.fixture
def slow(serve, agents):
    """slow(n, ndomains): a daemon with so many programs of NOBODY that are, from now on, just below
    what counts as slow."""
    flags = []

    def scan(agent, seq, body):
        if flags[0].exists():
            time.sleep(0.19)
        return fake_agent.packet(fake_agent.SCAN, agent.report(looked=10, tracked=1000), seq)

    def start(n, ndomains):
        daemon = serve("max_programs = 100\n")
        flags.append(daemon.directory / "slow")
        for i in range(n):
            agents.append(Agent(daemon.socket, NOBODY, lie={fake_agent.SCAN: scan},
                                domain=b"d%d" % (i % ndomains)))
            assert agents[-1].said == "welcome"
        flags[0].touch()
        return daemon

    start.scan = scan
    return start


def test_slow_programs_of_one_user_starve_nobody(slow, compiled):
    """Sixty slow programs, in several domains, take twelve seconds for a pass; root's two programs
    are merged all the same."""
    daemon = slow(60, 8)
    programs = [daemon.run(compiled("x_rows"), "hold") for _ in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area, timeout=15)
    for program in programs:
        program.say()
        program.must_finish(0)


def test_who_asks_to_unmerge_all_the_time_stops_nobodys_merging(serve, compiled):
    """Not even who has nothing merged, on many connections; nor does it keep root's un-merging from being done."""
    def ask_all_the_time():
        request = json.dumps({"op": "unmerge"}).encode()
        conns = [fake_agent.connect(daemon.socket) for _ in range(16)]
        poll = select.poll()
        for conn in conns:
            poll.register(conn, select.POLLIN)
            conn.send(request)
        os.write(theirs, b"x")
        while True:
            for fd, _ in poll.poll():
                os.read(fd, 4096)
                os.write(fd, request)

    daemon = serve("")
    ours, theirs = os.pipe()
    asker = os.fork()
    if asker == 0:
        try:
            become(NOBODY)
            ask_all_the_time()
        finally:
            os._exit(1)
    try:
        assert os.read(ours, 1) == b"x"
        programs = [daemon.run(compiled("x_rows"), "hold") for _ in range(2)]
        for program in programs:
            program.area = program.region()
        for program in programs:
            daemon.wait_merged(program, program.area)
        daemon.cli("unmerge", programs[0].pid)
        assert daemon.merged_pages(programs[0], programs[0].area) == 0
        daemon.set(run=2)
        assert daemon.status("pages_shared") == 0
        for program in programs:
            program.say()
            program.must_finish(0)
        assert os.waitpid(asker, os.WNOHANG) == (0, 0)  # it asked all the time
    finally:
        os.kill(asker, signal.SIGKILL)
        os.waitpid(asker, 0)
        os.close(ours)
        os.close(theirs)


def test_k13_each_run_2_is_answered_when_memory_is_short(serve, agents):
    """That of all, which fails with a process whose memory is short, and that of a domain which is not begun then."""
    def short(agent, seq, body):
        return fake_agent.packet(fake_agent.UNMERGE, struct.pack("<iIQQ", -errno.ENOMEM, 0, 0, 0), seq)

    daemon = serve("")
    for domain in (b"one", b"two"):
        agents.append(Agent(daemon.socket, NOBODY, domain=domain, lie={fake_agent.UNMERGE: short},
                            pages={0x10000: b"x" * 4096, 0x20000: b"x" * 4096}))
    wait_for(lambda: f"not merged: {daemon.status()}", lambda: daemon.status("pages_sharing") == 2)
    conns = [fake_agent.connect(daemon.socket) for _ in range(2)]
    for conn in conns:
        conn.settimeout(place.patient(60))
        conn.send(json.dumps({"op": "get", "key": "run"}).encode())
        assert json.loads(conn.recv(65536))["value"] == "1"
    daemon.popen.send_signal(signal.SIGSTOP)  # both are there when it begins with either
    for conn, domain in zip(conns, ({}, {"domain": "u65534:two"})):
        conn.send(json.dumps({"op": "set", "key": "run", "value": "2", **domain}).encode())
    daemon.popen.send_signal(signal.SIGCONT)
    answers = [json.loads(conn.recv(65536)) for conn in conns]
    assert [answer.get("errno") for answer in answers] == ["ENOMEM", "ENOMEM"], answers
    assert daemon.get("run") == "0"


def test_k13_memory_that_is_short_for_one_keeps_nobody_else_merged(serve, agents):
    """Neither another program of that domain nor another user's, whether it is so or a lie; what root asked for
    fails at the end."""
    def short(agent, seq, body):
        return fake_agent.packet(fake_agent.UNMERGE, struct.pack("<iIQQ", -errno.ENOMEM, 0, 0, 0), seq)

    daemon = serve("")
    pages = {0x10000: b"x" * 4096, 0x20000: b"x" * 4096}
    for uid, lie in ((NOBODY, {fake_agent.UNMERGE: short}), (NOBODY, {}), (OTHER, {})):
        agents.append(Agent(daemon.socket, uid, lie=lie, pages=pages))
    wait_for(lambda: f"not merged: {daemon.status()}", lambda: daemon.status("pages_sharing") == 4)
    done = daemon.cli("set", "run=2", check=False)
    assert done.returncode == 1 and "memory is short" in done.stderr
    assert daemon.get("run") == "0"
    assert (daemon.status("pages_shared"), daemon.status("pages_sharing")) == (1, 1), daemon.status()
    agents.pop(0).close()
    daemon.cli("set", "run=2")


def connect(daemon):
    """A connection of root's, which the daemon knows."""
    conn = fake_agent.connect(daemon.socket)
    conn.settimeout(place.patient(60))
    conn.send(json.dumps({"op": "get", "key": "run"}).encode())
    assert json.loads(conn.recv(65536))["value"] == "1"
    return conn


def set_run(conn, value, **domain):
    conn.send(json.dumps({"op": "set", "key": "run", "value": value, **domain}).encode())


def test_k13_another_run_of_a_domain_does_not_end_run_2_of_all(serve, agents):
    """Who waits for all waits for the others, too."""
    (asked, say), (wait, go) = os.pipe(), os.pipe()

    def unmerge(agent, seq, body):
        os.write(say, b"x")
        os.read(wait, 1)
        kind, answer = agent._unmerge(body)  # pylint: disable=protected-access
        return fake_agent.packet(kind, answer, seq)

    daemon = serve("")
    pages = {0x10000: b"x" * 4096, 0x20000: b"x" * 4096}
    agents.append(Agent(daemon.socket, NOBODY, domain=b"one", pages=pages))
    agents.append(Agent(daemon.socket, OTHER, lie={fake_agent.UNMERGE: unmerge}, pages=pages))
    wait_for(lambda: f"not merged: {daemon.status()}", lambda: daemon.status("pages_sharing") == 2)
    root, other = connect(daemon), connect(daemon)
    daemon.popen.send_signal(signal.SIGSTOP)  # both are there before anything is un-merged
    set_run(root, "2")
    set_run(other, "0", domain="u65534:one")
    daemon.popen.send_signal(signal.SIGCONT)
    assert select.select([asked], [], [], place.patient(60))[0], "the other user's program was not asked"
    assert not select.select([root], [], [], 0)[0], f"answered before: {root.recv(65536)}"
    os.write(go, b"x" * 64)
    assert json.loads(root.recv(65536)).get("errno") in (None, "EAGAIN")
    answer = json.loads(other.recv(65536))
    assert answer["ok"], answer
    wait_for(lambda: f"merged: {daemon.ps(agents[1].pid)}", lambda: daemon.status("pages_sharing") <= 1)


def test_k13_run_2_ends_when_the_last_program_does(serve, agents):
    """It goes away before its turn comes: then all is un-merged."""
    daemon = serve("")
    for n in range(8):
        agents.append(Agent(daemon.socket, NOBODY, pages={0x10000: b"x" * 4096, 0x20000: b"x" * 4096}))
        wait_for(lambda: f"not merged: {daemon.status()}", lambda: daemon.status("pages_sharing") == 1)
        root = connect(daemon)
        daemon.popen.send_signal(signal.SIGSTOP)  # which of both comes first is the kernel's choice
        if n % 2:
            agents.pop().close()
        set_run(root, "2")
        if not n % 2:
            agents.pop().close()
        daemon.popen.send_signal(signal.SIGCONT)
        assert json.loads(root.recv(65536))["ok"]
        root.close()
        daemon.cli("set", "run=1")


def test_a_slow_user_does_not_hold_up_the_passes_of_another(slow, agents):
    """The passes that another user's `wait` counts go on, each second or so: three of those with all
    the slow programs would take half a minute."""
    daemon = slow(60, 1)
    agents.append(Agent(daemon.socket, OTHER))
    daemon.cli("wait", "--timeout", "28", uid=OTHER)


def test_a_busy_daemon_takes_in_new_programs(serve, agents):
    """A user's next program is merged, too, while those that are there keep the daemon busy without a pause."""
    def scan(agent, seq, body):
        time.sleep(0.1)
        return fake_agent.packet(fake_agent.SCAN, agent.report(looked=1000, tracked=1000), seq)

    daemon = serve("")
    agents.append(Agent(daemon.socket, NOBODY, lie={fake_agent.SCAN: scan}))
    daemon.wait_state(agents[0].pid, "merging")
    scans = daemon.status("full_scans")
    wait_for("no passes", lambda: daemon.status("full_scans") > scans + 2)
    agents.append(Agent(daemon.socket, NOBODY))
    daemon.wait_state(agents[1].pid, "merging")


def test_endless_sites_hold_nobody_up(serve, agents):
    """A list of sites that comes slowly and never ends (FORKED, so it is asked for)."""
    def sites(agent, seq, body):
        start = int.from_bytes(body[:8], "little")
        time.sleep(1.0)
        return fake_agent.packet(fake_agent.SITES, (start + 4096).to_bytes(8, "little") +
                                 bytes(8), seq)

    daemon = serve("")
    agents.append(Agent(daemon.socket, NOBODY, lie={fake_agent.SITES: sites}, flags=2))
    assert agents[-1].said == "welcome"
    began = time.monotonic()
    for _ in range(4):
        daemon.status()
    assert time.monotonic() - began < place.patient(20)


def control(daemon, **request):
    sock = fake_agent.connect(daemon.socket)
    sock.send(json.dumps(request).encode())
    answer = json.loads(sock.recv(65536))
    sock.close()
    return answer


def test_each_sees_and_changes_only_their_own(serve, agents):
    """The control protocol, as user and as root."""
    daemon = serve("")
    for uid in (NOBODY, OTHER, 0):
        agents.append(Agent(daemon.socket, uid, pages={0x10000 * (i + 1): bytes([i]) * 4096
                                                       for i in range(uid % 7 + 1)}))
        assert agents[-1].said == "welcome"
    nobody, other, root = (agent.pid for agent in agents)

    def as_nobody(**request):
        return ask_as(NOBODY, lambda: control(daemon, **request))

    assert [p["pid"] for p in as_nobody(op="ps")["processes"]] == [nobody]
    assert {p["pid"] for p in control(daemon, op="ps")["processes"]} == {nobody, other, root}
    assert as_nobody(op="status")["processes"] == 1 and as_nobody(op="status")["domains"] == 1
    assert control(daemon, op="status")["processes"] == 3
    for pid in (other, root, 1, os.getpid()):
        answer = as_nobody(op="unmerge", pid=pid)
        assert answer["ok"] is False and "not yours" in answer["error"], answer
    for key, value in (("run", "0"), ("run", "2"), ("pages_to_scan", "1"), ("max_mappings", "5")):
        assert as_nobody(op="set", key=key, value=value)["ok"] is False
    assert as_nobody(op="off")["ok"] is False
    assert as_nobody(op="unmerge", pid=nobody)["ok"] is True
    assert daemon.get("run") == "1" and daemon.get("max_mappings") == "0"


def test_segments_that_are_given_back_slowly_hold_nobody_up(serve, agents):
    """Thirty programs that take a second each to let go of a segment, for which all are asked in a
    row."""
    def drop(agent, seq, body):
        time.sleep(1.0)
        return fake_agent.packet(fake_agent.DONE, bytes(8), seq)

    def unmerge(agent, seq, body):
        """And never has these pages again: so the frame, and its segment, are nobody's."""
        kind, answer = agent._unmerge(body)  # pylint: disable=protected-access
        agent.pages.clear()
        return fake_agent.packet(kind, answer, seq)

    daemon = serve("")
    for _ in range(30):
        agents.append(Agent(daemon.socket, NOBODY, pages={0x10000: b"x" * 4096},
                            lie={fake_agent.DROP_SEGMENT: drop, fake_agent.UNMERGE: unmerge}))
    wait_for(lambda: daemon.status(), lambda: daemon.status("pages_sharing") == 29)
    ask_as(NOBODY, lambda: control(daemon, op="unmerge"))
    worst = 0
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        began = time.monotonic()
        daemon.status()
        worst = max(worst, time.monotonic() - began)
    assert worst < 20 * place.SLACK, worst


def test_rounds_go_on_with_several_slow_users(slow, agents):
    """Two users whose passes take seconds, and in turns: each domain of both gets its passes, so
    full_scans, which is of all, rises."""
    daemon = slow(5, 2)
    for i in range(4):
        agents.append(Agent(daemon.socket, OTHER, lie={fake_agent.SCAN: slow.scan},
                            domain=b"d%d" % (i % 2)))
        assert agents[-1].said == "welcome"
    before = daemon.status("full_scans")
    wait_for(lambda: f"{daemon.status('full_scans')} after {before}",
             lambda: daemon.status("full_scans") >= before + 2, 20)


def test_a_pass_without_end_keeps_no_frames_of_others(serve, agents, compiled):
    """K9: what another user's programs do not map any more is given back though one program's pass, and
    so the round of all, never ends."""
    def scan(agent, seq, body):
        start, = struct.unpack_from("<Q", body)
        return fake_agent.packet(fake_agent.SCAN, agent.report(
            next_=(start or 1 << 32) + fake_agent.PAGE, looked=1, tracked=1 << 20), seq)

    daemon = serve("")
    programs = [daemon.run(compiled("x_rows"), "hold") for _ in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area)
    agents.append(Agent(daemon.socket, NOBODY, lie={fake_agent.SCAN: scan}))
    daemon.wait_state(agents[0].pid, "merging")
    for program in programs:
        daemon.cli("unmerge", program.pid)
    wait_for(lambda: f"frames are left: {daemon.status()}",
             lambda: daemon.status("frames_lingering") == 0 and daemon.status("segments") <= 1)
    for program in programs:
        program.say()
        program.must_finish(0)


def test_root_may_ask_as_a_user(serve, agents):
    """And is that user from then on, on that connection; nobody else may."""
    def talk(*requests):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(60 * place.SLACK)
            s.connect(str(daemon.socket))
            answers = []
            for request in requests:
                s.send(json.dumps(request).encode())
                answers.append(json.loads(s.recv(65536)))
            return answers

    daemon = serve("")
    agents += [Agent(daemon.socket, NOBODY), Agent(daemon.socket, OTHER, domain=b"web")]
    assert talk({"op": "domains"})[0]["domains"] == ["u65534", "u12345:web"]
    mine, again, refused, root = talk({"op": "domains", "uid": OTHER}, {"op": "domains"},
                                      {"op": "set", "key": "run", "value": "1"}, {"op": "ps", "uid": 0})
    assert mine["domains"] == again["domains"] == ["u12345:web"]
    assert refused["errno"] == root["errno"] == "EACCES"
    assert talk({"op": "get", "key": "run", "domain": "u12345:web", "uid": NOBODY})[0]["errno"] == "ENOENT"
    for uid in (-1, 2**32 - 1, 2**32, "0", None, [], 1.5):
        assert talk({"op": "ps", "uid": uid})[0]["errno"] == "EINVAL"
    for uid in (0, NOBODY, OTHER):
        answer = ask_as(NOBODY, lambda: talk({"op": "ps", "uid": uid})[0])
        assert answer["errno"] == "EACCES" and "processes" not in answer
