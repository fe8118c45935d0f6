# SPDX-License-Identifier: Apache-2.0
"""domains/ and proc/ of ksmfs, and who sees what: nobody learns from it what the daemon would not say."""

import errno
import os
import shutil
import signal
import stat

import pytest

from lib import control, place
from lib.ksmfs import OverSysfs, no_server, servers
from lib.place import wait_for
from lib.users import Agent, ask_as

NOBODY, OTHER = 65534, 12345
STAT = ["ksm_rmap_items", "ksm_zero_pages", "ksm_merging_pages", "ksm_process_profit", "ksm_merge_any:",
        "ksm_mergeable:"]


def failed(use):
    with pytest.raises(OSError) as why:
        use()
    return errno.errorcode[why.value.errno]


def text_of(path):
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError as error:
        return errno.errorcode[error.errno]


def merged_program(daemon, compiled):
    """One of two with the same contents."""
    programs = [daemon.checker(compiled, mib=16), daemon.checker(compiled, mib=16)]
    for program in programs:
        daemon.wait_merged(program, program.area, share=0.5)
    return programs[0]


def test_each_sees_their_own(ksmfs, agents):
    agents += [Agent(ksmfs.daemon.socket, NOBODY), Agent(ksmfs.daemon.socket, OTHER, domain=b"web")]
    assert sorted(os.listdir(ksmfs / "domains")) == ["u12345:web", "u65534"]
    pids = {ask["domain"]: str(ask["pid"]) for ask in control.ask(ksmfs.daemon, "ps")["processes"]}
    assert sorted(os.listdir(ksmfs / "proc")) == sorted(pids.values())
    foreign = [f"domains/u12345:web{rest}" for rest in ("", "/run", "/pages_shared", "/nosuch")] + \
        [f"proc/{pids['u12345:web']}{rest}" for rest in ("", "/ksm_stat", "/ksm_merging_pages")]

    def look():
        return (os.listdir(ksmfs / "domains"), os.listdir(ksmfs / "proc"), text_of(ksmfs / "domains/u65534/run"),
                [text_of(ksmfs / path) for path in foreign], [os.path.exists(ksmfs / path) for path in foreign],
                text_of(ksmfs / "run"), os.access(ksmfs / "run", os.W_OK))

    for _ in range(2):  # what root looked up in between is not there for others
        assert ask_as(NOBODY, look) == (["u65534"], [pids["u65534"]], "1\n", ["ENOENT"] * 7, [False] * 7, "1\n",
                                        False)
        assert [text_of(ksmfs / path) for path in foreign[1:3]] == ["1\n", "0\n"]
    assert ask_as(4711, look)[:3] == ([], [], "ENOENT")


def test_totals_are_their_own(ksmfs, compiled):
    merged_program(ksmfs.daemon, compiled)
    assert int(ksmfs.get("pages_sharing")) > 1000
    assert ask_as(NOBODY, lambda: text_of(ksmfs / "pages_sharing")) == "0\n"
    assert ask_as(NOBODY, lambda: text_of(ksmfs / "pages_scanned")) == "0\n"
    with open(ksmfs / "pages_sharing", encoding="ascii") as file:  # who opened it counts, as with any file
        assert int(ask_as(NOBODY, lambda: file.read())) > 1000


def test_k13_a_write_of_2_unmerges_before_it_returns(ksmfs, compiled):
    """Of everything, and in domains/ of that domain."""
    programs = [ksmfs.daemon.run(compiled("x_rows"), "hold") for _ in range(2)]
    for program in programs:
        program.area = program.region()
        ksmfs.daemon.wait_merged(program, program.area)
    for folder in ("", "domains/u0/"):
        ksmfs.set(f"{folder}run", "2\n")
        assert [ksmfs.daemon.merged_pages(program, program.area) for program in programs] == [0, 0]
        assert [ksmfs.get(folder + key) for key in ("run", "pages_shared", "pages_sharing")] == ["2", "0", "0"]
        ksmfs.set(f"{folder}run", "1")
        for program in programs:
            ksmfs.daemon.wait_merged(program, program.area)


def test_domain_has_values_of_its_own(ksmfs, agents):
    agents += [Agent(ksmfs.daemon.socket, NOBODY), Agent(ksmfs.daemon.socket, OTHER, domain=b"web")]
    ksmfs.set("domains/u65534/max_kernel_pages", "5\n")
    ksmfs.set("domains/u65534/run", "0")
    assert ksmfs.get("domains/u65534/max_kernel_pages") == "5" and ksmfs.get("domains/u65534/run") == "0"
    assert ksmfs.get("domains/u12345:web/max_kernel_pages") == "0" and ksmfs.get("run") == "1"
    assert failed(lambda: ksmfs.set("domains/u65534/run", "3")) == "EINVAL"
    assert failed(lambda: ksmfs.set("domains/u65534/pages_to_scan", "3")) == "ENOTSUP"
    assert ask_as(NOBODY, lambda: text_of(ksmfs / "domains/u65534/max_kernel_pages")) == "5\n"
    assert {p.name for p in (ksmfs / "domains/u65534").iterdir()} == \
        {p.name for p in ksmfs.path.iterdir() if p.is_file()}


def test_odd_names_of_domains(ksmfs, agents):
    names = {b"..": "u65534:..", b"-": "u65534:-", b"x" * 31: "u65534:" + "x" * 31}
    agents += [Agent(ksmfs.daemon.socket, NOBODY, domain=name) for name in names]
    assert sorted(os.listdir(ksmfs / "domains")) == sorted(names.values())
    for name in names.values():
        assert ksmfs.get(f"domains/{name}/run") == "1"
    for name in ("u65534", "u65534:", "u65534:" + "x" * 32, "x" * 255, "%", " ", "\udcff", '"', "\\"):
        assert text_of(ksmfs / "domains" / name / "run") == "ENOENT"


def test_process(ksmfs, compiled):
    """proc/PID/ of a merged process, as /proc/PID has it."""
    program = merged_program(ksmfs.daemon, compiled)
    ksmfs.set("run", "0")
    folder = ksmfs / f"proc/{program.pid}"
    assert sorted(os.listdir(folder)) == ["ksm_merging_pages", "ksm_stat"]
    with open(folder / "ksm_stat", encoding="ascii") as file:
        stat = dict(line.split(" ") for line in file.read().splitlines())
        told = control.ask(ksmfs.daemon, "process", pid=program.pid)
        assert list(stat) == STAT and 0 < int(stat["ksm_merging_pages"]) <= int(stat["ksm_rmap_items"])
        assert stat["ksm_merge_any:"] in ("yes", "no") and stat["ksm_mergeable:"] in ("yes", "no")
        assert int(stat["ksm_rmap_items"]) == told["ksm_rmap_items"]
        assert list(stat) == [line.split()[0] for line in open("/proc/self/ksm_stat", encoding="ascii")]
        assert text_of(folder / "ksm_merging_pages") == stat["ksm_merging_pages"] + "\n"
        assert failed(lambda: open(folder / "ksm_stat", "w", encoding="ascii")) == "EACCES"
        program.popen.kill()
        wait_for("it stays", lambda: str(program.pid) not in os.listdir(ksmfs / "proc"))
        file.seek(0)
        assert failed(file.read) == "ESRCH"
    for pid in (program.pid, os.getpid(), 0, -1, "self", "01", "99999999", "1x"):
        assert text_of(ksmfs / f"proc/{pid}/ksm_stat") == "ENOENT"


def test_file_of_a_domain_that_goes(ksmfs, agents):
    agents += [Agent(ksmfs.daemon.socket, NOBODY)]
    with open(ksmfs / "domains/u65534/run", "r+b", buffering=0) as file:
        assert file.read(9) == b"1\n"
        agents.pop().close()
        wait_for("it stays", lambda: os.listdir(ksmfs / "domains") == [])
        assert failed(lambda: os.pread(file.fileno(), 9, 0)) == "ENODEV"
        assert failed(lambda: os.write(file.fileno(), b"1")) == "ENODEV"


@pytest.fixture
def user(make_daemon):
    """user(words of a shell): run by a user with a daemon of their own, where /dev/fuse is everybody's as udev
    makes it."""
    place.need_root()
    if not shutil.which("fusermount3"):
        pytest.skip("fusermount3 is not installed")
    namespace = OverSysfs(make_daemon(uid=NOBODY).start())
    folder = namespace.daemon.directory
    os.mknod(folder / "fuse", 0o666 | stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    os.chmod(folder / "fuse", 0o666)
    namespace.run("mount", "--bind", folder / "fuse", "/dev/fuse")

    def run(words, uid=NOBODY, **how):
        return namespace.run("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "sh", "-c",
                             f"cd {folder}; PATH={namespace.samepage.parent}:$PATH; {words}", **how)

    run.daemon = namespace.daemon
    yield run
    namespace.close()


def test_user_mounts_their_own_daemons(user):
    """And nobody else reaches it, root neither; it can be taken away after its server died."""
    shown = user("mkdir ksm; samepage mount ksm && cat ksm/run && echo 0 > ksm/run && cat ksm/run && "
                 "ls ksm/domains").stdout
    assert shown == "1\n0\n"
    for uid in (0, OTHER):
        assert "denied" in user("cat ksm/run", uid=uid, check=False).stderr
    assert "already" in user("samepage mount ksm", check=False).stderr
    for pid in servers(user.daemon):
        os.kill(pid, signal.SIGKILL)
    no_server(user.daemon)
    assert "not connected" in user("cat ksm/run", check=False).stderr
    assert user("samepage mount ksm && cat ksm/run").stdout == "0\n"
    assert user("samepage umount ksm && ls -A ksm").stdout == ""
    for place_of_others in ("/etc", "--over-sysfs"):
        assert user(f"samepage mount {place_of_others}", check=False).returncode == 1
    assert user("samepage umount /etc", check=False).returncode == 1
