# SPDX-License-Identifier: Apache-2.0
"""A samepaged of a measurement's own: started in the workload's cgroup, asked over its socket."""

import contextlib
import json
import pathlib
import socket
import subprocess
import time


PROCESSES = ("samepaged", "samepage-agent", "samepage-keeper")


class Failed(Exception):
    """The measurement cannot be made; says why."""


def comm(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def run_ns(pid):
    """Nanoseconds of CPU that the (one-threaded) process used; None if it is gone."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    except (OSError, IndexError):
        return None


class Samepage:
    """The merger as measure.py sees it. Starts with run=0."""

    name = "samepage"
    asking_costs = True
    learns = True  # always which pages to look at less often

    def __init__(self, place):
        self.place, self.seen = place, {}
        self.socket_path = str(place.tmp / "sock")
        self.connection = None
        options = []
        if place.swap:
            config = place.tmp / "samepaged.conf"
            config.write_text("[swap]\n" + "".join(f"{key} = {value}\n" for key, value in place.swap.items()))
            options = ["--config", config]
        with open(place.tmp / "samepaged.log", "ab") as log:
            self.daemon = subprocess.Popen(
                [place.build / "samepaged", "--foreground", *options], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd=place.tmp, env=place.environment(), start_new_session=True,
                preexec_fn=place.cgroup.join)
        self._connect()
        for key, value in (("run", 0), ("pages_to_scan", place.pages_to_scan),
                           ("sleep_millisecs", place.sleep_millisecs)):
            self.set(key, value)

    def _connect(self):
        deadline = time.monotonic() + 20
        while True:
            self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.connection.settimeout(60)
            try:
                return self.connection.connect(self.socket_path)
            except OSError:
                self.connection.close()
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"samepaged does not answer: {self.log()}")
            time.sleep(0.02)

    def log(self):
        path = self.place.tmp / "samepaged.log"
        return path.read_text(errors="replace")[-1000:].strip() if path.exists() else ""

    def ask(self, **request):
        """One request of the control protocol with an answer of one packet."""
        try:
            self.connection.send(json.dumps(request).encode())
            answer = json.loads(self.connection.recv(65536) or b"{}")
        except (OSError, ValueError) as error:
            raise Failed(f"samepaged does not answer: {error}: {self.log()}") from error
        if not answer.get("ok"):
            raise Failed(f"samepaged: {request}: {answer.get('error', 'it ended: ' + self.log())}")
        return answer

    def set(self, key, value):
        self.ask(op="set", key=key, value=str(value))

    def go(self):
        self.set("run", 1)

    def hurry(self, on):
        """Nothing to hurry: a pass that finds nothing changed costs nothing but its pause."""

    def counters(self):
        return self.ask(op="status")

    def cpu(self):
        """Seconds of daemon, keeper and agents. What ended keeps its last count."""
        for pid in self.place.cgroup.pids():
            if comm(pid) in PROCESSES:
                ns = run_ns(pid)
                if ns is not None:
                    self.seen[pid] = ns
        return sum(self.seen.values()) / 1e9

    def outside(self, pids):
        """Bytes that it uses beside what the cgroup is charged: none."""
        return 0

    def close(self):
        with contextlib.suppress(OSError):
            self.connection.close()
        if self.daemon.poll() is None:
            self.daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.daemon.wait(5)
            self.daemon.kill()
        self.daemon.wait()
