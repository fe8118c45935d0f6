# SPDX-License-Identifier: Apache-2.0
"""Why a figure falls short of its target, by the target's name: shown beside it.

Each was found by measuring on one machine. A figure that is short for another reason on another
machine gets the wrong one here.
"""

_MAPPINGS = ("each run of frames is a mapping of its own, and a program may spend only a quarter of "
             "vm.max_map_count on them")

REASONS = {
    "redis-cpu": "of 2.8 us a page 1.5 are reading and copying memory once: hashing, comparing with the "
                 "frame, filling the frame (docs/decisions/0008-cpu-of-a-merge.md); the rest is moving, "
                 "mapping and freeing pages, and messages",
    "idle-redis": "to look for writes costs about a microsecond a mapping, beside 13 ns a page, and "
                  "each run of frames is a mapping",
    "load-set": "the first write to a page after it was looked at is a page fault, and so is the first to "
                "a merged page, which becomes the server's own again",
    "gate-1": "a jump, saving all registers, and an atomic exchange with a cache line of the thread's: 37 ns "
              "where a plain munmap takes 150, more where it takes longer",
    "gate-8": "eight threads wait for each other at the kernel's lock of their mappings: on two processors a "
              "plain munmap takes 260 to 550 ns, from round to round, and the medians of nine rounds lie "
              "40 ns more or less apart",
    "net-made-run1": f"{_MAPPINGS}: single pages between pages without partner use them up",
    "net-node": "four Node programs use 795 to 815 MiB unmerged from start to start, a difference of up to "
                "10 % of what is saved; the daemon's 10 MiB and 3 MiB of the kernel's for mappings and page "
                "tables stand against ksmd's 14 MiB",
    "touch-file": "one page alone is the same read of the disk, and the way to the store's server and back, 10 us, more where "
                  "the processors are busy and the server's thread of another one takes the request; in order, where eight "
                  "pages are one read of half the size, it is faster than a swap file",
    "net-made-run4": "each run of frames is a mapping, and so is the page between two of them: the "
                     "kernel needs about 270 bytes for each, and samepage about 22 for each page",
}
