# SPDX-License-Identifier: Apache-2.0
"""Pages that were written after their merge (K11): merged again where nothing can have them pinned, and
the mappings that save nothing given back; kept private, counted and explained otherwise (X)."""

import ctypes
import json
import os
import random
import signal
import time

import pytest

from lib import place, proc
from lib.place import wait_for

PAGES = 4096
TWO = 2


HASTY = {"SAMEPAGE_TEST_HASTY": "1"}  # what must rest before it is merged again, rests shorter


def start(daemon, compiled, pages=PAGES, env=None):
    programs = [daemon.run(compiled("rewrites"), pages, env=env) for _ in range(TWO)]
    for program in programs:
        program.area = program.region()
    wait_sharing(daemon, pages)
    return programs


def tell(program, what):
    program.say(what)
    assert program.line(120) == "done 0", f"{what}: {program.stderr()}"


def tell_all(programs, what):
    for program in programs:
        tell(program, what)


def wait_passes(daemon, passes=4):
    scans = daemon.status("full_scans")
    wait_for("no passes", lambda: daemon.status("full_scans") >= scans + passes)


def wait_sharing(daemon, pages, timeout=40.0):
    """Counters are exact when nothing moves (K12): so many, and no others."""
    def there():
        status = daemon.status()
        return status["pages_sharing"] == pages and status["pages_shared"] == pages and \
            status["pages_kept_private"] == 0

    wait_for(lambda: f"not {pages} pages are shared: {daemon.status()} {daemon.cli('ps').stdout}", there,
             timeout)


def wait_kept(daemon, because, pages):
    """All are private, and the reason is told in every place."""
    def there():
        status = daemon.status()
        return status["pages_kept_private"] == pages == status[f"kept_{because}"]

    wait_for(lambda: f"not {pages} pages are kept because of {because}: {daemon.status()}", there)
    assert daemon.get("pages_kept_private") == str(pages)


def mappings(program):
    with open(f"/proc/{program.pid}/maps", encoding="ascii", errors="replace") as maps:
        return len(maps.readlines())


def mappings_inside(program):
    """Of its area."""
    with open(f"/proc/{program.pid}/maps", encoding="ascii", errors="replace") as maps:
        return sum(program.area[0] <= int(line.split("-")[0], 16) < sum(program.area)
                   for line in maps)


def wait_really_merged(daemon, programs, pages):
    """Not only as status has it."""
    def merged():
        return [daemon.merged_pages(program, program.area) for program in programs]

    wait_for(lambda: f"{merged()} of {pages} are merged: {daemon.status()}",
             lambda: merged() == [pages] * len(programs), 60)
    wait_sharing(daemon, pages, 60)


def finish(*programs):
    for program in programs:
        program.popen.stdin.close()
        program.must_finish(0)


def test_k11_rewritten_with_equal_contents_is_merged_again(daemon, compiled):
    programs = start(daemon, compiled)
    tell_all(programs, "write 2")
    wait_passes(daemon)
    wait_really_merged(daemon, programs, PAGES)
    tell_all(programs, "check")
    finish(*programs)


def test_k11_rewritten_many_times_is_merged_again(fault_daemon, compiled):
    daemon, first = fault_daemon, None
    programs = start(daemon, compiled, env=HASTY)
    for version in range(2, place.longer(6, 40)):
        tell_all(programs, f"write {version}")
        wait_passes(daemon)
        wait_sharing(daemon, PAGES)
        tell_all(programs, "check")
        now = [mappings(program) for program in programs]
        # The first times the runs may lie otherwise than at the start.
        first = now if version == 3 else first
        if first:
            assert all(n <= f + 64 for n, f in zip(now, first)), f"mappings grow: {first} to {now}"
    wait_for(lambda: f"the pool grows: {daemon.status()}",
             lambda: daemon.status("pool_bytes") <= 3 * PAGES * 4096)
    wait_for(lambda: f"frames linger: {daemon.status()}",
             lambda: daemon.status("frames_lingering") <= PAGES)
    finish(*programs)


def test_k11_parts_rewritten_are_merged_again(fault_daemon, compiled):
    """Runs of 7 pages in the middle of longer ones, again and again."""
    daemon = fault_daemon
    programs = start(daemon, compiled, env=HASTY)
    for version in range(2, 6):
        for page in range(64, PAGES, 256):
            tell_all(programs, f"write {version} {page} 7")
        wait_passes(daemon)
        wait_sharing(daemon, PAGES)
        tell_all(programs, "check")
        if version == 2:
            first = [mappings(program) for program in programs]
    now = [mappings(program) for program in programs]
    assert all(n <= f + 64 for n, f in zip(now, first)), f"mappings grow: {first} to {now}"
    finish(*programs)


@pytest.mark.parametrize("what,because", [("direct", "direct_io"), ("uring", "pinned_memory"),
                                          ("aio", "aio"), ("device", "none")])
def test_k6_what_may_be_pinned_is_kept_private(fault_daemon, compiled, what, because):
    """With something open that may pin memory nothing is merged again, and the reason is told; when it
    is closed everything is. A device that only copies (kmsg) is no reason."""
    daemon = fault_daemon
    programs = start(daemon, compiled, env=HASTY)
    for program in programs:
        program.say(f"hold {what}")
        if program.line() != "done 0":
            pytest.skip(f"{what} cannot be had here")
    tell_all(programs, "write 2")
    if because == "none":
        wait_passes(daemon)
        wait_sharing(daemon, PAGES)
        finish(*programs)
        return
    wait_kept(daemon, because, TWO * PAGES)
    wait_passes(daemon, 3)
    wait_kept(daemon, because, TWO * PAGES)
    for program in programs:
        explained = json.loads(daemon.cli("explain", "--json", program.pid).stdout)
        assert explained["because"] == [f"kept_{because}"], explained
        assert explained["pages"]["kept_private"] == PAGES == explained["pages_kept_private"]
        assert "kept private" in daemon.cli("explain", program.pid).stdout
        assert daemon.ps(program.pid)["pages_kept_private"] == PAGES
        assert daemon.ps(program.pid)["kept_because"] == because
    tell_all(programs, "drop")
    wait_sharing(daemon, PAGES)
    tell_all(programs, "check")
    finish(*programs)


def test_x_written_pages_under_writers(fault_daemon, compiled):
    """Threads write a word of every page over and over while pages are held, merged again and given
    back: no write is lost, whoever takes which page."""
    daemon = fault_daemon
    programs = start(daemon, compiled, 1024, HASTY)
    tell_all(programs, "threads 4")
    for version in range(2, place.longer(4, 100)):
        merged = daemon.status("pages_merged")
        tell_all(programs, f"write {version}")
        wait_for(lambda: f"nothing is merged meanwhile: {daemon.status()}",
                 lambda: daemon.status("pages_merged") > merged + 500, 120)
        tell_all(programs, "check")
    tell_all(programs, "stop")
    tell_all(programs, "write 1000")
    wait_passes(daemon)
    finish(*programs)


@pytest.mark.parametrize("point", place.longer(["again-mapped"],
                                               ["again-held", "again-mapped", "unmerge-copied"]))
def test_d2_agent_dies_while_written_pages_are_held(fault_daemon, compiled, point):
    """At each step: the writers go on, and no byte is wrong."""
    daemon, pages = fault_daemon, 1024
    env = [{**HASTY, "SAMEPAGE_FAULT": f"{point}:1"}, HASTY]
    programs = [daemon.run(compiled("rewrites"), pages, env=env[i]) for i in range(TWO)]
    for program in programs:
        program.area = program.region()
    wait_sharing(daemon, pages)
    agents = programs[0].agents()
    assert len(agents) == 1
    for version in range(2, 60):
        if point == "unmerge-copied":
            tell(programs[0], f"own {version} 0 {pages}")
        else:
            tell_all(programs, f"write {version}")
        # Which way a page takes is a matter of who comes first: then it is tried again.
        for _ in range(30):
            time.sleep(0.1)
            if not proc.exists(agents[0]):
                break
        if not proc.exists(agents[0]):
            break
    assert not proc.exists(agents[0]), f"the agent lives: {daemon.status()}"
    tell_all(programs, "check")
    tell_all(programs, "threads 2")
    tell_all(programs, "write 3")
    tell_all(programs, "check")
    tell_all(programs, "stop")
    finish(*programs)


def test_k11_mappings_that_save_nothing_are_given_back(fault_daemon, compiled):
    """One of the two writes what nobody else has: its mappings of the pool go, and with them the memory
    of the frames. What the other has is merged with nobody any more."""
    daemon = fault_daemon
    programs = start(daemon, compiled, env=HASTY)
    for page in range(0, PAGES, 512):  # so that the runs lie in many pieces
        tell_all(programs, f"write 2 {page} 100")
    wait_passes(daemon)
    wait_sharing(daemon, PAGES)
    before = mappings(programs[0])
    tell(programs[0], f"own 3 0 {PAGES}")
    wait_for(lambda: f"{daemon.merged_pages(programs[0], programs[0].area)} pages lie in mappings of the "
                     f"pool: {daemon.status()}",
             lambda: daemon.merged_pages(programs[0], programs[0].area) == 0, 60)
    tell_all(programs, "check")
    wait_for(lambda: f"the kernel did not join them: {mappings_inside(programs[0])}",
             lambda: mappings_inside(programs[0]) == 1)
    assert mappings(programs[0]) < before
    # And it is ordinary memory again: merged as such when it meets its like.
    tell_all(programs, "write 4")
    wait_passes(daemon)
    wait_sharing(daemon, PAGES)
    tell_all(programs, "check")
    finish(*programs)


def state(pid):
    return proc.look(pid).state


def waits_for_a_page(pid):
    with open(f"/proc/{pid}/wchan", encoding="ascii") as wchan:
        return "userfault" in wchan.read()


def test_x_writer_of_a_held_page_takes_only_that(fault_daemon, compiled):
    """Who writes to a page that is held gets it at once, and those around it are merged all the same. The agent is
    stopped as soon as it holds some, so that there is such a writer."""
    daemon, pages = fault_daemon, 64
    env = [{**HASTY, "SAMEPAGE_FAULT": "again-held:1:19"}, HASTY]
    programs = [daemon.run(compiled("rewrites"), pages, env=env[i]) for i in range(TWO)]
    for program in programs:
        program.area = program.region()
    wait_sharing(daemon, pages)
    agent, = programs[0].agents()
    tell_all(programs, "write 2")
    wait_for(lambda: f"nothing is held: {daemon.status()}", lambda: state(agent) == "T", 60)
    programs[0].say("write 3 5 1")
    wait_for(lambda: "it does not wait", lambda: waits_for_a_page(programs[0].pid), 60)
    os.kill(agent, signal.SIGCONT)
    assert programs[0].line(60) == "done 0"
    tell_all(programs, "check")

    wait_for(lambda: f"those around it are not merged: {daemon.status()}",
             lambda: daemon.status("pages_sharing") == pages - 1, 60)
    tell(programs[1], "write 3 5 1")
    wait_sharing(daemon, pages, 60)
    tell_all(programs, "check")
    finish(*programs)


def test_x_robust_mutex_in_a_page_that_is_to_be_given_back(fault_daemon, compiled):
    """The kernel, which marks the mutex when its thread ends, cannot wait: while one is held its page is not."""
    daemon, pages = fault_daemon, 512
    programs = start(daemon, compiled, pages, HASTY)
    tell(programs[0], "robust 200")
    tell(programs[0], f"own 2 0 {pages}")

    def left():
        return daemon.merged_pages(programs[0], programs[0].area)

    wait_for(lambda: f"{left()} pages lie in mappings of the pool: {daemon.status()}",
             lambda: left() <= 64, 90)
    wait_passes(daemon, 6)
    assert left() == 64
    tell(programs[0], "die")
    tell_all(programs, "check")
    wait_for(lambda: f"{left()} pages lie in mappings of the pool: {daemon.status()}",
             lambda: left() == 0, 90)
    tell_all(programs, "check")
    finish(*programs)


def ptrace(request, pid):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    assert libc.ptrace(request, pid, 0, 0) == 0, os.strerror(ctypes.get_errno())


def stop_traced(pid):
    ptrace(0x4207, pid)  # PTRACE_INTERRUPT
    wait_for("it does not stop", lambda: state(pid) == "t")


def test_x_debugger_meets_no_held_page(fault_daemon, compiled):
    """What it writes goes round every wait, so a program that it has holds no page; afterwards it does."""
    daemon, pages = fault_daemon, 512
    programs = start(daemon, compiled, pages, HASTY)
    for program in programs:
        ptrace(0x4206, program.pid)  # PTRACE_SEIZE
    tell_all(programs, "write 2")
    wait_for(lambda: f"they are not seen: {daemon.status()}",
             lambda: daemon.status("pages_kept_private") == TWO * pages)
    wait_passes(daemon, 40)
    assert daemon.status("pages_kept_private") == TWO * pages
    assert daemon.status("pages_sharing") == 0
    for program in programs:
        stop_traced(program.pid)
        ptrace(17, program.pid)  # PTRACE_DETACH
    wait_really_merged(daemon, programs, pages)
    tell_all(programs, "check")
    finish(*programs)


def test_k13_unmerging_gives_the_mappings_back(fault_daemon, compiled):
    """docs/decisions/0014: what is un-merged joins what lies around it, while threads write there."""
    daemon = fault_daemon
    programs = start(daemon, compiled, env=HASTY)
    plain = [mappings_inside(program) for program in programs]
    for page in range(16, PAGES, 64):
        tell_all(programs, f"write 2 {page} 7")
    wait_passes(daemon)
    wait_sharing(daemon, PAGES)
    many = [mappings_inside(program) for program in programs]
    assert all(m > p + 64 for m, p in zip(many, plain)), (plain, many)
    tell_all(programs, "threads 2")
    daemon.set(run=2)
    for program in programs:
        # What the threads wrote just before stays where it was, in mappings of the pool.
        assert mappings_inside(program) <= many[0]
        tell(program, "check")
    tell_all(programs, "stop")
    daemon.set(run=1)
    tell_all(programs, "write 3")
    wait_passes(daemon)
    tell_all(programs, "check")
    daemon.set(run=2)
    finish(*programs)


@pytest.mark.parametrize("what", place.longer(["both"], ["daemon", "both"]))
def test_d1_killed_while_written_pages_are_merged_again(fault_daemon, compiled, what):
    """The daemon, or daemon and agent, at any instant of holding, merging again and giving back: the
    writers go on, no byte is wrong, and with a new daemon those that have an agent merge again."""
    daemon, chance, version = fault_daemon, random.Random(5), 1
    for _ in range(place.longer(2, 20)):
        programs = start(daemon, compiled, 1024, HASTY)
        tell_all(programs, "threads 2")
        for _ in range(3):
            version += 1
            tell_all(programs, f"write {version}")
            tell(programs[0], f"own {version} 128 64")
            time.sleep(chance.random() * 0.3)
            daemon.kill()
            if what == "both":
                for agent in programs[0].agents():
                    os.kill(agent, signal.SIGKILL)
            tell_all(programs, "check")
            daemon.start()
        tell_all(programs, "stop")
        tell_all(programs, "threads 0")  # what they counted up differs
        tell_all(programs, f"write {version + 1}")
        if what == "daemon":
            wait_really_merged(daemon, programs, 1024)
        tell_all(programs, "check")
        finish(*programs)


def test_d2_agent_killed_before_what_was_merged_is_written(daemon, compiled):
    """Nobody merges it again, and it stays right."""
    programs = start(daemon, compiled, 1024)
    for agent in programs[0].agents():
        os.kill(agent, signal.SIGKILL)
    tell_all(programs, "write 2")
    wait_passes(daemon)
    tell_all(programs, "check")
    finish(*programs)
