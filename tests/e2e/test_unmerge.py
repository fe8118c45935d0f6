# SPDX-License-Identifier: Apache-2.0
"""K13: un-merging one process, or everything (run=2), gives private pages with the same bytes, and
returns when that is done; run=0 leaves merged what is merged."""

from lib.place import A_SECOND, wait_for


def merged_pair(daemon, compiled):
    programs = [daemon.run(compiled("x_rows"), "hold") for _ in range(2)]
    for program in programs:
        program.area = program.region()
        daemon.wait_merged(program, program.area)
    return programs


def must_be_private(daemon, programs):
    for program in programs:
        left = daemon.merged_pages(program, program.area)
        assert left == 0, f"{left} pages of pid {program.pid} still map frames"


def must_end_well(programs):
    for program in programs:
        program.say()
        program.must_finish(0)


def test_k13_unmerge_one_process(daemon, compiled):
    programs = merged_pair(daemon, compiled)
    daemon.cli("unmerge", programs[0].pid)
    must_be_private(daemon, programs[:1])
    wait_for(lambda: f"{daemon.status()}", lambda: daemon.status("pages_sharing") == 0, A_SECOND)
    must_end_well(programs)


def test_k13_run_2_unmerges_everything(daemon, compiled):
    programs = merged_pair(daemon, compiled)
    daemon.set(run=2)
    must_be_private(daemon, programs)
    status = daemon.status()
    assert (status["pages_shared"], status["pages_sharing"]) == (0, 0), status
    wait_for(lambda: f"{daemon.status()}", lambda: daemon.status("pool_bytes") == 0, A_SECOND)
    # T4 in little: merging starts again from nothing.
    daemon.set(run=1)
    for program in programs:
        daemon.wait_merged(program, program.area)
    must_end_well(programs)


def test_k13_off(daemon, compiled):
    programs = merged_pair(daemon, compiled)
    daemon.cli("off")
    must_be_private(daemon, programs)
    assert daemon.get("run") == "0"
    must_end_well(programs)


def test_k13_run_0_stops_and_keeps(daemon, compiled):
    programs = merged_pair(daemon, compiled)
    daemon.set(run=0)
    sharing = daemon.status("pages_sharing")
    late = [daemon.run(compiled("x_rows"), "more") for _ in range(2)]
    for program in late:
        program.area = program.region()
    scans = daemon.status("full_scans")
    assert daemon.status("pages_sharing") == sharing
    must_end_well(programs)
    must_be_private(daemon, late)
    assert daemon.status("full_scans") == scans
