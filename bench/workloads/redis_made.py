# SPDX-License-Identifier: Apache-2.0
"""Four Redis servers, each with the same made JSON values."""

import redis

SERVERS = 4
VALUES = 60000


class Workload:
    name = "redis-made"
    about = f"{SERVERS} redis-servers, the same {VALUES:,} JSON values of about 2 KB in each"
    advises = False
    scale = 1.0
    rounds = 3  # it has most of the targets
    idle_has_target = True

    def __init__(self):
        self.servers, self.digest = [], None

    def values(self):
        return int(VALUES * self.scale)

    def start(self, place):
        commands = redis.load_commands(self.values())
        self.servers = []
        for _ in range(SERVERS):
            self.servers.append(redis.Server(place))
        for server in self.servers:
            server.wait_up()
        for server in self.servers:
            server.load(commands, self.values())
        self.digest = self.servers[0].digest()

    def pids(self):
        return [server.pid for server in self.servers]

    def check(self):
        for server in self.servers:
            digest = server.digest()
            assert digest == self.digest, f"{digest} is not {self.digest}: redis-server's data changed"

    def stop(self):
        for server in self.servers:
            server.stop()
        self.servers = []
