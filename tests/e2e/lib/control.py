# SPDX-License-Identifier: Apache-2.0
"""The control protocol (docs/control.md) without a process for each command."""

import json
import socket

from lib import place


def answer_to(daemon, op, **what):
    """Of one request, on a connection of its own: the daemon ends those that are idle."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(120 * place.SLACK)
        s.connect(str(daemon.socket))
        s.send(json.dumps({"op": op, **what}).encode())
        return json.loads(s.recv(65536) or "{}")


def ask(daemon, op, **what):
    """The same, which must be granted."""
    answer = answer_to(daemon, op, **what)
    assert answer.get("ok"), f"{op} {what}: {answer}"
    return answer


def passes(daemon, n):
    """Waits until n passes began and ended. A setting wakes those that found nothing to do."""
    last = ask(daemon, "status")["full_scans"] + n + 1

    def done():
        ask(daemon, "set", key="sleep_millisecs", value="0")
        return ask(daemon, "status")["full_scans"] >= last

    place.wait_for(f"no {n} passes", done, 120, every=0.002)
