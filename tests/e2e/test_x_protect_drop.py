# SPDX-License-Identifier: Apache-2.0
"""X: memory that was made read-only or inaccessible and is then dropped is zeros, and still so
protected, also where it was merged and written after that. (A merged Node ended in the gate there.)"""

import pytest


@pytest.mark.parametrize("dontfork", [(), ("dontfork",)], ids=["", "dontfork"])
@pytest.mark.parametrize("protection", ["none", "read", "exec", "write"])
def test_x_protect_drop(daemon, compiled, protection, dontfork):
    programs = [daemon.run(compiled("protect_drop"), protection, *dontfork) for _ in range(2)]
    for round in range(3):
        for program in programs:
            program.area = program.region()
        for program in programs:
            daemon.wait_merged(program, program.area, share=0.9 if round == 0 else 0.3)
        for program in programs:
            program.say()
            assert program.line() == "ok"
    for program in programs:
        program.must_finish(0)
