# SPDX-License-Identifier: Apache-2.0
"""A memory cgroup of the test's own, version 1 or 2: what programs, agents and daemon use."""

import itertools
import os
import pathlib

import pytest

from lib.place import wait_for

_number = itertools.count()


class Cgroup:
    """Processes join before they start (join() in the child, before exec), because version 1 does
    not move what is charged already."""

    def __init__(self):
        self.v1, parent = self._find()
        self.path = parent / f"samepage-e2e-{os.getpid()}-{next(_number)}"
        try:
            self.path.mkdir()
        except OSError as error:
            pytest.skip(f"no memory cgroup: {error}")
        if not (self.path / "memory.stat").exists():
            self.path.rmdir()
            pytest.skip("this cgroup has no memory controller")

    @staticmethod
    def _find():
        v1 = pathlib.Path("/sys/fs/cgroup/memory")
        if (v1 / "memory.usage_in_bytes").exists():
            return True, v1
        v2 = pathlib.Path("/sys/fs/cgroup")
        if not (v2 / "cgroup.controllers").exists():
            pytest.skip("no cgroup is mounted")
        if "memory" not in (v2 / "cgroup.controllers").read_text().split():
            pytest.skip("no memory controller here")
        control = v2 / "cgroup.subtree_control"
        if "memory" not in control.read_text().split():
            try:
                control.write_text("+memory")
            except OSError as error:
                pytest.skip(f"the memory controller cannot be had: {error}")
        return False, v2

    def join(self):
        (self.path / "cgroup.procs").write_text("0")

    def used(self):
        """Bytes of memory in use, without the page cache of files on disk (programs' binaries),
        which is there or not by chance. The pool's tmpfs counts: it is never on the file lists."""
        usage = int((self.path / ("memory.usage_in_bytes" if self.v1 else "memory.current"))
                    .read_text())
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        prefix = "total_" if self.v1 else ""
        return usage - sum(int(stat[prefix + key]) for key in ("active_file", "inactive_file"))

    def charged(self):
        """Bytes of memory in use, all of it."""
        return int((self.path / ("memory.usage_in_bytes" if self.v1 else "memory.current")).read_text())

    def limit(self, limit):
        (self.path / ("memory.limit_in_bytes" if self.v1 else "memory.max")).write_text(str(limit))

    def oom_kills(self):
        """How many processes of it the kernel killed because it had no memory for them."""
        text = (self.path / ("memory.oom_control" if self.v1 else "memory.events")).read_text()
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])

    def close(self):
        def gone():
            try:
                self.path.rmdir()
                return True
            except OSError:
                return not self.path.exists()

        wait_for(lambda: f"cgroup {self.path} still has processes: "
                         f"{(self.path / 'cgroup.procs').read_text().split()}", gone, 5)
