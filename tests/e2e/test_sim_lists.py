# SPDX-License-Identifier: Apache-2.0
"""The simulator's lists of steps, done by real processes under a real samepaged: what comes out is the same, byte
for byte and site for site (tests/sim/README.md)."""

import os

import pytest

from lib import place, sim_list

SEEDS = range(1, place.longer(3, 201))
if os.environ.get("SAMEPAGE_TEST_SEED"):
    SEEDS = [int(os.environ["SAMEPAGE_TEST_SEED"])]
STEPS = 120
LISTS = sorted((place.ROOT / "tests/sim/steps").glob("*.steps"))


@pytest.fixture(params=["tmpfs", "store"])
def replay(request, make_daemon, compiled):
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    if request.param == "store" and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")
    daemon = make_daemon()
    config = daemon.directory / "samepaged.conf"
    config.write_text("[samepaged]\npages_to_scan = 0\nsleep_millisecs = 0\n[swap]\nreclaim_max = 0\n"
                      f"swap = {'store' if request.param == 'store' else 'none'}\n")
    daemon.options = ["--config", config]
    daemon.start()
    player = sim_list.Replay(daemon, compiled("listed"), request.param == "store")
    yield player
    player.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_list_of_a_seed(replay, seed):
    replay.play(sim_list.lines_of("--seed", seed, "--steps", STEPS))


@pytest.mark.parametrize("replay", place.longer(["store"], ["tmpfs", "store"]), indirect=True)
@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_a_list_that_failed_once(replay, path):
    replay.play(sim_list.lines_of("--replay", path))
