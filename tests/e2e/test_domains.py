# SPDX-License-Identifier: Apache-2.0
"""Nothing is shared across domains: not between two users with the same data in memory, not between
two domains of one user; and nobody gets at a frame of another user."""

import ctypes
import errno
import os
import pathlib

import pytest

from lib import fake_agent, place
from lib.place import wait_for
from lib.users import Agent, ask_as

NOBODY, OTHER = 65534, 12345
PAGES = 2048  # of programs/x_rows.c


@pytest.fixture
def daemon(make_daemon, tmp_path):
    """Root's daemon, which passes userfaultfd to both users."""
    place.need_root()
    place.need_kernel_6_8()
    if not pathlib.Path("/dev/userfaultfd").exists():
        place.need_userfaultfd()
    path = tmp_path / "samepaged.conf"
    path.write_text(f"[users]\nuserfaultfd = {NOBODY}, {OTHER}\n")
    path.chmod(0o644)
    daemon = make_daemon(options=["--config", path]).start()
    daemon.set_full_speed()
    return daemon


def start(daemon, compiled, uid, *flags):
    program = daemon.plain(daemon.build / "samepage", "run", "--all", *flags, "--",
                           compiled("x_rows"), "hold", uid=uid)
    program.name, program.uid = "x_rows", uid
    program.area = program.region()
    return program


def frames(program):
    """(device, inode, page of the file) of every frame that the program maps, and of every segment
    that its agent maps: pages are None there."""
    found, first, size = set(), program.area[0], program.area[1]
    for pid in [program.pid, *program.agents()]:
        for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
            where, mode, offset, device, inode = line.split()[:5]
            begin, end = (int(x, 16) for x in where.split("-"))
            if mode[3] == "s" and inode != "0" and device != "00:01":
                found.add((device, inode, None))
            elif inode != "0" and first <= begin and end <= first + size:
                found |= {(device, inode, (int(offset, 16) + at) // 4096)
                          for at in range(0, end - begin, 4096)}
    return found


def files(program):
    return {(device, inode) for device, inode, _ in frames(program)}


def test_two_users_with_the_same_data(daemon, compiled):
    """Four programs with the same pages: each two share, the other two have frames of their own."""
    programs = [start(daemon, compiled, uid) for uid in (NOBODY, OTHER, NOBODY, OTHER)]
    for program in programs:
        daemon.wait_merged(program, program.area, share=1.0)
    daemon.wait()
    both = {NOBODY: programs[0::2], OTHER: programs[1::2]}
    for a in both[NOBODY]:
        for b in both[OTHER]:
            assert files(a) and files(b) and not files(a) & files(b)
    for uid, (a, b) in both.items():
        assert len(frames(a) & frames(b)) >= PAGES, "one user's programs do share"
        status = [int(daemon.cli("get", key, uid=uid).stdout)
                  for key in ("pages_shared", "pages_sharing", "domains", "processes")]
        assert PAGES <= status[0] <= 1.2 * PAGES, status
        assert status[2:] == [1, 2]
    total = daemon.status()
    assert total["domains"] == 2 and total["pages_shared"] >= 2 * PAGES, total
    # Each content once for each user: had one been shared across, this would be three times.
    assert total["pages_sharing"] <= 2 * 1.2 * PAGES, total
    for program in programs:
        program.say()
        program.must_finish(0)


def test_two_domains_of_one_user(daemon, compiled):
    programs = [start(daemon, compiled, NOBODY, *flags) for flags in
                (["--domain", "a"], ["--domain", "b"], ["--domain", "a"], [], ["--domain", "b"], [])]
    for program in programs:
        daemon.wait_merged(program, program.area, share=1.0)
    for i, a in enumerate(programs):
        for k, b in enumerate(programs[:i]):
            same = {i, k} in ({0, 2}, {1, 4}, {3, 5})
            assert bool(files(a) & files(b)) == same, (i, k)
    names = {daemon.ps(program.pid)["domain"] for program in programs}
    assert names == {f"u{NOBODY}:a", f"u{NOBODY}:b", f"u{NOBODY}"}
    for program in programs:
        program.say()
        program.must_finish(0)


def read_of(pid, address):
    """What process_vm_readv says: the bytes, or the error's number."""
    class Iovec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(64)
    local, remote = Iovec(ctypes.addressof(buffer), 64), Iovec(address, 64)
    n = libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return buffer.raw[:n] if n >= 0 else ctypes.get_errno()


def everything_of(pids, address):
    """All that a stranger can try with /proc: what he got."""
    got = []
    for pid in pids:
        for folder in ("fd", "map_files", "task"):
            try:
                for name in os.listdir(f"/proc/{pid}/{folder}"):
                    if folder != "task":
                        got.append(os.open(f"/proc/{pid}/{folder}/{name}", os.O_RDONLY))
            except PermissionError:
                pass
        for name in ("mem", "maps", "smaps", "pagemap", "environ"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    file.seek(address if name == "mem" else 0)
                    got.append(file.read(10))
            except OSError:
                pass
        if read_of(pid, address) != errno.EPERM:
            got.append("process_vm_readv")
        try:
            os.close(os.pidfd_open(pid))
        except OSError:
            pass
    return got


def test_no_way_to_another_users_frames(daemon, compiled):
    """/proc of the program, its agent, the daemon and the keeper."""
    programs = [start(daemon, compiled, NOBODY) for _ in range(2)]
    for program in programs:
        daemon.wait_merged(program, program.area)
    keepers = [p.pid for p in daemon.left(keeper=True) if b"--keeper" in p.cmdline.split(b"\0")]
    assert keepers
    pids = [programs[0].pid, *programs[0].agents(), daemon.pid, *keepers]
    assert ask_as(OTHER, lambda: everything_of(pids, programs[0].area[0])) == []
    for program in programs:
        program.say()
        program.must_finish(0)


def hello(path, **body):
    """The answer to a HELLO with that body: (type, text)."""
    uffd = os.open("/dev/null", os.O_RDONLY) if body.pop("no_uffd", False) else USERFAULTFD[0]
    sock = fake_agent.connect(path)
    fake_agent.send_fd(sock, fake_agent.packet(fake_agent.HELLO, fake_agent.hello_body(**body)), uffd)
    kind, _, text, fd = fake_agent.receive(sock)
    if fd is not None:
        os.close(fd)
    return kind, text.split(b"\0")[0].decode(errors="replace")


USERFAULTFD = []


def test_hello_in_another_users_name(daemon, compiled):
    """With the pid of another user's program, with names of their domains, or with no userfaultfd."""
    program = start(daemon, compiled, NOBODY)
    wait_for("not joined", lambda: daemon.ps(program.pid))
    USERFAULTFD[:] = [fake_agent.userfaultfd()]
    try:
        for pid in (program.pid, program.agents()[0], daemon.pid, 1, os.getpid()):
            kind, text = ask_as(OTHER, lambda: hello(daemon.socket, pid=pid))
            assert kind == fake_agent.REFUSE and "does not share the memory" in text
        for name in (b"u65534:", b"u65534:a", b":", b"a:b", b"../u65534", b"a" * 32, b"a b",
                     b"a/b", b"\xff", b"%s", b"\n"):
            kind, text = ask_as(OTHER, lambda: hello(daemon.socket, domain=name))
            assert kind == fake_agent.REFUSE, name
        kind, text = ask_as(OTHER, lambda: hello(daemon.socket, no_uffd=True))
        assert kind == fake_agent.REFUSE and "userfaultfd" in text
    finally:
        os.close(USERFAULTFD.pop())
    assert [p["pid"] for p in [daemon.ps(program.pid)]] == [program.pid]
    assert daemon.status("processes") == 1
    program.say()
    program.must_finish(0)


def test_a_domain_with_another_users_name(daemon):
    """The name u65534 is a domain of one's own."""
    agents = [Agent(daemon.socket, NOBODY, pages={0x10000: b"x" * 4096, 0x20000: b"x" * 4096}),
              Agent(daemon.socket, OTHER, pages={0x10000: b"x" * 4096, 0x20000: b"x" * 4096},
                    domain=b"u65534")]
    assert [agent.said for agent in agents] == ["welcome"] * 2
    assert daemon.ps(agents[0].pid)["domain"] == f"u{NOBODY}"
    assert daemon.ps(agents[1].pid)["domain"] == f"u{OTHER}:u{NOBODY}"
    wait_for(lambda: daemon.status(), lambda: daemon.status("pages_sharing") == 2)
    assert daemon.status("pages_shared") == 2, "a frame for each"
    for agent in agents:
        agent.close()
