# SPDX-License-Identifier: Apache-2.0
"""make torture: from a seed, programs do everything of table X at random to memory that checks itself,
while it is merged and un-merged, and while the daemon, agents and programs are killed."""

import argparse
import json
import pathlib
import random
import shutil
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from driver import report, sanitized  # noqa: E402
from driver.chaos import Chaos  # noqa: E402
from driver.world import World, Wrong  # noqa: E402

WELL, FAILED, INTERRUPTED = 0, 1, 130
SANITIZED_SHARE = 0.1  # of the time, for the fuzz targets and the sanitizers
TELL_EVERY = 15  # seconds
LONGER = 240  # seconds at most, until everything was done once


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="torture.py", description=__doc__,
        epilog="Exit status: 0 no wrong byte and every operation ran; 1 something was wrong, or an "
               "operation never ran; 2 wrong use; 130 interrupted, nothing was wrong until then.")
    parser.add_argument("--minutes", type=float, default=20, metavar="N",
                        help="how long (default 20)")
    parser.add_argument("--seed", type=int, metavar="S",
                        help="of all that is done at random (default: a new one, which is printed)")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build-test", metavar="DIR",
                        help="a build with fault points (default build-test)")
    parser.add_argument("--build-fuzz", type=pathlib.Path, default=ROOT / "build-fuzz", metavar="DIR")
    parser.add_argument("--build-asan", type=pathlib.Path, default=ROOT / "build-asan", metavar="DIR")
    parser.add_argument("--workers", type=int, default=3, metavar="N", help="programs (default 3)")
    parser.add_argument("--threads", type=int, default=3, metavar="N",
                        help="threads of each (default 3)")
    parser.add_argument("--mib", type=int, default=48, metavar="N",
                        help="memory of each in MiB (default 48)")
    parser.add_argument("--only", metavar="OP,...",
                        help="only these operations of the workers, to find out what matters")
    parser.add_argument("--without", metavar="OP,...", help="all operations but these")
    parser.add_argument("--actions", metavar="ACT,...",
                        help="only these of what is done to them (as the table at the end names them)")
    parser.add_argument("--store", action="store_true",
                        help="the daemon has a store, frames leave memory all the time, and the store's "
                             "processes are killed, too")
    parser.add_argument("--kill-agents", action="store_true",
                        help="agents are killed four times as often, and their programs go on for 25 s without one")
    parser.add_argument("--calm", action="store_true", help="nothing is killed, stopped or kept short")
    parser.add_argument("--no-sanitized", action="store_true",
                        help="without the fuzz targets and sanitizers (a tenth of the time)")
    parser.add_argument("--hold", action="store_true",
                        help="when something is wrong, leave all processes as they are")
    # So many operations of each worker's first thread, then it makes a byte wrong: to see that it is found.
    parser.add_argument("--plant", type=int, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR",
                        help="where to keep what is needed to look at it (default: under /tmp)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    options = parser.parse_args(argv)
    if options.minutes <= 0 or not 1 <= options.workers <= 64 or not 1 <= options.threads <= 16 or \
            not 8 <= options.mib <= 4096:
        parser.error("minutes above 0, workers 1 to 64, threads 1 to 16, mib 8 to 4096")
    options.build = options.build.resolve()
    options.some = bool(options.only or options.without or options.calm or options.actions)
    options.actions = options.actions.replace("-", "_").split(",") if options.actions else Chaos.actions()
    for name in options.actions:
        if name not in Chaos.actions():
            parser.error(f"there is no action {name}")
    for name in ("samepage", "samepaged", "libsamepage-agent.so", "tests/torture/torture-worker",
                 "tests/torture/torture-linked"):
        if not (options.build / name).exists():
            parser.error(f"{options.build / name} is not built: \"make torture\" builds it")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1, 2**31)
    return options


def tell(options, text):
    print(text, file=sys.stderr if options.json else sys.stdout, flush=True)


def goes_on(options, world, chaos, passed, seconds):
    """A short run goes on until everything was done once: which can be when is the machine's luck."""
    if passed < seconds or options.calm:
        return passed < seconds
    return passed < LONGER + seconds and not (chaos.all_done() and (options.some or world.all_done()) and
                                              (world.evicted() or not options.store))


def act(options, world, chaos, late):
    """late: only what was not done yet is waited for."""
    if late:
        world.want_rest()
    if late and chaos.all_done():
        chaos.let_merge()
    elif not options.calm:
        chaos.act()


def torture(options, world, chaos, seconds):
    """The main part; raises Wrong."""
    began, told = time.monotonic(), time.monotonic()
    beat = random.Random(f"{options.seed} beat")
    world.start_daemon()
    world.cli("set", "pages_to_scan=100000")
    world.cli("set", "sleep_millisecs=0")
    while goes_on(options, world, chaos, time.monotonic() - began, seconds):
        chaos.fill()
        act(options, world, chaos, time.monotonic() - began > seconds)
        end = time.monotonic() + beat.random() * 0.5
        while time.monotonic() < end:
            world.check()
            chaos.due()
            time.sleep(0.05)
        world.poll()
        if time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            tell(options, report.progress(world, seconds - (told - began)))
    for worker in world.workers:
        worker.go_on()
    chaos.close_limits()
    chaos.files.close()
    world.end_well()


def failed(options, world, why):
    tell(options, f"\nWRONG with seed {options.seed}: {why}")
    report.keep_evidence(world, why)
    kept = options.keep or pathlib.Path(tempfile.mkdtemp(prefix=f"samepage-torture-{options.seed}-"))
    if options.hold:
        tell(options, f"all processes are left as they are; look at {world.directory}")
        return
    world.end_anyhow()
    shutil.copytree(world.directory, kept, dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("s.sock*"))
    tell(options, f"what is needed to look at it: {kept}\n"
                  f"again: make torture SEED={options.seed} MINUTES={options.minutes:g}{' STORE=1' * options.store}")


def sanitized_part(options, directory, seconds):
    """True if all was well."""
    if options.no_sanitized or options.some:
        return {}, True
    tell(options, f"fuzz targets and sanitizers, {seconds:.0f} s")
    counts, bad = sanitized.run(options, options.seed, seconds, directory)
    for line in bad:
        tell(options, f"FAILED: {line}")
    return counts, not bad


def finish(options, result):
    partial = options.only or options.calm or options.actions != Chaos.actions() or result["verdict"] != "well"
    missing = [] if partial else report.never_ran(result, options.without)
    if missing:
        result["verdict"] = "not everything ran"
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(report.table(result))
    if missing:
        tell(options, f"never ran: {', '.join(missing)}")
    tell(options, f"seed {options.seed}: {result['verdict']}")
    return {"well": WELL, "interrupted": INTERRUPTED}.get(result["verdict"], FAILED)


def main(argv):
    options = parse(argv)
    seconds = options.minutes * 60
    directory = pathlib.Path(tempfile.mkdtemp(prefix="sp-torture-"))
    directory.chmod(0o755)
    world = World(options, options.seed, directory)
    chaos = Chaos(world, options.seed)
    began, verdict, counts = time.monotonic(), "well", {}
    tell(options, f"seed {options.seed}, {options.minutes:g} minutes, {options.workers} workers of "
                  f"{options.mib} MiB")
    try:
        share = 0 if options.no_sanitized or options.some else seconds * SANITIZED_SHARE
        counts, well = sanitized_part(options, directory, share)
        if not well:
            raise Wrong("a fuzz target or a unit test under sanitizers failed")
        torture(options, world, chaos, seconds - share)
    except Wrong as why:
        verdict = "wrong"
        failed(options, world, str(why))
    except KeyboardInterrupt:
        verdict = "interrupted"
        tell(options, "interrupted: cleaning up")
    except BaseException:  # a fault of the driver's own: nothing may be left running
        world.end_anyhow()
        chaos.close()
        raise
    result = report.summary(world, chaos, began)
    result["sanitized"], result["verdict"] = counts, verdict
    if not (options.hold and verdict == "wrong"):
        world.end_anyhow()
        chaos.close()
        shutil.rmtree(directory, ignore_errors=True)
    return finish(options, result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
