# SPDX-License-Identifier: Apache-2.0
"""T2: a frame that somebody maps still when all is un-merged, because his agent is dead, gives EBUSY and a warning. S11: so
does one that is out of memory, which comes back shared."""

import mmap
import os
import signal
import time

import pytest

from lib import fake_agent, proc
from lib.control import answer_to, ask
from lib.place import wait_for
from lib.store import store_daemon  # noqa: F401

PAGES = 256


def merged(daemon, compiled, n):
    programs = [daemon.run(compiled("x_rows"), "hold") for _ in range(n)]
    for program in programs:
        program.area = program.region()
        daemon.wait_merged(program, program.area)
    return programs


def kill_agent(daemon, program):
    agent, = program.agents()
    os.kill(agent, signal.SIGKILL)
    wait_for("its agent does not end", lambda: not proc.exists(agent))
    wait_for(lambda: f"it has a record: {daemon.ps(program.pid)}", lambda: not daemon.ps(program.pid))


def run_2(daemon, **domain):
    return answer_to(daemon, "set", key="run", value="2", **domain)


def must_be_busy(daemon, answer, program):
    """By this program alone."""
    mapped = daemon.merged_pages(program, program.area)
    assert mapped > 0
    assert answer.get("errno") == "EBUSY" and f"pid {program.pid})" in answer["error"], answer
    assert "and" not in answer["error"].split("by")[1].split(";")[0], answer
    stray = daemon.status("frames_stray")
    assert 0 < stray <= mapped, f"{stray} frames, {mapped} pages map some: {answer}"
    assert f"{stray} frames are mapped still" in answer["error"], answer
    wait_for("no warning", lambda: "frames are mapped still" in daemon.log())  # once a minute


def end(program):
    program.say()
    program.must_finish(0)


@pytest.mark.parametrize("clients", [1, 2], ids=["the-only-one", "of-two"])
def test_t2_a_dead_agents_sites(daemon, compiled, clients):
    """Its program is the only one of its domain, or not: EBUSY, as often as it is asked; what can be is un-merged."""
    programs = merged(daemon, compiled, 2)
    victim = programs[0]
    if clients == 1:
        daemon.set(run=0)
        end(programs.pop())
    kill_agent(daemon, victim)
    for _ in range(2):
        must_be_busy(daemon, run_2(daemon), victim)
        assert daemon.get("run") == "2"
    for program in programs[1:]:
        assert daemon.merged_pages(program, program.area) == 0
    status = daemon.status()
    assert (status["pages_shared"], status["pages_sharing"]) == (0, 0), status
    for program in programs:
        end(program)
    assert run_2(daemon)["ok"]
    assert daemon.status("frames_stray") == 0


def test_t2_of_one_domain(daemon, compiled):
    """Whoever waits for his domain is told, too; `off` is EBUSY and off."""
    programs = merged(daemon, compiled, 2)
    domain = daemon.ps(programs[0].pid)["domain"]
    kill_agent(daemon, programs[0])
    must_be_busy(daemon, run_2(daemon, domain=domain), programs[0])
    off = daemon.cli("off", check=False)
    assert off.returncode == 1 and "frames are mapped still" in off.stderr, off
    assert daemon.get("run") == "0"
    for program in programs:
        end(program)


def rewrites(daemon, compiled, uid=None):
    programs = [daemon.run(compiled("rewrites"), PAGES, uid=uid) for _ in range(2)]
    for program in programs:
        program.area = program.region()
        daemon.wait_merged(program, program.area, share=1.0)
    return programs


def tell(program, what):
    program.say(what)
    assert program.line() == "done 0", f"{what}: {program.stderr()}"


def test_t2_what_was_written_is_no_frame(daemon, compiled):
    """A program without an agent has frames' mappings in which all pages are its own: all is un-merged."""
    programs = rewrites(daemon, compiled)
    kill_agent(daemon, programs[0])
    must_be_busy(daemon, run_2(daemon), programs[0])
    tell(programs[0], f"own 2 1 {PAGES - 1}")
    answer = run_2(daemon)
    must_be_busy(daemon, answer, programs[0])
    assert answer["error"].startswith("not everything is un-merged: 1 frames"), answer
    tell(programs[0], "own 2 0 1")
    assert run_2(daemon)["ok"]
    assert daemon.status("frames_stray") == 0
    start, size = programs[0].area
    with open(f"/proc/{programs[0].pid}/maps", encoding="ascii", errors="replace") as maps:
        files = [line.split()[4] for line in maps if start <= int(line.split("-")[0], 16) < start + size]
    assert any(inode != "0" for inode in files), files
    for program in programs:
        program.popen.terminate()


def test_t2_two_programs(daemon, compiled):
    """Both are told of, and a frame that both map is counted once."""
    programs = rewrites(daemon, compiled)
    for program in programs:
        kill_agent(daemon, program)
    answer = run_2(daemon)
    assert answer.get("errno") == "EBUSY" and "and 1 more processes" in answer["error"], answer
    assert daemon.status("frames_stray") == PAGES
    for program in programs:
        program.popen.terminate()


@pytest.mark.parametrize("evicted", [False, True], ids=["in-memory", "out-of-memory"])
def test_s11_a_dead_agents_frames_of_the_store(store_daemon, compiled, evicted):  # noqa: F811
    """Frames of the store, in memory or out of it: told of, and the program that has no agent reads its bytes."""
    daemon = store_daemon()
    programs = merged(daemon, compiled, 2)
    if evicted:
        ask(daemon, "reclaim", bytes=1 << 40)
        wait_for(lambda: f"{daemon.status()}", lambda: daemon.status("frames_evicted") > 0)
    kill_agent(daemon, programs[0])
    must_be_busy(daemon, run_2(daemon), programs[0])
    assert daemon.merged_pages(programs[1], programs[1].area) == 0
    for program in programs:
        end(program)
    assert daemon.status("store_errors") == 0
    assert run_2(daemon)["ok"]


def map_then_be_silent():
    """For UNMERGE: all is given back, but one frame is mapped still, and no other question is answered."""
    told = []

    def unmerge(agent, seq, body):
        if told:
            return None
        segment, index = next(iter(agent.sites.values()))
        told.append(mmap.mmap(agent.segments[segment], mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ,
                              offset=index * mmap.PAGESIZE))
        assert told[0][0] == 7
        kind, out = agent._unmerge(body)
        return fake_agent.packet(kind, out, seq)

    return unmerge


def test_t2_who_is_silent_when_it_is_looked_again(daemon):
    """A client that maps a frame, and may yet give it back, is asked once more, for some seconds. If it does not
    answer then, that is the answer."""
    pages = {0x10000000: bytes([7]) * mmap.PAGESIZE}
    children = [fake_agent.Child(daemon.socket, pages=pages, lie=lie)
                for lie in ({fake_agent.UNMERGE: map_then_be_silent()}, {})]
    try:
        daemon.wait_sharing(0)
        answer = run_2(daemon)
        assert answer.get("errno") == "EAGAIN", answer
    finally:
        for child in children:
            child.kill()


def slowly(lie=None):
    """For UNMERGE: as lie says, or honestly, but not within a slice of the daemon's."""
    def unmerge(agent, seq, body):
        time.sleep(0.05)
        answer = lie and lie(agent, seq, body)
        return answer or fake_agent.packet(*agent._unmerge(body), seq)

    return unmerge


def test_t2_to_unmerge_again_takes_long(daemon):
    """As above, but all answer: to un-merge once more takes many slices, comes to its end all the same, and then the
    frame that is mapped still is told of."""
    pages = {0x10000000: bytes([7]) * mmap.PAGESIZE}
    children = [fake_agent.Child(daemon.socket, pages=pages, lie={fake_agent.UNMERGE: slowly(lie)})
                for lie in [map_then_be_silent()] + [None] * 5]
    try:
        daemon.wait_sharing(0)
        answer = run_2(daemon)
        assert answer.get("errno") == "EBUSY" and "1 frames are mapped still" in answer["error"], answer
    finally:
        for child in children:
            child.kill()
