# SPDX-License-Identifier: Apache-2.0
"""X: a thread may do anything while it is in a gated call: be interrupted by handlers that make
others, fork, be cancelled, leave by a jump. Merging goes on in that very program, then and after."""

import collections
import os
import re
import shutil
import signal
import subprocess

import pytest

from lib.place import A_SECOND, wait_for

CASES = ["handlers", "deep", "forks", "cancel", "jump", "exit"]


def start(daemon, compiled, case, how=None):
    flags = ["-fexceptions"] if case.startswith("wait") else []  # clean-ups that unwinding does
    program = (how or daemon.run)(compiled("gate_stress", *flags), case)
    program.area = program.region()
    return program


def end(program, least):
    program.say()
    word, count = program.line().split()
    assert word == "ok" and int(count) >= least
    program.must_finish(0)
    assert program.samepage_lines() == []


@pytest.mark.parametrize("case", CASES)
def test_gate_unmerged(daemon, compiled, case):
    """What the other tests expect is what the program does without samepage."""
    end(start(daemon, compiled, case, daemon.plain), 20)


@pytest.mark.parametrize("case", CASES)
def test_gate_under_stress(daemon, compiled, case):
    """Memory that is filled while it goes on is merged while it goes on."""
    programs = [start(daemon, compiled, case) for _ in range(2)]
    for program in programs:  # a lift; all of it takes its time on a busy machine
        daemon.wait_merged(program, program.area, share=0.03, timeout=60)
    for program in programs:
        end(program, 20)


@pytest.fixture
def stopped(daemon, compiled):
    """A program in whose gate a thread waits: its agent is stopped."""
    agents = []

    def get(case):
        partner = daemon.run(compiled("x_rows"), "hold")
        partner.region()
        program = start(daemon, compiled, case)
        program.partner = partner
        daemon.wait_merged(program, program.area, share=0.98)
        agents.extend(program.agents())
        for agent in agents:
            os.kill(agent, signal.SIGSTOP)
        program.say()
        assert program.line() == "waits"
        program.say()
        return program

    yield get
    for agent in agents:
        try:
            os.kill(agent, signal.SIGCONT)
        except ProcessLookupError:
            pass


def go_on(program):
    for agent in program.agents():
        os.kill(agent, signal.SIGCONT)


def merges_again(daemon, compiled, program):
    """Its agent serves it, and merges: what was un-merged for the call is merged again in the end."""
    fresh = daemon.run(compiled("x_rows"), "hold")
    fresh.region()
    wait_for(lambda: f"not merged again: {daemon.cli('explain', program.pid).stdout}",
             lambda: daemon.merged_pages(program, program.area) * 4096 >= program.area[1] * 0.98)
    scans = daemon.status("full_scans")
    wait_for("no passes", lambda: daemon.status("full_scans") >= scans + 3)
    daemon.wait_state(program.pid, "merging")


@pytest.mark.parametrize("case", ["wait-cancel", "wait-jump"])
def test_gate_left_while_waiting(daemon, compiled, stopped, case):
    """A thread that waits for the agent can be cancelled, and is unwound as it is in any call; a
    handler can jump away, more often than requests can be open at once."""
    program = stopped(case)
    assert program.line() == "done"  # without the agent
    go_on(program)
    merges_again(daemon, compiled, program)
    end(program, 1)


def test_gate_calls_in_handler_while_waiting(daemon, compiled, stopped):
    program = stopped("wait-call")
    go_on(program)
    assert program.line() == "done"
    merges_again(daemon, compiled, program)
    end(program, 2)


def test_gate_killed_while_waiting(daemon, compiled, stopped):
    """D4: a program is killed while a thread of it waits at the gate: nothing of it is left once its agent
    can run, and its partner goes on."""
    program = stopped("wait-call")
    pid, agents = program.pid, program.agents()
    program.popen.kill()
    program.popen.wait()
    for agent in agents:
        os.kill(agent, signal.SIGCONT)
    wait_for(lambda: f"left: {program.processes()}", lambda: not program.processes(), A_SECOND)
    wait_for("the dead program is still listed", lambda: not daemon.ps(pid), A_SECOND)
    program.partner.say()
    program.partner.must_finish(0)
    fresh = [daemon.run(compiled("x_rows"), "hold") for _ in range(2)]
    for one in fresh:
        daemon.wait_merged(one, one.region())


CALL = re.compile(rb"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed>)")


def traced_calls(trace):
    """How often each call was begun between the marks."""
    text = trace.read_bytes()
    begin, finish = text.index(b'"begin\\n"'), text.index(b'"end\\n"')
    lines = text[begin:finish].split(b"\n")[1:-1]
    calls = collections.Counter()
    for line in lines:
        found = CALL.match(line)
        if found and b"resumed>" not in line:
            calls[found.group(1).decode()] += 1
    del calls["futex"]  # whether a thread must wait for another is a matter of luck
    return calls


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not there")
def test_gate_no_call_of_ours(daemon, compiled):
    """The program's threads make the calls that they make without samepage, and no other."""
    traces = [daemon.directory / name for name in ("plain", "merged")]
    strace = ["strace", "-f", "-qq", "-o"]
    plain = daemon.plain(*strace, traces[0], compiled("gate_calls"))
    plain.region()
    plain.say()
    assert plain.line() == "ok"
    plain.must_finish(0)
    partner = daemon.run(compiled("gate_calls"))
    partner.region()
    merged = daemon.plain(*strace, traces[1], daemon.build / "samepage", "run", "--all", "--",
                          compiled("gate_calls"))
    area = merged.region()
    pid = int(subprocess.run(["pgrep", "-P", str(merged.popen.pid), "gate_calls"], check=True,
                             capture_output=True).stdout)
    daemon.wait_merged(merged, area, pid=pid)
    merged.say()
    assert merged.line() == "ok"
    merged.must_finish(0)
    calls = [traced_calls(trace) for trace in traces]
    assert sum(calls[0].values()) > 1000
    assert calls[1] == calls[0]
