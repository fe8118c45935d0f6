# SPDX-License-Identifier: Apache-2.0
"""swap_file of samepaged.conf(5): whatever it names, nothing that exists is harmed, nothing hangs, and the daemon says what is
to be done."""

import contextlib
import os
import subprocess

import pytest

from lib import place, proc
from lib.disks import disk, mounted, own_disk  # noqa: F401
from lib.place import wait_for
from lib.store import store_daemon, store_file  # noqa: F401


@pytest.fixture
def refused(tmp_path):
    """refused(path, *words, size=…): a daemon with that file does not start, and says so in one line."""
    place.need_build()
    place.need_root()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")

    def check(path, *words, size="8M"):
        config = tmp_path / "samepaged.conf"
        config.write_text(f"[swap]\nswap = store\nswap_file = {path}\nswap_size = {size}\n")
        done = subprocess.run([place.BUILD / "samepaged", "--foreground", "--config", config, "--socket", tmp_path / "s"],
                              capture_output=True, text=True, timeout=place.patient(60), check=False)
        assert done.returncode not in (0, None), done
        for word in (str(path), *words):
            assert word in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert not [p for p in proc.all_processes() if str(tmp_path / "s").encode() in p.cmdline.split(b"\0")]

    return check


def test_what_exists_is_not_touched(refused, disk):
    """A file with contents, also somebody else's; a link to one, a link to nothing, a FIFO, a folder."""
    mine = disk / "mine"
    mine.write_text("mine")
    refused(mine, "exists", "remove it")
    os.chown(mine, 65534, 65534)
    mine.chmod(0o666)
    refused(mine, "exists", "remove it")
    link, to_nothing = disk / "link", disk / "to_nothing"
    link.symlink_to(mine)
    refused(link, "exists", "remove it")
    to_nothing.symlink_to(disk / "nothing")
    refused(to_nothing, "exists", "remove it")
    os.mkfifo(disk / "fifo")
    refused(disk / "fifo", "exists", "remove it")
    refused(disk, "exists", "remove it")
    refused(f"{disk}/", "is a folder")
    refused(disk / "no" / "swap", "no folder", "make it")
    refused(mine / "swap", "no folder", "make it")
    assert mine.read_text() == "mine"
    assert sorted(os.listdir(disk)) == ["fifo", "link", "mine", "to_nothing"]


def test_file_systems_that_do_not_fit(refused, mounted):
    """In memory, read-only, too small, without fallocate(): nothing is left on them."""
    refused(mounted("tmpfs") / "swap", "in memory")
    refused("/proc/swap", "name another")
    refused(mounted("ext4", "ro") / "swap", "read-only")
    small = mounted("ext4")
    refused(small / "swap", "too little room", "swap_size", size="1G")
    assert os.statvfs(small).f_bavail * os.statvfs(small).f_frsize > 8 << 20
    old = mounted("ext2")
    refused(old / "swap", "fallocate")
    for folder in (small, old):
        assert os.listdir(folder) == ["lost+found"]


def test_a_fuse_file_system_is_asked_nothing(refused, mounted):
    """Its server never answers, not even how it begins: who asks anything waits for ever."""
    refused(mounted("fuse") / "swap", "FUSE")


def test_what_is_in_use_stays(store_daemon, compiled, disk):
    """A daemon with other settings takes the store over as it is, says so, and writes no more than the file has."""
    daemon = store_daemon(swap_file=disk / "swap", swap_size="5M", swap_memory="4M", swap_encrypt="yes")
    programs = [daemon.run(compiled("rewrites"), 4096) for _ in range(2)]
    for program in programs:
        daemon.wait_merged(program, program.region(), share=1.0)
    daemon.set(run=0)
    shared = daemon.status("pages_shared")
    daemon.stop()
    config = daemon.directory / "samepaged.conf"
    config.write_text(f"[swap]\nswap = store\nswap_file = {disk}/other\nswap_size = 1G\nswap_memory = 4M\n")
    daemon.start()
    wait_for(lambda: f"not taken over: {daemon.status()}", lambda: daemon.status("pages_shared") == shared)
    assert "stays so" in daemon.log() and "encrypted" in daemon.log()
    done = daemon.cli("reclaim", "all", check=False)
    assert done.returncode == 1 and "the store is full" in done.stderr
    assert 4 << 20 <= daemon.status("store_file_bytes") <= 5 << 20
    assert os.listdir(disk) == []
    for program in programs:
        program.say("check")
        assert program.line(120) == "done 0"


def free_bytes(folder):
    stat = os.statvfs(folder)
    return stat.f_bfree * stat.f_frsize


def test_what_the_file_is(own_disk, store_daemon, compiled):
    """Mode 0600, without a name, with all its room from the start and never more; and its room is free again at the end."""
    on, _ = own_disk(64)
    before = free_bytes(on)
    daemon = store_daemon(swap_file=on / "swap", swap_size="32M", swap_memory="4M")
    stat = os.stat(store_file(daemon, on))
    assert (stat.st_mode, stat.st_nlink, stat.st_size) == (0o100600, 0, 32 << 20)
    assert os.listdir(on) == ["lost+found"]
    took = before - free_bytes(on)
    assert took >= 32 << 20 and stat.st_blocks * 512 >= 32 << 20
    programs = [daemon.run(compiled("rewrites"), 4096) for _ in range(2)]
    for program in programs:
        daemon.wait_merged(program, program.region(), share=1.0)
    for version in (2, 3):
        daemon.cli("reclaim", "all")
        assert daemon.status("store_file_bytes") > 0
        for program in programs:
            program.say(f"write {version}")
            assert program.line(120) == "done 0"
    then = os.stat(store_file(daemon, on))
    assert then.st_size == 32 << 20 and before - free_bytes(on) == took
    for program in programs:
        program.popen.stdin.close()
        program.must_finish(0)
    daemon.stop()
    wait_for(lambda: f"{before - free_bytes(on)} bytes are still taken", lambda: free_bytes(on) == before)


def test_s3_a_disk_that_cannot_be_written(mounted, own_disk, store_daemon, compiled):
    """The device has no room for what its file system promised: what was to go there stays, nothing is lost, the log says so; and when
    it can be written again, more leaves."""
    tiny = mounted("tmpfs", "size=8M")
    on, _ = own_disk(64, tiny)
    daemon = store_daemon(swap_file=on / "swap", swap_size="32M", swap_memory="4M")
    programs = [daemon.run(compiled("rewrites"), 4096) for _ in range(2)]
    for program in programs:
        daemon.wait_merged(program, program.region(), share=1.0)
    daemon.set(run=0)
    # Of all of it: a loop device (6.18) says of a write of which only a part had room that it is done.
    with open(tiny / "fills", "wb", buffering=0) as fills, contextlib.suppress(OSError):
        while True:
            fills.write(bytes(4096))
    done = daemon.cli("reclaim", "all", check=False)
    assert done.returncode == 1 and "cannot be written" in done.stderr
    status = daemon.status()
    assert 0 < status["frames_evicted"] < status["pages_shared"]
    assert status["store_write_errors"] > 0 and status["store_errors"] == status["store_file_bytes"] == 0
    wait_for(lambda: f"not logged: {daemon.log()}", lambda: "could not be written" in daemon.log())
    for program in programs:
        program.say("check")
        assert program.line(120) == "done 0"
    subprocess.run(["mount", "-o", "remount,size=64M", tiny], check=True)
    wait_for(lambda: f"does not leave: {daemon.status()}",
             lambda: daemon.cli("reclaim", "all", check=False).returncode == 0)
    for program in programs:
        program.say("check")
        assert program.line(120) == "done 0"
    status = daemon.status()
    assert status["store_errors"] == status["store_read_errors"] == status["store_checksum_errors"] == 0
