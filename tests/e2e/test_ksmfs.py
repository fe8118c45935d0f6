# SPDX-License-Identifier: Apache-2.0
"""`samepage mount` and `samepage umount`: where it lies, when it ends, what it is without a daemon."""

import errno
import fcntl
import os
import signal
import subprocess

import pytest

from lib.ksmfs import SYSFS, need_ksmfs, no_server, servers
from lib.place import wait_for


def is_mounted(path):
    with open("/proc/self/mountinfo", encoding="ascii") as mounts:
        return any(line.split()[4] == str(path) for line in mounts)


def test_shows_and_sets_the_daemons_values(ksmfs):
    assert ksmfs.get("pages_to_scan") == ksmfs.daemon.get("pages_to_scan") == "100000"
    ksmfs.set("pages_to_scan", "77\n")
    assert ksmfs.get("pages_to_scan") == ksmfs.daemon.get("pages_to_scan") == "77"
    ksmfs.set("max_kernel_pages", "12")
    assert ksmfs.daemon.get("max_kernel_pages") == "12"
    assert ksmfs.get("kernel_pages_allocated") == "0"


def test_umount(ksmfs):
    """What is open stays open; the folder is what it was; the server ends with the last open file."""
    with open(ksmfs / "run", encoding="ascii") as file:
        ksmfs.umount()
        assert os.listdir(ksmfs.path) == [] and not is_mounted(ksmfs.path)
        assert file.read() == "1\n" and servers(ksmfs.daemon)
    no_server(ksmfs.daemon)
    again = ksmfs.umount(check=False)
    assert again.returncode == 1 and "no ksmfs is mounted" in again.stderr


def test_mounts_once(ksmfs):
    again = ksmfs.daemon.cli("mount", ksmfs.path, check=False)
    assert again.returncode == 1 and "already" in again.stderr
    assert ksmfs.get("run") == "1" and len(servers(ksmfs.daemon)) == 1


def waiting_for_lock(pid):
    with open("/proc/locks", encoding="ascii") as locks:
        return any(line.split()[1:3] == ["->", "FLOCK"] and line.split()[5] == str(pid) for line in locks)


def begin(daemon, command):
    """`samepage mount` or `samepage umount` of the daemon's folder, which goes on."""
    return subprocess.Popen([daemon.build / "samepage", command, daemon.directory / "ksm"], text=True,
                            env={**os.environ, **daemon.env}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def mount_while_locked(daemon, many):
    """That many `samepage mount` of one folder, which all wait for the one that mounts there."""
    begun = [begin(daemon, "mount") for _ in range(many)]
    for mount in begun:
        wait_for("does not wait", lambda m=mount: waiting_for_lock(m.pid) or m.poll() is not None)
    assert [mount.poll() for mount in begun] == [None] * many, "mounted while another one does"
    return begun


@pytest.mark.parametrize("dead", (False, True))
def test_mounts_once_of_many_at_once(ksmfs, dead):
    """Also where each of them finds the mount of a dead server, which is taken away once."""
    if dead:
        ksmfs.kill()
    else:
        ksmfs.umount()
        no_server(ksmfs.daemon)
    above = os.open(ksmfs.path.parent, os.O_RDONLY)
    fcntl.flock(above, fcntl.LOCK_EX)
    try:
        begun = mount_while_locked(ksmfs.daemon, 4)
    finally:
        os.close(above)
    said = [mount.communicate()[1] for mount in begun]
    assert sorted(mount.returncode for mount in begun) == [0, 1, 1, 1], said
    assert sum("already" in why for why in said) == 3, said
    assert ksmfs.get("run") == "1" and len(servers(ksmfs.daemon)) == 1
    ksmfs.umount()
    assert not is_mounted(ksmfs.path)


def test_who_holds_the_folders_lock_keeps_nobody_from_mounting(ksmfs):
    """Any user who can read the folder can lock it. Half a minute is waited for them, which is cut short here."""
    ksmfs.umount()
    no_server(ksmfs.daemon)
    above = os.open(ksmfs.path.parent, os.O_RDONLY)
    fcntl.flock(above, fcntl.LOCK_EX)
    try:
        mount, = mount_while_locked(ksmfs.daemon, 1)
        mount.send_signal(signal.SIGALRM)
        assert mount.communicate()[1] == "" and mount.returncode == 0
        assert ksmfs.get("run") == "1"
    finally:
        os.close(above)


def test_umount_waits_for_who_mounts(ksmfs):
    """What it finds mounted is what it takes away, and half a minute is waited for that at most, too."""
    above = os.open(ksmfs.path.parent, os.O_RDONLY)
    fcntl.flock(above, fcntl.LOCK_EX)
    try:
        umount = begin(ksmfs.daemon, "umount")
        wait_for("does not wait", lambda: waiting_for_lock(umount.pid) or umount.poll() is not None)
        assert umount.poll() is None and is_mounted(ksmfs.path)
        fcntl.flock(above, fcntl.LOCK_UN)
        assert umount.communicate()[1] == "" and umount.returncode == 0 and not is_mounted(ksmfs.path)
    finally:
        os.close(above)


def test_umount_of_a_dead_server(ksmfs):
    ksmfs.kill()
    with pytest.raises(OSError) as why:
        ksmfs.get("run")
    assert why.value.errno == errno.ENOTCONN
    ksmfs.umount()
    assert os.listdir(ksmfs.path) == [] and not is_mounted(ksmfs.path)


def test_mount_over_a_dead_server(ksmfs):
    for _ in range(2):
        ksmfs.kill()
        ksmfs.daemon.cli("mount", ksmfs.path)
        assert ksmfs.get("run") == "1"
    ksmfs.umount()
    assert not is_mounted(ksmfs.path)  # none is left below


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ends_clean_on_a_signal(daemon, end):
    """In the foreground Ctrl-C unmounts, even while a program has a file open."""
    need_ksmfs(daemon.build)
    path = daemon.directory / "ksm"
    path.mkdir()
    with subprocess.Popen([daemon.build / "samepage", "mount", "--foreground", path],
                          env={**os.environ, **daemon.env}, stderr=subprocess.PIPE) as server:
        wait_for("not mounted", lambda: is_mounted(path) or server.poll() is not None)
        with open(path / "run", encoding="ascii") as file:
            assert file.read() == "1\n"
            server.send_signal(end)
            assert server.wait(60) == 0, server.stderr.read()
    assert not is_mounted(path) and os.listdir(path) == []


def test_without_a_daemon(ksmfs):
    """Names and modes are there, values are EIO; all is well again with the next daemon, of files that
    were open before, too."""
    with open(ksmfs / "sleep_millisecs", "r+", encoding="ascii") as file:
        assert file.read() == "0\n"
        ksmfs.daemon.stop()
        assert (ksmfs / "run").stat().st_size == 4096 and "run" in os.listdir(ksmfs.path)
        for use in (lambda: os.pread(file.fileno(), 9, 0), lambda: os.write(file.fileno(), b"5"),
                    lambda: ksmfs.get("pages_shared"), lambda: os.listdir(ksmfs / "domains")):
            with pytest.raises(OSError) as why:
                use()
            assert why.value.errno == errno.EIO
        ksmfs.daemon.start()
        assert os.pread(file.fileno(), 9, 0) == b"20\n"
        assert os.write(file.fileno(), b"5") == 1 and ksmfs.daemon.get("sleep_millisecs") == "5"


@pytest.fixture
def writer(ksmfs):
    """A program that waits for its write of 2 to run, because the daemon is stopped."""
    ksmfs.daemon.popen.send_signal(signal.SIGSTOP)
    program = subprocess.Popen(["sh", "-c", f"echo 2 > {ksmfs.path}/run"], stderr=subprocess.DEVNULL)
    wait_for("it does not write", lambda: b"fuse" in stack(program.pid) or program.poll() is not None)
    assert program.poll() is None
    yield program
    ksmfs.daemon.popen.send_signal(signal.SIGCONT)
    program.kill()
    program.wait()


def stack(pid):
    with open(f"/proc/{pid}/stack", "rb") as file:
        return file.read()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_waiting_writer_can_be_ended(ksmfs, writer, end):
    """It does not wait for a daemon that may never answer."""
    writer.send_signal(end)
    assert writer.wait(60) == -end
    assert len(servers(ksmfs.daemon)) == 1


def test_server_ends_while_a_writer_waits(ksmfs, writer):
    for pid in servers(ksmfs.daemon):
        os.kill(pid, signal.SIGTERM)
    no_server(ksmfs.daemon)
    assert writer.wait(60) != 0 and os.listdir(ksmfs.path) == []


@pytest.mark.parametrize("args, status", [
    (("mount",), 2), (("mount", "--over-sysfs", "x"), 2), (("mount", "a", "b"), 2), (("mount", "--nosuch"), 2),
    (("umount",), 2), (("umount", "/", "--over-sysfs"), 2), (("mount", "/nosuch/folder"), 1),
    (("umount", "/nosuch/folder"), 1), (("umount", "/proc"), 1), (("umount", "/"), 1)])
def test_wrong_use(daemon, args, status):
    need_ksmfs(daemon.build)
    done = daemon.cli(*args, check=False)
    assert done.returncode == status and done.stderr.startswith("samepage: "), (args, done.stderr)
    assert is_mounted("/proc")


def test_odd_names_of_folders(daemon):
    """Blanks, octal escapes of mountinfo, a relative path, a slash at the end; a dead one of each, too."""
    need_ksmfs(daemon.build)
    for name in ("a b", "back\\slash", "tab\there", "x/", "./y", "\\040"):
        (daemon.directory / name).mkdir()
        daemon.cli("mount", name)
        for pid in servers(daemon):
            os.kill(pid, signal.SIGKILL)
        no_server(daemon)
        daemon.cli("umount", name)
        assert os.listdir(daemon.directory / name) == []


def test_socket_named_from_a_folder(daemon):
    """The server finds it from the folder where it was named, not from its own."""
    need_ksmfs(daemon.build)
    folder = daemon.directory / "ksm"
    folder.mkdir()
    environ = {**os.environ, **daemon.env, "SAMEPAGE_SOCKET": os.path.relpath(daemon.socket, daemon.directory)}
    with subprocess.Popen([daemon.build / "samepage", "mount", "--foreground", "ksm"], cwd=daemon.directory,
                          env=environ) as server:
        try:
            wait_for("not mounted", lambda: is_mounted(folder) or server.poll() is not None)
            assert (folder / "run").read_text() == "1\n"
        finally:
            server.send_signal(signal.SIGINT)


def test_over_sysfs(over_sysfs):
    """The kernel's own files are samepage's, then the kernel's again; after a crash of the server too."""
    samepage, daemon = over_sysfs.samepage, over_sysfs.daemon
    kernels = over_sysfs.get("pages_to_scan")
    daemon.set(pages_to_scan=4242)
    for crash in (False, True):
        over_sysfs.run(samepage, "mount", "--over-sysfs")
        assert over_sysfs.get("pages_to_scan") == "4242"
        assert (SYSFS / "pages_to_scan").read_text() == kernels + "\n"  # seen in that namespace only
        if crash:
            for pid in servers(daemon):
                os.kill(pid, signal.SIGKILL)
            no_server(daemon)
        over_sysfs.run(samepage, "umount", "--over-sysfs")
        assert over_sysfs.get("pages_to_scan") == kernels
        no_server(daemon)
    over_sysfs.run("sh", "-c", f"{samepage} mount --over-sysfs && echo 43 > {SYSFS}/pages_to_scan")
    assert daemon.get("pages_to_scan") == "43"
    over_sysfs.run(samepage, "umount", SYSFS)
    assert over_sysfs.get("pages_to_scan") == kernels
    assert over_sysfs.run(samepage, "umount", "--over-sysfs", check=False).returncode == 1


def test_doctor_does_not_take_it_for_the_kernels(over_sysfs):
    """With run 1, ours, it says that the kernel's KSM runs, unless it looks whose file it is."""
    over_sysfs.run(over_sysfs.samepage, "mount", "--over-sysfs")
    assert over_sysfs.get("run") == "1"
    said = over_sysfs.run(over_sysfs.samepage, "doctor", check=False).stdout
    assert "lies over" in said and "runs at the same time" not in said
