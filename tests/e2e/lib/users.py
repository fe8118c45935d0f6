# SPDX-License-Identifier: Apache-2.0
"""Fake agents and other small children that run as another user."""

import ctypes
import os
import signal

from lib import fake_agent

PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def become(uid, groups=(), dumpable=1):
    """Gives up root for good, and may be looked into all the same, as a program that was started by
    that user; or not (dumpable 0)."""
    os.setgroups(groups)
    os.setgid(uid)
    os.setuid(uid)
    _libc.prctl(PR_SET_DUMPABLE, dumpable, 0, 0, 0)


def ask_as(uid, function, groups=()):
    """What function() returns, or the exception that it raises, in a child that runs as uid: anything
    that repr() and eval() take."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            become(uid, groups)
            try:
                answer = function()
            except OSError as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(theirs, repr(answer).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return eval(answer)  # pylint: disable=eval-used


class Agent:
    """A fake agent of another user, in a process of its own, which got its userfaultfd while it was
    root. said: "welcome", or why it was refused."""

    def __init__(self, path, uid, dumpable=1, **how):
        ours, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                uffd = fake_agent.userfaultfd()
                become(uid, dumpable=dumpable)
                fake_agent.userfaultfd = lambda: uffd
                try:
                    agent = fake_agent.FakeAgent(path, **how)
                    os.write(theirs, b"welcome")
                    os.close(theirs)
                    agent.serve()
                except OSError as error:
                    os.write(theirs, str(error).encode())
            finally:
                os._exit(0)
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            self.said = pipe.read().decode()

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
