# SPDX-License-Identifier: Apache-2.0
"""Four Redis servers with equal data, merged, and all frames out (S1): what is left in memory is at most what
zram with the same compressor would hold, and a tenth, or next to nothing with a file. All values are right
then, and as many pages are shared as before, without a pass (S6)."""

import json
import subprocess

import pytest

from lib import place
from lib.redis import Data, Redis
from lib.store import store_daemon  # noqa: F401

SERVERS = 4
VALUES = place.longer(8000, 60000)
PIECE = 1 << 20  # the store's memory is in these; one is being filled
NOISE = 2 << 20  # of the programs' and the daemon's own memory between two looks


@pytest.fixture
def data():
    place.need_redis()
    return Data(VALUES)


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
    """{(device, inode, page): (pid, address)} of all frames, each with one of its sites."""
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
                    found[fields[3], fields[4], int(fields[2], 16) // 4096 + i] = pid, start + 4096 * i
    return found


def zram_would_hold(compiled, sites):
    lines = "".join(f"{pid} {address:x}\n" for pid, address in sites)
    return int(subprocess.run([compiled("zram_would", "-Wl,--no-as-needed", "-llz4")], input=lines, text=True, check=True,
                              capture_output=True).stdout)


@pytest.mark.parametrize("how", ["memory", "file"])
def test_s1_s6_redis(cgroup, loaded, data, compiled, how):
    daemon, servers = loaded
    there = frames(servers)
    zram = zram_would_hold(compiled, there.values())
    before, used = daemon.status(), cgroup.used()
    assert len(there) >= 0.9 * before["pages_shared"]
    out = json.loads(daemon.cli("reclaim", "--json", "all").stdout)
    after = daemon.status()
    left = cgroup.used() - (used - out["bytes"])  # of what the frames took
    print(f"{how}: {before['pages_shared']} frames, {out['bytes'] >> 10} KiB out; zram would hold {zram >> 10} KiB; "
          f"the store has {after['store_memory_bytes'] >> 10} KiB in memory, {after['store_file_bytes'] >> 10} in its "
          f"file; the cgroup has {left >> 10} KiB left of them")
    assert out["evicted"] >= 0.99 * before["pages_shared"], f"{out} {before} {after}"
    limit = 1.1 * zram if how == "memory" else max(out["bytes"] / 20, 4 * PIECE)
    assert after["store_memory_bytes"] <= limit + PIECE
    assert left <= limit + PIECE + NOISE
    for server in servers:
        server.read_all(data)
    again = daemon.status()
    assert again["pages_sharing"] >= 0.99 * before["pages_sharing"]
    assert again["full_scans"] == before["full_scans"]
    assert again["store_errors"] == 0
