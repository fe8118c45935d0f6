# SPDX-License-Identifier: Apache-2.0
"""Two Redis servers under redis-benchmark and a seeded load, while BGSAVE and BGREWRITEAOF follow one
another without a pause. The same seed gives the same data plain and merged; what the servers saved
must give that data again in a fresh server."""

import contextlib
import re
import shutil
import subprocess
import threading
import time

from lib.redis import Data, Redis, made_commands

from place import FAILURES
from result import Result

SERVERS = 2
VALUES = 30000
COMMANDS = 100000
SECONDS = 120


class Saving:
    """`with Saving(server)`: saves and rewrites its log all the time, in a thread of its own."""

    def __init__(self, server):
        self.server, self.ending = server, threading.Event()
        self.begun = {"BGSAVE": 0, "BGREWRITEAOF": 0}
        self.thread = threading.Thread(target=self._go_on)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.ending.set()
        self.thread.join()

    def _go_on(self):
        while not self.ending.wait(0.05):
            for command in self.begun:
                # One that is refused because the other's child still runs is tried again.
                with contextlib.suppress(*FAILURES):
                    self.begun[command] += self.server.command(command).startswith(b"+")


def info(server, section):
    said = subprocess.run(["redis-cli", "-p", str(server.port), "info", section], check=False,
                          capture_output=True, text=True, timeout=60)
    return dict(re.findall(r"^(\w+):(.*?)\r?$", said.stdout, re.M))


def wait_saved(server):
    """Until no child of the server is at work any more."""
    deadline = time.monotonic() + SECONDS
    while True:
        found = info(server, "persistence")
        busy = [found.get(key, "1") for key in
                ("rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled")]
        if set(busy) == {"0"}:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"a save does not end: {found}")
        time.sleep(0.05)


def benchmark(server, *options):
    """Requests a second, by name. They are no test: this machine does other things, too."""
    done = subprocess.run(["redis-benchmark", "-p", str(server.port), "-q", "--csv", *options],
                          check=False, capture_output=True, text=True, timeout=SECONDS)
    rates = dict(re.findall(r'^"([A-Z][^"]*)","([\d.]+)"', done.stdout, re.M))
    assert done.returncode == 0 and rates, f"redis-benchmark: {done.stdout} {done.stderr}"
    return {name: float(rate) for name, rate in rates.items()}


class Load:
    """The suite."""

    kind, name = "redis", "load"

    def _start(self, place, number):
        return Redis(place.start, place.folder / str(number), options=(
            "--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"))

    def _fresh(self, place, server, name, *options):
        """A plain server's digest that loaded what this one saved."""
        folder = place.folder / f"{server.directory.name}-{name}"
        shutil.copytree(server.directory, folder)
        fresh = Redis(place.daemon.plain, folder, options=options)
        return fresh.digest().decode()

    def _seeded(self, server, parts, place):
        with Saving(server) as saving:
            server.load(self.data)
            for part in parts:
                server.pipe(part)
                place.look()
            # Without -r it does the same each time it runs.
            benchmark(server, "-n", "40000", "-P", "4", "-t", "set,incr,lpush,rpush,hset,mset")
            digest = server.digest().decode()
        return digest, saving.begun

    def _random(self, server, place):
        with Saving(server):
            rates = benchmark(server, "-n", "60000", "-r", "20000", "-t", "set,get,incr,lpush,sadd,hset")
            place.look()
        return rates

    def _one(self, place, server, parts):
        """{test: outcome} of one server, and its figures."""
        digest, begun = self._seeded(server, parts, place)
        rates = self._random(server, place)
        wait_saved(server)
        server.command("BGREWRITEAOF")
        wait_saved(server)
        server.command("SAVE")
        saved, last = wait_saved(server), server.digest().decode()
        found = {"data of the seeded load": digest,
                 "BGSAVE": saved["rdb_last_bgsave_status"],
                 "BGREWRITEAOF": saved["aof_last_bgrewrite_status"]}
        for name, options in (("RDB", ("--appendonly", "no")), ("AOF", ("--appendonly", "yes"))):
            same = self._fresh(place, server, name.lower(), *options) == last
            found[f"{name} loads as it was"] = "passed" if same else "failed"
        return found, {"saves": begun, "requests_per_second": rates}

    def run(self, place):
        self.data = Data(VALUES)
        parts = made_commands(COMMANDS, VALUES)
        result = Result(SERVERS)
        servers = [self._start(place, number) for number in range(SERVERS)]
        threads = [threading.Thread(target=self._guarded, args=(place, server, parts, result))
                   for server in servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                place.look()
                thread.join(0.2)
        return result

    def _guarded(self, place, server, parts, result):
        try:
            found, notes = self._one(place, server, parts)
        except (*FAILURES, subprocess.TimeoutExpired) as error:
            found, notes = {"(as a whole)": "failed"}, {}
            result.tell(f"server {server.directory.name}", str(error))
        result.add(found)
        result.notes[f"server {server.directory.name}"] = notes
