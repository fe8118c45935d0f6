# SPDX-License-Identifier: Apache-2.0
"""X: programs that do unusual things with their memory, threads, descriptors and processes run as
before while they are merged. Two of each run at once, so that they have something to merge."""

import shutil
import subprocess

import pytest

from lib.place import HERE, longer, wait_for

SECONDS = longer(4, 60)


def run_pair(daemon, *argv):
    """Runs two of them; each must exit 0 without a word from samepage, and merging must have
    happened."""
    programs = [daemon.run(*argv) for _ in range(2)]
    seen = []

    def all_ended():
        seen.append(daemon.status("pages_sharing"))
        return not any(program.alive() for program in programs)

    wait_for(lambda: f"the programs do not end: {[p.stderr() for p in programs]}", all_ended,
             SECONDS + 20, every=0.1)
    for program in programs:
        program.must_finish(0)
        assert program.samepage_lines() == []
    assert max(seen) > 1000, f"hardly merged: pages_sharing was {seen}"
    for program in programs:
        lines = program.popen.stdout.read().decode().split("\n")
        assert any(line.startswith("ok") for line in lines), lines


def test_realloc(daemon, compiled):
    """Blocks that grow and shrink by realloc keep their bytes."""
    run_pair(daemon, compiled("realloc_loop"), SECONDS)


def test_dlopen(daemon, compiled):
    """Libraries are loaded and unloaded all the time."""
    run_pair(daemon, compiled("dlopen_loop"), SECONDS, "libm.so.6", "sin")


def test_threads(daemon, compiled):
    """Threads start and are joined all the time."""
    run_pair(daemon, compiled("threads_loop"), SECONDS)


def test_mdwe(daemon, compiled):
    """PR_SET_MDWE is in force, and the program is merged all the same."""
    run_pair(daemon, compiled("mdwe"), SECONDS)


@pytest.mark.parametrize("flags", [("-static-libasan",), ()], ids=["static", "shared"])
def test_asan(daemon, compiled, flags):
    """A program built with AddressSanitizer, its runtime linked in or as a library."""
    run_pair(daemon, compiled("realloc_loop", "-fsanitize=address", *flags), SECONDS)


def test_clang_asan(daemon):
    """The same built by clang, with UndefinedBehaviorSanitizer too."""
    clang = shutil.which("clang") or shutil.which("clang-14")
    if not clang:
        pytest.skip("clang is not installed")
    target = daemon.directory / "realloc_loop-clang"
    built = subprocess.run([clang, "-D_GNU_SOURCE", "-O1", "-fsanitize=address,undefined", "-o",
                            target, HERE / "programs" / "realloc_loop.c"], check=False,
                           capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"clang has no sanitizer runtime: {built.stderr[-200:]}")
    run_pair(daemon, target, SECONDS)


def test_fork(daemon, compiled):
    """Forks all the time, nested: children see the parent's bytes and nobody sees theirs."""
    run_pair(daemon, compiled("fork_loop"), SECONDS)


def test_close_all(daemon, compiled):
    """Closes every descriptor at its start: it stays merged, and its descriptors stay its own."""
    run_pair(daemon, compiled("close_all"), SECONDS)


def test_exec_self(daemon, compiled):
    """Executes itself all the time; its contents are right each time."""
    run_pair(daemon, compiled("exec_self"), SECONDS)
