# SPDX-License-Identifier: Apache-2.0
"""X: nothing reachable from a program has a right that the program gave up. The program drops root,
puts itself under a strict seccomp filter, and overwrites the code of its agent (which shares its
memory), so that the agent does what it can for it."""

import itertools
import pathlib
import socket
import time

import pytest

from lib.place import wait_for

REFUSED = ('answer {"ok":false,"error":"an agent asks for nothing: its program may have given up '
           'rights","exit":1}')
# The agent of a program that gives up rights ends, so it may have ended in time; and it may be just
# then where its new code makes it crash. In the first milliseconds it must be no better prey.
DELAYS_MS = [0, 3, 30, 70, 110, 150]


@pytest.fixture
def roots(tmp_path_factory):
    """A file and a socket that are root's alone."""
    folder = tmp_path_factory.mktemp("roots")
    file, path = folder / "root-only", folder / "root.sock"
    file.write_text("secret")
    file.chmod(0o600)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(8)
    yield file, path
    listener.close()


def attack(daemon, compiled, roots, when, delay, env=None):
    """The lines that the attacker prints."""
    program = daemon.run(compiled("x_rights", "-fno-stack-protector"), when, delay, *roots,
                         env=env)
    if when != "early":
        daemon.wait_merged(program, program.region())
    if when != "early":
        program.say()
    lines = [program.line()]
    while lines[-1] not in ("done", "gone"):
        lines.append(program.line())
    program.must_finish(0)
    return lines


def tried(daemon, compiled, roots, when, env=None):
    """What the attacker printed, once it had the agent."""
    delays = itertools.cycle(DELAYS_MS)

    def had():
        lines = attack(daemon, compiled, roots, when, next(delays), env)
        return lines[-1] == "done" and lines

    return wait_for("the agent ended each time before it could be taken over: nothing was tried",
                    had, 180)[:-1]


@pytest.mark.parametrize("when", ["early", "late", "forked"])
def test_x_rights_given_up(daemon, compiled, roots, when):
    assert tried(daemon, compiled, roots, when) == [REFUSED]
    assert daemon.get("run") == "1"
    assert roots[0].read_text() == "secret"


@pytest.mark.parametrize("when", ["early", "forked"])
def test_x_rights_given_up_below_linux_6_10(fault_daemon, compiled, roots, when):
    """Without mseal a confined agent connects to nothing at all."""
    got = tried(fault_daemon, compiled, roots, when, {"SAMEPAGE_TEST_NO_MSEAL": "1"})
    assert got == ["reached kill"]  # which only the build with fault points has

def test_x_rights_forked_below_linux_6_10(fault_daemon, compiled):
    """K8: there the agent of a forked child connects before it is confined, and merges."""
    env = {"SAMEPAGE_TEST_NO_MSEAL": "1"}
    program = fault_daemon.run(compiled("x_rows"), "fork-stay", env=env)
    partner = fault_daemon.run(compiled("x_rows"), "hold", env=env)
    areas = [one.region() for one in (program, partner)]
    for one, area in zip((program, partner), areas):
        fault_daemon.wait_merged(one, area)
    program.say()
    child = int(program.line().split()[1])
    assert program.line() == "forked"
    wait_for("the child is not merged", lambda: (fault_daemon.ps(child) or {}).get("sites", 0) > 1000)
    program.say()
    program.region("fresh")
    program.say()
    assert program.line() == "ok"
    program.must_finish(0)
    partner.say()
    partner.must_finish(0)


def devices(pid, area=None):
    """The file systems whose files the process has mapped, at all or in an area."""
    found = set()
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        where, _, _, device, inode, *_ = line.split()
        start, end = (int(x, 16) for x in where.split("-"))
        if inode != "0" and (not area or start < area[0] + area[1] and end > area[0]):
            found.add(device)
    return found


@pytest.mark.parametrize("what", ["user", "filter", "forked"])
def test_x_rights_given_up_no_frame_is_left(daemon, compiled, what):
    """What was merged before is the program's own afterwards, and no frame stays mapped: through a
    mapping of one frame a program could look at its neighbours, which are its former user's."""
    gives_up_all(daemon, *[daemon.run(compiled("x_drop"), what) for _ in range(2)])


def test_x_rights_given_up_in_many_groups(daemon, compiled):
    """The kernel tells of a filter behind the groups, which may be hundreds of thousands of bytes."""
    groups = ",".join(str(100000 + i) for i in range(3000))
    gives_up_all(daemon, *[daemon.run("setpriv", "--groups", groups, compiled("x_drop"), "filter")
                                     for _ in range(2)])


def gives_up_all(daemon, program, partner):
    areas = [one.region() for one in (program, partner)]
    for one, area in zip((program, partner), areas):
        daemon.wait_merged(one, area)
    pool = devices(program.pid, areas[0])
    assert pool and devices(partner.pid, areas[1]) == pool
    program.say()
    dropped = int(program.line().split()[1])
    wait_no_frames(program, dropped, pool)
    end(program, partner)


def test_x_rights_given_up_while_a_thread_is_inside(daemon, compiled):
    """The gate cannot be closed while a thread stays in a call, however long. The agent tries until it can."""
    program, partner = [daemon.run(compiled("x_drop"), what) for what in ("inside", "filter")]
    areas = [one.region() for one in (program, partner)]
    for one, area in zip((program, partner), areas):
        daemon.wait_merged(one, area)
    pool = devices(program.pid, areas[0])
    program.say()
    assert int(program.line().split()[1]) == program.pid
    time.sleep(1.5)  # it looks within 0.2 s, and gave up after 0.2 s once
    assert program.agents() and devices(program.pid) & pool, "it left while the thread was inside"
    program.say()
    assert program.line() == "left"
    wait_no_frames(program, program.pid, pool)
    wait_for("the agent stays", lambda: not program.agents())
    end(program, partner)


def end(program, partner):
    """The partner has given up nothing yet."""
    program.say()
    program.must_finish(0)
    partner.say()
    partner.line()
    partner.say()
    partner.must_finish(0)


def wait_no_frames(program, pid, pool):
    wait_for(lambda: f"frames are left: {devices(pid)}, pool: {pool}, agents: {program.agents()} "
                     f"{program.stderr()} {pathlib.Path(f'/proc/{pid}/maps').read_text()}",
             lambda: not devices(pid) & pool)


@pytest.mark.parametrize("call", ["prctl", "seccomp"])
@pytest.mark.parametrize("row", ["fork", "drop", "thread", "refused"])
def test_x_filter_meets_no_call_of_ours(daemon, compiled, row, call):
    """What the program does at once after it put itself, or only a thread, under a filter is done by its own calls."""
    programs = [daemon.run(compiled("filters"), row, call) for _ in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area)
    programs[0].say()
    assert programs[0].line() == "ok"
    if row != "refused":
        assert daemon.merged_pages(programs[0], programs[0].area) == 0
    for program in programs:
        program.popen.stdin.close()
    programs[0].must_finish(0)
    programs[1].must_finish(3)
