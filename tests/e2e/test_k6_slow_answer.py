# SPDX-License-Identifier: Apache-2.0
"""K6: what an agent was slow to report is merged all the same, before the agent gets its rest."""

import time

import pytest

from lib import fake_agent
from lib.place import wait_for

PAGES = 64
SLOW = 0.4


@pytest.fixture
def agents():
    made = []
    yield made
    for agent in made:
        agent.kill()


def test_k6_slow_report_is_merged_in_the_same_step(daemon, agents, tmp_path):
    reports = tmp_path / "reports"

    def scan(agent, seq, body):
        kind, answer = agent._scan(body)  # pylint: disable=protected-access
        if agent.reported:
            reports.open("ab").write(b".")
            time.sleep(SLOW)
        return fake_agent.packet(kind, answer, seq)

    pages = {0x100000000 + i * fake_agent.PAGE: bytes([1 + i // 2]) * fake_agent.PAGE
             for i in range(PAGES)}  # each is like its neighbour: it needs no other agent
    agents.append(fake_agent.Child(daemon.socket, pages=pages, lie={fake_agent.SCAN: scan}))
    wait_for("no report", reports.exists)
    wait_for("nothing is merged", lambda: daemon.status("pages_shared") == PAGES // 2, 20)
    assert len(reports.read_bytes()) <= 2
