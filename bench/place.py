# SPDX-License-Identifier: Apache-2.0
"""Where a workload's programs run: a cgroup, a folder, and one of the modes plain, samepage, ksmd."""

import ctypes
import itertools
import os
import pathlib
import shutil
import subprocess
import tempfile

import ksm
from cgroup import PREFIX, Cgroup
from samepage import Samepage

PR_SET_MEMORY_MERGE = 67
_LIBC = ctypes.CDLL(None, use_errno=True)
_number = itertools.count()


class Place:
    """Make it, start a workload in it, measure, close() it. Attributes that workloads use: mode,
    tmp, launch(). advises: the programs call madvise themselves, so nothing else is merged.
    pages_to_scan and sleep_millisecs are the same for both mergers."""

    pages_to_scan = 5000
    sleep_millisecs = 20

    def __init__(self, build, tools, mode, advises=False, smart_scan=True, swap=None):
        self.swap = swap  # of samepaged.conf's [swap]: {key: value}
        self.build, self.tools = pathlib.Path(build), pathlib.Path(tools)
        self.mode, self.advises, self.smart_scan = mode, advises, smart_scan
        self.cgroup = Cgroup(f"{os.getpid()}-{next(_number)}")
        self.tmp, self.merger, self.programs = None, None, []
        try:
            self.tmp = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
            self.tmp.chmod(0o755)
            ksm.stop()
            if mode == "samepage":
                self.merger = Samepage(self)
            elif mode == "ksmd":
                ksm.prepare(self.pages_to_scan, self.sleep_millisecs, smart_scan)
                self.merger = ksm.Ksmd(self)
        except BaseException:
            self.close()
            raise

    def environment(self, env=None):
        clean = {key: value for key, value in os.environ.items()
                 if key != "LD_PRELOAD" and not key.startswith("SAMEPAGE_")}
        return {**clean, "SAMEPAGE_SOCKET": str(self.tmp / "sock"), **(env or {})}

    def _become(self):
        """In the child, before exec."""
        self.cgroup.join()
        if self.mode == "ksmd" and not self.advises and \
                _LIBC.prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_MEMORY_MERGE)")

    def launch(self, argv, env=None, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
               stderr=None, cwd=None):
        """Starts a program of the workload. Its standard error goes to the file stderr in tmp if
        nothing else is said; its pid is the program's own in every mode."""
        argv = [str(word) for word in argv]
        if self.mode == "samepage":
            flags = [] if self.advises else ["--all"]
            argv = [str(self.build / "samepage"), "run", *flags, "--", *argv]
        with open(self.tmp / "stderr", "ab") as log:
            program = subprocess.Popen(
                argv, stdin=stdin, stdout=stdout, stderr=log if stderr is None else stderr,
                cwd=cwd or self.tmp, env=self.environment(env), start_new_session=True,
                preexec_fn=self._become)
        self.programs.append(program)
        return program

    def errors(self):
        """What samepage said about programs that it does not merge."""
        try:
            text = (self.tmp / "stderr").read_text(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.startswith("samepage:")]

    def close(self):
        """Ends all that was started here. Safe to call twice."""
        if isinstance(self.merger, Samepage):
            self.merger.close()
        self.cgroup.close()
        for program in self.programs:
            for pipe in (program.stdin, program.stdout):
                if pipe:
                    try:
                        pipe.close()
                    except OSError:
                        pass
            program.wait()
        if self.mode == "ksmd":
            ksm.stop()
        if self.tmp:
            shutil.rmtree(self.tmp, ignore_errors=True)
