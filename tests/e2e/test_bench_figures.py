# SPDX-License-Identifier: Apache-2.0
"""The bench's own arithmetic: when a merger has converged, medians, targets, and the report."""

import pathlib
import subprocess
import sys
import xml.dom.minidom

import pytest

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(name="bench", scope="module")
def _bench():
    """The bench's modules, whose names are to disturb no other test."""
    class Modules:
        pass

    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    try:
        for name in ("measure", "page", "report", "run", "targets"):
            setattr(Modules, name, __import__(name))
    finally:
        sys.path.remove(str(BENCH))
        for name in set(sys.modules) - before:
            del sys.modules[name]
    return Modules


class Idle:
    """A merger that does nothing."""

    def cpu(self):
        return 0.0


def watched(bench, samples):
    """A Watch with samples of (seconds, full_scans, pages_sharing, pages_unshared); CPU is a tenth
    of the time."""
    watch = bench.measure.Watch(Idle())
    watch.samples = [(seconds, seconds / 10, {"full_scans": scans, "pages_sharing": sharing,
                                              "pages_shared": 0, "pages_unshared": unshared})
                     for seconds, scans, sharing, unshared in samples]
    return watch


def test_converged_is_the_first_whole_pass_without_growth(bench):
    samples = [(0.5 * i, i, min(i, 4) * 10000, 0) for i in range(12)]
    watch = watched(bench, samples)
    assert watch.stable()
    # 40000 since pass 4; passes 5 and 6 ended without growth, and the whole of 6 was seen.
    assert watch.converged()[0] == 3.0
    assert watch.nearly()[0] == 2.0


def test_nothing_merged_yet_is_not_converged(bench):
    looked_at = [(0.5 * i, i, 0, i * 5000) for i in range(12)]
    assert not watched(bench, looked_at).stable()


def test_where_nothing_merges_every_page_was_looked_at(bench):
    watch = watched(bench, [(0.5 * i, i, 0, min(i, 6) * 5000) for i in range(14)])
    assert watch.stable()
    assert watch.converged()[0] == 4.0


def test_pages_that_come_and_go_are_no_growth(bench):
    samples = [(0.5 * i, i, 10000 - (i % 2) * 40, 0) for i in range(12)]
    assert watched(bench, samples).stable()


def test_fast_passes_are_watched_for_longer(bench):
    watch = watched(bench, [(0.05 * i, i, 10000, 0) for i in range(20)])
    assert not watch.stable(), "twenty passes, but in one second"


def test_median_of_each_number(bench):
    runs = [{"a": n, "b": {"c": n * 2.0}, "d": "text", "e": True} for n in (3, 1, 2)]
    assert bench.run.medians([{"a": None}, {"a": 1}, {"a": 3}]) == {"a": 2}
    assert bench.run.medians(runs) == {"a": 2, "b": {"c": 4.0}, "d": "text", "e": True}


def results():
    def figures(saved, cpu, idle):
        return {"memory_before": 300 << 20, "memory_after": (300 << 20) - saved,
                "mappings_before": {"sum": 80, "max": 20}, "mappings_after": {"sum": 90, "max": 25},
                "converge": {"cpu_seconds": cpu, "wall_seconds": 1.0, "cpu_us_per_merged_page": 5.0,
                             "curve": [(0.0, 0.0, 0), (1.0, cpu, 1000)]},
                "counters": {"pages_sharing": 1000},
                "idle": {"cpu_seconds_per_pass": idle, "cpu_ns_per_page": 50.0}}
    plain = {"memory_before": 300 << 20, "memory_after": 300 << 20,
             "mappings_before": {"sum": 80, "max": 20}}
    samepage = {**figures(99 << 20, 0.4, 0.01),
                "estimate": {"pages_sharing": 1050, "bytes_saved": 100 << 20, "ratio_pages": 0.952}}
    modes = {"plain": plain, "samepage": samepage,
             "ksmd": figures(100 << 20, 1.0, 0.02), "ksmd-classic": {"failed": "<why> & how"}}
    return {"machine": {"kernel": "<6.18>"}, "settings": {"rounds": 1}, "left_out": {},
            "workloads": {"redis-made": {"about": "four servers", "modes": modes}}}


def test_targets_say_what_is_met_and_why_not(bench):
    made = results()
    bench.run.derive(made["workloads"]["redis-made"]["modes"])
    lines = {line["name"]: line for line in bench.targets.lines(made)}
    assert lines["redis-cpu"]["met"] and lines["redis-cpu"]["measured"] == pytest.approx(0.4)
    assert lines["redis-net"]["met"] and lines["redis-net"]["measured"] == pytest.approx(0.99)
    assert not lines["idle-redis"]["met"] and lines["idle-redis"]["reason"]
    assert lines["estimate-redis-made"]["met"]
    assert "idle-distinct" not in lines, "what was not measured is no target"


def test_an_estimate_of_next_to_nothing_is_no_target(bench):
    made = results()
    said = made["workloads"]["redis-made"]["modes"]["samepage"]["estimate"]
    said.update(pages_sharing=13, bytes_saved=-5 << 20, ratio_pages=0.0)
    assert "estimate-redis-made" not in {line["name"] for line in bench.targets.lines(made)}
    said.update(pages_sharing=13000, bytes_saved=50 << 20)
    assert "estimate-redis-made" in {line["name"] for line in bench.targets.lines(made)}


def touches(median, mean):
    return {"random median": median, "random p99": 9e4, "random mean": median, "order median": 100.0,
            "order p99": 2e4, "order mean": mean}


def test_first_touches_are_compared_with_the_kernels_own(bench):
    made = results()
    made["first_touch"] = {"samepage's store, in memory": touches(7500.0, 4000.0),
                           "zram (lz4), private pages": touches(3000.0, 3000.0),
                           "samepage's store, its file": touches(80000.0, 50000.0),
                           "a swap file, private pages": touches(80000.0, 20000.0),
                           "a swap file, shared memory": {"failed": "<no swap>"}}
    lines = {line["name"]: line for line in bench.targets.lines(made)}
    assert lines["touch-memory"]["met"] and lines["touch-memory"]["measured"] == 2.5
    assert lines["touch-file"]["met"]
    assert not lines["touch-file-order"]["met"] and lines["touch-file-order"]["measured"] == 2.5
    made["targets"] = list(lines.values())
    table = bench.report.table(made)
    assert "first touch, a swap file, shared memory: <no swap>" in table
    assert "7.5  " in table


def test_report_has_every_measurement_and_escapes_what_it_shows(bench, tmp_path):
    made = results()
    bench.run.derive(made["workloads"]["redis-made"]["modes"])
    made["targets"] = bench.targets.lines(made)
    table = bench.report.table(made)
    assert "redis-made ksmd-classic: <why> & how" in table
    assert "FALLS SHORT" in table
    bench.page.write(made, tmp_path / "bench.html")
    page = (tmp_path / "bench.html").read_text()
    assert "&lt;why&gt; &amp; how" in page and "&lt;6.18&gt;" in page and "<why>" not in page
    body = page[page.index("<body>"):page.index("</html>")]
    assert len(xml.dom.minidom.parseString(body).getElementsByTagName("svg")) >= 4


@pytest.mark.parametrize("argv, status, says", [
    (["--rounds", "0"], 2, "--rounds"),
    (["--no-such"], 2, "--no-such"),
    (["--only", "made-equal,no-such"], 2, "no workload is named no-such"),
    (["--build", "/nonexistent"], 1, "/nonexistent/samepage is not there"),
])
def test_wrong_use_of_the_bench(argv, status, says):
    done = subprocess.run(["/usr/bin/python3", BENCH / "bench.py", *argv], capture_output=True,
                          text=True, check=False, timeout=60)
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr
