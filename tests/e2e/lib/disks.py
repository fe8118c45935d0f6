# SPDX-License-Identifier: Apache-2.0
"""Places on a disk, and small file systems of a test's own."""

import ctypes
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from lib import place

BYTES = 32 << 20


@pytest.fixture
def disk():
    """A folder that is not in memory, as that of pytest may be."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sp-e2e-", dir="/var/tmp"))
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True).stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        folder.rmdir()
        pytest.skip("/var/tmp is in memory")
    yield folder
    shutil.rmtree(folder)


def make_image(folder, kind, size=BYTES):
    """A file with such a file system in it, through a loop device."""
    if not shutil.which(f"mkfs.{kind}", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        pytest.skip(f"no mkfs.{kind}")
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop devices")
    image = folder / "image"
    with open(image, "wb") as file:
        file.truncate(size)
    # Nothing is written to it later but at its beginning and where the files are.
    quiet = ["-O", "^has_journal", "-E", "lazy_itable_init=0"]
    subprocess.run([f"mkfs.{kind}", "-q", *quiet, image], check=True, timeout=place.patient(60),
                   env={**os.environ, "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
    return image


def mount_fuse(target):
    """One whose server never answers. The descriptor that is its end."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"silent", str(target).encode(), b"fuse", 0, options):
        os.close(fd)
        pytest.skip(f"cannot mount FUSE: {os.strerror(ctypes.get_errno())}")
    return fd


@pytest.fixture
def mounted(disk):
    """mounted(KIND, *options): the folder of a new file system: ext4, ext2 (32 MiB, by a loop device), tmpfs, or fuse, which
    never answers."""
    mounts, fds = [], []

    def mount(kind, *options):
        base = disk / f"mounted{len(mounts)}"
        target = base / "on"
        target.mkdir(parents=True)
        mounts.append(target)
        if kind == "fuse":
            fds.append(mount_fuse(target))
            return target
        source = "none" if kind == "tmpfs" else make_image(base, kind)
        option = ",".join([*options, *([] if kind == "tmpfs" else ["loop"])])
        done = subprocess.run(["mount", "-t", kind, *(["-o", option] if option else []), source, target],
                              capture_output=True, text=True, timeout=place.patient(60), check=False)
        if done.returncode:
            pytest.skip(f"cannot mount {kind}: {done.stderr.strip()}")
        return target

    yield mount
    for fd in fds:
        os.close(fd)
    for target in mounts:
        subprocess.run(["umount", target], capture_output=True, timeout=place.patient(60), check=False)


@pytest.fixture
def own_disk(disk):
    """own_disk(megabytes, of=disk): a file system on a disk image in that folder, and the image. What cannot be read or written
    in the image is a real error of a device. A test asks for this before its daemon, which ends first then, and at the end nobody
    has a file there any more."""
    mounts = []

    def make(megabytes, of=disk):
        target = disk / f"own{len(mounts)}"
        target.mkdir()
        image = make_image(of, "ext4", megabytes << 20)
        done = subprocess.run(["mount", "-o", "loop,noatime", image, target], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.strip()}")
        mounts.append(target)
        return target, image

    yield make
    busy = [target for target in mounts if
            subprocess.run(["umount", target], capture_output=True, timeout=place.patient(60), check=False).returncode]
    for target in busy:
        subprocess.run(["umount", "-l", target], capture_output=True, timeout=place.patient(60), check=False)
    assert not busy
