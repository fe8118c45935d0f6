# SPDX-License-Identifier: Apache-2.0
"""Reads the file that a worker writes while it runs: struct stats of worker/worker.h."""

import mmap
import pathlib
import struct

MAGIC = 0x3155545254535053
MAX_THREADS, MAX_OPS, RECENT = 16, 128, 32
HEAD = struct.Struct("<10Q")
COUNTS = struct.Struct(f"<{MAX_OPS}Q")
THREAD = struct.Struct("<4Q")
STEP = struct.Struct("<2IQ")
THREAD_SIZE = THREAD.size + RECENT * STEP.size
SIZE = HEAD.size + 3 * COUNTS.size + MAX_THREADS * THREAD_SIZE
PAUSE_AT, AGENT_KILLED_AT, WANTED_AT = 4 * 8, 7 * 8, 8 * 8


class Stats:
    """One worker's file, mapped. It may not be there yet, or not whole."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self._map = None

    def _bytes(self):
        if self._map is None:
            try:
                with open(self.path, "r+b") as file:
                    whole = mmap.mmap(file.fileno(), SIZE)
            except (OSError, ValueError):
                return None
            if HEAD.unpack_from(whole)[0] != MAGIC:
                whole.close()
                return None
            self._map = whole
        return self._map

    def _head(self, index):
        data = self._bytes()
        return HEAD.unpack_from(data)[index] if data else 0

    @property
    def wrong(self):
        return self._head(3)

    @property
    def pages_checked(self):
        return self._head(5)

    @property
    def enomem(self):
        return self._head(6)

    def pause(self, microseconds):
        data = self._bytes()
        if data:
            struct.pack_into("<Q", data, PAUSE_AT, microseconds)

    def want(self, operations):
        """Numbers of operations that are to come more often than their weights say, and no others."""
        data = self._bytes()
        if data:
            bits = sum(1 << i for i in operations)
            struct.pack_into("<2Q", data, WANTED_AT, bits & (1 << 64) - 1, bits >> 64)

    def agent_is_killed(self):
        """To be said before it is done. False if nobody is there yet who could be told."""
        data = self._bytes()
        if data:
            struct.pack_into("<Q", data, AGENT_KILLED_AT, 1)
        return bool(data)

    def counts(self, nops):
        """Three lists: how often each operation was done, could not be then, cannot be here."""
        data = self._bytes()
        if not data:
            return [[0] * nops] * 3
        return [list(COUNTS.unpack_from(data, HEAD.size + k * COUNTS.size)[:nops]) for k in range(3)]

    def threads(self):
        """(steps, operation, block, since_ms) of each thread."""
        data = self._bytes()
        if not data:
            return []
        base = HEAD.size + 3 * COUNTS.size
        return [THREAD.unpack_from(data, base + i * THREAD_SIZE) for i in range(self._head(2))]

    def recent(self, thread):
        """The last operations of a thread, the oldest first: (operation, block, chance)."""
        data, steps = self._bytes(), self.threads()[thread][0]
        base = HEAD.size + 3 * COUNTS.size + thread * THREAD_SIZE + THREAD.size
        return [STEP.unpack_from(data, base + n % RECENT * STEP.size)
                for n in range(max(0, steps - RECENT + 1), steps + 1)]
