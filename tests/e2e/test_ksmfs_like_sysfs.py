# SPDX-License-Identifier: Apache-2.0
"""ksmfs does with each file, and each odd use of one, what the kernel's own file on this machine does;
where it does not, docs/ksmfs.md says so and why, and DIFFERENT here has what it does."""

import errno
import fcntl
import mmap
import os
import select
import stat

import pytest

from lib.ksmfs import SYSFS

pytestmark = pytest.mark.alone  # it changes settings of the kernel's, which other tests look at

NUMBER, SWITCH = "sleep_millisecs", "smart_scan"
READ_ONLY = "pages_shared"
EXTRA = {"max_kernel_pages": "0o100644", "kernel_pages_allocated": "0o100444"}


def outcome(function, *args):
    """What it returns, or the name of its errno."""
    try:
        return function(*args)
    except OSError as error:
        return errno.errorcode[error.errno]


def opened(path, flags, then=lambda fd: "opened"):
    fd = os.open(path, flags)
    try:
        return then(fd)
    finally:
        os.close(fd)


def write(path, data, flags=os.O_WRONLY, offset=None):
    def do(fd):
        return os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)

    return outcome(opened, path, flags, do)


def read(path):
    return opened(path, os.O_RDONLY, lambda fd: os.read(fd, 4096))


def settable(path):
    """What can be written to get the value of the file back."""
    text = read(path)
    return text if b"[" not in text else text[text.index(b"[") + 1:text.index(b"]")]


@pytest.fixture
def both(ksmfs):
    """The two folders. The kernel's settings are put back."""
    if not SYSFS.exists():
        pytest.skip("this kernel has no KSM")
    if read(SYSFS / "run") != b"0\n":
        pytest.skip("KSM is in use on this machine")
    keys = [p.name for p in SYSFS.iterdir() if p.stat().st_mode & 0o200]
    before = {key: settable(SYSFS / key) for key in keys}
    yield SYSFS, ksmfs.path
    for key, value in before.items():
        if settable(SYSFS / key) != value:
            write(SYSFS / key, value)


def same(both, try_it):
    kernel, ours = (try_it(folder) for folder in both)
    assert ours == kernel


def all_same(both, try_it, whats):
    """As same(), of try_it(folder, what) for each; says which are not."""
    kernel, ours = ({what: try_it(folder, what) for what in whats} for folder in both)
    wrong = {what[:20]: (ours[what], kernel[what]) for what in whats if ours[what] != kernel[what]}
    assert not wrong, f"ours, the kernel's: {wrong}"


def test_every_file_is_there(both):
    """With its modes, owner and size; two more, of older kernels, and the folders of samepage's own."""
    def shape(folder):
        return {p.name: (oct(p.stat().st_mode), p.stat().st_size, p.stat().st_uid)
                for p in folder.iterdir() if p.is_file()}

    kernel, ours = map(shape, both)
    assert {key: ours.pop(key)[0] for key in EXTRA} == EXTRA
    # Of other kernels: one has no NUMA, another is older.
    assert {key: ours[key] for key in kernel} == kernel
    assert {p.name for p in both[1].iterdir() if p.is_dir()} == {"domains", "proc"}


def test_defaults_and_formats(ksmfs):
    """Of what the kernel has other defaults for, or what this machine has changed, only the format
    could be compared; so this has the defaults written out."""
    text = {p.name: p.read_text() for p in ksmfs.path.iterdir() if p.is_file()}
    for key, default in {
            "merge_across_nodes": "1", "use_zero_pages": "0", "stable_node_chains_prune_millisecs": "2000",
            "advisor_mode": "[none] scan-time", "advisor_max_cpu": "70", "advisor_min_pages_to_scan": "500",
            "advisor_max_pages_to_scan": "30000", "advisor_target_scan_time": "200",
            "max_kernel_pages": "0", "pages_shared": "0", "pages_sharing": "0", "ksm_zero_pages": "0",
            "stable_node_chains": "0", "stable_node_dups": "0", "kernel_pages_allocated": "0"}.items():
        assert (key, text.pop(key)) == (key, default + "\n")
    for key, value in text.items():
        assert value.endswith("\n") and value[:-1].lstrip("-").isdigit(), (key, value)


NUMBERS = (
    b"30", b"31\n", b"32\n\n", b"33 ", b" 34", b"+35", b"++35", b"+", b"-1", b"-0", b"036", b"0x25", b"1e3",
    b"4294967295", b"4294967296", b"18446744073709551615", b"18446744073709551616", b"9" * 99, b"", b"\n",
    b"\0", b"38\0", b"39\0\n", b"40\n\0", b"41x", b"4 1", b"0" * 60 + b"42", b"0" * 4094 + b"43",
    b"0" * 4095 + b"45", b"0" * 4096 + b"46", b"47" + b"\n" * 10, b"48\n49\n", b"50\0xyz", b"\t5", b"1_0",
    b"\xff", b"5" + b"\n" * 4095, b"0" * 100000)


def test_write_of_a_number(both):
    """Each is written, then the file is read."""
    def try_it(folder, data):
        write(folder / NUMBER, b"20")
        return write(folder / NUMBER, data), read(folder / NUMBER)

    all_same(both, try_it, NUMBERS)


SWITCHES = (b"1", b"0", b"2", b"y", b"Y", b"yes", b"n", b"No", b"on", b"ON", b"off",
            b"oFF", b"o", b"ox", b"t", b"true", b"f", b"false", b"x", b"", b"\n", b"1x",
            b"0x1", b"10", b" 1", b"1\n\n", b"\x001", b"e", b"d", b"enable", b"-1")


def test_write_of_a_switch(both):
    def try_it(folder, data):
        write(folder / SWITCH, b"1")
        first = write(folder / SWITCH, data), read(folder / SWITCH)
        write(folder / SWITCH, b"0")
        return first, write(folder / SWITCH, data), read(folder / SWITCH)

    all_same(both, try_it, SWITCHES)


# What is refused, and changes nothing.
REFUSED = {
    "run": [b"3", b"-1", b"x", b"\n", b"01x", b"4294967296"],
    "pages_to_scan": [b"4294967296", b"-1", b"x", b"\n"],
    "sleep_millisecs": [b"4294967296", b"-1", b"x"],
    "merge_across_nodes": [b"2", b"x", b"-1", b"18446744073709551616", b"4294967296"],
    "max_page_sharing": [b"1", b"0", b"x", b"2147483648", b"4294967296", b"18446744073709551616"],
    "use_zero_pages": [b"2", b"x"],
    "stable_node_chains_prune_millisecs": [b"4294967296", b"x", b"-1"],
    "advisor_mode": [b"x", b"\n", b"none ", b"[none]", b"nonex", b"scan", b"NONE", b"none\n\n", b"none\0x"],
    "advisor_max_cpu": [b"-1", b"x"],
    "advisor_min_pages_to_scan": [b"x", b"-1", b"18446744073709551616"],
    "advisor_max_pages_to_scan": [b"x", b"-1", b"18446744073709551616"],
    "advisor_target_scan_time": [b"0", b"x", b"-1", b"18446744073709551616"],
}


def test_refused_writes(both):
    def try_it(folder, key):
        before = read(folder / key)
        return [write(folder / key, data) for data in REFUSED[key]], read(folder / key) == before

    all_same(both, try_it, REFUSED)


# What is taken, and what the file says then. What starts or un-merges is tested elsewhere (K13).
TAKEN = {
    "run": [b"0", b"0\n", b"+0"],
    "pages_to_scan": [b"1", b"0", b"+0\n", b"4294967295\n", b"100"],
    "merge_across_nodes": [b"1", b"0", b"1\n"],
    "max_page_sharing": [b"2", b"300\n", b"2147483647", b"256"],
    "use_zero_pages": [b"0", b"n\n"],
    "stable_node_chains_prune_millisecs": [b"0", b"4294967295", b"2000\n"],
    "advisor_mode": [b"scan-time", b"none\n", b"scan-time\n", b"none\0"],
    "advisor_max_cpu": [b"1", b"101", b"70\n"],
    "advisor_min_pages_to_scan": [b"0", b"99999999999", b"500\n"],
    "advisor_max_pages_to_scan": [b"0", b"99999999999", b"30000\n"],
    "advisor_target_scan_time": [b"1", b"4294967296", b"200\n"],
}


BUSY = {"merge_across_nodes", "max_page_sharing"}


def take(folder, key):
    return [(write(folder / key, data), read(folder / key)) for data in TAKEN[key]]


def test_taken_writes(both):
    all_same(both, take, set(TAKEN) - BUSY)


@pytest.mark.parametrize("key", sorted(BUSY))
def test_taken_writes_while_nothing_is_merged(both, key):
    """The kernel refuses these while anything is merged (N2, K14)."""
    shared = read(SYSFS / "pages_shared")
    if shared != b"0\n":
        pytest.skip(f"{key}: the kernel's KSM has {int(shared)} pages merged already")
    all_same(both, take, [key])


def test_write_at_any_offset(both):
    same(both, lambda folder: [
        (write(folder / NUMBER, b"5%d" % i, offset=offset), read(folder / NUMBER))
        for i, offset in enumerate((1, 5, 4095, 4096, 5000, (1 << 31) - 8))])


FLAGS = {name: getattr(os, name) for name in (
    "O_TRUNC", "O_APPEND", "O_CREAT", "O_EXCL", "O_SYNC", "O_NOATIME", "O_DIRECT", "O_DIRECTORY", "O_NOFOLLOW",
    "O_NONBLOCK", "O_CLOEXEC")}


def test_open(both):
    def try_it(folder, flag):
        return [outcome(opened, folder / key, access | FLAGS[flag])
                for key in (NUMBER, READ_ONLY, "nosuch") for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)]

    all_same(both, try_it, FLAGS)


def test_open_to_create(both):
    same(both, lambda folder: [
        outcome(opened, folder / "nosuch", os.O_WRONLY | os.O_CREAT),
        outcome(opened, folder / NUMBER, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
        outcome(opened, folder, os.O_TMPFILE | os.O_RDWR),
        outcome(opened, folder, os.O_RDONLY), outcome(opened, folder, os.O_WRONLY)])


def test_write_with_flags(both):
    same(both, lambda folder: [
        (write(folder / NUMBER, b"5%d\n" % i, os.O_WRONLY | flags), read(folder / NUMBER),
         os.stat(folder / NUMBER).st_size)
        for i, flags in enumerate((os.O_TRUNC, os.O_APPEND, os.O_CREAT, os.O_SYNC | os.O_TRUNC))])


def test_truncate(both):
    def try_it(folder):
        return [outcome(os.truncate, folder / NUMBER, 0), outcome(os.truncate, folder / NUMBER, 5000),
                outcome(os.truncate, folder / READ_ONLY, 0),
                opened(folder / NUMBER, os.O_RDWR, lambda fd: (outcome(os.ftruncate, fd, 0),
                                                               os.fstat(fd).st_size))]

    same(both, try_it)


def test_reads_of_an_open_file(both):
    """A text goes on where the last read ended; a read at 0, or anywhere else, has the present value."""
    def use(fd, other):
        steps = [os.pread(fd, 0, 0), os.read(fd, 1), os.read(fd, 1), os.read(fd, 100), os.read(fd, 100),
                 os.pread(fd, 100, 1), os.pread(fd, 100, 100), os.pread(fd, 100, 4096)]
        steps += [os.pwrite(fd, b"61\n", 0), os.read(fd, 100), os.pread(fd, 100, 0)]
        steps += [os.lseek(fd, 0, 0), os.write(fd, b"62\n"), os.lseek(fd, 0, 1), os.write(fd, b"7777"),
                  os.lseek(fd, 0, 1), os.read(fd, 10), os.pread(fd, 100, 0), os.pread(fd, 100, 1)]
        os.lseek(fd, 0, 0)
        steps += [os.read(fd, 1), os.write(other, b"98765"), os.read(fd, 100), os.pread(fd, 100, 1),
                  os.pread(fd, 100, 0), os.pread(fd, 3, 0), os.pread(fd, 3, 3), os.pread(fd, 3, 2)]
        steps += [os.lseek(fd, 0, 2), outcome(os.lseek, fd, -1, 0), os.lseek(fd, 0, 0), os.read(fd, 100)]
        steps += [os.preadv(fd, [bytearray(1), bytearray(10)], 0), os.writev(other, [b"7", b"1\n"])]
        return steps + [os.pread(fd, 100, 0)]

    def try_it(folder):
        write(folder / NUMBER, b"20")
        return opened(folder / NUMBER, os.O_RDWR, lambda fd: opened(
            folder / NUMBER, os.O_WRONLY, lambda other: use(fd, other)))

    same(both, try_it)


def test_other_calls_on_an_open_file(both):
    def use(fd):
        poller = select.poll()
        poller.register(fd, select.POLLIN | select.POLLPRI | select.POLLERR | select.POLLOUT)
        ours, theirs = os.pipe()
        os.read(fd, 1)
        try:
            return [[events for _, events in poller.poll(0)], outcome(mmap.mmap, fd, 4096, mmap.MAP_SHARED),
                    outcome(os.posix_fallocate, fd, 0, 10), outcome(os.fsync, fd),
                    outcome(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
                    outcome(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
                    outcome(fcntl.ioctl, fd, 0x5401, b"\0" * 64),
                    os.splice(fd, theirs, 100, offset_src=0), os.read(ours, 100)]
        finally:
            os.close(ours)
            os.close(theirs)

    def try_it(folder):
        write(folder / NUMBER, b"71")
        return opened(folder / NUMBER, os.O_RDWR, use)

    same(both, try_it)


def test_folder_and_names_cannot_be_changed(both):
    def try_it(folder):
        file, new = folder / NUMBER, folder / "x"
        return [outcome(*call) for call in (
            (os.mkdir, new), (os.mkdir, file), (os.unlink, file), (os.unlink, new), (os.rename, file, new),
            (os.rename, file, folder / READ_ONLY), (os.link, file, new), (os.symlink, "a", new),
            (os.mknod, new), (os.mkfifo, new), (os.rmdir, file), (os.chmod, file, 0o644),
            (os.chown, file, 0, 0), (os.utime, file), (os.setxattr, file, "user.a", b"1"),
            (os.removexattr, file, "user.a"), (os.execv, file, ["a"]), (os.access, folder / READ_ONLY, os.W_OK))]

    same(both, try_it)


def test_stat(both):
    def try_it(folder):
        file, own, all_of_it = os.stat(folder / NUMBER), os.stat(folder), os.statvfs(folder)
        return (file.st_blksize, file.st_blocks, file.st_nlink, file.st_gid, stat.S_IMODE(own.st_mode), own.st_size,
                own.st_uid, all_of_it.f_bsize, all_of_it.f_blocks, all_of_it.f_bfree, all_of_it.f_namemax)

    same(both, try_it)


def _rmdir(folder):
    return outcome(os.rmdir, folder)


def _chmod(folder):
    result = outcome(os.chmod, folder / NUMBER, 0o600)
    if result is None:
        os.chmod(folder / NUMBER, 0o644)
    return result


def _attribute(folder):
    result = outcome(os.setxattr, folder / NUMBER, "trusted.a", b"1")
    if result is None:
        os.removexattr(folder / NUMBER, "trusted.a")
    return result


def _seek_far(folder):
    return opened(folder / NUMBER, os.O_RDONLY, lambda fd: outcome(os.lseek, fd, 1 << 40, 0))


def _overflow(folder):
    """The kernel keeps 32 of the 64 bits that it read."""
    result = write(folder / "advisor_max_cpu", b"4294967297"), read(folder / "advisor_max_cpu")
    write(folder / "advisor_max_cpu", b"70")
    return result


def _poll_unread(folder):
    def do(fd):
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        return [events for _, events in poller.poll(0)]

    return opened(folder / NUMBER, os.O_RDONLY, do)


def _map_privately(folder):
    def do(fd):
        return len(mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ))

    return opened(folder / NUMBER, os.O_RDONLY, lambda fd: outcome(do, fd))


# use: (the kernel's, ours); docs/ksmfs.md has the reasons
DIFFERENT = {
    "rmdir of the folder": (_rmdir, "EPERM", "EBUSY"),
    "chmod": (_chmod, None, "EPERM"),
    "trusted attributes": (_attribute, None, "ENOTSUP"),
    "seek past 2 GiB": (_seek_far, "EINVAL", 1 << 40),
    "a CPU limit over 32 bits": (_overflow, (10, b"1\n"), ("EINVAL", b"70\n")),
    "poll before a read": (_poll_unread, [select.POLLPRI | select.POLLERR], []),
    "a private mapping": (_map_privately, "ENODEV", 4096),
}


def test_differences(both):
    """Each is still a difference, and still this one."""
    seen = {use: tuple(try_it(folder) for folder in both) for use, (try_it, _, _) in DIFFERENT.items()}
    assert seen == {use: (kernel, ours) for use, (_, kernel, ours) in DIFFERENT.items()}
