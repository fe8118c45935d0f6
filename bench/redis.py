# SPDX-License-Identifier: Apache-2.0
"""Redis servers with made values: started, loaded, checked."""

import contextlib
import functools
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import threading
import time

from samepage import Failed

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "e2e"))
from lib import resp  # noqa: E402

SIZE = 1960  # bytes of a value, about


def key(i):
    """As redis-benchmark -r names its keys, so that its load hits them."""
    return b"key:%012d" % i


def json_value(i, chance):
    return resp.json_value(i, chance, SIZE - 60 + i % 120)


def random_value(i, chance):
    return chance.randbytes(SIZE - 60 + i % 120)


@functools.lru_cache(maxsize=2)
def load_commands(count, make=json_value, seed=1):
    """SET of all values, as one stream of bytes; the same for the same arguments."""
    chance = random.Random(seed)
    return b"".join(resp.resp(b"SET", key(i), make(i, chance)) for i in range(count))


class Server:
    """A redis-server on a free loopback port, started at once; wait_up() before use."""

    def __init__(self, place, *options):
        self.port = resp.free_port()
        self.folder = place.tmp / f"redis-{self.port}"
        self.folder.mkdir()
        self.program = place.launch([
            shutil.which("redis-server") or "redis-server", "--port", self.port, "--bind",
            "127.0.0.1", "--dir", self.folder, "--save", "", "--appendonly", "no", "--daemonize", "no",
            "--enable-debug-command", "local", "--logfile", self.folder / "log", *options])
        self.pid = self.program.pid

    def wait(self, predicate, what, seconds=30):
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                if predicate():
                    return
            if self.program.poll() is not None or time.monotonic() > deadline:
                log = self.folder / "log"
                said = log.read_text(errors="replace")[-500:] if log.exists() else ""
                raise Failed(f"redis-server does not {what}: {said}")
            time.sleep(0.02)

    def wait_up(self):
        self.wait(lambda: self.command("PING") == b"+PONG", "answer")

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def command(self, *words):
        """One command; see resp.command()."""
        with self.connect() as connection:
            return resp.command(connection, *words)

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
