# SPDX-License-Identifier: Apache-2.0
"""Daemons whose frames can leave memory."""

import os
import pathlib
import struct

import pytest

from lib import place, proc

# In the index (src/pool/store_inside.h), with pages of 4 KiB.
HEAD_ENCRYPTS, HEAD_KEY, KEY_BYTES = 12, 24, 32
PIECES, PIECE_BYTES, PIECES_AT = 65536, 24, 2 << 20
ENTRIES_AT = PIECES_AT + PIECES * PIECE_BYTES


@pytest.fixture
def store_daemon(make_daemon):
    """store_daemon(cgroup=…, build=…, **settings of [swap]): a daemon with a store, at full speed. Nothing leaves by itself
    if reclaim_max does not say so."""
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")

    def make(cgroup=None, build=place.BUILD, **settings):
        daemon = make_daemon(cgroup=cgroup, build=build)
        config = daemon.directory / "samepaged.conf"
        lines = [f"{key} = {value}" for key, value in {"swap": "store", "reclaim_max": "0", **settings}.items()]
        config.write_text("[swap]\n" + "\n".join(lines) + "\n")
        daemon.options = ["--config", config]
        daemon.start()
        daemon.set_full_speed()
        return daemon

    return make


def store_process(daemon, which):
    """The pid of the daemon's own server or worker."""
    marks = {f"--store-{which}".encode(), str(daemon.socket).encode()}
    found = [p.pid for p in proc.all_processes() if marks <= {*p.cmdline.split(b"\0")}]
    assert len(found) == 1, found
    return found[0]


def server_threads(daemon):
    """Those of the server's threads that answer."""
    server = store_process(daemon, "server")
    return [int(path.name) for path in pathlib.Path(f"/proc/{server}/task").iterdir() if path.name != str(server)]


def store_file(daemon, folder):
    """A path to the store's file, whose name is gone."""
    for fd in pathlib.Path(f"/proc/{store_process(daemon, 'worker')}/fd").iterdir():
        if os.readlink(fd).startswith(str(folder)):
            return fd
    pytest.fail("the store has no file")


def store_memory(daemon, which):
    """A path to the store's "index" or "pieces"."""
    for fd in pathlib.Path(f"/proc/{store_process(daemon, 'worker')}/fd").iterdir():
        if "samepage-store" in os.readlink(fd) and (os.stat(fd).st_size == PIECES << 20) == (which == "pieces"):
            with open(fd, "rb", buffering=0) as file:
                if which == "pieces" or file.read(7) == b"spstore":
                    return fd
    pytest.fail(f"the store has no {which}")


def store_key(daemon):
    """What its file is encrypted with."""
    with open(store_memory(daemon, "index"), "rb", buffering=0) as index:
        head = index.read(HEAD_KEY + KEY_BYTES)
    assert head[HEAD_ENCRYPTS] == 1
    return head[HEAD_KEY:]


def store_slots(daemon):
    """Where the store has the frames that are out: frame: ("pieces" or "file", offset there, bytes)."""
    slots = {}
    with open(store_memory(daemon, "index"), "rb", buffering=0) as index:
        index.seek(PIECES_AT)
        pieces = index.read(PIECES * PIECE_BYTES)
        end = ENTRIES_AT + (PIECES << 12) * 8
        at = os.lseek(index.fileno(), ENTRIES_AT, os.SEEK_DATA)
        while at < end:
            hole = min(os.lseek(index.fileno(), at, os.SEEK_HOLE), end)
            for i, (entry,) in enumerate(struct.iter_unpack("Q", os.pread(index.fileno(), hole - at, at))):
                if entry:
                    frame = (at - ENTRIES_AT) // 8 + i
                    piece, offset, size = entry >> 32, (entry >> 12 & 0xfffff) * 16, (entry & 0xfff) * 16
                    where = struct.unpack_from("Q", pieces, piece * PIECE_BYTES)[0]
                    slots[frame >> 12 << 16 | frame & 0xfff] = \
                        ("pieces", (piece << 20) + offset, size) if where >> 32 == 1 else \
                        ("file", ((where & 0xffffffff) << 20) + offset, size)
            try:
                at = os.lseek(index.fileno(), hole, os.SEEK_DATA)
            except OSError:
                break
    return slots


def frames_of(program):
    """The frame of each page of its area, None for pages that are its own."""
    address, length = program.area
    frames = [None] * (length // 4096)
    with open(f"/proc/{program.pid}/maps", encoding="ascii", errors="replace") as maps:
        lines = [line.split(None, 5) for line in maps]
    for fields in lines:
        start, stop = (int(x, 16) for x in fields[0].split("-"))
        for at in range(max(start, address), min(stop, address + length) if fields[4] != "0" else 0, 4096):
            # The inode is the segment's number, and one for the root.
            frames[(at - address) // 4096] = int(fields[4]) - 1 << 16 | (int(fields[2], 16) + at - start) // 4096
    return frames
