# SPDX-License-Identifier: Apache-2.0
"""samepage explain names the reason why pages are not merged, and its counts add up."""

import json
import os
import re
import signal
import struct

import pytest

from lib import fake_agent
from lib.place import wait_for

PAGES = 2048
PART = PAGES // 4
NOBODY = 65534
EXPLAIN = 13  # SP_MSG_EXPLAIN


def explain(daemon, program):
    """The answer about a program; what it counts must add up to what is tracked."""
    answer = daemon.explain(program.pid)
    pages = dict(answer["pages"])
    assert pages.pop("tracked") == sum(pages.values()), answer
    return answer


def start(daemon, compiled, what, other=None, all=True):
    """Two programs with equal memory, but for what keeps part of the first from being merged; they are
    looked at only when they are as they are to be."""
    daemon.set(run=0)
    programs = [daemon.run(compiled("reasons"), PAGES, kind, all=all) for kind in (what, other or what)]
    for program in programs:
        if program.popen.poll() == 77:
            pytest.skip(program.stderr())
        program.area = program.region()
    daemon.set(run=1)
    return programs


def wait_counted(daemon, program, reason, least, most=None, where="pages"):
    """Waits until the reason counts as many; returns the answer then."""
    return wait_explained(daemon, program, lambda answer: least <= answer[where][reason] <=
                          (most or 10 * least + PAGES), f"{least} {reason}")


def wait_explained(daemon, program, right, what):
    """Waits for an answer about the program of which right(answer) is true; returns it."""
    def found():
        answer = explain(daemon, program)
        return right(answer) and answer

    return wait_for(lambda: f"not {what}: {explain(daemon, program)}", found)


def told(daemon, program):
    """What `samepage explain` tells a person."""
    return daemon.cli("explain", program.pid).stdout


def wait_told(daemon, program, text):
    """Its agent may be busy just now."""
    wait_for(lambda: f"not told: {text}: {told(daemon, program)}", lambda: text in told(daemon, program))


def finish(*programs):
    for program in programs:
        program.popen.stdin.close()
    for program in programs:
        assert program.line() == "ok"
        program.must_finish(0)


def test_k6_pinned_buffer(daemon, compiled):
    """A registered buffer of io_uring: pinned for as long as the ring is there."""
    pinned, other = start(daemon, compiled, "uring", "equal")
    daemon.wait_merged(pinned, (pinned.area[0] + PART * 4096, pinned.area[1] - PART * 4096))
    wait_explained(daemon, pinned, lambda answer: PART * 0.9 <= answer["pages"]["pinned"] <= PART + 64 and
                   answer["pages"]["merged"] >= 0.9 * (PAGES - PART), "a part pinned, the rest merged")
    assert daemon.merged_pages(pinned, (pinned.area[0], PART * 4096)) == 0
    wait_told(daemon, pinned, "pinned: device or kernel I/O")
    # Of the other program the like of these pages cannot be merged.
    wait_explained(daemon, other, lambda answer: answer["pages"]["partner_refused"] >= PART * 0.9 and
                   answer["pages"]["pinned"] < 64, "a part whose partner was refused")
    finish(pinned, other)


def test_k3_volatile_pages(daemon, compiled):
    daemon.set(sleep_millisecs=50)  # it writes between any two looks
    written, other = start(daemon, compiled, "written", "equal")
    daemon.wait_merged(written, (written.area[0] + PART * 4096, written.area[1] - PART * 4096))
    wait_explained(daemon, written, lambda answer: answer["pages"]["volatile"] >= PART * 0.5 and
                   answer["pages"]["no_partner"] + answer["pages"]["pinned"] < PART / 4, "a part volatile")
    wait_told(daemon, written, "volatile: changed within the last passes")
    finish(written, other)


def test_k5_pages_without_a_partner(daemon, compiled):
    programs = start(daemon, compiled, "alone")
    daemon.wait()
    for program in programs:
        answer = wait_explained(
            daemon, program, lambda answer: answer["pages"]["no_partner"] >= PART * 0.95 and
            answer["pages"]["merged"] >= 0.9 * (PAGES - PART) and
            answer["pages"]["partner_refused"] < 64 and answer["state"] == "merging", "a part alone")
        assert answer["because"] == []
    wait_told(daemon, programs[0], "no partner")
    finish(*programs)


def test_exhausted_budget(daemon, compiled):
    """Every second page can be merged, each in a mapping of its own, and there are 100."""
    daemon.set(max_mappings=100)
    programs = start(daemon, compiled, "scattered")
    daemon.wait_sharing(20)
    daemon.wait()

    def of_budget(program):
        pages = explain(daemon, program)["pages"]
        return pages["mappings"] + pages["short_run"] + pages["partner_refused"]

    for program in programs:
        wait_for(lambda: f"{explain(daemon, program)}",
                 lambda: of_budget(program) >= (PAGES / 2 - 100) * 0.9)
    # In one of the two it is the program's own budget that made it so.
    def own(program):
        pages = explain(daemon, program)["pages"]
        return pages["mappings"] + pages["short_run"]

    wait_for(lambda: f"{[explain(daemon, p) for p in programs]}",
             lambda: max(map(own, programs)) >= PAGES / 4)
    wait_counted(daemon, programs[0], "no_partner", PAGES / 2 * 0.9)
    wait_for("no budget is named", lambda: any("budget:" in told(daemon, p) for p in programs))
    finish(*programs)


def test_k10_limit(daemon, compiled):
    daemon.set(max_kernel_pages=100)
    programs = start(daemon, compiled, "equal")
    daemon.wait_sharing(90)
    daemon.wait()
    wait_for(lambda: f"{[explain(daemon, p) for p in programs]}",
             lambda: sum(explain(daemon, p)["pages"]["limit"] for p in programs) >= PAGES * 0.9 - 100)
    for program in programs:
        wait_explained(daemon, program, lambda answer: answer["because"] == ["limit_reached"],
                       "at the limit")
    wait_told(daemon, programs[0], "raise max_kernel_pages")
    finish(*programs)


def test_k11_written_pages_are_kept_private(daemon, compiled):
    programs = start(daemon, compiled, "kept")
    daemon.wait_merged(programs[0], programs[0].area)
    programs[0].say()
    programs[0].region("again")
    wait_counted(daemon, programs[0], "kept_private", PART * 0.9, PART + 64)
    finish(*programs)


def policies(pid, area):
    """How many pages of the area have a policy of their own, as the kernel tells it."""
    bound = 0
    starts = [tuple(int(x, 16) for x in line.split()[0].split("-"))
              for line in open(f"/proc/{pid}/maps", encoding="ascii", errors="replace")]
    ends = dict(starts)
    for line in open(f"/proc/{pid}/numa_maps", encoding="ascii", errors="replace"):
        start, policy = line.split()[:2]
        end = ends.get(int(start, 16), 0)
        if policy.startswith("bind") and area[0] <= int(start, 16) and end <= area[0] + area[1]:
            bound += (end - int(start, 16)) // 4096
    return bound


def test_k17_bound_by_mbind(daemon, compiled):
    """Bound before samepage looked at it, or after it was merged: the policy stays, and the range
    is never merged (again)."""
    if not os.path.exists("/proc/self/numa_maps"):
        pytest.skip("a kernel without NUMA")
    programs = start(daemon, compiled, "bound")
    for program in programs:
        address = program.area[0]
        program.bound = (address, PART * 4096)
        program.later = (address + PART * 4096, PART * 4096)
        daemon.wait_merged(program, program.later)
        assert daemon.merged_pages(program, program.bound) == 0
        assert explain(daemon, program)["left_alone"]["bound_to_nodes"] == PART * 4096
    for program in programs:
        program.say()
        program.region("again")
        # At once: the call itself un-merges.
        assert daemon.merged_pages(program, program.later) == 0
    for program in programs:
        answer = wait_counted(daemon, program, "bound_to_nodes", 2 * PART * 4096, where="left_alone")
        assert answer["left_alone"]["bound_to_nodes"] == 2 * PART * 4096
    scans = daemon.status("full_scans")
    wait_for("no passes", lambda: daemon.status("full_scans") > scans + 4)
    for program in programs:
        assert policies(program.pid, (program.area[0], 2 * PART * 4096)) == 2 * PART
        assert daemon.merged_pages(program, (program.area[0], 2 * PART * 4096)) == 0
        wait_told(daemon, program, "bound to nodes")
    finish(*programs)


ATTRIBUTES = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
MIB = 1 << 20
for advice in (10, 16, 18):  # DONTFORK, DONTDUMP, WIPEONFORK
    # Reserved memory around each keeps them apart.
    at = libc.mmap(None, 3 * MIB, 0, 0x22, -1, 0)
    at = libc.mmap(at + MIB, MIB, 3, 0x32, -1, 0)
    assert libc.madvise(at, MIB, advice) == 0
    ctypes.memset(at, 1, MIB)
def new():
    at = libc.mmap(None, 3 * MIB, 0, 0x22, -1, 0)
    return libc.mmap(at + MIB, MIB, 3, 0x32, -1, 0)
libc.syscall.argtypes = [ctypes.c_long, ctypes.c_void_p] + [ctypes.c_long] * 3
names = []
if libc.mlock(new(), MIB) == 0:
    names.append("locked")
if libc.syscall(462, new(), MIB, 0, 0) == 0:  # mseal
    names.append("sealed")
key = libc.pkey_alloc(0, 0)
if key > 0 and libc.syscall(329, new(), MIB, 3, key) == 0:  # pkey_mprotect
    names.append("protection_key")
print("ready", *names, flush=True)
sys.stdin.readline()
"""


def test_k17_attributes_by_name(daemon):
    program = daemon.run("/usr/bin/python3", "-c", ATTRIBUTES)
    for name in ("dontdump", "wipeonfork", *program.line().split()[1:]):
        wait_counted(daemon, program, name, 1 << 20, where="left_alone")
    left = explain(daemon, program)["left_alone"]
    assert left["file"] > 0 and left["stack"] > 0 and left["not_advised"] == 0
    wait_told(daemon, program, "MADV_WIPEONFORK")


def test_terabytes_that_are_only_reserved(daemon):
    program = daemon.run("/usr/bin/python3", "-c", """
import mmap, sys
memory = mmap.mmap(-1, 8 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
memory[5 << 40] = 1
print("ready", flush=True)
sys.stdin.readline()
""")
    assert program.line() == "ready"
    answer = wait_counted(daemon, program, "absent", (8 << 40) // 4096 - 1, 1 << 40)
    assert answer["pages"]["tracked"] > 8 << 28


def explained(next_=0, page=0, left=0, flags=0):
    return struct.pack("<Q8Q23QII", next_, *[page] * 8, *[left] * 23, flags, 0)


@pytest.mark.parametrize("body", [
    b"", b"x", explained()[:-8], explained() + b"\0" * 8, explained(next_=1), explained(page=1 << 40),
    explained(left=1 << 60), explained(flags=1 << 31)])
def test_agent_that_lies(daemon, body):
    """X, Trust: what an agent may not answer cuts its connection, and nothing else."""
    lie = fake_agent.Child(daemon.socket, lie={EXPLAIN: lambda _, seq, __: fake_agent.packet(
        EXPLAIN, body, seq)})
    wait_for("the agent is not there", lambda: daemon.ps(lie.pid))
    done = daemon.cli("explain", "--json", lie.pid, check=False)
    assert done.returncode == 1 or "pages" not in json.loads(done.stdout), done.stdout
    wait_for("it is not cut", lambda: not daemon.ps(lie.pid))
    lie.kill()
    assert daemon.status("daemon_pid") == daemon.pid


def test_agent_that_never_comes_to_an_end(daemon):
    def more(_, seq, body):
        return fake_agent.packet(EXPLAIN, explained(struct.unpack("<Q", body)[0] + 4096), seq)

    lie = fake_agent.Child(daemon.socket, lie={EXPLAIN: more})
    wait_for("the agent is not there", lambda: daemon.ps(lie.pid))
    answer = json.loads(daemon.cli("explain", "--json", lie.pid).stdout)
    assert "pages" not in answer
    lie.kill()


def test_memory_that_was_not_advised(daemon, compiled):
    programs = start(daemon, compiled, "equal", all=False)
    answer = wait_counted(daemon, programs[0], "not_advised", PAGES * 4096, where="left_alone")
    assert answer["pages"]["tracked"] == 0 and answer["all"] is False
    wait_told(daemon, programs[0], "samepage run --all")
    finish(*programs)


def test_unmerged_on_request_and_stopped(daemon, compiled):
    programs = start(daemon, compiled, "equal")
    daemon.wait_merged(programs[0], programs[0].area)
    daemon.cli("unmerge", programs[0].pid)
    answer = explain(daemon, programs[0])
    assert "unmerged_on_request" in answer["because"] and answer["pages"]["merged"] == 0, answer
    daemon.set(run=0)
    assert "stopped" in explain(daemon, programs[1])["because"]
    finish(*programs)


def test_agent_that_was_killed(daemon, compiled):
    programs = start(daemon, compiled, "equal")
    daemon.wait_merged(programs[0], programs[0].area)
    for agent in programs[0].agents():
        os.kill(agent, signal.SIGKILL)


    def told():
        done = daemon.cli("explain", programs[0].pid, check=False)
        return done.returncode == 1 and "its agent could not start, or has ended" in done.stderr

    wait_for("the end of the agent is not told", told)
    assert explain(daemon, programs[1])["pages"]["merged"] > 0
    finish(*programs)


@pytest.mark.parametrize("args,status", [
    ((), 2), (("x",), 2), (("0",), 2), (("-1",), 2), (("1", "2"), 2), (("99999999999999999999",), 2),
    (("--nosuch", "1"), 2), (("4194304",), 1), (("--json", "4194304"), 1)])
def test_wrong_use(daemon, args, status):
    done = daemon.cli("explain", *args, check=False)
    assert done.returncode == status and done.stdout == ""
    assert re.fullmatch(r"samepage: .*\n", done.stderr), done.stderr


def test_processes_that_are_not_under_samepage(daemon, compiled):
    """Exit status 1 and one line that says why; nobody is told about other users' processes."""
    done = daemon.cli("explain", os.getpid(), check=False)
    assert done.returncode == 1 and "start it with \"samepage run\"" in done.stderr, done.stderr
    programs = start(daemon, compiled, "equal")
    done = daemon.cli("explain", programs[0].pid, check=False, uid=NOBODY)
    assert done.returncode == 1 and "another user's" in done.stderr, done.stderr
    assert done.stdout == ""
    secret = daemon.run("/usr/bin/python3", "-c", """
import ctypes, os, sys
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
print("ready", flush=True)
sys.stdin.readline()
""")
    assert secret.line() == "ready"
    wait_for("its agent stays", lambda: not secret.agents())

    def refused():
        done = daemon.cli("explain", secret.pid, check=False)
        return done.returncode == 1 and "not merged" in done.stderr

    wait_for("it is not refused", refused)
    finish(*programs)
