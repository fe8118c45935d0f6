# SPDX-License-Identifier: Apache-2.0
"""Hooks of pytest: a test in which something did not come in time (lib/place.py: NotInTime) is tried once
more, alone, when all others have run, and named at the end. Whatever else goes wrong, a wrong byte, a crash,
a wrong answer, something that is left, fails the test at once."""

import pytest
from _pytest.runner import runtestprotocol

from lib.place import NotInTime

LATER = pytest.StashKey()  # [(item, its reports)]
PASSED = pytest.StashKey()  # [(name, what had not come in time)]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(call):
    outcome = yield
    outcome.get_result().not_in_time = bool(call.excinfo and call.excinfo.errisinstance(NotInTime))


def _report(item, reports):
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    failed = [report for report in reports if report.failed]
    if failed and all(report.not_in_time for report in failed):
        item.session.stash[LATER].append((item, reports))
    else:
        _report(item, reports)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtestloop(session):
    session.stash[LATER], session.config.stash[PASSED] = [], []
    outcome = yield
    for item, first in session.stash[LATER]:
        if outcome.excinfo:  # interrupted: there is no second try
            _report(item, first)
            continue
        second = runtestprotocol(item, nextitem=None, log=False)
        _report(item, second)
        if not any(report.failed for report in second):
            why = next(report.longrepr for report in first if report.failed).reprcrash.message
            session.config.stash[PASSED].append((item.nodeid, " ".join(why.split())))


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure(config):
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter and config.stash.get(PASSED, None):
        reporter.section("passed on the second try")
        for name, why in config.stash[PASSED]:
            reporter.write_line(f"{name}: {why}")
