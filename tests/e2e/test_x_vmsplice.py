# SPDX-License-Identifier: Apache-2.0
"""X: what a program writes to pages that it gave to a pipe (vmsplice) shows in the pipe, as it does
on anonymous memory, however much is merged around them."""

import os
import signal

import pytest

from lib import proc
from lib.place import wait_for

PAGES, SPLICED = 2048, 16
WAYS = [("libc",), ("raw",), ("libc", "gift"), ("raw", "gift")]


def wait_passes(daemon, passes=4):
    """Merging goes on for a few passes."""
    scans = daemon.status("full_scans")
    wait_for("no passes", lambda: daemon.status("full_scans") >= scans + passes)


def pair(daemon, compiled, row, *way):
    """A program that does the row and another with equal memory."""
    programs = [daemon.run(compiled("vmsplice", "-fexceptions"), row, *way),
                daemon.run(compiled("x_rows"), "hold")]
    for program in programs:
        program.area = program.region()
    return programs


def finish(program, partner):
    program.say()
    assert program.line() == "ok"
    program.must_finish(0)
    partner.say()
    partner.must_finish(0)


def kill_agents(program):
    agents = program.agents()
    for agent in agents:
        os.kill(agent, signal.SIGKILL)
    wait_for("the agent lives", lambda: not any(proc.exists(agent) for agent in agents))


def wait_pinned(daemon, program):
    """Explain counts the pages in the pipe with those that I/O refers to."""
    def pinned():
        return daemon.explain(program.pid)["pages"]["pinned"]

    wait_for(lambda: f"{pinned()} pages are pinned", lambda: pinned() == SPLICED)


@pytest.mark.parametrize("row", ["before", "after", "zeros-after", "move", "move-after"])
def test_x_vmsplice_unmerged(daemon, compiled, row):
    """What the other tests expect is what the program sees without samepage."""
    program = daemon.plain(compiled("vmsplice", "-fexceptions"), row)
    program.region()
    program.say()
    if row.endswith("after"):
        assert program.line() == "spliced"
        program.say()
    assert program.line() == "ok"
    program.must_finish(0)


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_x_vmsplice_before_merging(daemon, compiled, way):
    program, partner = pair(daemon, compiled, "before", *way)
    daemon.wait_merged(program, program.area, share=0.98)
    wait_passes(daemon)
    assert daemon.merged_pages(program, program.area) <= PAGES - SPLICED
    finish(program, partner)


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_x_vmsplice_after_merging(daemon, compiled, way):
    program, partner = pair(daemon, compiled, "after", *way)
    daemon.wait_merged(program, program.area, share=1)
    program.say()
    assert program.line() == "spliced"
    wait_passes(daemon)
    assert daemon.merged_pages(program, program.area) <= PAGES - SPLICED
    finish(program, partner)


@pytest.mark.parametrize("agent", ["agent", "no-agent"])
def test_x_vmsplice_of_zeros(daemon, compiled, agent):
    """K15: what the pipe was given is the program's page, not the kernel's page of zeros."""
    daemon.set(use_zero_pages=1)
    program, partner = pair(daemon, compiled, "zeros-after")
    wait_for(lambda: f"{daemon.status()}", lambda: proc.zero_pages(program.pid, *program.area) == SPLICED)
    if agent == "no-agent":
        kill_agents(program)
    program.say()
    assert program.line() == "spliced"
    assert proc.zero_pages(program.pid, *program.area) == 0
    program.say()
    assert program.line() == "ok"
    program.must_finish(0)
    partner.say()
    partner.must_finish(0)


def test_x_vmsplice_then_mremap(daemon, compiled):
    """The pages that lie in the pipe are known at their new place."""
    program, partner = pair(daemon, compiled, "move")
    wait_pinned(daemon, program)
    finish(program, partner)


@pytest.mark.parametrize("agent", ["agent", "no-agent"])
def test_x_vmsplice_of_merged_pages_then_mremap(daemon, compiled, agent):
    """Un-merging leaves pieces, and written pages stay where they are: the pages move all the same."""
    program, partner = pair(daemon, compiled, "move-after")
    daemon.wait_merged(program, program.area, share=1)
    if agent == "no-agent":
        kill_agents(program)
    program.say()
    assert program.line() == "spliced"
    wait_passes(daemon)
    finish(program, partner)


def test_x_vmsplice_dropped_pages_merge_again(daemon, compiled):
    program, partner = pair(daemon, compiled, "again")
    daemon.wait_merged(program, program.area, share=1)
    finish(program, partner)


@pytest.mark.parametrize("way", ["libc", "raw"])
def test_x_vmsplice_garbage(daemon, compiled, way):
    """A vector that is none is the kernel's to refuse."""
    program, partner = pair(daemon, compiled, "garbage", way)
    daemon.wait_merged(program, program.area)
    finish(program, partner)


@pytest.mark.parametrize("way", ["libc", "raw"])
def test_x_vmsplice_blocked(daemon, compiled, way):
    """A thread that waits in the call does not keep the gate open; with libc it can be cancelled."""
    program, partner = pair(daemon, compiled, "cancel", way)
    daemon.wait_merged(program, program.area, share=0.95)
    if way == "raw":
        program.kill()  # syscall() is no cancellation point
        return
    finish(program, partner)


def test_x_vmsplice_without_agent(daemon, compiled):
    """What was merged by an agent that was killed is the program's own before it goes into a pipe."""
    program, partner = pair(daemon, compiled, "after")
    daemon.wait_merged(program, program.area, share=1)
    kill_agents(program)
    program.say()
    assert program.line() == "spliced"
    finish(program, partner)


def test_x_vmsplice_explained(daemon, compiled):
    program, _ = pair(daemon, compiled, "before")
    wait_pinned(daemon, program)
