# SPDX-License-Identifier: Apache-2.0
"""Who waits for a daemon that does not answer keeps nobody else from its files."""

import errno
import json
import os
import select
import signal
import socket
import threading
import time

import pytest

from lib import place
from lib.place import wait_for

WRITERS = 32  # KSMFS_WRITERS_MAX


class SomeAnswers:
    """In the daemon's place: answers all but what withholds() says, which waits until close()."""

    def __init__(self, path):
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(256)
        self.withholds = lambda request: False
        self.waiting = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        conns = []
        while True:
            for ready in select.select([self.listener, *conns], [], [])[0]:
                try:
                    if ready is self.listener:
                        conns.append(self.listener.accept()[0])
                        continue
                except OSError:
                    return
                self.answer(ready)
                conns.remove(ready)

    def answer(self, conn):
        request = json.loads(conn.recv(65536) or "{}")
        if self.withholds(request):
            self.waiting.append(conn)
            return
        conn.send(json.dumps({"ok": True, "value": "1"}).encode())
        conn.close()

    def close(self):
        if self.listener.fileno() < 0:
            return
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()
        for conn in self.waiting:
            conn.close()


@pytest.fixture
def answers(ksmfs):
    ksmfs.daemon.stop()
    fake = SomeAnswers(ksmfs.daemon.socket)
    yield fake
    fake.close()
    ksmfs.daemon.socket.unlink()
    ksmfs.daemon.start()


class Call(threading.Thread):
    """A system call that may wait: what it returned, or its error."""

    def __init__(self, function):
        super().__init__(daemon=True)
        self.function, self.said = function, None
        self.start()

    def run(self):
        try:
            self.said = self.function()
        except OSError as error:
            self.said = errno.errorcode[error.errno]

    def result(self):
        self.join(place.patient(60))
        assert not self.is_alive(), "it waits still"
        return self.said


def test_waiting_writers_leave_room_for_readers(ksmfs, answers):
    """More than may: of run 2 of many domains."""
    answers.withholds = lambda request: request["op"] == "set"
    files = [os.open(ksmfs / f"domains/u0:d{i}/run", os.O_RDWR) for i in range(WRITERS + 8)]
    writers = [Call(lambda fd=fd: os.write(fd, b"2")) for fd in files]
    wait_for(lambda: f"{len(answers.waiting)} wait", lambda: len(answers.waiting) == WRITERS and
             sum(not w.is_alive() for w in writers) == 8)
    assert sorted(str(w.said) for w in writers) == ["EAGAIN"] * 8 + ["None"] * WRITERS
    for _ in range(3):
        assert Call(lambda: os.pread(files[0], 9, 0)).result() == b"1\n"
        assert Call(lambda: ksmfs.get("pages_shared")).result() == "1"
    answers.close()
    assert sorted(w.result() for w in writers) == ["EAGAIN"] * 8 + ["EIO"] * WRITERS
    for fd in files:
        os.close(fd)


def test_a_reader_that_waits_keeps_no_other_of_the_same_file_waiting(ksmfs, answers):
    fd = os.open(ksmfs / "pages_shared", os.O_RDONLY)
    answers.withholds = lambda request: not answers.waiting
    first = Call(lambda: os.pread(fd, 9, 0))
    wait_for("it does not ask", lambda: answers.waiting)
    assert Call(lambda: os.pread(fd, 9, 0)).result() == b"1\n"
    assert first.is_alive()
    answers.waiting.pop().close()
    assert first.result() == "EIO"
    os.close(fd)


@pytest.mark.skipif(not place.LONG, reason="waits for a minute and a half (SAMEPAGE_TEST_LONG=1)")
def test_a_daemon_that_answers_nobody_is_not_waited_for(ksmfs):
    """Neither by a reader nor by writers, of run 2, too, which takes as long as it takes while it answers others."""
    run, pages = (os.open(ksmfs / name, os.O_RDWR) for name in ("run", "pages_to_scan"))
    ksmfs.daemon.popen.send_signal(signal.SIGSTOP)
    try:
        calls = [Call(lambda: os.write(run, b"2")), Call(lambda: os.write(pages, b"7")),
                 Call(lambda: os.pread(run, 9, 0))]
        for call in calls:
            call.join(place.patient(120))
        assert [call.said for call in calls] == ["EIO"] * 3
    finally:
        ksmfs.daemon.popen.send_signal(signal.SIGCONT)
        os.close(run)
        os.close(pages)


@pytest.mark.skipif(not place.LONG, reason="waits for more than half a minute (SAMEPAGE_TEST_LONG=1)")
def test_run_2_is_waited_for_while_the_daemon_answers_others(ksmfs, answers):
    answers.withholds = lambda request: request["op"] == "set"
    writer = Call(lambda: ksmfs.set("run", "2"))
    time.sleep(70)  # twice as long as anybody waits for a daemon that answers nobody, and some more
    assert writer.is_alive()
    answers.waiting[0].send(b'{"ok":true}')
    assert writer.result() is None
