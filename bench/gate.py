# SPDX-License-Identifier: Apache-2.0
"""What the gate costs a program in which nothing is merged: programs/gate.c, plain and under samepage."""

import statistics
import subprocess

from place import Place
from samepage import Failed

ROUNDS = 9
CALLS = 2000000  # in all, of each kind
THREADS = (1, 8)


def _once(build, tools, mode, threads, calls):
    """{kind of call: nanoseconds}."""
    place = Place(build, tools, mode)
    try:
        program = place.launch([tools / "gate", threads, calls // threads], stdout=subprocess.PIPE)
        lines = program.communicate(timeout=300)[0].decode().split("\n")
        if program.returncode or place.errors():
            raise Failed(f"gate: status {program.returncode}: {place.errors()}")
        return {name: float(value) for name, value in (line.split() for line in lines if line)}
    finally:
        place.close()


def _typical(threads, values):
    """The fastest for one thread: what else the machine does only ever makes a call slower. Several
    threads wait for each other at the kernel's lock of their mappings, in some rounds twice as long
    as in others: the fastest round is one in which they happened not to meet."""
    return min(values) if threads == 1 else statistics.median(values)


def measure(build, tools, rounds, scale, say):
    """{"1": {kind: {"plain": ns, "samepage": ns, "added": ns}}, "8": …}: of alternating rounds what
    _typical says."""
    runs = {(threads, mode): [] for threads in THREADS for mode in ("plain", "samepage")}
    try:
        for number in range(rounds):
            for threads, mode in runs:
                runs[threads, mode].append(_once(build, tools, mode, threads, int(CALLS * scale)))
            say(f"gate, round {number + 1}")
    except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    out = {}
    for threads in THREADS:
        out[str(threads)] = {}
        for kind in runs[threads, "plain"][0]:
            plain, ours = (_typical(threads, [run[kind] for run in runs[threads, mode]])
                           for mode in ("plain", "samepage"))
            out[str(threads)][kind] = {"plain": plain, "samepage": ours, "added": ours - plain}
    return out


def lines(results):
    """Rows of the table: calls, threads, nanoseconds."""
    gate = results.get("gate")
    if not gate or "failed" in gate:
        return []
    return [["call", "threads", "plain ns", "samepage ns", "added ns"]] + [
        [kind, threads, *(f"{of[key]:.0f}" for key in ("plain", "samepage", "added"))]
        for threads, kinds in gate.items() for kind, of in kinds.items()]
