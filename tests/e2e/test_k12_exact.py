# SPDX-License-Identifier: Apache-2.0
"""K12, K13: of programs that are stopped by SIGSTOP, and whose bytes are known, the counters are exact to the
page after three passes, by the kernel's word; and run 2 brings all of them to 0 before it returns."""

import signal
import time

from lib import place, proc
from lib.control import ask
from lib.place import NotInTime, wait_for

MIB = place.longer(4, 128)
REPEATS = place.longer(2, 20)
MOST_SECONDS = place.longer(float("inf"), 10)  # for one change: three passes, and all un-merged again
PAGES = MIB * 256
ODD = PAGES // 3

# What three programs write before they stop, and how many pages then have no equal. In the last
# case one byte of one page differs.
CHANGES = [(("all c", "all a", "all a"), 0), ((None, "all b", None), 0),
           (("all d", "all d", "all d"), 0), ((None, f"last {ODD} e", None), 1)]
ZEROED = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "ksm_zero_pages",
          "stable_node_chains", "stable_node_dups", "general_profit", "kernel_pages_allocated",
          "frames_lingering", "mappings")


def get(daemon, key):
    return int(ask(daemon, "get", key=key)["value"])


def counters(daemon, keys=("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")):
    status = ask(daemon, "status")
    return {key: status[key] for key in keys}


def write(program, what):
    """Has the program write, and stop itself."""
    program.say(what)
    wait_for(lambda: f"{program.name} does not stop", lambda: proc.look(program.pid).state == "T", 120)


def go_on(program):
    program.signal(signal.SIGCONT)
    assert program.line(120) == "done"


def true_counters(programs, alone):
    """What the counters must be, from what the kernel has mapped where."""
    frames = {frame for program in programs for frame in proc.file_pages(program.pid, *program.area)}
    sites = true_sites(programs)
    assert sites == sum(program.area[1] for program in programs) // 4096 - alone, (sites, alone)
    return {"pages_shared": len(frames), "pages_sharing": sites - len(frames), "pages_unshared": alone,
            "pages_volatile": 0}


def true_sites(programs):
    return sum(len(proc.file_pages(program.pid, *program.area)) for program in programs)


def three_passes(daemon):
    began = get(daemon, "full_scans")
    daemon.set(run=1)
    wait_for("no three passes", lambda: get(daemon, "full_scans") >= began + 3, 120, every=0.002)


def must_be_exact(daemon, programs, alone):
    """When the pages are merged; later than after three passes only where an agent was not heard in time."""
    in_time = sum(counters(daemon).values()) == len(programs) * PAGES and \
        counters(daemon)["pages_volatile"] == 0
    wait_for(lambda: f"not settled: {counters(daemon)} "
                     f"{[ask(daemon, 'explain', pid=program.pid) for program in programs]}",
             lambda: counters(daemon)["pages_volatile"] == 0 and
             counters(daemon)["pages_unshared"] == alone, 120)
    assert counters(daemon) == true_counters(programs, alone)
    if not in_time:
        raise NotInTime(f"exact, but not after three passes: {daemon.log()}")


def must_be_zero(daemon, programs):
    """The first answer after that of run 2."""
    daemon.set(run=2)
    left = {key: value for key, value in counters(daemon, ZEROED).items() if value}
    assert not left, left
    for program in programs:
        assert daemon.merged_pages(program, program.area) == 0


def test_k12_exact_and_k13_all_zero(daemon, compiled):
    daemon.set(run=0)
    programs = [daemon.run(compiled("k12_fill"), MIB, all=False) for _ in range(3)]
    for program in programs:
        program.area = program.region()
    took = []
    for _ in range(REPEATS):
        for fills, alone in CHANGES:
            told = [(program, what) for program, what in zip(programs, fills) if what]
            for program, what in told:
                write(program, what)
            began = time.monotonic()
            three_passes(daemon)
            must_be_exact(daemon, programs, alone)
            must_be_zero(daemon, programs)
            took.append(time.monotonic() - began)
            for program, _ in told:
                go_on(program)
    for program in programs:
        program.popen.stdin.close()
        program.must_finish(0)
    print(f"{len(took)} changes of {MIB} MiB x 3: at most {max(took):.1f} s for one")
    if max(took) > MOST_SECONDS:
        raise NotInTime(f"one took {max(took):.1f} s")


def test_k12_what_is_written_after_its_merge_is_volatile(daemon, compiled):
    """Until it is known that nothing has it pinned, such a page is no site and waits for no partner: so
    long the counters say so, exactly."""
    daemon.set(run=0)
    programs = [daemon.run(compiled("k12_fill"), 4, all=False) for _ in range(3)]
    for program in programs:
        program.area = program.region()
        write(program, "all c")
    three_passes(daemon)
    wait_for(lambda: f"not merged: {counters(daemon)}", lambda: counters(daemon)["pages_volatile"] == 0)
    daemon.set(run=0)
    go_on(programs[1])
    write(programs[1], "all b")
    three_passes(daemon)
    now = counters(daemon)
    if now["pages_volatile"] == 1024:
        assert now["pages_shared"] + now["pages_sharing"] == 2 * 1024 == true_sites(programs), now
    wait_for(lambda: f"never merged again: {counters(daemon)}",
             lambda: counters(daemon)["pages_volatile"] == 0, 120)
    daemon.set(run=0)
    assert counters(daemon) == true_counters(programs, 0)
    for program in programs:
        go_on(program)
        program.popen.stdin.close()
        program.must_finish(0)
