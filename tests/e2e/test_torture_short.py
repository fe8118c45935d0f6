# SPDX-License-Identifier: Apache-2.0
"""X and D, all rows at once: the short form of `make torture`. A wrong byte, a thread that hangs, an
operation that never ran: each fails the test."""

import json
import subprocess

from lib import place

SEED = 20
SECONDS = 35


def test_torture_short(tmp_path):
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    place.need_build(place.BUILD_TEST)
    done = subprocess.run(
        ["/usr/bin/python3", place.ROOT / "tests" / "torture" / "torture.py", "--json", "--build",
         place.BUILD_TEST, "--minutes", str(SECONDS / 60), "--seed", str(SEED), "--no-sanitized",
         "--keep", tmp_path / "kept"],
        capture_output=True, text=True, timeout=(SECONDS + 400) * place.SLACK, check=False)
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-3000:]
    result = json.loads(done.stdout)
    assert result["verdict"] == "well"
    assert result["pages_merged"] > 1000 and result["pages_unmerged"] > 1000, result
