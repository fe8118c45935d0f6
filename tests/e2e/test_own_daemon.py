# SPDX-License-Identifier: Apache-2.0
"""Which daemon serves whom: the one that is named, else the user's own, else the system's, else one
that `run` starts. And a daemon of a user without root, where the system lets this user have
userfaultfd: it merges and survives what root's survives."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from lib import place, proc
from lib.place import wait_for
from lib.private import PrivateRoot
from lib.program import Progress, Program

NOBODY = 65534


class System:
    """A system of its own for a test: its /run, daemons and programs in there."""

    def __init__(self, build, directory):
        self.build, self.directory = build, directory
        self.root = PrivateRoot(open_device=True)
        self.programs, self.daemons = [], []
        self.runtime = "/run/user-65534"
        os.mkdir(self.root.path(self.runtime), 0o700)
        os.chown(self.root.path(self.runtime), NOBODY, NOBODY)

    def env(self, own=True, socket=None):
        env = {k: v for k, v in os.environ.items() if k not in ("SAMEPAGE_SOCKET", "XDG_RUNTIME_DIR")}
        if own:
            env["XDG_RUNTIME_DIR"] = self.runtime
        if socket:
            env["SAMEPAGE_SOCKET"] = socket
        return env

    def cli(self, *args, uid=NOBODY, **how):
        return subprocess.run(self.root.command(uid, self.build / "samepage", *args),
                              env=self.env(**how), capture_output=True, text=True, timeout=place.patient(60),
                              stdin=subprocess.DEVNULL, check=False)

    def status(self, **how):
        done = self.cli("status", "--json", **how)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def start(self, uid, **how):
        """A daemon in the foreground; returns when it answers."""
        with open(self.directory / "samepaged.log", "ab") as log:
            daemon = subprocess.Popen(
                self.root.command(uid, self.build / "samepaged", "--foreground"), stdout=log,
                stderr=log, env=self.env(**how), start_new_session=True)
        self.daemons.append(daemon)
        wait_for(lambda: f"no answer: {self.log()}",
                 lambda: (self.status(uid=uid, **how) or {}).get("daemon_pid") == daemon.pid)
        return daemon

    def log(self):
        path = self.directory / "samepaged.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def run(self, *argv, uid=NOBODY, env=None, **how):
        # Program adds to the environment that we have; what must not be in it is unset in there.
        unset = [w for name in ("SAMEPAGE_SOCKET", "XDG_RUNTIME_DIR")
                 for w in ("-u", name) if name not in self.env(**how)]
        program = Program(self.root.command(uid, "env", *unset, self.build / "samepage", "run",
                                            "--all", "--", *argv), self.directory,
                          env={**self.env(**how), **(env or {})})
        program.name = pathlib.Path(str(argv[0])).name
        self.programs.append(program)
        return program

    def checker(self, compiled, env=None):
        path = self.directory / f"progress-{len(self.programs)}"
        program = self.run(compiled("checker"), 16, 2, path, env=env)
        program.progress = Progress(path, 2)
        program.area = program.region()
        return program

    def close(self):
        for program in self.programs:
            program.destroy()
        for daemon in self.daemons:
            daemon.kill()
            daemon.wait()
        # Those that `run` started: all that see our /run.
        ours = os.readlink(f"/proc/{self.root.holder.pid}/ns/mnt")
        for p in proc.all_processes():
            try:
                if os.readlink(f"/proc/{p.pid}/ns/mnt") == ours and p.pid != self.root.holder.pid:
                    os.kill(p.pid, signal.SIGKILL)
            except OSError:
                pass
        self.root.close()


@pytest.fixture
def make_system():
    place.need_root()
    place.need_build()
    place.need_kernel_6_8()
    made = []

    def make(build=place.BUILD):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="sp-e2e-own-"))
        folder.chmod(0o777)
        made.append((System(build, folder), folder))
        return made[-1][0]

    yield make
    for system, folder in made:
        system.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def system(make_system):
    return make_system()


def test_which_daemon(system):
    """Named, own, system's, none; all commands alike."""
    assert system.status() is None
    assert "no daemon" in system.cli("status").stderr
    roots = system.start(0, own=False)
    assert system.status()["daemon_pid"] == roots.pid, "the system's, as there is none of one's own"
    own = system.start(NOBODY, socket=f"{system.runtime}/samepage/samepage.sock")
    assert system.status()["daemon_pid"] == own.pid, "one's own comes first"
    assert system.cli("get", "daemon_pid").stdout.strip() == str(own.pid)
    assert system.status(own=False)["daemon_pid"] == roots.pid
    assert system.status(uid=0)["daemon_pid"] == roots.pid, "root's is the system's"
    named = system.status(socket="/run/samepage/samepage.sock")
    assert named["daemon_pid"] == roots.pid, "the one that is named wins"
    assert system.status(socket="/run/nothing.sock") is None
    own.terminate()
    assert own.wait(place.patient(10)) == 0
    assert system.status()["daemon_pid"] == roots.pid
    own = system.start(NOBODY, socket=f"{system.runtime}/samepage/samepage.sock")
    own.kill()  # its socket stays behind, and nobody listens there
    own.wait()
    assert system.status()["daemon_pid"] == roots.pid


def test_run_uses_the_systems_daemon(system, compiled):
    roots = system.start(0, own=False)
    program = system.run(compiled("x_rows"), "hold")
    program.region()
    ps = json.loads(system.cli("ps", "--json").stdout)["processes"]
    assert [(p["pid"], p["domain"]) for p in ps] == [(program.pid, f"u{NOBODY}")]
    assert system.status(uid=0)["daemon_pid"] == roots.pid
    program.say()
    program.must_finish(0)


def test_run_starts_one_of_the_users_own(system, compiled):
    """Without root: merged, un-merged, and its files are where they belong."""
    programs = [system.run(compiled("x_rows"), "hold") for _ in range(2)]
    for program in programs:
        program.region()
        assert program.samepage_lines() == []
    wait_for(lambda: f"{system.status()}", lambda: system.status()["pages_sharing"] > 1500)
    daemon = system.status()["daemon_pid"]
    assert os.stat(f"/proc/{daemon}").st_uid == NOBODY
    folder = pathlib.Path(system.root.path(f"{system.runtime}/samepage"))
    assert sorted(p.name for p in folder.iterdir()) == [
        "samepage.sock", "samepage.sock.keeper", "samepage.sock.lock", "samepaged.log"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert system.cli("set", "run=2").returncode == 0
    assert system.status()["pages_sharing"] == 0
    for program in programs:
        program.say()
        program.must_finish(0)


def test_daemon_of_a_user_is_killed(system, compiled):
    """D1: the next one takes over, without root."""
    programs = [system.checker(compiled) for _ in range(2)]
    wait_for(lambda: f"{system.status()}", lambda: system.status()["pages_sharing"] > 100)
    for _ in range(3):
        os.kill(system.status()["daemon_pid"], signal.SIGKILL)
        wait_for("it lives", lambda: system.status() is None)
        for program in programs:
            program.progress.wait_all_go_on()
        system.start(NOBODY, socket=f"{system.runtime}/samepage/samepage.sock")
        wait_for(lambda: f"{system.status()} {system.log()}",
                 lambda: system.status()["processes"] == 2 and system.status()["pages_sharing"] > 100)
    assert system.status()["takeovers"] == 3
    for program in programs:
        program.popen.terminate()
        program.must_finish(0)


@pytest.mark.parametrize("point", ["lift-moved", "lift-mapped"])
def test_agent_dies_in_a_lift_under_a_users_daemon(make_system, compiled, point):
    """D2: the daemon reads the program's memory as the program's own user."""
    system = make_system(place.for_everybody(place.BUILD_TEST))
    other = system.checker(compiled)
    program = system.checker(compiled, env={"SAMEPAGE_FAULT": f"{point}:3"})
    wait_for(lambda: f"no fault: {system.cli('ps').stdout} {program.stderr()}",
             lambda: not program.agents(), 20)
    wait_for(lambda: f"{system.status()}", lambda: system.status()["repairs"] >= 1, 10)
    for checked in (program, other):
        checked.progress.wait_all_go_on()
        checked.popen.terminate()
        checked.must_finish(0)
