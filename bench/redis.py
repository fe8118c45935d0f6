# SPDX-License-Identifier: Apache-2.0
"""Redis servers with made values: started, loaded, checked."""

import contextlib
import functools
import random
import shutil
import socket
import subprocess
import threading
import time

from samepage import Failed

SIZE = 1960  # bytes of a value, about


def _resp(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


def key(i):
    """As redis-benchmark -r names its keys, so that its load hits them."""
    return b"key:%012d" % i


def json_value(i, chance):
    """A JSON object of about SIZE bytes that no other value equals."""
    size = SIZE - 60 + i % 120
    body = chance.randbytes((size - 150) // 2).hex()
    return (f'{{"id":{i},"user":"user-{i * 7919 % 100003}","active":{str(i % 3 == 0).lower()},'
            f'"tags":["t{i % 17}","t{i % 23}"],"score":{i * 31 % 1000},"body":"{body}"}}').encode()


def random_value(i, chance):
    return chance.randbytes(SIZE - 60 + i % 120)


@functools.lru_cache(maxsize=2)
def load_commands(count, make=json_value, seed=1):
    """SET of all values, as one stream of bytes; the same for the same arguments."""
    chance = random.Random(seed)
    return b"".join(_resp(b"SET", key(i), make(i, chance)) for i in range(count))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A redis-server on a free loopback port, started at once; wait_up() before use."""

    def __init__(self, place, *options):
        self.port = free_port()
        self.log = place.tmp / f"redis-{self.port}.log"
        self.program = place.launch([
            shutil.which("redis-server") or "redis-server", "--port", self.port, "--bind",
            "127.0.0.1", "--dir", place.tmp, "--save", "", "--appendonly", "no", "--daemonize", "no",
            "--enable-debug-command", "local", "--logfile", self.log, *options])
        self.pid = self.program.pid

    def wait_up(self, seconds=30):
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                if self.command("PING") == b"+PONG":
                    return
            if self.program.poll() is not None or time.monotonic() > deadline:
                log = self.log.read_text()[-500:] if self.log.exists() else ""
                raise Failed(f"redis-server does not answer: {log}")
            time.sleep(0.02)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def command(self, *words):
        """One command with an answer of one line."""
        with self.connect() as connection:
            connection.sendall(_resp(*(word.encode() for word in words)))
            answer = b""
            while not answer.endswith(b"\r\n"):
                data = connection.recv(65536)
                if not data:
                    raise ConnectionError("redis-server closed the connection")
                answer += data
        return answer[:-2]

    def digest(self):
        answer = self.command("DEBUG", "DIGEST")
        if not answer.startswith(b"+"):
            raise Failed(f"redis-server: DEBUG DIGEST: {answer.decode(errors='replace')}")
        return answer

    def load(self, commands, count):
        with self.connect() as connection:
            sender = threading.Thread(target=connection.sendall, args=(commands,), daemon=True)
            sender.start()
            got = 0
            while got < 5 * count:
                data = connection.recv(1 << 18)
                if not data or b"-" in data:
                    raise Failed(f"redis-server took not all values: {data[:200]!r}")
                got += len(data)
            sender.join()

    def stop(self):
        self.program.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.program.wait(10)
