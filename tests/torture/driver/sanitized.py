# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets and the unit tests under sanitizers, for longer than `make test` runs them."""

import pathlib
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]


def _fuzz(target, seconds, seed, work):
    name = target.name
    corpus = work / name
    corpus.mkdir(exist_ok=True)
    seeds = ROOT / "tests" / "fuzz" / f"seeds_{name.removeprefix('fuzz_')}"
    argv = [target, f"-max_total_time={max(1, round(seconds))}", "-timeout=20", "-max_len=8192",
            "-rss_limit_mb=2048", f"-seed={seed % 2**31 + 1}", f"-artifact_prefix={work}/{name}-",
            corpus, *([seeds] if seeds.is_dir() else [])]
    with open(work / f"{name}.log", "wb") as log:
        return subprocess.run([str(a) for a in argv], stdout=log, stderr=log, check=False,
                              timeout=seconds + 120).returncode


def _runs(work, name):
    for line in (work / f"{name}.log").read_text(errors="replace").splitlines():
        if "DONE" in line and line.startswith("#"):
            return int(line.split()[0][1:])
    return 0


def run(options, seed, seconds, work):
    """Returns ({name: runs}, [what failed])."""
    counts, failed = {}, []
    targets = sorted(p for p in (options.build_fuzz / "tests" / "fuzz").glob("fuzz_*")
                     if p.is_file() and p.suffix == "")
    for target in targets:
        if _fuzz(target, seconds * 0.8 / len(targets), seed, work):
            failed.append(f"{target.name}: see {work}/{target.name}.log")
        counts[target.name] = _runs(work, target.name)
    units = sorted(p for p in (options.build_asan / "tests" / "unit").glob("test_*")
                   if p.is_file() and p.suffix == "")
    end = time.monotonic() + seconds * 0.2
    for unit in units:
        counts[f"asan:{unit.name}"] = 0
    while units and not failed and (time.monotonic() < end or not all(counts.values())):
        for unit in units:
            done = subprocess.run([str(unit)], capture_output=True, check=False, timeout=300,
                                  env={"UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"})
            if done.returncode not in (0, 77):
                (work / f"{unit.name}.log").write_bytes(done.stdout + done.stderr)
                failed.append(f"{unit.name}: see {work}/{unit.name}.log")
            counts[f"asan:{unit.name}"] += 1
            if time.monotonic() > end and all(counts.values()):
                break
    return counts, failed
