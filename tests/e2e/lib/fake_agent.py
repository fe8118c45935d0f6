# SPDX-License-Identifier: Apache-2.0
"""An agent in Python, for tests of the daemon: honest where it is not told to lie. It maps nothing;
it only says so. src/common/wire.h is what it speaks."""

import array
import ctypes
import ctypes.util
import mmap
import os
import platform
import socket
import struct

from lib.place import PATIENCE, patient

MAGIC, VERSION = 0x31475053, 6
(HELLO, WELCOME, REFUSE, SEGMENT, DROP_SEGMENT, SITES, SCAN, FILL, MERGE, UNMERGE, QUIT,
 DONE) = range(1, 13)
ZEROED = 16
PAGE = mmap.PAGESIZE
OFFER = 65536
FILL_PAGES = 128
REPORT = struct.Struct("<9QII4I")
SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}[platform.machine()]


class _Hash128(ctypes.Structure):
    _fields_ = [("lo", ctypes.c_uint64), ("hi", ctypes.c_uint64)]


_libc = ctypes.CDLL(None, use_errno=True)
_xxhash = ctypes.CDLL("libxxhash.so.0")
_xxhash.XXH3_128bits_withSeed.restype = _Hash128
_xxhash.XXH3_128bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


def page_hash(page, seed):
    h = _xxhash.XXH3_128bits_withSeed(page, len(page), seed)
    return h.lo, h.hi


def userfaultfd():
    fd = _libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | 1)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    return fd


def connect(path, timeout=PATIENCE):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(path))  # waits where the backlog is full
    sock.settimeout(patient(timeout))
    return sock


def packet(kind, body=b"", seq=0, magic=MAGIC, version=VERSION, length=None):
    length = len(body) if length is None else length
    return struct.pack("<IHHII", magic, version, kind, seq, length) + body


def hello_body(pid=None, flags=0, page=PAGE, wait_page=0, domain=b"", comm=b"fake"):
    return struct.pack("<IIIIQ32s16s", os.getpid() if pid is None else pid, flags, page, 0,
                       wait_page, domain, comm)


def send_fd(sock, data, fd):
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


def receive(sock):
    """(type, seq, body, fd or None); (None, 0, b"", None) at the end."""
    data, control, _, _ = sock.recvmsg(131072, socket.CMSG_SPACE(4))
    fd = None
    for level, kind, value in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fd = struct.unpack("<i", value[:4])[0]
    if not data:
        return None, 0, b"", None
    magic, version, kind, seq, length = struct.unpack_from("<IHHII", data)
    assert (magic, version, length) == (MAGIC, VERSION, len(data) - 16)
    return kind, seq, data[16:], fd


class FakeAgent:
    """pages: {address: bytes}. lie: {question type: function(agent, seq, body) -> packet, or None
    for no answer}."""

    def __init__(self, path, pages=None, lie=None, domain=b"", flags=0):
        self.pages, self.lie = dict(pages or {}), lie or {}
        self.sites, self.segments, self.reported = {}, {}, set()
        self.sock = connect(path)
        uffd = userfaultfd()
        send_fd(self.sock, packet(HELLO, hello_body(domain=domain, flags=flags)), uffd)
        os.close(uffd)
        kind, _, body, fd = receive(self.sock)
        if kind == REFUSE:
            raise PermissionError(body.split(b"\0")[0].decode())
        self.seed, self.id, size, self.pool = struct.unpack("<QIIQ", body)
        self.shm = mmap.mmap(fd, size)
        os.close(fd)

    def report(self, hashes=(), next_=0, looked=None, **other):
        head = dict(tracked=len(self.pages), passed=0, waiting=0, merged=len(self.sites), cpu=0,
                    kept=0, useless=0, mappings=len(self.sites), budget=1000, nchanged=0, ngone=0)
        head.update(other)
        npages = head.get("npages", len(hashes))
        return REPORT.pack(next_, head["tracked"], len(hashes) if looked is None else looked,
                           head["passed"], head["waiting"], head["merged"], head["cpu"],
                           head["kept"], head["useless"], head["mappings"], head["budget"], npages,
                           head["nchanged"], head["ngone"], 0) + b"".join(
                               struct.pack("<QQQ", a, *h) for a, h in hashes)

    def _scan(self, body):
        start, budget, _, flags, _ = struct.unpack_from("<QIIII", body)
        if flags & 1:
            self.reported.clear()
        new = [a for a in sorted(self.pages) if a >= start and a not in self.reported
               and a not in self.sites][:budget]
        self.reported.update(new)
        return SCAN, self.report([(a, page_hash(self.pages[a], self.seed)) for a in new])

    def _fill(self, body):
        n, = struct.unpack_from("<I", body)
        ok = 0
        for i, addr in enumerate(struct.unpack_from(f"<{n}Q", body, 8)):
            page = self.pages.get(addr)
            if page is not None:
                self.shm[OFFER + i * PAGE:OFFER + (i + 1) * PAGE] = page
                ok |= 1 << i
        return FILL, ok.to_bytes(FILL_PAGES // 8, "little")

    def _merge(self, body):
        nruns, npages = struct.unpack_from("<II", body)
        result = bytearray()
        for r in range(nruns):
            addr, segment, index, n, _ = struct.unpack_from("<QIIII", body, 8 + r * 24)
            for i in range(n):
                a = addr + i * PAGE
                same = a in self.pages and self.frame(segment, index + i) == self.pages[a]
                if same:
                    self.sites[a] = (segment, index + i)
                result.append(0 if same else 1)
        assert len(result) == npages
        return MERGE, struct.pack("<II", npages, len(self.sites)) + bytes(result)

    def frame(self, segment, index):
        return os.pread(self.segments[segment], PAGE, index * PAGE)

    def _unmerge(self, body):
        start, end, _, _ = struct.unpack("<QQII", body)
        gone = [a for a in self.sites if start <= a < end]
        for a in gone:
            del self.sites[a]
        return UNMERGE, struct.pack("<iIQQ", 0, len(self.sites), 0, len(gone))

    def _sites(self, body):
        runs = b"".join(struct.pack("<QIIII", a, s, i, 1, 0)
                        for a, (s, i) in sorted(self.sites.items()))
        return SITES, struct.pack("<QII", 0, len(self.sites), 0) + runs

    def _zeroed(self, body):
        return ZEROED, struct.pack("<QII", 0, 0, 0)

    def _segment(self, body, fd):
        self.segments[struct.unpack_from("<I", body)[0]] = fd
        return DONE, struct.pack("<iI", 0, 0)

    def _drop(self, body):
        os.close(self.segments.pop(struct.unpack_from("<I", body)[0]))
        return DONE, struct.pack("<iI", 0, 0)

    def answer_one(self):
        """Answers one question; False at the end of the connection."""
        kind, seq, body, fd = receive(self.sock)
        if kind is None:
            return False
        if kind in self.lie:
            lie = self.lie[kind](self, seq, body)
            if lie is not None:
                self.sock.send(lie)
            return True
        answer = {SCAN: self._scan, FILL: self._fill, MERGE: self._merge, UNMERGE: self._unmerge,
                  SITES: self._sites, ZEROED: self._zeroed, DROP_SEGMENT: self._drop,
                  QUIT: lambda _: (DONE, struct.pack("<iI", 0, 0))}.get(kind)
        kind, out = self._segment(body, fd) if kind == SEGMENT else answer(body)
        self.sock.send(packet(kind, out, seq))
        return True

    def serve(self):
        try:
            while self.answer_one():
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass


class Child:
    """Runs serve(path) of an agent in a process of its own, which is the program for the daemon."""

    def __init__(self, path, **how):
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            FakeAgent(path, **how).serve()
            status = 0
        except PermissionError:
            status = 3
        finally:
            os._exit(status)

    def wait(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
