# SPDX-License-Identifier: Apache-2.0
"""A Redis master and three replicas of it, which got its data by a full synchronisation: each has
the same values, in an order of its own in memory where the master's differs from the replicas'."""

import contextlib
import random
import shutil
import socket
import threading
import time

REPLICAS = 3
VALUES = 60000
SIZE = 2000
SECONDS = 120


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def request(*words):
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)])


def json_value(i, chance):
    body = chance.randbytes((SIZE - 100) // 2).hex()
    user = i * 7919 % 100003
    return f'{{"id":{i},"user":"user-{user}","tags":["t{i % 17}"],"body":"{body}"}}'.encode()


def random_value(i, chance):
    return chance.randbytes(SIZE - 60 + i % 120)


class Server:
    def __init__(self, place, *options):
        self.port = free_port()
        folder = place.tmp / f"redis-{self.port}"
        folder.mkdir()
        server = shutil.which("redis-server")
        assert server, "redis-server is not installed (scripts/deps.sh)"
        self.program = place.launch(
            [server, "--port", self.port, "--bind", "127.0.0.1", "--dir", folder, "--save", "",
             "--appendonly", "no", "--daemonize", "no", "--enable-debug-command", "yes",
             "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
             "--logfile", folder / "log", *options], cwd=folder)
        self.wait(lambda: self.ask("PING") == b"+PONG\r\n", "answer")

    def wait(self, predicate, what):
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(OSError):
                if predicate():
                    return
            status = self.program.poll()
            assert status is None, f"redis-server (pid {self.program.pid}) ended with {status}"
            assert time.monotonic() < deadline, \
                f"redis-server (pid {self.program.pid}) does not {what} in {SECONDS} s"
            time.sleep(0.05)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def ask(self, *words):
        """The answer, of one line or one string."""
        with self.connect() as s:
            s.sendall(request(*(word.encode() for word in words)))
            answer = b""
            while not answer.endswith(b"\r\n") or (
                    answer[:1] == b"$" and
                    len(answer) < int(answer[1:answer.index(b"\r")]) + answer.index(b"\n") + 3):
                more = s.recv(65536)
                if not more:
                    raise ConnectionError("redis-server closed the connection")
                answer += more
        return answer

    def load(self, values):
        requests = b"".join(request(b"SET", b"key:%08d" % i, v) for i, v in enumerate(values))
        with self.connect() as s:
            sender = threading.Thread(target=s.sendall, args=(requests,), daemon=True)
            sender.start()
            got, want = bytearray(), b"+OK\r\n" * len(values)
            while len(got) < len(want):
                more = s.recv(1 << 18)
                assert more, f"redis-server (pid {self.program.pid}) closed the connection"
                got += more
            sender.join()
        assert got == want, "a SET failed"

    def offset(self):
        info = dict(line.split(b":", 1) for line in self.ask("INFO", "replication").splitlines()
                    if b":" in line)
        if info[b"role"] == b"slave" and info[b"master_link_status"] != b"up":
            return None
        return int(info[b"master_repl_offset"])

    def digest(self):
        answer = self.ask("DEBUG", "DIGEST")
        assert answer.startswith(b"+") and len(answer) == 43, answer
        return answer


class Workload:
    advises = False
    scale = 1.0

    def __init__(self, kind, value):
        self.name = f"redis-replicas-{kind}"
        self.about = f"a Redis master and {REPLICAS} replicas of it, {kind} values of 2 KB"
        self.value, self.servers, self.digest = value, [], None

    def start(self, place):
        chance = random.Random(3)
        master = Server(place)
        self.servers = [master]
        master.load([self.value(i, chance) for i in range(int(VALUES * self.scale))])
        for _ in range(REPLICAS):
            self.servers.append(Server(place, "--replicaof", f"127.0.0.1 {master.port}"))
        for replica in self.servers[1:]:
            replica.wait(lambda r=replica: r.offset() == master.offset(), "synchronise")
        for server in self.servers:
            server.ask("MEMORY", "PURGE")
        self.digest = master.digest()
        self.check()

    def pids(self):
        return [server.program.pid for server in self.servers]

    def check(self):
        for server in self.servers:
            got = server.digest()
            assert got == self.digest, \
                f"redis-server (pid {server.program.pid}): digest {got}, not {self.digest}"

    def stop(self):
        for server in self.servers:
            server.program.kill()
        for server in self.servers:
            server.program.wait()


def workloads():
    return [Workload("json", json_value), Workload("random", random_value)]
