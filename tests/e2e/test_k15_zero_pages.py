# SPDX-License-Identifier: Apache-2.0
"""K15: with use_zero_pages pages of zeros go back to the kernel's own page of zeros, are counted apart, and
are what they were in every other way."""

import pytest

from lib import proc
from lib.place import BUILD_TEST, wait_for

PAGES = 2048
ZEROS = PAGES * 3 // 4 - PAGES // 4 // 2  # every second one, and all of the last quarter
LAST = PAGES // 4


def start(daemon, compiled, env=None, all=True, orders=()):
    program = daemon.run(compiled("zeros"), PAGES, all=all, env=env)
    program.area = program.region()
    for order in orders:
        tell(program, order)
    return program


def tell(program, order):
    program.say(order)
    answer = program.line(120)
    assert answer.split()[0] in ("done", "child"), f"{order}: {answer} {program.stderr()}"
    return answer


def zeros(program, pid=None):
    return proc.zero_pages(pid or program.pid, *program.area)


def wait_zeros(daemon, program, n=ZEROS, pid=None):
    wait_for(lambda: f"{zeros(program, pid)} of {n} pages are the kernel's: {daemon.status()} "
                     f"{daemon.cli('ps').stdout} {daemon.cli('explain', pid or program.pid, check=False).stdout} "
                     f"{program.stderr()}", lambda: zeros(program, pid) == n)


def counted(daemon):
    return daemon.status("ksm_zero_pages")


def wait_counted(daemon, programs):
    """As many as there are, and what the programs have of their own besides: nothing moves there."""
    wait_for(lambda: f"{counted(daemon)} are counted: {[zeros(p) for p in programs]} {daemon.status()}",
             lambda: 0 <= counted(daemon) - sum(zeros(p) for p in programs) <= 64 * len(programs))


def use_zero_pages(daemon):
    daemon.set(use_zero_pages=1)
    return daemon


def finish(*programs):
    for program in programs:
        program.popen.stdin.close()
        program.must_finish(0)


def anonymous(program):
    return proc.smaps_sum(program.pid, "Anonymous", *program.area)


def test_k15_zeros_are_given_back(daemon, compiled):
    """All of them, none as a frame; the memory is the kernel's again, as it accounts it; who writes has a
    page of its own, and is given zeros back in turn when it writes them."""
    daemon.set(run=0)  # what is a frame already stays one
    program = start(daemon, compiled)
    before = anonymous(program)
    use_zero_pages(daemon)
    daemon.set(run=1)
    wait_zeros(daemon, program)
    wait_counted(daemon, [program])
    assert before - anonymous(program) == ZEROS * 4096, (before, anonymous(program))
    assert daemon.status("pages_shared") < 64 and daemon.merged_pages(program, program.area) == 0
    tell(program, "check")
    assert zeros(program) == ZEROS
    tell(program, "write 3")
    wait_zeros(daemon, program, ZEROS - (ZEROS + 2) // 3)
    wait_counted(daemon, [program])
    tell(program, "clear")
    wait_zeros(daemon, program)
    wait_counted(daemon, [program])
    finish(program)


def test_k15_side_by_side_in_many_mappings(daemon, compiled):
    """The kernel gives zeros to one mapping at a time: none is put back because its neighbour is in the next."""
    daemon.set(run=0)
    program = start(use_zero_pages(daemon), compiled, orders=["pieces"])
    daemon.set(run=1)
    wait_zeros(daemon, program)
    assert daemon.status("merge_memory") == 0
    tell(program, "check")
    finish(program)


def test_k15_not_without(daemon, compiled):
    """With 0 zeros are a page as any other: a frame; and stay what they were when it is set."""
    program = start(daemon, compiled)
    wait_for(lambda: f"{daemon.status()}", lambda: daemon.status("pages_sharing") >= ZEROS - 64)
    assert zeros(program) == 0 and counted(daemon) == 0
    use_zero_pages(daemon)
    tell(program, "write 1")
    tell(program, "clear")
    wait_zeros(daemon, program)
    daemon.set(use_zero_pages=0)
    tell(program, "check")
    assert zeros(program) == ZEROS
    finish(program)


@pytest.mark.parametrize("order,left", [("drop", ZEROS - LAST), ("unmap", ZEROS - LAST), ("lock", 0),
                                        ("move", ZEROS)])
def test_k15_calls(daemon, compiled, order, left):
    """What the program's calls make of them: they see the same, and the count follows."""
    program = start(use_zero_pages(daemon), compiled)
    wait_zeros(daemon, program)
    daemon.set(run=0)
    wait_counted(daemon, [program])
    tell(program, order)
    if order not in ("move", "drop"):  # reading what was dropped brings the kernel's page back, of itself
        assert zeros(program) == left
    daemon.set(run=1)
    finish(program)


def test_k15_dropped_are_not_counted(daemon, compiled):
    program = start(use_zero_pages(daemon), compiled)
    wait_zeros(daemon, program)
    wait_counted(daemon, [program])
    before = counted(daemon)
    tell(program, "drop")
    wait_for(lambda: f"{counted(daemon)} of {before}", lambda: counted(daemon) <= before - LAST)
    finish(program)


def test_k15_run_2(daemon, compiled):
    """K13: every one gets a page of its own, and none is counted."""
    program = start(use_zero_pages(daemon), compiled)
    wait_zeros(daemon, program)
    daemon.cli("off")
    assert zeros(program) == 0 and counted(daemon) == 0, daemon.status()
    tell(program, "check")
    daemon.set(run=1)
    wait_zeros(daemon, program)
    finish(program)


def test_k1_unmergeable_gives_own_pages(daemon, compiled):
    """K1: before the call returns, as KSM's does."""
    program = start(use_zero_pages(daemon), compiled, all=False, orders=["advise"])
    wait_zeros(daemon, program)
    tell(program, "unadvise")
    assert zeros(program) == 0
    wait_for(lambda: f"{daemon.status()}", lambda: counted(daemon) == 0)
    finish(program)


def test_k8_fork(daemon, compiled):
    """K8: a child has the parent's; they are found and counted, and a write in it is its own."""
    program = start(use_zero_pages(daemon), compiled)
    wait_zeros(daemon, program)
    wait_counted(daemon, [program])
    before = counted(daemon)
    child = int(tell(program, "forkall").split()[1])
    wait_zeros(daemon, program, ZEROS - 1, child)
    wait_for(lambda: f"{counted(daemon)}, and {before} before: {daemon.cli('ps').stdout}",
             lambda: counted(daemon) >= before + ZEROS - 1)
    tell(program, "check")
    assert zeros(program) == ZEROS
    finish(program)


def test_k8_shared_by_fork(daemon, compiled):
    """What fork shares is given back by both."""
    daemon.set(run=0)
    program = start(daemon, compiled)
    child = int(tell(program, "forkall").split()[1])
    use_zero_pages(daemon)
    daemon.set(run=1)
    wait_zeros(daemon, program)
    wait_zeros(daemon, program, ZEROS - 1, child)
    finish(program)


def test_k15_written_after_its_merge(daemon, compiled):
    """A page that lies in a mapping of the pool goes back, too, when it is zeros by then."""
    programs = [start(use_zero_pages(daemon), compiled, orders=["merged"]) for _ in range(2)]
    for program in programs:
        daemon.wait_merged(program, program.area)
    for program in programs:
        tell(program, "clear")
    for program in programs:
        wait_zeros(daemon, program, PAGES)
    wait_counted(daemon, programs)
    finish(*programs)


def test_s4_written_after_its_merge_and_locked(daemon, compiled):
    """Locked memory that was merged and is zeros by then stays locked: nothing that is not takes its place."""
    daemon.set(run=0, use_zero_pages=1)
    programs = [daemon.run(compiled("zeros"), 512, all=False) for _ in range(3)]
    for program in programs:
        program.area = program.region()
        for order in ("advise", "merged", "lock")[:3 if program is programs[0] else 2]:
            tell(program, order)
    daemon.set(run=1)
    for program in programs:
        daemon.wait_merged(program, program.area, share=1)
    assert locked(programs[0]) == 512 * 4096
    for program in programs:
        tell(program, "some 1")
    for program in programs[1:]:
        wait_zeros(daemon, program, 512)
    pass_by(daemon, 8)
    assert locked(programs[0]) == 512 * 4096
    finish(*programs)


def locked(program):
    with open(f"/proc/{program.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmLck:"))


def pass_by(daemon, passes):
    scans = daemon.status("full_scans") + passes
    wait_for(lambda: f"{daemon.status()}", lambda: daemon.status("full_scans") >= scans)


def test_x_zeros_within_the_budget_of_mappings(daemon, compiled):
    """Zeros among merged pages take two mappings each: no more of them are given back than the budget allows."""
    most = 100
    daemon.set(use_zero_pages=1, max_mappings=most)
    programs = [start(daemon, compiled, orders=["merged"]) for _ in range(2)]
    for program in programs:
        daemon.wait_merged(program, program.area)
    for program in programs:
        tell(program, "some 4")
    wait_for(lambda: f"none is given back: {daemon.status()}", lambda: all(zeros(p) > 8 for p in programs))
    pass_by(daemon, 16)
    for program in programs:
        assert mappings(program) <= most + 8, daemon.cli("ps").stdout
    finish(*programs)


def mappings(program):
    start, end = program.area[0], program.area[0] + program.area[1]
    with open(f"/proc/{program.pid}/maps", encoding="ascii") as maps:
        lines = [[int(x, 16) for x in line.split()[0].split("-")] for line in maps]
    return sum(a < end and b > start for a, b in lines)


def test_x_no_call_of_ours_for_zeros(daemon, compiled):
    """PR_SET_MEMORY_MERGE 0 under a filter that allows no madvise: no thread of the program makes one."""
    program = start(use_zero_pages(daemon), compiled)
    wait_zeros(daemon, program)
    tell(program, "filtered")
    assert zeros(program) == 0
    finish(program)


def test_d1_a_new_daemon_knows_them(daemon, compiled):
    program = start(use_zero_pages(daemon), compiled)
    wait_zeros(daemon, program)
    wait_counted(daemon, [program])
    daemon.kill()
    daemon.start()
    daemon.set_full_speed()
    wait_counted(daemon, [program])
    assert zeros(program) == ZEROS
    tell(program, "write 2")
    wait_counted(daemon, [program])
    finish(program)


@pytest.mark.parametrize("point", ["lift-moved:2", "lift-mapped:2", "gate-closed:3"])
def test_d2_agent_dies(fault_daemon, compiled, point):
    """The agent dies between taking the pages out and giving the kernel's in their place."""
    daemon = use_zero_pages(fault_daemon)
    program = start(daemon, compiled, env={"SAMEPAGE_FAULT": point})
    wait_for(lambda: f"no fault at {point}: {daemon.ps(program.pid)} {program.stderr()}",
             lambda: not program.agents())
    tell(program, "check")
    tell(program, "write 1")
    tell(program, "clear")
    finish(program)


def test_k15_while_writing(daemon, compiled):
    """Nothing is lost while zeros are written, overwritten, given back and un-merged all the time."""
    program = start(use_zero_pages(daemon), compiled)
    for n in range(1, 8):
        tell(program, f"write {n}")
        tell(program, "check")
        tell(program, "clear")
        wait_for(lambda: f"{zeros(program)}: {daemon.status()}", lambda: zeros(program) > 0)
    finish(program)
