# SPDX-License-Identifier: Apache-2.0
"""The workloads: one module each, with a class Workload or, where it has several forms, a function
workloads() that returns instances.

An instance has name, about (one line), advises (True: its programs call madvise themselves), scale
(1.0, or smaller for --quick), start(place), pids(), check() (AssertionError when a byte is wrong) and
stop() (safe to call twice). It may have rounds (1 if not): how often it is measured where --rounds
does not say. after_merge() and at_end(), where there are any, return figures of its
own as {name: number}; they are called before and after the passes with nothing to do are measured.
"""

import importlib

# In the order of a whole run.
MODULES = ("made", "redis_made", "redis_replicas", "qemu", "python", "node")


def load(module):
    """The instances of a module. ImportError says what is missing."""
    loaded = importlib.import_module(f"workloads.{module}")
    return loaded.workloads() if hasattr(loaded, "workloads") else [loaded.Workload()]
