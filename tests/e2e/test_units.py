# SPDX-License-Identifier: Apache-2.0
"""The systemd units: right, hardened, and enough: the daemon does all its work with exactly what the
service unit leaves to it; sockets of systemd are taken; TERM ends it in order (D5)."""

import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess

import pytest

from lib import place, proc
from lib.place import wait_for
from lib.program import Progress
from lib.store import server_threads, store_process

NOBODY = 65534
SYSTEM = place.ROOT / "data"
EXPOSURE = 30  # tenths: systemd-analyze says "OK" up to 5, "MEDIUM" from there


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")


@pytest.fixture
def units(tmp_path):
    """A folder with the units as they are installed, with the daemon of this build."""
    place.need_build()
    for name in ("samepaged.service.in", "samepaged.socket"):
        text = (SYSTEM / name).read_text().replace("@bindir@", str(place.BUILD))
        (tmp_path / name.removesuffix(".in")).write_text(text)
    return tmp_path


def test_verify(units):
    need("systemd-analyze")
    for folder in (units, None):
        if folder is None:
            folder = units / "user"
            folder.mkdir()
            for name in ("samepaged.service.in", "samepaged.socket"):
                text = (SYSTEM / "user" / name).read_text().replace("@bindir@", str(place.BUILD))
                (folder / name.removesuffix(".in")).write_text(text)
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", folder / "samepaged.service",
                               folder / "samepaged.socket"], capture_output=True, text=True,
                              timeout=place.patient(60), check=False)
        said = [line for line in done.stderr.splitlines() if "samepaged" in line]
        assert done.returncode == 0 and said == [], done


def test_exposure(units):
    need("systemd-analyze")
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}",
                           "--no-pager", units / "samepaged.service"], capture_output=True, text=True,
                          timeout=place.patient(60), check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_stop_and_the_view_of_processes_need(units):
    """What must and what must not stand in the service unit."""
    lines = (units / "samepaged.service").read_text().splitlines()
    for line in ("KillMode=process", "Type=notify", "RuntimeDirectoryPreserve=yes"):
        assert line in lines
    for key in ("ProtectProc", "ProcSubset", "PrivatePIDs", "PrivateUsers", "PrivateDevices",
                "DynamicUser", "User"):
        assert not any(line.startswith(key + "=") for line in lines), key


@pytest.fixture
def confined(make_daemon, units, tmp_path):
    """confined(build, without, beside): root's daemon, as under the unit, and in mount and network namespaces
    of its own."""
    need("systemd-analyze")
    place.need_root()
    place.need_kernel_6_8()
    config = tmp_path / "samepaged.conf"
    config.write_text(f"[users]\nuserfaultfd = {NOBODY}\n")
    config.chmod(0o644)

    def make(build=place.BUILD, without="", beside=""):
        daemon = make_daemon(build=build, options=["--config", config])
        daemon.prefix = ["unshare", "-m", "-n", "--propagation", "slave", "env",
                         f"SAMEPAGE_TEST_WITHOUT={without}", f"SAMEPAGE_TEST_BESIDE={beside}", "/usr/bin/python3",
                         place.HERE / "lib" / "as_unit.py", units / "samepaged.service"]
        return daemon

    return make


def checker(daemon, compiled, uid=None, **env):
    daemon.directory.chmod(0o777)
    path = daemon.directory / f"progress-{len(daemon.programs)}"
    program = daemon.run(compiled("checker"), 16, 2, path, uid=uid, env=env)
    program.progress = Progress(path, 2)
    program.area = program.region()
    return program


def end(*programs):
    for program in programs:
        program.progress.wait_all_go_on()
        program.popen.terminate()
        program.must_finish(0)


def test_it_has_only_what_the_unit_says(confined):
    daemon = confined().start()
    status = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    wanted = 1 << 21 | 1 << 19 | 1 << 5 | 1 << 2  # SYS_ADMIN, SYS_PTRACE, KILL, DAC_READ_SEARCH
    for key in ("CapPrm", "CapEff", "CapBnd"):
        assert int(fields[key], 16) == wanted, (key, fields[key])
    assert fields["NoNewPrivs"].strip() == "1" and fields["Seccomp"].strip() == "2"
    daemon.stop()


def may_go_first():
    """Whether the tests may give programs the limit of nice values that the unit gives."""
    status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    limit = resource.getrlimit(13)[1]  # RLIMIT_NICE
    return int(status["CapEff"], 16) >> 24 & 1 or limit >= 40 or limit == resource.RLIM_INFINITY


def test_the_stores_server_goes_first_on_its_processors(confined):
    """As far as whoever runs the tests may let it."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")
    daemon = confined()
    with open(daemon.options[1], "a", encoding="ascii") as config:
        config.write("[swap]\nswap = store\n")
    daemon.start()

    def threads():
        return server_threads(daemon)

    wait_for(lambda: f"not each on its own processor: {[os.sched_getaffinity(t) for t in threads()]}",
             lambda: threads() and all(len(os.sched_getaffinity(t)) == 1 for t in threads()))
    assert len(set().union(*map(os.sched_getaffinity, threads()))) == len(threads())
    if may_go_first():
        wait_for("they do not go first", lambda: {os.getpriority(os.PRIO_PROCESS, t) for t in threads()} == {-20})
    daemon.stop()


def test_it_works_for_root_and_others(confined, compiled):
    """Merges, takes over after a kill, un-merges, ends on TERM."""
    daemon = confined().start()
    daemon.set_full_speed()
    programs = [checker(daemon, compiled, uid) for uid in (None, NOBODY, None, NOBODY)]
    assert all(program.samepage_lines() == [] for program in programs)
    wait_for(lambda: f"{daemon.cli('ps').stdout}",
             lambda: all((daemon.ps(p.pid) or {"sites": 0})["sites"] > 200 for p in programs))
    daemon.kill()
    daemon.start()
    wait_for(lambda: f"{daemon.cli('ps').stdout}",
             lambda: all((daemon.ps(p.pid) or {"sites": 0})["sites"] > 200 for p in programs))
    assert daemon.status("takeovers") == 1
    daemon.set(run=2)
    assert daemon.status("pages_sharing") == 0
    daemon.stop()
    end(*programs)


@pytest.mark.parametrize("uid", [None, NOBODY])
def test_it_repairs(confined, compiled, uid):
    """D2, with the unit's capabilities."""
    daemon = confined(place.BUILD_TEST).start()
    daemon.set_full_speed()
    other = checker(daemon, compiled, uid)
    program = checker(daemon, compiled, uid, SAMEPAGE_FAULT="lift-moved:3")
    wait_for(lambda: f"no fault: {daemon.ps(program.pid)}", lambda: not program.agents(), 20)
    wait_for(lambda: daemon.log(), lambda: daemon.status("repairs") >= 1, 10)
    end(program, other)


@pytest.mark.parametrize("without", ["SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"])
def test_each_capability_is_needed(confined, compiled, without):
    """Without one of them the daemon does not start, or lets another user's program in no more: then
    with one line."""
    daemon = confined(without=without)
    if without == "SYS_ADMIN":
        done = subprocess.run([*map(str, daemon.prefix), daemon.build / "samepaged", "--foreground"],
                              env={**os.environ, **daemon.env}, capture_output=True, text=True,
                              timeout=place.patient(20), check=False)
        assert done.returncode == 1 and "pool" in done.stderr, done
        return
    daemon.start()
    program = daemon.run(compiled("exit_7"), 0.2, uid=NOBODY)
    program.must_finish(7)
    assert len(program.samepage_lines()) == 1, program.stderr()


def stored_bytes(program):
    """Of the area, in mappings of the store."""
    start, length = program.area
    total = 0
    for line in pathlib.Path(f"/proc/{program.pid}/maps").read_text().splitlines():
        at, stop = (int(x, 16) for x in line.split()[0].split("-"))
        if line.split()[4] != "0" and start <= at < start + length:
            total += stop - at
    return total


def new_worker(daemon, old):
    """The pid of the worker after that one, None: there is none yet."""
    found = [p.pid for p in proc.all_processes()
             if {b"--store-worker", str(daemon.socket).encode()} <= {*p.cmdline.split(b"\0")}]
    return next((pid for pid in found if pid != old), None)


def locked_kib(pid):
    smaps = pathlib.Path(f"/proc/{pid}/smaps").read_text()
    return sum(int(line.split()[1]) for line in smaps.splitlines() if line.startswith("Locked:"))


def test_it_has_all_that_the_store_needs(confined, compiled, tmp_path):
    """S, K13, D1: a new worker locks what only memory has; frames leave, and come back; another user's programs, with
    threads, are un-merged to plain memory."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")
    assert "LimitMEMLOCK=infinity" in (tmp_path / "samepaged.service").read_text().splitlines()
    daemon = confined(beside="IPC_LOCK") # in its place: a test may have no right to raise the limit
    with open(tmp_path / "samepaged.conf", "a", encoding="ascii") as config:
        config.write("[swap]\nswap = store\nreclaim_max = 0\n")
    daemon.start().set_full_speed()
    daemon.directory.chmod(0o777)
    programs = [daemon.run(compiled("writes_on"), 512, 2, uid=NOBODY) for _ in range(2)]
    for program in programs:
        program.area = program.region()
    for program in programs:
        daemon.wait_merged(program, program.area, share=1.0)
    daemon.set(run=0)
    worker = store_process(daemon, "worker")
    locked = locked_kib(worker)
    assert locked > 0 # a share: programs map them, too
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: daemon.log(), lambda: new_worker(daemon, worker) and
             locked_kib(new_worker(daemon, worker)) == locked)
    daemon.cli("reclaim", "all")
    for program in programs:
        program.say("rest")
        assert program.line() == "ok", program.stderr()
    daemon.cli("unmerge")
    for program in programs:
        assert stored_bytes(program) == 0
    assert daemon.status("store_errors") == 0


def test_stop_while_merging(confined, compiled):
    """D5: TERM at any moment ends it with 0, soon; programs go on, the next daemon takes them over."""
    daemon = confined().start()
    daemon.set_full_speed()
    programs = [checker(daemon, compiled) for _ in range(3)]
    for pages in (1, 300, 1000):
        wait_for(lambda: f"{daemon.status()}", lambda: daemon.status("pages_sharing") >= pages,
                 every=0.001)
        daemon.stop()
        for program in programs:
            program.progress.wait_all_go_on()
            assert len(program.agents()) == 1
        daemon.start()
    end(*programs)


def test_socket_activation(make_daemon, compiled):
    """The first request starts it; its socket stays systemd's."""
    need("systemd-socket-activate")
    place.need_root()
    daemon = make_daemon()
    daemon.popen = subprocess.Popen(
        ["systemd-socket-activate", "--seqpacket", "-l", daemon.socket, "-E", "SAMEPAGE_SOCKET",
         daemon.build / "samepaged", "--foreground"], env={**os.environ, **daemon.env},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for("no socket", daemon.socket.exists)
    assert proc.look(daemon.pid).comm != "samepaged"
    program = daemon.run(compiled("x_rows"), "hold")
    program.region()
    assert proc.look(daemon.pid).comm == "samepaged"
    assert program.samepage_lines() == [] and daemon.ps(program.pid)
    program.say()
    program.must_finish(0)
    daemon.stop()
    assert daemon.socket.exists(), "it is not the daemon's to remove"


def test_notify(make_daemon):
    """Type=notify: READY=1 comes when commands are answered."""
    daemon = make_daemon()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(daemon.directory / "notify"))
        notify.settimeout(place.patient(10))
        daemon.prefix = ["env", f"NOTIFY_SOCKET={daemon.directory}/notify"]
        daemon.start()
        assert b"READY=1" in notify.recv(1000)
    os.kill(daemon.pid, signal.SIGTERM)
    assert daemon.popen.wait(place.patient(10)) == 0
