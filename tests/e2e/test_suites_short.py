# SPDX-License-Identifier: Apache-2.0
"""The short form of `make test-suites`: some of CPython's own tests pass merged as they do plain."""

import json
import signal
import subprocess

import pytest

from lib import place, proc
from lib.place import SLACK, wait_for

SUITES = place.ROOT / "tests" / "suites" / "suites.py"
MODULES = ["test_mmap", "test_resource", "test_gc"]


def start(*options, before=()):
    """With Ctrl-C in force: a shell that started us in the background had us ignore it."""
    place.need_root()
    place.need_build()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    return subprocess.Popen(["/usr/bin/python3", *before, SUITES, "--build", place.BUILD, *options],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def test_cpython(tmp_path):
    suites = start("--only", ",".join(MODULES), "--json")
    said, errors = suites.communicate(timeout=300 * SLACK)
    found = json.loads(said)["suites"]
    if any("why" in row for row in found):
        pytest.skip(found[0]["why"])
    assert suites.returncode == 0, errors
    assert sorted(row["suite"] for row in found) == sorted(f"cpython {name}" for name in MODULES)
    for row in found:
        assert row["merged"] == row["plain"] and len(row["merged"]) > 5, row
        assert row["pages_merged"] > 0, row


def ours():
    """What runs the tests; not suites.py, nor what it forked and has not begun yet."""
    return [p for p in proc.all_processes() if b"test_gc" in p.cmdline.split(b"\0") and
            b"--only" not in p.cmdline.split(b"\0") and p.comm != "samepage-agent"]


def ends_as_interrupted(suites, said=""):
    """said: what was read of its errors already."""
    errors = said + suites.communicate(timeout=120 * SLACK)[1]
    if "left out" in errors:
        pytest.skip(errors)
    assert suites.returncode == 130 and "interrupted" in errors, errors
    assert not ours(), ours()


def test_interrupted():
    """Ctrl-C ends what was started, and says so."""
    suites = start("--only", "test_gc")
    line = suites.stderr.readline()
    assert "plain" in line or "left out" in line, line
    if "left out" not in line:
        wait_for("the merged run does not begin", ours, 30)
        suites.send_signal(signal.SIGINT)
    ends_as_interrupted(suites, line)


# Ctrl-C in what Python does after a fork, where it drops exceptions: when the second test was begun.
AFTER_FORK = """
import os, runpy, signal, sys
forks = []

def interrupt():
    forks.append(1)
    if len(forks) == 2:
        os.kill(os.getpid(), signal.SIGINT)

os.register_at_fork(after_in_parent=interrupt)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_interrupted_while_it_forks():
    """It is not lost there."""
    ends_as_interrupted(start("--only", "test_gc", before=("-c", AFTER_FORK)))


# Each suite passes at once, but one, which is missing.
ONE_MISSING = """
import pathlib, sys, types
missing, sys.argv = sys.argv[1], sys.argv[2:]
sys.path.insert(0, str(pathlib.Path(sys.argv[0]).parent))
import suites

def passes(suite, build, merged):
    result = suites.Result(1)
    result.add({"a test": "passed"})
    return result, types.SimpleNamespace(pages_merged=1, said=[]), 0

suites.why_not = lambda suite: "not installed" if suite.name == missing else None
suites.run_in = passes
sys.exit(suites.main())
"""


@pytest.mark.parametrize("missing, status, verdict", [("test_mmap", 1, "missing"), ("sqlite3", 0, "left out"),
                                                      ("none", 0, "same")])
def test_one_is_missing(missing, status, verdict):
    """A suite of an ordinary run that is not there fails it; one of --more is left out. Both are told."""
    suites = start("--only", "test_gc,test_mmap,sqlite3", "--json", before=("-c", ONE_MISSING, missing))
    said, errors = suites.communicate(timeout=120 * SLACK)
    assert suites.returncode == status, errors
    found = {row["suite"].split()[1]: row["verdict"] for row in json.loads(said)["suites"]}
    assert found == {"test_gc": "same", "test_mmap": "same", "sqlite3": "same",
                     **({missing: verdict} if missing != "none" else {})}
    assert json.loads(said)["ok"] == (status == 0)
    assert (": left out" in errors) == (missing != "none"), errors
