/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moves memory that is many mappings by our doing as mremap moves one (X): all of it, or nothing.
 *
 * Mapping by mapping. Kernels since 6.17 move many by one call, which cannot be used (decision 0024): of
 * memory that is MADV_MERGEABLE each is first un-merged, which ends where a signal waits, and the kernel
 * then makes the call again from its start. With MREMAP_DONTUNMAP what was moved is moved over by the
 * empty memory that it left; without, it is unmapped already, and the call fails. And what fails on its
 * way for another reason does not tell how far it came.
 *
 * So the advice is taken away first, and given again at the end: then no move looks for signals. (One
 * alone, made again, would be right, too, but its target would be a hole meanwhile.)
 *
 * Where pieces were is kept by memory that nobody may touch until all is done: in a hole another thread's
 * mmap could lie, to which there is no way back.
 */
#include <errno.h>

#include <linux/mman.h>

#include "attributes.h"
#include "gate_inside.h"
#include "sys.h"

#define MOVE     (MREMAP_MAYMOVE | MREMAP_FIXED)
#define KEEP     (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE)
#define TRIES    1000u
#define SPARE    8u /* mappings */

struct spare {
    uint64_t at; /* 0: none */
};

/*
 * Pages kept to be given up: to go back may take a mapping or two more than there may be, for the kernel asks
 * for them before it unmaps what is there.
 */
static long keep_spare(struct spare *s)
{
    uint64_t page = sp_gate.page_size;
    long at = sp_sys(__NR_mmap, 0, SPARE * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (sp_is_err(at))
        return at;
    s->at = (uint64_t)at;
    for (uint64_t i = 1; i < SPARE; i += 2) {
        long ret = sp_sys(__NR_mprotect, s->at + i * page, page, PROT_READ);

        if (ret)
            return ret;
    }
    return 0;
}

static void drop_spare(struct spare *s)
{
    if (s->at)
        sp_sys(__NR_munmap, s->at, SPARE * sp_gate.page_size);
    s->at = 0;
}

/* How long a mapping at from would be if it reached into what is surely mapped above it: us, or the stack. 0 if
 * both lie below. */
static uint64_t too_long(uint64_t from)
{
    uint64_t us = (uint64_t)&sp_gate, stack = (uint64_t)__builtin_frame_address(0);
    uint64_t above = us > stack ? us : stack;

    return above > from ? sp_gate_page_up(above + 1) - from : 0;
}

/* Only one mapping can grow; it never does here, because something is mapped in its way. The kernel looks at that
 * last. */
bool sp_gate_is_one_mapping(uint64_t from, uint64_t length)
{
    uint64_t longer = too_long(from);

    if (!longer) {
        if (sp_sys(__NR_msync, from + length, sp_gate.page_size, MS_ASYNC) != 0)
            return false;
        longer = length + sp_gate.page_size;
    }
    return sp_sys(__NR_mremap, from, length, longer, 0) != -EFAULT;
}

/* How much of [from, from + length) is moved next: surely of one mapping, at least a page. The last one's length
 * is the first to be tried. */
static uint64_t next_piece(uint64_t from, uint64_t length, uint64_t last)
{
    uint64_t piece = last < length ? last : length;

    if (!sp_gate_is_one_mapping(from, piece)) {
        do
            piece = (piece / 2) & ~((uint64_t)sp_gate.page_size - 1);
        while (piece > sp_gate.page_size && !sp_gate_is_one_mapping(from, piece));
        return piece ? piece : sp_gate.page_size;
    }
    while (piece < length) {
        uint64_t more = 2 * piece < length ? 2 * piece : length;

        if (!sp_gate_is_one_mapping(from, more))
            break;
        piece = more;
    }
    return piece;
}

/* A place that was left, and is to be come back to: 0, or a negative errno; -EEXIST: another thread's memory is
 * there by now. */
static long keep_place(uint64_t at, uint64_t length)
{
    long ret = sp_sys(__NR_mmap, at, length, PROT_NONE, KEEP, -1, 0);

    if (sp_is_err(ret) || ret == (long)at)
        return sp_is_err(ret) ? ret : 0;
    sp_sys(__NR_munmap, ret, length); /* a kernel that takes the address for a hint */
    return -EEXIST;
}

struct progress {
    uint64_t done; /* so much is at its new place, */
    uint64_t kept; /* and so much of where it was is kept: all of it but where another thread came between */
};

/* With DONTUNMAP it is still mapped. Else, if that takes the last mapping, the spare ones go, and there is no next
 * piece. What cannot be kept for another reason (another's memory is there, too much would be locked) is not come
 * back to. */
static bool keep_piece(uint64_t at, uint64_t length, long flags, struct spare *spare)
{
    long ret = flags ? 0 : keep_place(at, length);

    if (ret == -ENOMEM) {
        drop_spare(spare);
        ret = keep_place(at, length);
    }
    return ret == 0;
}

/* Never by copying the bytes: the pages themselves may lie in a pipe (gate_splice.c), or be pinned. */
static long move_pieces(uint64_t from, uint64_t length, uint64_t to, long flags, struct spare *spare, struct progress *p)
{
    uint64_t piece = length;

    *p = (struct progress){0};
    while (p->done < length) {
        long ret = 0;

        piece = next_piece(from + p->done, length - p->done, piece);
        if (spare && !spare->at && piece < length)
            ret = keep_spare(spare);
        if (ret != -ENOMEM)
            ret = sp_sys(__NR_mremap, from + p->done, piece, piece, MOVE | flags, to + p->done);
        if (sp_is_err(ret))
            return ret;
        if (spare && piece < length && p->kept == p->done && keep_piece(from + p->done, piece, flags, spare))
            p->kept += piece;
        p->done += piece;
    }
    return 0;
}

/* The kernel may lack a little memory. It is tried until there is some, and given up only where the program is as
 * good as lost: then what is missing is no more than kept, so that nobody takes zeros for it. */
static void move_back(uint64_t from, uint64_t length, uint64_t to)
{
    struct progress p;
    uint64_t done = 0;

    for (unsigned n = 0; n < TRIES && done < length; n++) {
        move_pieces(to + done, length - done, from + done, 0, NULL, &p);
        done += p.done;
    }
    if (done < length)
        sp_sys(__NR_mprotect, from + done, length - done, PROT_NONE);
}

/* A kernel without KSM does not know the advice. */
static long unadvise(uint64_t from, uint64_t length)
{
    long ret = sp_sys(__NR_madvise, from, length, MADV_UNMERGEABLE);

    return ret == -EINVAL ? 0 : ret;
}

long sp_gate_move(uint64_t from, uint64_t length, uint64_t to, long flags, uint32_t attributes, uint64_t *left)
{
    bool advised = attributes & SP_RANGE_ADVISED;
    struct progress p = {0};
    struct spare spare = {0};
    long ret = advised ? unadvise(from, length) : 0;

    if (!ret)
        ret = move_pieces(from, length, to, flags, &spare, &p);
    drop_spare(&spare);
    *left = ret ? p.done : 0;
    if (ret)
        move_back(from, p.kept, to);
    else if (p.kept && !flags)
        sp_sys(__NR_munmap, from, p.kept);
    if (advised && !ret)
        sp_sys(__NR_madvise, to, length, MADV_MERGEABLE);
    if (advised && (ret || flags))
        sp_sys(__NR_madvise, from, length, MADV_MERGEABLE);
    return ret;
}
