# SPDX-License-Identifier: Apache-2.0
"""samepage doctor: a line for each feature and permission; exit status 0 exactly if programs of this
user can be merged. What it says is what then happens."""

import json
import os
import pathlib
import subprocess

import pytest

from lib import place
from lib.private import PrivateRoot
from lib.program import become

NOBODY = 65534
NAMES = {"daemon", "userfaultfd", "kernel", "UFFDIO_MOVE", "WP_ASYNC", "WP_UNPOPULATED", "WP_SHMEM",
         "PAGEMAP_SCAN", "memfd", "leases", "kcmp", "pool", "ptrace", "proc", "program",
         "max_map_count", "ksmd", "huge pages", "cgroup", "NUMA", "swap", "accounting"}


def doctor(daemon, uid=None, prefix=(), env=None):
    done = subprocess.run([*prefix, daemon.build / "samepage", "doctor", "--json"], timeout=place.patient(60),
                          env={**os.environ, **daemon.env, **(env or {})}, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, preexec_fn=become(uid), check=False,
                          cwd=daemon.directory)
    answer = json.loads(done.stdout)
    checks = {check["name"]: check for check in answer["checks"]}
    assert done.stderr == "" and NAMES <= set(checks), (done, checks)
    for check in checks.values():
        assert set(check) == {"name", "state", "found", "fix"} and check["found"]
        assert check["state"] in ("ok", "warning", "missing")
        assert check["state"] != "ok" or not check["fix"]
    assert answer["ok"] == (done.returncode == 0)
    assert answer["ok"] == all(check["state"] != "missing" for check in checks.values())
    return answer["ok"], checks


def only_root_gets_userfaultfd():
    device = pathlib.Path("/dev/userfaultfd")
    return (pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "0" and
            device.exists() and not device.stat().st_mode & 0o006)


def test_root(daemon):
    ok, checks = doctor(daemon)
    assert ok, checks
    assert str(daemon.pid) in checks["daemon"]["found"]
    assert str(daemon.socket) in checks["daemon"]["found"]
    assert checks["program"]["state"] == "ok" and checks["userfaultfd"]["state"] == "ok"


def test_it_starts_no_daemon(make_daemon):
    place.need_root()
    daemon = make_daemon()
    _, checks = doctor(daemon)
    assert "none runs" in checks["daemon"]["found"]
    assert checks["program"]["state"] == "warning"
    assert list(daemon.directory.iterdir()) == []


def test_user_without_permission(daemon):
    """Exit status 1, and the reason; the kernel's features are told all the same."""
    if not only_root_gets_userfaultfd():
        pytest.skip("everybody has userfaultfd here")
    ok, checks = doctor(daemon, uid=NOBODY)
    assert not ok
    assert checks["userfaultfd"]["state"] == "missing" and "[users]" in checks["userfaultfd"]["fix"]
    assert checks["program"]["state"] == "missing"
    assert checks["UFFDIO_MOVE"]["state"] == "ok"


def test_user_whom_the_daemon_passes_it(make_daemon, tmp_path):
    place.need_root()
    place.need_kernel_6_8()
    if not only_root_gets_userfaultfd():
        pytest.skip("everybody has userfaultfd here")
    path = tmp_path / "samepaged.conf"
    path.write_text(f"[users]\nuserfaultfd = {NOBODY}\n")
    path.chmod(0o644)
    daemon = make_daemon(options=["--config", path]).start()
    ok, checks = doctor(daemon, uid=NOBODY)
    assert ok, checks
    assert checks["userfaultfd"]["found"] == "passed by the daemon"
    assert not doctor(daemon, uid=12345)[0]


def test_user_whom_the_daemon_does_not_serve(make_daemon, tmp_path):
    place.need_root()
    place.need_kernel_6_8()
    path = tmp_path / "samepaged.conf"
    path.write_text("[users]\nallow = root\nuserfaultfd = *\n")
    path.chmod(0o644)
    daemon = make_daemon(options=["--config", path]).start()
    ok, checks = doctor(daemon, uid=NOBODY)
    assert not ok and checks["program"]["state"] == "missing"
    assert doctor(daemon)[0]


def test_switched_off_merging_is_a_warning(daemon):
    daemon.set(run=0)
    ok, checks = doctor(daemon)
    assert ok and checks["run"]["state"] == "warning" and "run=1" in checks["run"]["fix"]


def test_somebody_else_listens(make_daemon):
    """No daemon of ours at the socket: missing, and no hang."""
    import socket
    daemon = make_daemon()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.bind(str(daemon.socket))
        s.listen(0)
        ok, checks = doctor(daemon)
    assert not ok and "does not answer" in checks["daemon"]["found"]


@pytest.mark.parametrize("option, state", [("hidepid=2", "warning"), ("hidepid=0", "ok")])
def test_hidepid(make_daemon, option, state):
    """A /proc that hides processes, seen by a user; in a mount namespace of the test's own."""
    place.need_root()
    daemon = make_daemon()
    root = PrivateRoot()
    try:
        done = subprocess.run(root.command(0, "mount", "-t", "proc", "-o", option, "proc", "/proc"),
                              capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"/proc cannot be mounted so: {done.stderr}")
        _, checks = doctor(daemon, prefix=root.command(NOBODY))
        assert checks["proc"]["state"] == state, checks["proc"]
    finally:
        root.close()


def test_table_and_wrong_use(daemon):
    table = daemon.cli("doctor")
    lines = table.stdout.splitlines()
    assert len(lines) >= len(NAMES) + 1 and lines[-1] == "Programs of this user can be merged."
    assert all(line.split()[0] in ("ok", "warning", "missing") for line in lines[:-1])
    for args in (("doctor", "x"), ("doctor", "--nosuch")):
        done = daemon.cli(*args, check=False)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
