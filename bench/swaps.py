# SPDX-License-Identifier: Apache-2.0
"""The kernel's own swap, to compare with: a file, or zram. Only where no other swap is."""

import contextlib
import os
import pathlib
import subprocess
import tempfile

from cgroup import PREFIX
from samepage import Failed

ZRAM = pathlib.Path("/sys/block/zram0")
SWAPS = pathlib.Path("/proc/swaps")
READ_AHEAD = pathlib.Path("/proc/sys/vm/page-cluster")


def _run(*argv):
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{argv[0]}: {done.stderr.strip()}")


def _in_use():
    return [line.split()[0] for line in SWAPS.read_text(encoding="ascii").splitlines()[1:]]


def _mark(pid):
    """Says that zram is the bench's with this pid."""
    return pathlib.Path(tempfile.gettempdir()) / f"{PREFIX}{pid}-zram"


def _read_ahead_was(pid):
    """Has what is to be put back to READ_AHEAD."""
    return pathlib.Path(tempfile.gettempdir()) / f"{PREFIX}{pid}-page-cluster"


def _reset():
    (ZRAM / "reset").write_text("1", encoding="ascii")


def _read_ahead_again(pid):
    with contextlib.suppress(OSError):
        READ_AHEAD.write_text(_read_ahead_was(pid).read_text(encoding="ascii"), encoding="ascii")
        _read_ahead_was(pid).unlink()


@contextlib.contextmanager
def no_reading_ahead():
    """The kernel swaps in what is touched, and no more."""
    was = READ_AHEAD.read_text(encoding="ascii")
    _read_ahead_was(os.getpid()).write_text(was, encoding="ascii")
    try:
        READ_AHEAD.write_text("0", encoding="ascii")
        yield
    finally:
        _read_ahead_again(os.getpid())


def sweep(pid):
    """Takes back what the bench with this pid has for swap, and its setting."""
    _read_ahead_again(pid)
    folder = str(pathlib.Path(tempfile.gettempdir()) / f"{PREFIX}{pid}-")
    ours = _mark(pid).exists()
    for path in _in_use():
        if path.startswith(folder) or (ours and path == "/dev/zram0"):
            subprocess.run(["swapoff", path], capture_output=True, check=False)
    if ours:
        with contextlib.suppress(OSError):
            _reset()
        _mark(pid).unlink(missing_ok=True)


@contextlib.contextmanager
def on_zram(size):
    if _in_use():
        raise Failed("this machine swaps already")
    if not ZRAM.exists() or (ZRAM / "disksize").read_text(encoding="ascii").strip() != "0":
        raise Failed("no zram that nobody uses")
    _mark(os.getpid()).touch()
    try:
        (ZRAM / "comp_algorithm").write_text("lz4", encoding="ascii")
        (ZRAM / "disksize").write_text(str(size), encoding="ascii")
        _run("mkswap", "/dev/zram0")
        _run("swapon", "/dev/zram0")
        yield
    except OSError as error:
        raise Failed(f"zram: {error}") from error
    finally:
        sweep(os.getpid())


@contextlib.contextmanager
def on_file(size):
    if _in_use():
        raise Failed("this machine swaps already")
    path = pathlib.Path(tempfile.gettempdir()) / f"{PREFIX}{os.getpid()}-swap"
    try:
        with open(path, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            os.posix_fallocate(file.fileno(), 0, size)
        _run("mkswap", path)
        _run("swapon", path)
        yield
    except OSError as error:
        raise Failed(f"a swap file: {error}") from error
    finally:
        sweep(os.getpid())
        path.unlink(missing_ok=True)
