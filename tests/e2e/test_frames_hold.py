# SPDX-License-Identifier: Apache-2.0
"""No client, root included, opens the pool for writing or changes a frame: every attempt with the
descriptors and mappings that an agent gets fails (programs/pool_attack.c has them)."""

import os
import subprocess

import pytest

from lib import fake_agent, place
from lib.users import Agent, become

NOBODY = 65534
SAME = bytes(range(256)) * 16


@pytest.fixture
def attack(compiled):
    """attack(daemon, uid): two programs of the user share a page; one attacks the frame as soon as it is
    merged. What it said, and its exit status."""
    program = compiled("pool_attack")
    made = []

    def start(daemon, uid):
        made.append(Agent(daemon.socket, uid, pages={0x10000: SAME}))
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid:
            os.close(theirs)
            with os.fdopen(ours, "rb") as pipe:
                said = pipe.read().decode()
            return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        status = 3
        try:
            uffd = fake_agent.userfaultfd()
            become(uid)
            fake_agent.userfaultfd = lambda: uffd
            agent = fake_agent.FakeAgent(daemon.socket, pages={0x20000: SAME})
            while not agent.sites:
                assert agent.answer_one()
            segment, index = agent.sites[0x20000]
            fd = agent.segments[segment]
            done = subprocess.run([program, str(fd), str(index)], stdout=theirs, stderr=theirs,
                                  pass_fds=[fd], timeout=place.patient(30), check=False)
            status = done.returncode
            if agent.frame(segment, index) != SAME:
                os.write(theirs, b"the frame changed")
                status = 4
        finally:
            os._exit(status)

    yield start
    for agent in made:
        agent.close()


@pytest.mark.parametrize("uid", [NOBODY, 0])
def test_every_attempt_fails(daemon, attack, uid):
    said, status = attack(daemon, uid)
    assert said == "" and status == 0, (said, status)


def test_every_attempt_fails_under_a_daemon_of_the_users_own(make_daemon, attack):
    """There the frames' files are the user's own, so nothing but the mount protects them."""
    place.need_root()
    place.need_kernel_6_8()
    daemon = make_daemon(uid=NOBODY).start()
    daemon.set_full_speed()
    said, status = attack(daemon, NOBODY)
    assert said == "" and status == 0, (said, status)
