# SPDX-License-Identifier: Apache-2.0
"""A ksmfs of the test's own, and mount namespaces to lay one over the kernel's files in."""

import ctypes
import os
import pathlib
import signal
import subprocess

import pytest

from lib import proc
from lib.place import PATIENCE, need_root, patient, wait_for

SYSFS = pathlib.Path("/sys/kernel/mm/ksm")
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 0x40000


def need_ksmfs(build):
    need_root()
    if not (build / "samepage-ksmfs").exists():
        pytest.skip(f"{build / 'samepage-ksmfs'} is not built")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")


def own_mounts():
    """In a child before exec: what it mounts is seen by nobody else."""
    assert _libc.unshare(_CLONE_NEWNS) == 0 and \
        _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0, os.strerror(ctypes.get_errno())


def servers(daemon):
    """The living samepage-ksmfs that serve this daemon's values."""
    own = f"SAMEPAGE_SOCKET={daemon.socket}".encode()
    return [p.pid for p in proc.all_processes()
            if p.comm == "samepage-ksmfs"[:15] and own in p.environ.split(b"\0")]


def no_server(daemon):
    wait_for(lambda: f"still there: {servers(daemon)}", lambda: not servers(daemon))


class Ksmfs:
    """`samepage mount` at a folder beside the daemon's socket."""

    def __init__(self, daemon):
        need_ksmfs(daemon.build)
        self.daemon, self.path = daemon, daemon.directory / "ksm"
        self.path.mkdir(exist_ok=True)
        daemon.cli("mount", self.path)

    def __truediv__(self, name):
        return self.path / name

    def get(self, name):
        return (self.path / name).read_text().rstrip("\n")

    def set(self, name, value):
        with open(self.path / name, "w", encoding="ascii") as file:
            file.write(value)

    def kill(self):
        for pid in servers(self.daemon):
            os.kill(pid, signal.SIGKILL)
        no_server(self.daemon)

    def umount(self, check=True):
        return self.daemon.cli("umount", self.path, check=check)

    def close(self):
        self.umount(check=False)
        for pid in servers(self.daemon):
            os.kill(pid, signal.SIGTERM)
        no_server(self.daemon)


class OverSysfs:
    """A shell in a mount namespace of its own, with ksmfs over the kernel's files; run() is what
    programs see there."""

    def __init__(self, daemon):
        need_ksmfs(daemon.build)
        if not SYSFS.exists():
            pytest.skip("this kernel has no KSM")
        self.daemon, self.samepage = daemon, daemon.build / "samepage"
        self.shell = subprocess.Popen(["sleep", "infinity"], preexec_fn=own_mounts,
                                      stdin=subprocess.DEVNULL, start_new_session=True)

    def run(self, *argv, check=True, env=None):
        done = subprocess.run(["nsenter", "--mount", f"--target={self.shell.pid}", "--", *map(str, argv)],
                              capture_output=True, text=True, timeout=patient(PATIENCE), check=False,
                              env={**os.environ, **self.daemon.env, **(env or {})}, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"{argv}: {done.returncode} {done.stderr}"
        return done

    def start(self, *argv, env=None, **how):
        """A program that goes on, in a session of its own."""
        return subprocess.Popen(["nsenter", "--mount", f"--target={self.shell.pid}", "--", *map(str, argv)],
                                env={**os.environ, **self.daemon.env, **(env or {})},
                                stdin=subprocess.DEVNULL, start_new_session=True, **how)

    def get(self, key):
        return self.run("cat", SYSFS / key).stdout.rstrip("\n")

    def close(self):
        self.run(self.samepage, "umount", "--over-sysfs", check=False)
        self.shell.kill()
        self.shell.wait()
        no_server(self.daemon)
