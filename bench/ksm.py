# SPDX-License-Identifier: Apache-2.0
"""The kernel's merger: its settings, kept and put back, its counters and the CPU time of ksmd."""

import os
import pathlib

ROOT = pathlib.Path("/sys/kernel/mm/ksm")
RMAP_ITEM = STABLE_NODE = 64  # bytes; charged to no cgroup
# Restored in this order: with the advisor off, so that pages_to_scan can be written, and only after
# run=2, because max_page_sharing and merge_across_nodes can change only where nothing is merged.
KEPT = ("pages_to_scan", "sleep_millisecs", "smart_scan", "use_zero_pages", "max_page_sharing",
        "merge_across_nodes", "advisor_min_pages_to_scan", "advisor_max_pages_to_scan",
        "advisor_max_cpu", "advisor_target_scan_time", "advisor_mode", "run")


class Missing(Exception):
    pass


def read(key):
    text = (ROOT / key).read_text().strip()
    return text[text.index("[") + 1:text.index("]")] if "[" in text else text


def number(key):
    return int(read(key))


def write(key, value):
    (ROOT / key).write_text(str(value))


def check():
    """Raises Missing, with what to do, where the bench cannot have KSM for itself."""
    if not (ROOT / "run").exists():
        raise Missing("this kernel has no KSM (CONFIG_KSM): there is nothing to compare with")
    if not (ROOT / "smart_scan").exists():
        raise Missing("this kernel's KSM has no smart_scan: Linux 6.7 or newer is needed")
    if not os.access(ROOT / "run", os.W_OK) or os.geteuid() != 0:
        raise Missing("the settings of KSM can be changed only by root: run make bench as root")


def check_unused():
    """Raises Missing where KSM has other programs' pages merged."""
    if number("pages_shared"):
        raise Missing(f"KSM has {read('pages_sharing')} pages of other programs merged, which the "
                      "bench would un-merge: end these programs, or write 2 to "
                      "/sys/kernel/mm/ksm/run")


def keep():
    """The settings as they are, for restore()."""
    return {key: read(key) for key in KEPT if (ROOT / key).exists()}


def restore(kept):
    """Un-merges everything and puts the settings back. Goes on to the next when one fails."""
    for key, value in (("run", 2), ("advisor_mode", "none"), *kept.items()):
        try:
            if (ROOT / key).exists() and read(key) != str(value):
                write(key, value)
        except OSError:
            pass


def stop():
    """Un-merges everything; nothing is scanned after that."""
    write("run", 2)
    write("run", 0)


def prepare(pages_to_scan, sleep_millisecs, smart_scan):
    """The settings of one measurement, with run 0."""
    stop()
    settings = {"advisor_mode": "none", "pages_to_scan": pages_to_scan,
                "sleep_millisecs": sleep_millisecs, "smart_scan": int(smart_scan),
                "use_zero_pages": 0, "max_page_sharing": 256}
    for key, value in settings.items():
        if (ROOT / key).exists():
            write(key, value)
    return settings


def ksmd_pid():
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and pathlib.Path(f"/proc/{name}/comm").read_text() == "ksmd\n" and \
                    not pathlib.Path(f"/proc/{name}/cmdline").read_bytes():
                return int(name)
        except OSError:
            pass
    raise Missing("there is no thread ksmd in /proc")


def rmap_items(pids):
    """Pages that ksmd keeps an item for, in these processes."""
    total = 0
    for pid in pids:
        try:
            lines = pathlib.Path(f"/proc/{pid}/ksm_stat").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("ksm_rmap_items"))
    return total


def bookkeeping(pids):
    """Bytes that ksmd keeps for these processes, outside of every cgroup."""
    nodes = number("pages_shared") + number("stable_node_chains")
    return rmap_items(pids) * RMAP_ITEM + nodes * STABLE_NODE


class Ksmd:
    """The merger as measure.py sees it."""

    name = "ksmd"
    asking_costs = False
    learns = False  # but with smart_scan

    def __init__(self, place):
        self.place, self.pid = place, ksmd_pid()

    def go(self):
        write("run", 1)

    def hurry(self, on):
        """Passes without pauses, or as set."""
        write("sleep_millisecs", 0 if on else self.place.sleep_millisecs)

    def counters(self):
        """pages_tracked counts each page once that a pass walks over."""
        out = {key: number(key) for key in ("pages_shared", "pages_sharing", "pages_unshared",
                                            "pages_volatile", "full_scans", "pages_scanned")}
        out["pages_tracked"] = sum(out[key] for key in ("pages_shared", "pages_sharing",
                                                        "pages_unshared", "pages_volatile"))
        return out

    def cpu(self):
        """Seconds, from when the machine was started."""
        return int(pathlib.Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def outside(self, pids):
        """Bytes that it uses beside what the cgroup is charged."""
        return bookkeeping(pids)
