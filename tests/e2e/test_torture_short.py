# SPDX-License-Identifier: Apache-2.0
"""X and D, all rows at once: the short form of `make torture`. A wrong byte, a thread that hangs, an
operation that never ran: each fails the test. And that a wrong byte does."""

import json
import os
import re
import subprocess

import pytest

from lib import place

SEED = 20
SECONDS = 35
STORE_SECONDS = 12
STORE_ACTIONS = "kill-store,run-2,unmerge-process,kill-daemon,kill-agent,pace"


def torture(tmp_path, seconds, *args):
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    place.need_build(place.BUILD_TEST)
    return subprocess.run(
        ["/usr/bin/python3", place.ROOT / "tests" / "torture" / "torture.py", "--json", "--build",
         place.BUILD_TEST, "--minutes", str(seconds / 60), "--seed", str(SEED), "--no-sanitized",
         "--keep", tmp_path / "kept", *args],
        capture_output=True, text=True, timeout=(seconds + 400) * place.SLACK, check=False, cwd=tmp_path)


def test_torture_short(tmp_path):
    done = torture(tmp_path, SECONDS)
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-3000:]
    result = json.loads(done.stdout)
    assert result["verdict"] == "well"
    assert result["pages_merged"] > 1000 and result["pages_unmerged"] > 1000, result


def test_torture_short_with_a_store(tmp_path):
    """S, K13, D1: the same while frames leave memory, and the store's processes are killed."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")
    done = torture(tmp_path, STORE_SECONDS, "--store", "--actions", STORE_ACTIONS)
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-3000:]
    result = json.loads(done.stdout)
    assert result["verdict"] == "well"
    assert result["actions"]["kill_store"] > 0, result
    assert result["evicted"] > 0, result


def test_wrong_byte_stops_it(tmp_path):
    """A worker makes one byte of its memory wrong, which its record does not know: that is told with the seed,
    the page and the operation, and what is needed to look at it is kept. It stops long before its time."""
    done = torture(tmp_path, 120, "--calm", "--only", "check", "--workers", "1", "--mib", "8", "--plant", "200")
    told, kept = done.stderr, tmp_path / "kept" / "worker-0"
    assert done.returncode == 1, told
    assert json.loads(done.stdout)["verdict"] == "wrong"
    assert f"WRONG with seed {SEED}: worker 0" in told and f"make torture SEED={SEED}" in told, told
    planted = re.search(r"^planted at page (0x[0-9a-f]+), (\d+) of block (\d+)$", told, re.M)
    assert planted, told
    page, index, block = planted.groups()
    assert re.search(rf"^WRONG BYTES check: seed {SEED} worker 0 pid \d+, page {page} ", told, re.M), told
    assert re.search(rf"^  block {block} at 0x[0-9a-f]+: page {index} of ", told, re.M), told
    assert re.search(rf"^  thread \d: step \d+, check on block {block} since ", told, re.M), told
    found, expected = (next(kept.glob(f"wrong-*-{which}")).read_bytes() for which in ("found", "expected"))
    assert [i for i in range(len(found)) if found[i] != expected[i]] == [len(found) // 2]
    assert json.loads((kept / "recent.json").read_text())["0"]
    assert "WRONG BYTES" in (tmp_path / "kept" / "why.txt").read_text()
