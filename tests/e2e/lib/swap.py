# SPDX-License-Identifier: Apache-2.0
"""Swap of the machine's, for one test. Tests that use it are `alone`: to all others it would be there, too."""

import ctypes
import fcntl
import os
import pathlib
import stat
import subprocess

import pytest

from lib import place

FIRST = 0x8000 | 100  # SWAP_FLAG_PREFER: before what the machine may have
SIZE = 64 << 20
_libc = ctypes.CDLL(None, use_errno=True)


def _on(path):
    if subprocess.run(["mkswap", path], capture_output=True, check=False).returncode:
        pytest.skip(f"mkswap {path} fails")
    if _libc.swapon(os.fsencode(path), FIRST):
        pytest.skip(f"no swap on {path}: {os.strerror(ctypes.get_errno())}")


def _off(path):
    assert _libc.swapoff(os.fsencode(path)) == 0, f"swapoff {path}: {os.strerror(ctypes.get_errno())}"


def used():
    """KiB of all swap."""
    lines = pathlib.Path("/proc/swaps").read_text().splitlines()[1:]
    return sum(int(line.split()[3]) for line in lines)


class File:
    """A file on the disk."""

    def __init__(self, folder):
        self.path = folder / "swapfile"
        self.path.touch(0o600)
        with open(self.path, "wb") as file:
            for _ in range(SIZE >> 20):
                file.write(bytes(1 << 20))
        try:
            _on(self.path)
        except pytest.skip.Exception:
            self.path.unlink()
            raise

    def close(self):
        _off(self.path)
        self.path.unlink()


class Zram:
    """Memory, packed by the kernel."""

    control = pathlib.Path("/sys/class/zram-control")

    def __init__(self, folder):
        try:
            self.number = int((self.control / "hot_add").read_text())
        except OSError as error:
            pytest.skip(f"no zram: {error}")
        self.sys = pathlib.Path(f"/sys/block/zram{self.number}")
        self.path = pathlib.Path(f"/dev/zram{self.number}")
        self.made = not self.path.exists()
        try:
            if self.made:
                major, minor = (self.sys / "dev").read_text().split(":")
                self.path = folder / self.path.name
                os.mknod(self.path, 0o600 | stat.S_IFBLK, os.makedev(int(major), int(minor)))
            (self.sys / "disksize").write_text(str(SIZE))
            _on(self.path)
        except (OSError, pytest.skip.Exception):
            self._remove()
            raise

    def _remove(self):
        (self.sys / "reset").write_text("1")
        (self.control / "hot_remove").write_text(str(self.number))
        if self.made:
            self.path.unlink(missing_ok=True)

    def close(self):
        _off(self.path)
        self._remove()


class Loop:
    """A disk that can be broken: memory behind a loop device. What is cut off cannot be read any more, nor written: what was on its
    way then would make it grow again, with zeros where the kernel's swap was."""

    def __init__(self, folder):
        self.memory = os.memfd_create("disk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.memory, SIZE)
        done = subprocess.run(["losetup", "--find", "--show", f"/proc/{os.getpid()}/fd/{self.memory}"], capture_output=True,
                              text=True, check=False)
        if done.returncode:
            os.close(self.memory)
            pytest.skip(f"no loop device: {done.stderr}")
        self.path = done.stdout.strip()
        try:
            _on(self.path)
        except pytest.skip.Exception:
            self._remove()
            raise

    def cut_off(self):
        os.ftruncate(self.memory, 0)
        fcntl.fcntl(self.memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)

    def _remove(self):
        subprocess.run(["losetup", "--detach", self.path], check=True)
        os.close(self.memory)

    def close(self):
        _off(self.path)
        self._remove()


KINDS = {"zram": Zram, "file": File, "loop": Loop}


@pytest.fixture(params=["zram", "file"])
def swap(request, tmp_path):
    """The machine has swap, of that kind."""
    place.need_root()
    made = KINDS[request.param](tmp_path)
    yield made
    made.close()
