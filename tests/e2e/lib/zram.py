# SPDX-License-Identifier: Apache-2.0
"""A zram of the kernel's own, for comparison: only one that nobody uses."""

import contextlib
import pathlib

ZRAM = pathlib.Path("/sys/block/zram0")


@contextlib.contextmanager
def unused_zram(size):
    """Its device with lz4, or None: there is none, or none that is free."""
    try:
        if (ZRAM / "disksize").read_text(encoding="ascii").strip() != "0":
            yield None
            return
        (ZRAM / "comp_algorithm").write_text("lz4", encoding="ascii")
        (ZRAM / "disksize").write_text(str(size), encoding="ascii")
    except OSError:
        yield None
        return
    try:
        yield "/dev/zram0"
    finally:
        (ZRAM / "reset").write_text("1", encoding="ascii")


def held():
    """Bytes of memory that it takes for what was written to it."""
    return int((ZRAM / "mm_stat").read_text(encoding="ascii").split()[2])
