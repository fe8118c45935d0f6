# SPDX-License-Identifier: Apache-2.0
"""X: a core dump holds the merged pages, with their bytes, and no other program's."""

import signal

from lib import core, proc

WITH_CORES = 'ulimit -c unlimited; exec "$0" "$@"'


def test_x_core_dump_holds_merged_pages(daemon, compiled):
    core.need_core_files()
    programs = [daemon.run("/bin/sh", "-c", WITH_CORES, compiled("x_rows"), "hold") for _ in range(2)]
    # And somebody else, with contents of their own.
    other = [daemon.run(compiled("x_rows"), "more") for _ in range(2)]
    for program in programs + other:
        program.area = program.region()
    for program in other:
        program.say("more")
        program.area = program.region("fresh")
    for program in programs + other:
        daemon.wait_merged(program, program.area, share=1.0)
    address, length = programs[0].area
    with open(f"/proc/{programs[1].pid}/mem", "rb") as mem:
        mem.seek(programs[1].area[0])
        want = mem.read(length)
    programs[0].signal(signal.SIGABRT)
    assert programs[0].finish() == -signal.SIGABRT
    dump = core.Core(daemon.directory, programs[0].popen.pid)
    assert dump.bytes_at(address, length) == want
    # Frames of others, which the agent's view of the pool shows, are not in it.
    with open(f"/proc/{other[0].pid}/mem", "rb") as mem:
        mem.seek(other[0].area[0] + 100 * 4096)
        foreign = mem.read(4096)
    assert proc.exists(other[0].pid) and foreign not in dump.data
    for program in programs[1:] + other:
        program.say()
        program.must_finish(0)
