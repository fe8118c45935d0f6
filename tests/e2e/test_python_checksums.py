# SPDX-License-Identifier: Apache-2.0
"""Eight Python programs verify checksums of their own data while it is merged and rewritten: none
ever sees a wrong byte (K6, K11, X)."""

from lib.place import HERE, longer, wait_for

PROGRAMS = 8
SECONDS = longer(20, 300)


def test_python_checksums(daemon):
    programs = [daemon.run("/usr/bin/python3", HERE / "programs" / "checksums.py", SECONDS)
                for _ in range(PROGRAMS)]
    for program in programs:
        assert program.line(60) == "ready"
    seen = []

    def all_ended():
        seen.append(daemon.status("pages_sharing"))
        return not any(program.alive() for program in programs)

    wait_for("the programs do not end", all_ended, SECONDS + 60, every=0.5)
    for program in programs:
        program.must_finish(0)
    # A last look may come when the first programs have gone: their best moment counts.
    assert max(seen) > 1000, f"pages_sharing was {seen}"
    print("pages_sharing", seen)
