# SPDX-License-Identifier: Apache-2.0
"""Programs that know the kernel's KSM find samepage's values: from Debian's packages, and readers as libvirt
and oVirt's MOM are."""

import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

from lib import control
from lib.ksmfs import SYSFS, need_ksmfs
from lib.place import wait_for

EXPORTED = ("full_scans", "merge_across_nodes", "pages_shared", "pages_sharing", "pages_to_scan", "pages_unshared",
            "pages_volatile", "run")
MOM = ("full_scans", "pages_shared", "pages_sharing", "pages_to_scan", "pages_unshared", "pages_volatile", "run",
       "sleep_millisecs", "merge_across_nodes")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def metrics(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            return answer.read().decode()
    except urllib.error.URLError:
        return ""


def two_merged(daemon, compiled):
    """Counters that are not 0 and stand still."""
    programs = [daemon.checker(compiled, mib=8) for _ in range(2)]
    for program in programs:
        daemon.wait_merged(program, program.area, share=0.5)
    control.ask(daemon, "set", key="run", value="0")
    for program in programs:
        program.popen.send_signal(signal.SIGSTOP)


def exporter(port):
    program = shutil.which("prometheus-node-exporter")
    if not program:
        pytest.skip("prometheus-node-exporter is not installed")
    return [program, "--collector.disable-defaults", "--collector.ksmd", f"--web.listen-address=127.0.0.1:{port}"]


def check_exported(port, get, program):
    def answered():
        return metrics(port) or program.poll() is not None

    text = wait_for("node_exporter does not answer", answered)
    wait_for(lambda: f"{metrics(port)[:3000]}", lambda: 'node_scrape_collector_success{collector="ksmd"} 1' in metrics(port))
    text = metrics(port)
    shown = {key: float(value) for key, value in re.findall(r"^node_ksmd_(\w+) (\S+)$", text, re.M)}
    assert shown.pop("sleep_seconds") == int(get("sleep_millisecs")) / 1000
    names = {"full_scans": "full_scans_total", "merge_across_nodes": "merge_across_nodes_enabled"}
    for key in EXPORTED:
        name = key if key in shown else names.get(key, key)
        assert (key, shown.get(name)) == (key, float(get(key)))
    assert shown["pages_sharing"] > 100


def test_node_exporter_over_sysfs(over_sysfs, compiled):
    over_sysfs.run(over_sysfs.samepage, "mount", "--over-sysfs")
    two_merged(over_sysfs.daemon, compiled)
    port = free_port()
    with over_sysfs.start(*exporter(port), stderr=subprocess.DEVNULL) as program:
        try:
            check_exported(port, over_sysfs.get, program)
        finally:
            program.kill()


def test_node_exporter_with_a_sysfs_of_its_own(daemon, compiled):
    """--path.sysfs names a folder with ksmfs at its place: no file of the kernel's is covered."""
    need_ksmfs(daemon.build)
    folder = daemon.directory / "sys/kernel/mm/ksm"
    folder.mkdir(parents=True)
    port = free_port()
    argv = [*exporter(port), f"--path.sysfs={daemon.directory}/sys"]
    daemon.cli("mount", folder)
    try:
        two_merged(daemon, compiled)
        program = daemon.plain(*argv)
        check_exported(port, lambda key: (folder / key).read_text().strip(), program.popen)
        program.popen.kill()
    finally:
        daemon.cli("umount", folder)


def handles(pid, number):
    """Has the process a handler for the signal?"""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        caught = next(line.split()[1] for line in status if line.startswith("SigCgt:"))
    return int(caught, 16) >> (number - 1) & 1


def test_ksmtuned_changes_pages_to_scan(over_sysfs):
    """With a coefficient of 100 it thinks memory is always short: it starts merging, and raises the pace step by
    step up to its limit."""
    ksmtuned = shutil.which("ksmtuned") or shutil.which("ksmtuned", path="/usr/sbin")
    if not ksmtuned:
        pytest.skip("ksmtuned is not installed")

    def kernels():
        return (SYSFS / "pages_to_scan").read_text(), (SYSFS / "run").read_text()

    daemon, before = over_sysfs.daemon, kernels()
    over_sysfs.run(over_sysfs.samepage, "mount", "--over-sysfs")
    control.ask(daemon, "set", key="run", value="0")
    control.ask(daemon, "set", key="sleep_millisecs", value="1")
    pid_file = daemon.directory / "ksmtuned.pid"
    # It works at once when it is told to, and otherwise each two seconds.
    front = over_sysfs.start(ksmtuned, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={
        "KSM_THRES_COEF": "100", "KSM_MONITOR_INTERVAL": "2", "PIDFILE": str(pid_file)})
    try:
        front.wait(60)  # it goes on in the background
        seen = []

        pid = int(pid_file.read_text())
        # The file may be there before the signal is handled, which would end it then.
        wait_for("it handles no signal", lambda: handles(pid, signal.SIGUSR1))

        def raised():
            os.kill(pid, signal.SIGUSR1)
            seen.append(int(daemon.get("pages_to_scan")))
            return seen[-1] == 1250

        wait_for(lambda: f"pages_to_scan were {seen}", raised)
        assert daemon.get("run") == "1" and int(daemon.get("sleep_millisecs")) >= 10
        assert {n for n in seen if n != 100000} <= {300, 600, 900, 1200, 1250}
    finally:
        os.killpg(front.pid, signal.SIGKILL)
    assert kernels() == before


def test_mom_reads_nine_open_files(ksmfs, compiled):
    """They stay open for good, and each look seeks to 0; over restarts of the daemon, too."""
    files = {key: open(ksmfs / key, encoding="ascii") for key in MOM}

    def look():
        for file in files.values():
            file.seek(0)
        return {key: int(file.read()) for key, file in files.items()}

    first = look()
    assert first["pages_sharing"] == 0 and first["run"] == 1
    two_merged(ksmfs.daemon, compiled)
    for _ in range(20):
        assert look() == {key: int(ksmfs.get(key)) for key in MOM}
    assert look()["pages_sharing"] > 100
    ksmfs.daemon.stop()
    ksmfs.daemon.start()
    assert look()["sleep_millisecs"] == int(ksmfs.daemon.get("sleep_millisecs"))
    for file in files.values():
        file.close()


def test_libvirt_reads_and_writes(ksmfs):
    """virFileReadAll() and virFileWriteStr(): a read in one piece up to a limit, and a write with O_TRUNC of a
    number without newline."""
    for key, value in (("pages_to_scan", "777"), ("sleep_millisecs", "33"), ("merge_across_nodes", "0")):
        fd = os.open(ksmfs / key, os.O_WRONLY | os.O_TRUNC)
        assert os.write(fd, value.encode()) == len(value)
        assert os.fsync(fd) is None
        os.close(fd)
        fd = os.open(ksmfs / key, os.O_RDONLY | os.O_CLOEXEC)
        assert os.read(fd, 1024) == value.encode() + b"\n" and os.read(fd, 1024) == b""
        os.close(fd)


def test_cat_echo_and_grep(over_sysfs):
    over_sysfs.run(over_sysfs.samepage, "mount", "--over-sysfs")
    shell = over_sysfs.run("sh", "-ec", f"""
        cd {SYSFS}
        echo 123 > pages_to_scan; printf 124 >> pages_to_scan; echo 45 | tee sleep_millisecs
        cat pages_to_scan sleep_millisecs; head -c 2 pages_to_scan; echo
        read value < run; echo "run $value"
        grep -H . merge_across_nodes; wc -c < run; cp run /dev/stdout
        ! echo 9 > run
        """)
    assert shell.stdout.split("\n") == ["45", "124", "45", "12", "run 1", "merge_across_nodes:1", "2", "1", ""]
    assert re.search("Invalid argument|I/O error", shell.stderr)
