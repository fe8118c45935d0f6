# SPDX-License-Identifier: Apache-2.0
"""X: odd programs run to their end, right, and merging is going on in them, where it may."""

import re
import shutil
import signal

import pytest

from lib import proc
from lib.place import longer, wait_for

SECONDS = longer(3, 60)
REGION = 4096  # pages of programs/loop.h
# What only samepage calls; the program's threads are never seen to.
OURS = {"userfaultfd", "process_vm_readv", "kcmp", "pidfd_open", "seccomp"}


def pair(daemon, *argv):
    """Two of them, so that they have something to merge; merged when this returns. A list is an argument
    that is not the same for both."""
    programs = [daemon.run(*[each[i] if isinstance(each, list) else each for each in argv])
                for i in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area, timeout=60)
    return programs


def must_end_right(programs, word):
    """Each is told to end, says its last words and exits 0, without a line from samepage. What it
    counted."""
    counted = []
    for program in programs:
        program.say()
    for program in programs:
        program.must_finish(0, timeout=SECONDS + 40)
        said = program.popen.stdout.read().decode()
        assert program.stderr() == "", program.stderr()
        counted.append(int(re.search(rf"^{word} (\d+)", said, re.M).group(1)))
    return counted


def sites(daemon, program, pid=None):
    line = daemon.ps(pid or program.pid)
    return line["sites"] if line else 0


def test_60000_mappings(daemon, compiled):
    """It is merged, then makes 60,000 mappings of its own, for which merging makes room, works on
    them, gives them back, and is merged again."""
    programs = [daemon.run(compiled("mappings_own"), 60000, -SECONDS) for _ in range(2)]
    for program in programs:
        program.area = program.region("held")
    for program in programs:
        daemon.wait_merged(program, program.area)
        program.say()
    for program in programs:
        program.region(timeout=60)
        assert len(open(f"/proc/{program.pid}/maps", encoding="ascii").readlines()) > 59000
        program.say("enough")
    for program in programs:
        assert program.line(SECONDS + 60).startswith("ok")
        assert program.line() == "given back"
    for program in programs:
        wait_for(lambda p=program: f"{daemon.ps(p.pid)} {daemon.cli('explain', p.pid).stdout}",
                 lambda p=program: sites(daemon, p) > REGION / 2, 30)
    for program in programs:
        program.say()
        program.must_finish(0)
        lines = program.stderr().splitlines()
        assert all(line.startswith("samepage:") and "max_map_count" in line for line in lines), lines


def test_200_threads_that_map(daemon, compiled):
    """200 threads map, fill, replace and unmap memory; some of it is merged meanwhile."""
    programs = pair(daemon, compiled("map_threads"), -SECONDS, [200, 4])
    wait_for(lambda: f"of the threads' own memory nothing is merged: {daemon.ps(programs[0].pid)}",
             lambda: sites(daemon, programs[0]) > REGION, 30, every=0.05)
    must_end_right(programs, "maps")


def test_forks_without_pause(daemon, compiled):
    """It forks every 10 ms, or as often as the machine lets it, and 100 times at least. It says itself if a
    child sees what it must not, does not end well, or is not seen to end."""
    must_end_right(pair(daemon, compiled("fork_rate"), -SECONDS), "forks")


def test_stopped_while_its_threads_map(daemon, compiled):
    """SIGSTOP in the middle of everything: merging goes on in it, and after SIGCONT it goes on."""
    daemon.set(run=0)
    programs = [daemon.run(compiled("threads_loop"), -SECONDS) for _ in range(2)]
    for program in programs:
        program.area = program.region()
    programs[0].signal(signal.SIGSTOP)
    daemon.set(run=1)
    daemon.wait_merged(programs[0], programs[0].area)
    assert proc.look(programs[0].pid).state in "tT"
    programs[0].signal(signal.SIGCONT)
    must_end_right(programs, "ok")


def need_strace(daemon):
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    return ["strace", "-f", "-o", daemon.directory / "trace"]


def traced_calls(daemon):
    path = daemon.directory / "trace"
    text = path.read_text(errors="replace") if path.exists() else ""
    return re.findall(r"^\d+ +([a-z_0-9]+)\(", text, re.M)


@pytest.mark.parametrize("name", ["threads_loop", "fork_loop"])
def test_under_strace(daemon, compiled, name):
    """Started by strace -f, which is merged too: every stop of every thread meets the lifts."""
    argv = [*need_strace(daemon), compiled(name), -SECONDS]
    programs = [daemon.run(*argv), daemon.run(compiled(name), -SECONDS)]
    for program in programs:
        program.area = program.region()
    traced = [p.pid for p in programs[0].processes() if p.comm == name]
    daemon.wait_merged(programs[0], programs[0].area, pid=min(traced))
    must_end_right(programs, "ok")


def test_strace_sees_nothing_of_samepage(daemon, compiled):
    """strace that attaches to a merged program sees it call what it calls itself."""
    argv = need_strace(daemon)
    programs = pair(daemon, compiled("threads_loop"), -SECONDS)
    tracer = daemon.plain(*argv, "-p", programs[0].pid)
    wait_for("strace sees nothing", lambda: len(traced_calls(daemon)) > 100, 30)
    must_end_right(programs, "ok")
    tracer.must_finish(0)
    calls = traced_calls(daemon)
    assert not OURS & set(calls), sorted(OURS & set(calls))


@pytest.mark.parametrize("dumpable", [0, 1], ids=["not-dumpable", "dumpable"])
def test_drops_root_under_a_strict_filter(daemon, compiled, dumpable):
    """Merged, then no root any more and a filter that kills it for nearly every call: it runs on, no
    agent is left, its memory is right, and it has its pages back."""
    programs = pair(daemon, compiled("strict_filter"), SECONDS, dumpable)
    for program in programs:
        program.say()
        assert program.line() == "filtered"
    for program in programs:
        wait_for(lambda p=program: f"agents of {p.pid}: {p.agents()}",
                 lambda p=program: not p.agents(), 5)
        merged = daemon.merged_pages(program, program.area)
        assert merged < 0.1 * REGION, merged
        program.say()
    for program in programs:
        assert program.line(SECONDS + 40) == "done"
        program.must_finish(0)
        assert program.stderr() == "", program.stderr()
