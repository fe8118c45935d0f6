/* SPDX-License-Identifier: Apache-2.0 */
/* The frames of the store's worker: kept, out, and back (store_process.h). */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store_worker_inside.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define FILL_TRIES   3u
#define HOLD_TRIES   3u /* who touches a frame just before it is held has it in memory */
#define ANSWER_LOOKS 400u
#define ANSWER_USECS 50

/* By a read, not through the view: an error is an error then, and not the end of the process. */
static bool read_cached(struct sp_store_worker *w, const struct sp_store_segment *s, uint32_t index,
                        void *to)
{
    return pread(s->fd, to, w->page_size, (off_t)(index * w->page_size)) == (ssize_t)w->page_size;
}

static enum sp_store_result make_copy(struct sp_store_worker *w, uint32_t id, uint32_t index)
{
    const struct sp_store_segment *s = w->segment[id];

    if (sp_store_has(w->run.store, sp_store_frame(id, index)))
        return SP_STORE_DONE;
    if (!sp_store_bit(s->marks->kept, index) || !read_cached(w, s, index, w->page) ||
        sp_store_put(w->run.store, sp_store_frame(id, index), w->page))
        return SP_STORE_CANNOT;
    return SP_STORE_DONE;
}

void sp_frames_mark(uint64_t *map, uint32_t index, uint32_t n, bool is)
{
    for (uint32_t i = 0; i < n; i++)
        sp_store_set_bit(map, index + i, is);
}

/*
 * Pages of which there are copies, as far as they are in memory, in runs. One that is being read in
 * now is not yet: the kernel would have us wait for the server's answer, and if that one is dead
 * nobody could end us. Its server tells that it is back.
 */
static void drop(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result)
{
    struct sp_store_segment *s = w->segment[ask->segment];
    unsigned char there[SP_STORE_PAGES];

    if (mincore(s->view + ask->index * w->page_size, ask->n * w->page_size, there))
        memset(there, 1, sizeof(there));
    for (uint32_t i = 0, n; i < ask->n; i += n ? n : 1) {
        for (n = 0; i + n < ask->n && result[i + n] == SP_STORE_DONE && (there[i + n] & 1);)
            n++;
        if (!n && result[i] == SP_STORE_DONE)
            sp_store_set_bit(s->marks->kept, ask->index + i, false);
        if (!n)
            continue;
        /* First: who touches it at once is news. */
        sp_frames_mark(s->marks->back, ask->index + i, n, false);
        sp_frames_mark(s->marks->kept, ask->index + i, n, false);
        if (sp_store_fuse_drop(w->run.dev, ask->segment, ask->index + i, n))
            memset(result + i, SP_STORE_AGAIN, n);
    }
}

void sp_frames_evict(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result)
{
    for (uint32_t i = 0; i < ask->n; i++)
        result[i] = (uint8_t)make_copy(w, ask->segment, ask->index + i);
    drop(w, ask, result);
}

static void mark_held(struct sp_store_worker *w, bool is)
{
    const struct sp_store_notes *notes = w->notes;

    for (uint32_t i = 0; i < notes->hold_n; i++)
        sp_store_set_bit(w->segment[notes->hold_segment]->marks->held, notes->hold_index[i], is);
}

void sp_frames_hold_again(struct sp_store_worker *w)
{
    mark_held(w, true);
}

/* Nobody answers any more who knew nothing of what is held. */
static bool wait_for_answers(const struct sp_store_worker *w)
{
    for (unsigned n = 0; n < ANSWER_LOOKS; n++) {
        if (!__atomic_load_n(&w->notes->reading, __ATOMIC_SEQ_CST))
            return true;
        usleep(ANSWER_USECS);
    }
    return false;
}

static bool in_memory(const struct sp_store_worker *w, const struct sp_store_segment *s,
                      uint32_t index)
{
    unsigned char there;

    return !s->view || mincore(s->view + index * w->page_size, w->page_size, &there) || (there & 1);
}

/* None of those that are held: what the kernel is moving elsewhere is not dropped, either. */
static int none_in_memory(const struct sp_store_worker *w)
{
    const struct sp_store_notes *notes = w->notes;
    const struct sp_store_segment *s = w->segment[notes->hold_segment];

    for (uint32_t i = 0; i < notes->hold_n; i++)
        if (in_memory(w, s, notes->hold_index[i]))
            return -EAGAIN;
    return 0;
}

static bool drop_one(struct sp_store_worker *w, uint32_t segment, uint32_t index)
{
    struct sp_store_ask page = {.segment = segment, .index = index, .n = 1};
    uint8_t result = SP_STORE_DONE;

    drop(w, &page, &result);
    return result == SP_STORE_DONE;
}

/*
 * Before they are held: what is in memory is locked there, or dropped. Then nobody but us can drop it, see
 * drop_held(). *locked: bit i for index[i].
 */
static void lock_or_drop(struct sp_store_worker *w, uint32_t segment, const uint16_t *index,
                         uint32_t n, uint64_t *locked)
{
    struct sp_store_segment *s = w->segment[segment];

    memset(locked, 0, SP_STORE_HELD / 8);
    for (uint32_t i = 0; i < n; i++) {
        char *page = s->view + index[i] * w->page_size;

        if (!in_memory(w, s, index[i]))
            continue;
        if (s->locks && !madvise(page, w->page_size, MADV_POPULATE_READ))
            sp_store_set_bit(locked, i, true);
        else
            (void)drop_one(w, segment, index[i]);
    }
}

/*
 * Frames that are held, as far as they are in memory, and locked. Of others no page may be dropped: if the
 * kernel did at that moment, and somebody touched it, he would wait for the frame with the new page locked,
 * and so would we, for him.
 */
static int drop_held(struct sp_store_worker *w, const uint64_t *locked)
{
    const struct sp_store_notes *notes = w->notes;
    struct sp_store_segment *s = w->segment[notes->hold_segment];

    if (!wait_for_answers(w))
        return -EAGAIN;
    for (uint32_t i = 0; i < notes->hold_n; i++)
        if (!sp_store_bit(locked, i))
            sp_store_set_bit(s->marks->kept, notes->hold_index[i], false);
        else if (!drop_one(w, notes->hold_segment, notes->hold_index[i]))
            return -EIO;
    return none_in_memory(w);
}

int sp_frames_drop_again(struct sp_store_worker *w)
{
    return none_in_memory(w);
}

/* All or none, and noted first: the next process holds them, too. */
int sp_frames_hold(struct sp_store_worker *w, uint32_t segment, const uint16_t *index, uint32_t n,
                   uint32_t pid, uint64_t born)
{
    struct sp_store_notes *notes = w->notes;
    uint64_t locked[SP_STORE_HELD / 64];
    int err = -EAGAIN;

    if (notes->hold_n) /* the same, which a worker that was killed meanwhile had done? */
        return notes->hold_segment == segment && notes->hold_n == n && !notes->hold_pid && !pid &&
                       !memcmp(notes->hold_index, index, n * sizeof(*index))
                   ? 0
                   : -EBUSY;
    for (uint32_t i = 0; i < n; i++)
        if (make_copy(w, segment, index[i]) != SP_STORE_DONE)
            return -ENOSPC;
    for (unsigned i = 0; i < HOLD_TRIES && err == -EAGAIN; i++) {
        lock_or_drop(w, segment, index, n, locked);
        memcpy(notes->hold_index, index, n * sizeof(*index));
        notes->hold_segment = segment;
        notes->hold_pid = pid;
        notes->hold_born = born;
        __atomic_store_n(&notes->hold_n, n, __ATOMIC_RELEASE);
        mark_held(w, true);
        err = drop_held(w, locked);
        if (err)
            (void)sp_frames_release(w);
    }
    return err;
}

int sp_frames_release(struct sp_store_worker *w)
{
    if (!w->notes->hold_n)
        return -ENOENT;
    mark_held(w, false);
    __atomic_store_n(&w->notes->hold_n, 0, __ATOMIC_RELEASE);
    return 0;
}

bool sp_frames_is_held(const struct sp_store_worker *w, uint32_t segment, uint32_t index,
                       uint32_t n)
{
    const struct sp_store_notes *notes = w->notes;

    for (uint32_t i = 0; i < notes->hold_n && notes->hold_segment == segment; i++)
        if (notes->hold_index[i] >= index && notes->hold_index[i] - index < n)
            return true;
    return false;
}

static bool keep(struct sp_store_worker *w, struct sp_store_segment *s, uint32_t index, uint32_t n)
{
    if (!s->locks || madvise(s->view + index * w->page_size, n * w->page_size, MADV_POPULATE_READ))
        return false;
    sp_frames_mark(s->marks->kept, index, n, true);
    return true;
}

int sp_frames_fill(struct sp_store_worker *w, const struct sp_store_ask *ask)
{
    struct sp_store_segment *s = w->segment[ask->segment];
    int err = 0;

    for (uint32_t i = 0; i < ask->n; i++) /* of a life before */
        sp_store_drop(w->run.store, sp_store_frame(ask->segment, ask->index + i));
    sp_frames_mark(s->marks->back, ask->index, ask->n, false);
    sp_frames_mark(s->marks->lost, ask->index, ask->n, false);
    sp_frames_mark(s->marks->told, ask->index, ask->n, false);
    /* First: what the kernel drops before it is locked must not come back as zeros. */
    sp_frames_mark(s->marks->filled, ask->index, ask->n, true);
    /* Between the two the kernel may drop pages: it is told again. */
    for (unsigned i = 0; i < FILL_TRIES && s->locks; i++) {
        err = sp_store_fuse_fill(w->run.dev, ask->segment, ask->index, ask->n, w->pages);
        if (err)
            return err;
        if (keep(w, s, ask->index, ask->n))
            return 0;
    }
    for (uint32_t i = 0; i < ask->n && !err; i++)
        err = sp_store_put(w->run.store, sp_store_frame(ask->segment, ask->index + i),
                           w->pages + i * w->page_size);
    return err ? err : sp_store_fuse_fill(w->run.dev, ask->segment, ask->index, ask->n, w->pages);
}

/* A copy goes only when its page is locked. */
void sp_frames_bring(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result)
{
    struct sp_store_segment *s = w->segment[ask->segment];

    for (uint32_t i = 0; i < ask->n; i++) {
        uint32_t index = ask->index + i;

        result[i] = SP_STORE_CANNOT;
        if (!sp_store_bit(s->marks->kept, index) &&
            !sp_store_has(w->run.store, sp_store_frame(ask->segment, index)))
            continue;
        if (!read_cached(w, s, index, w->page))
            continue;
        result[i] = SP_STORE_DONE;
        if (!keep(w, s, index, 1))
            continue;
        sp_store_drop(w->run.store, sp_store_frame(ask->segment, index));
        sp_store_set_bit(s->marks->back, index, false);
    }
}

uint32_t sp_frames_filled(const struct sp_store_worker *w, uint32_t segment)
{
    const struct sp_store_marks *marks = w->segment[segment]->marks;
    uint32_t n = SP_POOL_SEGMENT_PAGES;

    while (n && !sp_store_bit(marks->filled, n - 1))
        n--;
    return n;
}

bool sp_frames_ours_alone(const struct sp_store_worker *w, uint32_t segment)
{
    unsigned n = 0;

    for (uint32_t i = 1; i <= w->notes->openings && i < SP_STORE_OPENINGS; i++)
        n += w->notes->opening[i].segment == segment;
    return n <= 1;
}

void sp_frames_forget(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result)
{
    if (!sp_frames_ours_alone(w, ask->segment)) {
        sp_frames_evict(w, ask, result);
        return;
    }
    memset(result, SP_STORE_DONE, ask->n);
    drop(w, ask, result);
    sp_frames_mark(w->segment[ask->segment]->marks->filled, ask->index, ask->n, false);
    for (uint32_t i = 0; i < ask->n; i++)
        sp_store_drop(w->run.store, sp_store_frame(ask->segment, ask->index + i));
}

void sp_frames_get(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result)
{
    struct sp_store_segment *s = w->segment[ask->segment];

    for (uint32_t i = 0; i < ask->n; i++) {
        uint32_t index = ask->index + i;
        char *to = w->pages + i * w->page_size;
        int err;

        err = sp_store_get(w->run.store, sp_store_frame(ask->segment, index), to);
        if (err == -ENOENT && sp_store_bit(s->marks->kept, index) && read_cached(w, s, index, to))
            err = 0;
        result[i] = err ? SP_STORE_CANNOT : SP_STORE_DONE;
    }
}

int sp_frames_where(struct sp_store_worker *w, const struct sp_store_ask *ask, uint8_t *result)
{
    const struct sp_store_segment *s = w->segment[ask->segment];
    unsigned char there[SP_STORE_PAGES];

    if (mincore(s->view + ask->index * w->page_size, ask->n * w->page_size, there))
        return -errno;
    for (uint32_t i = 0; i < ask->n; i++)
        result[i] = !(there[i] & 1) &&
                            sp_store_has(w->run.store, sp_store_frame(ask->segment, ask->index + i))
                        ? SP_STORE_AGAIN
                        : SP_STORE_DONE;
    return 0;
}

/* Takes the bits of one map as news, but for those of told, where they are set then. False: there
 * is no more room. */
static bool tell_map(struct sp_store_answer *to, uint32_t id, uint64_t *map, uint64_t *told)
{
    for (uint32_t w = 0; w < SP_STORE_WORDS; w++)
        while (map[w]) {
            uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(map[w]);

            if (to->n == SP_STORE_NEWS)
                return false;
            if (!told || !sp_store_bit(told, i))
                to->news[to->n++] = (struct sp_store_news){sp_store_frame(id, i), told != NULL};
            if (told)
                sp_store_set_bit(told, i, true);
            sp_store_set_bit(map, i, false);
        }
    return true;
}

void sp_frames_tell(struct sp_store_worker *w, struct sp_store_answer *to)
{
    struct sp_store_counters counters;
    bool room = true;

    for (uint32_t id = 1; id < SP_STORE_SEGMENTS && room; id++)
        if (w->segment[id])
            room = tell_map(to, id, w->segment[id]->marks->back, NULL) &&
                   tell_map(to, id, w->segment[id]->marks->lost, w->segment[id]->marks->told);
    sp_store_counters(w->run.store, &counters);
    to->write_errors = (uint32_t)counters.write_errors;
}
