# SPDX-License-Identifier: Apache-2.0
"""The results as a table on the terminal and as JSON; page.py makes the page."""

import json

import first_touch
import gate
from targets import LITTLE

MIB = 1 << 20
HEAD = ("workload", "merger", "before", "after", "net saved", "pages saved", "CPU",
        "CPU, 99 %", "wall", "us a page", "idle pass", "ns a page", "maps +", "maps max")
UNITS = ("", "", "MiB", "MiB", "MiB", "", "s", "s", "s", "merged", "ms CPU", "and pass", "all", "of one")


def _text(value, form):
    return "-" if value is None else format(value, form)


def row(workload, mode, figures):
    """A line of the table, as texts."""
    if "failed" in figures:
        return [workload, mode, "failed"] + [""] * (len(HEAD) - 3)
    converge, idle = figures.get("converge", {}), figures.get("idle", {})
    before, after = figures.get("mappings_before", {}), figures.get("mappings_after", {})
    net, per_pass = figures.get("net_saved"), idle.get("cpu_seconds_per_pass")
    return [workload, mode,
            f"{figures['memory_before'] / MIB:,.1f}", f"{figures['memory_after'] / MIB:,.1f}",
            _text(None if net is None else net / MIB, ",.1f"),
            _text(figures.get("counters", {}).get("pages_sharing"), ",.0f"),
            _text(converge.get("cpu_seconds"), ".2f"),
            _text(converge.get("cpu_seconds_to_99"), ".2f"), _text(converge.get("wall_seconds"), ".1f"),
            _text(converge.get("cpu_us_per_merged_page"), ".2f"),
            _text(None if per_pass is None else per_pass * 1e3, ".2f"),
            _text(idle.get("cpu_ns_per_page"), ".1f"),
            _text(after["sum"] - before["sum"] if after else None, ",.0f"),
            _text((after or before).get("max"), ",.0f")]


def rows(results):
    out = []
    for name, result in results["workloads"].items():
        for mode, figures in result["modes"].items():
            out.append(row(name, mode, figures))
    return out


def align(lines):
    """Columns of equal width, the first two to the left."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(text.ljust(width) if i < 2 else text.rjust(width)
                               for i, (text, width) in enumerate(zip(line, widths))).rstrip()
                     for line in lines)


def costs(results):
    """Lines about the cost of reading and writing, where it was measured."""
    names = ("first_read_ns", "write_merged_ns", "write_own_ns")
    out = []
    for workload, result in results["workloads"].items():
        for mode, figures in result["modes"].items():
            if any(name in figures for name in names):
                out.append([workload, mode, *(_text(figures.get(name), ",.0f") for name in names)])
    return [["workload", "merger", "first read", "write, merged", "write, own"]] + out if out else []


def load_lines(results):
    load = results.get("load")
    if not load or "medians" not in load:
        return []
    names = (("set_rps", ",.0f"), ("set_p99_ms", ".3f"), ("get_rps", ",.0f"), ("get_p99_ms", ".3f"))
    out = [["redis-benchmark", "", "SET a s", "SET p99 ms", "GET a s", "GET p99 ms"]]
    for mode, figures in load["medians"].items():
        out.append([mode, "median", *(format(figures[name], form) for name, form in names)])
        if mode != "plain":
            out.append([mode, "of plain", *(f"{figures['ratios'][n]:.3f}" for n, _ in names)])
    return out


def estimate_lines(results):
    out = []
    for workload, result in results["workloads"].items():
        said = result["modes"].get("samepage", {}).get("estimate")
        if not said:
            continue
        out.append([workload, "estimate", _text(said.get("pages_sharing"), ",.0f"),
                    _text(said["bytes_saved"] / MIB if "bytes_saved" in said else None, ",.1f"),
                    _text(said.get("ratio_pages"), ".3f"), _text(said.get("ratio_bytes"), ".3f")])
    head = ["workload", "", "pages", "MiB", "saved pages/said", "saved bytes/said"]
    return [head] + out if out else []


def ratio_lines(results):
    """samepage's figures divided by ksmd's."""
    keys = (("net saved", ("net_saved",)), ("pages saved", ("counters", "pages_sharing")),
            ("CPU", ("converge", "cpu_seconds")),
            ("CPU, 99 %", ("converge", "cpu_seconds_to_99")), ("wall", ("converge", "wall_seconds")),
            ("idle pass", ("idle", "cpu_seconds_per_pass")))
    out = [["samepage / ksmd", "smart_scan", *(name for name, _ in keys)]]
    for workload, result in results["workloads"].items():
        for mode, smart in (("ksmd", "on"), ("ksmd-classic", "off")):
            line = [workload, smart]
            for _, path in keys:
                ours, theirs = result["modes"].get("samepage"), result["modes"].get(mode)
                for key in path:
                    ours, theirs = (x.get(key) if isinstance(x, dict) else None
                                    for x in (ours, theirs))
                # Nothing divided by next to nothing says nothing.
                small = not theirs or (path[0] == "net_saved" and theirs < LITTLE)
                line.append("-" if ours is None or small else f"{ours / theirs:.3f}")
            if any(text != "-" for text in line[2:]):
                out.append(line)
    return out if len(out) > 1 else []


def failures(results):
    """(what, why) of each measurement that could not be made."""
    out = [(f"{name} {mode}", figures["failed"]) for name, result in results["workloads"].items()
           for mode, figures in result["modes"].items() if "failed" in figures]
    out += [(name, why) for name, why in results.get("left_out", {}).items()]
    if "failed" in results.get("gate", {}):
        out.append(("gate", results["gate"]["failed"]))
    out += [(f"first touch, {name}", of["failed"]) for name, of in results.get("first_touch", {}).items()
            if "failed" in of]
    if "failed" in results.get("load", {}):
        out.append(("redis-made under load", results["load"]["failed"]))
    return out


def target_lines(results):
    out = []
    for line in results["targets"]:
        verdict = "met" if line["met"] else f"FALLS SHORT: {line['reason']}"
        out.append(f"{line['what']}: target {line['target']} / measured {line['measured']:.3f} / "
                   f"{verdict}")
    return out


def table(results):
    """All of it, for a terminal."""
    settings = ", ".join(f"{key} {value}" for key, value in results["settings"].items())
    parts = [f"samepage beside ksmd ({settings})"]
    lines = rows(results)
    if lines:
        parts.append(align([list(HEAD), list(UNITS), *lines]))
    for title, lines in (
            ("ratios", ratio_lines(results)),
            ("what a page costs the program, in nanoseconds", costs(results)),
            ("redis-made under load, while it is merged", load_lines(results)),
            ("a gated call while nothing is merged", gate.lines(results)),
            ("the first touch of a page that is out of memory, in microseconds", first_touch.lines(results)),
            ("samepage estimate, before", estimate_lines(results))):
        if lines:
            parts.append(f"{title}:\n" + align(lines))
    if failed := failures(results):
        parts.append("not measured:\n" + "\n".join(f"{what}: {why}" for what, why in failed))
    if targets := target_lines(results):
        parts.append("targets:\n" + "\n".join(targets))
    return "\n\n".join(parts)


def write_json(results, path):
    path.write_text(json.dumps(results, indent=1) + "\n")
