# SPDX-License-Identifier: Apache-2.0
"""Sees to it that nothing is left of a run, even when the bench itself is killed: a process of its
own waits for the bench's end, and then ends programs, removes cgroups and puts KSM back."""

import os
import pathlib
import shutil
import signal
import tempfile

import cgroup
import ksm
import swaps


def sweep(pid, kept):
    """Ends all that the bench with this pid started, and restores the settings of KSM."""
    folder, _ = cgroup.parent()
    for path in folder.glob(f"{cgroup.PREFIX}{pid}-*"):
        cgroup.end(path)
    ksm.restore(kept)
    swaps.sweep(pid)
    for path in pathlib.Path(tempfile.gettempdir()).glob(f"{cgroup.PREFIX}{pid}-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class Guard:
    def __init__(self):
        self.kept, self.owner = ksm.keep(), os.getpid()
        reading, self.writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.writing)
            self._wait(reading)
        os.close(reading)

    def _wait(self, reading):
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        try:
            if not os.read(reading, 1):
                sweep(self.owner, self.kept)
        finally:
            os._exit(0)

    def close(self):
        """Sweeps here and now; the process ends."""
        sweep(self.owner, self.kept)
        os.write(self.writing, b".")
        os.close(self.writing)
        os.waitpid(self.pid, 0)
