# SPDX-License-Identifier: Apache-2.0
"""A mount namespace of the test's own, with its own /run and, on demand, a /dev/userfaultfd and a
/dev/fuse for everybody: what a test does to the system in there nobody else sees."""

import os
import subprocess

import pytest

DEVICE_NAME, FUSE_NAME = "/dev/userfaultfd", "/dev/fuse"


class PrivateRoot:
    """command(uid, *argv): argv as it is started in there as that user."""

    def __init__(self, open_device=False, open_fuse=False):
        script = "set -e; mount -t tmpfs -o mode=755 tmpfs /run; "
        for name in [DEVICE_NAME] * open_device + [FUSE_NAME] * open_fuse:
            try:
                number = os.stat(name).st_rdev
            except OSError:
                pytest.skip(f"no {name} here")
            node = f"/run/{os.path.basename(name)}"
            script += (f"mknod {node} c {os.major(number)} {os.minor(number)}; "
                       f"chmod 666 {node}; mount --bind {node} {name}; ")
        script += "echo ready; read end"
        self.holder = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c",
                                        script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.holder.stdout.readline() != b"ready\n":
            self.close()
            pytest.skip("no mount namespace of our own can be had here")

    def path(self, path):
        """The same file from outside."""
        return f"/proc/{self.holder.pid}/root{path}"

    def command(self, uid, *argv):
        become = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"] if uid else []
        return ["nsenter", "-t", str(self.holder.pid), "-m", *become, *[str(a) for a in argv]]

    def close(self):
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()
