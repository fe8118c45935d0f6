# SPDX-License-Identifier: Apache-2.0
"""K9, K10, K12, K14: frames are freed with their last site, limited in number, and in sites."""

from lib.place import wait_for

PAGES = 2048


def holders(daemon, compiled, count, row="hold"):
    programs = [daemon.run(compiled("x_rows"), row) for _ in range(count)]
    for program in programs:
        program.area = program.region()
    return programs


def must_end_well(programs):
    for program in programs:
        program.say()
    for program in programs:
        program.must_finish(0)


def test_k9_frames_are_freed_when_all_programs_ended(daemon, compiled):
    programs = holders(daemon, compiled, 2)
    for program in programs:
        daemon.wait_merged(program, program.area)
    assert daemon.status("pool_bytes") > 0
    must_end_well(programs)
    wait_for(lambda: f"frames are left: {daemon.status()}",
             lambda: daemon.status("pool_bytes") == 0 and daemon.status("pages_shared") == 0, 5)


def test_k10_limit_of_frames(daemon, compiled):
    daemon.set(max_kernel_pages=500)
    programs = holders(daemon, compiled, 2)
    wait_for(lambda: f"{daemon.status()}", lambda: daemon.status("pages_sharing") >= 450)
    daemon.wait()
    status = daemon.status()
    assert status["pages_shared"] <= 500, status
    # At the limit pages still merge into frames that exist.
    programs += holders(daemon, compiled, 1)
    wait_for(lambda: f"{daemon.status()}", lambda: daemon.status("pages_sharing") >= 900)
    assert daemon.status("pages_shared") <= 500
    daemon.set(max_kernel_pages=0)
    wait_for(lambda: f"{daemon.status()}", lambda: daemon.status("pages_sharing") >= 1.8 * PAGES)
    must_end_well(programs)


def test_k12_counters_add_up(daemon, compiled):
    programs = holders(daemon, compiled, 3)
    for program in programs:
        daemon.wait_merged(program, program.area, share=1.0)
    daemon.wait()
    status = daemon.status()
    sites = [daemon.ps(program.pid)["sites"] for program in programs]
    assert status["pages_shared"] + status["pages_sharing"] == sum(sites), (status, sites)
    assert status["kernel_pages_allocated"] == status["pages_shared"]
    assert all(PAGES <= n <= 1.2 * PAGES for n in sites), sites
    assert status["pages_sharing"] >= 2 * PAGES
    must_end_well(programs)


def test_k14_sites_of_one_frame(daemon, compiled):
    """One content on every page: 256 sites a frame at most."""
    programs = holders(daemon, compiled, 1, row="same")
    daemon.wait_merged(programs[0], programs[0].area)
    status = daemon.status()
    assert 8 <= status["pages_shared"] <= PAGES / 4, status
    must_end_well(programs)
