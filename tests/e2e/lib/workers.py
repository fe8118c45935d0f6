# SPDX-License-Identifier: Apache-2.0
"""Hooks of pytest: with --two, a second pytest runs tests at the same time, for most of them wait for something most
of the time.

A module belongs to whichever takes it first, the long ones before the others. What the second one finds out it
tells the first, which reports it as its own: one count, one report, one Ctrl-C. Tests with the mark `alone` (they
measure time, or need the processors) run when the second one has ended, and so do second tries (second_try.py)."""

import ctypes
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import pytest

from lib.second_try import LATER

# What takes longest is not to be begun last. Nothing depends on it.
LONG = ("test_remerge", "test_programs", "test_x_rows", "test_torture_short", "test_x_process", "test_odd_programs",
        "test_gate_stress", "test_daemon_hostile", "test_suites_short", "test_python_checksums", "test_users_share",
        "test_redis_saves_65_percent", "test_x_io", "test_k6_looks", "test_x_vmsplice")
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def pytest_addoption(parser):
    parser.addoption("--two", action="store_true", help="run tests in two processes at a time")
    parser.addoption("--second-of", nargs=2, help="used by --two: a folder, and a descriptor to tell the first one by")


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: with --two, nothing else runs at the same time")


def _is_alone(item):
    return item.get_closest_marker("alone") is not None


def _take(folder, items):
    """The items of one module after the other that nobody else took: who makes its folder has it."""
    modules = {}
    for item in items:
        if not _is_alone(item):
            modules.setdefault(item.path.stem, []).append(item)
    for name in sorted(modules, key=lambda name: LONG.index(name) if name in LONG else len(LONG)):
        try:
            (folder / name).mkdir()
        except FileExistsError:
            continue
        yield from modules[name]


def _run(session, items, between=lambda: None, after=None):
    """As pytest's own loop; after: the item that comes next."""
    items = iter(items)
    item = next(items, None)
    while item:
        following = next(items, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following or after)
        between()
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following


class Second:
    """The other pytest, and what it says."""

    def __init__(self, session, folder):
        self.session, self.config = session, session.config
        self.items = {item.nodeid: item for item in session.items}
        self.log, self.said = folder / "second.log", queue.SimpleQueue()
        self.complete = False
        ours, theirs = os.pipe()
        with open(self.log, "wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", self.config.rootpath,
                 "--second-of", folder, str(theirs), *sorted({str(item.path) for item in session.items})],
                pass_fds=[theirs], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd=self.config.invocation_params.dir, preexec_fn=self._end_with_us)
        os.close(theirs)
        self.thread = threading.Thread(target=self._listen, args=(ours,), daemon=True)
        self.thread.start()

    @staticmethod
    def _end_with_us():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell that starts us in the background has us ignore it
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)

    def _listen(self, ours):
        with os.fdopen(ours, encoding="utf-8") as lines:
            for line in lines:
                self.said.put(json.loads(line))

    def _report(self, data):
        if isinstance(data["longrepr"], list):
            data["longrepr"] = tuple(data["longrepr"])  # where a test is skipped: JSON knows no tuples
        return self.config.hook.pytest_report_from_serializable(config=self.config, data=data)

    def tell(self):
        """Reports what it said since."""
        hook = self.config.hook
        while not self.said.empty():
            kind, name, said = self.said.get()
            if kind == "end":
                self.complete = True
                continue
            item, reports = self.items[name], [self._report(data) for data in said]
            if kind == "late":
                self.session.stash[LATER].append((item, reports))
                continue
            for report in reports:
                hook.pytest_runtest_logreport(report=report)
                if report.when == "teardown":
                    hook.pytest_runtest_logfinish(nodeid=name, location=item.location)

    def end(self, interrupt=False):
        """Waits until it has ended, and says all that it said. If it was not interrupted, it must have run all that
        it took."""
        if interrupt and self.popen.poll() is None:
            self.popen.send_signal(signal.SIGINT)
        while self.thread.is_alive():
            self.thread.join(0.1)
            self.tell()
        self.tell()
        status = self.popen.wait()
        if not self.complete and not interrupt:
            raise RuntimeError(f"the second pytest did not come to its end, but to status {status}:\n" +
                               self.log.read_text(errors="replace")[-20000:])


def _first(session):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sp-e2e-two-"))
    (folder / "items").write_text(json.dumps([item.nodeid for item in session.items]))
    alone = [item for item in session.items if _is_alone(item)]
    second, done = Second(session, folder), False
    try:
        _run(session, _take(folder, session.items), second.tell, after=alone[0] if alone else None)
        done = True
    finally:
        try:
            second.end(interrupt=not done)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    _run(session, alone)


class Teller:
    """In the second one: tells the first one what it finds out."""

    def __init__(self, config, descriptor):
        os.set_inheritable(descriptor, False)
        self.config, self.stream = config, os.fdopen(descriptor, "w", encoding="utf-8")

    def tell(self, kind, name, reports):
        hook = self.config.hook
        said = [hook.pytest_report_to_serializable(config=self.config, report=report) for report in reports]
        self.stream.write(json.dumps([kind, name, said]) + "\n")
        self.stream.flush()

    def pytest_runtest_logreport(self, report):
        self.tell("report", report.nodeid, [report])


def _second(session, folder, descriptor):
    teller = Teller(session.config, descriptor)
    session.config.pluginmanager.register(teller)
    wanted = set(json.loads((folder / "items").read_text()))
    _run(session, _take(folder, [item for item in session.items if item.nodeid in wanted]))
    for item, reports in session.stash[LATER]:
        teller.tell("late", item.nodeid, reports)
    session.stash[LATER].clear()
    teller.tell("end", "", [])


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    option = session.config.option
    if session.testsfailed or option.collectonly or not (option.two or option.second_of):
        return None  # pytest's own
    if option.second_of:
        _second(session, pathlib.Path(option.second_of[0]), int(option.second_of[1]))
    else:
        _first(session)
    return True
