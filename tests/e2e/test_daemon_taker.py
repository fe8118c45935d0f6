# SPDX-License-Identifier: Apache-2.0
"""A client may send any descriptor, and who closes it, or throws it away, can be made to wait for ever: the daemon
never does (src/daemon/taker.h)."""

import os
import signal
import subprocess
import sys

import pytest

from lib import place, proc
from lib.place import wait_for
from lib.slow_file import slow_file  # noqa: F401
from test_daemon_hostile import end, still_answers, two_equal

NOBODY = 65534
SENDER = place.HERE / "programs" / "sends_descriptor.py"


@pytest.fixture
def send(daemon):
    """send(when, what): a process that did."""
    senders = []

    def start(when, what, **how):
        sender = subprocess.Popen([sys.executable, "-B", SENDER, daemon.socket, when, what], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True, **how)
        senders.append(sender)
        assert sender.stdout.readline() == "ready\n"
        os.kill(daemon.pid, signal.SIGSTOP)  # so that the sender is not the last who has it
        sender.stdin.write("\n")
        sender.stdin.flush()
        assert sender.stdout.readline() == "sent\n"
        os.kill(daemon.pid, signal.SIGCONT)

    yield start
    for sender in senders:
        sender.kill()  # it ends when its file is flushed: slow_file is taken down after this
        sender.stdin.close()
        sender.stdout.close()


def takers(daemon):
    return [p.pid for p in proc.all_processes() if p.cmdline.startswith(b"samepaged\0--taker")
            and p.ppid == daemon.pid]


def others_are_merged(daemon):
    children = two_equal(daemon)
    wait_for(lambda: f"not merged: {daemon.status()}", lambda: daemon.status("pages_sharing") == 8)
    end(children)


WHEN = pytest.mark.parametrize("when", ["hello", "request", "answer", "unread"])


@WHEN
def test_descriptors_whose_flush_takes_for_ever(daemon, slow_file, send, when):
    send(when, slow_file)
    still_answers(daemon)
    others_are_merged(daemon)


@WHEN
def test_descriptors_that_linger(daemon, send, when):
    """Nor does it wait for what it throws away."""
    send(when, "linger")
    still_answers(daemon)
    others_are_merged(daemon)
    wait_for(lambda: f"takers are left: {takers(daemon)}", lambda: len(takers(daemon)) <= 1)


def test_a_user_has_few_that_hang(daemon, slow_file, send):
    """More are refused, so that there are takers for others; when they end, he is served again."""
    for _ in range(3):
        send("hello", slow_file, user=NOBODY, group=NOBODY)
        still_answers(daemon)
    wait_for(lambda: f"not two: {takers(daemon)}, {daemon.log()}", lambda: daemon.log().count("is given up") == 2)
    send("hello", slow_file, user=NOBODY, group=NOBODY)
    others_are_merged(daemon)
    assert daemon.log().count("is given up") == 2 and len(takers(daemon)) <= 3


def test_one_taker_takes_what_is_in_order(daemon, compiled):
    """Who comes next does not wait for another one to be started."""
    found = set()
    for _ in range(4):
        program = daemon.run(compiled("rewrites"), 64)
        wait_for("not joined", lambda p=program: f" {p.pid} " in daemon.cli("ps").stdout)
        found |= {*takers(daemon)}
    assert len(found) == 1, found
