# SPDX-License-Identifier: Apache-2.0
"""D2: an agent dies while it un-merges advised memory: no page is lost. (Of memory that is
MADV_MERGEABLE the kernel gives up an mremap when a signal waits, after it unmapped the target.)"""

import contextlib
import os
import random
import signal
import time

from lib.place import longer

PAIRS = longer(12, 60)


def test_d2_agent_killed_while_it_unmerges(daemon, compiled):
    chance = random.Random(4)
    took = 0.02
    for _ in range(PAIRS):
        programs = [daemon.run(compiled("unmerges"), 8, all=False) for _ in range(2)]
        for program in programs:
            program.area = program.region()
        for program in programs:
            daemon.wait_merged(program, program.area, share=0.95)
        for program in programs:
            agents = program.agents()
            program.say()
            assert program.line() == "now"
            time.sleep(chance.random() * took)
            for agent in agents:
                with contextlib.suppress(ProcessLookupError):  # the program was faster
                    os.kill(agent, signal.SIGKILL)
            assert program.line() == "ok", program.stderr()
            program.must_finish(0)
