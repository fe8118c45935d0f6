# SPDX-License-Identifier: Apache-2.0
"""X: mremap moves and grows memory that is merged, or was and is not any more, as it does memory that
never was: un-merging leaves many mappings, which the kernel's own mremap refuses."""

import os
import signal

import pytest

from lib.place import wait_for

SOURCE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                      ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int,
                        ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
pages, kind = 2048, sys.argv[1]
size = pages * 4096
room = libc.mmap(None, 4 * size, 0, 0x4022, -1, 0)
at = libc.mmap(room, size, 3, 0x32, -1, 0)
for i in range(pages):
    # Every ninth page is this program's own, so that merging makes many mappings.
    own = int(sys.argv[2]) * 100003 if i % 9 == 0 else 0
    ctypes.memmove(at + i * 4096, (i + own).to_bytes(8, "little"), 8)
want = ctypes.string_at(at, size)
print("ready", hex(at), size, flush=True)
sys.stdin.readline()
if kind == "in place":
    libc.munmap(room + size, 3 * size)
if kind == "fixed":
    to = libc.mremap(at, size, size, 3, room + 2 * size)
    ok = to == room + 2 * size and ctypes.string_at(to, size) == want
elif kind == "shrink":
    to = libc.mremap(at, size, size // 2, 0, None)
    ok = to == at and ctypes.string_at(to, size // 2) == want[:size // 2]
else:
    to = libc.mremap(at, size, 2 * size, 0 if kind == "in place" else 1, None)
    ok = (to == at) == (kind == "in place") and ctypes.string_at(to, 2 * size) == want + bytes(size)
print("right" if ok else "wrong", to if to is None else hex(to), ctypes.get_errno(), flush=True)
"""


@pytest.mark.parametrize("kind", ["move", "in place", "fixed", "shrink"])
@pytest.mark.parametrize("unmerged", [False, True], ids=["merged", "unmerged"])
def test_x_mremap(daemon, kind, unmerged):
    programs = [daemon.run("/usr/bin/python3", "-c", SOURCE, kind, i) for i in (1, 2)]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area, 0.8)
    if unmerged:
        daemon.set(run=2)
    for program in programs:
        program.say()
        said = program.line()
        assert said.split()[0] == "right", (said, program.stderr())


@pytest.mark.parametrize("kind", ["move", "in place", "fixed", "shrink"])
def test_x_mremap_without_agent(daemon, kind):
    """D3: some of the mappings are tracked still, by what the keeper holds of an agent that was killed, like
    its daemon: nobody can end that."""
    programs = [daemon.run("/usr/bin/python3", "-c", SOURCE, kind, i) for i in (1, 2)]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area, 0.8)
    daemon.kill_with_agents(programs[0])
    for program in programs:
        program.say()
        said = program.line()
        assert said.split()[0] == "right", (said, program.stderr())


SHARED = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
size = 64 * 4096
own = libc.mmap(None, size, 3, 0x22, -1, 0)
ctypes.memset(own, 7, size)
file = os.memfd_create("shared")
os.ftruncate(file, 2 * size)
at = libc.mmap(None, size, 3, 1, file, 0)
room = libc.mmap(None, 2 * size, 0, 0x4022, -1, 0)
print("ready", hex(own), size, flush=True)
sys.stdin.readline()
to = libc.mremap(at, size, 2 * size, 3, room)
ctypes.memset(room + size, 9, size)
print(to == room and os.pread(file, size, size) == bytes([9]) * size, flush=True)
"""


@pytest.mark.parametrize("agent", [True, False], ids=["agent", "no-agent"])
def test_x_mremap_of_a_file_that_is_shared(daemon, agent):
    """What is one mapping is the kernel's to move, whatever it is: also where nobody can say what it is."""
    programs = [daemon.run("/usr/bin/python3", "-c", SHARED) for _ in range(2)]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area, 0.8)
    if not agent:
        daemon.kill_with_agents(programs[0])
    programs[0].say()
    assert programs[0].line() == "True"


def signal_holders(daemon, number):
    """The daemon and its keeper: both hold userfaultfds."""
    for pid in [daemon.pid, *[p.pid for p in daemon.left(keeper=True) if b"--keeper" in p.cmdline.split(b"\0")]]:
        os.kill(pid, number)


def test_x_mremap_under_a_filter(daemon, compiled):
    """The agent of a program that filters itself is gone, and the gate can do nothing that the program does
    not ask for: the kernel moves all of the memory, or none. Also before the daemon has seen the end of the
    agent, whose userfaultfd it holds."""
    programs = [daemon.run(compiled("move_filtered"), own) for own in (1, 2)]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area, 0.8)
    signal_holders(daemon, signal.SIGSTOP)
    try:
        for program in programs:
            program.say()
            assert program.line() == "filtered"
        for program in programs:
            wait_for("its agent stays", lambda one=program: not one.agents())
            program.say()
            assert program.line() in ("moved", "stayed"), program.stderr()
            program.must_finish(0)
    finally:
        signal_holders(daemon, signal.SIGCONT)


@pytest.mark.parametrize("kind", ["fixed", "dontunmap", "grow"])
@pytest.mark.parametrize("state", ["merged", "unmerged", "forked"])
def test_x_mremap_while_signals_come(daemon, compiled, kind, state):
    """One mremap of memory that is many mappings by our doing is all or nothing, whatever comes meanwhile: Linux 6.18
    would begin a call for many mappings anew after a signal, and move what it moved once more."""
    programs = [daemon.run(compiled("mremap_signals"), own) for own in (1, 2)]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area, 0.6)
    if state == "forked":
        for program in programs:
            program.say("fork")
            program.line()
    if state != "merged":
        daemon.set(run=2)
    for program in programs:
        program.say(f"{kind} 20")
        try:
            assert program.line().startswith(f"done {kind}"), program.stderr()
        except AssertionError:
            raise AssertionError(program.stderr()) from None


@pytest.mark.parametrize("kind", ["fixed", "both"])
def test_x_mremap_of_many_while_signals_come(daemon, compiled, kind):
    """What is many mappings without us, too, which Linux moves since 6.17."""
    programs = [daemon.run(compiled("mremap_signals"), own) for own in (1, 2)]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area, 0.6)
    for program in programs:
        program.say("mix")
        if program.line() == "skip":
            pytest.skip("this kernel moves one mapping at a time")
        program.say(f"{kind} 20")
        assert program.line().startswith(f"done {kind}"), program.stderr()


@pytest.mark.parametrize("kind", ["fixed", "dontunmap"])
@pytest.mark.parametrize("agent", [True, False], ids=["agent", "no-agent"])
def test_x_mremap_where_mappings_are_short(daemon, compiled, kind, agent):
    """All or nothing also where there may be no more mappings when it has moved some. An agent gives back what merging
    took: then it is done."""
    programs = [daemon.run(compiled("mremap_signals"), own) for own in (1, 2)]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area, 0.6)
    if not agent:
        daemon.kill_with_agents(programs[0])
    told = []
    for left in (2000, 200, 40, 20, 10, 6, 4, 2, 0):
        programs[0].say(f"short {kind} {left}")
        told.append(programs[0].line().split()[0])
    assert set(told[:4] if agent else told[:1]) == {"done"} and (agent or "refused" in told), told
