/* SPDX-License-Identifier: Apache-2.0 */
/* What may have pages pinned (pins.h): the texts of /proc, and this process itself. */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#include "pins.h"

static const char mountinfo[] =
    "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
    "27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard\n"
    "28 27 0:25 / /mnt/a\\040b ro - fuse.sshfs host:/ ro\n"
    "290 27 0:26 / /srv rw - nfs4 host:/srv rw\n";

static void status_tells_of_pinned_memory(void **state)
{
    (void)state;
    assert_int_equal(sp_pins_of_status("Name:\tx\nFDSize:\t64\nVmPin:\t       0 kB\n"), SP_PINS_NONE);
    assert_int_equal(sp_pins_of_status("FDSize:\t64\nVmPin:\t       4 kB\n"), SP_PINS_MEMORY);
    /* The first thread has ended: its list of descriptors is empty, the others' is not. */
    assert_int_equal(sp_pins_of_status("FDSize:\t0\nVmPin:\t0 kB\n"), SP_PINS_UNKNOWN);
    assert_int_equal(sp_pins_of_status("FDSize:\t64\n"), SP_PINS_UNKNOWN);
    assert_int_equal(sp_pins_of_status(""), SP_PINS_UNKNOWN);
    /* A name may hold anything but a new line. */
    assert_int_equal(sp_pins_of_status("Name:\tVmPin: 0 FDSize: 9\n"), SP_PINS_UNKNOWN);
}

static void mappings_tell_of_contexts(void **state)
{
    (void)state;
    assert_int_equal(sp_pins_of_mapping("7f00-7f10 rw-s 00000000 00:12 77  /[aio] (deleted)\n"),
                     SP_PINS_AIO);
    assert_int_equal(sp_pins_of_mapping("7f00-7f10 rw-s 08000000 00:0f 12  anon_inode:[io_uring]\n"),
                     SP_PINS_IO_URING);
    assert_int_equal(sp_pins_of_mapping("7f00-7f10 rw-p 00000000 00:00 0\n"), SP_PINS_NONE);
    assert_int_equal(sp_pins_of_mapping("7f00-7f10 r--p 00000000 fe:00 3  /lib/libaio.so.1\n"),
                     SP_PINS_NONE);
}

static void links_tell_of_kinds(void **state)
{
    static const struct {
        const char *link;
        enum sp_pins_link kind;
        enum sp_pins why;
    } all[] = {
        {"pipe:[1]", SP_PINS_LINK_FINE, SP_PINS_NONE},
        {"anon_inode:[eventfd]", SP_PINS_LINK_FINE, SP_PINS_NONE},
        {"socket:[12]", SP_PINS_LINK_SOCKET, SP_PINS_NONE},
        {"/dev/null", SP_PINS_LINK_FILE, SP_PINS_NONE},
        {"/memfd:x (deleted)", SP_PINS_LINK_FILE, SP_PINS_NONE},
        {"anon_inode:[io_uring]", SP_PINS_LINK_OTHER, SP_PINS_IO_URING},
        {"anon_inode:bpf-map", SP_PINS_LINK_OTHER, SP_PINS_DEVICE}, /* may pin by pointers in its values */
        {"anon_inode:kvm-vm", SP_PINS_LINK_OTHER, SP_PINS_DEVICE},
        {"anon_inode:[vfio-device]", SP_PINS_LINK_OTHER, SP_PINS_DEVICE},
        {"anon_inode:[eventfd", SP_PINS_LINK_OTHER, SP_PINS_DEVICE},
        {"", SP_PINS_LINK_OTHER, SP_PINS_DEVICE},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        enum sp_pins why;

        assert_int_equal(sp_pins_of_link(all[i].link, &why), all[i].kind);
        assert_int_equal(why, all[i].why);
    }
}

static void fdinfo_and_mounts_are_read(void **state)
{
    unsigned flags;
    char type[16];
    int mount;

    (void)state;
    assert_true(sp_pins_fdinfo("pos:\t0\nflags:\t0140001\nmnt_id:\t27\nino:\t5\n", &flags, &mount));
    assert_int_equal(flags & O_DIRECT, O_DIRECT);
    assert_int_equal(mount, 27);
    assert_false(sp_pins_fdinfo("pos:\t0\nflags:\t0140001\n", &flags, &mount));
    assert_true(sp_pins_mount_type(mountinfo, 27, type, sizeof(type)));
    assert_string_equal(type, "ext4");
    assert_true(sp_pins_mount_type(mountinfo, 28, type, sizeof(type)));
    assert_string_equal(type, "fuse.sshfs");
    assert_false(sp_pins_type_copies(type));
    assert_true(sp_pins_mount_type(mountinfo, 290, type, sizeof(type)));
    assert_false(sp_pins_type_copies(type));
    assert_false(sp_pins_mount_type(mountinfo, 29, type, sizeof(type)));
    assert_false(sp_pins_mount_type(mountinfo, 27, type, 4)); /* no room */
    assert_false(sp_pins_mount_type("27 1 0:1 / / rw", 27, type, sizeof(type)));
    assert_true(sp_pins_type_copies("ext4"));
    assert_false(sp_pins_type_copies("overlay")); /* what lies below it is not known */
    assert_false(sp_pins_type_copies("zfs"));     /* direct=always */
    assert_false(sp_pins_type_copies("fuse"));
    assert_true(sp_pins_protocol_copies("TCP"));
    assert_false(sp_pins_protocol_copies("XDP"));
    assert_false(sp_pins_protocol_copies(""));
}

static void tls_tells_of_receivers(void **state)
{
    (void)state;
    assert_false(sp_pins_tls_receives("TlsCurrTxSw\t1\nTlsCurrRxSw\t0\nTlsCurrTxDevice\t1\nTlsCurrRxDevice\t0\n"));
    assert_true(sp_pins_tls_receives("TlsCurrTxSw                     \t0\nTlsCurrRxSw                     \t2\n"));
    assert_true(sp_pins_tls_receives("TlsCurrRxSw\t0\nTlsCurrRxDevice\t1\n"));
    assert_false(sp_pins_tls_receives(""));
}

/* The test's own descriptors may be anything: only the kinds of reasons are told apart. */
static bool is_clean(enum sp_pins pins)
{
    return pins == SP_PINS_NONE;
}

static void own_process_is_looked_at(void **state)
{
    char path[] = "/var/tmp/samepage-test-pins-XXXXXX";
    int event, sock, memfd, direct;

    (void)state;
    if (!is_clean(sp_pins_look(getpid())))
        skip(); /* started with something unusual open */
    event = eventfd(0, EFD_CLOEXEC);
    sock = socket(AF_UNIX, SOCK_STREAM, 0);
    memfd = memfd_create("x", MFD_CLOEXEC);
    assert_true(is_clean(sp_pins_look(getpid())));
    direct = mkostemp(path, O_DIRECT);
    unlink(path);
    if (direct >= 0) {
        enum sp_pins pins = sp_pins_look(getpid());

        assert_true(pins == SP_PINS_DIRECT || pins == SP_PINS_FILESYSTEM);
        close(direct);
        assert_true(is_clean(sp_pins_look(getpid())));
    }
    close(event);
    close(sock);
    close(memfd);
    assert_int_equal(sp_pins_look(0x7fffffff), SP_PINS_UNKNOWN);
}

/* A ring is seen by its descriptor, and when that is closed by its mapping. */
static void a_ring_outlives_its_descriptor(void **state)
{
    struct io_uring_params params = {0};
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *ring;
    int fd;

    (void)state;
    fd = is_clean(sp_pins_look(getpid())) ? (int)syscall(SYS_io_uring_setup, 4, &params) : -1;
    if (fd < 0)
        skip(); /* not allowed here */
    assert_int_equal(sp_pins_look(getpid()), SP_PINS_IO_URING);
    ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    assert_true(ring != MAP_FAILED);
    close(fd);
    assert_int_equal(sp_pins_look(getpid()), SP_PINS_IO_URING);
    munmap(ring, size);
    assert_true(is_clean(sp_pins_look(getpid())));
}

static void look_at_node(mode_t type, dev_t device, enum sp_pins expected)
{
    char path[] = "/var/tmp/samepage-test-pins-XXXXXX";
    int fd = mkstemp(path), made;

    assert_true(fd >= 0);
    close(fd);
    unlink(path);
    made = mknod(path, type | 0600, device);
    if (made)
        skip(); /* not allowed here */
    fd = open(path, O_PATH); /* of a device that need not be there */
    unlink(path);
    assert_true(fd >= 0);
    assert_int_equal(sp_pins_look(getpid()), expected);
    close(fd);
}

static void devices_are_told_apart(void **state)
{
    (void)state;
    if (!is_clean(sp_pins_look(getpid())))
        skip();
    look_at_node(S_IFBLK, makedev(1, 3), SP_PINS_DEVICE);
    look_at_node(S_IFCHR, makedev(1, 3), SP_PINS_NONE); /* null */
    look_at_node(S_IFCHR, makedev(10, 196), SP_PINS_DEVICE); /* vfio */
}

static void unusual_sockets_are_seen(void **state)
{
    int fd;

    (void)state;
    fd = is_clean(sp_pins_look(getpid())) ? socket(AF_PACKET, SOCK_RAW, 0) : -1;
    if (fd < 0)
        skip();
    assert_int_equal(sp_pins_look(getpid()), SP_PINS_SOCKET);
    close(fd);
}

static void every_kind_has_a_name(void **state)
{
    (void)state;
    for (int i = 0; i < SP_PINS_KINDS; i++)
        assert_true(strlen(sp_pins_name((enum sp_pins)i)) > 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_tells_of_pinned_memory), cmocka_unit_test(mappings_tell_of_contexts),
        cmocka_unit_test(links_tell_of_kinds),           cmocka_unit_test(fdinfo_and_mounts_are_read),
        cmocka_unit_test(own_process_is_looked_at), cmocka_unit_test(tls_tells_of_receivers),
        cmocka_unit_test(a_ring_outlives_its_descriptor), cmocka_unit_test(devices_are_told_apart),
        cmocka_unit_test(unusual_sockets_are_seen),
        cmocka_unit_test(every_kind_has_a_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
