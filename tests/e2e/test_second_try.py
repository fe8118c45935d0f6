# SPDX-License-Identifier: Apache-2.0
"""The tests themselves: what did not come in time is tried a second time, and named; nothing else is."""

import os
import re
import subprocess
import xml.etree.ElementTree as ET

import pytest

from lib.place import HERE
from lib.proc import look

CONFTEST = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from lib.second_try import (pytest_runtest_makereport, pytest_runtest_protocol, pytest_runtestloop,
                            pytest_unconfigure)
"""
START = """
import pathlib, pytest
from lib import place
place.PATIENCE = 0.05
TRIES = pathlib.Path(__file__).parent

def tries(name):
    with open(TRIES / name, "a") as file:
        file.write("x")
    return len((TRIES / name).read_text())

def in_time(name, least):
    n = tries(name)
    place.wait_for(f"try {n}", lambda: n >= least, 0.05)
"""


@pytest.fixture
def run(tmp_path):
    """run(tests, how often each was tried): exit status, {outcome: count} of the report, what was printed."""
    def run(tests, tried):
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "test_inner.py").write_text(START + tests)
        done = subprocess.run(["/usr/bin/python3", "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider",
                               "--junitxml", tmp_path / "report.xml", tmp_path], cwd=tmp_path,
                              capture_output=True, text=True, timeout=60, check=False)
        suite = next(ET.parse(tmp_path / "report.xml").getroot().iter("testsuite"))
        counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors")}
        assert {name: len((tmp_path / name).read_text()) for name in tried} == tried, done.stdout
        return done.returncode, counts, done.stdout

    return run


def second_tries(said):
    return re.findall(r"^\S*test_inner.py::(\w+): (.*)$", said.partition("passed on the second try")[2], re.M)


def test_late_once_is_tried_again_and_named(run):
    status, counts, said = run('''
def test_late(): in_time("late", 2)
def test_fine(): in_time("fine", 1)
@pytest.fixture(scope="module")
def slow(): in_time("slow", 2)
def test_slow(slow): tries("after")
''', {"late": 2, "fine": 1, "slow": 2, "after": 1})
    assert (status, counts) == (0, {"tests": 3, "failures": 0, "errors": 0}), said
    assert second_tries(said) == [("test_late", "lib.place.NotInTime: after 0.05 s: try 1"),
                                  ("test_slow", "lib.place.NotInTime: after 0.05 s: try 1")], said
    assert said.rstrip().splitlines()[-1].startswith("test_inner.py::test_slow: "), said


def test_late_twice_fails(run):
    status, counts, said = run('def test_late(): in_time("late", 3)\n', {"late": 2})
    assert (status, counts) == (1, {"tests": 1, "failures": 1, "errors": 0}), said
    assert second_tries(said) == [] and "try 2" in said


def test_nothing_else_is_tried_again(run):
    """An assertion, an exception, pytest.fail; and what is late where something else is wrong, too."""
    status, counts, said = run('''
def test_assert(): assert tries("assert") > 1
def test_error(): assert 1 // (tries("error") - 1)
def test_fail():
    if tries("fail") == 1: pytest.fail("after 5 s: no")
@pytest.fixture
def leaves():
    yield
    assert tries("left") > 1
def test_late_and_left(leaves): in_time("late", 2)
''', {"assert": 1, "error": 1, "fail": 1, "late": 1, "left": 1})
    assert (status, counts) == (1, {"tests": 4, "failures": 4, "errors": 1}), said
    assert second_tries(said) == []


def test_interrupted_reports_what_was_late(run):
    status, _, said = run('''
def test_late(): in_time("late", 2)
def test_stops(): raise KeyboardInterrupt
''', {"late": 1})
    assert status == 2 and "FAILED" in said and "try 1" in said, said


def test_what_is_there_for_a_moment_is_not_left(daemon):
    """What the daemon starts has the daemon's name and environment until its exec: whoever looks just then sees it, and
    nobody is left for that."""
    looks = [[], [look(os.getpid())]]
    daemon.left = lambda keeper=False: looks.pop(0) if looks else []
    assert daemon._gone_after_a_second([]) == []
