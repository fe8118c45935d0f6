# SPDX-License-Identifier: Apache-2.0
"""Frames and the machine's own swap (S1 to S11): out by the kernel's choice and by ours, and back, shared."""

import contextlib
import fcntl
import json
import os
import pathlib
import signal

import pytest

from lib import place, proc
from lib.place import wait_for
from lib.swap import swap, used  # noqa: F401

pytestmark = pytest.mark.alone

PAGES = 2048
DAMON = pathlib.Path("/sys/kernel/mm/damon/admin/kdamonds")


@pytest.fixture
def swapping(swap, make_daemon):  # noqa: F811
    """swapping(…): a running daemon without a store, on a machine with swap. The swap outlives it."""
    place.need_kernel_6_8()
    place.need_userfaultfd()
    if place.STORE:
        pytest.skip("with a store frames do not go to the machine's swap")

    def make(**how):
        daemon = make_daemon(**how).start()
        daemon.set_full_speed()
        return daemon

    make.swap = swap
    return make


MARK = "1514041809"  # ms; how the daemon's own use of it is known


@contextlib.contextmanager
def turn():
    """Nobody of samepage's uses DAMON meanwhile."""
    with open(DAMON / "nr_kdamonds", "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_free():
    return (DAMON / "nr_kdamonds").read_text().strip() == "0"


def has_paddr():
    (DAMON / "nr_kdamonds").write_text("1")
    (DAMON / "0/contexts/nr_contexts").write_text("1")
    operations = (DAMON / "0/contexts/0/avail_operations").read_text().split()
    (DAMON / "nr_kdamonds").write_text("0")
    return "paddr" in operations


def is_ours():
    try:
        return (DAMON / "0/contexts/0/schemes/0/quotas/reset_interval_ms").read_text().strip() == MARK
    except OSError:
        return False


@pytest.fixture
def damon():
    """The kernel has what it takes to send frames away, and nobody uses it. The daemon leaves nothing of its own there."""
    if not os.access(DAMON / "nr_kdamonds", os.W_OK):
        pytest.skip("no DAMON (CONFIG_DAMON_SYSFS)")
    with turn():
        if not is_free():
            pytest.skip("somebody uses DAMON")
        if not has_paddr():
            pytest.skip("no DAMON of physical memory (CONFIG_DAMON_PADDR)")
    yield DAMON
    with turn():
        assert not is_ours()


def start(daemon, compiled, n=3, pages=PAGES, what="uses", lock=0):
    """n programs whose pages are all equal, and merged; the daemon does nothing by itself then. lock: so many pages of the
    second one are locked."""
    daemon.set(run=0)
    programs = [daemon.run(compiled(what), pages) for _ in range(n)]
    for program in programs:
        program.area = program.region()
    if lock:
        tell(programs[1], f"lock 0 {lock}")
    daemon.set(run=1)
    for program in programs:
        daemon.wait_merged(program, program.area, share=1.0)
    daemon.set(run=0)
    return programs


def tell(program, what):
    program.say(what)
    assert program.line(120) == "done 0", f"{what}: {program.stderr()}"


def tell_all(programs, what):
    for program in programs:
        tell(program, what)


def kill_agents(program):
    """Of its children, too: nobody speaks for them any more."""
    for pid in program.agents():
        os.kill(pid, signal.SIGKILL)


def reclaim(daemon, much="all", *options):
    return json.loads(daemon.cli("reclaim", "--json", *options, much).stdout)


def resident(programs):
    return [proc.resident_from_files(program.pid, *program.area) for program in programs]


def news(daemon, is_right, what="as it should be"):
    """What went and came is seen within a second or two."""
    wait_for(lambda: f"frames_evicted is not {what}: {daemon.status()}",
             lambda: is_right(daemon.status("frames_evicted")))


def test_s1_s6_s7_out_and_back(cgroup, swapping, damon, compiled):
    """All frames go to swap, from all sites; memory is free; they come back at a touch, shared as before, without a
    pass. What a program wrote stays its own."""
    daemon = swapping(cgroup=cgroup)
    programs = start(daemon, compiled, what="rewrites")
    tell(programs[0], "own 7 10 100")
    before, memory = daemon.status(), cgroup.used()
    out = reclaim(daemon)
    assert out["evicted"] >= before["pages_shared"] - 8, (out, before)
    after = daemon.status()
    assert after["frames_evicted"] == out["evicted"] == after["evictions"]
    assert after["pool_bytes"] <= before["pool_bytes"] - out["bytes"]
    # Of what zram packs the kernel may charge to the cgroup what it takes there.
    wait_for(lambda: f"{memory} bytes before, {cgroup.used()} now, {out}",
             lambda: memory - cgroup.used() > out["bytes"] // 2)  # what is being written to disk stays until then
    assert used() >= out["bytes"] // 1024
    assert resident(programs) == [0, 0, 0]
    tell_all(programs, "check")
    news(daemon, lambda n: n <= before["pages_shared"] - PAGES)
    again = daemon.status()
    assert again["pages_sharing"] == before["pages_sharing"]
    assert again["pages_shared"] == before["pages_shared"]
    assert again["full_scans"] == before["full_scans"]
    assert again["store_errors"] == 0


def lowered(cgroup, limit):
    """The kernel gives up when it took out too little at a time."""
    try:
        cgroup.limit(limit)
        return True
    except OSError:
        return False


@pytest.mark.parametrize("how", ["limit", "locked"])
def test_s1_s4_the_kernel_by_itself(cgroup, swapping, compiled, how):
    """The daemon's cgroup has a limit: frames go to swap, and come back shared. Locked ones stay, whoever
    else maps them."""
    daemon = swapping(cgroup=cgroup)
    # Only the pool is to be in need of memory, not the programs.
    daemon.cgroup = None
    locked = 256 if how == "locked" else 0
    programs = start(daemon, compiled, pages=2 * PAGES, lock=locked)
    shared = daemon.status("pages_shared")
    wait_for("the cgroup's limit cannot be lowered", lambda: lowered(cgroup, cgroup.used() - (PAGES << 12)))
    news(daemon, lambda n: n >= PAGES // 2, "half of what had to go")
    assert resident([programs[1]])[0] >= locked
    tell_all(programs, "check")
    assert daemon.status("pages_shared") == shared
    cgroup.limit(1 << 40)
    tell_all(programs, "check")


@pytest.mark.parametrize("who", ["a program", "a child without an agent"])
def test_s2_used_by_one_of_all(swapping, damon, compiled, who):
    """What one site uses all the time stays, whosever it is; what nobody uses goes."""
    daemon = swapping()
    programs = start(daemon, compiled)
    tell(programs[2], f"{'read' if who == 'a program' else 'child'} 0 512")
    if who != "a program":
        kill_agents(programs[2])
    got = reclaim(daemon)
    assert PAGES - 512 <= got["evicted"] <= daemon.status("pages_shared") - 512, got
    assert daemon.status("second_chances") >= 512
    tell(programs[2], "stop")
    assert reclaim(daemon)["evicted"] >= 512
    tell_all(programs, "check")


@pytest.mark.parametrize("how", ["stopped", "fork"])
def test_s3_from_all_sites_at_once(swapping, damon, compiled, how):
    """Also from a program that is stopped, and from one without an agent."""
    daemon = swapping()
    programs = start(daemon, compiled)
    if how == "stopped":
        programs[1].signal(signal.SIGSTOP)
    else:
        kill_agents(programs[1])
    assert reclaim(daemon)["evicted"] >= PAGES - 8
    assert resident(programs) == [0, 0, 0]
    programs[1].signal(signal.SIGCONT)
    tell_all(programs, "check")


def test_s4_locked_frames_stay(swapping, damon, compiled):
    """Though others map them, too, and nobody uses them; not so when they are unlocked."""
    daemon = swapping()
    programs = start(daemon, compiled, lock=256)
    got = reclaim(daemon)
    assert got["locked"] >= 256 and got["evicted"] >= PAGES - 256 - 8, got
    assert resident([programs[1]])[0] >= 256
    tell(programs[1], "unlock 0 256")
    assert reclaim(daemon)["evicted"] >= 256
    tell_all(programs, "check")


def test_s5_only_the_domain_that_is_named(swapping, damon, compiled):
    daemon = swapping()
    programs = start(daemon, compiled)
    domain = json.loads(daemon.cli("ps", "--json").stdout)["processes"][0]["domain"]
    assert daemon.cli("reclaim", "--domain", "u4294967294", "all", check=False).returncode == 1
    assert daemon.status("frames_evicted") == 0
    assert reclaim(daemon, "1M", "--domain", domain)["evicted"] == 256
    assert PAGES - 256 <= reclaim(daemon, "all", "--domain", domain)["evicted"]
    tell_all(programs, "check")


@pytest.mark.parametrize("swap", ["loop"], indirect=True)
def test_s8_what_cannot_be_read(swapping, damon, compiled):
    """The disk is cut off under the swap area: who touches gets SIGBUS, never wrong bytes, and all get the same; what is not
    out is unharmed. A page that equals a lost frame does not merge into it, and that is counted and logged."""
    daemon = swapping()
    programs = start(daemon, compiled, what="rewrites")
    tell(programs[0], "own 7 10 100")
    out = reclaim(daemon)["evicted"]
    swapping.swap.cut_off()
    lost = []
    for program in programs:
        program.say("lost")
        word, n = program.line(120).split()
        assert word == "done" and "WRONG BYTES" not in program.stderr(), program.stderr()
        lost.append(int(n))
    assert lost[1] == lost[2] and 0 < lost[1] <= out and lost[1] - 100 <= lost[0] < lost[1], (lost, out)
    programs.append(daemon.run(compiled("rewrites"), PAGES))
    programs[-1].area = programs[-1].region()
    daemon.set(run=1)
    wait_for(lambda: f"not counted: {daemon.status()} {daemon.log()}",
             lambda: daemon.status("store_errors") > 0 and "is lost" in daemon.log())
    tell(programs[-1], "check")
    tell(programs[0], "write 1 10 100")


def test_s9_equal_to_what_is_out(swapping, damon, compiled):
    """A page that equals a frame that is out merges into it."""
    daemon = swapping()
    programs = start(daemon, compiled)
    shared = daemon.status("pages_shared")
    reclaim(daemon)
    programs.append(daemon.run(compiled("uses"), PAGES))
    programs[-1].area = programs[-1].region()
    daemon.set(run=1)
    daemon.wait_merged(programs[-1], programs[-1].area, share=1.0)
    daemon.set(run=0)
    assert daemon.status("pages_shared") <= shared + PAGES // 4
    tell_all(programs, "check")


@pytest.mark.parametrize("how", ["kill", "unmerge"])
def test_s10_nothing_is_left(swapping, damon, compiled, how):
    """What frames took of the swap area goes with their last users."""
    daemon = swapping()
    programs, before = start(daemon, compiled), used()
    reclaim(daemon)
    assert used() - before >= PAGES * 4 - 64
    if how == "unmerge":
        # From a slow disk it takes longer than the daemon waits for one answer.
        wait_for("it is not un-merged", lambda: daemon.cli("unmerge", check=False).returncode == 0)
        tell_all(programs, "check")
    for program in programs:
        if how == "kill":
            os.kill(program.pid, signal.SIGKILL)
            program.popen.wait()
        else:
            program.popen.stdin.close()
            program.must_finish(0)
    wait_for(lambda: f"{used()} KiB of swap are in use, {before} before: {daemon.status()}",
             lambda: used() <= before + 64 and daemon.status("segments") == 0)


def test_s11_run_2_while_all_is_out(swapping, damon, compiled):
    daemon = swapping()
    programs = start(daemon, compiled)
    reclaim(daemon)
    daemon.set(run=2)
    status = daemon.status()
    assert status["pages_shared"] == status["pages_sharing"] == status["frames_evicted"] == 0
    assert resident(programs) == [0, 0, 0]
    tell_all(programs, "check")


def test_d1_killed_while_frames_are_out(swapping, damon, compiled):
    """Who touches does not even notice; the next daemon reads all frames, and they are shared as before."""
    daemon = swapping()
    programs = start(daemon, compiled)
    shared = daemon.status("pages_shared")
    reclaim(daemon)
    daemon.kill()
    tell(programs[0], "check")
    daemon.start()
    wait_for(lambda: f"not taken over: {daemon.status()}", lambda: daemon.status("pages_shared") == shared)
    tell_all(programs, "check")
    assert daemon.status("pages_shared") == shared


def test_what_is_wrong_is_said(swapping, damon, compiled):
    """Somebody else uses DAMON: what they have set up there stays as it is."""
    daemon = swapping()
    programs = start(daemon, compiled)
    with turn():
        (damon / "nr_kdamonds").write_text("1")
        (damon / "0/contexts/nr_contexts").write_text("1")
    try:
        done = daemon.cli("reclaim", "all", check=False)
        assert done.returncode == 1 and "somebody else uses DAMON" in done.stderr, done.stderr
        assert (damon / "0/contexts/nr_contexts").read_text().strip() == "1"
    finally:
        (damon / "nr_kdamonds").write_text("0")
    assert daemon.status("frames_evicted") == 0
    assert reclaim(daemon)["evicted"] >= PAGES - 8
    tell_all(programs, "check")
