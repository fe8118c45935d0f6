# SPDX-License-Identifier: Apache-2.0
"""X: a program that locks all its future memory is left alone, and its locks are in force."""

from lib.place import wait_for

LOCKER = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.mlockall(2):
    sys.exit(77)
memory = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:] = b"samepage" * (2 << 20)
print("ready", flush=True)
sys.stdin.readline()
locked = [line for line in open("/proc/self/status") if line.startswith("VmLck")]
sys.exit(0 if memory[:] == b"samepage" * (2 << 20) and int(locked[0].split()[1]) >= 16 << 10 else 1)
"""


def test_x_mlockall_future(daemon, compiled):
    lockers = [daemon.run("/usr/bin/python3", "-c", LOCKER) for _ in range(2)]
    for locker in lockers:
        assert locker.line() == "ready"
    others = [daemon.checker(compiled, mib=16) for _ in range(2)]
    daemon.wait_sharing(1000)
    scans = daemon.status("full_scans")
    wait_for("no passes", lambda: daemon.status("full_scans") > scans + 3)
    # What python had before it locked everything may have been merged: a handful of pages.
    assert max(daemon.ps(locker.pid)["sites"] for locker in lockers) < 64
    for locker in lockers:
        locker.say()
        locker.must_finish(0)
    assert all(other.alive() for other in others)


def test_x_mlockall_future_before_samepage_begins(daemon, compiled):
    """By the first code of the program itself, which runs before any library's: the program is left alone and
    told why, and nothing but what it mapped is locked."""
    program = daemon.run(compiled("locks_first"))
    assert program.line() == "ok"
    program.must_finish(0)
    assert "mlockall(MCL_FUTURE)" in program.stderr()


def test_x_mlockall_future_is_not_the_childs(daemon, compiled):
    """A forked child does not have it: its memory is merged."""
    child = daemon.run(compiled("locks_first"), "child")
    pid, area = int(child.line()), child.region()
    partner = daemon.run(compiled("locks_first"), "child")
    partner.line(), partner.region()
    daemon.wait_merged(child, area, pid=pid)
    for program in (child, partner):
        program.say()
        assert program.line() == "ok"
        program.must_finish(0)
