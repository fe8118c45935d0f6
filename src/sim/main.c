/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samepage-sim: runs the engine on the simulated machine from many seeds, on all processors. A run
 * that fails is made short and printed; --replay runs what was printed.
 */
#include "sim.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEPS   400u
#define WORKERS 64u
#define HANGS   60u /* seconds: a run takes a hundredth of one */

static const char *const path_names[SIM_PATHS] = {
    "K6 merged",
    "K6 changed",
    "K6 pinned",
    "K6 gone",
    "K8 shared by fork",
    "K17 attributes",
    "out of mappings",
    "out of memory",
    "K3 volatile",
    "K6 equal hashes, other bytes",
    "K7 first merge taken back",
    "K8 site adopted",
    "K8 copied from fork",
    "K9 frame forgotten",
    "K9 frame lingered",
    "K10 at the limit",
    "K11 write to a site",
    "K13 all un-merged",
    "K13 memory short",
    "K13 busy",
    "D1 daemon killed",
    "D2 agent dead",
    "D4 exit",
    "D4 exit in a call",
    "fork in a call",
    "agent stalled",
    "answer lost",
    "fill refused",
    "fill failed",
    "pool gave no frame",
    "engine short of memory",
    "T3 joined while un-merging",
    "frame freed unused",
    "retry of passed-over pages",
    "K11 page made plain again",
    "K14 chain of several frames",
    "K14 frame full",
    "K14 change refused",
    "K15 page of zeros given back",
    "K15 page not given back",
    "K16 page skipped",
    "K16 advised",
    "N1 nodes kept apart",
    "N1 page on another node",
    "N2 change refused",
    "N2 changed",
    "N3 frame moved by the kernel",
    "N4 page balanced",
    "H2 waited for a drain",
    "H2 drain done",
    "H2 drain cancelled",
    "H3 frame migrated",
    "H3 frame renumbered",
    "H4 node pruned",
    "H5 no room",
    "S1 evicted",
    "S2 second chance",
    "S3 try again",
    "S3 cannot",
    "S4 locked site",
    "S5 used by others only",
    "S6 came back shared",
    "S6 came back as a copy",
    "S7 write to an evicted site",
    "S8 read error",
    "S8 corruption",
    "S9 merged into an evicted frame",
    "S10 slot freed",
    "S11 copy in or after run 2",
    "S11 left in the store",
    "S swap cache",
    "T1 node of a frame in the store",
    "T2 mapped without a site",
    "T4 the other merge_across_nodes",
};

/* What the workers share. */
struct shared {
    uint64_t next, done; /* seeds */
    uint64_t failed;     /* a seed that failed; 0: none */
    char rule[8];        /* that it broke */
    uint64_t count[WORKERS][SIM_PATHS];
    uint64_t running[WORKERS];
};

static uint64_t scratch[SIM_PATHS];

static const char *run_here(const struct sim_list *list, uint32_t *at)
{
    static char error[256];

    return sim_run(list, scratch, error, at);
}

/* The rule that the failure names, so that making it short does not end at another one's; "" where
 * the engine stopped at an assertion of its own. */
static char rule[8];

static void name_rule(const char *error, char name[sizeof(rule)])
{
    size_t length = error ? strcspn(error, ": ") : 0;

    snprintf(name, sizeof(rule), "%.*s", (int)length, error ? error : "");
}

/* In a child of its own: what stops at an assertion has failed, too. */
static bool fails(const struct sim_list *list)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        char name[sizeof(rule)];
        const char *why;
        uint32_t at;

        alarm(HANGS);
        why = run_here(list, &at);
        name_rule(why, name);
        _exit(why && strcmp(name, rule) == 0);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid &&
           (rule[0] ? WIFEXITED(status) && WEXITSTATUS(status) == 1 : WIFSIGNALED(status));
}

static void print_list(const struct sim_list *list)
{
    for (uint32_t i = 0; i < list->n; i++)
        printf("%s %u %u %u\n", sim_step_name(list->step[i].kind), list->step[i].a, list->step[i].b,
               list->step[i].c);
}

static int show_failure(struct sim_list *list)
{
    const char *why = NULL;
    int status = 0;
    uint32_t at = 0;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        alarm(HANGS);
        why = run_here(list, &at);
        printf("# %s, at step %u of %u\n", why ? why : "nothing failed", at, list->n);
        fflush(stdout);
        _exit(why != NULL);
    }
    if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status))
        printf("# an assertion of the engine did not hold (signal %d)\n", WTERMSIG(status));
    return status ? 1 : 0;
}

static bool keep_long; /* --no-shrink */

static int report_failure(uint64_t seed, uint32_t steps, const char *failed_rule)
{
    struct sim_list *list = malloc(sizeof(*list));

    if (!list)
        return 1;
    sim_list_make(list, seed, steps);
    snprintf(rule, sizeof(rule), "%s", failed_rule);
    printf("seed %" PRIu64 " fails:\n", seed);
    show_failure(list);
    if (!keep_long) {
        fprintf(stderr, "samepage-sim: making it short ...\n");
        sim_shrink(list, fails);
        printf("the same, made short (save it as a file, and --replay it):\n");
        show_failure(list);
        print_list(list);
    }
    free(list);
    return 1;
}

/* --real: the list for real memory, on stdout. */
static int write_list(const struct sim_list *list)
{
    char error[256];

    if (!sim_list_write(list, error))
        return fflush(stdout) ? 1 : 0;
    fprintf(stderr, "samepage-sim: %s\n", error);
    return 1;
}

static int write_seed(uint64_t seed, uint32_t steps)
{
    struct sim_list *list = malloc(sizeof(*list));
    int status;

    if (!list)
        return 1;
    sim_list_make(list, seed, steps);
    status = write_list(list);
    free(list);
    return status;
}

static int replay(const char *name, bool real)
{
    struct sim_list *list = calloc(1, sizeof(*list));
    char line[256], word[32];
    FILE *file = fopen(name, "r");
    int status = 2;

    if (!list || !file) {
        fprintf(stderr, "samepage-sim: cannot read %s: %s\n", name, strerror(errno));
        goto out;
    }
    for (unsigned number = 1; fgets(line, sizeof(line), file); number++) {
        struct sim_step *step = &list->step[list->n];

        if (line[0] == '#' || line[0] == '\n')
            continue;
        if (list->n == SIM_STEPS_MAX ||
            sscanf(line, "%31s %" SCNu32 " %" SCNu32 " %" SCNu32, word, &step->a, &step->b,
                   &step->c) != 4 ||
            sim_step_kind(word) < 0) {
            fprintf(stderr, "samepage-sim: %s:%u: this is no step\n", name, number);
            goto out;
        }
        step->kind = (uint8_t)sim_step_kind(word);
        list->n++;
    }
    status = real ? write_list(list) : show_failure(list);
out:
    if (file)
        fclose(file);
    free(list);
    return status;
}

static void work(struct shared *shared, unsigned me, uint64_t end, uint32_t steps)
{
    static struct sim_list list;
    char error[256];
    uint32_t at;

    for (;;) {
        uint64_t seed = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);

        if (seed >= end || __atomic_load_n(&shared->failed, __ATOMIC_RELAXED))
            exit(0);
        shared->running[me] = seed;
        alarm(HANGS); /* an engine that does not come back has failed, too */
        sim_list_make(&list, seed, steps);
        if (sim_run(&list, shared->count[me], error, &at)) {
            uint64_t none = 0;

            if (__atomic_compare_exchange_n(&shared->failed, &none, seed, false, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST))
                name_rule(error, shared->rule);
            exit(1);
        }
        __atomic_fetch_add(&shared->done, 1, __ATOMIC_RELAXED);
    }
}

/* Waits for all workers; one that did not end well names its seed. */
static void wait_workers(struct shared *shared, const pid_t *pids, unsigned n, bool talk,
                         uint64_t all)
{
    unsigned left = n;

    while (left) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);

        if (pid == 0) {
            if (talk)
                fprintf(stderr, "\r%" PRIu64 " of %" PRIu64 " seeds", shared->done, all);
            usleep(100000);
            continue;
        }
        if (pid < 0)
            break;
        left--;
        for (unsigned i = 0; status && i < n; i++)
            if (pids[i] == pid && !shared->failed)
                shared->failed = shared->running[i];
    }
    if (talk)
        fprintf(stderr, "\r%30s\r", "");
}

static int report_counts(const struct shared *shared, unsigned n, uint64_t seeds, bool all_paths)
{
    int status = 0;

    printf("%" PRIu64 " seeds, no failure\n", seeds);
    for (unsigned p = 0; p < SIM_PATHS; p++) {
        uint64_t sum = 0;

        for (unsigned i = 0; i < n; i++)
            sum += shared->count[i][p];
        printf("%14" PRIu64 "  %s\n", sum, path_names[p]);
        if (sum == 0 && all_paths) {
            printf("this path was never taken: %s\n", path_names[p]);
            status = 1;
        }
    }
    return status;
}

static int search(uint64_t first, uint64_t seeds, uint32_t steps, unsigned jobs)
{
    struct shared *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[WORKERS];
    unsigned n = 0;

    if (shared == MAP_FAILED)
        return 1;
    shared->next = first;
    fflush(stdout);
    for (; n < jobs; n++) {
        pids[n] = fork();
        if (pids[n] == 0)
            work(shared, n, first + seeds, steps);
        if (pids[n] < 0)
            break;
    }
    if (n == 0)
        return 1;
    wait_workers(shared, pids, n, isatty(STDERR_FILENO), seeds);
    if (shared->failed)
        return report_failure(shared->failed, steps, shared->rule);
    return report_counts(shared, n, seeds, seeds >= 5000);
}

static void usage(FILE *out)
{
    fputs("usage: samepage-sim [--seeds N] [--first S] [--steps N] [--jobs N]\n"
          "       samepage-sim --seed S | --replay FILE [--real]\n"
          "Runs the engine on a simulated machine. A failure prints its seed and a short list of "
          "steps.\n"
          "  --seeds N     how many runs (1000)\n"
          "  --first S     the first seed (1)\n"
          "  --seed S      one run\n"
          "  --steps N     of each run (400, at most 4096)\n"
          "  --jobs N      processes at once (one for each processor)\n"
          "  --no-shrink   do not make a failure short\n"
          "  --replay FILE the steps in FILE\n"
          "  --real        print the list for real processes, and what must be so there, as JSON\n"
          "Exit status: 0 all held, 1 something did not, 2 wrong use.\n",
          out);
}

static bool number_of(const char *word, uint64_t most, uint64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoull(word, &end, 10);
    if (*word >= '0' && *word <= '9' && !*end && !errno && *out >= 1 && *out <= most)
        return true;
    fprintf(stderr, "samepage-sim: %s is not a number from 1 to %" PRIu64 "\n", word, most);
    return false;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seeds", 1, NULL, 'n'},     {"first", 1, NULL, 'f'}, {"seed", 1, NULL, 's'},
        {"steps", 1, NULL, 't'},     {"jobs", 1, NULL, 'j'},  {"replay", 1, NULL, 'r'},
        {"no-shrink", 0, NULL, 'l'}, {"real", 0, NULL, 'e'},  {"help", 0, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t seeds = 1000, first = 1, steps = STEPS;
    uint64_t jobs = processors > 0 && processors < (long)WORKERS ? (uint64_t)processors : 1;
    const char *file = NULL;
    bool real = false;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        bool good = true;

        switch (option) {
        case 'n':
            good = number_of(optarg, 1000000000, &seeds);
            break;
        case 'f':
            good = number_of(optarg, UINT64_MAX / 2, &first);
            break;
        case 's':
            good = number_of(optarg, UINT64_MAX / 2, &first);
            seeds = 1;
            break;
        case 't':
            good = number_of(optarg, SIM_STEPS_MAX, &steps);
            break;
        case 'j':
            good = number_of(optarg, WORKERS, &jobs);
            break;
        case 'l':
            keep_long = true;
            break;
        case 'r':
            file = optarg;
            break;
        case 'e':
            real = true;
            break;
        case 'h':
            usage(stdout);
            return 0;
        default:
            good = false;
        }
        if (!good) {
            usage(stderr);
            return 2;
        }
    }
    if (optind < argc) {
        usage(stderr);
        return 2;
    }
    if (file)
        return replay(file, real);
    if (real && seeds != 1) {
        fprintf(stderr, "samepage-sim: --real needs --seed or --replay\n");
        usage(stderr);
        return 2;
    }
    if (real)
        return write_seed(first, (uint32_t)steps);
    return search(first, seeds, (uint32_t)steps, (unsigned)jobs);
}
