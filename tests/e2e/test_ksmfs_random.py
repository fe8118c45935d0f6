# SPDX-License-Identifier: Apache-2.0
"""Random reads and writes of every file by four processes at once: no crash, no hang, no torn value."""

import errno
import os
import random
import re

from lib import control, place
from lib.ksmfs import servers

PROCESSES = 4
OPERATIONS = place.longer(20_000, 1_000_000) // PROCESSES
# Of such values all digits are the same: one that is mixed of two is found.
DIGITS = ("sleep_millisecs", "max_kernel_pages", "advisor_max_pages_to_scan")
FORMS = {"advisor_mode": rb"(\[none\] scan-time|none \[scan-time\])\n", "general_profit": rb"-?\d+\n",
         "run": rb"[012]\n", "use_zero_pages": rb"[01]\n", "smart_scan": rb"[01]\n",
         "merge_across_nodes": rb"[01]\n", **{key: rb"(\d)\1*\n" for key in DIGITS}}
REFUSED = {errno.EINVAL, errno.ERANGE, errno.EAGAIN, errno.EBUSY, errno.EOPNOTSUPP}
WORDS = (b"0", b"1", b"2", b"100", b"3", b"-1", b"x", b"none", b"scan-time\n", b"y", b"off", b"\0", b"\n", b" 1", b"+7")


def new_text(rand, key):
    if key in DIGITS:
        return bytes([rand.choice(b"123456789")]) * rand.randrange(1, 9) + rand.choice((b"", b"\n"))
    if rand.random() < 0.1:
        return rand.randbytes(rand.randrange(5000))
    return rand.choice(WORDS)


def check(key, text):
    form = FORMS.get(key, rb"\d+\n")
    if not re.fullmatch(form, text):
        raise ValueError(f"{key} reads {text!r}")


def read_in_pieces(rand, fd):
    os.lseek(fd, 0, 0)
    text = b""
    while piece := os.read(fd, rand.randrange(1, 9)):
        text += piece
    return text


def operate(rand, folder, files, operations):
    """Returns how many writes were taken and how many refused."""
    taken = refused = 0
    for _ in range(operations):
        key, (fd, writable) = rand.choice(list(files.items()))
        what = rand.randrange(8)
        if what < 3 and writable:
            try:
                os.pwrite(fd, new_text(rand, key), rand.choice((0, 0, 1, 4095, 99999)))
                taken += 1
            except OSError as error:
                if error.errno not in REFUSED:
                    raise ValueError(f"a write to {key}: {error}") from error
                refused += 1
        elif what < 6:
            check(key, os.pread(fd, 4096, 0))
        elif what == 6:
            check(key, read_in_pieces(rand, fd))
        else:
            check(key, (folder / key).read_bytes())
    return taken, refused


def in_child(seed, folder):
    rand = random.Random(seed)
    files = {p.name: (os.open(p, os.O_RDWR if p.stat().st_mode & 0o200 else os.O_RDONLY), p.stat().st_mode & 0o200)
             for p in sorted(folder.iterdir()) if p.is_file()}
    return operate(rand, folder, files, OPERATIONS)


def start(seed, folder):
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        try:
            said = repr(in_child(seed, folder))
        except BaseException as error:  # pylint: disable=broad-except
            said = f"{type(error).__name__}: {error}"
        os.write(theirs, said.encode())
        os._exit(0)
    os.close(theirs)
    return pid, os.fdopen(ours, "rb")


def test_random_operations(ksmfs, compiled):
    """While two programs are merged, un-merged and merged again."""
    programs = [ksmfs.daemon.checker(compiled, mib=4) for _ in range(2)]
    before = servers(ksmfs.daemon)
    seed = random.SystemRandom().randrange(1 << 32)
    ksmfs.set("sleep_millisecs", "11")
    ksmfs.set("advisor_max_pages_to_scan", "33333")
    children = [start(f"{seed}-{i}", ksmfs.path) for i in range(PROCESSES)]
    for pid, pipe in children:
        said = pipe.read().decode()
        pipe.close()
        os.waitpid(pid, 0)
        assert re.fullmatch(r"\([1-9]\d*, [1-9]\d*\)", said), f"seed {seed}: {said}"
    assert servers(ksmfs.daemon) == before
    control.ask(ksmfs.daemon, "status")
    for program in programs:
        program.progress.wait_all_go_on(program.name)
