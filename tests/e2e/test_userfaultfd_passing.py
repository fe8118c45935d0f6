# SPDX-License-Identifier: Apache-2.0
"""The descriptor of /dev/userfaultfd goes from root's daemon to those whom the configuration names, and
to nobody else; with it programs of another user are merged and repaired like root's, without it they
run unmerged with one line."""

import fcntl
import os
import pathlib
import socket

import pytest

from lib import fake_agent, place
from lib.place import wait_for
from lib.redis import Data, Redis

NOBODY, OTHER = 65534, 12345
WANT_UFFD, UFFD = 14, 15


@pytest.fixture(autouse=True)
def only_root_gets_userfaultfd():
    place.need_root()
    place.need_kernel_6_8()
    if pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() != "0":
        pytest.skip("vm.unprivileged_userfaultfd lets everybody have one")
    device = pathlib.Path("/dev/userfaultfd")
    if not device.exists():
        pytest.skip("no /dev/userfaultfd here")
    if device.stat().st_mode & 0o006:
        pytest.skip("/dev/userfaultfd is open to everybody")


@pytest.fixture
def serve(make_daemon, tmp_path):
    """serve(users, **how): root's daemon at full speed with these lines in [users]."""
    def start(users, **how):
        path = tmp_path / "samepaged.conf"
        path.write_text("[users]\n" + users)
        path.chmod(0o644)
        daemon = make_daemon(options=["--config", path], **how).start()
        daemon.set_full_speed()
        return daemon

    return start


def holder(daemon, compiled, uid=NOBODY, **how):
    program = daemon.run(compiled("x_rows"), "hold", uid=uid, **how)
    program.area = program.region()
    return program


def end(*programs):
    for program in programs:
        program.say()
        program.must_finish(0)
        assert program.stderr() == ""


def must_run_unmerged(program, *words):
    program.must_finish(7, timeout=20)
    assert program.stderr().splitlines() == program.samepage_lines(), program.stderr()
    assert len(program.samepage_lines()) == 1, program.stderr()
    for word in words:
        assert word in program.samepage_lines()[0], program.stderr()


def ask_for_device(daemon, uid, groups=(), body=b""):
    """What a process of that user gets: (type of the answer, its text, the descriptor's target)."""
    parent, child = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            sock = fake_agent.connect(daemon.socket)
            sock.send(fake_agent.packet(WANT_UFFD, body))
            kind, _, text, fd = fake_agent.receive(sock)
            target = os.readlink(f"/proc/self/fd/{fd}") if fd is not None else ""
            mode = fcntl.fcntl(fd, fcntl.F_GETFL) if fd is not None else 0
            ended = sock.recv(10) == b""
            child.send(repr((kind, text.split(b"\0")[0].decode(), target, mode & 3, ended)).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    child.close()
    answer = parent.recv(10000)
    parent.close()
    return eval(answer)  # pylint: disable=eval-used


def test_who_gets_it(serve):
    daemon = serve(f"userfaultfd = {NOBODY}, @23456\n")
    yes = (UFFD, "", "/dev/userfaultfd", os.O_RDWR, True)
    assert ask_for_device(daemon, NOBODY) == yes
    assert ask_for_device(daemon, 0) == yes
    assert ask_for_device(daemon, OTHER, groups=[1, 23456]) == yes
    assert ask_for_device(daemon, 23456) == yes  # by the process' own group
    for uid, groups in ((OTHER, []), (OTHER, [23457]), (1, [])):
        kind, text, target, _, ended = ask_for_device(daemon, uid, groups)
        assert (kind, target, ended) == (fake_agent.REFUSE, "", True)
        assert "userfaultfd" in text and "[users]" in text and "samepaged.conf" in text
    kind, text, target, _, _ = ask_for_device(daemon, NOBODY, body=b"12345678")
    assert kind == fake_agent.REFUSE and target == ""


def test_nobody_by_default(serve, compiled):
    daemon = serve("")
    assert ask_for_device(daemon, NOBODY)[0] == fake_agent.REFUSE
    must_run_unmerged(daemon.run(compiled("exit_7"), 0.2, uid=NOBODY), "userfaultfd", "[users]",
                      "vm.unprivileged_userfaultfd")


def test_not_allowed_at_all(serve, compiled):
    """allow without a user: root is served, others are not, even if userfaultfd is theirs."""
    daemon = serve("allow = daemon\nuserfaultfd = *\n")
    assert ask_for_device(daemon, NOBODY)[0] == fake_agent.REFUSE
    must_run_unmerged(daemon.run(compiled("exit_7"), 0.2, uid=NOBODY), "[users]")
    program = holder(daemon, compiled, uid=None)
    wait_for("root's program is not merged", lambda: daemon.ps(program.pid), 10)
    end(program)


def test_no_daemon(make_daemon, compiled):
    """A program whose daemon is not there says so, not that it lacks a right."""
    daemon = make_daemon()
    agent = daemon.build / "libsamepage-agent.so"
    program = daemon.plain(compiled("exit_7"), 0.2, uid=NOBODY, env={"LD_PRELOAD": str(agent)})
    must_run_unmerged(program, "no samepaged answers")


def test_programs_are_merged(serve, compiled):
    """Two programs, and a child that one of them forks; none has the device open."""
    daemon = serve(f"userfaultfd = {NOBODY}\n")
    programs = [holder(daemon, compiled) for _ in range(2)]
    for program in programs:
        daemon.wait_merged(program, program.area)
        for p in program.processes():
            links = [os.readlink(f"/proc/{p.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{p.pid}/fd")]
            assert "/dev/userfaultfd" not in links, (p, links)
            if p.comm != "samepage-agent":
                assert not any("userfaultfd" in link for link in links), (p, links)
    assert daemon.status("pages_sharing") > 1000
    end(*programs)


# Both make the same data, each its own (what fork shares is not merged: K8).
FORKER = """
import os
pid = os.fork()
block = b"".join(i.to_bytes(8, "little") * 512 for i in range(4096))
if pid:
    print("ready", pid, flush=True)
os.read(0, 3)
want = b"".join(i.to_bytes(8, "little") * 512 for i in range(4096))
assert block == want
if pid:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os._exit(0)
"""


def test_python_and_its_forked_child_are_merged(serve):
    daemon = serve(f"userfaultfd = @{NOBODY}\n")
    program = daemon.run("/usr/bin/python3", "-c", FORKER, uid=NOBODY)
    child = int(program.line().split()[1])
    for pid in (program.pid, child):
        wait_for(lambda: f"{pid} is not merged: {daemon.cli('ps').stdout} {program.stderr()}",
                 lambda: (daemon.ps(pid) or {"sites": 0})["sites"] > 3000)
    assert len(program.agents()) == 2
    program.say("go\ngo")
    program.must_finish(0)


def test_forked_child_gets_it_from_a_later_daemon(serve, compiled):
    """The child is born while no daemon is there; the next daemon gives its agent what it needs."""
    daemon = serve(f"userfaultfd = {NOBODY}\n")
    program = daemon.run("/usr/bin/python3", "-c",
                         "import os; os.read(0, 3)\n" + FORKER, uid=NOBODY)
    wait_for("not joined", lambda: daemon.ps(program.pid))
    daemon.kill()
    program.say()
    child = int(program.line().split()[1])
    daemon.start()
    daemon.set_full_speed()
    wait_for(lambda: f"{daemon.cli('ps').stdout}",
             lambda: (daemon.ps(child) or {"sites": 0})["sites"] > 3000)
    program.say("go\ngo")
    program.must_finish(0)


def test_x_filter_of_a_child_whose_agent_waits_for_a_daemon(serve, compiled):
    """The filter of a thread, put on while there is no agent that serves, is not forgotten when there is one."""
    daemon = serve(f"userfaultfd = {NOBODY}\n")
    programs = [daemon.run(compiled("filters"), "late", "seccomp", uid=NOBODY) for _ in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area)
    program, partner = programs
    before = set(program.agents())
    daemon.kill()
    program.say()
    child = int(program.line().split()[1])
    agent, = set(program.agents()) - before
    program.say()
    assert program.line() == "filtered"
    daemon.start()
    wait_for("the child's agent neither joined nor left", lambda: daemon.ps(child) or agent not in program.agents())
    program.say()
    assert program.line() == "ok"
    for one in programs:
        one.popen.stdin.close()
    program.must_finish(0)
    partner.must_finish(3)


def test_redis_is_merged(serve, tmp_path):
    place.need_redis()
    daemon = serve(f"userfaultfd = {NOBODY}\n")
    data = Data(4000)
    servers = []
    for i in range(2):
        directory = daemon.directory / f"redis{i}"
        directory.mkdir()
        os.chown(directory, NOBODY, NOBODY)
        servers.append(Redis(lambda *argv: daemon.run(*argv, uid=NOBODY), directory))
        servers[i].load(data)
    daemon.wait_sharing(1000)
    daemon.wait()
    for server in servers:
        server.read_all(data)
        server.program.popen.terminate()
        server.program.must_finish(0)


@pytest.mark.parametrize("point", ["lift-moved", "lift-mapped"])
def test_agent_dies_in_a_lift(serve, compiled, point):
    """D2, for another user's program."""
    daemon = serve(f"userfaultfd = {NOBODY}\n", build=place.BUILD_TEST)
    daemon.directory.chmod(0o777)
    path = compiled("checker")

    def checker(**env):
        from lib.program import Progress
        progress = daemon.directory / f"progress-{len(daemon.programs)}"
        program = daemon.run(path, 16, 2, progress, uid=NOBODY, env=env)
        program.progress = Progress(progress, 2)
        program.area = program.region()
        return program

    other = checker()
    program = checker(SAMEPAGE_FAULT=f"{point}:3")
    wait_for(lambda: f"no fault: {daemon.ps(program.pid)} {program.stderr()}",
             lambda: not program.agents(), 20)
    wait_for(lambda: daemon.log(), lambda: daemon.status("repairs") >= 1, 10)
    for checked in (program, other):
        checked.progress.wait_all_go_on()
        checked.popen.terminate()
        checked.must_finish(0)
