# SPDX-License-Identifier: Apache-2.0
"""K7: nothing is merged in a program before all its code was looked at, so nothing is merged with it
that would have to be taken back, and whose frames would stay."""

import shutil
import subprocess

import pytest

OBJECTS = 200


@pytest.fixture
def objects(tmp_path):
    """Files that are objects of their own for the linker, each with a bit of code."""
    first = tmp_path / "object-0.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-o", first, "-"],
                   input=b"int answer(void) { return 42; }", check=True, timeout=60)
    paths = [first]
    for i in range(1, OBJECTS):
        paths.append(tmp_path / f"object-{i}.so")
        shutil.copy(first, paths[-1])
    return paths


def test_k7_no_merge_is_taken_back_for_code_that_was_not_looked_at(daemon, compiled, objects):
    daemon.set(run=0)
    programs = [daemon.run(compiled("many_objects"), *objects) for _ in range(3)]
    for program in programs:
        program.area = program.region()
    daemon.set(run=1)
    for program in programs:
        daemon.wait_merged(program, program.area, share=0.99)
    daemon.wait()
    status = daemon.status()
    taken_back = status["pages_merged"] - status["pages_shared"] - status["pages_sharing"]
    assert taken_back <= 64, status  # the programs' other memory moves a little
    assert status["merge_gone"] <= 64 and status["frames_lingering"] <= 64, status
    for program in programs:
        program.say()
    for program in programs:
        program.must_finish(0)
