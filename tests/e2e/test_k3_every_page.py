# SPDX-License-Identifier: Apache-2.0
"""K3: every page that is quiet is looked at, also where ranges begin and end in the middle of the 512
pages that the agent keeps books for at a time, and where a scan stops there."""

import pytest

from lib.place import wait_for

SOURCE = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None)
pages, every = 8192, int(sys.argv[1])
m = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
for i in range(pages):
    m[i * 4096:i * 4096 + 8] = (i + 1).to_bytes(8, "little")
for i in range(every, pages, every) if every else ():
    assert libc.mprotect(ctypes.c_void_p(at + i * 4096), 4096, 1) == 0
print("ready", hex(at), pages * 4096, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("every", [0, 100, 150])
def test_k3_every_page(daemon, every):
    daemon.set(pages_to_scan=333)
    programs = [daemon.run("/usr/bin/python3", "-c", SOURCE, every) for _ in range(2)]
    areas = [program.region() for program in programs]
    left = len(range(every, 8192, every)) if every else 0
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area, 1 - (left + 0.5) / 8192)


PROTECTED = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
size = 2000 * 4096
m = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
for i in range(2000):
    m[i * 4096:i * 4096 + 8] = (i + 1).to_bytes(8, "little")
print("ready", hex(at), size, flush=True)
for line in sys.stdin:
    assert libc.mprotect(at, size, int(line)) == 0
    print("ok", flush=True)
"""


def test_k3_memory_that_was_away(daemon):
    """Memory that could not be merged for a while (it was read-only) is looked at when it can be."""
    first = daemon.run("/usr/bin/python3", "-c", PROTECTED)
    first_area = first.region()
    wait_for("it is not looked at", lambda: daemon.ps(first.pid)["pages_tracked"] >= 2000 and
             daemon.status("pages_unshared") >= 2000)
    for protection in (1, 3):
        first.say(str(protection))
        assert first.line() == "ok", first.stderr()
        scans = daemon.status("full_scans")
        wait_for("no passes", lambda: daemon.status("full_scans") > scans + 3)
    second = daemon.run("/usr/bin/python3", "-c", PROTECTED)
    for program, area in ((first, first_area), (second, second.region())):
        daemon.wait_merged(program, area)
