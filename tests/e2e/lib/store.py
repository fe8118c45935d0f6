# SPDX-License-Identifier: Apache-2.0
"""Daemons whose frames can leave memory."""

import os
import pathlib

import pytest

from lib import place, proc

HEAD_ENCRYPTS, HEAD_KEY, KEY_BYTES = 12, 24, 32  # in the index (src/pool/store_inside.h)


@pytest.fixture
def store_daemon(make_daemon):
    """store_daemon(cgroup=…, build=…, **settings of [swap]): a daemon with a store, at full speed. Nothing leaves by itself
    if reclaim_max does not say so."""
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")

    def make(cgroup=None, build=place.BUILD, **settings):
        daemon = make_daemon(cgroup=cgroup, build=build)
        config = daemon.directory / "samepaged.conf"
        lines = [f"{key} = {value}" for key, value in {"swap": "store", "reclaim_max": "0", **settings}.items()]
        config.write_text("[swap]\n" + "\n".join(lines) + "\n")
        daemon.options = ["--config", config]
        daemon.start()
        daemon.set_full_speed()
        return daemon

    return make


def store_process(daemon, which):
    """The pid of the daemon's own server or worker."""
    marks = {f"--store-{which}".encode(), str(daemon.socket).encode()}
    found = [p.pid for p in proc.all_processes() if marks <= {*p.cmdline.split(b"\0")}]
    assert len(found) == 1, found
    return found[0]


def store_file(daemon, folder):
    """A path to the store's file, whose name is gone."""
    for fd in pathlib.Path(f"/proc/{store_process(daemon, 'worker')}/fd").iterdir():
        if os.readlink(fd).startswith(str(folder)):
            return fd
    pytest.fail("the store has no file")


def store_key(daemon):
    """What its file is encrypted with."""
    for fd in pathlib.Path(f"/proc/{store_process(daemon, 'worker')}/fd").iterdir():
        if "samepage-store" in os.readlink(fd):
            with open(fd, "rb", buffering=0) as index:
                head = index.read(HEAD_KEY + KEY_BYTES)
            if head.startswith(b"spstore"):
                assert head[HEAD_ENCRYPTS] == 1
                return head[HEAD_KEY:]
    pytest.fail("the store has no index")
