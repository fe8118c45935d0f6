# SPDX-License-Identifier: Apache-2.0
"""What the torture tells: progress, the table at its end, and what is left to look at."""

import json
import shutil
import subprocess
import time
from pathlib import Path

PAGES = ("pages_lifted", "pages_put_back", "pages_merged", "pages_unmerged")


def progress(world, seconds_left):
    done = sum(n[0] for n in world.counts().values())
    return (f"{seconds_left:5.0f} s left: {done} operations, {world.checked()} pages checked, "
            f"{world.total('pages_merged')} merged, {world.total('pages_unmerged')} un-merged, "
            f"{len(world.workers)} workers")


def summary(world, chaos, began):
    return {
        "seed": world.seed,
        "seconds": round(time.monotonic() - began, 1),
        "operations": {name: {"done": n[0], "not_then": n[1], "not_here": n[2]}
                       for name, n in world.counts().items()},
        "actions": dict(chaos.counts),
        "not_here": {**{name: "not in this kernel, or not on this machine"
                        for name, n in world.counts().items() if not n[0] and n[2]},
                     **chaos.impossible()},
        "pages_checked": world.checked(),
        "calls_without_memory": world.enomem,
        **{key: world.total(key) for key in PAGES},
        "repairs": world.total("repairs"),
        "takeovers": world.total("takeovers"),
        "evicted": world.evicted(),
        "evicting": bool(world.config),
        "refused": {key: world.total(key) for key in world.sums if key.startswith("merge_")},
    }


def never_ran(result, without):
    """Names of operations and actions that were not done once, though they can be here; and of what
    samepage itself is to do."""
    left_out = [*result["not_here"], *(without or "").split(",")]
    names = [name for name, n in result["operations"].items() if not n["done"]]
    names += [name for name, n in result["actions"].items() if not n]
    names += [name for name in ("pages_lifted", "pages_merged", "pages_unmerged") if not result[name]]
    names += ["evicted"] if result["evicting"] and not result["evicted"] else []
    return [name for name in names if name not in left_out]


def _columns(pairs, width=34, across=3):
    cells = [f"{name:{width - 10}}{value:>9}" for name, value in pairs]
    rows = (len(cells) + across - 1) // across
    return "\n".join("  ".join(cells[i::rows]) for i in range(rows))


def table(result):
    lines = ["operations of the workers:",
             _columns((name, n["done"]) for name, n in result["operations"].items()),
             "what was done to them:",
             _columns((name.replace("_", "-"), n) for name, n in result["actions"].items())]
    for name, why in result["not_here"].items():
        lines.append(f"not possible here: {name}: {why}")
    seconds = max(result["seconds"], 1)
    lines.append(f"pages: {result['pages_checked']} checked; " + "; ".join(
        f"{result[key]} {key[6:].replace('_', ' ').replace('unm', 'un-m')}" for key in PAGES))
    lines.append(f"a second: {result['pages_merged'] / seconds:.0f} merged, "
                 f"{result['pages_unmerged'] / seconds:.0f} un-merged")
    lines.append(f"repairs {result['repairs']}, takeovers {result['takeovers']}, "
                 f"calls without memory {result['calls_without_memory']}")
    if result["evicting"]:
        lines.append(f"frames that left memory: {result['evicted']}")
    return "\n".join(lines)


def _where(process):
    """What a process does, for as long as it is there."""
    out = [f"{process.pid} {process.comm} {process.state}"]
    for name in ("status", "wchan", "syscall", "stack", "maps"):
        try:
            out.append(f"{name}:\n" + Path(f"/proc/{process.pid}/{name}").read_text())
        except OSError as error:
            out.append(f"{name}: {error.strerror}")
    if shutil.which("gdb"):
        words = ["gdb", "-p", str(process.pid), "-batch", "-ex", "bt", "-ex", "info registers"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=60,
                                  stdin=subprocess.DEVNULL, check=False)
            out.append(done.stdout + done.stderr)
        except subprocess.TimeoutExpired:
            out.append("gdb: no answer within 60 seconds")
    return "\n".join(out) + "\n"


def keep_evidence(world, why):
    """Everything that a person needs who looks at it later, into the world's directory."""
    (world.directory / "why.txt").write_text(why + "\n")
    if not world.workers:
        (world.directory / "left.txt").write_text("".join(_where(p) for p in world.left()))
    asked = [("status", "--json"), ("ps", "--json")]
    asked += [("explain", "--json", w.pid) for w in world.workers]
    for words in asked:
        try:
            done = world.cli(*words, may_fail=True, timeout=20)
        except Exception:  # pylint: disable=broad-except
            continue  # whatever does not answer is part of what is wrong
        name = "-".join(str(w).strip("-") for w in words)
        (world.directory / f"{name}.txt").write_text(done.stdout + done.stderr)
    for worker in world.workers:
        recent = {i: [(world.op_name(op), block, chance) for op, block, chance in
                      worker.stats.recent(i)] for i in range(len(worker.stats.threads()))}
        (worker.directory / "recent.json").write_text(json.dumps(recent, indent=1))
        (worker.directory / "where.txt").write_text(worker.where())
