# SPDX-License-Identifier: Apache-2.0
"""K1: madvise and prctl answer as the kernel's do, and registration is inherited."""

import pathlib
import select
import signal
import subprocess

import pytest

from lib import proc
from lib.place import PATIENCE, patient, wait_for

KSM = pathlib.Path("/sys/kernel/mm/ksm/run")


def need_ksm():
    if not KSM.exists():
        pytest.skip("this kernel has no KSM to compare with")


def answers(program):
    out, _ = program.popen.communicate(timeout=patient(PATIENCE))
    assert program.popen.returncode == 0, program.stderr()
    return out.decode().splitlines()


def kernels_own(path, how):
    done = subprocess.run([path, how], capture_output=True, text=True, check=True,
                          timeout=patient(PATIENCE))
    lines = done.stdout.splitlines()
    assert len(lines) > 800 and any(" mmmmmmmm" in line for line in lines), lines[:9]
    return lines


def differences(want, got):
    return [pair for pair in zip(want, got, strict=True) if pair[0] != pair[1]]


@pytest.mark.parametrize("how", ["libc", "syscall"])
@pytest.mark.parametrize("all", [False, True], ids=["advised", "all"])
def test_k1_calls_answer_as_the_kernel(daemon, compiled, how, all):
    need_ksm()
    want = kernels_own(compiled("k1_calls"), how)
    program = daemon.run(compiled("k1_calls"), how, all=all)
    assert differences(want, answers(program)) == []
    assert program.samepage_lines() == []


def test_k1_calls_without_ksm(fault_daemon, compiled):
    """The same where the gate must answer in the kernel's place: all but the flags, which are the kernel's,
    process_madvise, and what exec inherits."""
    need_ksm()

    def results(lines):
        return [line.rsplit(" ", 1)[0] for line in lines
                if " process-" not in line and " in-exec" not in line]

    want = results(kernels_own(compiled("k1_calls"), "libc"))
    program = fault_daemon.run(compiled("k1_calls"), "libc", all=False,
                               env={"SAMEPAGE_TEST_NO_KSM": "1"})
    assert differences(want, results(answers(program))) == []


@pytest.mark.parametrize("how", ["prctl-self", "prctl-fork", "prctl-exec", "advise-self", "advise-fork"])
def test_k1_registration_is_inherited(daemon, compiled, how):
    """Without --all: merged is what was registered, here or in who forked or executed this; taken back, it
    is the program's own again before the call returns."""
    need_ksm()
    programs = [daemon.run(compiled("k1_inherit"), *how.split("-"), 8, all=False) for _ in range(2)]
    for program in programs:
        word, pid = program.line().split()
        assert word == "pid"
        program.holder, program.area = int(pid), program.region()
    for program in programs:
        daemon.wait_merged(program, program.area, pid=program.holder)
    for program in programs:
        program.say()
        assert program.line() == "unmerged"
        assert daemon.merged_pages(program, program.area, program.holder) == 0
    daemon.wait()
    for program in programs:
        assert daemon.merged_pages(program, program.area, program.holder) == 0
        assert program.samepage_lines() == []
        program.say()
        program.must_finish(0)


@pytest.mark.parametrize("all", [False, True], ids=["prctl", "all"])
@pytest.mark.parametrize("ksm", [True, False], ids=["ksm", "no-ksm"])
@pytest.mark.parametrize("by", [(), ("-DBY_PROCESS",)], ids=["madvise", "process_madvise"])
def test_k1_what_is_taken_out_stays_out(fault_daemon, compiled, all, ksm, by):
    """MADV_UNMERGEABLE in the middle of memory that is merged all the same, by prctl or --all: the halves on
    both sides are merged, the middle is not."""
    need_ksm()
    daemon = fault_daemon
    env = {} if ksm else {"SAMEPAGE_TEST_NO_KSM": "1"}
    programs = [daemon.run(compiled("k1_inherit", *by), "except", "self", 8, all=all, env=env) for _ in range(2)]
    for program in programs:
        program.whole = program.region("all")
        said = program.line()
        if said.startswith("skip "):
            pytest.skip(said[5:])
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.whole, share=0.49)
    daemon.wait()
    for program in programs:
        assert daemon.merged_pages(program, program.area) == 0
        program.say()
        assert program.line() == "unmerged"
        program.say()
        program.must_finish(0)


@pytest.mark.parametrize("all", [False, True], ids=["prctl", "all"])
@pytest.mark.parametrize("ksm", [True, False], ids=["ksm", "no-ksm"])
def test_k1_what_is_taken_out_when_it_was_merged_stays_out(fault_daemon, compiled, all, ksm):
    need_ksm()
    daemon = fault_daemon
    env = {} if ksm else {"SAMEPAGE_TEST_NO_KSM": "1"}
    programs = [daemon.run(compiled("k1_inherit"), "later", "self", 8, all=all, env=env) for _ in range(2)]
    for program in programs:
        program.whole = program.region("all")
    for program in programs:
        daemon.wait_merged(program, program.whole, share=1)
        program.say()
        program.line()
        program.area = program.region()
        assert daemon.merged_pages(program, program.area) == 0
    daemon.wait()
    for program in programs:
        assert daemon.merged_pages(program, program.area) == 0


def test_k1_what_is_merged_while_other_parts_are_taken_out(fault_daemon, compiled):
    """process_madvise of two parts: if it asks for them one by one it is stopped in between, and the first is merged."""
    need_ksm()
    daemon, fault = fault_daemon, {"SAMEPAGE_FAULT": "gate-asks:2:19"}
    program, _ = [daemon.run(compiled("k1_inherit", "-DBY_PROCESS"), "later", "self", 8, all=False, env=env)
                  for env in (fault, {})]
    start, length = program.region("all")
    daemon.wait_merged(program, (start, length), share=1)
    program.say()
    ready = program.popen.stdout
    wait_for("it does not go on", lambda: proc.look(program.pid).state == "T" or select.select([ready], [], [], 0)[0])
    if proc.look(program.pid).state == "T":
        daemon.wait_merged(program, (start + length // 4, length // 4))
        program.signal(signal.SIGCONT)
    said = program.line()
    if said.startswith("skip "):
        pytest.skip(said[5:])
    assert daemon.merged_pages(program, program.region()) == 0


def test_k1_what_lies_between_parts_that_are_taken_out_stays_merged(daemon, compiled):
    """process_madvise of two parts un-merges no more than them. Nothing is merged again meanwhile: that is switched off."""
    need_ksm()
    program, _ = [daemon.run(compiled("k1_inherit", "-DBY_PROCESS", "-DAPART"), "later", "self", 8, all=False)
                  for _ in range(2)]
    start, length = program.region("all")
    daemon.wait_merged(program, (start, length), share=1)
    daemon.set(run=0)
    program.say()
    said = program.line()
    if said.startswith("skip "):
        pytest.skip(said[5:])
    at, length = int(said.split()[1], 16), int(said.split()[2])
    part = length // 4
    merged = [daemon.merged_pages(program, area) for area in ((at, part), (at + part, 2 * part), (at + 3 * part, part))]
    assert merged == [0, 2 * part // 4096, 0]


def test_k1_k15_what_is_merged_while_zeros_are_taken_out(fault_daemon, compiled):
    """It asks for its merged pages, then for its zeros; stopped in between, it has pages merged again."""
    need_ksm()
    daemon = fault_daemon
    daemon.set(use_zero_pages=1)
    fault = {"SAMEPAGE_FAULT": "gate-asks:2:19"}
    program, _ = [daemon.run(compiled("k1_inherit"), "zeros", "self", 8, all=False, env=env) for env in (fault, {})]
    start, length = program.region("all")
    middle, half = start + length // 4, length // 4
    wait_for("no zeros", lambda: proc.zero_pages(program.pid, middle + half, half) == half // 4096)
    daemon.wait_merged(program, (middle, half))
    program.say()
    wait_for("it does not stop", lambda: proc.look(program.pid).state == "T")
    daemon.wait_merged(program, (middle, half))
    program.signal(signal.SIGCONT)
    program.line()
    area = program.region()
    assert (daemon.merged_pages(program, area), proc.zero_pages(program.pid, *area)) == (0, 0)


@pytest.mark.parametrize("all", [False, True], ids=["prctl", "all"])
@pytest.mark.parametrize("ksm", [True, False], ids=["ksm", "no-ksm"])
def test_k1_what_is_mapped_where_something_was_taken_out_is_merged(fault_daemon, compiled, all, ksm):
    """MADV_UNMERGEABLE ends with the memory: what is mapped at the same address later is merged as any other."""
    need_ksm()
    env = {} if ksm else {"SAMEPAGE_TEST_NO_KSM": "1"}
    programs = [fault_daemon.run(compiled("k1_inherit"), "anew", "self", 8, all=all, env=env) for _ in range(2)]
    for program in programs:
        program.line()
        program.area = program.region()
    for program in programs:
        fault_daemon.wait_merged(program, program.area)
    for program in programs:
        program.say()
        assert program.line() == "unmerged"
        program.say()
        program.must_finish(0)
