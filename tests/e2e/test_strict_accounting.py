# SPDX-License-Identifier: Apache-2.0
"""Where memory is accounted strictly (vm.overcommit_memory 2) nothing is merged, and everybody says so."""

import pytest

from lib import place
from lib.place import A_SECOND, wait_for


@pytest.fixture
def setting(tmp_path):
    """What the daemon is shown for the setting: the real one is everybody's."""
    tmp_path.chmod(0o755)
    path = tmp_path / "overcommit_memory"
    path.write_text("2\n")
    return path


@pytest.fixture
def strict(make_daemon, setting):
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()
    daemon = make_daemon()
    daemon.prefix = ["unshare", "-m", "--propagation", "slave", "sh", "-c",
                     f"mount --bind {setting} /proc/sys/vm/overcommit_memory && exec \"$0\" \"$@\""]
    return daemon.start()


def test_x_nothing_is_merged_under_strict_accounting(strict, setting, compiled):
    daemon = strict
    daemon.set_full_speed()
    programs = [daemon.run(compiled("x_rows"), "hold") for _ in range(2)]
    for program in programs:
        program.area = program.region()
    wait_for("they did not join", lambda: daemon.status("processes") == 2)
    said = daemon.cli("wait", "--timeout", 60, check=False)
    assert said.returncode == 1 and "vm.overcommit_memory is 2" in said.stderr, said
    assert "nothing is merged while memory is accounted strictly" in daemon.cli("status").stdout
    assert daemon.status("pages_scanned") == 0
    setting.write_text("0\n")
    for program in programs:
        daemon.wait_merged(program, program.area)
    assert not daemon.status("strict_accounting")
    setting.write_text("2\n")
    wait_for("it does not see that", lambda: daemon.status("strict_accounting"))
    for program in programs:  # what is merged stays, and is un-merged as always
        assert daemon.merged_pages(program, program.area)
    daemon.cli("off")
    for program in programs:
        wait_for("not un-merged", lambda: not daemon.merged_pages(program, program.area), A_SECOND)
        program.say()
        program.must_finish(0)
