# SPDX-License-Identifier: Apache-2.0
"""swap_file of samepaged.conf(5): whatever it names, nothing that exists is harmed, nothing hangs, and the daemon says what is
to be done."""

import os
import subprocess

import pytest

from lib import place, proc
from lib.disks import disk, mounted  # noqa: F401
from lib.place import wait_for
from lib.store import store_daemon  # noqa: F401


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
