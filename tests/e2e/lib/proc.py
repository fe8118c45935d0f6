# SPDX-License-Identifier: Apache-2.0
"""Looks at processes the way nobody can talk them out of: through /proc."""

import array
import collections
import ctypes
import fcntl
import os
import pathlib
import struct

Process = collections.namedtuple("Process", "pid ppid comm state environ cmdline")
OF_A_FILE, PRESENT, PRESENT_OR_SWAPPED = 1 << 61, 1 << 63, 3 << 62  # of an entry of pagemap


def _read(path):
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:
        return b""


def look(pid):
    """The process, or None if there is none. A zombie has no environ and no cmdline."""
    stat = _read(f"/proc/{pid}/stat")
    if b")" not in stat:
        return None
    comm = stat[stat.index(b"(") + 1:stat.rindex(b")")].decode(errors="replace")
    state, ppid = stat[stat.rindex(b")") + 2:].split()[:2]
    return Process(int(pid), int(ppid), comm, state.decode(), _read(f"/proc/{pid}/environ"),
                   _read(f"/proc/{pid}/cmdline"))


def all_processes():
    found = (look(name) for name in os.listdir("/proc") if name.isdigit())
    return [p for p in found if p]


def exists(pid):
    """Zombies count: a process of ours that nobody waited for is a leak. Not so once it is init's
    to wait for."""
    p = look(pid)
    return p is not None and (p.state, p.ppid) != ("Z", 1)


def zombies(parents):
    """Dead children that one of these processes did not wait for."""
    return [p for p in all_processes() if p.state == "Z" and p.ppid in parents]


def descriptors(pid):
    """How many descriptors the process has open, -1 if it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return -1


def file_pages(pid, address, length):
    """The pages of [address, address + length) that are sites: a page of a file is mapped there, looked at
    or not, and no private copy of it. Each as (device, inode, page of the file). This is the kernel's word."""
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as maps:
        lines = [line.split(None, 5) for line in maps]
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // 4096 * 8)
        entries = array.array("Q", pagemap.read(length // 4096 * 8))
    found = []
    for fields in lines:
        start, stop = (max(min(int(x, 16), address + length), address) for x in fields[0].split("-"))
        first = (int(fields[2], 16) + start - int(fields[0].split("-")[0], 16)) // 4096
        for i in range((stop - start) // 4096 if fields[4] != "0" else 0):
            if entries[(start - address) // 4096 + i] & (PRESENT_OR_SWAPPED | OF_A_FILE) in (0, OF_A_FILE | PRESENT):
                found.append((fields[3], fields[4], first + i))
    return found


def pages_from_files(pid, address, length):
    """How many pages of [address, address + length) are mapped from a file: the pages of anonymous
    memory that are sites now (those written since count as well). This is the kernel's word, not
    samepage's."""
    pages, end = 0, address + length
    try:
        with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as maps:
            lines = maps.readlines()
    except OSError:
        return 0
    for line in lines:
        fields = line.split(None, 5)
        start, stop = (int(x, 16) for x in fields[0].split("-"))
        if fields[4] != "0" and start < end and stop > address:
            pages += (min(stop, end) - max(start, address)) // 4096
    return pages


def resident_from_files(pid, address, length):
    """How many pages of [address, address + length) are in the page tables now as pages of a file: frames that are
    in memory and were touched there."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // 4096 * 8)
        data = pagemap.read(length // 4096 * 8)
    return sum(entry >> 63 & entry >> 61 & 1 for (entry,) in struct.iter_unpack("Q", data))


PAGEMAP_SCAN, PFNZERO = 0xc0606610, 1 << 5


def zero_pages(pid, address, length):
    """How many pages of [address, address + length) are the kernel's own page of zeros: the kernel's word."""
    regions = (ctypes.c_uint64 * (3 * 256))()
    at, end, pages = address, address + length, 0
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        while at < end:
            arg = bytearray(struct.pack("<12Q", 96, 0, at, end, 0, ctypes.addressof(regions), 256, 0, 0,
                                        PFNZERO, 0, PFNZERO))
            found = fcntl.ioctl(pagemap, PAGEMAP_SCAN, arg)
            pages += sum(regions[3 * i + 1] - regions[3 * i] for i in range(found)) // 4096
            at = struct.unpack("<12Q", arg)[4]
    return pages


def smaps_sum(pid, key, address, length):
    """The sum of one line ("Rss", in bytes) over the mappings in [address, address + length)."""
    total, here = 0, False
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as smaps:
        for line in smaps:
            word = line.split(None, 2)
            if "-" in word[0] and not word[0].endswith(":"):
                start, stop = (int(x, 16) for x in word[0].split("-"))
                here = start < address + length and stop > address
            elif here and word[0] == key + ":":
                total += int(word[1]) * 1024
    return total
