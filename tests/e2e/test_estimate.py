# SPDX-License-Identifier: Apache-2.0
"""`samepage estimate` changes nothing and says beforehand what merging then saves, within 10 %; it
counts what is merged already, and refuses what it cannot look at."""

import json
import os
import signal
import subprocess

import pytest

from lib import place, proc
from lib.place import wait_for

PROGRAMS = 4
NOBODY = 65534
# 24 MB the same in each, in runs of 64 and of 2 pages; 4 MB of zeros that were written; 8 MB of its
# own. Each "go" on stdin: changes every page of the first MB once, and says so.
DATA = """
import os, random, sys
same, own = random.Random(1), random.Random(os.getpid())
area = bytearray()
for i in range(64):
    area += same.randbytes(64 * 4096)
for i in range(1024):
    area += same.randbytes(2 * 4096) + own.randbytes(2 * 4096)
area += bytes(4 << 20)
print("ready", flush=True)
for line in sys.stdin:
    for i in range(0, 1 << 20, 4096):
        area[i] = (area[i] + 1) & 255
    print("changed", flush=True)
"""


@pytest.fixture
def programs(daemon, make_programs):
    """Four programs under samepage, with nothing merged yet."""
    daemon.set(run=0)
    return make_programs(daemon.run)


@pytest.fixture
def make_programs():
    def make(run, **how):
        started = [run("/usr/bin/python3", "-c", DATA, **how) for _ in range(PROGRAMS)]
        for program in started:
            assert program.line() == "ready"
        return started

    return make


def estimate(daemon, *args, **how):
    return json.loads(daemon.cli("estimate", "--json", *args, **how).stdout)


def pids(programs):
    return [program.pid for program in programs]


def test_is_what_is_then_saved(cgroup, make_daemon, make_programs):
    place.need_kernel_6_8()
    place.need_userfaultfd()
    daemon = make_daemon(cgroup=cgroup).start()
    daemon.set_full_speed()
    daemon.set(run=0)
    programs = make_programs(daemon.run)
    before = cgroup.used()
    said = estimate(daemon, *pids(programs))
    assert abs(cgroup.used() - before) < 1 << 20, "estimate changed the programs' memory"
    daemon.set(run=1)
    daemon.wait()
    status, saved = daemon.status(), before - cgroup.used()
    print(said, status, saved)
    assert said["pages_sharing"] == pytest.approx(status["pages_sharing"], rel=0.1)
    assert said["pages_shared"] == pytest.approx(status["pages_shared"], rel=0.1)
    assert said["mappings"] == pytest.approx(status["mappings"], rel=0.2)
    assert said["bytes_saved"] + said["own_bytes"] == \
        pytest.approx(status["pages_sharing"] * 4096, rel=0.1)
    # The agents run before and after; the daemon's part of what samepage needs comes in between.
    assert said["bytes_saved"] == pytest.approx(saved, rel=0.1)
    assert said["zero_pages"] >= PROGRAMS * 1000
    assert said["complete"] and sum(p["pages_sharing"] for p in said["processes"]) == \
        pytest.approx(said["pages_sharing"], abs=PROGRAMS)


def test_after_merging_it_says_the_same(daemon, programs):
    before = estimate(daemon, *pids(programs))
    daemon.set(run=1)
    daemon.wait()
    after = estimate(daemon, *pids(programs))
    assert before["merged_pages"] == 0
    assert after["merged_pages"] > 0.9 * before["pages_sharing"]
    assert after["pages_sharing"] == pytest.approx(before["pages_sharing"], rel=0.1)


def test_without_a_daemon(make_daemon, make_programs):
    daemon = make_daemon()
    said = estimate(daemon, *pids(make_programs(daemon.plain)))
    assert said["pages_sharing"] > 3 * 5500
    assert len(said["processes"]) == PROGRAMS


FORKS = """
import os, random, sys
area = bytearray(random.Random(1).randbytes(32 << 20))
for _ in range(2):
    if os.fork() == 0:
        break
else:
    print("ready", flush=True)
sys.stdin.readline()
"""


def test_what_fork_shares_stays_shared(cgroup, make_daemon):
    """Reading gives nobody a page of his own, and what fork shares is no saving (K8)."""
    daemon = make_daemon(cgroup=cgroup)
    program = daemon.plain("/usr/bin/python3", "-c", FORKS)
    assert program.line() == "ready"
    wait_for("no children", lambda: len(program.processes()) == 3)
    before = cgroup.used()
    said = estimate(daemon, *[p.pid for p in program.processes()])
    assert abs(cgroup.used() - before) < 4 << 20
    assert said["pages"] > 3 * 8192
    assert said["bytes_saved"] < 4 << 20


def start_settling(daemon, seconds, programs):
    """An estimate that took its first look and waits for the second."""
    process = subprocess.Popen(
        [daemon.build / "samepage", "estimate", "--json", "--settle", str(seconds),
         *map(str, pids(programs))], stdout=subprocess.PIPE, env={**os.environ, **daemon.env})
    wait_for("it does not wait", lambda: process.poll() is not None or _sleeps(process.pid))
    return process


def between_looks(daemon, programs, seconds):
    """What is said when every program changed its pages between the two looks; None: that took them so long
    that the second one may have come before."""
    process = start_settling(daemon, seconds, programs)
    for program in programs:
        program.say()
    for program in programs:
        assert program.line() == "changed"
    in_time = _sleeps(process.pid)
    out = process.communicate(timeout=place.patient(seconds + 60))[0]
    assert process.returncode == 0
    return json.loads(out) if in_time else None


def test_settle_leaves_out_what_changes(make_daemon, make_programs):
    daemon = make_daemon()
    programs = make_programs(daemon.plain)
    tries = (between_looks(daemon, programs, seconds) for seconds in (1, 1, 4, 16, 64))
    said = next(said for said in tries if said)
    assert said["volatile_pages"] >= PROGRAMS * 256
    assert said["pages_sharing"] > 3 * 5000


def test_advised_only(make_daemon, make_programs):
    daemon = make_daemon()
    said = estimate(daemon, "--advised", *pids(make_programs(daemon.plain)))
    assert said["pages"] == said["pages_sharing"] == 0


def test_users_are_kept_apart(make_daemon, make_programs):
    place.need_root()
    daemon = make_daemon()
    mine = make_programs(daemon.plain)[:1]
    theirs = make_programs(daemon.plain, uid=NOBODY)[:1]
    wait_for("no other user", lambda: os.stat(f"/proc/{theirs[0].pid}").st_uid == NOBODY)
    said = estimate(daemon, *pids(mine + theirs))
    assert {p["uid"] for p in said["processes"]} == {0, NOBODY}
    assert said["pages_sharing"] < 2200, "only each one's own zeros are equal"


def test_all_that_may_be_read(make_daemon, make_programs):
    """As another user: only that user's programs, the others are counted."""
    place.need_root()
    daemon = make_daemon()
    theirs = make_programs(daemon.plain, uid=NOBODY)
    wait_for("no other user", lambda: os.stat(f"/proc/{theirs[0].pid}").st_uid == NOBODY)
    said = estimate(daemon, uid=NOBODY)
    seen = {p["pid"]: p for p in said["processes"]}
    assert set(pids(theirs)) <= set(seen)
    assert {p["uid"] for p in said["processes"]} == {NOBODY}
    assert said["skipped"]["denied"] > 0
    assert daemon.cli("estimate", uid=NOBODY).stdout.startswith("merging ")


def must_refuse(done, status):
    assert done.returncode == status, (done.args[1:], done.returncode, done.stderr)
    assert done.stdout == "" and done.stderr.startswith("samepage: estimate: "), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("args", [
    ("x",), ("0",), ("-5",), ("1.5",), ("4194305",), ("--settle",), ("--settle", "-1"),
    ("--settle", "x"), ("--settle", "99999999999"), ("--all", "--advised"), ("--nosuch",),
    ("--json=1",), ("",)])
def test_wrong_use(make_daemon, args):
    must_refuse(make_daemon().cli("estimate", *args, check=False), 2)


def test_pid_that_is_not_there(make_daemon):
    must_refuse(make_daemon().cli("estimate", 4194304, check=False), 1)
    must_refuse(make_daemon().cli("estimate", os.getpid(), 4194304, check=False), 1)


def test_pid_of_another_user(make_daemon):
    place.need_root()
    must_refuse(make_daemon().cli("estimate", os.getpid(), check=False, uid=NOBODY), 1)


def test_thread_of_the_kernel(make_daemon):
    kthreadd = proc.look(2)
    if not kthreadd or kthreadd.comm != "kthreadd":
        pytest.skip("no threads of the kernel are seen here")
    must_refuse(make_daemon().cli("estimate", 2, check=False), 1)


def test_static_program(make_daemon, compiled):
    daemon = make_daemon()
    program = daemon.plain(compiled("exit_7", "-static"), 600)
    wait_for("the program does not start", lambda: b"exit_7" in proc.look(program.pid).cmdline)
    must_refuse(daemon.cli("estimate", program.pid, check=False), 1)


def test_interrupted(make_daemon, make_programs):
    """Ctrl-C while it waits for the second look: what was seen so far, and status 130."""
    daemon = make_daemon()
    programs = make_programs(daemon.plain)
    process = start_settling(daemon, 600, programs)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=place.patient(30))[0]
    assert process.returncode == 130
    said = json.loads(out)
    assert not said["complete"] and said["pages_sharing"] > 3 * 5500


def _sleeps(pid):
    """It sleeps between its looks, and nowhere else."""
    try:
        with open(f"/proc/{pid}/wchan", "rb") as f:
            where = f.read()
    except OSError:
        return False
    return b"hrtimer" in where or b"nanosleep" in where
