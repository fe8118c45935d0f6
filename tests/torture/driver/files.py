# SPDX-License-Identifier: Apache-2.0
"""KSM's files (ksmfs), read and written by threads while the daemon, or the files' own server, is killed under them:
every call ends, with a whole value or with an error that docs/ksmfs.md names."""

import errno
import os
import pathlib
import random
import re
import signal
import subprocess
import tempfile
import threading
import time

from lib import proc

from .world import Wrong, run_quietly, send

THREADS = 2
PATIENCE = 60  # seconds: a request that the daemon never answers ends after 30
SERVER = "samepage-ksmfs"
FORMS = {"advisor_mode": rb"(\[none\] scan-time|none \[scan-time\])\n", "general_profit": rb"-?\d+\n",
         "ksm_stat": rb"(\w+:? (-?\d+|yes|no)\n)+"}
# What the torture does itself all the time: a value that stays would slow everything down.
WRITES = (("run", b"0"), ("run", b"2"), ("run", b"1"), ("run", b"1\n"), ("pages_to_scan", b"100000"),
          ("sleep_millisecs", b"0"), ("max_page_sharing", b"256"), ("use_zero_pages", b"1"), ("use_zero_pages", b"0"), ("smart_scan", b"0"))
AWAY = {errno.EIO, errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV}  # the daemon, the server, a domain
GONE = {errno.ENOENT, errno.ESRCH}                                    # a process, a domain
# max_page_sharing; pages_to_scan; another writes run, too; memory is short while all is un-merged (K13)
REFUSED = {errno.EBUSY, errno.EINVAL, errno.EAGAIN, errno.ENOMEM}


def why_not(build):
    """Why it cannot be here, "": it can."""
    if not (build / SERVER).exists():
        return f"{SERVER} is not built (it needs libfuse3)"
    return "" if os.access("/dev/fuse", os.R_OK | os.W_OK) else "no /dev/fuse"


class User(threading.Thread):
    """Reads and writes files at random until it is told to end."""

    def __init__(self, path, seed):
        super().__init__(daemon=True)
        self.path, self.random = path, random.Random(seed)
        self.enough, self.wrong = threading.Event(), None
        self.done = self.refused = 0

    def run(self):
        while not self.enough.is_set() and not self.wrong:
            try:
                self._one()
                self.done += 1
            except OSError as error:
                self.refused += 1
                if error.errno not in AWAY | GONE | REFUSED:
                    self.wrong = str(error)
            self.enough.wait(0.002)  # else the daemon would do nothing but answer

    def _read(self, path):
        text = path.read_bytes()
        if not re.fullmatch(FORMS.get(path.name, rb"\d+\n"), text):
            self.wrong = f"{path.name} reads {text!r}"

    def _any_in(self, folder):
        return folder / self.random.choice(os.listdir(folder) or ["none"])

    def _one(self):
        chance = self.random.random()
        if chance < 0.3:
            name, text = self.random.choice(WRITES)
            with open(self.path / name, "wb", buffering=0) as file:
                file.write(text)
        elif chance < 0.4:
            self._read(self._any_in(self.path / "proc") / "ksm_stat")
        elif chance < 0.5:
            self._read(self._any_in(self.path / "domains") / "pages_sharing")
        else:
            path = self._any_in(self.path)
            if path.name not in ("domains", "proc"):
                self._read(path)


class Files:
    """One mount, made when it is first wanted."""

    def __init__(self, world):
        self.world, self.folder, self.users = world, None, []

    def _servers(self):
        own = f"SAMEPAGE_SOCKET={self.world.env['SAMEPAGE_SOCKET']}".encode()
        return [p.pid for p in proc.all_processes() if p.comm == SERVER[:15] and own in p.environ.split(b"\0")]

    def mount(self):
        """Also where the server is dead."""
        if not self.folder:
            self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sp-torture-ksm-"))
        if not self._servers():
            self.world.cli("mount", self.folder)

    def kill_server(self):
        """What was asked of it meanwhile is ENOTCONN; the next mount() takes the dead mount away."""
        deadline = time.monotonic() + PATIENCE
        while servers := self._servers():
            for pid in servers:
                send(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise Wrong(f"{SERVER} {servers} does not end on KILL")
            time.sleep(0.01)

    def begin(self, seed):
        self.users = [User(self.folder, f"{seed} {i}") for i in range(THREADS)]
        for user in self.users:
            user.start()

    def end(self):
        """Raises Wrong; the number of calls that were done."""
        users, self.users = self.users, []
        for user in users:
            user.enough.set()
        for user in users:
            user.join(PATIENCE)
            if user.is_alive():
                raise Wrong("a read or write of KSM's files does not end while the daemon is killed")
            if user.wrong:
                raise Wrong(f"KSM's files: {user.wrong}")
        return sum(user.done for user in users)

    def must_answer(self):
        """With a daemon that is there again they go on as if nothing had been."""
        try:
            text = (self.folder / "pages_shared").read_bytes()
        except OSError as error:
            raise Wrong(f"KSM's files do not answer, though the daemon does: {error}") from None
        if not re.fullmatch(rb"\d+\n", text):
            raise Wrong(f"pages_shared reads {text!r}")

    def close(self):
        """Whatever is left of it is taken away."""
        for user in self.users:
            user.enough.set()
        if not self.folder:
            return
        done = run_quietly([self.world.samepage, "umount", self.folder], self.world.env)
        if done.returncode:
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)
        for user in self.users:
            user.join(PATIENCE)
        try:
            os.rmdir(self.folder)
        except OSError:
            pass  # whoever finds it can see what is wrong with it
        self.folder, self.users = None, []
