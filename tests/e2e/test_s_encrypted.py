# SPDX-License-Identifier: Apache-2.0
"""swap_encrypt: nothing that a program has can be read in the store's file, which comes back right all the same, after kills, too;
and the key is nowhere but in the store's index."""

import os
import shutil
import signal
import subprocess

import pytest

from lib import place
from lib.disks import disk  # noqa: F401
from lib.place import wait_for
from lib.store import store_daemon, store_file, store_key, store_process  # noqa: F401

PAGES = 4096
MASK = (1 << 64) - 1


def word_of(page, version=1):
    """The first word that is not zero of a page of programs/rewrites.c: packed it stands there as it is."""
    return (page * 0x9e3779b97f4a7c15 & MASK ^ version * 0xc2b2ae3d27d4eb4f & MASK ^ 8 << 48 ^ 8).to_bytes(8, "little")


def in_file(daemon, disk):
    """How many pages of all can be found there."""
    with open(store_file(daemon, disk), "rb") as file:
        text = file.read(daemon.status("store_file_bytes"))
    return sum(word_of(page) in text for page in range(0, PAGES, 64))


def check(programs):
    for program in programs:
        program.say("check")
        assert program.line(120) == "done 0", program.stderr()


@pytest.fixture
def all_out(store_daemon, compiled, disk):
    """all_out(encrypt): a daemon and two programs, most of whose pages are in the file."""
    def make(encrypt):
        daemon = store_daemon(swap_file=disk / "swap", swap_size="64M", swap_memory="4M", swap_encrypt=encrypt)
        programs = [daemon.run(compiled("rewrites"), PAGES) for _ in range(2)]
        for program in programs:
            daemon.wait_merged(program, program.region(), share=1.0)
        daemon.set(run=0)
        daemon.cli("reclaim", "all")
        assert daemon.status("store_file_bytes") >= 6 << 20
        return daemon, programs

    return make


@pytest.mark.parametrize("encrypt", ["yes", "no"])
def test_s1_what_can_be_read_in_the_file(all_out, disk, encrypt):
    """Nothing; without it nearly everything: so this looks at the right place."""
    daemon, programs = all_out(encrypt)
    found = in_file(daemon, disk)
    assert found == 0 if encrypt == "yes" else found > PAGES // 64 // 2
    check(programs)
    assert daemon.status("store_checksum_errors") == daemon.status("store_read_errors") == 0


def test_d1_readable_after_kills(all_out):
    """The next processes find the key."""
    daemon, programs = all_out("yes")
    shared = daemon.status("pages_shared")
    for who in ("server", "worker"):
        os.kill(store_process(daemon, who), signal.SIGKILL)
    check(programs)
    daemon.cli("reclaim", "all")
    daemon.kill()
    check(programs)
    daemon.start()
    wait_for(lambda: f"not taken over: {daemon.status()}", lambda: daemon.status("pages_shared") == shared)
    daemon.cli("reclaim", "all")
    for who in ("worker", "server"):
        os.kill(store_process(daemon, who), signal.SIGKILL)
    check(programs)
    assert daemon.status("store_errors") == 0


def test_the_key_is_in_no_core_dump(all_out, tmp_path):
    """gcore leaves out what the kernel would: neither mapped nor in any copy there is the key in what is left."""
    if not shutil.which("gcore"):
        pytest.skip("no gcore (package gdb)")
    daemon, programs = all_out("yes")
    check(programs)
    key = store_key(daemon)
    assert len(set(key)) > 10
    for pid in (store_process(daemon, "server"), store_process(daemon, "worker"), daemon.pid):
        subprocess.run(["gcore", "-o", tmp_path / "core", str(pid)], check=True, capture_output=True,
                       timeout=place.patient(60))
        core = (tmp_path / f"core.{pid}").read_bytes()
        assert len(core) > 100000
        assert key not in core and key[:16] not in core and key[16:] not in core
    check(programs)
