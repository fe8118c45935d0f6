# SPDX-License-Identifier: Apache-2.0
"""The tests themselves, in two processes: each test runs once and is reported once, those that are to be alone are."""

import re
import signal
import subprocess
import xml.etree.ElementTree as ET

import pytest

from lib.place import HERE, patient, wait_for

CONFTEST = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from lib import workers
from lib.second_try import (pytest_runtest_makereport, pytest_runtest_protocol, pytest_runtestloop,
                            pytest_unconfigure)
def pytest_addoption(pluginmanager):
    pluginmanager.register(workers)
"""
# Two modules begin so: each process has one of them, and so is the second one in one of them.
START = """
import os, pathlib, signal, sys, pytest
from lib import place

HERE = pathlib.Path(__file__).parent
SECOND = "--second-of" in sys.argv

def note(name):
    with open(HERE / name, "a") as file:
        file.write(f"{os.getpid()} ")
    return (HERE / name).read_text().split()

def test_meet():
    note("met")
    place.wait_for("the other module", lambda: len(set((HERE / "met").read_text().split())) == 2)
"""


@pytest.fixture
def start(tmp_path):
    """start(tests): pytest on two modules that have them, with --two."""
    def start(tests):
        (tmp_path / "conftest.py").write_text(CONFTEST)
        for name in "ab":
            (tmp_path / f"test_{name}.py").write_text(START + tests)
        return subprocess.Popen(["/usr/bin/python3", "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "--two",
                                 "--junitxml", tmp_path / "report.xml", tmp_path], cwd=tmp_path, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    return start


@pytest.fixture
def run(start, tmp_path):
    """run(tests): exit status, [passed, failed, skipped] of the report, what was printed."""
    def run(tests):
        with start(tests) as popen:
            said = popen.communicate(timeout=patient(60))[0]
        suite = next(ET.parse(tmp_path / "report.xml").getroot().iter("testsuite"))
        total, bad, skipped = (int(suite.get(key)) for key in ("tests", "failures", "skipped"))
        assert suite.get("errors") == "0" or popen.returncode == 3, said
        return popen.returncode, [total - bad - skipped, bad, skipped], said

    return run


def noted(tmp_path, name):
    return (tmp_path / name).read_text().split()


def test_two_at_a_time_and_some_alone(run, tmp_path):
    status, counts, said = run('''
def test_once(): note("once")
@pytest.mark.alone
def test_alone():
    others = {int(pid) for pid in note("alone") + (HERE / "met").read_text().split()} - {os.getpid()}
    assert len(others) == 1 and not any(pathlib.Path(f"/proc/{pid}").exists() for pid in others)
''')
    assert (status, counts) == (0, [6, 0, 0]), said
    assert len(noted(tmp_path, "once")) == 2 and len(set(noted(tmp_path, "once"))) == 2
    assert len(noted(tmp_path, "alone")) == 2 and len(set(noted(tmp_path, "alone"))) == 1


def test_what_the_second_finds_is_reported(run):
    status, counts, said = run('''
def test_fails():
    print("said before")
    assert not SECOND, "it is the second"
def test_skips():
    if SECOND: pytest.skip("not the second")
''')
    assert (status, counts) == (1, [4, 1, 1]), said
    assert len(re.findall(r"^FAILED \S*::test_fails - AssertionError: it is the second", said, re.M)) == 1, said
    assert len(re.findall(r"^SKIPPED .*: not the second$", said, re.M)) == 1 and "said before" in said, said


def test_what_is_late_in_the_second_is_tried_again_by_the_first(run, tmp_path):
    status, counts, said = run('''
place.PATIENCE = 0.05
def test_meet(): pass
def test_late():
    name = pathlib.Path(__file__).stem
    pids = note(name)
    place.wait_for("the second try", lambda: len(pids) == 2, 0.05)
''')
    assert (status, counts) == (0, [4, 0, 0]), said
    named = said.partition("passed on the second try")[2]
    assert len(re.findall(r"^\S*::test_late: .*the second try$", named, re.M)) == 2, said
    assert noted(tmp_path, "test_a")[1] == noted(tmp_path, "test_b")[1]


def test_a_second_that_dies_is_no_success(run):
    status, _, said = run('''
def test_dies():
    if SECOND: os._exit(0)
''')
    assert status == 3 and "the second pytest" in said, said


def test_interrupted_it_ends_both(start, tmp_path):
    with start('''
@pytest.fixture
def cleans_up():
    yield
    note("cleaned")
def test_stays(cleans_up):
    note("stays")
    signal.pause()
''') as popen:
        stays = tmp_path / "stays"
        wait_for("both are in a test", lambda: stays.exists() and len(noted(tmp_path, "stays")) == 2)
        popen.send_signal(signal.SIGINT)
        said = popen.communicate(timeout=patient(60))[0]
    assert popen.returncode == 2 and "KeyboardInterrupt" in said, said
    assert sorted(noted(tmp_path, "cleaned")) == sorted(noted(tmp_path, "stays")), said
