# SPDX-License-Identifier: Apache-2.0
"""Frames that leave memory where there is no swap (S1 to S11): into the store, and back, shared."""

import json
import os
import pathlib
import signal

import pytest

from lib import proc
from lib.place import wait_for
from lib.store import server_threads, store_daemon, store_file, store_process  # noqa: F401

PAGES = 2048
SHARERS = 3


def start(daemon, compiled, n=SHARERS, pages=PAGES):
    """n programs whose pages are all equal, and merged; the daemon does nothing by itself then."""
    programs = [daemon.run(compiled("rewrites"), pages) for _ in range(n)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area, share=1.0)
    daemon.set(run=0)
    return programs


def tell(program, what):
    program.say(what)
    assert program.line(120) == "done 0", f"{what}: {program.stderr()}"


def tell_all(programs, what):
    for program in programs:
        tell(program, what)


def reclaim(daemon, much="all", *options):
    return json.loads(daemon.cli("reclaim", "--json", *options, much).stdout)


def news(daemon, evicted):
    """What came back is told within a second or two."""
    wait_for(lambda: f"not {evicted} frames are out: {daemon.status()}",
             lambda: daemon.status("frames_evicted") == evicted)


def flip(daemon, offset, length=1):
    """A bit of packed frames in memory, in the piece that is filled first."""
    pid = store_process(daemon, "worker")
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if "samepage-store" in os.readlink(fd) and os.stat(fd).st_size == 65536 << 20:
            with open(fd, "r+b", buffering=0) as pieces:
                pieces.seek((1 << 20) + offset)
                old = pieces.read(length)
                pieces.seek((1 << 20) + offset)
                pieces.write(bytes(b ^ 1 for b in old))
            return
    pytest.fail("the pieces were not found")


def test_s1_s6_s7_out_and_back(cgroup, store_daemon, compiled):
    """Frames leave memory, and come back at a touch, shared as before, without a pass; what a program wrote
    stays its own."""
    daemon = store_daemon(cgroup=cgroup)
    programs = start(daemon, compiled)
    tell(programs[0], "own 7 10 100")
    before, used = daemon.status(), cgroup.used()
    assert before["pages_shared"] >= PAGES
    assert before["pool_bytes"] == before["pages_shared"] * 4096
    out = reclaim(daemon)
    assert out["evicted"] == before["pages_shared"] and out["cannot"] == 0
    after = daemon.status()
    assert after["frames_evicted"] == before["pages_shared"]
    assert after["store_memory_bytes"] > 0 and after["pool_bytes"] == 0
    # They went, and what holds them packed is smaller; the kernel counts what is freed in batches, later.
    less = out["bytes"] - after["store_memory_bytes"] - (1 << 20)
    wait_for(lambda: f"{used - cgroup.used()} bytes less, not {less}", lambda: used - cgroup.used() > less)
    assert out["bytes"] - after["store_memory_bytes"] > 3 << 19
    for program in programs:
        assert proc.resident_from_files(program.pid, *program.area) == 0
        tell(program, "check")
    news(daemon, daemon.status("pages_shared") - PAGES)
    again = daemon.status()
    assert again["pages_sharing"] == before["pages_sharing"]
    assert again["pages_shared"] == before["pages_shared"]
    assert again["full_scans"] == before["full_scans"]
    assert again["store_errors"] == again["store_read_errors"] == again["store_checksum_errors"] == 0


def test_s2_a_second_chance(store_daemon, compiled):
    """Who came back since the last look stays once, whichever site touched it."""
    daemon = store_daemon()
    programs = start(daemon, compiled)
    everything = reclaim(daemon)["evicted"]
    tell(programs[2], "check")
    news(daemon, everything - PAGES)
    first = json.loads(daemon.cli("reclaim", "--json", "4K").stdout)
    assert first["evicted"] == 1
    assert first["referenced"] >= PAGES - 1
    assert daemon.status("second_chances") >= PAGES - 1
    assert reclaim(daemon)["evicted"] >= PAGES - 1
    tell_all(programs, "check")


@pytest.mark.parametrize("how", ["stopped", "fork"])
def test_s3_from_all_sites_at_once(store_daemon, compiled, how):
    """Also from a program that is stopped, and from a child that has no agent."""
    daemon = store_daemon()
    programs = start(daemon, compiled)
    if how == "stopped":
        programs[1].signal(signal.SIGSTOP)
    else:
        for pid in programs[1].agents():
            os.kill(pid, signal.SIGKILL)
    assert reclaim(daemon)["evicted"] >= PAGES
    for program in programs:
        assert proc.resident_from_files(program.pid, *program.area) == 0
    programs[1].signal(signal.SIGCONT)
    tell_all(programs, "check")


def test_s4_locked_frames_stay(store_daemon, compiled):
    """Locked memory is merged, and its frames never leave, though others map them, too."""
    daemon = store_daemon()
    daemon.set(run=0)
    programs = [daemon.run(compiled("locked"), "advised") for _ in range(2)]
    for program in programs:
        program.area = program.region()
    programs[0].say("lock")
    assert programs[0].line() == "lock 0"
    daemon.set(run=1)
    for program in programs:
        daemon.wait_merged(program, program.area, share=1.0)
    daemon.set(run=0)
    there = proc.resident_from_files(programs[0].pid, *programs[0].area)
    assert there > 0
    got = reclaim(daemon)
    assert got["locked"] >= there
    assert proc.resident_from_files(programs[0].pid, *programs[0].area) == there
    programs[0].say("unlock")
    assert programs[0].line() == "unlock 0"
    assert reclaim(daemon)["evicted"] >= there
    for program in programs:
        program.say("check")
        assert program.line() == "ok"


def test_s5_only_the_domain_that_is_named(store_daemon, compiled):
    daemon = store_daemon()
    programs = start(daemon, compiled)
    names = json.loads(daemon.cli("ps", "--json").stdout)["processes"]
    domain = names[0]["domain"]
    assert daemon.cli("reclaim", "--domain", "u4294967294", "all", check=False).returncode == 1
    assert daemon.status("frames_evicted") == 0
    assert reclaim(daemon, "all", "--domain", domain)["evicted"] >= PAGES
    tell_all(programs, "check")


def lost(program):
    """The pages that raise SIGBUS; all others are right."""
    program.say("lost")
    word, n = program.line(120).split()
    assert word == "done" and "WRONG BYTES" not in program.stderr(), program.stderr()
    return int(n)


def must_be_exact(daemon, programs):
    """As many pages are lost as counters and log say, in each of the programs the same."""
    found = [lost(program) for program in programs]
    assert found[0] > 0 and found == [found[0]] * len(programs), found
    # A frame may be lost that none of these has: they share some with each other's libraries.
    wait_for(lambda: f"not {found[0]} counted: {daemon.status()}",
             lambda: daemon.status("store_errors") >= found[0])
    assert "is lost" in daemon.log()
    assert [lost(program) for program in programs] == found
    return found[0]


def test_s8_bytes_that_are_wrong_are_never_handed_out(store_daemon, compiled):
    """Flipped bits: SIGBUS for who touches these pages, errors that are counted and logged; all others right."""
    daemon = store_daemon()
    programs = start(daemon, compiled)
    reclaim(daemon)
    for i in range(4):
        flip(daemon, 40 + (i << 16))  # of packed bytes, no two of one frame
    assert must_be_exact(daemon, programs) <= 4
    assert daemon.status("store_checksum_errors") > 0


def truncate(daemon, folder, share):
    """What is in the store's file is cut off."""
    with open(store_file(daemon, folder), "r+b") as file:
        file.truncate(int(daemon.status("store_file_bytes") * share) & ~0xfff)


@pytest.mark.parametrize("share", [0, 0.5])
def test_s8_the_file_cannot_be_read(store_daemon, compiled, tmp_path, share):
    """What was in the part that is gone is an error, what is in memory, or in the rest, is not."""
    daemon = store_daemon(swap_file=tmp_path / "swap", swap_size="64M", swap_memory="4M")
    programs = start(daemon, compiled, pages=4 * PAGES)
    assert not (tmp_path / "swap").exists()
    reclaim(daemon)
    out = daemon.status("frames_evicted")
    assert daemon.status("store_file_bytes") > 0
    truncate(daemon, tmp_path, share)
    assert must_be_exact(daemon, programs) < (out if share else 4 * PAGES)
    assert daemon.status("store_read_errors") > 0


def test_s3_a_full_store_stops_eviction_and_says_so(store_daemon, compiled):
    daemon = store_daemon(swap_memory="4M")
    programs = start(daemon, compiled, pages=8 * PAGES)
    done = daemon.cli("reclaim", "all", check=False)
    assert done.returncode == 1
    assert "the store is full" in done.stderr
    status = daemon.status()
    assert 0 < status["frames_evicted"] < status["pages_shared"]
    assert status["store_memory_bytes"] <= 4 << 20
    tell_all(programs, "check")


def test_s9_equal_to_what_is_out(store_daemon, compiled):
    """A page that equals a frame that is out merges into it."""
    daemon = store_daemon()
    programs = start(daemon, compiled)
    shared = daemon.status("pages_shared")
    reclaim(daemon)
    programs.append(daemon.run(compiled("rewrites"), PAGES))
    programs[-1].area = programs[-1].region()
    daemon.set(run=1)
    daemon.wait_merged(programs[-1], programs[-1].area, share=1.0)
    daemon.set(run=0)
    assert daemon.status("pages_shared") <= shared + PAGES // 4
    tell_all(programs, "check")


@pytest.mark.parametrize("how", ["exit", "kill", "unmerge"])
def test_s10_nothing_is_left(store_daemon, compiled, how):
    """Slots go with their last users."""
    daemon = store_daemon()
    programs = start(daemon, compiled)
    reclaim(daemon)
    assert daemon.status("store_memory_bytes") > 0
    if how == "unmerge":
        daemon.cli("unmerge")
        tell_all(programs, "check")
    for program in programs:
        if how == "kill":
            os.kill(program.pid, signal.SIGKILL)
            program.popen.wait()
        else:
            program.popen.stdin.close()
            program.must_finish(0)
    wait_for(lambda: f"something is left: {daemon.status()}",
             lambda: daemon.status("store_memory_bytes") < 1 << 20 and daemon.status("segments") == 0)


def test_s11_run_2_while_all_is_out(store_daemon, compiled):
    daemon = store_daemon()
    programs = start(daemon, compiled)
    reclaim(daemon)
    daemon.set(run=2)
    status = daemon.status()
    assert status["pages_shared"] == status["pages_sharing"] == status["frames_evicted"] == 0
    for program in programs:
        assert proc.resident_from_files(program.pid, *program.area) == 0
    tell_all(programs, "check")


def in_the_store(program):
    """Mappings of the store's files: they have no path but their number."""
    with open(f"/proc/{program.pid}/maps", encoding="ascii", errors="replace") as maps:
        lines = [line.split() for line in maps]
    return sum(fields[4] != "0" and fields[-1] == "/" + str(int(fields[4]) - 1) for fields in lines)


def test_d1_a_daemon_that_wants_no_store_puts_nothing_more_into_it(store_daemon, compiled):
    """What the daemon before put there stays, and comes back."""
    daemon = store_daemon()
    programs = start(daemon, compiled)
    assert reclaim(daemon)["evicted"] >= PAGES
    daemon.kill()
    config = daemon.directory / "samepaged.conf"
    config.write_text(config.read_text().replace("swap = store", "swap = none"))
    daemon.start()
    daemon.set_full_speed()
    others = [daemon.run(compiled("rewrites"), PAGES) for _ in range(2)]
    for program in others:
        program.area = program.region()
        tell(program, f"write 1 0 {PAGES}")
    daemon.set(run=1)
    for program in others:
        daemon.wait_merged(program, program.area, share=1.0)
    tell_all(programs + others, "check")
    assert in_the_store(programs[0]) > 0 and in_the_store(others[0]) == 0
    assert daemon.status("store_errors") == 0


@pytest.mark.parametrize("who", ["daemon", "server", "worker", "both"])
def test_d1_killed_while_frames_are_out(store_daemon, compiled, who):
    """The daemon: who touches does not even notice. The store's processes: the next ones go on, nothing is
    lost of what is out."""
    daemon = store_daemon()
    programs = start(daemon, compiled)
    shared = daemon.status("pages_shared")
    reclaim(daemon)
    if who == "daemon":
        daemon.kill()
        tell(programs[0], "check")
        daemon.start()
        wait_for(lambda: f"not taken over: {daemon.status()}",
                 lambda: daemon.status("pages_shared") == shared)
        news(daemon, shared - PAGES)
    else:
        for each in ("server", "worker"):
            if who in (each, "both"):
                os.kill(store_process(daemon, each), signal.SIGKILL)
    tell_all(programs, "check")
    assert daemon.status("pages_shared") == shared
    reclaim(daemon)
    tell_all(programs, "check")
    assert daemon.status("store_errors") == 0


def test_d1_all_are_killed_while_half_of_the_frames_are_out(store_daemon, compiled):
    """The daemon first: what is out is read as before. Then the store's processes, one after the other, while there is no
    daemon: they are begun again. Then a daemon comes, and has what there was."""
    daemon = store_daemon()
    programs = start(daemon, compiled)
    shared = daemon.status("pages_shared")
    assert shared // 2 <= reclaim(daemon, str(shared // 2 * 4096))["evicted"] < shared
    pids = {each: store_process(daemon, each) for each in ("server", "worker")}
    daemon.kill()
    tell(programs[0], "check")
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
        tell(programs[1], "check")
    daemon.start()
    wait_for(lambda: f"not taken over: {daemon.status()}", lambda: daemon.status("pages_shared") == shared)
    tell_all(programs, "check")
    daemon.set(run=0)
    assert reclaim(daemon)["evicted"] > 0
    tell_all(programs, "check")
    assert daemon.status("store_errors") == 0


def test_reclaim_says_what_is_wrong(store_daemon, daemon):
    done = daemon.cli("reclaim", "1M", check=False)
    assert done.returncode == 1 and "swap = store" in done.stderr
    for words in ([], ["x"], ["1", "2"], ["0"], ["-1"], ["1X"], ["99999999999T"], ["--what", "1M"]):
        assert daemon.cli("reclaim", *words, check=False).returncode == 2, words
    other = store_daemon()
    assert reclaim(other)["evicted"] == 0


@pytest.mark.parametrize("how", ["memory", "file"])
def test_s6_who_touches_a_frame_does_not_wait_for_other_programs(store_daemon, tmp_path, how):  # noqa: F811
    """The store's server goes before them, where that is allowed."""
    status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    if not int(status["CapEff"], 16) >> 23 & 1:
        pytest.skip("no CAP_SYS_NICE")
    daemon = store_daemon(**({"swap_file": tmp_path / "swap", "swap_size": "8M"} if how == "file" else {}))
    wanted = (os.SCHED_RR if how == "file" else os.SCHED_OTHER, -20)

    def order():
        return {(os.sched_getscheduler(t), os.getpriority(os.PRIO_PROCESS, t)) for t in server_threads(daemon)}

    wait_for(lambda: f"they do not go first: {order()}", lambda: order() == {wanted})
