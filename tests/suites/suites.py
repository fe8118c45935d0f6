# SPDX-License-Identifier: Apache-2.0
"""Runs other people's test suites and programs plain and merged, under a daemon that scans as fast as it
can: whatever passes plain must pass merged. Needs root."""

import argparse
import json
import os
import pathlib
import signal
import sys
import time

import pytest

HERE = pathlib.Path(__file__).resolve().parent
AGAIN = 3
SAID_MOST = 4
sys.path.insert(0, str(HERE))

import place  # noqa: E402
import cpython  # noqa: E402
import programs  # noqa: E402
import redis_load  # noqa: E402
from lib.place import need_kernel_6_8, need_redis, need_root, need_userfaultfd  # noqa: E402
from report import Row, table  # noqa: E402
from result import Result, failed  # noqa: E402


def say(text):
    print(f"suites: {text}", file=sys.stderr, flush=True)


def all_suites():
    """(those of an ordinary run, those of --more)."""
    return ([cpython.Module(name) for name in cpython.MODULES] + [redis_load.Load()],
            [cpython.Module(name) for name in cpython.MORE] +
            [programs.Command(name) for name in programs.COMMANDS])


def arguments():
    parser = argparse.ArgumentParser(prog="suites.py", description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=HERE.parent.parent / "build",
                        help="folder with samepage and samepaged (default: build)")
    parser.add_argument("--only", metavar="NAME,...", default="",
                        help="only these: kinds (cpython, redis, programs) or names (test_mmap)")
    parser.add_argument("--more", action="store_true", help="also more of CPython's tests, and programs")
    parser.add_argument("--rounds", type=int, default=1, metavar="N",
                        help="run everything so often (default 1)")
    parser.add_argument("--json", action="store_true", help="print data, not a table")
    parser.add_argument("--list", action="store_true", help="name the suites and end")
    args = parser.parse_args()
    if not 1 <= args.rounds <= 1000:
        parser.error("--rounds: a number from 1 to 1000")
    args.build = args.build.resolve()
    args.usual, more = all_suites()
    args.suites = chosen(parser, args, args.usual, more)
    return args


def chosen(parser, args, usual, more):
    words = [word for word in args.only.split(",") if word]
    for word in words:
        if not any(word in (suite.kind, suite.name) for suite in usual + more):
            parser.error(f"--only: no suite is named {word}; --list names them")
    if words:
        return [suite for suite in usual + more if suite.kind in words or suite.name in words]
    return usual + more if args.more else usual


def why_not(suite):
    """Why the suite cannot run here, or None."""
    if suite.kind == "redis":
        try:
            need_redis()
        except pytest.skip.Exception as error:
            return str(error)
    elif suite.kind == "programs" and suite.missing():
        return f"not installed: {', '.join(suite.missing())}"
    elif suite.kind == "cpython" and not pathlib.Path(cpython.TESTS, f"{suite.name}.py").exists() and \
            not pathlib.Path(cpython.TESTS, suite.name).is_dir():
        return "libpython3.11-testsuite is not installed, or has no such module"
    return None


def run_in(suite, build, merged):
    """(result, the place that it ran in, seconds). What goes wrong beside the suite, as a process of
    samepage's that is left, counts as a test, too."""
    began, result = time.monotonic(), None
    where = place.Place(build, merged)
    try:
        with where:
            result = suite.run(where)
    except place.FAILURES as error:
        result = result or Result(1)
        result.fail("(around it)", str(error))
    return result, where, time.monotonic() - began


def run_both(suite, build, needed):
    why = why_not(suite)
    if why:
        say(f"{suite.kind} {suite.name}: left out{', but of every run' if needed else ''}: {why}")
        return Row(suite, why=why, needed=needed)
    plain, _, plain_seconds = run_in(suite, build, False)
    say(f"{suite.kind} {suite.name}: plain: {plain.counts()} in {plain_seconds:.0f} s")
    merged, where, merged_seconds = run_in(suite, build, True)
    say(f"{suite.kind} {suite.name}: merged: {merged.counts()} in {merged_seconds:.0f} s, "
        f"{where.pages_merged} pages merged")
    row = Row(suite, plain, merged, where)
    row.seconds = {"plain": round(plain_seconds, 1), "merged": round(merged_seconds, 1)}
    if row.differences:
        again(row, build)
    tell(row)
    return row


def again(row, build):
    """What fails plain now and then is no difference that merging makes: plain some times more."""
    say(f"{row.title}: not the same merged: plain {AGAIN} times more, to see whether that fails plain, too")
    for _ in range(AGAIN):
        row.failed_plain |= set(failed(run_in(row.suite, build, False)[0].tests))
    row.differences = [each for each in row.differences if each[0] not in row.failed_plain]


def tell(row):
    """What is to be known of a suite that is not as it should be."""
    for line in row.said[:SAID_MOST]:
        say(f"{row.title}: {line}")
    if len(row.said) > SAID_MOST:
        say(f"{row.title}: and {len(row.said) - SAID_MOST} lines more of samepage's (--json has all)")
    for test in sorted(row.failed_plain):
        say(f"{row.title}: {test}: fails plain, too, at times or always")
    for test, plain, merged in row.differences:
        say(f"{row.title}: {test}: {plain} plain, but {merged} merged")
    if row.differences:
        for where, text in row.merged.told:
            say(f"{row.title}: merged: {where}:\n{text}")


def main():
    args = arguments()
    if args.list:
        print("\n".join(f"{suite.kind} {suite.name}" for suite in args.suites))
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # of a shell's background, or under nohup
            signal.signal(number, place.end_in_order)
    os.environ.pop("LD_PRELOAD", None)
    rows = []
    try:
        for need in (need_root, need_kernel_6_8, need_userfaultfd):
            need()
        for _ in range(args.rounds):
            for suite in args.suites:
                place.go_on()
                rows.append(run_both(suite, args.build, suite in args.usual))
    except (pytest.skip.Exception, *place.FAILURES) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; everything that ran was ended")
        return 130
    well = all(row.verdict in ("same", "left out") for row in rows) and \
        any(row.verdict == "same" for row in rows)
    if args.json:
        print(json.dumps({"ok": well, "suites": [row.data() for row in rows]}, indent=1))
    else:
        print(table(rows))
        print("merged as plain" if well else "NOT merged as plain")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
