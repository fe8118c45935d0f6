# SPDX-License-Identifier: Apache-2.0
"""The results as one self-contained HTML page with pictures."""

import html

import first_touch
import gate
import report

MIB = 1 << 20
COLOURS = {"plain": "#9aa0a6", "samepage": "#1a73e8", "ksmd": "#e8710a", "ksmd-classic": "#f5c28a"}
NAMES = {"plain": "plain", "samepage": "samepage", "ksmd": "ksmd, smart_scan on",
         "ksmd-classic": "ksmd, smart_scan off"}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em;
       color: #202124; background: #fff }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
td, th { padding: .2em .6em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left }
.scroll { overflow-x: auto } .met { color: #137333 } .short { color: #b3261e }
table.words td { white-space: normal; text-align: left }
figure { margin: 1em 0 } svg { max-width: 100%; height: auto }
.key span { display: inline-block; margin-right: 1.5em } .key i { display: inline-block; width: 1em;
height: 1em; margin-right: .4em; vertical-align: -.1em }
"""
LABEL, WIDTH, BAR, GAP = 150, 860, 15, 14  # of a picture, in pixels


def _text(x, y, text, anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def bars(groups, form):
    """Horizontal bars. groups: [(label, [(mode, value), ...]), ...]; form writes a value."""
    values = [value for _, group in groups for _, value in group]
    if not values:
        return ""
    scale = (WIDTH - LABEL - 110) / (max(max(values), 0) or 1)
    parts, y = [], 6
    for label, group in groups:
        parts.append(_text(LABEL - 8, y + len(group) * BAR / 2 + 4, label, "end"))
        for mode, value in group:
            length = max(1, value * scale)
            parts.append(f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR - 2}" '
                         f'fill="{COLOURS[mode]}"><title>{NAMES[mode]}</title></rect>')
            parts.append(_text(LABEL + length + 5, y + BAR - 4, format(value, form)))
            y += BAR
        y += GAP
    return (f'<svg viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" font-size="12" '
            f'font-family="system-ui, sans-serif" role="img">{"".join(parts)}</svg>')


def curves(result):
    """Pages saved over CPU seconds, one line a merger."""
    lines = {mode: figures["converge"]["curve"] for mode, figures in result["modes"].items()
             if "converge" in figures}
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    right, top = max(p[1] for p in points) or 1, max(p[2] for p in points) or 1
    width, height = 420, 180
    parts = [f'<path d="M40 10V{height - 30}H{width - 10}" fill="none" stroke="#888"/>']
    for mode, line in lines.items():
        path = " ".join(f"{40 + (width - 50) * cpu / right:.1f},"
                        f"{height - 30 - (height - 40) * pages / top:.1f}" for _, cpu, pages in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[mode]}" '
                     'stroke-width="2"/>')
    parts += [_text(width - 10, height - 14, f"{right:.2f} s of CPU", "end"),
              _text(44, 20, f"{top:,.0f} pages saved")]
    return (f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-size="11" '
            f'font-family="system-ui, sans-serif" role="img">{"".join(parts)}</svg>')


def _groups(results, value):
    groups = []
    for name, result in results["workloads"].items():
        group = [(mode, value(figures)) for mode, figures in result["modes"].items()]
        group = [(mode, number) for mode, number in group if number is not None]
        if group:
            groups.append((name, group))
    return groups


def _idle(figures):
    idle = figures.get("idle")
    return idle and idle["cpu_seconds_per_pass"] * 1e3


def pictures(results):
    """(title, picture) of each."""
    out = [
        ("Memory after merging, in MiB (daemon, agents and bookkeeping counted)",
         bars(_groups(results, lambda f: f["memory_after"] / MIB if "memory_after" in f else None),
              ",.0f")),
        ("Saved, net, in MiB",
         bars(_groups(results, lambda f: f["net_saved"] / MIB if "net_saved" in f else None),
              ",.1f")),
        ("CPU seconds until nothing more merges",
         bars(_groups(results, lambda f: f.get("converge", {}).get("cpu_seconds")), ".2f")),
        ("CPU milliseconds of a pass when nothing changes", bars(_groups(results, _idle), ".2f")),
        ("Nanoseconds of a write to a merged page",
         bars(_groups(results, lambda f: f.get("write_merged_ns")), ",.0f")),
    ]
    medians = results.get("load", {}).get("medians")
    if medians:
        for key, what, form in (("set_rps", "SET a second", ",.0f"), ("get_rps", "GET a second", ",.0f"),
                                ("set_p99_ms", "SET p99, ms", ".3f"),
                                ("get_p99_ms", "GET p99, ms", ".3f")):
            out.append((f"redis-benchmark while merging: {what}",
                        bars([(what, [(mode, f[key]) for mode, f in medians.items()])], form)))
    out += [(f"{name}: pages saved by CPU spent", curves(result))
            for name, result in results["workloads"].items()]
    return [(title, picture) for title, picture in out if picture]


def _table(lines, heads=1):
    if not lines:
        return ""
    rows = []
    for number, line in enumerate(lines):
        tag = "th" if number < heads else "td"
        rows.append("<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in line) + "</tr>")
    return '<div class="scroll"><table>' + "".join(rows) + "</table></div>"


def _targets(results):
    rows = ["<tr><th>what</th><th>target</th><th>measured</th><th></th></tr>"]
    for line in results["targets"]:
        verdict = '<span class="met">met</span>' if line["met"] else \
            f'<span class="short">falls short</span>: {html.escape(line["reason"])}'
        rows.append(f"<tr><td>{html.escape(line['what'])}</td><td>{line['target']}</td>"
                    f"<td>{line['measured']:.3f}</td><td>{verdict}</td></tr>")
    return '<table class="words">' + "".join(rows) + "</table>" if len(rows) > 1 else ""


def write(results, path):
    """Writes the page."""
    key = "".join(f'<span><i style="background:{COLOURS[mode]}"></i>{name}</span>'
                  for mode, name in NAMES.items())
    machine = html.escape(", ".join(f"{k}: {v}" for k, v in results["machine"].items()))
    settings = html.escape(", ".join(f"{k} {v}" for k, v in results["settings"].items()))
    about = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(result['about'])}</td></tr>"
                    for name, result in results["workloads"].items())
    sections = [
        ("Targets", _targets(results)),
        ("Workloads", f'<table class="words">{about}</table>'),
        ("Pictures", f'<p class="key">{key}</p>' + "".join(
            f"<figure><figcaption>{html.escape(title)}</figcaption>{picture}</figure>"
            for title, picture in pictures(results))),
        ("All figures", _table([report.HEAD, report.UNITS, *report.rows(results)], 2)),
        ("Ratios", _table(report.ratio_lines(results))),
        ("What a page costs the program, in nanoseconds", _table(report.costs(results))),
        ("Redis under load, while it is merged", _table(report.load_lines(results))),
        ("A gated call while nothing is merged", _table(gate.lines(results))),
        ("The first touch of a page that is out of memory, in microseconds", _table(first_touch.lines(results))),
        ("samepage estimate, before", _table(report.estimate_lines(results))),
        ("Not measured", _table([("what", "why"), *report.failures(results)])
         if report.failures(results) else ""),
    ]
    body = "".join(f"<h2>{title}</h2>{text}" for title, text in sections if text)
    path.write_text(f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>samepage beside '
                    f'ksmd</title><style>{STYLE}</style></head><body><h1>samepage beside ksmd</h1>'
                    f"<p>{machine}. {settings}.</p>{body}</body></html>\n")
