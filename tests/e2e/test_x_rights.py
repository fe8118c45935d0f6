# SPDX-License-Identifier: Apache-2.0
"""X: nothing reachable from a program has a right that the program gave up. The program drops root,
puts itself under a strict seccomp filter, and overwrites the code of its agent (which shares its
memory), so that the agent does what it can for it."""

import socket

import pytest

REFUSED = ('answer {"ok":false,"error":"an agent asks for nothing: its program may have given up '
           'rights","exit":1}')
# The agent of a program that gives up rights ends, so it may have ended in time; and it may be just
# then where its new code makes it crash. In the first milliseconds it must be no better prey.
DELAYS_MS = [0, 0, 1, 3, 10, 30, 50, 70, 90, 110, 130, 150, 170, 190]


@pytest.fixture
def roots(daemon):
    """A file and a socket that are root's alone."""
    file, path = daemon.directory / "root-only", daemon.directory / "root.sock"
    file.write_text("secret")
    file.chmod(0o600)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(8)
    yield file, path
    listener.close()


def attack(daemon, compiled, roots, when, delay):
    """The lines that the attacker prints."""
    program = daemon.run(compiled("x_rights", "-fno-stack-protector"), when, delay, *roots)
    if when != "early":
        program.region()
    if when == "late":
        daemon.wait()
    if when != "early":
        program.say()
    lines = [program.line()]
    while lines[-1] not in ("done", "gone"):
        lines.append(program.line())
    program.must_finish(0)
    return lines


@pytest.mark.parametrize("when", ["early", "late", "forked"])
def test_x_rights_given_up(daemon, compiled, roots, when):
    for delay in DELAYS_MS:
        lines = attack(daemon, compiled, roots, when, delay)
        if lines[-1] == "done":
            break
    assert lines[-1] == "done", "the agent was never taken over: nothing was tried"
    assert [line for line in lines if line.startswith("reached")] == []
    assert [line for line in lines if line.startswith("answer")] == [REFUSED]
    assert daemon.get("run") == "1"
    assert roots[0].read_text() == "secret"
