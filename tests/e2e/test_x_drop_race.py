# SPDX-License-Identifier: Apache-2.0
"""X: memory that is dropped while other threads read and write it. Who reads finds the bytes that were, then
zeros, and never the bytes of a frame that were written over; what is written where zeros were found stays."""

import pytest


@pytest.mark.parametrize("how", ["dontneed", "free", "locked", "dontfork"])
def test_x_drop_race(daemon, compiled, how):
    program, partner = [daemon.run(compiled("drop_race"), which) for which in (how, "hold")]
    areas = [program.region(), partner.region()]
    daemon.wait_merged(program, areas[0])
    program.say()
    assert program.line() == "ok"
    program.must_finish(0)
    partner.say()
    partner.must_finish(0)
