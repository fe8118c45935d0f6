# SPDX-License-Identifier: Apache-2.0
"""Measures samepage beside ksmd: memory, CPU, and what merging costs the programs."""

import argparse
import contextlib
import datetime
import fcntl
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import cgroup  # noqa: E402
import first_touch  # noqa: E402
import gate  # noqa: E402
import ksm  # noqa: E402
import load  # noqa: E402
import page  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
import targets  # noqa: E402
import workloads  # noqa: E402
from guard import Guard  # noqa: E402
from place import Place  # noqa: E402
from samepage import Failed  # noqa: E402

LOAD = "redis-load"
GATE = "gate"
TOUCH = "first-touch"
QUICK = 1 / 8
LOCK = "/run/samepage-bench.lock"


class Wrong(Exception):
    """Wrong use."""


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def arguments():
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=HERE.parent / "build",
                        help="folder with samepage and samepaged (default: build)")
    parser.add_argument("--only", metavar="NAME,...", default="",
                        help=f"only these workloads, or beginnings of their names; {LOAD}: Redis "
                             f"under load; {GATE}: what a gated call costs; {TOUCH}: of what is out of memory")
    parser.add_argument("--rounds", type=int, metavar="N",
                        help=f"rounds of each workload (default 1, or 3 of those that targets are about) "
                             f"and of the load ({load.ROUNDS})")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR",
                        help="where bench.json and bench.html go (default: bench in the build folder)")
    parser.add_argument("--quick", action="store_true",
                        help="an eighth of the sizes: for trying the bench itself")
    parser.add_argument("--list", action="store_true", help="name the workloads and end")
    args = parser.parse_args()
    if args.rounds is not None and not 1 <= args.rounds <= 100:
        parser.error("--rounds: a number from 1 to 100")
    args.build = args.build.resolve()
    args.out = args.out or args.build / "bench"
    return args


def all_workloads():
    """(instances, {module: why it is not there})."""
    found, left_out = [], {}
    for module in workloads.MODULES:
        try:
            found += workloads.load(module)
        except (ImportError, Failed, OSError) as error:
            left_out[module.replace("_", "-")] = str(error)
    return found, left_out


def chosen(args):
    """(workloads, which of LOAD, GATE and TOUCH are wanted, {name: why it is left out})."""
    found, left_out = all_workloads()
    if not args.only:
        return found, {LOAD, GATE, TOUCH}, left_out
    words = [word for word in args.only.split(",") if word]
    names = [w.name for w in found] + [LOAD, GATE, TOUCH] + list(left_out)
    for word in words:
        if not any(name.startswith(word) for name in names):
            raise Wrong(f"no workload is named {word}; there are: {', '.join(names)}")

    def wanted(name):
        # "redis-made" asks for its load too.
        return any(name.startswith(word) for word in words) or \
            (name == LOAD and "redis-made" in words)
    return ([w for w in found if wanted(w.name)], {name for name in (LOAD, GATE, TOUCH) if wanted(name)},
            {name: why for name, why in left_out.items() if wanted(name)})


def compile_tools(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((HERE / "programs").glob("*.c")):
        program = folder / source.stem
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run([os.environ.get("CC", "cc"), "-std=gnu17", "-O2", "-Wall", "-Wextra",
                            "-D_GNU_SOURCE", "-pthread", "-o", program, source], check=True)


def machine():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    thp = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="ascii",
                                                         errors="replace")
             if line.startswith("model name")]
    return {"kernel": platform.release(), "processors": os.cpu_count(),
            "processor": names[0] if names else platform.machine(),
            "memory": f"{memory / (1 << 30):.1f} GiB",
            "transparent huge pages": thp.read_text().strip() if thp.exists() else "none",
            "vm.max_map_count": pathlib.Path("/proc/sys/vm/max_map_count").read_text().strip(),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")}


def settings(args):
    return {"pages_to_scan": Place.pages_to_scan, "sleep_millisecs": Place.sleep_millisecs,
            "advisor_mode": "none", "max_page_sharing": 256, "use_zero_pages": 0,
            "rounds": args.rounds or "1 or 3", "scale": QUICK if args.quick else 1}


def measure_workload(args, workload):
    """{mode: figures}; a mode that could not be measured has only "failed"."""
    runs = {name: [] for name, _, _ in run.MODES}
    failed = {}
    for number in range(args.rounds or getattr(workload, "rounds", 1)):
        for name, mode, smart in run.MODES:
            begin = time.monotonic()
            try:
                runs[name].append(run.once(args.build, args.out / "tools", workload, mode, smart))
            except (Failed, AssertionError, OSError, ValueError, subprocess.SubprocessError) as error:
                failed[name] = f"{type(error).__name__}: {error}"
            say(f"{workload.name}, {name}, round {number + 1}: {time.monotonic() - begin:.0f} s"
                + (f": {failed[name]}" if name in failed else ""))
    modes = {name: {"failed": failed[name]} if name in failed else run.medians(runs[name])
             for name, _, _ in run.MODES}
    run.derive(modes)
    return modes


def measure_load(args):
    under = load.Load(args.build, args.out / "tools", QUICK if args.quick else 1.0,
                      args.rounds or load.ROUNDS)
    try:
        for number in range(under.rounds):
            for mode in load.MODES:
                out = under.once(mode)
                say(f"redis-benchmark, {mode}, round {number + 1}: SET {out['set_rps']:,.0f} a second, "
                    f"p99 {out['set_p99_ms']} ms; GET {out['get_rps']:,.0f}, {out['get_p99_ms']} ms")
    except (Failed, AssertionError, OSError, ValueError, subprocess.SubprocessError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    return under.result()


def bench(args, found, others, left_out):
    results = {"machine": machine(), "settings": settings(args), "workloads": {},
               "left_out": left_out}
    for workload in found:
        if args.quick:
            workload.scale = QUICK
        say(f"{workload.name}: {workload.about}")
        results["workloads"][workload.name] = {"about": workload.about,
                                               "modes": measure_workload(args, workload)}
        finish(args, results)
    if LOAD in others:
        results["load"] = measure_load(args)
    if GATE in others:
        results["gate"] = gate.measure(args.build, args.out / "tools", args.rounds or gate.ROUNDS,
                                       QUICK if args.quick else 1.0, say)
    if TOUCH in others:
        results["first_touch"] = first_touch.measure(args.build, args.out / "tools", args.rounds or first_touch.ROUNDS,
                                                     QUICK if args.quick else 1.0, say)
    finish(args, results)
    print(report.table(results))
    say(f"written: {args.out / 'bench.json'}, {args.out / 'bench.html'}")
    return 1 if report.failures(results) else 0


def finish(args, results):
    """What is there is written: a run that is ended early has it too."""
    results["targets"] = targets.lines(results)
    report.write_json(results, args.out / "bench.json")
    page.write(results, args.out / "bench.html")


def check(args):
    for name in ("samepage", "samepaged"):
        if not (args.build / name).exists():
            raise ksm.Missing(f"{args.build / name} is not there: run make first")
    ksm.check()
    cgroup.parent()
    for name in ("redis-server", "redis-benchmark"):
        if not shutil.which(name):
            raise ksm.Missing(f"{name} is not there: run scripts/deps.sh --bench")


@contextlib.contextmanager
def alone():
    """Two benches at once would have one KSM between them."""
    with open(LOCK, "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ksm.Missing(f"another bench is running ({LOCK} is locked): wait for it") from error
        yield


def guarded(args, wanted):
    guard = Guard()
    try:
        return bench(args, *wanted)
    finally:
        # A second Ctrl-C does not stop the clean-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        guard.close()


def main():
    args = arguments()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if args.list:
            for workload in all_workloads()[0]:
                print(f"{workload.name:24}{workload.about}")
            print(f"{LOAD:24}redis-made under redis-benchmark, while it is merged")
            print(f"{TOUCH:24}the first touch of what is out of memory, beside zram and a swap file")
            print(f"{GATE:24}what a gated call costs, one thread and eight, while nothing is merged")
            return 0
        wanted = chosen(args)
        check(args)
        compile_tools(args.out / "tools")
        with alone():
            ksm.check_unused()
            return guarded(args, wanted)
    except Wrong as error:
        say(error)
        return 2
    except (ksm.Missing, cgroup.Missing, subprocess.CalledProcessError, OSError) as error:
        say(error)
        return 1
    except KeyboardInterrupt:
        say("interrupted; KSM's settings are as they were")
        return 130


if __name__ == "__main__":
    sys.exit(main())
