# SPDX-License-Identifier: Apache-2.0
"""Daemons whose frames can leave memory."""

import os

import pytest

from lib import place


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
