# SPDX-License-Identifier: Apache-2.0
"""A daemon of a user without root has a store, too, where this user may open /dev/fuse: frames leave memory and come back, after
kills as well (S1, S6, D1); where not, it says what is missing."""

import json
import os
import signal
import subprocess

import pytest

from lib import place, proc
from lib.place import wait_for
from lib.private import PrivateRoot
from test_own_daemon import NOBODY, make_system, system  # noqa: F401


@pytest.fixture
def own(make_system):
    """own(open_fuse): a system with that /dev/fuse, and the command line's end that has a daemon with a store."""
    place.need_userfaultfd()

    def make(open_fuse):
        made = make_system()
        made.root.close()
        made.root = PrivateRoot(open_device=True, open_fuse=open_fuse)
        os.mkdir(made.root.path(made.runtime), 0o700)
        os.chown(made.root.path(made.runtime), NOBODY, NOBODY)
        config = made.directory / "samepaged.conf"
        config.write_text("[swap]\nswap = store\nreclaim_max = 0\n")
        os.chown(config, NOBODY, NOBODY)
        return made, ["--config", config, "--socket", f"{made.runtime}/samepage.sock"]

    return make


def store_process(system, which):
    found = [p.pid for p in proc.all_processes() if f"--store-{which}".encode() in p.cmdline.split(b"\0")
             and f"{system.runtime}/samepage.sock".encode() in p.cmdline.split(b"\0")
             and os.readlink(f"/proc/{p.pid}/ns/mnt") == os.readlink(f"/proc/{system.root.holder.pid}/ns/mnt")]
    assert len(found) == 1, found
    return found[0]


def start(system, options):
    with open(system.directory / "samepaged.log", "ab") as log:
        daemon = subprocess.Popen(system.root.command(NOBODY, system.build / "samepaged", "--foreground", *options),
                                  stdout=log, stderr=log, env=system.env(), start_new_session=True)
    system.daemons.append(daemon)
    socket = f"{system.runtime}/samepage.sock"
    wait_for(lambda: f"no answer: {system.log()}",
             lambda: (system.status(socket=socket) or {}).get("daemon_pid") == daemon.pid)
    return daemon


def test_s1_s6_d1_without_root(own, compiled):
    system, options = own(open_fuse=True)
    socket = f"{system.runtime}/samepage.sock"
    daemon = start(system, options)
    programs = [system.run(compiled("rewrites"), 2048, socket=socket) for _ in range(2)]
    for program in programs:
        program.area = program.region()
    system.cli("set", "sleep_millisecs=0", "pages_to_scan=100000", socket=socket)
    wait_for(lambda: f"{system.status(socket=socket)} {system.log()}",
             lambda: all(proc.pages_from_files(p.pid, *p.area) == 2048 for p in programs))
    system.cli("set", "run=0", socket=socket)
    shared = system.status(socket=socket)["pages_shared"]

    def out_and_back():
        done = system.cli("reclaim", "--json", "all", socket=socket)
        assert done.returncode == 0, done
        assert json.loads(done.stdout)["evicted"] > 0
        for program in programs:
            assert proc.resident_from_files(program.pid, *program.area) == 0
            program.say("check")
            assert program.line(120) == "done 0", program.stderr()

    out_and_back()
    for who in ("server", "worker"):
        pid = store_process(system, who)
        # Nobody of this user may look into them: they have others' memory, and a key.
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0 and os.stat(f"/proc/{pid}").st_uid == NOBODY
        os.kill(pid, signal.SIGKILL)
    for program in programs:
        program.say("check")
        assert program.line(120) == "done 0", program.stderr()
    out_and_back()
    daemon.kill()
    daemon.wait()
    start(system, options)
    wait_for(lambda: f"{system.status(socket=socket)}",
             lambda: system.status(socket=socket)["pages_shared"] == shared)
    out_and_back()
    assert system.status(socket=socket)["store_errors"] == 0
    for program in programs:
        program.popen.stdin.close()
        program.must_finish(0)


def test_what_is_missing(own):
    """Also doctor says it."""
    if os.stat("/dev/fuse").st_mode & 0o006 == 0o006:
        pytest.skip("everybody may open /dev/fuse here")
    system, options = own(open_fuse=False)
    done = subprocess.run(system.root.command(NOBODY, system.build / "samepaged", "--foreground", *options),
                          env=system.env(), capture_output=True, text=True, timeout=place.patient(60), check=False)
    assert done.returncode != 0
    assert "/dev/fuse" in done.stderr and "666" in done.stderr, done.stderr
    doctor = system.cli("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(doctor.stdout)["checks"]}
    assert "/dev/fuse" in checks["store"]["found"], checks["store"]
