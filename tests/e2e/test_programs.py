# SPDX-License-Identifier: Apache-2.0
"""X: programs that do unusual things with their memory, threads, descriptors and processes run as
before while they are merged. Two of each run at once, so that they have something to merge."""

import shutil
import subprocess

import pytest

from lib.place import HERE, longer, wait_for

SECONDS = longer(4, 60)


def run_pair(daemon, program, *args, seconds=-SECONDS):
    """Runs two of them, until enough is merged and they ran for so long; each must exit 0 without a word
    from samepage."""
    programs = [daemon.run(program, seconds, *args) for _ in range(2)]

    def merged():
        assert all(program.alive() for program in programs), [p.stderr() for p in programs]
        return daemon.status("pages_sharing") > 1000

    wait_for(lambda: f"hardly merged: {daemon.status()} {daemon.cli('ps').stdout}", merged)
    for program in programs:
        program.say("end")
    for program in programs:
        program.must_finish(0)
        assert program.samepage_lines() == []
    for program in programs:
        lines = program.popen.stdout.read().decode().split("\n")
        assert any(line.startswith("ok") for line in lines), lines


def test_realloc(daemon, compiled):
    """Blocks that grow and shrink by realloc keep their bytes."""
    run_pair(daemon, compiled("realloc_loop"))


def test_dlopen(daemon, compiled):
    """Libraries are loaded and unloaded all the time."""
    run_pair(daemon, compiled("dlopen_loop"), "libm.so.6", "sin")


def test_threads(daemon, compiled):
    """Threads start and are joined all the time."""
    run_pair(daemon, compiled("threads_loop"))


def test_mdwe(daemon, compiled):
    """PR_SET_MDWE is in force, and the program is merged all the same."""
    run_pair(daemon, compiled("mdwe"))


@pytest.mark.parametrize("flags", [("-static-libasan",), ()], ids=["static", "shared"])
def test_asan(daemon, compiled, flags):
    """A program built with AddressSanitizer, its runtime linked in or as a library."""
    run_pair(daemon, compiled("realloc_loop", "-fsanitize=address", *flags))


@pytest.mark.parametrize("sanitizer", ["address,undefined", "memory", "thread"])
def test_clang_sanitizer(daemon, sanitizer):
    """The same built by clang; MemorySanitizer and ThreadSanitizer start only where nothing lies in their
    shadow."""
    clang = shutil.which("clang") or shutil.which("clang-14")
    if not clang:
        pytest.skip("clang is not installed")
    target = daemon.directory / "realloc_loop-clang"
    built = subprocess.run([clang, "-D_GNU_SOURCE", "-O1", f"-fsanitize={sanitizer}", "-o",
                            target, HERE / "programs" / "realloc_loop.c"], check=False,
                           capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"clang has no sanitizer runtime: {built.stderr[-200:]}")
    run_pair(daemon, target)


def test_fork(daemon, compiled):
    """Forks all the time, nested: children see the parent's bytes and nobody sees theirs."""
    run_pair(daemon, compiled("fork_loop"))


def test_close_all(daemon, compiled):
    """Closes every descriptor at its start: it stays merged, and its descriptors stay its own."""
    run_pair(daemon, compiled("close_all"))


def test_exec_self(daemon, compiled):
    """Executes itself all the time; its contents are right each time."""
    run_pair(daemon, compiled("exec_self"), seconds=SECONDS)
