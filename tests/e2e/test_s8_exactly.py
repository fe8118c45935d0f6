# SPDX-License-Identifier: Apache-2.0
"""S8: of what is damaged in the store exactly the pages that need it raise SIGBUS, in every program that has them; counter and log
name exactly these frames; all others are right, and go on leaving and coming back."""

import json
import os
import re
import subprocess

import pytest

from lib.disks import disk, own_disk  # noqa: F401
from lib.place import wait_for
from lib.store import frames_of, store_daemon, store_file, store_memory, store_slots  # noqa: F401

PAGES = 4096
BLOCK = 4096


def start(daemon, compiled, pages=PAGES):
    """Two programs with equal pages, all merged, all of whose frames are out."""
    programs = [daemon.run(compiled("rewrites"), pages) for _ in range(2)]
    for program in programs:
        program.area = program.region()
        daemon.wait_merged(program, program.area, share=1.0)
    daemon.set(run=0)
    daemon.cli("reclaim", "all")
    for program in programs:
        program.frames = frames_of(program)
        assert None not in program.frames
    return programs


def which(program):
    """The frames of the pages that raise SIGBUS; all others are right."""
    program.say("which")
    pages = [int(word) for word in program.line(120).split()]
    assert program.line(120) == f"done {len(pages)}" and "WRONG BYTES" not in program.stderr(), program.stderr()
    return {program.frames[page] for page in pages}


def logged(daemon):
    """The frames that it said are lost."""
    text = (daemon.directory / "samepaged.log").read_text()
    found = re.findall(r"frame (\d+) of segment (\d+) is lost", text)
    frames = {int(segment) << 16 | int(index) for index, segment in found}
    assert len(frames) == len(found), "a frame was said to be lost twice"
    return frames


def must_lose(daemon, programs, damaged):
    """Of the damaged frames those that the programs have, and nobody else's was touched."""
    mine = damaged & set(programs[0].frames)
    assert mine and mine == damaged & set(programs[1].frames)
    for program in programs:
        assert which(program) == mine
    wait_for(lambda: f"not {len(mine)} counted: {daemon.status()}", lambda: daemon.status("store_errors") >= len(mine))
    for program in programs:
        assert which(program) == mine
    assert json.loads(daemon.cli("reclaim", "--json", "all").stdout)["evicted"] >= PAGES // 2
    for program in programs:
        assert which(program) == mine
    # Whoever has it may have looked at one that is nobody's of these: a frame of both programs' libraries.
    said = logged(daemon)
    assert mine <= said <= damaged
    assert daemon.status("store_errors") == len(said)


def overlapping(slots, what, ranges, block=1):
    """The frames of which something lies in these ranges, in whole blocks."""
    def touches(place, at, size, start, end):
        return place == what and at < (end + block - 1) // block * block and at + size > start // block * block
    return {frame for frame, slot in slots.items() if any(touches(*slot, *r) for r in ranges)}


def flip(path, ranges):
    with open(path, "r+b", buffering=0) as file:
        for start, end in ranges:
            old = os.pread(file.fileno(), end - start, start)
            os.pwrite(file.fileno(), bytes(b ^ 1 for b in old), start)


def test_s8_in_memory(store_daemon, compiled):
    """A bit of the packed bytes, of the header, and of two neighbours at once."""
    daemon = store_daemon(swap_memory="64M")
    programs = start(daemon, compiled)
    slots = store_slots(daemon)
    at = [slots[frame][1] for frame in programs[0].frames[100:3500:700]]
    ranges = [(at[0] + 40, at[0] + 41), (at[1], at[1] + 1), (at[2] + 8, at[2] + 9), (at[3] - 20, at[3] + 20)]
    damaged = overlapping(slots, "pieces", ranges)
    flip(store_memory(daemon, "pieces"), ranges)
    must_lose(daemon, programs, damaged)
    assert daemon.status("store_checksum_errors") >= 4 and daemon.status("store_read_errors") == 0


@pytest.mark.parametrize("encrypt", ["no", "yes"])
def test_s8_in_the_file(store_daemon, compiled, disk, encrypt):
    """In an encrypted file a block is right as a whole, or not."""
    daemon = store_daemon(swap_file=disk / "swap", swap_size="64M", swap_memory="4M", swap_encrypt=encrypt)
    programs = start(daemon, compiled)
    slots = store_slots(daemon)
    at = [slots[frame][1] for frame in programs[0].frames if slots[frame][0] == "file"][::300][:5]
    ranges = [(a + 100, a + 101) for a in at]
    damaged = overlapping(slots, "file", ranges, BLOCK if encrypt == "yes" else 1)
    flip(store_file(daemon, disk), ranges)
    must_lose(daemon, programs, damaged)
    assert daemon.status("store_checksum_errors") >= 5 and daemon.status("store_read_errors") == 0


@pytest.mark.parametrize("encrypt", ["no", "yes"])
def test_s8_cut_off(store_daemon, compiled, disk, encrypt):
    """In the middle of a block: the read ends early, and what ended before is right where nothing is encrypted."""
    daemon = store_daemon(swap_file=disk / "swap", swap_size="64M", swap_memory="4M", swap_encrypt=encrypt)
    programs = start(daemon, compiled)
    end = daemon.status("store_file_bytes") // 2 + 5 * BLOCK
    damaged = overlapping(store_slots(daemon), "file", [(end, 1 << 40)], BLOCK)
    with open(store_file(daemon, disk), "r+b") as file:
        file.truncate(end)
    must_lose(daemon, programs, damaged)
    assert daemon.status("store_read_errors") >= len(damaged) // 2 and daemon.status("store_checksum_errors") == 0


def extents(path):
    """Where a file's blocks lie on its device: (offset in the file, there, bytes)."""
    done = subprocess.run(["filefrag", "-v", "-b1", path], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"filefrag: {done.stderr.strip()}")
    return [tuple(int(x) for x in found) for found in
            re.findall(r"^ *\d+: *(\d+)\.\. *\d+: *(\d+)\.\. *\d+: *(\d+)", done.stdout, re.M)]


@pytest.mark.parametrize("encrypt", ["no", "yes"])
def test_s8_a_disk_that_cannot_be_read(own_disk, store_daemon, compiled, encrypt):
    """EIO from the device, for the file's end."""
    on, image = own_disk(64)
    daemon = store_daemon(swap_file=on / "swap", swap_size="32M", swap_memory="4M", swap_encrypt=encrypt)
    programs = start(daemon, compiled)
    where = extents(store_file(daemon, on))
    slots = store_slots(daemon)
    most = max(at for what, at, _ in slots.values() if what == "file") - (100 << 10)
    first = min(there + max(most - at, 0) for at, there, size in where if at + size > most) & -BLOCK
    bad = [(at + max(first - there, 0), at + size) for at, there, size in where if there + size > first]
    os.truncate(image, first)
    damaged = overlapping(slots, "file", bad, BLOCK)
    must_lose(daemon, programs, damaged)
    assert daemon.status("store_read_errors") > 0 and daemon.status("store_checksum_errors") == 0
