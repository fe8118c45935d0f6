# SPDX-License-Identifier: Apache-2.0
"""What the driver does to its world, at random: each action is one method, chosen by its weight."""

import random
import signal
import time

import pytest

from lib.cgroup import Cgroup

from . import files
from .world import send

POINTS = ("lift-moved", "lift-mapped", "gate-closed")
LIFTS = 400  # at most, until one is not survived: mostly few, or the worker is gone before
AGENTS_SHARE = 4     # with --kill-agents: so many times as often as else,
AGENTS_SECONDS = 25  # ... and so much longer until such a program is replaced
PAUSES = (0, 200, 1000, 5000, 20000)  # microseconds between two operations
FLOOD_PAUSE = 200000                  # while merging has the machine nearly for itself
FLOOD_SECONDS = 3, 7, 15  # from, to, and to in a long run
FLOOD_SHARE = 0.6  # of the time, in runs of more than:
FLOODS_FROM = 60    # seconds; a short one has each action once, and this, too
SETTLE_SECONDS = 4    # at most, until nothing more is merged:
SETTLED = 1000        # at most so many pages in
PASSES_TO_MERGE = 5   # passes: one to see that a page is quiet, more to hash, compare and merge it
PATIENCE = 0.1, 0.1, 0.5  # or in so many seconds: one of these, for what comes late is to be merged, too
# The advisor comes first: while it is on, nobody else may set pages_to_scan, which it leaves as it was last.
FAST = {"advisor_mode": "none", "pages_to_scan": 100000, "sleep_millisecs": 0, "max_mappings": 0,
        "max_kernel_pages": 0, "smart_scan": 0}
SHARING = 256         # max_page_sharing as it is at the beginning
HASTY = 0.7           # of the workers: what was written after its merge rests sooner, and is merged again
ZEROS_SECONDS = 10    # at most, until a page of zeros was given back


def memory_limit(group, limit):
    """Sets the limit of a memory cgroup in bytes, None: none; False if the kernel refuses."""
    name = "memory.limit_in_bytes" if group.v1 else "memory.max"
    text = str(limit) if limit else ("-1" if group.v1 else "max")
    try:
        (group.path / name).write_text(text)
        return True
    except OSError:
        return False


class Chaos:
    """Actions that a seed chooses. Each counts itself by its method's name."""

    def __init__(self, world, seed):
        self.world, self.random = world, random.Random(f"{seed} chaos")
        self.wanted = world.options.actions
        self.weights, self.without_agent = dict(self.WEIGHTS), 1
        if world.options.kill_agents:
            self.weights["kill_agent"] *= AGENTS_SHARE
            self.without_agent += AGENTS_SECONDS
        self.counts = {name: 0 for name in self.actions()}
        self.deck = list(world.options.actions)  # each once, so that a short run has them all
        self.random.shuffle(self.deck)
        self.not_now = False
        self.retire = {}  # worker: when it is to be replaced
        self.limits = {}  # worker: when its memory is to be enough again
        self.stops = {}   # worker: when it is to go on
        self.fast_again = {}  # setting: when nothing is to hold merging up any more
        self.known = {}  # setting: as this daemon has it
        self.run_again = None
        self.began, self.flooded = None, 0
        self.cgroup, self.why_no_cgroup = self._make_cgroup()
        self.files = files.Files(world)
        self.zeros, self.sharing = False, SHARING  # use_zero_pages, max_page_sharing: the next daemon keeps them

    @staticmethod
    def _make_cgroup():
        try:
            return Cgroup(), ""
        except pytest.skip.Exception as reason:
            return None, str(reason)

    WEIGHTS = {
        "run_0": 3, "run_2": 12, "off": 1, "unmerge_process": 4, "budget": 3, "frames": 2, "speed": 2,
        "zero_pages": 3, "page_sharing": 2, "smart_scan": 1, "advisor": 1,
        "pace": 8, "kill_daemon": 2, "stop_daemon": 1, "kill_daemon_under_files": 2, "kill_files": 1,
        "kill_agent": 3, "signal_agent": 2, "kill_agent_in_lift": 2, "kill_in_run_2": 2, "end_worker": 3,
        "kill_worker": 2, "stop_worker": 3, "ask": 3, "memory_short": 3, "mappings_short": 1,
        "kill_store": 4,
        "flood": 0,  # as FLOOD_SHARE says
    }

    @classmethod
    def actions(cls):
        return list(cls.WEIGHTS)

    # Workers, as they come.

    def how(self, **fixed):
        chance = self.random.random
        linked = chance() < 0.15 or not any(w.how["linked"] for w in self.world.workers)
        return {"linked": linked, "advise": chance() < (0.4 if linked else 0.15), "domain": "other" if chance() < 0.15 else None,
                "hasty": chance() < HASTY, "fault": None, "mappings": 0, "short": False, "cgroup": None, **fixed}

    def fill(self):
        """As many workers as there are to be; one of them has a cgroup of its own."""
        while len(self.world.workers) < self.world.options.workers:
            limited = any(w.how["cgroup"] for w in self.world.workers)
            group = self.cgroup if self.cgroup and not limited else None
            if group:
                memory_limit(group, None)
            self.world.add_worker(self.how(cgroup=group, short=bool(group)))

    def replace(self, worker, **fixed):
        """Another in its place: in the cgroup, if it was in it, or none would ever be short of memory."""
        group = worker.how["cgroup"]
        worker.end()
        self.forget(worker)
        if group:
            memory_limit(group, None)
        return self.world.add_worker(self.how(**{"cgroup": group, "short": bool(group), **fixed}))

    def forget(self, worker):
        for known in (self.retire, self.limits, self.stops):
            known.pop(worker, None)
        if worker in self.world.workers:
            self.world.drop_worker(worker)

    def any_worker(self, wanted=lambda w: True):
        found = [w for w in self.world.workers if wanted(w) and not w.stopped]
        return self.random.choice(found) if found else None

    # The beat.

    def due(self):
        """What an earlier action put off until now."""
        now = time.monotonic()
        for worker in {*self.stops, *self.limits, *self.retire} - {*self.world.workers}:
            self.forget(worker)  # it died where it may
        for worker, when in list(self.stops.items()):
            if now >= when:
                worker.go_on()
                del self.stops[worker]
        for worker, when in list(self.limits.items()):
            if now >= when:
                memory_limit(worker.how["cgroup"], None)
                worker.limited = False
                del self.limits[worker]
        for key in [key for key, when in self.fast_again.items() if now >= when]:
            self._fast(key)
        if self.run_again and now >= self.run_again:
            self._run_1()
        for worker, when in list(self.retire.items()):
            if now >= when and worker not in self.stops and worker not in self.limits:
                self.replace(worker)

    def act(self):
        self.began = self.began or time.monotonic()
        name = self.random.choices(self.wanted, [self.weights[name] for name in self.wanted])[0]
        passed = time.monotonic() - self.began
        if self.deck and not self.not_now:
            name = self.deck.pop()
        elif "flood" in self.wanted and passed > FLOODS_FROM and self.flooded < FLOOD_SHARE * passed:
            name = "flood"
        self.not_now = False
        if getattr(self, name)() is not False:
            self.counts[name] += 1
        elif not self.counts[name]:
            self.not_now = True  # something else may make it possible: new workers, say
            self.deck = [name, *(other for other in self.deck if other != name)]

    def let_merge(self):
        """Instead of an action: what needs merged pages is to have some."""
        self._fast(*FAST)
        self._run_1()
        self.pace()

    def all_done(self):
        """Was every action done that can be?"""
        return not {*self.deck} - {*self.impossible()}

    def impossible(self):
        """{action: why it cannot be done here}."""
        why = files.why_not(self.world.options.build)
        return {**({} if self.world.config else {"kill_store": "without --store"}),
                **({} if self.cgroup else {"memory_short": self.why_no_cgroup}),
                **({"kill_daemon_under_files": why, "kill_files": why} if why else {})}

    # run, and other settings.

    def _run_1(self):
        self.world.set("run", 1)
        self.run_again = None

    def _run_later(self, seconds):
        self.run_again = time.monotonic() + seconds

    def _fast(self, *keys):
        """Only what is not so: each setting waits for the end of a slice of merging."""
        for key in keys:
            self.fast_again.pop(key, None)
            if self.known.get(key) == FAST[key]:
                continue
            self.world.set(key, FAST[key])
            self.known[key] = FAST[key]
            if key == "advisor_mode":
                self.known.pop("pages_to_scan", None)
                self._fast("pages_to_scan")

    def _slow(self, **settings):
        """For some seconds: for longer, hardly a lift would be there that a kill could hit."""
        until = time.monotonic() + 1 + 3 * self.random.random()
        for key, value in settings.items():
            self.world.cli("set", f"{key}={value}")
            self.known[key] = value
            self.fast_again[key] = until

    def run_0(self):
        self.world.cli("set", "run=0")
        self._run_later(self.random.random())

    def run_2(self):
        # With memory short, or an agent that was killed meanwhile, it may fail; nothing is lost then.
        self.world.cli("set", "run=2", may_fail=True)
        self._run_later(self.random.random() * 0.2)

    def off(self):
        self.world.cli("off", may_fail=True)
        self._run_later(self.random.random())

    def unmerge_process(self):
        worker = self.any_worker()
        if not worker:
            return False
        self.world.cli("unmerge", worker.pid, may_fail=True)
        self._run_later(self.random.random())
        return True

    def budget(self):
        self._slow(max_mappings=self.random.choice((20, 400, 4000)))

    def frames(self):
        self._slow(max_kernel_pages=self.random.choice((200, 5000)))

    def speed(self):
        pages, sleep = self.random.choice(((1000, 5), (20, 1)))
        self._fast("advisor_mode")
        self._slow(pages_to_scan=pages, sleep_millisecs=sleep)

    def smart_scan(self):
        self._slow(smart_scan=1)

    def advisor(self):
        self._fast("advisor_mode")  # it may be on still
        self.fast_again.pop("pages_to_scan", None)
        self._slow(advisor_mode="scan-time")

    def _set_zeros(self, on):
        self.world.set("use_zero_pages", int(on))
        self.zeros = on

    def zero_pages(self):
        """K15: on, until there are some; or off while there are some."""
        self._set_zeros(not self.zeros)
        self._run_1()
        end = time.monotonic() + ZEROS_SECONDS
        while self.zeros and not (self.world.poll() and self.world.last["ksm_zero_pages"]):
            if time.monotonic() > end:
                return False
            self.world.check()
            self.due()
            time.sleep(0.02)
        return True

    def page_sharing(self):
        """K14: while pages are merged it is refused, unless none is just then; when all are un-merged
        it is taken, unless one was merged since."""
        some = int(2 ** self.random.uniform(1, 20))
        tries = [self._set_sharing(some)]
        self.world.cli("set", "run=2", may_fail=True)
        tries.append(self._set_sharing(some))
        self._run_later(self.random.random() * 0.2)
        return any(tries)

    def _set_sharing(self, limit):
        done = self.world.set("max_page_sharing", limit, may_fail=True)
        self.sharing = limit if done else self.sharing
        return done

    def pace(self):
        for worker in self.world.workers:
            worker.stats.pause(self.random.choice(PAUSES))

    def _settle(self, end, patience):
        """Waits until some passes in a row merged nothing more, or nothing was merged for a while, for so many
        seconds once a pass ended: one that leaves out a process, because its agent rests, does not count as one."""
        end = min(end, time.monotonic() + SETTLE_SECONDS)
        merged = since = first = at = None
        while time.monotonic() < end:
            self.world.check()
            self.due()
            if self.world.poll():
                now = self.world.total("pages_merged"), self.world.total("full_scans")
                first = now[1] if first is None else first
                if merged is None or now[0] > merged + SETTLED:
                    (merged, since), at = now, time.monotonic()
                elif now[1] >= since + PASSES_TO_MERGE or \
                        time.monotonic() > at + (patience if now[1] > first else max(PATIENCE)):
                    return
            time.sleep(0.03)

    def flood(self):
        """All is merged and un-merged in turn, as fast as it goes, while the workers do little."""
        began = time.monotonic()
        least, most, long = FLOOD_SECONDS
        end = began + self.random.uniform(least, most if self.deck else long)
        for worker in self.world.workers:
            worker.stats.pause(FLOOD_PAUSE)
        self._fast(*FAST)
        self._set_zeros(self.random.random() < 0.3)
        while time.monotonic() < end:
            self.fill()
            for worker in self.world.workers:
                worker.stats.pause(FLOOD_PAUSE)
            self._run_1()
            self._settle(end, self.random.choice(PATIENCE))
            # Run 2 forgets all that is known of pages, so that each is looked at twice again.
            if self.random.random() < 0.5:
                self.world.set("run", 2, may_fail=True)
            else:
                self.world.ask("unmerge", may_fail=True)
            if self.sharing != SHARING:
                self._set_sharing(SHARING)
        self._run_1()
        self.pace()
        self.flooded += time.monotonic() - began

    def ask(self):
        worker = self.any_worker()
        for words in (("ps",), ("status",), ("explain", worker.pid if worker else 1)):
            self.world.cli(*words, may_fail=words[0] == "explain")

    # Death.

    def _daemon_again(self):
        time.sleep(self.random.random() * 0.5)
        self.world.start_daemon()
        self.known.clear()
        self._fast(*FAST)
        self._run_1()

    def kill_daemon(self):
        self.world.kill_daemon()
        self._daemon_again()

    def stop_daemon(self):
        self.world.stop_daemon()
        self._daemon_again()

    def _use_files(self, kill):
        if files.why_not(self.world.options.build):
            return False
        self.files.mount()
        self.files.begin(self.random.random())
        time.sleep(self.random.random() * 0.3)
        kill()
        time.sleep(self.random.random() * 0.3)
        done = self.files.end()
        self.files.mount()
        self.files.must_answer()
        self._run_1()
        return done > 0

    def kill_daemon_under_files(self):
        """While threads read and write KSM's files."""
        return self._use_files(self.kill_daemon if self.random.random() < 0.7 else self.stop_daemon)

    def kill_files(self):
        return self._use_files(self.files.kill_server)

    def kill_store(self):
        """The store's server, its worker, or both: what is out and what is in must be right afterwards."""
        which = self.random.choice((("server",), ("worker",), ("server", "worker"), ("worker", "server")))
        killed = [send(pid, signal.SIGKILL) for each in which for pid in self.world.store_processes(each)]
        return any(killed)

    def kill_in_run_2(self):
        """The daemon, or an agent, while everything is being un-merged."""
        asked = self.world.begin("set", "run=2")
        time.sleep(self.random.random() * 0.1)
        if self.random.random() < 0.5 or not self.kill_agent():
            self.kill_daemon()
        self.world.wait(asked)
        self._run_later(self.random.random() * 0.2)

    def _agent(self, numbers):
        worker = self.any_worker()
        agents = worker.agents() if worker else []
        if not agents or not worker.stats.agent_is_killed():
            return False
        agent = self.random.choice(agents)
        for number in numbers:
            if not send(agent, number):
                return False
        self.retire[worker] = time.monotonic() + self.without_agent + 3 * self.random.random()
        return True

    def kill_agent(self):
        return self._agent((signal.SIGKILL,))

    def signal_agent(self):
        number = self.random.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        return self._agent((number,))

    def kill_agent_in_lift(self):
        """A new worker whose agent kills itself at a point of a lift, some time."""
        worker = self.any_worker(lambda w: not w.how["cgroup"])
        if not worker:
            return False
        fault = f"{self.random.choice(POINTS)}:{int(LIFTS ** self.random.random())}"
        worker = self.replace(worker, fault=fault)
        self.retire[worker] = time.monotonic() + 4 + 4 * self.random.random()
        return True

    def end_worker(self):
        worker = self.any_worker(lambda w: time.monotonic() - w.started > 5)
        if not worker:
            return False
        self.replace(worker)
        return True

    def kill_worker(self):
        worker = self.any_worker(lambda w: time.monotonic() - w.started > 2)
        if not worker:
            return False
        worker.kill()
        self.forget(worker)
        return True

    def stop_worker(self):
        worker = self.any_worker(lambda w: w not in self.retire)
        if not worker:
            return False
        worker.stop()
        self.stops[worker] = time.monotonic() + self.random.random() * 2
        return True

    # Short of something.

    def memory_short(self):
        worker = self.any_worker(lambda w: w.how["cgroup"] and w not in self.limits)
        if not worker:
            return False
        worker.limited = True
        room = self.random.choice((0, 256 << 10, 2 << 20, 16 << 20))
        if not memory_limit(worker.how["cgroup"], worker.how["cgroup"].used() + room):
            worker.limited = False
            return False
        self.limits[worker] = time.monotonic() + 0.5 + self.random.random()
        return True

    def mappings_short(self):
        worker = self.any_worker(lambda w: not w.how["cgroup"])
        if not worker:
            return False
        self.replace(worker, mappings=self.random.choice((8000, 24000, 30000)), short=True)
        return True

    def close_limits(self):
        """All go on, and have memory: they are to end well."""
        for worker in list(self.limits):
            memory_limit(worker.how["cgroup"], None)
            worker.limited = False
        self.limits.clear()

    def close(self):
        self.files.close()
        if self.cgroup:
            memory_limit(self.cgroup, None)
            self.cgroup.close()
