# SPDX-License-Identifier: Apache-2.0
"""What merging costs a server that works: redis-benchmark against one of four preloaded servers,
while they are being merged."""

import csv
import io
import statistics
import subprocess

import redis
from place import Place
from samepage import Failed
from workloads.redis_made import Workload

MODES = ("plain", "samepage", "ksmd")
ROUNDS = 5
# Merging begins with the SETs: to read 500 MiB for the first time is among what they are measured
# beside, and takes the first few seconds.
SECONDS = {"set": 16, "get": 8}
CLIENTS = 20


def has_seed():
    text = subprocess.run(["redis-benchmark", "--help"], capture_output=True, text=True, check=False)
    return "--seed" in text.stdout + text.stderr


def benchmark(port, test, requests, values):
    """(requests a second, p99 in milliseconds)"""
    seed = ["--seed", "1"] if has_seed() else []
    done = subprocess.run(
        ["redis-benchmark", "-p", str(port), "-t", test, "-n", str(requests), "-r", str(values),
         "-d", str(redis.SIZE), "-c", str(CLIENTS), "--csv", "--precision", "3", *seed],
        capture_output=True, text=True, timeout=600, check=False)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    if done.returncode or len(rows) != 1:
        raise Failed(f"redis-benchmark: {(done.stderr or done.stdout).strip()[-300:]}")
    return float(rows[0]["rps"]), float(rows[0]["p99_latency_ms"])


class Load:
    """The runs. requests is found once, in the first plain run, so that each takes its SECONDS."""

    def __init__(self, build, tools, scale, rounds=ROUNDS):
        self.build, self.tools, self.scale, self.rounds = build, tools, scale, rounds
        self.requests = {}
        self.runs = {mode: [] for mode in MODES}

    def once(self, mode):
        workload, place = Workload(), Place(self.build, self.tools, mode)
        workload.scale = self.scale
        try:
            workload.start(place)
            port, values = workload.servers[0].port, workload.values()
            for test in ("set", "get"):
                if test not in self.requests:
                    rate, _ = benchmark(port, test, 30000, values)
                    self.requests[test] = max(30000, int(rate * SECONDS[test] * max(self.scale, 0.25)))
            if place.merger:
                place.merger.go()
            out = {}
            for test in ("set", "get"):
                out[f"{test}_rps"], out[f"{test}_p99_ms"] = \
                    benchmark(port, test, self.requests[test], values)
            if place.merger:
                out["pages_sharing"] = place.merger.counters()["pages_sharing"]
            digests = {server.digest() for server in workload.servers[1:]}
            assert digests == {workload.digest}, "a server that got no writes changed"
            self.runs[mode].append(out)
            return out
        finally:
            workload.stop()
            place.close()

    def result(self):
        """Medians by mode, and their ratios to plain."""
        medians = {mode: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                   for mode, runs in self.runs.items() if runs}
        for figures in medians.values():
            figures["ratios"] = {key: figures[key] / medians["plain"][key]
                                 for key in medians["plain"] if key != "ratios"}
        return {"rounds": self.rounds, "requests": self.requests, "clients": CLIENTS,
                "medians": medians, "runs": self.runs}
