# SPDX-License-Identifier: Apache-2.0
"""Which frames are in use is asked of all who map them (S2), and of nobody else's (S5)."""

import contextlib
import fcntl
import json
import os
import signal

import pytest

from lib import place, proc
from lib.place import wait_for
from lib.store import store_daemon  # noqa: F401

PAGES = 4096
USED = 256  # by each who uses any
DAMON = "/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds"


def need_looks():
    place.need_root()
    if not os.access(DAMON, os.W_OK):
        pytest.skip("the kernel does not tell which pages are in use: no DAMON")


def start(daemon, compiled, n, *domain):
    programs = [daemon.plain(daemon.build / "samepage", "run", "--all", *domain, "--", compiled("rewrites"), PAGES)
                for _ in range(n)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area, share=1.0)
    return programs


def tell(program, what):
    program.say(what)
    assert program.line(120) == "done 0", f"{what}: {program.stderr()}"


def reclaim(daemon, much="all", *options):
    return json.loads(daemon.cli("reclaim", "--json", *options, much).stdout)


def looked(daemon, times, *domain):
    """So many looks, each of which began after this. Asking for a page has one begin, if its time has come."""
    first = daemon.status("looks")
    wait_for(lambda: f"no look: {daemon.status()} {daemon.log()}",
             lambda: reclaim(daemon, "4K", *domain) and daemon.status("looks") > first + times)


@contextlib.contextmanager
def stopped(pids):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def came_back(daemon):
    """Frames that did, ever."""
    reclaim(daemon, "4K")  # takes the news
    status = daemon.status()
    return status["evictions"] - status["frames_evicted"]


def test_s2_what_any_site_uses_stays_and_the_others_go_first(store_daemon, compiled):
    """A program uses some, a child without an agent of another one, and one whose agent is stopped. All that is
    wanted, half of the memory, is found among those that nobody uses. Whoever says that all are to go gets those in use, too, but
    not at once."""
    need_looks()
    daemon = store_daemon()
    programs = start(daemon, compiled, 4)
    daemon.set(run=0)
    with stopped(programs[3].agents()):
        programs[1].say(f"touch 0 {USED}")
        programs[2].say(f"touched {USED} {USED}")
        programs[3].say(f"touch {2 * USED} {USED}")
        looked(daemon, 1)
        before = came_back(daemon)
        half = reclaim(daemon, str(PAGES // 2 * 4096))
        assert half["evicted"] == PAGES // 2 and half["referenced"] == 0, half
        assert came_back(daemon) - before <= 3 * USED // 50, daemon.status()  # it is a hint of the processor's
        rest = reclaim(daemon)
        assert rest["referenced"] >= 2 * USED, rest
        assert daemon.status("second_chances") >= 2 * USED
        assert rest["evicted"] >= 3 * USED, rest
    for program in programs:
        tell(program, "check")


def test_s5_only_the_uses_of_that_domain(store_daemon, compiled):
    """Programs of one domain use all of their frames all the time: a reclaim for the other one meets no
    use, and takes nothing of theirs."""
    need_looks()
    daemon = store_daemon()
    using = start(daemon, compiled, 2, "--domain", "using")
    idle = start(daemon, compiled, 2, "--domain", "idle")
    daemon.set(run=0)
    using[0].say(f"touch 0 {PAGES}")
    looked(daemon, 1, "--domain", daemon.ps(idle[0].pid)["domain"])
    got = reclaim(daemon, "all", "--domain", daemon.ps(idle[0].pid)["domain"])
    assert got["referenced"] == 0 and daemon.status("frames_evicted") >= PAGES, f"{got} {daemon.status()}"
    assert proc.resident_from_files(using[0].pid, *using[0].area) == PAGES
    for program in idle:
        tell(program, "check")


def test_s2_nobody_is_asked_while_another_has_damon(store_daemon, compiled):
    """Then frames leave as they come, and nobody waits for a look that does not take place."""
    need_looks()
    with open(DAMON, "rb") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        daemon = store_daemon()
        programs = start(daemon, compiled, 2)
        daemon.set(run=0)
        assert reclaim(daemon)["evicted"] >= PAGES
        assert daemon.status("looks") == 0
    for program in programs:
        tell(program, "check")
