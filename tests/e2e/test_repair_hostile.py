# SPDX-License-Identifier: Apache-2.0
"""D2, Trust: the repair after an agent's death reads the memory of a program that may be hostile:
it gets nothing that is not its own, and holds nobody up."""

import ctypes
import mmap
import os
import shutil
import struct
import time

import pytest

from lib import fake_agent as fa, place
from lib.place import wait_for

NOBODY = 65534
PAGES = 64
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]


def fresh(pages):
    """Address of so many new pages."""
    return libc.mmap(None, pages * fa.PAGE, mmap.PROT_READ | mmap.PROT_WRITE, ANONYMOUS, -1, 0)


def uffd_ioctl(uffd, number, size, *words):
    """An ioctl of userfaultfd; its errno, or 0."""
    arg = ctypes.create_string_buffer(struct.pack(f"<{len(words)}Q", *words), 8 * len(words))
    request = (3 << 30) | (size << 16) | (0xaa << 8) | number
    return ctypes.get_errno() if libc.ioctl(uffd, request, arg) < 0 else 0


def registered_uffd(address, pages, features=0, mode=1):
    uffd = libc.syscall(fa.SYS_USERFAULTFD, os.O_CLOEXEC)  # the kernel waits for its pages, too
    assert uffd_ioctl(uffd, 0x3f, 24, 0xaa, features, 0) == 0
    assert uffd_ioctl(uffd, 0x00, 32, address, pages * fa.PAGE, mode, 0) == 0
    return uffd


def say_hello(path, uffd):
    """The connection, and the shared memory."""
    sock = fa.connect(path)
    fa.send_fd(sock, fa.packet(fa.HELLO, fa.hello_body()), uffd)
    kind, _, body, fd = fa.receive(sock)
    assert kind == fa.WELCOME, body
    return sock, mmap.mmap(fd, struct.unpack("<QIIQ", body)[2])


def answer_scan(sock):
    _, seq, _, _ = fa.receive(sock)
    sock.send(fa.packet(fa.SCAN, fa.REPORT.pack(*[0] * 15), seq))


def write_journal(shm, pages, address, staging):
    shm[:24] = struct.pack("<IIQQ", 1, pages, address, staging)


def in_use(pid, address):
    with open(f"/proc/{pid}/pagemap", "rb") as f:
        f.seek(address // mmap.PAGESIZE * 8)
        return struct.unpack("<Q", f.read(8))[0] >> 63 & 1


def stack_page(pid):
    with open(f"/proc/{pid}/maps", encoding="utf-8") as f:
        for line in f:
            if line.rstrip().endswith("[stack]"):
                return int(line.split("-")[1].split()[0], 16) - fa.PAGE
    return None


def test_memory_of_a_set_user_id_program_goes_nowhere(daemon):
    """A user's client execs a program with more rights and lets its agent die: what the program has
    in its memory does not come to the user."""
    place.need_root()
    place.need_userfaultfd()
    setuid = daemon.directory / "setuid"
    shutil.copy(shutil.which("sleep"), setuid)
    setuid.chmod(0o4755)
    loot = fresh(1)
    uffd = registered_uffd(loot, 1)  # of this process, not of the client
    ready, go, where = os.pipe(), os.pipe(), os.pipe()
    program = os.fork()
    if not program:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        libc.prctl(4, 1, 0, 0, 0)  # dumpable again
        sock, shm = say_hello(daemon.socket, uffd)
        if os.fork():
            sock.close()
            os.read(go[0], 1)
            os.execv(setuid, ["setuid", "60"])
        answer_scan(sock)
        os.write(ready[1], b"+")
        staging, = struct.unpack("<Q", os.read(where[0], 8))
        write_journal(shm, 1, loot, staging)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        os.write(go[1], b"+")
        wait_for("no exec", lambda: os.readlink(f"/proc/{program}/exe") == str(setuid), 10)
        staging = wait_for("no stack", lambda: stack_page(program))
        assert os.stat(f"/proc/{program}/mem").st_uid == 0, "the system ignores set-user-id here"
        os.write(where[1], struct.pack("<Q", staging))
        time.sleep(2.5)  # an attempt at once, and two more
        assert not in_use(os.getpid(), loot), "the daemon handed out memory of another user's"
    finally:
        os.kill(program, 9)
        os.waitpid(program, 0)
        os.close(uffd)
    wait_for(lambda: "its record is left", lambda: daemon.ps(program) is None, 5)


def trap(pages):
    """Address of pages that a pagemap shows as swapped out, and whose reader waits for ever: each
    is only a mark of write protection, and missing."""
    address = fresh(pages)
    uffd = registered_uffd(address, pages, features=1 << 13, mode=3)
    assert uffd_ioctl(uffd, 0x06, 24, address, pages * fa.PAGE, 1) == 0
    return address


@pytest.mark.alone  # it measures how long answers take
def test_a_program_that_traps_the_repair_holds_nobody_up(daemon):
    """Pages in staging that seem to be there, and make the reader wait."""
    place.need_userfaultfd()
    program = os.fork()
    if not program:
        staging, lost = trap(PAGES), fresh(PAGES)
        given = registered_uffd(lost, PAGES)
        sock, shm = say_hello(daemon.socket, given)
        if not os.fork():
            answer_scan(sock)
            write_journal(shm, PAGES, lost, staging)
            time.sleep(0.3)
            os._exit(0)
        sock.close()
        time.sleep(60)
        os._exit(0)
    try:
        time.sleep(1)
        took = []
        for _ in range(30):
            began = time.monotonic()
            try:
                assert daemon.cli("status", "--json").returncode == 0
            except pytest.fail.Exception:
                pytest.fail("the daemon waits for a page of a program")
            took.append(time.monotonic() - began)
            time.sleep(0.1)
        assert sorted(took)[len(took) // 2] < 1, took
    finally:
        os.kill(program, 9)
        os.waitpid(program, 0)
    wait_for(lambda: "its record is left", lambda: daemon.ps(program) is None, 5)
