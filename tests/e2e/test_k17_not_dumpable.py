# SPDX-License-Identifier: Apache-2.0
"""K17: a program that forbids others to look into it gets its pages back and is left alone."""

from lib.place import wait_for


def test_k17_not_dumpable(daemon, compiled):
    programs = [daemon.run(compiled("secret")) for _ in range(2)]
    areas = [program.region() for program in programs]
    for program, area in zip(programs, areas):
        daemon.wait_merged(program, area)
    programs[0].say()
    wait_for(lambda: f"still merged: {daemon.merged_pages(programs[0], areas[0])}",
             lambda: daemon.merged_pages(programs[0], areas[0]) == 0)
    wait_for("its agent stays", lambda: not programs[0].agents())
    assert daemon.merged_pages(programs[1], areas[1]) > 0
    programs[0].say()  # its second line, and the last that it reads: a third would find nobody
    for _ in range(2):
        programs[1].say()
    for program in programs:
        program.must_finish(0)
