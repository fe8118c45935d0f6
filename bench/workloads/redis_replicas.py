# SPDX-License-Identifier: Apache-2.0
"""A Redis master and three replicas of it, which got its data by a full synchronisation: each has
the same values, in an order of its own in memory where the master's differs from the replicas'."""

import redis

REPLICAS = 3
VALUES = 60000
SYNC = 120  # seconds


class Server(redis.Server):
    """Of a master and its replicas."""

    def __init__(self, place, *options):
        super().__init__(place, "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
                         *options)
        self.wait_up()

    def offset(self):
        """How much of the master's stream it has; None while it synchronises."""
        info = dict(line.split(b":", 1)
                    for line in self.command("INFO", "replication").splitlines() if b":" in line)
        if info[b"role"] == b"slave" and info[b"master_link_status"] != b"up":
            return None
        return int(info[b"master_repl_offset"])


class Workload:
    advises = False
    scale = 1.0

    def __init__(self, kind, value):
        self.name = f"redis-replicas-{kind}"
        self.about = f"a Redis master and {REPLICAS} replicas of it, {kind} values of 2 KB"
        self.value, self.servers, self.digest = value, [], None

    def start(self, place):
        values = int(VALUES * self.scale)
        master = Server(place)
        self.servers = [master]
        master.load(redis.load_commands(values, self.value, seed=3), values)
        for _ in range(REPLICAS):
            self.servers.append(Server(place, "--replicaof", f"127.0.0.1 {master.port}"))
        for replica in self.servers[1:]:
            replica.wait(lambda r=replica: r.offset() == master.offset(), "synchronise", SYNC)
        for server in self.servers:
            server.command("MEMORY", "PURGE")
        self.digest = master.digest()
        self.check()

    def pids(self):
        return [server.pid for server in self.servers]

    def check(self):
        for server in self.servers:
            got = server.digest()
            assert got == self.digest, f"redis-server (pid {server.pid}): {got}, not {self.digest}"

    def stop(self):
        for server in self.servers:
            server.stop()
        self.servers = []


def workloads():
    return [Workload("json", redis.json_value), Workload("random", redis.random_value)]
