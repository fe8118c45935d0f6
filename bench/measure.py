# SPDX-License-Identifier: Apache-2.0
"""What is measured: memory after every page was read, convergence, a pass with nothing to do, and
mappings. A merger is ksm.Ksmd or samepage.Samepage: go(), hurry(), counters(), cpu(), outside()."""

import subprocess
import time

from samepage import Failed

POLL = 0.05  # seconds
GROWTH, FEW = 0.001, 64  # of pages_sharing, pages: no more than that in a whole pass is convergence
STABLE_PASSES, STABLE_SECONDS = 3, 1.5
LONGEST = 150  # seconds, for convergence
# Where a pass has a target, the merger first learns all it can about pages that change (samepage's
# back-off doubles to 16 passes, ksmd's to 8), and then whole cycles of that are measured.
SETTLE_PASSES, SETTLE_SECONDS = {False: 15, True: 36}, 45
IDLE_PASSES, IDLE_SECONDS = {False: 10, True: 16}, 30
UNASKED_SECONDS = {False: 10, True: 18}


def touch(place, pids):
    """Reads every page of the processes once (programs/touch.c)."""
    subprocess.run([place.tools / "touch", *map(str, pids)], check=True,
                   stdout=subprocess.DEVNULL, timeout=300)


def memory(place, pids):
    """Bytes that the cgroup uses after every page was read, and what the merger uses outside."""
    touch(place, pids)
    return place.cgroup.used() + (place.merger.outside(pids) if place.merger else 0)


def mappings(pids):
    """Lines of /proc/PID/maps by process, as {"sum", "max"}."""
    counts = []
    for pid in pids:
        with open(f"/proc/{pid}/maps", "rb") as lines:
            counts.append(sum(1 for _ in lines))
    return {"sum": sum(counts), "max": max(counts)}


class Watch:
    """Samples of a merger from go() on: (seconds, CPU seconds, counters)."""

    def __init__(self, merger):
        self.merger, self.samples = merger, []
        self.begin, self.cpu = time.monotonic(), merger.cpu()

    def sample(self):
        counters = self.merger.counters()
        self.samples.append((time.monotonic() - self.begin, self.merger.cpu() - self.cpu, counters))

    def _whole_pass(self, last, passes=1):
        """The latest sample that lies at least so many whole passes before the sample last: a pass
        that was under way in it does not count, so one more must have ended since."""
        scans = self.samples[last][2]["full_scans"]
        for at in range(last, -1, -1):
            if scans - self.samples[at][2]["full_scans"] >= passes + 1:
                return at
        return None

    def _level(self, counters):
        """What must stop growing: pages_sharing, or where nothing is merged (yet, or at all) the
        pages of which the merger knows what they are."""
        sharing = counters["pages_sharing"]
        return sharing if self.samples[-1][2]["pages_sharing"] > FEW else \
            sharing + counters["pages_shared"] + counters["pages_unshared"]

    def _growth(self, first, last):
        """By how many pages more than at first were merged at any time until last. Programs that
        work un-merge some pages all the time, which come back: less is no growth."""
        level = [self._level(counters) for _, _, counters in self.samples[first:last + 1]]
        return max(level) - level[0]

    def _few(self):
        return max(FEW, GROWTH * self._level(self.samples[-1][2]))

    def stable(self):
        """Whether nothing has grown for so long that nothing will: whole passes, and seconds,
        because a pass of samepage over little memory may take only milliseconds."""
        last = len(self.samples) - 1
        first = self._whole_pass(last, STABLE_PASSES)
        while first and self.samples[last][0] - self.samples[first][0] < STABLE_SECONDS:
            first -= 1
        return bool(first) and self._growth(first, last) <= self._few()

    def converged(self):
        """The first sample with at least two passes done, the last whole one without growth, and
        with what was merged in the end."""
        final = self._level(self.samples[-1][2])
        start = self.samples[0][2]["full_scans"]
        for last, (_, _, counters) in enumerate(self.samples):
            first = self._whole_pass(last)
            if first is not None and counters["full_scans"] - start >= 2 and \
                    self._level(counters) >= final - self._few() and \
                    self._growth(first, last) <= self._few():
                return self.samples[last]
        return self.samples[-1]

    def nearly(self):
        """The first sample with 99 % of what was merged in the end (or known, where nothing was)."""
        final = self._level(self.samples[-1][2])
        return next(sample for sample in self.samples if self._level(sample[2]) >= 0.99 * final)


def converge(merger):
    """Lets it merge until nothing more comes. CPU and wall time of the first moment when that was
    so, and of the moment when 99 % were merged: the former includes a pass that finds nothing."""
    watch = Watch(merger)
    watch.sample()
    merger.go()
    while not watch.stable():
        if watch.samples[-1][0] > LONGEST:
            break
        time.sleep(POLL)
        watch.sample()
    wall, cpu, counters = watch.converged()
    nearly = watch.nearly()
    pages = counters["pages_sharing"] + counters["pages_shared"]
    pages = pages if pages > FEW else 0
    return {"wall_seconds": wall, "cpu_seconds": cpu, "stable": watch.stable(),
            "passes": counters["full_scans"] - watch.samples[0][2]["full_scans"],
            "wall_seconds_to_99": nearly[0], "cpu_seconds_to_99": nearly[1],
            "cpu_us_per_merged_page": 1e6 * cpu / pages if pages else None,
            "curve": curve(watch.samples)}


def curve(samples, points=60):
    """(seconds, CPU seconds, pages_sharing), thinned out, for a picture."""
    step = max(1, len(samples) // points)
    return [(round(wall, 3), round(cpu, 4), c["pages_sharing"]) for wall, cpu, c in samples[::step]]


def passes(merger, wanted, seconds):
    """Waits for whole passes. Returns (passes, CPU seconds, wall seconds) between two ends of a
    pass, with at least one pass, unless none ends in four times the seconds."""
    marks, begin = [], time.monotonic()
    while True:
        scans, cpu, now = merger.counters()["full_scans"], merger.cpu(), time.monotonic()
        if not marks or scans != marks[-1][0]:
            marks.append((scans, cpu, now))
        done = len(marks) - 2  # the first mark is in the middle of a pass
        if (done >= 1 and (marks[-1][0] - marks[1][0] >= wanted or now - begin > seconds)) or \
                now - begin > 4 * seconds:
            break
        time.sleep(POLL / 2)
    if len(marks) < 3:
        raise Failed(f"no whole pass in {4 * seconds} s")
    return tuple(b - a for a, b in zip(marks[1], marks[-1]))


def passes_unasked(merger, seconds):
    """The same for a merger whose answers cost CPU of its own, which would be measured too: it is
    asked before and after. An idle pass is a short burst in each second."""
    time.sleep(1)
    marks = []
    for _ in range(2):
        scans = merger.counters()["full_scans"]
        marks.append((scans, merger.cpu(), time.monotonic()))
        if len(marks) == 1:
            time.sleep(seconds)
    done = tuple(b - a for a, b in zip(*marks))
    if not done[0]:
        raise Failed(f"no whole pass in {seconds} s")
    return done


def idle_pass(merger, smart, thorough):
    """CPU of a pass when nothing changes. Mergers that learn what to pass over do so first: ksmd
    learns only with smart_scan."""
    if smart or (thorough and merger.learns):
        merger.hurry(True)
        passes(merger, SETTLE_PASSES[thorough], SETTLE_SECONDS)
        merger.hurry(False)
    if merger.asking_costs:
        count, cpu, wall = passes_unasked(merger, UNASKED_SECONDS[thorough])
    else:
        count, cpu, wall = passes(merger, IDLE_PASSES[thorough], IDLE_SECONDS)
    pages = merger.counters()["pages_tracked"]
    return {"passes": count, "cpu_seconds_per_pass": cpu / count, "wall_seconds_per_pass": wall / count,
            "pages_tracked": pages, "cpu_ns_per_page": 1e9 * cpu / count / pages if pages else None}
