# SPDX-License-Identifier: Apache-2.0
"""K10, K13, K14, K16, N2: KSM's settings on real memory, of the daemon and of one domain, with the errors that
the kernel's files give."""

import collections

import pytest

from lib import control, proc
from lib.place import wait_for
from lib.users import ask_as
from test_k12_exact import counters, go_on, write

MIB = 2
PAGES = MIB * 256


def said(daemon, op, **what):
    """What it answers, an error too: its errno, the value, or True."""
    try:
        answer = control.ask(daemon, op, **what)
    except AssertionError as error:
        for name in ("EINVAL", "ERANGE", "ENOENT", "EACCES", "EBUSY", "EOPNOTSUPP"):
            if f"'{name}'" in str(error):
                return name
        raise
    return answer.get("value", True)


def put(daemon, key, value, **what):
    return said(daemon, "set", key=key, value=value, **what)


def get(daemon, key, **what):
    return said(daemon, "get", key=key, **what)


@pytest.fixture
def filled(daemon, compiled):
    """filled("a", "a", ...): so many programs, stopped, all their bytes the same; ended at the end."""
    programs = []

    def start(*fills, domain=None):
        options = ["--domain", domain] if domain else []
        for c in fills:
            program = daemon.plain(daemon.build / "samepage", "run", *options, "--", compiled("k12_fill"), MIB)
            program.area = program.region()
            write(program, f"all {c}")
            programs.append(program)
        return programs[-len(fills):]

    yield start
    for program in programs:
        go_on(program)
        program.popen.stdin.close()
        program.must_finish(0)


def settled(daemon, npages):
    wait_for(lambda: f"not settled: {counters(daemon)} {daemon.cli('ps').stdout}",
             lambda: counters(daemon)["pages_volatile"] == 0 and sum(counters(daemon).values()) == npages, 120)


DEFAULTS = {"run": "1", "merge_across_nodes": "1", "max_page_sharing": "256",
            "stable_node_chains_prune_millisecs": "2000", "use_zero_pages": "0", "smart_scan": "1",
            "advisor_mode": "[none] scan-time", "advisor_max_cpu": "70", "advisor_min_pages_to_scan": "500",
            "advisor_max_pages_to_scan": "30000", "advisor_target_scan_time": "200", "max_kernel_pages": "0",
            "general_profit": "0", "ksm_zero_pages": "0", "pages_skipped": "0", "stable_node_chains": "0",
            "stable_node_dups": "0", "kernel_pages_allocated": "0"}
WRITES = [("sleep_millisecs", "+7", "7"), ("smart_scan", "no", "0"), ("smart_scan", "on", "1"),
          ("advisor_max_cpu", "0", "0"), ("advisor_target_scan_time", "0", "EINVAL"),
          ("advisor_min_pages_to_scan", "18446744073709551615", "18446744073709551615"),
          ("max_page_sharing", "1", "EINVAL"), ("max_page_sharing", "2147483648", "ERANGE"),
          ("max_page_sharing", "2147483647", "2147483647"), ("max_page_sharing", "2", "2"), ("merge_across_nodes", "2", "EINVAL"),
          ("merge_across_nodes", "18446744073709551616", "ERANGE"),
          ("merge_across_nodes", "0", "0"),
          ("advisor_mode", "scan-time ", "EINVAL"), ("advisor_mode", "[none]", "EINVAL"),
          ("stable_node_chains_prune_millisecs", "0", "0"), ("pages_shared", "1", "EACCES"),
          ("nosuch", "1", "ENOENT"), ("run", "3", "EINVAL")]


def test_defaults_and_writes(daemon):
    assert {key: get(daemon, key) for key in DEFAULTS} == DEFAULTS
    for key, value, becomes in WRITES:
        before = get(daemon, key)
        refused = becomes.startswith("E")
        assert put(daemon, key, value) == (becomes if refused else True), (key, value)
        assert get(daemon, key) == (before if refused else becomes), (key, value)
    assert get(daemon, "nosuch") == "ENOENT"
    assert get(daemon, "run", domain="u0:nosuch") == "ENOENT"
    assert put(daemon, "run", "1", domain="nosuch") == "ENOENT"


def test_get_knows_all_that_status_has(daemon):
    for key in control.ask(daemon, "status").keys() - {"ok"}:
        daemon.cli("get", key)


def test_a_domain_has_values_of_its_own(daemon, filled):
    """Which hold for it alone, and live as long as it does, also when the daemon is killed."""
    filled("a", "a", domain="one")
    filled("a", "a", domain="two")
    settled(daemon, 4 * PAGES)
    assert control.ask(daemon, "domains")["domains"] == ["u0:one", "u0:two"]
    assert put(daemon, "run", "2", domain="u0:one") is True
    assert [get(daemon, "pages_sharing", domain=d) for d in ("u0:one", "u0:two")] != ["0", "0"]
    assert get(daemon, "pages_shared", domain="u0:one") == get(daemon, "pages_volatile", domain="u0:one") == "0"
    assert int(get(daemon, "pages_sharing")) == int(get(daemon, "pages_sharing", domain="u0:two")) > PAGES
    assert put(daemon, "max_page_sharing", "16", domain="u0:one") is True
    assert put(daemon, "smart_scan", "0", domain="u0:one") is True
    assert put(daemon, "max_page_sharing", "32") == "EBUSY", "the other one has frames in use"
    assert put(daemon, "pages_to_scan", "77", domain="u0:one") == "EOPNOTSUPP"
    assert [get(daemon, "max_page_sharing", **d) for d in ({}, {"domain": "u0:one"}, {"domain": "u0:two"})] == \
        ["256", "16", "256"]
    daemon.kill()
    daemon.start()
    assert [get(daemon, key, domain="u0:one") for key in ("run", "max_page_sharing", "smart_scan")] == \
        ["2", "16", "0"]
    assert [get(daemon, key) for key in ("run", "max_page_sharing", "smart_scan")] == ["1", "256", "1"]


def test_k13_run_of_one_domain_leaves_the_others_running(daemon, filled):
    first = filled("a", "a", domain="one")
    settled(daemon, 2 * PAGES)
    assert put(daemon, "run", "2", domain="u0:one") is True
    assert [daemon.merged_pages(p, p.area) for p in first] == [0, 0]
    others = filled("b", "b", domain="two")
    wait_for(lambda: f"not merged: {daemon.cli('ps').stdout}",
             lambda: [daemon.merged_pages(p, p.area) for p in others] == [PAGES, PAGES], 120)
    assert get(daemon, "pages_shared", domain="u0:one") == "0" and get(daemon, "run") == "1"
    assert put(daemon, "run", "1", domain="u0:one") is True
    settled(daemon, 4 * PAGES)


def test_k2_with_pages_to_scan_0_nothing_is_scanned(daemon, filled):
    """As ksmd then; all else goes on, and who waits or asks is told. The advisor sets it again."""
    merged = filled("a", "a")
    settled(daemon, 2 * PAGES)
    assert put(daemon, "pages_to_scan", "0") is True and get(daemon, "pages_to_scan") == "0"
    before = counters(daemon, ("pages_scanned", "full_scans"))
    late, = filled("a")
    daemon.wait_state(late.pid, "merging")
    for command in (["wait"], ["status"], ["doctor"], ["explain", late.pid]):
        done = daemon.cli(*command, check=False)
        assert "nothing is scanned while pages_to_scan is 0" in done.stdout + done.stderr, done
    waiting = daemon.plain(daemon.build / "tests/lib/linked", "hold", 4)
    line = waiting.line()
    assert "not-merged" in line and "pages_to_scan is 0" in line, line
    waiting.say()
    waiting.must_finish(0)
    assert counters(daemon, ("pages_scanned", "full_scans")) == before
    daemon.set(run=2)
    assert [daemon.merged_pages(p, p.area) for p in merged] == [0, 0]
    daemon.set(run=1, advisor_mode="scan-time")
    assert get(daemon, "pages_to_scan") == "500"
    settled(daemon, 3 * PAGES)


def test_k14_no_frame_has_more_sites(daemon, filled):
    """By the kernel's word; chains and their frames are counted; and it can change only when nothing is
    merged (EBUSY)."""
    daemon.set(run=0, max_page_sharing=32)
    programs = filled("a", "a", "b")
    daemon.set(run=1)
    settled(daemon, 3 * PAGES)
    daemon.set(run=0)
    sites = collections.Counter(f for p in programs for f in proc.file_pages(p.pid, *p.area))
    assert max(sites.values()) <= 32 and sum(sites.values()) == 3 * PAGES
    now = counters(daemon, ("pages_shared", "stable_node_chains", "stable_node_dups"))
    assert now == {"pages_shared": len(sites), "stable_node_chains": 2, "stable_node_dups": len(sites)}
    assert len(sites) >= 3 * PAGES / 32
    assert put(daemon, "max_page_sharing", "32") is True, "to write what it is succeeds"
    assert put(daemon, "max_page_sharing", "33") == "EBUSY"
    assert put(daemon, "merge_across_nodes", "0") == "EBUSY"
    daemon.set(run=2)
    assert put(daemon, "max_page_sharing", "2") is True
    assert put(daemon, "merge_across_nodes", "0") is True
    daemon.set(run=1)
    settled(daemon, 3 * PAGES)
    sites = collections.Counter(f for p in programs for f in proc.file_pages(p.pid, *p.area))
    assert max(sites.values()) == 2


def test_k14_limits_above_the_engines_are_values_of_their_own(daemon, filled):
    """A frame takes a million places at most; whoever sets more reads it, and cannot change it while
    anything is merged."""
    daemon.set(max_page_sharing=2147483647)
    filled("a", "a")
    settled(daemon, 2 * PAGES)
    assert put(daemon, "max_page_sharing", "2147483647") is True
    assert put(daemon, "max_page_sharing", "2147483646") == "EBUSY"
    daemon.set(run=2)
    assert put(daemon, "max_page_sharing", "2147483646") is True
    assert get(daemon, "max_page_sharing") == "2147483646"


def test_k16_smart_scan_skips(daemon, filled):
    """Pages without an equal are left out of passes, and counted; without smart_scan they are not."""
    daemon.set(run=0)
    program, = filled("a")
    go_on(program)
    write(program, "last 3 b")
    daemon.set(run=1)
    settled(daemon, PAGES)
    control.passes(daemon, 3)
    assert int(get(daemon, "pages_skipped")) > 0
    daemon.set(smart_scan=0)
    control.passes(daemon, 2)
    before = get(daemon, "pages_skipped")
    control.passes(daemon, 3)
    assert get(daemon, "pages_skipped") == before


def test_k16_advisor(daemon, filled):
    """It says pages_to_scan itself, within its limits, and nobody else may; to switch it on or off begins
    anew, and only that does."""
    daemon.set(pages_to_scan=123)
    assert put(daemon, "advisor_mode", "none") is True and get(daemon, "pages_to_scan") == "123"
    daemon.set(advisor_min_pages_to_scan=600, run=0)
    assert put(daemon, "advisor_mode", "scan-time") is True
    assert get(daemon, "advisor_mode") == "none [scan-time]" and get(daemon, "pages_to_scan") == "600"
    assert put(daemon, "pages_to_scan", "700") == "EINVAL"
    filled("a", "a")
    daemon.set(advisor_target_scan_time=1, advisor_min_pages_to_scan=650, run=1)
    wait_for("the least is not kept to", lambda: get(daemon, "pages_to_scan") == "650", 120)
    daemon.set(advisor_max_pages_to_scan=100)
    wait_for("the most is not kept to", lambda: get(daemon, "pages_to_scan") == "100", 120)
    assert put(daemon, "advisor_mode", "none") is True and get(daemon, "pages_to_scan") == "5000"


def test_process(daemon, filled):
    """What /proc/PID/ksm_stat is to tell."""
    first, second = filled("a", "a")
    settled(daemon, 2 * PAGES)
    for program in (first, second):
        stat = control.ask(daemon, "process", pid=program.pid)
        profit = stat.pop("ksm_process_profit")
        assert stat == {"ok": True, "pid": program.pid, "ksm_rmap_items": PAGES, "ksm_zero_pages": 0,
                        "ksm_merging_pages": PAGES, "ksm_merge_any": False, "ksm_mergeable": True}
        assert 0 < profit < PAGES * 4096
    assert control.ask(daemon, "process", pid=1) == {"ok": True, "pid": 1, "state": "unknown"}


def test_other_users_see_their_own_domains(daemon, filled):
    filled("a", domain="roots")
    settled(daemon, PAGES)
    assert get(daemon, "pages_shared") != "0"

    def as_nobody(function):
        return ask_as(65534, function)

    assert as_nobody(lambda: control.ask(daemon, "domains"))["domains"] == []
    assert as_nobody(lambda: get(daemon, "run", domain="u0:roots")) == "ENOENT"
    assert as_nobody(lambda: put(daemon, "run", "0", domain="u0:roots")) == "EACCES"
    assert as_nobody(lambda: put(daemon, "smart_scan", "0")) == "EACCES"
    assert as_nobody(lambda: get(daemon, "smart_scan")) == "1"
    assert as_nobody(lambda: get(daemon, "pages_shared")) == "0"
