#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Plants one bug at a time in a copy of the engine, each named after the rule that it breaks, and has
the simulator find it. Exit status 0: all were found."""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONGEST = 60  # seconds to find one

# (rule, what is wrong, file of the engine, the line as it is, as it is made)
MUTANTS = (
    ("K7", "a frame goes back to the pool though the answer was lost, and it may be mapped", "merge.c",
     "if (!job->frame || job->maybe_mapped || sp_job_sites(engine, job))",
     "if (!job->frame || sp_job_sites(engine, job))"),
    ("K7", "a frame is given up after a first merge was taken back, and its node stays", "merge.c",
     "    sp_stable_remove(engine, job->frame);\n    engine->ops->frame_forget",
     "    engine->ops->frame_forget"),
    ("K8", "a child's sites are not counted", "run.c",
     "    sp_item_set_site(engine, item, frame);\n    return 0;", "    return 0;"),
    ("K4", "what an earlier node has is not looked up", "match.c",
     "    plan->frame = sp_stable_find(engine, plan->hash.lo, sp_match_wanted(engine, i), &row);\n",
     "    plan->frame = 0;\n    (void)row;\n"),
    ("K9", "a node with sites is swept as one without", "stable.c",
     "        if (!node->live || node->nsites)\n", "        if (!node->live || node->nsites > 1)\n"),
    ("K13", "everything counts as un-merged though a process could not be asked", "run.c",
     "        engine->unmerge_busy = true;\n", ""),
    ("K10", "a page passed over for want of frames is never asked for again", "merge.c",
     "        sp_item_refuse(engine, item, candidate == SP_NONE ? SP_REFUSED_MEMORY : why);\n"
     "        sp_policy_retry_later(sp_item_mm(engine, item));\n",
     "        sp_item_refuse(engine, item, candidate == SP_NONE ? SP_REFUSED_MEMORY : why);\n"),
    ("D4", "the candidates of a process that ended stay", "engine.c",
     "    sp_item_forget_range(mm, 0, UINT64_MAX, SP_ITEM_UNKNOWN);\n    sp_item_free_mm(mm);\n",
     "    sp_item_forget_range(mm, 0, UINT64_MAX, SP_ITEM_SITE);\n    sp_item_free_mm(mm);\n"),
    ("K5", "a page that was written stays known as it was", "engine.c",
     "    sp_engine_forget_runs(mm, scan.changed, scan.nchanged);\n", ""),
    ("T3", "a process forked behind the un-merge cursor is not reached: a stale node", None, None, None, (
        ("engine.c", "engine->run == SP_RUN_UNMERGE ? NULL : engine->cursor", "engine->first"),
        ("run.c", "    if (!engine->unmerge_cursor)\n        engine->unmerge_cursor = mm;\n", ""),
        ("run.c", "    if (mm)\n        mm->unmerge_from = 0;\n    return mm;\n", "    return NULL;\n"))),
    ("T1", "nodes whose frames linger survive run 2: a stale node", "run.c",
     "    sp_stable_sweep(engine, true);\n", "    sp_stable_sweep(engine, false);\n"),
    ("S11", "a frame is faulted back in behind the un-merge cursor: a stale node", "swap.c",
     "node && node->nsites && engine->run != SP_RUN_UNMERGE", "node && node->nsites"),
    ("S4", "an evicted frame is freed with a locked site", "swap.c",
     "ops->frame_locked(engine->ctx, frame)", "false"),
    ("S8", "bytes that failed to read are handed out", "merge.c",
     "    if (status == 0 && sp_stable_holds", "    if (sp_stable_holds"),
    ("K6", "a frame found by its hash is taken without comparing", "merge.c",
     "page[i].result < SP_RESULTS ? page[i].result : SP_CHANGED;\n        engine->merges[target",
     "page[i].result == SP_CHANGED ? SP_MERGED : page[i].result;\n        engine->merges[target"),
    ("S2", "a frame that was used gets no second chance", "swap.c",
     "ops->frame_referenced(engine->ctx, frame, group)", "false"),
    ("S3", "a frame whose sites could not all let go counts as evicted", "swap.c",
     "    case SP_EVICTED_AGAIN:\n", "    case SP_EVICTED_AGAIN:\n        sp_stable_set_evicted(engine, frame, true);\n"),
    ("S10", "a frame in the store is never forgotten, and its slot stays", "stable.c",
     "        if (!node->live || node->nsites)\n            continue;\n        if (!node->idle",
     "        if (!node->live || node->nsites || node->evicted)\n            continue;\n        if (!node->idle"),
    ("N1", "pages of all nodes merge with one another", "nodes.c",
     "    if (engine->merge_across_nodes)\n        return fingerprint;\n    return fingerprint ^ node * UINT64_C(0x9e3779b97f4a7c15);",
     "    return fingerprint;"),
    ("N2", "merge_across_nodes changes while stable nodes are left", "nodes.c",
     "    if (engine->nnodes)\n        return -EBUSY;\n", ""),
    ("N3", "a frame that moved is filed where it was", "nodes.c",
     "    if (sp_stable_node(engine, frame) && node < SP_NODES_MAX)\n        sp_stable_refile(engine, frame, node);\n", ""),
    ("H2", "pages are scanned while a drain runs", "engine.c",
     " || budget == 0 || engine->drain.on)", " || budget == 0)"),
    ("H3", "sites keep the number that their frame had before it moved", "drain.c",
     "    sp_item_renumber(engine, engine->drain.what, moved);\n", ""),
    ("H4", "nodes whose frames vanished are not pruned", "drain.c",
     "        (void)sp_stable_each(engine, SP_NONE, sp_drain_prune, NULL);\n", "        ;\n"),
    ("H5", "a drain that failed keeps everything locked out", "drain.c",
     "    if (status != 0) {\n        *drain = (struct sp_drain){0};\n", "    if (status != 0) {\n"),
    ("T2", "a frame that is mapped where no site is known is given up", "stable.c",
     "        if (sp_stable_is_mapped(engine, first + i))\n            continue;\n", ""),
    ("K14", "pages of one batch are not counted against the limit", "stable.c",
     "        sites += sp_reserved(engine->batch, frame);\n", "        sites += 0;\n"),
    ("K15", "a zero page that was written stays counted", "item.c",
     "            chunk->mm->zero_pages--;\n", ""),
    ("K16", "the advisor minds no limits", "advisor.c",
     "    advisor->pages_to_scan = within(advisor, pages);\n", "    advisor->pages_to_scan = (uint32_t)pages;\n"),
)


def edits(mutant):
    return mutant[5] if len(mutant) > 5 else (mutant[2:5],)


def build(folder, mutant):
    engine = folder / "engine"
    shutil.rmtree(engine, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "engine", engine)
    if mutant:
        for name, old, new in edits(mutant):
            text = (engine / name).read_text()
            if text.count(old) != 1:
                sys.exit(f"mutants: src/engine/{name} has not, or not once, what {mutant[1]!r} changes")
            (engine / name).write_text(text.replace(old, new))
    sources = [*engine.glob("*.c"), *(ROOT / "src" / "sim").glob("*.c")]
    program = folder / "sim"
    subprocess.run([os.environ.get("CC") or "cc", "-std=gnu17", "-D_GNU_SOURCE", "-O1", "-w",
                    f"-I{engine}", f"-I{ROOT / 'src' / 'sim'}", "-o", program, *sources], check=True)
    return program


def find(program):
    """Seconds and the line that says what broke; None: nothing did."""
    begin = time.monotonic()
    with subprocess.Popen([program, "--seeds", "1000000", "--no-shrink"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as run:
        try:
            out, _ = run.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            run.terminate()
            return None
    why = [line for line in out.splitlines() if line.startswith("# ")]
    return time.monotonic() - begin, why[0][2:] if why else "?"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, metavar="N", help="the first N bugs")
    args = parser.parse_args()
    missed = 0
    for mutant in MUTANTS[:args.only]:
        with tempfile.TemporaryDirectory(prefix="samepage-mutant-") as folder:
            found = find(build(pathlib.Path(folder), mutant))
        missed += not found
        said = f"found in {found[0]:.1f} s: {found[1]}" if found else f"NOT found in {LONGEST} s"
        print(f"{mutant[0]}: {mutant[1]}: {said}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
