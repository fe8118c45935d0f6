# SPDX-License-Identifier: Apache-2.0
"""D1, D4 with a store: its processes are killed while there is no daemon, and all of samepage's in any order. Who touches
a frame reads its bytes, or can be killed; nothing is left when the programs are gone."""

import contextlib
import itertools
import os
import signal

import pytest

from lib import proc
from lib.place import A_SECOND, LONG, wait_for
from lib.store import store_daemon  # noqa: F401
from test_s_store import reclaim, start, store_process, tell_all

PARTS = "daemon", "keeper", "server", "worker"
# The worker last, or all but the worker: it is the one that waits for others.
ORDERS = [("daemon", "server"), ("daemon", "worker", "server"), ("server", "daemon", "keeper"),
          ("keeper", "server", "daemon", "worker")]
if LONG:
    ORDERS = [order for n in range(1, 5) for order in itertools.permutations(PARTS, n)]


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def keeper(daemon):
    """The pid of the daemon's own keeper."""
    own = f"SAMEPAGE_SOCKET={daemon.socket}".encode()
    found = [p.pid for p in proc.all_processes()
             if b"--keeper" in p.cmdline.split(b"\0") and own in p.environ.split(b"\0")]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("who", ["server", "worker", "both"])
def test_d1_killed_without_a_daemon(store_daemon, compiled, who):
    """The keeper starts the next ones, with which the next daemon goes on."""
    daemon = store_daemon()
    programs = start(daemon, compiled)
    shared = daemon.status("pages_shared")
    reclaim(daemon)
    daemon.kill()
    for _ in range(2):
        for each in ("server", "worker"):
            if who in (each, "both"):
                old = store_process(daemon, each)
                kill(old)
                wait_for(f"no new {each}", lambda: [p for p in daemon.left(keeper=True) if p.pid != old and
                                                    f"--store-{each}".encode() in p.cmdline.split(b"\0")])
        tell_all(programs, "check")
    daemon.start()
    wait_for(lambda: f"not taken over: {daemon.status()}", lambda: daemon.status("pages_shared") == shared)
    assert reclaim(daemon)["evicted"] > 0
    tell_all(programs, "check")
    assert daemon.status("store_errors") == 0


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_d4_killed_in_any_order(store_daemon, compiled, order):
    """While frames are touched, and the server has questions that it does not answer any more."""
    daemon = store_daemon()
    programs = start(daemon, compiled)
    pids = {"daemon": daemon.pid, "keeper": keeper(daemon),
            **{each: store_process(daemon, each) for each in ("server", "worker")}}
    reclaim(daemon)
    for program in programs:
        program.say("check")
    if "server" in order:
        os.kill(pids["server"], signal.SIGSTOP)
    for each in order:
        kill(pids[each])
    if "daemon" not in order:
        daemon.kill()
    for program in programs:
        program.kill()
    daemon.popen.wait()
    wait_for(lambda: f"left: {daemon.left(keeper=True)}", lambda: not daemon.left(keeper=True), A_SECOND)
