# SPDX-License-Identifier: Apache-2.0
"""One measurement: a workload's fresh programs in one mode, from start to end."""

import json
import statistics
import subprocess

import measure
from place import Place
from samepage import Failed

# (name in the report, mode of the place, smart_scan). plain is measured once a round: what merging
# saves is less than it, agents, daemon and bookkeeping counted.
MODES = (("plain", "plain", False), ("samepage", "samepage", False), ("ksmd", "ksmd", True),
         ("ksmd-classic", "ksmd", False))


def estimate(build, workload):
    """What `samepage estimate` says about programs that nobody merges yet. It must be the ones that
    are merged then: what a runtime leaves behind in its memory differs from start to start."""
    done = subprocess.run([build / "samepage", "estimate", "--json",
                           *(["--advised"] if workload.advises else []), *map(str, workload.pids())],
                          capture_output=True, text=True, timeout=300, check=False)
    try:
        said = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr.strip()}
    except ValueError as error:
        said = {"failed": f"its answer is not JSON: {error}"}
    said.pop("processes", None)
    return said


def _plain(place, workload):
    pids = workload.pids()
    out = {"memory_before": measure.memory(place, pids), "mappings_before": measure.mappings(pids)}
    out["memory_after"] = out["memory_before"]
    out.update(_figures(workload, "after_merge"))
    out.update(_figures(workload, "at_end"))
    return out


def _figures(workload, name):
    return getattr(workload, name)() if hasattr(workload, name) else {}


def _merged(place, workload, smart):
    pids, merger = workload.pids(), place.merger
    out = {"memory_before": measure.memory(place, pids), "mappings_before": measure.mappings(pids),
           "cpu_before_seconds": merger.cpu() if merger.name == "samepage" else 0.0}
    if merger.name == "samepage":
        out["estimate"] = estimate(place.build, workload)
    out["converge"] = measure.converge(merger)
    out.update(_figures(workload, "after_merge"))
    out["memory_after"] = measure.memory(place, pids)
    out["memory_outside"] = merger.outside(pids)
    out["mappings_after"] = measure.mappings(pids)
    out["counters"] = {key: value for key, value in merger.counters().items()
                       if isinstance(value, (int, float)) and not isinstance(value, bool)}
    _compare_estimate(out)
    out["idle"] = measure.idle_pass(merger, smart, getattr(workload, "idle_has_target", False))
    out.update(_figures(workload, "at_end"))
    return out


def _compare_estimate(out):
    """What was saved, of what was said before about the same programs. Bytes are those that the cgroup
    uses less since then, so daemon and agents count with what they grew."""
    said = out.get("estimate", {})
    if said.get("pages_sharing"):
        said["ratio_pages"] = out["counters"]["pages_sharing"] / said["pages_sharing"]
        if said.get("bytes_saved"):
            said["ratio_bytes"] = (out["memory_before"] - out["memory_after"]) / said["bytes_saved"]


def once(build, tools, workload, mode, smart):
    """The figures of one run; its programs are ended. AssertionError: a byte was wrong."""
    place = Place(build, tools, mode, advises=workload.advises, smart_scan=smart)
    try:
        workload.start(place)
        out = _merged(place, workload, smart) if place.merger else _plain(place, workload)
        workload.check()
        if errors := place.errors():
            out["not_merged"] = errors
        if mode == "samepage" and place.merger.daemon.poll() is not None:
            raise Failed(f"samepaged ended: {place.merger.log()}")
        return out
    finally:
        workload.stop()
        place.close()


def medians(runs):
    """One result of several: of each number the median, of all else the first."""
    first = runs[0]
    if isinstance(first, dict):
        return {key: medians([run[key] for run in runs if key in run]) for key in first}
    numbers = [run for run in runs if isinstance(run, (int, float)) and not isinstance(run, bool)]
    return statistics.median(numbers) if numbers else first


def derive(modes):
    """Adds to each mode's figures what only the comparison with plain gives."""
    plain = modes.get("plain", {}).get("memory_after")
    for name, figures in modes.items():
        if name != "plain" and plain is not None and "memory_after" in figures:
            figures["net_saved"] = plain - figures["memory_after"]
