# SPDX-License-Identifier: Apache-2.0
"""S4, K17, X: memory that the program advised is merged though it is bound to nodes, and stays bound: every page has
its policy while it is merged, when it was written, when it is un-merged, and in a forked child."""

import signal

import pytest

from lib import place, proc

MODES = {"bind": ("2 1", "bind:0"), "static": ("8002 1", "bind=static:0"), "preferred": ("1 1", "prefer:0"),
         "local": ("4 0", "local"), "interleave": ("3 1", "interleave:0")}
CALLS = ["some", "drop", "move", "grow", "protect", "fork", "other"]


@pytest.fixture(autouse=True)
def policies():
    place.need_policies()


def start(daemon, compiled, mode, *more, all=True):
    program = daemon.run(compiled("bound"), mode, *more, all=all)
    program.area = program.region()
    return program


def start_merged(daemon, compiled, mode, partner=None, all=True):
    programs = [start(daemon, compiled, mode, all=all), start(daemon, compiled, partner or mode, all=all)]
    for program in programs:
        daemon.wait_merged(program, program.area)
    return programs


def ask(program, word):
    program.say(word)
    return program.line()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("all", [True, False], ids=["all", "advised-only"])
def test_s4_bound_memory_that_was_advised_is_merged(daemon, compiled, mode, all):
    """With memory that has no policy, too. Un-merged the kernel itself names the policy."""
    programs = start_merged(daemon, compiled, mode, "default", all)
    told, shown = MODES[mode]
    bound, free = programs
    assert ask(bound, "tell") == f"policy {told}"
    assert ask(free, "tell") == "policy 0 0"
    assert ask(bound, "some") == "some 0"
    assert ask(bound, "fork") == "fork 0"
    daemon.cli("off")
    assert daemon.merged_pages(free, free.area) == 0
    assert ask(bound, "tell") == f"policy {told}"
    assert ask(free, "tell") == "policy 0 0"
    assert ask(bound, "maps") == f"maps {shown}"
    assert ask(free, "maps") == "maps default"
    for program in programs:
        assert ask(program, "check") == "ok"


@pytest.mark.parametrize("call", CALLS)
def test_s4_calls_on_it(daemon, compiled, call):
    """They do what they do on bound memory, and the policy stays in force (X)."""
    programs = start_merged(daemon, compiled, "bind")
    for _ in range(3):
        assert ask(programs[0], call) == f"{call} 0"
        assert ask(programs[0], "check") == "ok"
        assert ask(programs[0], "tell") == "policy 2 1"
    assert ask(programs[1], "check") == "ok"
    assert ask(programs[1], "tell") == "policy 2 1"


@pytest.mark.parametrize("mode", ["bind", "default"])
def test_k1_advised_memory_of_which_all_was_merged_is_advised_when_unmerged(daemon, compiled, mode):
    """The mapping of a frame does not show that; what is bound or locked would not be merged again."""
    programs = [start(daemon, compiled, mode) for _ in range(2)]
    had = ask(programs[0], "advised") # none on a kernel without KSM, which has no flag for it
    for program in programs:
        daemon.wait_merged(program, program.area, share=1)
        assert ask(program, "map") == "map 0" # the mappings are read again
    scans = daemon.status("full_scans")
    place.wait_for("no passes", lambda: daemon.status("full_scans") > scans + 4)
    daemon.cli("off")
    for program in programs:
        assert daemon.merged_pages(program, program.area) == 0
        assert ask(program, "advised") == had


@pytest.mark.parametrize("mode", ["bind", "default"])
def test_x_policy_of_the_pool_is_not_the_programs(make_daemon, compiled, mode):
    """N1: the pool's files prefer their node, which nobody is told who asks for the policy of merged memory."""
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    daemon = make_daemon(build=place.BUILD_TEST)
    daemon.prefix = ["env", "SAMEPAGE_TEST_NODES=2"]
    daemon.start()
    daemon.set_full_speed()
    daemon.set(merge_across_nodes=0)
    programs = start_merged(daemon, compiled, mode)
    for program in programs:
        shown = open(f"/proc/{program.pid}/numa_maps", encoding="ascii", errors="replace").read()
        assert "prefer:0 file=" in shown # what the kernel thinks of the frames
        assert ask(program, "tell") == ("policy 2 1" if mode == "bind" else "policy 0 0")
        assert ask(program, "check") == "ok"


def test_s4_bound_and_locked(daemon, compiled):
    programs = start_merged(daemon, compiled, "interleave")
    for program in programs:
        assert ask(program, "lock") == "lock 0"
        daemon.wait_merged(program, program.area)
        assert ask(program, "tell") == "policy 3 1"
        assert ask(program, "some") == "some 0"
    daemon.cli("off")
    for program in programs:
        assert ask(program, "tell") == "policy 3 1"
        assert ask(program, "check") == "ok"


def test_s4_bound_and_unbound_while_merging(daemon, compiled):
    """X: at every instant the policy is one that the program gave, and no byte is lost."""
    daemon.set_full_speed()
    programs = [start(daemon, compiled, "bind") for _ in range(2)]
    assert ask(programs[0], "race") == "race 0"
    daemon.wait_merged(programs[1], programs[1].area)
    for program in programs:
        assert ask(program, "check") == "ok"
        assert ask(program, "tell") == "policy 2 1"


def test_x_policy_is_asked_for_while_memory_is_merged(fault_daemon, compiled):
    """Stopped on its way to the kernel, before anything is merged: the answer is the memory's policy, not the pool's."""
    asks = fault_daemon.run(compiled("bound"), "bind", env={"SAMEPAGE_FAULT": "gate-policy:1:19"})
    asks.area = asks.region()
    asks.say("tell")
    place.wait_for("it does not stop", lambda: proc.look(asks.pid).state == "T")
    start(fault_daemon, compiled, "bind")
    fault_daemon.wait_merged(asks, asks.area, share=1)
    asks.signal(signal.SIGCONT)
    assert asks.line() == "policy 2 1"


def test_k17_bound_and_not_advised_is_left_alone(daemon, compiled):
    program, partner = start(daemon, compiled, "bind", "left"), start(daemon, compiled, "default")
    daemon.wait()
    assert daemon.merged_pages(program, program.area) == 0
    assert ask(program, "tell") == "policy 2 1"
    assert ask(partner, "tell") == "policy 0 0"


def test_k17_home_node_is_left_alone(daemon, compiled):
    """Nobody can ask for it, so nobody could give it back: what it is given to is un-merged."""
    program, partner = start_merged(daemon, compiled, "bind")
    assert ask(program, "home") == "home 0"
    daemon.wait()
    assert daemon.merged_pages(program, program.area) == 0
    assert ask(program, "tell") == "policy 2 1"
    for one in (program, partner):
        assert ask(one, "check") == "ok"


@pytest.mark.parametrize("point", ["lift-mapped:2", "unmerge-copied:1"])
def test_d2_agent_dies_with_bound_memory_in_its_hands(fault_daemon, compiled, point):
    daemon = fault_daemon
    programs = [daemon.run(compiled("bound"), "bind", env=env) for env in ({}, {"SAMEPAGE_FAULT": point})]
    for program in programs:
        program.area = program.region()
    if point.startswith("unmerge"):
        for program in programs:
            daemon.wait_merged(program, program.area)
        daemon.cli("off", check=False)
    place.wait_for(lambda: f"no fault: {daemon.ps(programs[1].pid)}", lambda: not programs[1].agents())
    for program in programs:
        assert ask(program, "check") == "ok"
        assert ask(program, "tell") == "policy 2 1"
