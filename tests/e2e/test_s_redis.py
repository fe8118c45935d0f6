# SPDX-License-Identifier: Apache-2.0
"""Four Redis servers with equal data, merged, and all frames out (S1): what is left in memory is at most what
zram with the same compressor would hold, and a tenth, or next to nothing with a file. All values are right
then, and as many pages are shared as before, without a pass (S6)."""

import contextlib
import json
import subprocess

import pytest

from lib import place
from lib.redis import Data, Redis
from lib.resp import json_events
from lib.store import store_daemon  # noqa: F401
from lib.zram import held, unused_zram

SERVERS = 4
VALUES = place.longer(8000, 60000)
PAGE = 4096
PIECE = 1 << 20  # the store's memory is in these; one is being filled
# What does not grow with the frames, and is more than the limits where these are few: some pieces, and what programs and
# daemon take more or less between two looks. In the long form there is none.
SLACK = place.longer(5 * PIECE, 0)


@pytest.fixture
def data():
    place.need_redis()
    return Data(VALUES, make=json_events)


@pytest.fixture
def loaded(cgroup, store_daemon, data, tmp_path, how):  # noqa: F811
    file = {"swap_file": tmp_path / "swap", "swap_size": "1G", "swap_memory": "4M"} if how == "file" else {}
    daemon = store_daemon(cgroup=cgroup, **file)
    daemon.set(run=0)
    servers = [Redis(daemon.run, daemon.directory / f"redis-{i}", wait=False) for i in range(SERVERS)]
    for server in servers:
        server.wait_up()
        server.load(data)
        server.read_all(data)
    daemon.set(run=1)
    daemon.wait()
    daemon.set(run=0)
    return daemon, servers


def frames(servers):
    """{(device, inode, page): [(pid, address), …]} of all frames that somebody has in his page tables, with their sites."""
    found = {}
    for server in servers:
        pid = server.program.pid
        with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as maps:
            lines = [line.split() for line in maps]
        for fields in lines:
            if fields[1] != "rw-p" or fields[4] == "0" or "/" + str(int(fields[4]) - 1) != fields[-1]:
                continue  # the store's files have no path but their number
            start, end = (int(x, 16) for x in fields[0].split("-"))
            with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
                pagemap.seek(start // 4096 * 8)
                entries = pagemap.read((end - start) // 4096 * 8)
            for i in range((end - start) // 4096):
                entry = int.from_bytes(entries[8 * i:8 * i + 8], "little")
                if not entry >> 63 & 1 or entry >> 61 & 1:
                    page = fields[3], fields[4], int(fields[2], 16) // 4096 + i
                    found.setdefault(page, []).append((pid, start + 4096 * i))
    return found


def zram_holds(compiled, sites):
    """Bytes that zram with lz4 holds for these pages: in the long form a real one, if there is one, by which the count that
    the short form goes by is looked at, too."""
    lines = "".join(f"{pid} {address:x}\n" for pid, address in sites)
    program = compiled("zram_would", "-Wl,--no-as-needed", "-llz4")
    with unused_zram(len(sites) * PAGE + PIECE) if place.LONG else contextlib.nullcontext() as device:
        would = int(subprocess.run([program, *([device] if device else [])], input=lines, text=True, check=True,
                                   capture_output=True).stdout)
        if not device:
            return would
        real = held()
        print(f"zram holds {real >> 10} KiB of {len(sites) * PAGE >> 10}, counted {would >> 10}")
        assert abs(would - real) < real / 20
        return real


@pytest.mark.parametrize("how", ["memory", "file"])
def test_s1_s6_redis(cgroup, loaded, data, compiled, how):
    daemon, servers = loaded
    there = frames(servers)
    zram = zram_holds(compiled, [sites[0] for sites in there.values()])
    before, charged = daemon.status(), cgroup.charged()
    assert len(there) >= 0.9 * before["pages_shared"]
    out = json.loads(daemon.cli("reclaim", "--json", "all").stdout)
    after, now = daemon.status(), cgroup.charged()
    left = now - (charged - out["bytes"])  # of what the frames took
    print(f"{how}: {before['pages_shared']} frames, {out['bytes'] >> 10} KiB out; zram would hold {zram >> 10} KiB; "
          f"the store has {after['store_memory_bytes'] >> 10} KiB in memory, {after['store_file_bytes'] >> 10} in its "
          f"file; the cgroup had {charged >> 10} KiB, has {now >> 10}: {left >> 10} of the frames")
    assert out["evicted"] >= 0.99 * before["pages_shared"], f"{out} {before} {after}"
    limit = (1.1 * zram if how == "memory" else out["bytes"] / 20) + SLACK
    assert after["store_memory_bytes"] <= limit
    assert left <= limit
    for server in servers:
        server.read_all(data)
    again = daemon.status()
    assert again["pages_sharing"] >= 0.99 * before["pages_sharing"]
    assert again["full_scans"] == before["full_scans"]
    assert again["store_errors"] == 0
    sites, mapped = (sum(map(len, one.values())) for one in (there, frames(servers)))
    print(f"{how}: {sites} sites before, {mapped} after all was read; pages_sharing {before['pages_sharing']} and "
          f"{again['pages_sharing']}")
    assert mapped >= 0.99 * sites, "what came back is not shared"
