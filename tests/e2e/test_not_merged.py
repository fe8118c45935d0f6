# SPDX-License-Identifier: Apache-2.0
"""K17, X: where a program cannot be merged it runs as it would without samepage, its exit status is
its own, and samepage says why in one line on stderr."""

import os
import pathlib
import resource

import pytest

from lib import place, proc
from lib.place import wait_for

NOBODY = 65534


def must_say_why_and_exit_7(program):
    """programs/exit_7.c ran to its end, and samepage said one line."""
    program.must_finish(7, timeout=20)
    assert len(program.samepage_lines()) == 1, program.stderr()
    assert program.stderr().splitlines() == program.samepage_lines(), program.stderr()


def test_static_program(daemon, compiled):
    """A static program has no libc whose calls could be kept out of a lift."""
    program = daemon.run(compiled("exit_7", "-static"), 0.5)
    must_say_why_and_exit_7(program)


def test_kernel_without_move(fault_daemon, compiled):
    """A kernel without UFFDIO_MOVE (made so by the test build's feature mask)."""
    program = fault_daemon.run(compiled("exit_7"), 0.5, env={"SAMEPAGE_TEST_FEATURES": "no-move"})
    must_say_why_and_exit_7(program)


def test_no_permission_for_userfaultfd(make_daemon, compiled):
    """A user who gets no userfaultfd for faults of the kernel, with a daemon of the same user."""
    place.need_root()
    place.need_build()
    if pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() != "0":
        pytest.skip("vm.unprivileged_userfaultfd lets everybody have one")
    if pathlib.Path("/dev/userfaultfd").exists() and \
            os.stat("/dev/userfaultfd").st_mode & 0o006 == 0o006:
        pytest.skip("/dev/userfaultfd is open to everybody")
    program_path = compiled("exit_7")
    for path in (place.BUILD, program_path):
        if any(not part.stat().st_mode & 0o001 for part in (path, *path.parents)):
            pytest.skip(f"another user cannot get at {path}")
    daemon = make_daemon(uid=NOBODY).start()
    must_say_why_and_exit_7(daemon.run(program_path, 0.5))


IN_NAMESPACE = """
import os, sys
child = os.fork()
if not child:
    print(os.getpid(), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
"""


def test_children_in_another_namespace_of_processes(daemon):
    """The first process there, which all others end with, is the program's own child, not one of ours."""
    place.need_root()
    program = daemon.run("unshare", "--pid", "/usr/bin/python3", "-c", IN_NAMESPACE)
    assert [program.line(), program.line()] == ["1", "0"], program.stderr()
    program.must_finish(0)
    assert len(program.samepage_lines()) == 1 and "namespace of processes" in program.stderr(), program.stderr()


def test_no_place_for_the_socket(make_daemon, compiled):
    """No daemon runs, and none can be started because its socket's folder cannot be written."""
    daemon = make_daemon()
    program = daemon.run(compiled("exit_7"), 0.5, env={"SAMEPAGE_SOCKET": "/proc/samepage/s.sock"})
    must_say_why_and_exit_7(program)


def test_x_no_room_in_files(daemon, compiled):
    """RLIMIT_FSIZE, which kills who goes beyond it: a program that may not raise it runs to its end, also where
    what samepage says does not go into stderr; one that may has it as it was."""
    limited = ["prlimit", "--fsize=0:0", "--", place.BUILD / "samepage", "run", "--all", "--", compiled("exit_7"), 0.1]
    program = daemon.plain(*limited)
    program.must_finish(7)
    assert program.stderr() == ""
    program = daemon.plain("sh", "-c", 'exec "$@" 2>&1', "sh", *limited)
    line = program.line()
    assert line.startswith("samepage:") and "RLIMIT_FSIZE" in line, line
    program.must_finish(7)
    program = daemon.plain("prlimit", "--fsize=4096:unlimited", "--", place.BUILD / "samepage", "run", "--all", "--",
                           compiled("x_rows"), "hold")
    program.region()
    assert resource.prlimit(program.pid, resource.RLIMIT_FSIZE) == (4096, resource.RLIM_INFINITY)
    wait_for(lambda: f"{daemon.ps(program.pid)} {program.stderr()}",
             lambda: (daemon.ps(program.pid) or {}).get("state") == "merging")
    program.say()
    program.must_finish(0)


def test_program_not_found(daemon):
    """samepage run of something that is not there: a message, not a crash; the shells' status."""
    program = daemon.run("/nonexistent/program")
    assert program.finish() in (1, 127)
    assert len(program.stderr().splitlines()) == 1, program.stderr()


def max_map_count():
    return int(pathlib.Path("/proc/sys/vm/max_map_count").read_text())


def mappings(pid):
    return len(pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines())


def test_mappings_nearly_used_up(daemon, compiled):
    """X: a program that has nearly all mappings that the kernel allows keeps its room: it is left
    alone, or merged within what is left, and none of its own calls fails."""
    count = max_map_count() - 300
    programs = [daemon.run(compiled("many_maps"), "before", count, -3) for _ in range(2)]
    for program in programs:
        wait_for(f"nothing is said about {program.pid}", program.samepage_lines)
        program.say("end")
        program.must_finish(0)
        assert program.stderr().splitlines() == program.samepage_lines(), program.stderr()
        assert len(program.samepage_lines()) == 1, program.stderr()
        assert "max_map_count" in program.samepage_lines()[0]


def test_mappings_used_up_after_merging(daemon, compiled):
    """X: merging takes its budget of mappings first (every second page is merged alone), then the
    program needs nearly all: it gets them, as it would without merging."""
    count = max_map_count() - 300
    programs = [daemon.run(compiled("many_maps"), "after", count, 2) for _ in range(2)]
    for program in programs:
        program.region()
    daemon.wait_sharing(200)
    daemon.wait()
    pid = programs[0].pid
    used = mappings(pid)
    assert used < max_map_count() / 2, f"merging took {used} mappings of pid {pid}"
    for program in programs:
        program.say()
        assert proc.exists(program.pid)
    for program in programs:
        program.must_finish(0, timeout=40)
        assert program.stderr().splitlines() == program.samepage_lines(), program.stderr()
