# SPDX-License-Identifier: Apache-2.0
"""Where things are, how long a test may take, and what this machine can do.

SAMEPAGE_BUILD and SAMEPAGE_BUILD_TEST name the build folders (the second one has the fault
points); SAMEPAGE_TEST_LONG=1 asks for the long forms; SAMEPAGE_TEST_SLACK multiplies every
deadline, for slow machines. SAMEPAGE_TEST_STORE=1 gives the daemons of root that have no
configuration of their own a store (S1), SAMEPAGE_TEST_STORE=reclaim has frames leave memory all the
time, too: any test must be green then.
"""

import atexit
import ctypes
import os
import pathlib
import shutil
import tempfile
import time

import pytest


def for_everybody(folder):
    """The build folder, or a copy of what is tested at a place that every user can reach: a clone may
    lie in a folder of root's alone, and some tests run as somebody else."""
    names = ("samepage", "samepaged", "libsamepage-agent.so")
    reachable = all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents) if part.exists())
    if reachable or not all((folder / name).exists() for name in names):
        return folder
    copy = pathlib.Path(tempfile.mkdtemp(prefix="sp-e2e-build-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    for name in (*names, "samepage-ksmfs"):
        if (folder / name).exists():
            shutil.copy(folder / name, copy / name)
    return copy


HERE = pathlib.Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
BUILD = for_everybody(pathlib.Path(os.environ.get("SAMEPAGE_BUILD", ROOT / "build")).resolve())
SIM = pathlib.Path(os.environ.get("SAMEPAGE_BUILD", ROOT / "build")).resolve() / "samepage-sim"
BUILD_TEST = pathlib.Path(os.environ.get("SAMEPAGE_BUILD_TEST", ROOT / "build-test")).resolve()
LONG = os.environ.get("SAMEPAGE_TEST_LONG") == "1"
STORE = os.environ.get("SAMEPAGE_TEST_STORE", "")
SLACK = float(os.environ.get("SAMEPAGE_TEST_SLACK", "1"))
# D4: what is dead leaves nothing after a second; a second more for a machine that is busy.
A_SECOND = 2.0 * SLACK
# All other deadlines are at least so long, whatever a test says: they matter only when it fails.
PATIENCE = 60.0


def longer(short, long):
    """The number for this run: the short form's, or with SAMEPAGE_TEST_LONG=1 the long form's."""
    return long if LONG else short


def patient(timeout):
    """The seconds that are really waited: what a rule limits (A_SECOND) so long, else PATIENCE
    at least, and SLACK times as long."""
    return timeout if timeout == A_SECOND else max(timeout, PATIENCE) * SLACK


class NotInTime(pytest.fail.Exception):
    """What was waited for did not come. Nothing was wrong yet."""


def wait_for(what, predicate, timeout=PATIENCE, every=0.03):
    """Waits until predicate() is true and returns its value; fails the test after patient(timeout),
    saying what was waited for and, if what is callable, how things stood.

    Of what a rule limits (A_SECOND) only the time counts in which we come to look: a machine that gives us
    no processor gives none to what we wait for either."""
    most = 2 * every if timeout == A_SECOND else float("inf")
    left = timeout = patient(timeout)
    looked = time.monotonic()
    while True:
        value = predicate()
        if value:
            return value
        now = time.monotonic()
        left -= min(now - looked, most)
        looked = now
        if left < 0:
            raise NotInTime(f"after {timeout:g} s: {what() if callable(what) else what}")
        time.sleep(every)


def need_build(build=BUILD):
    for name in ("samepage", "samepaged", "libsamepage-agent.so"):
        if not (build / name).exists():
            pytest.skip(f"{build / name} is not built")


def need_root():
    if os.geteuid() != 0:
        pytest.skip("needs root")


def need_userfaultfd():
    """A userfaultfd that also waits for faults of the kernel, as a lift needs."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(323 if os.uname().machine == "x86_64" else 282, os.O_CLOEXEC)
    if fd >= 0:
        os.close(fd)
    elif not os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        pytest.skip("no userfaultfd for this user")


def need_kernel_6_8():
    """UFFDIO_MOVE and PAGEMAP_SCAN: samepage doctor probes them by name; here the version must do,
    because a doctor that were wrong would hide every other failure."""
    major, minor = (int(x) for x in os.uname().release.split(".")[:2])
    if (major, minor) < (6, 8):
        pytest.skip("no UFFDIO_MOVE before Linux 6.8")


def need_policies():
    """A kernel with NUMA, be it of one node."""
    if not os.path.exists("/proc/self/numa_maps"):
        pytest.skip("no memory policies in this kernel")


def need_redis():
    for name in ("redis-server", "redis-cli"):
        if not shutil.which(name):
            pytest.skip(f"{name} is not installed")
