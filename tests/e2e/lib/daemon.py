# SPDX-License-Identifier: Apache-2.0
"""A samepaged of the test's own, and the commands spoken to it."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from lib import proc
from lib.place import A_SECOND, BUILD, PATIENCE, STORE, NotInTime, need_build, patient, wait_for
from lib.program import Progress, Program, become
from lib.reclaimer import Reclaimer


class Daemon:
    """Its socket lies in a short-named folder of its own (a socket's path has 107 bytes), which
    anybody may enter. close() ends all that was started here and fails the test if anything of
    samepage is left afterwards (D4)."""

    def __init__(self, build=BUILD, cgroup=None, uid=None, options=()):
        need_build(build)
        self.options, self.pass_socket, self.prefix = list(options), True, []
        self.build, self.cgroup, self.uid = build, cgroup, uid
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="sp-e2e-"))
        self.directory.chmod(0o755)
        if uid is not None:
            os.chown(self.directory, uid, uid)
        self.socket = self.directory / "samepage.sock"
        self.programs, self.popen, self.reclaimer = [], None, None

    @property
    def env(self):
        return {"SAMEPAGE_SOCKET": str(self.socket)}

    @property
    def pid(self):
        return self.popen.pid

    # The daemon itself.

    def start(self):
        if STORE and not self.options and not self.uid:
            config = self.directory / "samepaged.conf"
            config.write_text("[swap]\nswap = store\n")
            self.options = ["--config", config]
        self._start()
        if STORE == "reclaim" and not self.reclaimer:
            self.reclaimer = Reclaimer(self.socket)
        return self

    def _start(self):
        with open(self.directory / "samepaged.log", "ab") as log:
            self.popen = subprocess.Popen(
                [*self.prefix, self.build / "samepaged", "--foreground", *[str(o) for o in self.options]],
                env={**os.environ, **(self.env if self.pass_socket else {})},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory,
                start_new_session=True, preexec_fn=become(self.uid, self.cgroup))
        wait_for(lambda: f"samepaged does not answer (status {self.popen.poll()}): {self.log()}",
                 self._answers)

    def _answers(self):
        if self.popen.poll() is not None:
            pytest.fail(f"samepaged ended with status {self.popen.returncode}: {self.log()}")
        answer = self.cli("status", "--json", check=False)
        return answer.returncode == 0 and json.loads(answer.stdout)["daemon_pid"] == self.popen.pid

    def log(self):
        path = self.directory / "samepaged.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def kill(self):
        """KILL, and wait until it is gone."""
        self.popen.kill()
        self.popen.wait()

    def kill_with_agents(self, program):
        """D3: the daemon, then all agents of a program, which nothing merges or un-merges any more."""
        self.kill()
        for agent in program.agents():
            os.kill(agent, signal.SIGKILL)
        wait_for("its agent lives", lambda: not program.agents())

    def stop(self):
        """An ordinary stop (D5): exit status 0."""
        self.popen.terminate()
        try:
            status = self.popen.wait(patient(PATIENCE))
        except subprocess.TimeoutExpired:
            pytest.fail(f"samepaged does not end on TERM: {self.log()}")
        assert status == 0, f"samepaged ended with status {status}: {self.log()}"

    # The commands.

    def cli(self, *args, check=True, uid=None, timeout=PATIENCE):
        uid = self.uid if uid is None else uid
        try:
            done = subprocess.run(
                [self.build / "samepage", *[str(a) for a in args]], capture_output=True, text=True,
                timeout=patient(timeout), env={**os.environ, **self.env}, cwd=self.directory,
                stdin=subprocess.DEVNULL, preexec_fn=become(uid), check=False)
        except subprocess.TimeoutExpired:
            raise NotInTime(f"samepage {' '.join(map(str, args))} still runs after "
                            f"{patient(timeout):g} s; daemon: {self.log()}")
        if check:
            died = self.popen and self.popen.poll()
            assert done.returncode == 0, \
                f"samepage {' '.join(map(str, args))}: status {done.returncode}: {done.stderr}" + \
                ("" if died is None else f"; samepaged died with status {died}: {self.log()}")
        return done

    def status(self, key=None):
        answer = json.loads(self.cli("status", "--json").stdout)
        return answer[key] if key else answer

    def ps(self, pid):
        """The line of `samepage ps` about the process, or None."""
        answer = json.loads(self.cli("ps", "--json").stdout)
        lines = answer["processes"] if isinstance(answer, dict) else answer
        return next((line for line in lines if line["pid"] == pid), None)

    def wait_state(self, pid, state):
        """Waits until `samepage ps` says so of the process: on a busy machine it may be "stalled" first."""
        wait_for(lambda: f"the state is not {state}: {self.ps(pid)}",
                 lambda: (self.ps(pid) or {}).get("state") == state)

    def explain(self, pid):
        """What `samepage explain` says when the agent could be asked, without what is so for a moment."""
        def asked():
            answer = json.loads(self.cli("explain", "--json", pid).stdout)
            return "pages" in answer and answer

        answer = wait_for(lambda: f"its agent does not answer: {self.ps(pid)}", asked)
        answer["because"] = [why for why in answer["because"] if why not in ("rests", "stalled")]
        return answer

    def get(self, key):
        return self.cli("get", key).stdout.strip()

    def set(self, **values):
        for key, value in values.items():
            self.cli("set", f"{key}={value}")

    def set_full_speed(self):
        self.set(pages_to_scan=100000, sleep_millisecs=0)

    def wait(self, timeout=PATIENCE):
        timeout = int(2 * patient(timeout))
        self.cli("wait", "--timeout", timeout, timeout=timeout + PATIENCE)

    def wait_sharing(self, more_than=1000, timeout=PATIENCE):
        def enough():
            return self.status("pages_sharing") > more_than

        wait_for(lambda: f"pages_sharing does not rise above {more_than}: {self.status()} "
                         f"{self.cli('ps', check=False).stdout}", enough, timeout, every=0.05)

    # Programs under it.

    def run(self, *argv, all=True, env=None, uid=None):
        """Starts argv under `samepage run`."""
        flags = ["--all"] if all else []
        return self.plain(self.build / "samepage", "run", *flags, "--", *argv, env=env, uid=uid)

    def plain(self, *argv, env=None, uid=None):
        """Starts argv as it stands, never merged."""
        program = Program(argv, self.directory, env={**self.env, **(env or {})},
                          uid=self.uid if uid is None else uid, cgroup=self.cgroup)
        program.name = pathlib.Path(str(argv[4] if len(argv) > 4 and argv[1] == "run" else
                                        argv[0])).name
        self.programs.append(program)
        return program

    def checker(self, compiled, mib=32, threads=2, env=None):
        """Starts a checker (programs/checker.c); program.progress are its threads' counters."""
        path = self.directory / f"progress-{len(self.programs)}"
        program = self.run(compiled("checker"), mib, threads, path, env=env)
        program.progress = Progress(path, threads)
        program.area = program.region()
        return program

    def merged_pages(self, program, area, pid=None):
        return proc.pages_from_files(pid or program.pid, *area)

    def wait_merged(self, program, area, share=0.9, timeout=PATIENCE, pid=None):
        """Waits until so large a share of the area's pages is mapped from frames."""
        def enough():
            return self.merged_pages(program, area, pid) >= share * area[1] / 4096

        wait_for(lambda: f"{program.name}: only {self.merged_pages(program, area, pid)} of "
                         f"{area[1] // 4096} pages are merged: {self.status()} "
                         f"{self.cli('ps', check=False).stdout} {program.stderr()} "
                         f"{self.cli('explain', pid or program.pid, check=False).stdout}", enough, timeout)

    # The end.

    def left(self, keeper=False):
        """Processes that have this socket in their environment or on their command line, without
        the daemon; its keeper and its store's, which belong to it and to what it merged, on demand."""
        socket = str(self.socket).encode()
        own = f"SAMEPAGE_SOCKET={self.socket}".encode()
        return [p for p in proc.all_processes()
                if p.pid != os.getpid() and (not self.popen or p.pid != self.popen.pid)
                and (own in p.environ.split(b"\0") or socket in p.cmdline)
                and (keeper or not {b"--keeper", b"--store-server", b"--store-worker"} & {*p.cmdline.split(b"\0")})]

    def close(self):
        if self.reclaimer:
            self.reclaimer.close()
        agents = [pid for program in self.programs for pid in program.agents()]
        for program in self.programs:
            for p in program.processes():
                if p.comm != "samepage-agent":
                    _kill(p.pid)
        left = self._gone_after_a_second(agents)
        for program in self.programs:
            program.destroy()
        if self.popen and self.popen.poll() is None:
            self.kill()
        left += self._gone_after_a_second([], keeper=True)
        for p in self.left(keeper=True):
            _kill(p.pid)
        log = self.log()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not left, f"left after every program was killed: {left}; log: {log}"

    def _gone_after_a_second(self, agents, keeper=False):
        """What is left then. One look in which nothing is there will do: what the daemon starts is, for a moment, a
        process that looks like it."""
        left = []

        def none_is_left():
            for program in self.programs:
                program.popen.poll()
            left[:] = [(p.pid, p.comm, p.state) for p in self.left(keeper)] + \
                [(pid, "agent", "zombie?") for pid in agents if proc.exists(pid)]
            return not left

        try:
            wait_for("", none_is_left, A_SECOND)
        except NotInTime:
            pass
        return left


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
