# SPDX-License-Identifier: Apache-2.0
"""What is tortured: one daemon, several workers in its domains, a memory limit for one of them."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

from lib import control, proc
from lib.reclaimer import Reclaimer

from .stats import Stats

REPORT_SECONDS = 30  # a child that a filter killed never ends its report
HANG_MS = 180000  # an operation takes some seconds on a machine that is very busy
OTHERS = 5  # daemons that may be in the way, one after the other
REPORTED = 2  # as worker/content.c sets stats.wrong when all is written
PAGES = ("pages_lifted", "pages_put_back", "pages_merged", "pages_unmerged")
KEPT = ("repairs", "takeovers")  # a daemon that takes over goes on counting these
SUMS = PAGES + KEPT + ("merge_changed", "merge_pinned", "merge_gone", "merge_fork",
                "merge_attributes", "merge_mappings", "merge_memory", "full_scans")


class Wrong(Exception):
    """Something is not as it must be: the torture stops here."""


def run_quietly(argv, env, timeout=60):
    return subprocess.run([str(a) for a in argv], env=env, capture_output=True, text=True,
                          timeout=timeout, check=False, stdin=subprocess.DEVNULL)


class Worker:
    """One torture-worker under samepage run, as it was asked for."""

    def __init__(self, world, number, how):
        self.world, self.number, self.how = world, number, how
        self.directory = world.directory / f"worker-{number}"
        self.directory.mkdir()
        self.directory.chmod(0o755)
        self.stats = Stats(self.directory / "stats")
        self.out = self.directory / "out"
        self.stopped = self.limited = False
        self.started = time.monotonic()
        flags = ["run"] + ([] if how["advise"] else ["--all"])
        if how["domain"]:
            flags += ["--domain", how["domain"]]
        program = [world.samepage, *flags, "--", world.linked if how["linked"] else world.worker]
        if how["linked"] and how["advise"]:  # nothing but the library brings the agent in
            program = [world.linked]
        argv = [*program, "--seed", world.seed, "--id", number,
                "--threads", world.options.threads, "--mib", world.options.mib, "--directory",
                self.directory, "--stats", self.stats.path]
        argv += ["--advise"] if how["advise"] else []
        argv += ["--short"] if how["short"] else []
        argv += ["--store"] if world.options.store else []
        argv += ["--mappings", how["mappings"]] if how["mappings"] else []
        argv += ["--only", world.options.only] if world.options.only else []
        argv += ["--without", world.options.without] if world.options.without else []
        argv += ["--plant", world.options.plant] if world.options.plant else []
        env = dict(world.env)
        if how["domain"]:
            env["SAMEPAGE_DOMAIN"] = how["domain"]
        if how["hasty"]:
            env["SAMEPAGE_TEST_HASTY"] = "1"
        if how["fault"]:
            env["SAMEPAGE_FAULT"] = how["fault"]
        if world.options.hold:
            env["TORTURE_HOLD"] = "1"
        with open(self.out, "wb") as out:
            self.popen = subprocess.Popen([str(a) for a in argv], env=env, stdout=out, stderr=out,
                                          stdin=subprocess.DEVNULL, start_new_session=True,
                                          preexec_fn=how["cgroup"].join if how["cgroup"] else None)

    @property
    def pid(self):
        return self.popen.pid

    def said(self):
        return self.out.read_text(errors="replace")

    def processes(self):
        """Of the worker: itself, its children, their agents (which have its command line)."""
        mark = str(self.stats.path).encode()
        return [p for p in proc.all_processes() if mark in p.cmdline]

    def agents(self):
        return [p.pid for p in self.processes() if p.comm == "samepage-agent"]

    def may_die(self):
        """By the kernel's hand, where memory is kept short."""
        return bool(self.how["cgroup"])

    def check(self):
        """Is it well? Raises Wrong if not; False if it ended in a way that is allowed."""
        if self.stats.wrong:
            self._wait_report()
            raise Wrong(f"worker {self.number} (pid {self.pid}) found something wrong:\n"
                        f"{self.said()}")
        status = self.popen.poll()
        if status is not None:
            if status == -signal.SIGKILL and self.may_die():
                return False
            raise Wrong(f"worker {self.number} (pid {self.pid}) ended with status {status}:\n"
                        f"{self.said()}")
        if not self.stopped and not self.limited:
            self._check_hang()
        return True

    def _wait_report(self):
        deadline = time.monotonic() + REPORT_SECONDS
        while self.stats.wrong < REPORTED and self.popen.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def _check_hang(self):
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000000
        for index, (steps, op, block, since) in enumerate(self.stats.threads()):
            if since and now - since > HANG_MS:
                raise Wrong(f"worker {self.number} (pid {self.pid}), thread {index}: "
                            f"{self.world.op_name(op)} on block {block} (step {steps}) does not end "
                            f"since {(now - since) / 1000:.0f} s\n{self.where()}")

    def where(self):
        """What each thread of each of its processes waits for."""
        lines = []
        for p in self.processes():
            for tid in sorted(os.listdir(f"/proc/{p.pid}/task")) if proc.exists(p.pid) else ():
                try:
                    waits = pathlib.Path(f"/proc/{p.pid}/task/{tid}/wchan").read_text("ascii")
                    call = pathlib.Path(f"/proc/{p.pid}/task/{tid}/syscall").read_text("ascii")
                    lines.append(f"  {p.comm} {p.pid}/{tid} {p.state}: {waits} {call.strip()}")
                except OSError:
                    pass
        return "\n".join(lines)

    def _wait_ready(self, timeout):
        """Before, TERM would just end it."""
        deadline = time.monotonic() + timeout
        while "ready" not in self.said().split() and self.popen.poll() is None:
            if time.monotonic() > deadline:
                raise Wrong(f"worker {self.number} (pid {self.pid}) does not begin:\n{self.said()}\n"
                            f"{self.where()}")
            time.sleep(0.02)

    def end(self, timeout=180):
        """An ordinary end: everything is checked once more."""
        self.go_on()
        self._wait_ready(timeout)
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Wrong(f"worker {self.number} (pid {self.pid}) does not end on TERM:\n"
                        f"{self.said()}\n{self.where()}") from None
        if status == -signal.SIGKILL and self.may_die():
            return
        if status or "ok" not in self.said().split():
            self.check()
            raise Wrong(f"worker {self.number} (pid {self.pid}) ended with status {status}:\n"
                        f"{self.said()}")

    def kill(self):
        for p in self.processes():
            if p.comm != "samepage-agent":
                send(p.pid, signal.SIGKILL)
        self.popen.kill()
        self.popen.wait()

    def stop(self):
        self.stopped = True
        send(self.pid, signal.SIGSTOP)

    def go_on(self):
        if self.stopped:
            send(self.pid, signal.SIGCONT)
            self.stopped = False


def send(pid, number):
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


class World:
    """All of it, in one directory, which is removed at the end if all was well."""

    def __init__(self, options, seed, directory):
        self.options, self.seed, self.directory = options, seed, directory
        self.samepage = options.build / "samepage"
        self.socket = directory / "s.sock"
        self.samepaged = options.build / "samepaged"
        self.worker = options.build / "tests" / "torture" / "torture-worker"
        self.linked = options.build / "tests" / "torture" / "torture-linked"
        self.env = {**os.environ, "SAMEPAGE_SOCKET": str(self.socket)}
        self.ops = run_quietly([self.worker, "--ops"], self.env).stdout.split()
        self.daemon, self.workers, self.made = None, [], 0
        self.config = self._configure() if options.store else []
        self.reclaimer = None
        self.sums = {key: 0 for key in SUMS}  # of daemons that are gone
        self.last = {}
        self.kept = {key: 0 for key in KEPT}  # as last read
        self.done = [[0] * len(self.ops) for _ in range(3)]  # of workers that are gone
        self.pages_checked = self.enomem = 0

    def op_name(self, index):
        return self.ops[index] if index < len(self.ops) else "?"

    # The daemon.

    def _configure(self):
        """A store whose memory is less than what leaves: the file is used, too."""
        config = self.directory / "samepaged.conf"
        config.write_text(f"[swap]\nswap = store\nswap_memory = 16M\nswap_size = 512M\n"
                          f"swap_file = {self.directory / 'swap'}\n")
        return ["--config", str(config)]

    def start_daemon(self):
        """A worker that began while there was none may have started one of its own: that one is killed then."""
        for _ in range(OTHERS):
            if self._start_one():
                return
            other = self.ask("status", may_fail=True).get("daemon_pid")
            if other:
                send(other, signal.SIGKILL)
        raise Wrong(f"samepaged does not start:\n{self.log()}")

    def _start_one(self):
        """False if there is one already."""
        said = len(self.log(None))
        with open(self.directory / "samepaged.log", "ab") as log:
            self.daemon = subprocess.Popen([str(self.samepaged), "--foreground", *self.config], env=self.env,
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           start_new_session=True)
        deadline = time.monotonic() + 30
        while not self.poll():
            if self.daemon.poll() == 1 and "another samepaged runs" in self.log(None)[said:]:
                return False
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                raise Wrong(f"samepaged does not answer (status {self.daemon.poll()}):\n{self.log()}")
            time.sleep(0.02)
        if self.config and not self.reclaimer:
            self.reclaimer = Reclaimer(self.env["SAMEPAGE_SOCKET"])
        return True

    def evicted(self):
        return self.reclaimer.evicted if self.reclaimer else 0

    def store_processes(self, which):
        mark, socket = f"--store-{which}".encode(), self.env["SAMEPAGE_SOCKET"].encode()
        return [p.pid for p in proc.all_processes() if {mark, socket} <= {*p.cmdline.split(b"\0")}]

    def log(self, last=4000):
        """The last so many characters of it; None: all."""
        path = self.directory / "samepaged.log"
        return path.read_text(errors="replace")[-last if last else None:] if path.exists() else ""

    def cli(self, *args, may_fail=False, timeout=120):
        try:
            done = run_quietly([self.samepage, *args], self.env, timeout)
        except subprocess.TimeoutExpired:
            raise Wrong(f"samepage {' '.join(map(str, args))} does not end; samepaged says:\n"
                        f"{self.log()}") from None
        if done.returncode and not may_fail:
            raise Wrong(f"samepage {' '.join(map(str, args))}: status {done.returncode}: "
                        f"{done.stderr.strip()}; samepaged (status {self.daemon.poll()}):\n{self.log()}")
        return done

    def ask(self, op, may_fail=False, **what):
        """The same without a process for it: what is asked many times a second. {} if nobody answers."""
        try:
            answer = control.answer_to(self, op, **what)
        except TimeoutError:
            raise Wrong(f"{op} {what} is not answered; samepaged says:\n{self.log()}") from None
        except OSError:
            answer = {}
        if not answer.get("ok") and not may_fail:
            raise Wrong(f"{op} {what}: {answer}; samepaged (status {self.daemon.poll()}):\n{self.log()}")
        return answer

    def set(self, key, value, may_fail=False):
        return self.ask("set", may_fail, key=key, value=str(value)).get("ok", False)

    def begin(self, *args):
        """The command, not waited for: whoever waits for it (wait) gets whatever it answers."""
        return subprocess.Popen([str(a) for a in (self.samepage, *args)], env=self.env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)

    def wait(self, begun, timeout=120):
        try:
            begun.wait(timeout)
        except subprocess.TimeoutExpired:
            begun.kill()
            begun.wait()
            raise Wrong(f"{' '.join(begun.args)} does not end; samepaged says:\n{self.log()}") from None

    def poll(self):
        """Takes the daemon's counters; False if it does not answer."""
        status = self.ask("status", may_fail=True)
        if not status.get("ok") or status["daemon_pid"] != self.daemon.pid:
            return False
        self.last = status
        for key in KEPT:
            self.sums[key] += status[key] - (self.kept[key] if status[key] >= self.kept[key] else 0)
            self.kept[key] = status[key]
        return True

    def _daemon_gone(self):
        for key in SUMS:
            self.sums[key] = self.total(key)
        self.last = {}

    def kill_daemon(self):
        self.poll()
        self.daemon.kill()
        self.daemon.wait()
        self._daemon_gone()

    def stop_daemon(self):
        self.poll()
        self.daemon.terminate()
        try:
            status = self.daemon.wait(60)
        except subprocess.TimeoutExpired:
            raise Wrong(f"samepaged does not end on TERM:\n{self.log()}") from None
        if status:
            raise Wrong(f"samepaged ended with status {status} on TERM:\n{self.log()}")
        self._daemon_gone()

    def total(self, key):
        return self.sums[key] + (0 if key in KEPT else self.last.get(key, 0))

    # The workers.

    def add_worker(self, how):
        self.workers.append(Worker(self, self.made, how))
        self.made += 1
        return self.workers[-1]

    def drop_worker(self, worker):
        """It is dead: its counts are kept, its directory is not."""
        self.workers.remove(worker)
        for mine, its in zip(self.done, worker.stats.counts(len(self.ops))):
            mine[:] = [a + b for a, b in zip(mine, its)]
        self.pages_checked += worker.stats.pages_checked
        self.enomem += worker.stats.enomem
        shutil.rmtree(worker.directory, ignore_errors=True)

    def counts(self):
        """{operation: (done, not then, not here)} so far."""
        sums = [list(row) for row in self.done]
        for worker in self.workers:
            for mine, its in zip(sums, worker.stats.counts(len(self.ops))):
                mine[:] = [a + b for a, b in zip(mine, its)]
        return dict(zip(self.ops, zip(*sums)))

    def all_done(self):
        """Was every operation of the workers done that can be?"""
        return all(done or not_here for done, _, not_here in self.counts().values())

    def want_rest(self):
        """What was not done yet is to come soon."""
        counts = list(self.counts().values())
        rest = [i for i, (done, _, not_here) in enumerate(counts) if not (done or not_here)]
        for worker in self.workers:
            worker.stats.want(rest)

    def checked(self):
        return self.pages_checked + sum(w.stats.pages_checked for w in self.workers)

    def check(self):
        """Raises Wrong if anything is."""
        if self.daemon and self.daemon.poll() is not None:
            raise Wrong(f"samepaged ended with status {self.daemon.returncode}:\n{self.log()}")
        for worker in list(self.workers):
            if not worker.check():
                self.drop_worker(worker)

    # The end.

    def left(self):
        mark = f"SAMEPAGE_SOCKET={self.env['SAMEPAGE_SOCKET']}".encode()
        socket = self.env["SAMEPAGE_SOCKET"].encode()
        return [p for p in proc.all_processes() if p.pid != os.getpid() and
                (mark in p.environ.split(b"\0") or socket in p.cmdline)]

    def _end_reclaim(self):
        if self.reclaimer:
            self.reclaimer.close()

    def end_well(self):
        self._end_reclaim()
        for worker in list(self.workers):
            worker.end()
            self.drop_worker(worker)
        self.poll()
        if self.daemon:
            self.stop_daemon()
        deadline = time.monotonic() + 60
        while self.left():
            if time.monotonic() > deadline:
                raise Wrong(f"left when all had ended: "
                            f"{[(p.pid, p.comm, p.state) for p in self.left()]}")
            time.sleep(0.05)

    def end_anyhow(self):
        """Whatever is left is killed."""
        self._end_reclaim()
        for _ in range(20):
            left = self.left()
            for p in left:
                send(p.pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.1)
        for worker in self.workers:
            worker.popen.poll()
        if self.daemon:
            self.daemon.wait()
