# SPDX-License-Identifier: Apache-2.0
"""Three Redis servers under a steady seeded load of writes, the same for each: samepage holds at least 90 %
of what `samepage estimate` says is there to save at that moment (K3, K11), it saves more than it needs
itself, and every value is the one that was written last.

The load: 200 SETs a second to each server, on keys as popular as Zipf says (the exponent 0.99 of the YCSB
benchmarks: of 20,000 keys the first gets 19 writes a second, the thousandth one in 50 seconds, the last one
in 18 minutes), with new values of some 2,000 bytes. A SET puts the value where another one just was, so half of all pages are
written again within two minutes.
"""

import bisect
import hashlib
import itertools
import json
import random
import re
import socket
import threading
import time

import pytest

from lib import place
from lib.place import SLACK, wait_for
from lib.redis import Redis
from lib.resp import json_value, resp

SEED = 4
SERVERS = 3
VALUES = 20000
EXPONENT = 0.99
WRITES = 200  # a second, to each server
TICK = 0.05
SECONDS = place.longer(8, 600)
LONGEST = place.longer(180, 605)  # the load goes on until it was looked, at most so long
SETTLING = 60  # seconds, in the long form; from then on it is looked
EVERY = 30
IN_A_ROW = 3  # good looks, in the short form


class Load:
    """The writes, tick by tick: the same whenever it is made."""

    def __init__(self):
        self.chance = random.Random(SEED)
        order = list(range(VALUES))
        self.chance.shuffle(order)
        self.key_of = order
        self.weight = list(itertools.accumulate(1 / (i + 1) ** EXPONENT for i in range(VALUES)))
        self.values = [self.value(i) for i in range(VALUES)]

    def value(self, i):
        return json_value(i, self.chance, 1900 + i % 120)

    def tick(self):
        """The keys and values of the next one; values is what they leave."""
        writes = []
        for _ in range(int(WRITES * TICK)):
            at = bisect.bisect(self.weight, self.chance.random() * self.weight[-1])
            key = self.key_of[min(at, VALUES - 1)]
            self.values[key] = self.value(key)
            writes.append((key, self.values[key]))
        return writes


def set_of(key, value):
    return resp(b"SET", b"key:%08d" % key, value)


class Writer(threading.Thread):
    """Sends its server the batches, one each tick, and reads the answers, until `stop_at` of them."""

    def __init__(self, server, batches):
        super().__init__(daemon=True)
        self.connection = socket.create_connection(("127.0.0.1", server.port), timeout=60 * SLACK)
        self.batches, self.sent, self.error = batches, 0, None
        self.stop_at = len(batches)

    def run(self):
        try:
            begun = time.monotonic()
            while self.sent < self.stop_at:
                time.sleep(max(0, begun + self.sent * TICK - time.monotonic()))
                count = int(WRITES * TICK)
                self.connection.sendall(self.batches[self.sent])
                got = b""
                while len(got) < 5 * count:
                    got += self.connection.recv(65536) or b"-"
                assert got == b"+OK\r\n" * count, got[:200]
                self.sent += 1
        except (OSError, AssertionError) as error:
            self.error = error


def stop_together(writers):
    """After the same tick. Returns which."""
    last = min(len(writers[0].batches), max(writer.sent for writer in writers) + 40)
    for writer in writers:
        writer.stop_at = last
    for writer in writers:
        writer.join(60 * SLACK)
        assert writer.error is None and not writer.is_alive(), writer.error
        assert writer.sent == last
    return last


def fill_server(server, values):
    fill = b"".join(set_of(key, value) for key, value in enumerate(values))
    with socket.create_connection(("127.0.0.1", server.port), timeout=60 * SLACK) as connection:
        sender = threading.Thread(target=connection.sendall, args=(fill,), daemon=True)
        sender.start()
        got = 0
        while got < 5 * VALUES:
            got += len(connection.recv(1 << 18))
        sender.join()


def digest_of(server):
    """Of all values, as the server gives them."""
    got = hashlib.blake2b()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60 * SLACK) as connection:
        stream = connection.makefile("rb")
        for first in range(0, VALUES, 200):
            connection.sendall(b"".join(resp(b"GET", b"key:%08d" % i)
                                        for i in range(first, first + 200)))
            for _ in range(200):
                got.update(stream.read(int(stream.readline()[1:]) + 2))
    return got.hexdigest()


def in_pool(pid):
    """Pages in private mappings of the pool, as the kernel says."""
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as maps:
        lines = [line.split(None, 5) for line in maps]
    ends = [line[0].split("-") for line in lines
            if line[1] == "rw-p" and len(line) > 5 and re.fullmatch(r"/[0-9]+", line[5].strip())]
    return sum(int(end, 16) - int(start, 16) for start, end in ends) // 4096


class Look:
    """What is held, as status has it, of what estimate says could be, at one moment: what status says
    before and after the estimate read the servers, the mean of both."""

    def __init__(self, daemon, servers):
        pids = [server.program.pid for server in servers]
        before = daemon.status("pages_sharing")
        said = json.loads(daemon.cli("estimate", "--json", *pids).stdout)
        self.status = daemon.status()
        self.held = (before + self.status["pages_sharing"]) / 2
        self.possible = said["pages_sharing"]
        self.really = sum(map(in_pool, pids)) - self.status["pages_kept_private"]
        self.sites = self.status["pages_shared"] + self.status["pages_sharing"]

    def __str__(self):
        keys = ("bytes_saved", "pages_shared", "pages_kept_private", "frames_lingering", "pool_bytes",
                "mappings", "pages_merged", "pages_unmerged", "cpu_seconds", "full_scans")
        return (f"held {self.held:.0f} of {self.possible} pages: {100 * self.held / self.possible:.1f} %, "
                f"{self.really} of {self.sites} in the pool, "
                f"{json.dumps({key: self.status[key] for key in keys})}")

    def share(self):
        return self.held / self.possible

    def is_good(self):
        return self.share() >= 0.9 and self.status["bytes_saved"] > 0


def good_in_a_row(daemon, servers):
    """So many looks, if all of them are good; else None."""
    looks = []
    while len(looks) < IN_A_ROW:
        looks.append(Look(daemon, servers))
        if not looks[-1].is_good():
            return None
    return looks


def look_while_they_write(daemon, servers, writers):
    """In the long form each half a minute; in the short one until it is good, for a machine that is busy gets
    more time."""
    begun = looked = time.monotonic()
    looks = []
    while all(w.is_alive() for w in writers) and min(w.sent for w in writers) < SECONDS / TICK:
        time.sleep(0.5)
        if time.monotonic() - looked > EVERY:
            looked = time.monotonic()
            look = Look(daemon, servers)
            print(f"{looked - begun:.0f} s: {look}", flush=True)
            looks += [look] * (looked - begun > SETTLING)
    if place.LONG:
        return looks
    return wait_for(lambda: f"{Look(daemon, servers)} {daemon.cli('ps').stdout}",
                    lambda: good_in_a_row(daemon, servers), 120, 1)


@pytest.fixture
def servers(make_daemon):
    place.need_redis()
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    daemon = make_daemon().start()  # at its usual speed
    return daemon, [Redis(daemon.run, daemon.directory / f"redis-{i}") for i in range(SERVERS)]


@pytest.mark.alone  # merging is to keep up with the writes
def test_k11_steady_writes_stay_merged(servers):
    daemon, servers = servers
    load = Load()
    for server in servers:
        fill_server(server, load.values)
    daemon.wait(60)
    batches = [b"".join(set_of(*write) for write in load.tick()) for _ in range(int(LONGEST / TICK))]
    writers = [Writer(server, batches) for server in servers]
    for writer in writers:
        writer.start()
    looks = look_while_they_write(daemon, servers, writers)
    print("\n".join(map(str, looks)))
    ticks = stop_together(writers)
    again = Load()
    for _ in range(ticks):
        again.tick()
    want = hashlib.blake2b(b"".join(value + b"\r\n" for value in again.values)).hexdigest()
    assert [digest_of(server) for server in servers] == [want] * SERVERS
    shares = [look.share() for look in looks]
    assert sum(shares) >= 0.9 * len(shares) > 0, f"held: {shares}"
    assert sum(look.status["bytes_saved"] for look in looks) > 0, "nothing is saved: " + "; ".join(map(str, looks))
    for look in looks:
        assert look.possible > 10000, f"there is nothing to save: {look}"
        # Nothing is counted that is not so (K12), but for what changed meanwhile.
        assert abs(look.really - look.sites) < 0.1 * look.sites, look
