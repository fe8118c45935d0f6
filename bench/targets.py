# SPDX-License-Identifier: Apache-2.0
"""What was promised, and whether the measurement keeps it."""

from reasons import REASONS


def _path(results, *keys):
    for key in keys:
        if not isinstance(results, dict) or results.get(key) is None:
            return None
        results = results[key]
    return results


def _against_ksmd(results, workload, *keys):
    """samepage's figure divided by that of ksmd with smart_scan; None where one was not measured."""
    ours, theirs = (_path(results, "workloads", workload, "modes", mode, *keys)
                    for mode in ("samepage", "ksmd"))
    return ours / theirs if ours is not None and theirs else None


# (name, workload, what is divided by ksmd's, "at most" or "at least", value)
_RATIOS = (
    ("redis-cpu", "redis-made", ("converge", "cpu_seconds"), "at most", 0.5,
     "redis-made: CPU to converge, of ksmd's"),
    ("redis-net", "redis-made", ("net_saved",), "at least", 0.98,
     "redis-made: bytes saved net, of ksmd's"),
    ("idle-distinct", "made-distinct", ("idle", "cpu_seconds_per_pass"), "at most", 0.05,
     "a pass over unchanged distinct memory: CPU, of ksmd's"),
    ("idle-redis", "redis-made", ("idle", "cpu_seconds_per_pass"), "at most", 0.2,
     "a pass over merged Redis: CPU, of ksmd's"),
    ("qemu-pages", "qemu", ("counters", "pages_sharing"), "at least", 1.0,
     "qemu: pages saved, of ksmd's"),
    ("python-pages", "python", ("counters", "pages_sharing"), "at least", 0.9,
     "python: pages saved, of ksmd's"),
    ("node-pages", "node", ("counters", "pages_sharing"), "at least", 0.9,
     "node: pages saved, of ksmd's"),
)

# (name, first touch from where, beside which, figure, at most)
_TOUCHES = (
    ("touch-memory", "samepage's store, in memory", "zram (lz4), private pages", "random median", 3),
    ("touch-file", "samepage's store, its file", "a swap file, private pages", "random median", 1),
    ("touch-file-order", "samepage's store, its file", "a swap file, private pages", "order mean", 1),
)


def _line(name, what, sense, target, value):
    met = value <= target if sense == "at most" else value >= target
    return {"name": name, "what": what, "target": f"{sense} {target:g}", "measured": value,
            "met": met, "reason": None if met else REASONS.get(name, "not explained yet")}


LITTLE = 8 << 20  # bytes: less than that, of whatever it is a share, says nothing
NET = 0.98


def _net_lines(results):
    """What no target says but must have its reason too: workloads that save clearly less."""
    out = []
    for workload in results["workloads"]:
        value = _against_ksmd(results, workload, "net_saved")
        theirs = _path(results, "workloads", workload, "modes", "ksmd", "net_saved")
        if workload != "redis-made" and value is not None and theirs > LITTLE and value < NET:
            out.append(_line(f"net-{workload}", f"{workload}: bytes saved net, of ksmd's", "at least",
                             NET, value))
    return out


def lines(results):
    """All targets that this run measured: dicts with name, what, target, measured, met, reason."""
    out = []
    for name, workload, keys, sense, target, what in _RATIOS:
        value = _against_ksmd(results, workload, *keys)
        if value is not None:
            out.append(_line(name, what, sense, target, value))
    ratios = _path(results, "load", "medians", "samepage", "ratios")
    if ratios:
        out.append(_line("load-set", "redis-made under load: SET throughput, of plain", "at least",
                         0.95, ratios["set_rps"]))
        out.append(_line("load-p99", "redis-made under load: SET p99, of plain", "at most", 1.5,
                         ratios["set_p99_ms"]))
    for threads in ("1", "8"):
        value = _path(results, "gate", threads, "munmap", "added")
        if value is not None:
            out.append(_line(f"gate-{threads}", f"a gated call, {threads} thread"
                             f"{'s' if threads != '1' else ''}: nanoseconds added", "at most", 50, value))
    out += _net_lines(results)
    for name, ours, theirs, figure, target in _TOUCHES:
        value = _first_touch(results, ours, theirs, figure)
        if value is not None:
            out.append(_line(name, f"first touch, {figure}: {ours}, of {theirs}", "at most", target, value))
    for workload, result in results["workloads"].items():
        value = _path(result, "modes", "samepage", "estimate", "ratio_pages")
        if value is not None and abs(result["modes"]["samepage"]["estimate"]["bytes_saved"]) > LITTLE:
            out.append(_estimate_line(workload, value))
    return out


def _first_touch(results, ours, theirs, figure):
    mine, other = (_path(results, "first_touch", where, figure) for where in (ours, theirs))
    return mine / other if mine is not None and other else None


def _estimate_line(workload, value):
    met = 0.9 <= value <= 1.1
    name = f"estimate-{workload}"
    return {"name": name, "what": f"{workload}: pages saved, of what estimate said before",
            "target": "0.9 to 1.1", "measured": value, "met": met,
            "reason": None if met else REASONS.get(name, "not explained yet")}
