# SPDX-License-Identifier: Apache-2.0
"""A file of a file system of a test's own, which does not answer."""

import os
import pathlib
import subprocess
import tempfile

import pytest

from lib import place
from lib.place import wait_for


@pytest.fixture
def slow_file(compiled):
    """Its flushes and writes do not end before the test does."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")
    if os.geteuid():
        pytest.skip("needs root")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sp-e2e-slow-"))
    folder.chmod(0o755)
    program = compiled("slow_file", "-D_FILE_OFFSET_BITS=64", "-Wl,--no-as-needed", "-lfuse3")
    server = subprocess.Popen(["slow_file", "-f", "-o", "allow_other", folder], executable=program,
                              stdin=subprocess.PIPE)
    try:
        wait_for("not mounted", lambda: (folder / "file").exists() or server.poll() is not None)
        assert server.poll() is None
        yield folder / "file"
    finally:
        server.stdin.close()
        subprocess.run(["fusermount3", "-u", "-z", folder], check=False)
        server.wait(place.patient(20))
        folder.rmdir()


# It maps the file, writes to it and maps something else over that: the kernel writes the page first, with the lock of
# the address space held.
HOLDER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
at = libc.mmap(None, 4096, 3, 1, os.open(sys.argv[1], os.O_RDWR), 0)
ctypes.memset(at, 1, 1)
print("ready", flush=True)
libc.mmap(at, 4096, 3, 0x32, -1, 0)
"""


@pytest.fixture
def holding(slow_file):
    """holding(n, uid=…) starts processes that hold the locks of their address spaces until the test ends: for the mark
    `alone` only, for who reads their memory, or their /proc/PID/environ, waits for that, too."""
    made = []

    def start(n=1, uid=None):
        files = [slow_file.parent / f"file-{i}" for i in range(len(made), len(made) + n)]
        new = [subprocess.Popen(["/usr/bin/python3", "-c", HOLDER, file], user=uid, stdout=subprocess.PIPE)
               for file in files]
        made.extend(new)
        for holder in new:
            assert holder.stdout.readline() == b"ready\n"
            wait_for("it goes on", lambda: state(holder.pid) in "DSZ")
            if not is_held(holder.pid):
                pytest.skip("this kernel writes mapped pages without the lock of the address space")
        return new

    yield start
    for holder in made:
        holder.kill()  # it ends with slow_file
        holder.stdout.close()


@pytest.fixture
def holders(daemon, holding):
    """The same, and they end before the daemon: when it ends, the environment of all processes is read."""
    return holding


def state(pid):
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return stat[stat.rindex(")") + 2]


def is_held(pid):
    reader = subprocess.Popen(["dd", f"if=/proc/{pid}/pagemap", "of=/dev/null", "bs=8", "count=1"],
                              stderr=subprocess.DEVNULL)
    try:
        reader.wait(1)
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        reader.kill()
        reader.wait()
