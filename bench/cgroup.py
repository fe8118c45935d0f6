# SPDX-License-Identifier: Apache-2.0
"""A memory cgroup of a measurement's own, version 1 or 2."""

import contextlib
import os
import pathlib
import signal
import time

PREFIX = "samepage-bench-"


class Missing(Exception):
    pass


def parent():
    """(folder to make cgroups in, whether it is version 1)."""
    root = pathlib.Path("/sys/fs/cgroup")
    if (root / "memory/memory.usage_in_bytes").exists():
        return root / "memory", True
    if (root / "cgroup.subtree_control").exists():
        with contextlib.suppress(OSError):
            (root / "cgroup.subtree_control").write_text("+memory")
        if "memory" in (root / "cgroup.subtree_control").read_text().split():
            return root, False
    raise Missing("there is no memory cgroup here: mount one (cgroup2 at /sys/fs/cgroup) and let "
                  "root make groups in it")


def end(path, seconds=10):
    """Kills all that is in the cgroup, which is ours alone, and removes it."""
    deadline = time.monotonic() + seconds
    while path.exists() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            for pid in (path / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            path.rmdir()
        time.sleep(0.02)


class Cgroup:
    """Processes join before they start (join() in the child, before exec), because version 1 does
    not move what is charged already."""

    def __init__(self, name):
        folder, self.v1 = parent()
        self.path = folder / (PREFIX + name)
        try:
            self.path.mkdir()
        except OSError as error:
            raise Missing(f"no memory cgroup can be made: {error}") from error

    def join(self):
        (self.path / "cgroup.procs").write_text("0")

    def pids(self):
        """Processes in it now."""
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]

    def press(self):
        """Has the kernel take from it what it can."""
        try:
            (self.path / ("memory.force_empty" if self.v1 else "memory.reclaim")).write_text(
                "0" if self.v1 else str(1 << 40), encoding="ascii")
        except OSError:
            pass  # it could not take all of it

    def used(self):
        """Bytes charged, without the page cache of files on disk, which is there or not by chance.
        Frames count: a tmpfs' pages are on no list of files."""
        usage = "memory.usage_in_bytes" if self.v1 else "memory.current"
        prefix = "total_" if self.v1 else ""
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        files = sum(int(stat[prefix + key]) for key in ("active_file", "inactive_file"))
        return int((self.path / usage).read_text()) - files

    def close(self):
        end(self.path)
