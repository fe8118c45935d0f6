# SPDX-License-Identifier: Apache-2.0
"""Wrong keys, values, numbers and pids are refused with a message and exit status 1 or 2, and
change nothing (docs/control.md)."""

import json
import os
import socket

import pytest

KEYS = ("run", "pages_to_scan", "sleep_millisecs", "max_kernel_pages", "max_mappings")
NOBODY = 65534


def settings(daemon):
    return {key: daemon.get(key) for key in KEYS}


@pytest.fixture
def unchanged(daemon):
    """The daemon; afterwards its settings must be what they were, and it must be the same one."""
    before, pid = settings(daemon), daemon.status("daemon_pid")
    yield daemon
    assert settings(daemon) == before
    assert daemon.status("daemon_pid") == pid


def must_refuse(done, *statuses):
    assert done.returncode in statuses, f"{done.args[1:]}: {done.returncode} {done.stderr!r}"
    assert done.stdout == "" and done.stderr.startswith(("samepage:", "usage:")), (done.args[1:], done.stderr)


@pytest.mark.parametrize("what", [
    "nosuch=1", "run=3", "run=-1", "run=", "run", "=1", "run=1x", "run= 1", "run=0x1", "run=1.0",
    "run=99999999999999999999999", "pages_to_scan=4294967296",
    "pages_to_scan=-5", "sleep_millisecs=4294967296", "max_kernel_pages=18446744073709551616",
    "max_mappings=4294967296", "pages_shared=1", "full_scans=0", "run=1=2", "", "RUN=1",
    "x" * 3000 + "=1", "run=" + "1" * 3000, 'run="1"', "run=1\n", "run=\u0661"])
def test_set(unchanged, what):
    must_refuse(unchanged.cli("set", what, check=False), 2)


@pytest.mark.parametrize("args", [
    ("get", "nosuch"), ("get", ""), ("get",), ("set",), ("nosuch",), (), ("wait", "--timeout", "x"),
    ("unmerge", "abc"), ("unmerge", "-1"), ("unmerge", "0"), ("status", "--nosuch"),
    ("unmerge", "99999999999999999999"), ("run",), ("run", "--nosuch", "true"),
    ("run", "--domain", "x" * 100, "true")])
def test_command(unchanged, args):
    must_refuse(unchanged.cli(*args, check=False), 2)


def test_several_values_are_all_or_nothing(unchanged):
    """A wrong one among several, in whatever place."""
    done = unchanged.cli("set", "max_mappings=17", "nosuch=1", check=False)
    assert done.returncode == 2, done.stderr


@pytest.mark.parametrize("pid", [4194304, 2147483647, os.getpid()])
def test_unmerge_of_a_process_that_is_not_merged(unchanged, pid):
    must_refuse(unchanged.cli("unmerge", pid, check=False), 1, 2)


def test_another_user(unchanged, compiled):
    """Others may ask about processes of their own only: exit status 1, nothing changed."""
    program = unchanged.run(compiled("x_rows"), "hold")
    program.region()
    for args in (("set", "run=0"), ("unmerge", program.pid), ("off",)):
        must_refuse(unchanged.cli(*args, check=False, uid=NOBODY), 1)
    everything_of_his = unchanged.cli("unmerge", uid=NOBODY)
    assert "0 pages" in everything_of_his.stdout
    program.say()
    program.must_finish(0)


def ask(daemon, packet):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(60)
        s.connect(str(daemon.socket))
        try:
            s.send(packet)
            return s.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            return b""


@pytest.mark.parametrize("packet", [
    b"{", b"{}", b'{"op":5}', b'{"op":"set"}', b'{"op":"set","key":"run"}',
    b'{"op":"set","key":"run","value":7}', b'{"op":"set","key":["run"],"value":"1"}',
    b'{"op":"unmerge","pid":"812"}', b'{"op":"unmerge","pid":-1}', b'{"op":"unmerge","pid":1e99}',
    b'{"op":"nosuch"}', b'{"op":"status"} x', b'{"op":"status"' + b" " * 6000 + b"}",
    b'{"a":' * 500 + b"1" + b"}" * 500, b'{"op":"get","key":"\\u0000run"}', b'{"op":"\xff\xfe"}'])
def test_raw_request(unchanged, packet):
    """Requests that no command of ours makes: an error answer with exit 2, or the end of the
    connection."""
    answer = ask(unchanged, packet)
    if answer:
        answer = json.loads(answer)
        assert answer["ok"] is False and answer["exit"] in (1, 2) and answer["error"], answer


@pytest.mark.parametrize("packet", [b"x", b"[]", b"\0" * 16, b"SPG1" + b"\xff" * 60, b"SPG1" + b"\0" * 4,
                                    b"\x53\x50\x47\x31\x01\x00\x01\x00" + b"\xff" * 8,
                                    b"\x53\x50\x47\x31\x01\x00\x01\x00" + b"\0" * 80])
def test_raw_agent_message(unchanged, packet):
    """Bytes that are no HELLO: refused or hung up on."""
    answer = ask(unchanged, packet)
    assert not answer.startswith(b'{"ok":true'), answer
