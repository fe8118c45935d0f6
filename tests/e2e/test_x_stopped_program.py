# SPDX-License-Identifier: Apache-2.0
"""X: merging goes on in a program that was stopped by SIGSTOP."""

import signal


def test_x_stopped_program(daemon, compiled):
    daemon.set(run=0)
    programs = [daemon.run(compiled("x_rows"), "hold") for _ in range(2)]
    areas = [program.region() for program in programs]
    programs[0].signal(signal.SIGSTOP)
    daemon.set(run=1)
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area)
    programs[0].signal(signal.SIGCONT)
    for program in programs:
        program.say()
        program.must_finish(0)
