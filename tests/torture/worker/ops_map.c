/* SPDX-License-Identifier: Apache-2.0 */
/* X: munmap, mmap(MAP_FIXED), mremap, brk, shmat: the new mapping stands, nothing is mapped over
 * it. */
#include <errno.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "worker.h"

#define BRK_PAGES 512u
#define OWN_STEP  64u /* mappings that one operation changes */

static bool failed(const char *what)
{
    if (!lacking(what))
        wrong("the call failed", what);
    return false;
}

/* mremap refuses a range of several mappings, which what was done to it may have left. Then the
 * block is made anew, as one. */
static bool not_moved(struct block *b, const char *what)
{
    int err = errno;
    void *map;

    if (err != EFAULT)
        return failed(what);
    map = pages_map(NULL, b->npages, 0);
    if (map == MAP_FAILED)
        return failed(what);
    if (munmap(b->base, (size_t)b->npages * PAGE)) {
        failed(what);
        munmap(map, (size_t)b->npages * PAGE);
        return false;
    }
    b->base = map;
    for (uint32_t i = 0; i < b->npages; i++)
        page_fill(page_at(b, i), &b->page[i]);
    return false;
}

/* By libc's function, or by syscall(2): the gate has both. */
static int unmap(void *at, size_t bytes, uint64_t *state)
{
    return chance(state) % 2 ? munmap(at, bytes) : (int)syscall(SYS_munmap, at, bytes);
}

static void *remap(void *at, size_t from, size_t to, int flags, void *where, uint64_t *state)
{
    return chance(state) % 2 ? mremap(at, from, to, flags, where)
                             : (void *)syscall(SYS_mremap, at, from, to, flags, where);
}

/* Gone, and somewhere else: what was there must not come back. */
OP(op_munmap)
{
    size_t bytes = (size_t)b->npages * PAGE;
    void *map;

    block_check_some(b, state, "before munmap");
    map = pages_map(NULL, b->npages, 0);
    if (map == MAP_FAILED)
        return failed("munmap: mmap");
    if (unmap(b->base, bytes, state)) {
        failed("munmap");
        munmap(map, bytes);
        return false;
    }
    b->base = map;
    block_zeroed(b, 0, b->npages, "munmap");
    block_refill(b, 0, b->npages, state);
    return true;
}

/* All pages but [first, first + n), which are unmapped, to a new place. */
static void relocate(struct block *b, uint32_t first, uint32_t n)
{
    char *map;

    while ((map = pages_map(NULL, b->npages, 0)) == MAP_FAILED) {
        failed("munmap-part: mmap");
        pause_ms(10);
    }
    for (uint32_t i = 0; i < b->npages; i++) {
        if (i == first)
            i += n;
        if (i < b->npages)
            memcpy(map + (size_t)i * PAGE, page_at(b, i), PAGE);
    }
    while (first && munmap(b->base, (size_t)first * PAGE))
        pause_ms(10);
    while (first + n < b->npages &&
           munmap(page_at(b, first + n), (size_t)(b->npages - first - n) * PAGE))
        pause_ms(10);
    b->base = map;
}

OP(op_munmap_part)
{
    uint32_t first, n;
    void *map;

    block_stretch(b, state, 128, &first, &n);
    block_check(b, first, n, "before munmap-part");
    if (unmap(page_at(b, first), (size_t)n * PAGE, state))
        return failed("munmap-part");
    if (chance(state) % 2)
        pause_ms(1);
    map = pages_map(page_at(b, first), n, MAP_FIXED_NOREPLACE);
    if (map == MAP_FAILED)
        relocate(b, first, n); /* another thread's mapping lies there by now */
    block_zeroed(b, first, n, "munmap-part");
    block_check_some(b, state, "beside munmap-part");
    block_refill(b, first, n, state);
    return true;
}

OP(op_mmap_fixed)
{
    uint32_t first, n;

    block_stretch(b, state, 256, &first, &n);
    block_check(b, first, n, "before mmap-fixed");
    if (pages_map(page_at(b, first), n, MAP_FIXED) == MAP_FAILED)
        return failed("mmap-fixed");
    if (chance(state) % 2)
        pause_ms(1);
    block_zeroed(b, first, n, "mmap-fixed");
    block_refill(b, first, n, state);
    block_check_some(b, state, "beside mmap-fixed");
    return true;
}

/* A file's pages over them, then anonymous memory again. */
OP(op_mmap_file)
{
    uint32_t first, n;
    void *map;

    block_stretch(b, state, 16, &first, &n);
    for (uint32_t i = first; i < first + n; i++)
        if (pwrite(a->file, page_at(b, i), PAGE, (off_t)(i - first) * PAGE) != PAGE)
            return errno == ENOSPC ? false : (wrong("pwrite failed", "mmap-file"), false);
    map = mmap(page_at(b, first), (size_t)n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
               a->file, 0);
    if (map == MAP_FAILED)
        return failed("mmap-file");
    pause_ms((unsigned)chance(state) % 3);
    block_check(b, first, n, "mmap-file");
    for (uint32_t i = first; i < first + n; i += 2)
        block_rewrite(b, i, page_chosen(b, i, state));
    pause_ms((unsigned)chance(state) % 3);
    block_check(b, first, n, "written mmap-file");
    while (pages_map(page_at(b, first), n, MAP_FIXED) == MAP_FAILED) {
        failed("mmap-file: back");
        pause_ms(10);
    }
    block_zeroed(b, first, n, "mmap-file: back");
    return true;
}

OP(op_mremap_move)
{
    size_t bytes = (size_t)b->npages * PAGE;
    char *place = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *now;

    if (place == MAP_FAILED)
        return failed("mremap-move: mmap");
    block_check_some(b, state, "before mremap-move");
    now = remap(b->base, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place, state);
    if (now == MAP_FAILED) {
        int err = errno;

        munmap(place, bytes);
        errno = err;
        return b->pins && err == EFAULT ? false : not_moved(b, "mremap-move");
    }
    if (now != place)
        wrong("not at the place that was asked for", "mremap-move");
    b->base = now;
    block_check_some(b, state, "mremap-move");
    return true;
}

OP(op_mremap_grow)
{
    uint32_t more = b->max_pages - b->npages, old = b->npages;
    char *now;

    if (!more)
        return false;
    more = 1 + (uint32_t)(chance(state) % more);
    block_check_some(b, state, "before mremap-grow");
    now = remap(b->base, (size_t)old * PAGE, (size_t)(old + more) * PAGE, MREMAP_MAYMOVE, NULL,
                state);
    if (now == MAP_FAILED)
        return b->pins ? false : not_moved(b, "mremap-grow");
    b->base = now;
    b->npages += more;
    block_zeroed(b, old, more, "mremap-grow");
    block_refill(b, old, more, state);
    block_check_some(b, state, "mremap-grow");
    return true;
}

OP(op_mremap_shrink)
{
    uint32_t less = b->npages / 2;

    if (less < 8 || b->max_pages == b->npages)
        return false;
    less = 1 + (uint32_t)(chance(state) % less);
    if (remap(b->base, (size_t)b->npages * PAGE, (size_t)(b->npages - less) * PAGE, 0, NULL,
              state) != b->base)
        return not_moved(b, "mremap-shrink");
    b->npages -= less;
    block_check_some(b, state, "mremap-shrink");
    return true;
}

OP(op_mremap_dontunmap)
{
    size_t bytes = (size_t)b->npages * PAGE;
    char *now, *old = b->base;

    block_check_some(b, state, "before mremap-dontunmap");
    now = remap(old, bytes, bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL, state);
    if (now == MAP_FAILED && errno == EINVAL)
        return false;
    if (now == MAP_FAILED)
        return not_moved(b, "mremap-dontunmap");
    b->base = now;
    block_check_some(b, state, "mremap-dontunmap");
    for (uint32_t i = 0; i < b->npages; i += 7)
        page_check_zero(old + (size_t)i * PAGE, "the old place of mremap-dontunmap");
    while (munmap(old, bytes)) {
        failed("mremap-dontunmap: munmap");
        pause_ms(10);
    }
    return true;
}

/* The heap's end is one for all threads; malloc was told to leave it alone (main.c). */
OP(op_brk)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct page page[BRK_PAGES];
    static uint32_t npages;
    static char *start;
    uint32_t want = (uint32_t)(chance(state) % (BRK_PAGES + 1));
    bool done = false;

    if (pthread_mutex_trylock(&lock))
        return false;
    if (!start)
        start = (char *)(((uintptr_t)sbrk(0) + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    for (uint32_t i = 0; i < npages; i++)
        page_check(start + (size_t)i * PAGE, &page[i], true, "brk");
    if (brk(start + (size_t)want * PAGE)) {
        failed("brk");
        goto out;
    }
    for (uint32_t i = npages; i < want; i++) {
        page_check_zero(start + (size_t)i * PAGE, "brk");
        page[i] = (struct page){.kind = KIND_EQUAL, .number = i};
        page_fill(start + (size_t)i * PAGE, &page[i]);
    }
    npages = want;
    done = true;
out:
    pthread_mutex_unlock(&lock);
    return done;
}

OP(op_shmat)
{
    uint32_t first, n;
    int id;

    block_stretch(b, state, 16, &first, &n);
    id = shmget(IPC_PRIVATE, (size_t)n * PAGE, IPC_CREAT | 0600);
    if (id < 0)
        return false;
    block_check(b, first, n, "before shmat");
    if (shmat(id, page_at(b, first), SHM_REMAP) == (void *)-1) {
        shmctl(id, IPC_RMID, NULL);
        return failed("shmat");
    }
    shmctl(id, IPC_RMID, NULL);
    block_zeroed(b, first, n, "shmat");
    block_refill(b, first, n, state);
    block_check(b, first, n, "written shmat");
    while (pages_map(page_at(b, first), n, MAP_FIXED) == MAP_FAILED) {
        failed("shmat: back");
        pause_ms(10);
    }
    block_zeroed(b, first, n, "shmat: back");
    return true;
}

/* A program that has many mappings of its own: every second page of a reservation is readable. */
OP(op_own_mappings)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static char *area;
    static uint32_t at;
    uint32_t pages = 2 * (options.mappings ? options.mappings : 256);
    bool done = true;

    if (pthread_mutex_trylock(&lock))
        return false;
    if (!area) {
        area = mmap(NULL, (size_t)pages * PAGE, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (area == MAP_FAILED)
            area = NULL;
        done = area || failed("own-mappings");
    }
    for (uint32_t k = 0; area && k < OWN_STEP * (at < pages ? 16 : 1); k++) {
        uint32_t i = at < pages ? at : (uint32_t)(chance(state) % pages) & ~1u;
        int protection = at < pages || chance(state) % 2 ? PROT_READ | PROT_WRITE : PROT_NONE;

        if (mprotect(area + (size_t)i * PAGE, PAGE, protection))
            done = failed("own-mappings");
        else if (at < pages)
            at += 2;
        if (!done)
            break;
    }
    pthread_mutex_unlock(&lock);
    return done;
}
