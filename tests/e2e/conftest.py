# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the end-to-end tests. Each test has a daemon of its own and leaves nothing behind."""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from lib import place, workers  # noqa: E402
from lib.cgroup import Cgroup  # noqa: E402
from lib.daemon import Daemon  # noqa: E402
from lib.ksmfs import Ksmfs, OverSysfs  # noqa: E402
from lib.second_try import (pytest_runtest_makereport, pytest_runtest_protocol,  # noqa: E402,F401
                            pytest_runtestloop, pytest_unconfigure)


def pytest_addoption(pluginmanager):
    pluginmanager.register(workers)


def pytest_report_header(config):
    return f"samepage: {place.BUILD}, fault points: {place.BUILD_TEST}, long: {place.LONG}"


@pytest.fixture(scope="session")
def compiled():
    """compiled("checker", *flags): the path of programs/checker.c, compiled once a session, where
    other users can run it too."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sp-e2e-programs-"))
    folder.chmod(0o755)

    def get(name, *flags):
        target = folder / "-".join([name, *(f.lstrip("-").replace("=", "-") for f in flags)])
        if not target.exists():
            subprocess.run(["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-g", "-pthread", *flags,
                            "-o", target, place.HERE / "programs" / f"{name}.c", "-ldl"],
                           check=True, timeout=place.patient(60))
        return target

    yield get
    shutil.rmtree(folder)


@pytest.fixture
def make_daemon():
    """make_daemon(build=…, cgroup=…, uid=…) gives a daemon that is not started yet; all are closed
    after the test."""
    made = []

    def make(**how):
        made.append(Daemon(**how))
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()


def _can_merge():
    place.need_root()
    place.need_kernel_6_8()
    place.need_userfaultfd()


@pytest.fixture
def daemon(make_daemon):
    """A running daemon at full speed."""
    _can_merge()
    daemon = make_daemon().start()
    daemon.set_full_speed()
    return daemon


@pytest.fixture
def fault_daemon(make_daemon):
    """The same from the build with fault points."""
    _can_merge()
    daemon = make_daemon(build=place.BUILD_TEST).start()
    daemon.set_full_speed()
    return daemon


@pytest.fixture
def ksmfs(daemon):
    """A ksmfs of the daemon's values, mounted."""
    mounted = Ksmfs(daemon)
    yield mounted
    mounted.close()


@pytest.fixture
def over_sysfs(daemon):
    """A mount namespace in which `samepage mount --over-sysfs` may be tried."""
    namespace = OverSysfs(daemon)
    yield namespace
    namespace.close()


@pytest.fixture
def cgroup():
    place.need_root()
    group = Cgroup()
    yield group
    group.close()


@pytest.fixture
def agents():
    """A list for lib.users.Agent and the like: what is put in is closed after the test."""
    made = []
    yield made
    for agent in made:
        agent.close()
