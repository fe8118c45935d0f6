# SPDX-License-Identifier: Apache-2.0
"""Eight Python programs verify checksums of their own data while it is merged and rewritten: none
ever sees a wrong byte (K6, K11, X)."""

from lib.place import HERE, longer

PROGRAMS = 8
SECONDS = longer(20, 300)


def test_python_checksums(daemon):
    programs = [daemon.run("/usr/bin/python3", HERE / "programs" / "checksums.py", SECONDS)
                for _ in range(PROGRAMS)]
    for program in programs:
        assert program.line(60) == "ready"
    daemon.wait_sharing(1000)
    for program in programs:
        program.say("end")
    for program in programs:
        program.must_finish(0, timeout=SECONDS + 60)
