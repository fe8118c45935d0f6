# SPDX-License-Identifier: Apache-2.0
"""Checkers (programs/checker.c) that share pages while other things happen. What they wrote after a merge is
private for good, so they share less and less, however long a test takes."""

SHARED = 1000  # pages at least, at each kill


def start(daemon, compiled):
    """Two of them, that share enough."""
    started = [daemon.checker(compiled, mib=16) for _ in range(2)]
    daemon.wait_sharing(2 * SHARED)
    return started


def end(programs):
    for program in programs:
        assert program.alive(), program.stderr()
        program.popen.terminate()
    for program in programs:
        program.must_finish(0)


def still(daemon, compiled, others):
    """Programs that share enough: new ones where those there are do not."""
    if daemon.status("pages_sharing") < 1.5 * SHARED:
        end(others)
        others = start(daemon, compiled)
    return others
