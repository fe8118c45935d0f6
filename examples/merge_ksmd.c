/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same memory as merge_now's, merged by the kernel's ksmd: advised, and waited for. For root,
 * on a machine where nothing else uses KSM: it sets run, pages_to_scan and sleep_millisecs, and
 * puts them back.
 *
 * Done is when a whole pass of ksmd merged nothing more of this process.
 */
#include <inttypes.h>
#include <signal.h>

#include "memory.h"

#define KSM "/sys/kernel/mm/ksm/"

static const char *const knob[] = {"sleep_millisecs", "pages_to_scan", "run"};
static const char *const value[] = {"0", "1000000", "1"};
static char old[3][32];

static bool file_read(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(text, (int)size, f);

    if (f)
        fclose(f);
    return ok;
}

static bool knob_write(const char *name, const char *text)
{
    char path[128];
    FILE *f;
    bool ok;

    snprintf(path, sizeof(path), KSM "%s", name);
    f = fopen(path, "we");
    ok = f && fputs(text, f) >= 0;
    return f && fclose(f) == 0 && ok;
}

static uint64_t number(const char *path)
{
    char text[32] = "0";

    file_read(path, text, sizeof(text));
    return strtoull(text, NULL, 10);
}

/* Bytes that this process takes, shared pages by its share of them: here all of them. */
static long long bytes_used(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    long long kib = 0;
    char line[256];

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "Pss: %lld kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib * 1024;
}

static void put_back(void)
{
    for (unsigned i = 3; i-- > 0;)
        if (old[i][0])
            knob_write(knob[i], old[i]);
}

static void on_signal(int sig)
{
    put_back();
    _exit(128 + sig);
}

static bool set_all(void)
{
    char path[128];

    for (unsigned i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), KSM "%s", knob[i]);
        if (!file_read(path, old[i], sizeof(old[i])))
            return false;
    }
    if (strtoul(old[2], NULL, 10) == 1) {
        fprintf(stderr, "KSM runs already: its figures would be somebody else's\n");
        old[0][0] = old[1][0] = old[2][0] = 0;
        return false;
    }
    for (unsigned i = 0; i < 3; i++)
        if (!knob_write(knob[i], value[i]))
            return false;
    return true;
}

static void wait_merged(void)
{
    const struct timespec nap = {.tv_nsec = 1000000};
    uint64_t scans = number(KSM "full_scans"), first = scans, merged = 0, now;

    for (;;) {
        nanosleep(&nap, NULL);
        now = number(KSM "full_scans");
        if (now == scans)
            continue;
        scans = now;
        now = number("/proc/self/ksm_merging_pages");
        if (scans >= first + 4 && now == merged)
            return;
        merged = now;
    }
}

int main(int argc, char **argv)
{
    struct memory memory;
    long long before;
    double began, took;
    int ret = 1;

    if (!make_memory(&memory, argc, argv))
        return 2;
    before = bytes_used();
    began = seconds();
    if (madvise(memory.start, memory.length, MADV_MERGEABLE)) {
        perror("MADV_MERGEABLE");
        return 1;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    if (!set_all()) {
        fprintf(stderr, "KSM cannot be set: it needs root, and a kernel that has it\n");
        goto out;
    }
    wait_merged();
    took = seconds() - began;
    if (!is_intact(&memory)) {
        fprintf(stderr, "wrong bytes\n");
        goto out;
    }
    printf("%" PRIu64 " of %zu pages merged in %.3f s, %.1f MiB saved\n",
           number("/proc/self/ksm_merging_pages"), memory.npages, took,
           (double)(before - bytes_used()) / (1 << 20));
    ret = 0;
out:
    put_back();
    return ret;
}
