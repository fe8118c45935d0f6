# SPDX-License-Identifier: Apache-2.0
"""Four Redis servers with equal data need at least 65 % less memory merged, counted by their
cgroup with agents and daemon in it, and not a byte of theirs differs, also under 100,000 writes
and reads while merging runs at full speed (K6, K11)."""

import pytest

from lib import place
from lib.place import wait_for
from lib.redis import Data, Redis, made_commands

SERVERS = 4
VALUES = 60000


@pytest.fixture
def data():
    place.need_redis()
    return Data(VALUES)


@pytest.fixture
def loaded(cgroup, make_daemon, data):
    """The servers, loaded while nothing is merged yet (run=0), in a cgroup with the daemon."""
    place.need_kernel_6_8()
    place.need_userfaultfd()
    daemon = make_daemon(cgroup=cgroup).start()
    daemon.set(run=0)
    daemon.set_full_speed()
    servers = [Redis(daemon.run, daemon.directory / f"redis-{i}", wait=False)
               for i in range(SERVERS)]
    for server in servers:
        server.wait_up()
        server.load(data)
    return daemon, cgroup, servers


def used_after_reading(cgroup, servers, data):
    """Bytes in use when every page was touched and the allocators gave back what they do not need,
    which would flatter us before and not after."""
    for server in servers:
        server.read_all(data)
    for server in servers:
        server.command("MEMORY", "PURGE")
    return cgroup.used()


def test_redis_saves_65_percent(loaded, data):
    daemon, cgroup, servers = loaded
    before = used_after_reading(cgroup, servers, data)
    digests = [server.digest() for server in servers]
    daemon.set(run=1)
    daemon.wait()
    after = used_after_reading(cgroup, servers, data)
    print(f"before {before >> 20} MiB, after {after >> 20} MiB: {1 - after / before:.1%} less; "
          f"{daemon.status()}")
    assert [server.digest() for server in servers] == digests
    plain = Redis(daemon.plain, daemon.directory / "redis-plain")
    plain.load(data)
    for commands in made_commands(100000, VALUES):
        scans = daemon.status("full_scans")
        servers[0].pipe(commands)
        plain.pipe(commands)
        wait_for("no pass ends", lambda: daemon.status("full_scans") > scans)
    assert servers[0].digest() == plain.digest()
    for server, digest in zip(servers[1:], digests[1:]):
        assert server.digest() == digest, "a write was seen by another server"
    assert after <= 0.35 * before, \
        f"before {before >> 20} MiB, after {after >> 20} MiB: {1 - after / before:.1%} saved"
