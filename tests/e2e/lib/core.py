# SPDX-License-Identifier: Apache-2.0
"""Reads a process' memory out of its core dump."""

import pathlib
import struct

import pytest

HEAD = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM = struct.Struct("<IIQQQQQQ")
PT_LOAD = 1


def need_core_files():
    pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text("ascii").strip()
    if not pattern.startswith("core"):
        pytest.skip(f"core dumps go elsewhere here: {pattern}")


class Core:
    def __init__(self, directory, pid):
        found = [p for p in (directory / "core", directory / f"core.{pid}") if p.exists()]
        assert found, f"no core file in {directory}"
        self.data = found[0].read_bytes()
        head = HEAD.unpack_from(self.data)
        self.loads = [PROGRAM.unpack_from(self.data, head[5] + i * PROGRAM.size)
                      for i in range(head[10])]

    def bytes_at(self, address, length):
        """What the core holds of [address, address + length): bytes, shorter if some is missing."""
        out = b""
        while len(out) < length:
            at = address + len(out)
            load = next((p for p in self.loads
                         if p[0] == PT_LOAD and p[3] <= at < p[3] + p[5]), None)
            if not load:
                break
            start = load[2] + at - load[3]
            out += self.data[start:start + min(length - len(out), load[3] + load[5] - at)]
        return out
