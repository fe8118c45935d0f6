# SPDX-License-Identifier: Apache-2.0
"""Frames leave memory by themselves when it is short (S1): near the limit of the daemon's cgroup."""

import select

import pytest

from lib import proc
from lib.place import wait_for
from lib.store import store_daemon  # noqa: F401

SHARERS, STEPS = 2, 26
PAGES = 512  # in a step; with their frames, until they are merged, it takes half of what is near (pressure.h)
MIB = 1 << 20
# So that the file has what left, and the memory is free.
SWAP = {"swap_memory": "4M", "swap_size": "256M", "reclaim_min": "16M", "reclaim_max": "1G"}


class Growing:
    """Programs with equal pages, of which there are more with each step; all are merged before the next one."""

    def __init__(self, daemon, compiled):
        self.daemon, self.steps = daemon, 0
        self.programs = [daemon.run(compiled("rewrites"), STEPS * PAGES, 0) for _ in range(SHARERS)]
        for program in self.programs:
            program.area = program.region()

    def step(self, goes_on=lambda: True):
        """False: it does not go on."""
        for program in self.programs:
            program.say(f"write 1 {self.steps * PAGES} {PAGES}")
            wait_for("no answer", lambda p=program: not goes_on() or select.select([p.popen.stdout], [], [], 0)[0])
            if not goes_on():
                return False
            assert program.line() == "done 0"
        self.steps += 1
        wait_for(lambda: f"not merged: {self.daemon.status()}", lambda: not goes_on() or self.is_merged())
        return goes_on()

    def is_merged(self):
        return all(proc.pages_from_files(p.pid, p.area[0], self.steps * PAGES * 4096) >= self.steps * PAGES
                   for p in self.programs)

    def all(self, before=lambda: None):
        while self.steps < STEPS:
            before()
            self.step()
        return self.programs


found = {}


@pytest.fixture
def needed(cgroup, store_daemon, compiled, tmp_path):  # noqa: F811
    """What programs and daemon need, all of it merged, nothing out: looked at once."""
    if found:
        return found["bytes"]
    daemon = store_daemon(cgroup=cgroup, swap_file=tmp_path / "swap", **{**SWAP, "reclaim_max": "0"})
    Growing(daemon, compiled).all()
    found["bytes"] = cgroup.used()
    assert daemon.status("pressure_bytes") == daemon.status("evictions") == 0
    daemon.close()
    return found["bytes"]


def test_s1_in_60_percent_of_what_is_needed(cgroup, store_daemon, compiled, tmp_path, needed):  # noqa: F811
    """With reclaim they all go on, and are right."""
    limit = needed * 6 // 10
    cgroup.limit(limit)
    daemon = store_daemon(cgroup=cgroup, swap_file=tmp_path / "swap2", **SWAP)

    def room():
        """However slow the machine is, the daemon gets to make room before more is taken."""
        wait_for(lambda: f"no room: {cgroup.used()} of {limit}, {daemon.status()}",
                 lambda: cgroup.used() + limit // 5 <= limit)

    programs = Growing(daemon, compiled).all(room)
    status = daemon.status()
    assert status["pressure_bytes"] > needed // 4
    assert status["pages_sharing"] >= STEPS * (SHARERS - 1) * PAGES
    for program in programs:
        program.say("check")
        assert program.line() == "done 0", f"{program.stderr()} {daemon.status()} {daemon.log()}"
    assert cgroup.oom_kills() == 0
    assert daemon.status("store_errors") == 0


def test_s1_without_reclaim_the_kernel_kills(cgroup, store_daemon, compiled, tmp_path, needed):  # noqa: F811
    cgroup.limit(needed * 6 // 10)
    daemon = store_daemon(cgroup=cgroup, swap_file=tmp_path / "swap2", **{**SWAP, "reclaim_max": "0"})
    growing = Growing(daemon, compiled)
    while growing.step(lambda: not cgroup.oom_kills()):
        assert growing.steps < STEPS, f"nobody was killed: {cgroup.used()} of {needed * 6 // 10}"
    assert cgroup.oom_kills() > 0


def test_s1_never_below_the_floor(cgroup, store_daemon, compiled, tmp_path, needed):  # noqa: F811
    """However short memory is, reclaim_floor of frames stay."""
    floor = 44 * MIB
    daemon = store_daemon(cgroup=cgroup, swap_file=tmp_path / "swap2", reclaim_floor=floor, **SWAP)
    Growing(daemon, compiled).all()
    cgroup.limit(needed * 11 // 10)  # near, until a quarter of it is free: more than the floor leaves
    wait_for(lambda: f"not down to the floor: {daemon.status()}",
             lambda: (daemon.status("pages_shared") - daemon.status("frames_evicted")) * 4096 < floor + 4096)
    status = daemon.status()
    assert (status["pages_shared"] - status["frames_evicted"]) * 4096 >= floor - 4096
