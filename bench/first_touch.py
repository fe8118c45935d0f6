# SPDX-License-Identifier: Apache-2.0
"""What the first touch of a merged page costs that is out of memory, beside the kernel's swap-in from
zram and from a swap file: programs/first_touch.c.

What is touched was out, and came from where it is said: nearly no page is in memory before, nearly each
touch without reading ahead is a major fault, and so many pages come from swap, or none."""

import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import swaps
from place import Place
from samepage import Failed

ROUNDS = 5
PAGES = 8192
PAGE = 4096
PATIENCE = 120  # seconds
FEW = 100  # one in so many pages may be where it is not said to be
BDI = pathlib.Path("/sys/class/bdi")
WAYS = ("random", "order")
FIGURES = ("median", "p99", "mean")
KEPT = "4M"  # what the store keeps in memory of what goes to its file


def _say(program, word):
    program.stdin.write(word.encode() + b"\n")
    program.stdin.flush()
    return program.stdout.readline().decode().strip()


def _start(place, pages, kind):
    program = place.launch([place.tools / "first_touch", pages, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if program.stdout.readline() != b"ready\n":
        raise Failed(f"first_touch ended: {place.errors()}")
    return program


def _swapped_in():
    with open("/proc/vmstat", encoding="ascii") as text:
        return int(next(line for line in text if line.startswith("pswpin ")).split()[1])


def _touch(program, way, pages, swapped):
    """{(way, figure): nanoseconds}."""
    before, inside = _swapped_in(), int(_say(program, "in"))
    if inside > 2 * pages // FEW:
        raise Failed(f"{inside} of {2 * pages} pages are in memory")
    *figures, major = (float(value) for value in _say(program, way).split())
    came = _swapped_in() - before
    if way == "random" and major < pages - pages // FEW:
        raise Failed(f"only {major:.0f} of {pages} touches were major faults")
    if came < pages - pages // FEW if swapped else came > pages // FEW:
        raise Failed(f"{came} pages came from swap, of {pages}")
    return {(way, figure): value for figure, value in zip(FIGURES, figures)}


def _touches(program, ways, pages, swapped, out):
    """The same of these ways; out() has all pages leave memory."""
    found = {}
    for way in ways:
        out()
        found.update(_touch(program, way, pages, swapped))
    if _say(program, "right") != "right":
        raise Failed("first_touch: wrong bytes")
    return found


def _from_swap(build, tools, pages, kind):
    place = Place(build, tools, "plain")
    try:
        program = _start(place, pages, kind)

        def out():
            end = time.monotonic() + PATIENCE
            if _say(program, "out") != "out":
                raise Failed("MADV_PAGEOUT is refused")
            # What was written to a file stays in memory until somebody asks for memory.
            while int(_say(program, "in")) > 2 * pages // FEW and time.monotonic() < end:
                place.cgroup.press()
                time.sleep(0.02)

        with swaps.no_reading_ahead():
            found = _touches(program, ["random"], pages, True, out)
        return {**found, **_touches(program, ["order"], pages, True, out)}
    finally:
        place.close()


def _merged(place, pages):
    """Waits until all pages are shared; nothing is merged from then on."""
    place.merger.go()
    end = time.monotonic() + PATIENCE
    while place.merger.counters()["pages_sharing"] < pages:
        if time.monotonic() > end:
            raise Failed(f"not merged: {place.merger.counters()}")
        time.sleep(0.05)
    place.merger.set("run", 0)


def _evict_all(merger, to_file):
    shared = merger.counters()["pages_shared"]
    for _ in range(4 * shared // 1024 + 64):
        merger.ask(op="reclaim", bytes=shared * PAGE)
        if merger.counters()["frames_evicted"] >= shared:
            break
    counters = merger.counters()
    if counters["frames_evicted"] < shared:
        raise Failed(f"not all frames left memory: {counters}")
    if bool(counters["store_file_bytes"] >= counters["store_memory_bytes"]) != to_file:
        raise Failed(f"not in the file, or in it: {counters}")


def _read_nothing_ahead(place):
    """Of the store's mount, whose files are not open yet. MADV_RANDOM would un-merge."""
    for pid in place.cgroup.pids():
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(fd) != "/":  # a mount that is nowhere; the pool's is a tmpfs, which has no such file
                continue
            device = os.stat(fd).st_dev
            ahead = BDI / f"{os.major(device)}:{os.minor(device)}/read_ahead_kb"
            if ahead.exists():
                return ahead.write_text("0", encoding="ascii")
    raise Failed("the store's mount is not found")


def _from_store_in(way, build, tools, pages, config):
    place = Place(build, tools, "samepage", swap={"swap": "store", "reclaim_max": 0, **config})
    try:
        if way == "random":
            _read_nothing_ahead(place)
        programs = [_start(place, pages, "private") for _ in range(2)]
        _merged(place, 2 * pages)
        return _touches(programs[0], [way], pages, False, lambda: _evict_all(place.merger, bool(config)))
    finally:
        place.close()


def _from_store(build, tools, pages, **config):
    found = {}
    for way in WAYS:
        found.update(_from_store_in(way, build, tools, pages, config))
    return found


def _ways(build, tools, pages):
    """{from where: how}."""
    size = 8 * pages * PAGE
    file = {"swap_memory": KEPT, "swap_size": "1G",
            "swap_file": f"{tempfile.gettempdir()}/{swaps.PREFIX}store-{time.monotonic_ns()}"}

    def swap(on, kind):
        with on(size):
            return _from_swap(build, tools, pages, kind)

    return {"samepage's store, in memory": lambda: _from_store(build, tools, pages),
            "zram (lz4), private pages": lambda: swap(swaps.on_zram, "private"),
            "zram (lz4), shared memory": lambda: swap(swaps.on_zram, "shared"),
            "samepage's store, its file": lambda: _from_store(build, tools, pages, **file),
            "a swap file, private pages": lambda: swap(swaps.on_file, "private"),
            "a swap file, shared memory": lambda: swap(swaps.on_file, "shared")}


def measure(build, tools, rounds, scale, say):
    """{from where: {"random median": ns, …}}, medians of alternating rounds; or {"failed": why} there."""
    pages = int(PAGES * scale)
    runs, failed = {}, {}
    for number in range(rounds):
        for name, way in _ways(build, tools, pages).items():
            try:
                runs.setdefault(name, []).append(way())
            except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
                failed[name] = f"{type(error).__name__}: {error}"
        say(f"first touch, round {number + 1}")
    found = {name: {" ".join(key): statistics.median(one[key] for one in of) for key in of[0]}
             for name, of in runs.items() if of}
    for name, why in failed.items():
        found.setdefault(name, {})["failed"] = why
    return found


def lines(results):
    """Rows of the table."""
    rows = [[name, *(f"{of[f'{way} {figure}'] / 1000:.1f}" for way in WAYS for figure in FIGURES)]
            for name, of in results.get("first_touch", {}).items() if "failed" not in of]
    if not rows:
        return []
    return [["from", *(f"{way} {figure}" for way in WAYS for figure in FIGURES)], *rows]
