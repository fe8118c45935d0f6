# SPDX-License-Identifier: Apache-2.0
"""N1, N2, N3, T4: with merge_across_nodes=0 pages merge with those of their own node only, into memory of that
node. The machine is to look as one with two nodes (src/agent/nodes.c, src/pool/nodes.c)."""

import pathlib
import sys

import pytest

from lib import fake_agent, place, proc
from lib.control import passes
from lib.place import BUILD_TEST, wait_for
from test_k12_exact import counters, go_on, write
from test_settings import get, put

MIB = 2
PAGES = MIB * 256
HALF = PAGES // 2
TABLE = 0x200000000000
WITHOUT_CALL = pathlib.Path(__file__).parent / "lib/without_call.py"
NOT_SAID = "the kernel does not say on which node its memory lies"


@pytest.fixture
def nodes(make_daemon, tmp_path):
    """A daemon of test builds on a machine with two nodes, which heeds them; nodes.moved: the file that has
    all frames lie on the other one."""
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    daemon = make_daemon(build=BUILD_TEST)
    daemon.moved = tmp_path / "moved"
    daemon.prefix = ["env", "SAMEPAGE_TEST_NODES=2", f"SAMEPAGE_TEST_FRAMES_MOVED={daemon.moved}"]
    daemon.start()
    daemon.set_full_speed()
    assert put(daemon, "merge_across_nodes", "0") is True
    return daemon


@pytest.fixture
def on_nodes(nodes, compiled):
    """on_nodes("a", 0, 1): a stopped program filled with a, its first half on node 0, the second on node 1."""
    programs = []

    def start(fill, first, second):
        program = nodes.run(compiled("n1_nodes"), MIB, all=False, env={"SAMEPAGE_TEST_NODES_AT": str(TABLE)})
        program.area = program.region()
        programs.append(program)
        write(program, f"node {first} 0 {HALF}")
        again(program, f"node {second} {HALF} {PAGES}")
        again(program, f"fill {fill}")
        return program

    yield start
    for program in programs:
        go_on(program)
        program.popen.stdin.close()
        program.must_finish(0)


def again(program, what):
    go_on(program)
    write(program, what)


def must_become(daemon, shared, sharing, unshared):
    """And stay so."""
    want = {"pages_shared": shared, "pages_sharing": sharing, "pages_unshared": unshared, "pages_volatile": 0}
    wait_for(lambda: f"{counters(daemon)} is not {want}: {daemon.log()}", lambda: counters(daemon) == want, 120)
    passes(daemon, 4)
    assert counters(daemon) == want


def halves(program):
    """The frames of each."""
    address, size = program.area
    return [proc.file_pages(program.pid, address + i * size // 2, size // 2) for i in (0, 1)]


def files(*frames):
    return {frame[:2] for some in frames for frame in some}


def policies(daemon):
    """Of the pool's segments that the daemon has mapped."""
    lines = pathlib.Path(f"/proc/{daemon.pid}/numa_maps").read_text().splitlines()
    return [line.split()[1] for line in lines if any(f"file=/{i}" in line.split() for i in range(1, 99))]


def test_n1_pages_merge_with_those_of_their_own_node(nodes, on_nodes):
    """Exact to the page, and each node's frames are in segments of their own, with the kernel's policy."""
    first, second = on_nodes("a", 0, 0), on_nodes("a", 0, 1)
    must_become(nodes, HALF, HALF, PAGES)
    assert halves(first)[0] == halves(second)[0] and halves(first)[1] == halves(second)[1] == []
    third = on_nodes("a", 1, 1)
    must_become(nodes, PAGES, PAGES, PAGES)
    assert halves(third)[0] == [] and halves(third)[1] == halves(second)[1]
    of_0, of_1 = files(halves(first)[0]), files(halves(third)[1])
    assert of_0 and of_1 and not of_0 & of_1
    assert "prefer:0" in policies(nodes), "frames of node 0 are the kernel's matter"


def test_n1_after_a_takeover(nodes, on_nodes):
    """The next daemon knows on which node frames lie."""
    on_nodes("a", 0, 1), on_nodes("a", 0, 1)
    must_become(nodes, PAGES, PAGES, 0)
    nodes.kill()
    nodes.start()
    must_become(nodes, PAGES, PAGES, 0)
    same, other = on_nodes("a", 0, 1), on_nodes("a", 1, 0)
    must_become(nodes, PAGES, 2 * PAGES, PAGES)
    assert len(halves(same)[0]) == len(halves(same)[1]) == HALF and halves(other) == [[], []]


def test_n2_t4_it_changes_only_when_nothing_is_left(nodes, on_nodes):
    on_nodes("a", 0, 0), on_nodes("a", 0, 0), on_nodes("a", 1, 1)
    must_become(nodes, PAGES, PAGES, PAGES)
    assert put(nodes, "merge_across_nodes", "0") is True, "to write what it is succeeds"
    assert put(nodes, "merge_across_nodes", "1") == "EBUSY"
    nodes.set(run=2)
    assert put(nodes, "merge_across_nodes", "1") is True
    nodes.set(run=1)
    must_become(nodes, PAGES, 2 * PAGES, 0)
    assert put(nodes, "merge_across_nodes", "0") == "EBUSY" and get(nodes, "merge_across_nodes") == "1"
    nodes.set(run=2, merge_across_nodes=0)
    nodes.set(run=1)
    must_become(nodes, PAGES, PAGES, PAGES)


def test_n3_a_page_that_moved(nodes, on_nodes):
    """It waits as one of its old node until it is asked to merge, or reported: then it is one of the new node."""
    first, second = on_nodes("a", 0, 0), on_nodes("a", 1, 1)
    must_become(nodes, 0, 0, 2 * PAGES)
    again(first, f"node 1 0 {PAGES}")
    third = on_nodes("a", 0, 0)
    wait_for(lambda: f"not merged: {counters(nodes)}",
             lambda: len(proc.file_pages(second.pid, *second.area)) == PAGES, 120)
    must_become(nodes, PAGES, PAGES, PAGES)
    assert halves(first) == halves(second) and halves(third) == [[], []]
    again(third, f"node 1 0 {PAGES}")
    nodes.set(smart_scan=0)  # every page is asked for in every pass
    must_become(nodes, PAGES, 2 * PAGES, 0)


def test_n3_frames_that_moved(nodes, on_nodes):
    """They are those of their new node; and where new ones do not come to lie on the node of their pages,
    these are left alone until they do."""
    first, _ = on_nodes("a", 0, 0), on_nodes("a", 0, 0)
    must_become(nodes, PAGES, PAGES, 0)
    nodes.moved.touch()
    passes(nodes, 2)
    third = on_nodes("a", 1, 1)
    must_become(nodes, PAGES, 2 * PAGES, 0)
    assert halves(third) == halves(first)
    nodes.set(smart_scan=0)
    on_nodes("b", 0, 0), on_nodes("b", 0, 0)
    passes(nodes, 8)
    assert counters(nodes, ("pages_shared", "pages_sharing")) == {"pages_shared": PAGES, "pages_sharing": 2 * PAGES}
    nodes.moved.unlink()
    must_become(nodes, 2 * PAGES, 3 * PAGES, 0)


def test_n1_an_agent_that_does_not_say(nodes):
    """Its pages are left alone, and it is told why; who says what cannot be is cut off."""
    pages = {0x10000000 + i * fake_agent.PAGE: bytes([i + 1]) * fake_agent.PAGE for i in range(8)}
    silent = [fake_agent.Child(nodes.socket, pages=pages) for _ in range(2)]

    def lie(agent, seq, _):
        return fake_agent.packet(fake_agent.SCAN, agent.report([(0x10000000 | 65 << 1, (1, 2))]), seq)

    liar = fake_agent.Child(nodes.socket, pages=pages, lie={fake_agent.SCAN: lie})
    assert liar.wait() == 0, "the daemon kept the connection"
    wait_for(lambda: f"it is not told: {nodes.log()}",
             lambda: nodes.log().count(NOT_SAID) == 2, 120)
    passes(nodes, 4)
    assert counters(nodes, ("pages_shared", "pages_unshared")) == {"pages_shared": 0, "pages_unshared": 0}
    for child in silent:
        child.kill()


def test_n1_pages_whose_node_was_not_known_once(nodes):
    """They may just not have been in memory: nothing is said of a program whose other pages have a node."""
    pages = {0x10000000 + i * fake_agent.PAGE: bytes([i + 1]) * fake_agent.PAGE for i in range(24)}
    hashes = [(address, (address, 1)) for address in pages]
    on_node_0 = [(address | 1 << 1, code) for address, code in hashes]
    told = [hashes[:1], on_node_0[1:2], hashes[2:12], on_node_0]

    def tell(agent, seq, _):
        return fake_agent.packet(fake_agent.SCAN, agent.report(told.pop(0) if told else []), seq)

    child = fake_agent.Child(nodes.socket, pages=pages, lie={fake_agent.SCAN: tell})
    wait_for(lambda: f"not looked into: {counters(nodes)}",
             lambda: counters(nodes, ("pages_unshared",)) == {"pages_unshared": len(pages)}, 120)
    passes(nodes, 4)
    assert NOT_SAID not in nodes.log()
    child.kill()


def test_n1_a_daemon_that_may_not_choose_the_node(nodes, on_nodes):
    """Nothing is merged then, which the log says once."""
    nodes.stop()
    nodes.prefix = [sys.executable, WITHOUT_CALL, "mbind", *nodes.prefix]
    nodes.start()
    nodes.set_full_speed()
    assert put(nodes, "merge_across_nodes", "0") is True
    on_nodes("a", 0, 1), on_nodes("a", 0, 1)
    wait_for(lambda: f"it is not told: {nodes.log()}", lambda: "no memory can be had on node" in nodes.log(), 120)
    passes(nodes, 4)
    assert nodes.log().count("no memory can be had on node") == 1
    assert counters(nodes, ("pages_shared", "pages_sharing")) == {"pages_shared": 0, "pages_sharing": 0}


def test_n1_more_nodes_than_can_be_told_apart(make_daemon):
    """merge_across_nodes 0 is refused, also while no program lives that it would be refused for."""
    place.need_root()
    daemon = make_daemon(build=BUILD_TEST)
    daemon.prefix = ["env", "SAMEPAGE_TEST_NODES=65"]
    daemon.start()
    assert put(daemon, "merge_across_nodes", "0") == "EOPNOTSUPP"
    assert get(daemon, "merge_across_nodes") == "1"
