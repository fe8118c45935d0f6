# SPDX-License-Identifier: Apache-2.0
"""Redis servers, and the same made data for each of them, as bytes to be sent."""

import hashlib
import random
import shutil
import socket
import subprocess
import threading

from lib.place import SLACK, wait_for
from lib.resp import command, free_port, json_value, resp


class Data:
    """Keys and values made from a seed: load (SET of all), reads (GET of all, in parts so small that
    the answers waiting in the server hardly count as its memory) and the digest of the answers
    that a right server gives to reads."""

    PART = 250

    def __init__(self, count, seed=1, make=json_value):
        chance = random.Random(seed)
        load, read, want = [], [], hashlib.blake2b()
        for i in range(count):
            key, value = b"key:%08d" % i, make(i, chance, 1900 + i % 120)
            load.append(resp(b"SET", key, value))
            read.append(resp(b"GET", key))
            want.update(b"$%d\r\n%b\r\n" % (len(value), value))
        self.count = count
        self.load = b"".join(load)
        self.reads = [b"".join(read[i:i + self.PART]) for i in range(0, count, self.PART)]
        self.want = want.hexdigest()


def made_commands(count, keys, seed=2):
    """count writes and reads of every kind of value, for redis-cli --pipe, in ten parts."""
    chance = random.Random(seed)
    parts = []
    for i in range(count):
        key = b"key:%08d" % chance.randrange(keys)
        kind = chance.randrange(10)
        if kind < 3:
            parts.append(resp(b"SET", key, json_value(i, chance, 300 + chance.randrange(1700))))
        elif kind < 5:
            parts.append(resp(b"GET", key))
        elif kind == 5:
            parts.append(resp(b"SETRANGE", key, b"%d" % chance.randrange(1500),
                               chance.randbytes(20)))
        elif kind == 6:
            parts.append(resp(b"APPEND", key, chance.randbytes(50)))
        elif kind == 7:
            parts.append(resp(b"HSET", b"hash:%d" % chance.randrange(50),
                               b"f%d" % chance.randrange(500), chance.randbytes(40)))
        elif kind == 8:
            parts.append(resp(b"RPUSH", b"list:%d" % chance.randrange(50), b"%d" % i))
        else:
            parts.append(resp(b"DEL", key) if i % 2 else
                         resp(b"INCR", b"counter:%d" % chance.randrange(50)))
    return [b"".join(parts[i * count // 10:(i + 1) * count // 10]) for i in range(10)]


class Redis:
    """A server on a free loopback port, started by start(argv…) -> Program: under samepage
    (daemon.run) or as it stands (daemon.plain). save=True: it saves its data on TERM. options: more of
    its own, which go before those here."""

    def __init__(self, start, directory, save=False, wait=True, options=()):
        self.port, self.directory = free_port(), directory
        directory.mkdir(exist_ok=True)
        self.program = start(
            shutil.which("redis-server"), "--port", self.port, "--bind", "127.0.0.1", "--dir",
            directory, "--save", "3600 1000000" if save else "", "--appendonly", "no", "--daemonize",
            "no", "--enable-debug-command", "yes", "--logfile", directory / "redis.log",
            "--shutdown-on-sigterm", "save" if save else "nosave", *options)
        if wait:
            self.wait_up()

    def wait_up(self):
        wait_for(lambda: f"redis-server does not answer: {self.program.stderr()} {self._log()}",
                 self._answers, 30)

    def _log(self):
        path = self.directory / "redis.log"
        return path.read_text()[-2000:] if path.exists() else ""

    def _answers(self):
        assert self.program.alive(), f"redis-server ended: {self.program.stderr()} {self._log()}"
        try:
            return self.command("PING") == b"+PONG"
        except OSError:
            return False

    def _connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60 * SLACK)

    def command(self, *words):
        """One command with an answer of one line (status, number or error)."""
        with self._connect() as s:
            return command(s, *words)

    def digest(self):
        answer = self.command("DEBUG", "DIGEST")
        assert answer.startswith(b"+") and len(answer) == 41, answer
        return answer

    def load(self, data):
        with self._connect() as s:
            sender = threading.Thread(target=s.sendall, args=(data.load,), daemon=True)
            sender.start()
            got = bytearray()
            while len(got) < 5 * data.count:
                more = s.recv(1 << 18)
                assert more, f"redis-server closed the connection: {self._log()}"
                got += more
            sender.join()
        assert got == b"+OK\r\n" * data.count

    def read_all(self, data):
        """Reads every value, so that every page is touched, and compares all that comes."""
        got, last = hashlib.blake2b(), b"+PONG\r\n"
        with self._connect() as s:
            for part in data.reads:
                s.sendall(part + resp(b"PING"))
                answer = bytearray()
                while not answer.endswith(last):
                    more = s.recv(1 << 20)
                    assert more, f"redis-server closed the connection: {self._log()}"
                    answer += more
                got.update(answer[:-len(last)])
        assert got.hexdigest() == data.want, "a value that was read is not what was written"

    def pipe(self, commands):
        """redis-cli --pipe with these commands; none may fail."""
        done = subprocess.run(["redis-cli", "-p", str(self.port), "--pipe"], input=commands,
                              capture_output=True, timeout=120 * SLACK, check=False)
        assert done.returncode == 0 and b"errors: 0" in done.stdout, done.stdout + done.stderr
