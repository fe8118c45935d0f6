/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The constructor: runs before main(), mostly in the program's only thread (early_threads.c). Whatever is missing, the
 * program runs as if samepage were not there, and one line says why.
 */
#include <elf.h>
#include <errno.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/time_types.h>

#include "agent.h"
#include "attributes.h"
#include "clone.h"
#include "gate.h"
#include "gate_inside.h"
#include "linked.h"
#include "linked_start.h"
#include "mem.h"
#include "own_file.h"
#include "sitemap.h"
#include "socket_path.h"
#include "sys.h"

#define WALL 0x40000000
#define BLOCK    0 /* of rt_sigprocmask */
#define SET_MASK 2
#define FUTEX_WAIT_PRIVATE_OP 128
#define FUTEX_WAKE_PRIVATE_OP 129
#define FILE_BYTES (16ull << 20) /* more than any file in memory that is made for the program */
#define SPAWN_SECONDS 2 /* an agent that is killed meanwhile says nothing */

struct sp_agent sp_agent = {.sock = -1, .uffd = -1, .uffd_sync = -1, .pagemap = -1, .smaps = -1,
                            .program_status = -1, .program_statm = -1, .program_stat = -1, .own_statm = -1,
                            .pidfd = -1, .coredump = -1, .maps = -1, .stall = -1};

struct start {
    bool forked;
    bool adopts; /* the program is given the orphans among its descendants as children */
    bool untold; /* who makes the agent ends with SIGCHLD */
    long helper, agent;
    uint32_t spawned; /* a futex: the agent is confined, or ends */
};

static struct start start;

static void agent_entry(void *arg)
{
    (void)arg;
    sp_fault_point("agent-born");
    sp_agent_main(start.forked);
}

/* The program waits for this process, and so for the agent, without a system call more of its own. */
static void wait_spawned(void)
{
    struct __kernel_timespec limit = {.tv_sec = SPAWN_SECONDS};

    while (!__atomic_load_n(&start.spawned, __ATOMIC_SEQ_CST) &&
           sp_sys(__NR_futex, &start.spawned, FUTEX_WAIT_PRIVATE_OP, 0, &limit) != -ETIMEDOUT)
        ;
}

void sp_agent_spawned(void)
{
    __atomic_store_n(&start.spawned, 1, __ATOMIC_SEQ_CST);
    sp_sys(__NR_futex, &start.spawned, FUTEX_WAKE_PRIVATE_OP, 1);
}

/* A forked child has none of our descriptors yet. */
static void leave_files(void)
{
    if (start.forked)
        sp_sys(__NR_close_range, 0, ~0u, 0);
    else
        sp_close_others();
    sp_sys(__NR_chdir, "/");
}

/*
 * Between the program and the agent: so that the agent is nobody's child in the program (no zombie
 * of ours is ever left to it), it is made by a process that ends at once. A program that is given all
 * orphans would have it for an ordinary child then, and wait() for ever: there it is this process' brother,
 * a child that tells of its end by no signal, which only who asks for such (__WALL) is told of.
 */
static void helper_entry(void *apart)
{
    unsigned long brother = start.adopts ? CLONE_PARENT : 0;

    sp_fault_point("helper-born");
    if (!apart)
        leave_files();
    start.agent = sp_clone_vm(CLONE_VM | CLONE_UNTRACED | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | brother,
                              sp_agent.stack_top, &sp_gate_agent_tid, agent_entry, NULL);
    if (!sp_is_err(start.agent))
        wait_spawned();
    sp_sys(__NR_exit, 0);
}

/* Has the process between program and agent made, and waits until it is gone. */
static void make_helper(bool *apart)
{
    int status;

    start.helper = sp_clone_vm(CLONE_VM | CLONE_VFORK | CLONE_UNTRACED | (start.untold ? SIGCHLD : 0),
                               sp_agent.helper_stack_top, NULL, helper_entry, apart);
    while (!sp_is_err(start.helper) && sp_sys(__NR_wait4, start.helper, &status, WALL, 0) == -EINTR)
        ;
}

static void make_helper_apart(void *arg)
{
    bool apart = true;

    (void)arg;
    sp_fault_point("aside-born");
    leave_files();
    make_helper(&apart);
}

/*
 * The program may be killed at any time, and who then waits for its end is to find its pipes, sockets and locks
 * ended: so a thread, which ends with it, gives up the copies of its descriptors before a process is made. Where
 * there can be no thread (too many processes) that process gives them up itself: a moment longer they may outlive
 * the program. -EINVAL: the program's children are to be in another namespace of processes than it is, the first of
 * them as its first process, with which it ends. That is not to be one of ours.
 */
static int run_helper(void)
{
    long ret;

    /* The agent would end with the same signal where it is that process' brother. */
    start.untold = !start.adopts && sp_untold_begin(start.forked);
    ret = sp_aside(make_helper_apart, NULL, sp_agent.aside_stack_top);
    if (ret == -EINVAL)
        start.helper = ret;
    else if (ret)
        make_helper(NULL);
    if (start.untold)
        sp_untold_end();
    if (sp_is_err(start.helper))
        return (int)start.helper;
    return start.agent < 0 ? (int)start.agent : 0;
}

/*
 * Both processes begin with the program's handlers and in its process group: a signal to all of the group
 * would run a handler in them, on the program's memory, besides the program's own. They are born with all
 * signals blocked, and the agent keeps them so (sp_confine).
 */
int sp_agent_spawn(void)
{
    uint64_t all = ~(uint64_t)0, old = 0;
    int ret;

    start.agent = -11;
    start.spawned = 0;
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &all, &old, sizeof(all));
    ret = run_helper();
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &old, 0, sizeof(old));
    return ret;
}

void sp_agent_finish_plain(void)
{
    struct sp_range run = sp_agent.plain;

    if (!run.end)
        return;
    memcpy((void *)run.start, (const void *)sp_agent.staging, run.end - run.start);
    sp_agent.plain.end = 0;
}

void sp_agent_forked(void)
{
    /* By the copy of the parent's state: had it an agent? Until the child's is up, none serves: it is
     * before fork returns. */
    bool had = sp_gate.agent == SP_GATE_AGENT;

    /* A filter is the child's, too. */
    if (sp_gate.agent == SP_GATE_FILTERED && sp_gate.filter)
        return;
    sp_gate.agent = SP_GATE_NO_AGENT;
    /* Also where there was no agent, or what the child maps there would be taken for merged. */
    if (sp_gate.dontfork)
        sp_sites_drop_unmapped(0, ~0ull);
    if (!had)
        return;
    sp_agent.program_pid = (int)sp_sys(__NR_getpid);
    start.forked = true;
    start.adopts = sp_agent.program_pid == 1; /* it is born as no subreaper */
    sp_agent_spawn();
}

static const char *env_get(char **env, const char *name)
{
    size_t n = sp_strlen(name);

    for (; env && *env; env++)
        if (sp_starts(*env, name) && (*env)[n] == '=')
            return *env + n + 1;
    return NULL;
}

/*
 * Glibc's loader has it. Only that gives a constructor the arguments and the environment: another one's, into
 * whose program LD_PRELOAD comes because one that is merged started it, leaves what was in the registers.
 */
extern void *__libc_stack_end __attribute__((weak, visibility("default")));

static bool is_glibc(void)
{
    return &__libc_stack_end != NULL;
}

/* The auxiliary vector stands behind the environment. */
static uint64_t auxv_get(char **env, uint64_t type)
{
    const Elf64_auxv_t *aux;

    while (*env)
        env++;
    for (aux = (const Elf64_auxv_t *)(env + 1); aux->a_type != AT_NULL; aux++)
        if (aux->a_type == type)
            return aux->a_un.a_val;
    return 0;
}

static void read_comm(const char *name)
{
    const char *base = name;
    size_t n = 0;

    for (; *name; name++)
        if (*name == '/')
            base = name + 1;
    for (; base[n] && n + 1 < sizeof(sp_agent.comm); n++)
        sp_agent.comm[n] = base[n];
}

/* Is the program linked with libsamepage? */
extern const uint32_t SP_LINKED_MARK __attribute__((weak, visibility("default")));

static bool is_linked(void)
{
    return &SP_LINKED_MARK != NULL;
}

static bool quiet; /* nobody asked for it to be merged, but itself: it asks why not */

static bool can_merge(void)
{
    return sp_load(&sp_gate.agent) == SP_GATE_AGENT && !sp_agent.raw_calls && !sp_agent.gave_back;
}

static struct sp_linked linked = {.size = sizeof(linked), .socket = sp_agent.socket_path, .why = "",
                                  .merges = can_merge, .next_run = sp_sitemap_next,
                                  .constant = sp_linked_constant};

const struct sp_linked *samepage_agent_linked(void)
{
    return &linked;
}

/* Where standard error is a file that has reached RLIMIT_FSIZE, the signal that would kill is taken back. */
static void write_line(const char *line, size_t length)
{
    uint64_t too_large = 1ull << (SIGXFSZ - 1), old = 0;
    struct __kernel_timespec now = {0};

    sp_sys(__NR_rt_sigprocmask, BLOCK, &too_large, &old, sizeof(old));
    if (sp_sys(__NR_write, 2, line, length) == -EFBIG && !(old & too_large))
        sp_sys(__NR_rt_sigtimedwait, &too_large, 0, &now, sizeof(too_large));
    sp_sys(__NR_rt_sigprocmask, SET_MASK, &old, 0, sizeof(old));
}

static void say_why(const char *why)
{
    char line[512];
    struct sp_text text;

    linked.why = why;
    if (quiet)
        return;
    sp_text_init(&text, line, sizeof(line) - 1);
    sp_text_str(&text, "samepage: ");
    sp_text_str(&text, sp_agent.comm);
    sp_text_str(&text, " (pid ");
    sp_text_dec(&text, (uint64_t)sp_sys(__NR_getpid));
    sp_text_str(&text, ") is not merged: ");
    sp_text_str(&text, why);
    line[text.len++] = '\n';
    write_line(line, text.len);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        sp_sys(__NR_close, *fd);
    *fd = -1;
}

/* The program's own copies of the agent's descriptors. The agent keeps its numbers: its state is
 * shared, so they are closed here without being forgotten. */
static void close_programs_copies(void)
{
    int fds[] = {sp_agent.sock,    sp_agent.uffd,  sp_agent.uffd_sync,
                 sp_agent.pagemap, sp_agent.smaps, sp_agent.program_status,
                 sp_agent.program_statm, sp_agent.program_stat, sp_agent.pidfd};

    for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        close_fd(&fds[i]);
}

static void undo(void)
{
    sp_link_drop();
    close_fd(&sp_agent.uffd);
    close_fd(&sp_agent.uffd_sync);
    close_fd(&sp_agent.pagemap);
    close_fd(&sp_agent.smaps);
    close_fd(&sp_agent.program_status);
    close_fd(&sp_agent.program_statm);
    close_fd(&sp_agent.program_stat);
    close_fd(&sp_agent.pidfd);
}

static int mappings_left(char *why, size_t why_size)
{
    struct sp_text text;

    sp_text_init(&text, why, why_size);
    sp_ranges_refresh(true);
    if (sp_mappings_budget() >= 16)
        return 0;
    sp_text_str(&text, "vm.max_map_count (");
    sp_text_dec(&text, sp_agent.max_map_count);
    sp_text_str(&text, ") leaves no mappings to spare; raise it with sysctl");
    return -12;
}

/* Did something that began before us call mlockall(MCL_FUTURE)? Then new memory, ours too, is locked, or there is
 * no room for it. */
static bool locks_future(void)
{
    long page = sp_sys(__NR_mmap, 0, sp_agent.page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool locked;

    if (sp_is_err(page))
        return page == -EAGAIN;
    locked = sp_is_locked((uint64_t)page, sp_agent.page_size);
    sp_sys(__NR_munmap, page, sp_agent.page_size);
    return locked;
}

/*
 * RLIMIT_FSIZE holds for memfds, too, and the signal of who goes beyond it kills. While ours are written it is as
 * high as the program itself may set it; *old is to be set again afterwards. False: that is not enough.
 */
static bool raise_file_limit(struct rlimit64 *old)
{
    struct rlimit64 raised;

    if (sp_is_err(sp_sys(__NR_prlimit64, 0, RLIMIT_FSIZE, 0, old)))
        return false;
    raised = (struct rlimit64){old->rlim_max, old->rlim_max};
    return old->rlim_cur >= FILE_BYTES ||
           (old->rlim_max >= FILE_BYTES &&
            !sp_is_err(sp_sys(__NR_prlimit64, 0, RLIMIT_FSIZE, &raised, 0)));
}

static void lower_file_limit(const struct rlimit64 *old)
{
    if (old->rlim_cur < FILE_BYTES)
        sp_sys(__NR_prlimit64, 0, RLIMIT_FSIZE, old, 0);
}

/*
 * A daemon that ended while the program joined it may have a successor at once, which the agent finds as it finds that
 * of any other (D1), if it may still look for one then. Nothing is merged until then.
 */
static int join(char *why, size_t why_size)
{
    int ret = sp_link_join(0, why, why_size);

    return ret == -EAGAIN && sp_agent.address ? 0 : ret;
}

static int set_up(char *why, size_t why_size)
{
    int ret = sp_setup_arena();

    if (!ret)
        ret = sp_sitemap_init(sp_agent.page_size);
    if (ret) {
        struct sp_text text;

        sp_text_init(&text, why, why_size);
        sp_text_str(&text, "there is no address space left for it (ulimit -v)");
        return ret;
    }
    sp_track_init();
    ret = sp_setup_uffd(why, why_size);
    if (!ret)
        ret = sp_setup_proc(why, why_size);
    if (!ret)
        ret = sp_setup_areas();
    if (!ret)
        sp_address_seal();
    if (!ret)
        ret = join(why, why_size);
    if (!ret)
        ret = mappings_left(why, why_size);
    if (!ret)
        ret = sp_gate_install(why, why_size);
    sp_gate_no_ksm |= sp_agent.test_no_ksm;
    if (ret == SP_GATE_RAW_CALLS) {
        /* It has an agent all the same, which does nothing but tell why nothing is merged. */
        sp_agent.raw_calls = SP_EXPLAINED_RAW_CODE;
        sp_agent.raw_told = true;
        say_why(why);
        ret = 0;
    }
    return ret;
}

/* Our own commands are not worth it, and a daemon must not be its own client. */
static bool is_our_own(void)
{
    return sp_starts(sp_agent.comm, "samepage");
}

static void set_socket(const char *folder, const char *name)
{
    struct sp_text text;

    sp_text_init(&text, sp_agent.socket_path, sizeof(sp_agent.socket_path));
    sp_text_str(&text, folder);
    sp_text_str(&text, name);
}

static bool listens(void)
{
    bool answers = sp_link_dial() == 0;

    close_fd(&sp_agent.sock);
    return answers;
}

/* As sp_socket_choose() does (socket_path.h), for a program that nothing started for us. */
static void choose_socket(char **env)
{
    const char *own = env_get(env, "XDG_RUNTIME_DIR");

    if (own && *own && sp_sys(__NR_geteuid) != 0) {
        set_socket(own, "/samepage/samepage.sock");
        if (listens())
            return;
    }
    set_socket(SP_SYSTEM_SOCKET, "");
}

static bool read_settings(char **env)
{
    const char *socket = env_get(env, "SAMEPAGE_SOCKET"), *mode = env_get(env, "SAMEPAGE_MODE");
    const char *domain = env_get(env, "SAMEPAGE_DOMAIN");
    struct sp_text text;

    quiet = is_linked() && !mode;
    if (socket && sp_strlen(socket) >= sizeof(sp_agent.socket_path))
        return false;
    if (socket && *socket)
        set_socket(socket, "");
    else if (is_linked())
        choose_socket(env);
    else
        return false;
    if (domain) {
        sp_text_init(&text, sp_agent.domain, sizeof(sp_agent.domain));
        sp_text_str(&text, domain);
    }
    sp_agent.all = mode && sp_streq(mode, "all");
    sp_gate.advised_only = !sp_agent.all;
#ifdef SP_FAULT_POINTS
    if (env_get(env, "SAMEPAGE_FAULT"))
        sp_fault_set(env_get(env, "SAMEPAGE_FAULT"));
    sp_agent.test_features = env_get(env, "SAMEPAGE_TEST_FEATURES") != NULL;
    sp_agent.test_no_mseal = env_get(env, "SAMEPAGE_TEST_NO_MSEAL") != NULL;
    sp_agent.test_no_ksm = env_get(env, "SAMEPAGE_TEST_NO_KSM") != NULL;
    if (env_get(env, "SAMEPAGE_TEST_NODES_AT")) {
        const char *number = env_get(env, "SAMEPAGE_TEST_NODES_AT");

        sp_agent.test_nodes = sp_parse_dec(&number, number + sp_strlen(number));
    }
    sp_agent.test_hasty = env_get(env, "SAMEPAGE_TEST_HASTY") != NULL;
#endif
    return true;
}

/* The first process of its namespace is one, and who said so itself, before an exec. */
static bool is_reaper(void)
{
    int said = 0;

    sp_sys(__NR_prctl, PR_GET_CHILD_SUBREAPER, &said);
    return sp_agent.program_pid == 1 || said;
}

static bool is_preloaded(char **env)
{
    const char *list = env_get(env, "LD_PRELOAD");

    for (; list && *list; list++)
        if (sp_starts(list, "libsamepage"))
            return true;
    return false;
}

__attribute__((constructor, used)) static void sp_start(int argc, char **argv, char **env)
{
    static char why[300];
    struct rlimit64 limit;
    bool failed;
    int spawned;

    if (!is_glibc()) {
        sp_sys(__NR_prctl, PR_GET_NAME, sp_agent.comm);
        say_why("it uses another C library than glibc, into which samepage cannot go");
        return;
    }
    if (argc < 1 || !argv[0] || !env || auxv_get(env, AT_SECURE))
        return;
    read_comm(argv[0]);
    sp_agent.page_size = (uint32_t)auxv_get(env, AT_PAGESZ);
    if (!sp_agent.page_size || is_our_own() || !read_settings(env))
        return;
    if (!is_preloaded(env) && !sp_linked_is_needed()) {
        say_why("it loaded samepage after it began; link the program with libsamepage");
        return;
    }
    sp_agent.page_shift = (uint32_t)__builtin_ctz(sp_agent.page_size);
    sp_gate.page_size = sp_agent.page_size;
    sp_agent.program_pid = (int)sp_sys(__NR_getpid);
    sp_agent.hash = sp_hash_choose();
    if (sp_agent.all && sp_program_forbids()) {
        say_why("it forbids to look into it (not dumpable)");
        return;
    }
    if (locks_future()) {
        say_why("all that it maps is locked (mlockall(MCL_FUTURE)) since before samepage could see it");
        return;
    }
    if (!raise_file_limit(&limit)) {
        say_why("RLIMIT_FSIZE (ulimit -f) leaves no room for what samepage makes: 16 MiB");
        return;
    }
    failed = set_up(why, sizeof(why)) != 0;
    lower_file_limit(&limit);
    if (failed) {
        undo();
        say_why(why);
        return;
    }
    start.adopts = is_reaper();
    spawned = sp_agent_spawn();
    if (spawned) {
        undo();
        say_why(spawned == -EINVAL ? "its children are to be in another namespace of processes (unshare --pid); start it as "
                                     "a child of what made that (unshare --pid --fork)"
                                   : "its agent could not be started (too many processes?)");
        return;
    }
    close_programs_copies();
    sp_own_socket = sp_agent.socket_path;
    linked.page_size = sp_agent.page_size;
}
