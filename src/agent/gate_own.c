/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that open a file to read it: is it one of the two that a merged program has of its own?
 *
 * Every open of the program comes here, so the native call is followed by nothing but a look at the
 * path: at its last bytes. The kernel has just read it. Should another thread have unmapped or
 * protected anything near it meanwhile, it is the agent that reads it: a fault of this one would be
 * the program's. No call of ours is made before the name is one of the two.
 */
#include <linux/fcntl.h>

#include "gate_inside.h"
#include "mem.h"
#include "own_file.h"
#include "sys.h"

#ifndef __NR_open
#define __NR_open (-1)
#endif

#define PATH_BYTES 4096u /* a longer one the kernel refuses */
#define WORD       sizeof(uint64_t)
#define TAIL       3u /* words: room for the longer name, and for what stands before it */
#define NOT_PLAIN  (O_ACCMODE | O_CREAT | O_TRUNC | O_DIRECTORY | O_PATH)

/* When the open began. */
struct moment {
    uint32_t epoch;
    bool quiet; /* no call that takes memory away was under way */
    uint64_t begun;
};

/* The bytes of a word that are 0 have their high bit set in the result; those above the lowest such
 * one may have it, too. */
static uint64_t zeros_in(uint64_t word)
{
    const uint64_t ones = 0x0101010101010101u;

    return (word - ones) & ~word & (ones << 7);
}

static bool ends_in(const uint8_t *end, const char *name, size_t length)
{
    return end[-1] == (uint8_t)name[length - 1] && memcmp(end - length, name, length) == 0;
}

/* What stands before the first byte is no byte of a name; so the word before the first reads as /.
 */
static inline __attribute__((always_inline)) bool
is_named(uint64_t path, bool (*read)(uint64_t addr, uint64_t *word))
{
    uint64_t at = path & ~(uint64_t)(WORD - 1), zeros, word, tail[TAIL + 1];
    const uint8_t *end;

    memset(tail, '/', sizeof(tail));
    if (!read(at, &word))
        return false;
    memset(&word, '/', path - at);
    while (!(zeros = zeros_in(word))) {
        at += WORD;
        tail[0] = tail[1];
        tail[1] = tail[2];
        tail[2] = word;
        if (at - path >= PATH_BYTES || !read(at, &word))
            return false;
    }
    tail[TAIL] = word;
    end = (const uint8_t *)&tail[TAIL] + __builtin_ctzll(zeros) / 8;
    return ends_in(end, "/ksm_stat", 9) || ends_in(end, "/ksm_merging_pages", 18);
}

bool sp_own_is_named(uint64_t path, bool (*read)(uint64_t addr, uint64_t *word))
{
    return is_named(path, read);
}

static bool read_here(uint64_t addr, uint64_t *word)
{
    *word = __atomic_load_n((const uint64_t *)addr, __ATOMIC_RELAXED);
    return true;
}

static bool agent_finds_it_named(struct sp_gate_pass *pass, uint64_t path)
{
    bool named;

    sp_gate_enter(pass);
    named = sp_gate_ask(pass, SP_GATE_OWN_NAME, path, 0) == 1;
    sp_gate_leave(pass);
    return named;
}

bool sp_gate_may_open_own(long nr, const long *a)
{
    long flags = (int)nr == __NR_open ? a[1] : a[2];

    return !(flags & NOT_PLAIN) && sp_own_socket && sp_load(&sp_gate.agent) == SP_GATE_AGENT;
}

/*
 * Did no gated call take anything away since then, or at least none anything near the path since that
 * epoch began? A call notes inside the gate what it changes, before it does, and again when it had left the
 * gate to ask for something; and an epoch begins when none is inside. So one that was under way then, and did
 * something after it, noted it in that epoch or a later one.
 */
static bool is_as_it_was(const struct moment *then, uint64_t path)
{
    return (then->quiet && !sp_removals_since(then->begun)) ||
           !sp_gate_changed_from(then->epoch, path, path + PATH_BYTES);
}

long sp_gate_open_file(struct sp_gate_pass *pass, long nr, const long *a)
{
    uint64_t path = (uint64_t)((int)nr == __NR_open ? a[0] : a[1]);
    struct moment before = {.epoch = sp_load(&sp_gate.epoch)};
    long fd;

    before.quiet = sp_removals_none(&before.begun);
    fd = sp_sys(nr, a[0], a[1], a[2], a[3]);
    if (sp_is_err(fd))
        return fd;
    if (is_as_it_was(&before, path) ? is_named(path, read_here)
                                            : agent_finds_it_named(pass, path))
        sp_own_open(nr, a, (int)fd);
    return fd;
}
