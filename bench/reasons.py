# SPDX-License-Identifier: Apache-2.0
"""Why a figure falls short of its target, by the target's name: shown beside it.

Each was found by measuring on one machine. A figure that is short for another reason on another
machine gets the wrong one here.
"""

_MAPPINGS = ("each run of frames is a mapping of its own, and a program may spend only a quarter of "
             "vm.max_map_count on them")
_NODE = ("Node marks two fifths of its memory MADV_DONTFORK (flag dc), which a mapping of a frame "
         "would not have: it is left alone (K17)")
_DONTFORK = ("QEMU marks its guests' memory MADV_DONTFORK (flag dc), which a mapping of a frame would "
             "not have: it is left alone (K17)")

REASONS = {
    "redis-cpu": "about a fifth of the CPU is reading smaps again while merging itself changes the "
                 "mappings; every page is compared twice, in place and out of reach, and written to "
                 "its frame once",
    "idle-redis": "to look for writes costs about a microsecond a mapping, beside 13 ns a page, and "
                  "each run of frames is a mapping",
    "load-set": "each pass write-protects what was written since the last one, to see whether it is "
                "quiet now: three SETs in four have a page fault, with ksmd one in eight",
    "qemu-pages": _DONTFORK,
    "net-qemu": _DONTFORK,
    "node-pages": _NODE,
    "net-node": _NODE,
    "net-made-run1": f"{_MAPPINGS}: single pages between pages without partner use them up",
    "net-made-run4": "each run of frames is a mapping, and so is the page between two of them: the "
                     "kernel needs about 270 bytes for each, and samepage about 22 for each page",
}
