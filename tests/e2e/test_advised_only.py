# SPDX-License-Identifier: Apache-2.0
"""K1: without --all nothing is merged that the program did not advise."""


def test_k1_without_all_nothing_unadvised_is_merged(daemon, compiled):
    quiet = [daemon.run(compiled("x_rows"), "hold", all=False) for _ in range(2)]
    for program in quiet:
        program.area = program.region()
    # Two under --all merge meanwhile: by then the others have been passed over.
    loud = [daemon.run(compiled("x_rows"), "hold") for _ in range(2)]
    for program in loud:
        daemon.wait_merged(program, program.region())
    daemon.wait()
    for program in quiet:
        assert daemon.merged_pages(program, program.area) == 0
    for program in quiet + loud:
        assert program.samepage_lines() == []
        program.say()
        program.must_finish(0)
