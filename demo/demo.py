# SPDX-License-Identifier: Apache-2.0
"""Merges the memory of seven real programs and prints what that saved.

Four redis-servers with the same values and three python programs with the same table run under
"samepage run --all", together with a daemon of their own, in a memory cgroup of their own. Memory is
what that cgroup uses after every page was read once, so that nothing is saved by being out of sight.
The redis-servers' digests and the python programs' checksums must be the same before and after.

Everything started here is ended here, whatever happens.
"""
import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
SERVERS, VALUES = 4, 30000
HOLDERS, TABLE_MIB = 3, 100
REWRITTEN = 1000
MIB = 1 << 20


class Failed(Exception):
    pass


def say(text):
    print(text, flush=True)


def wait_for(what, predicate, seconds):
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            raise Failed(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


class Cgroup:
    """A memory cgroup, version 1 or 2. path is None where none can be had."""

    def __init__(self):
        self.path, self.v1 = None, False
        root = pathlib.Path("/sys/fs/cgroup")
        if (root / "memory/memory.usage_in_bytes").exists():
            root, self.v1 = root / "memory", True
        elif (root / "cgroup.subtree_control").exists():
            with contextlib.suppress(OSError):
                (root / "cgroup.subtree_control").write_text("+memory")
        path = root / f"samepage-demo-{os.getpid()}"
        with contextlib.suppress(OSError):
            path.mkdir()
            self.path = path
            if not (path / "memory.stat").exists():
                self.close()

    def join(self):
        """In the child, before exec: version 1 leaves behind what is charged already."""
        if self.path:
            (self.path / "cgroup.procs").write_text("0")

    def used(self):
        """Bytes charged, without the page cache of files on disk (the programs' own files). The
        frames are tmpfs, which is no such cache: they count."""
        name = "memory.usage_in_bytes" if self.v1 else "memory.current"
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        prefix = "total_" if self.v1 else ""
        files = sum(int(stat[f"{prefix}{kind}_file"]) for kind in ("active", "inactive"))
        return int((self.path / name).read_text()) - files

    def pids(self):
        return [int(p) for p in (self.path / "cgroup.procs").read_text().split()] if self.path else []

    def close(self):
        path, self.path = self.path, None
        deadline = time.monotonic() + 5
        while path and path.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                path.rmdir()
            time.sleep(0.02)


class Redis:
    """One redis-server's connection: just enough of its protocol."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.sock.makefile("rb")

    def send_all(self, stream, replies):
        reader = threading.Thread(target=lambda: [self.file.readline() for _ in range(replies)])
        reader.start()
        self.sock.sendall(stream)
        reader.join()

    def digest(self):
        """Reads every value."""
        self.sock.sendall(b"DEBUG DIGEST\r\n")
        answer = self.file.readline().decode().strip()
        if not answer.startswith("+"):
            raise Failed(f"redis-server says {answer!r}")
        return answer[1:]


def set_commands(keys, seed):
    """SET commands with values of about 2 KB that look like JSON, the same for the same seed."""
    rng = random.Random(seed)
    parts = []
    for key in keys:
        rows = ",".join(f'{{"id":{rng.getrandbits(40)},"name":"{rng.getrandbits(96):x}",'
                        f'"amount":{rng.randrange(10**6)}}}' for _ in range(30))
        value = f'{{"key":"{key}","rows":[{rows}]}}'
        parts.append(f"*3\r\n$3\r\nSET\r\n${len(key)}\r\n{key}\r\n${len(value)}\r\n{value}\r\n")
    return "".join(parts).encode()


class Demo:
    def __init__(self, build):
        self.build = build
        self.programs = []  # Popen of everything but the daemon
        self.daemon = None
        self.servers, self.holders = [], []
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="samepage-demo-"))
        self.env = {k: v for k, v in os.environ.items()
                    if k != "LD_PRELOAD" and not k.startswith("SAMEPAGE_")}
        self.env["SAMEPAGE_SOCKET"] = str(self.folder / "sock")
        self.cgroup = Cgroup()

    # Starting and ending

    def start(self, argv, name, **how):
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(argv, cwd=self.folder, env=self.env, stderr=log,
                                    start_new_session=True, preexec_fn=self.cgroup.join, **how)

    def merged(self, argv, name, **how):
        process = self.start([self.build / "samepage", "run", "--all", "--", *argv], name, **how)
        self.programs.append(process)
        return process

    def cli(self, *words, check=True):
        done = subprocess.run([self.build / "samepage", *words], env=self.env, text=True,
                              capture_output=True, check=False, timeout=120)
        if check and done.returncode:
            raise Failed(f"samepage {' '.join(words)}: {done.stderr.strip()}")
        return done

    def status(self):
        return json.loads(self.cli("status", "--json").stdout)

    def start_daemon(self):
        self.daemon = self.start([self.build / "samepaged", "--foreground"], "samepaged",
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

        def answers():
            if self.daemon.poll() is not None:
                raise Failed("samepaged ended")
            return self.cli("status", check=False).returncode == 0
        wait_for("an answer of samepaged", answers, 10)
        self.cli("set", "run=0")

    def start_server(self, number, stream):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = self.merged(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
             "--appendonly", "no", "--enable-debug-command", "local", "--dir", str(self.folder)],
            f"redis-{number}", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

        def listens():
            if process.poll() is not None:
                raise Failed("redis-server ended")
            with contextlib.suppress(OSError):
                self.servers.append(Redis(port))
                return True
            return False
        wait_for("redis-server to listen", listens, 10)
        self.servers[-1].send_all(stream, VALUES)

    def start_holder(self, number):
        holder = self.merged(["/usr/bin/python3", str(HERE / "holder.py"), str(TABLE_MIB)],
                             f"python-{number}", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.holders.append(holder)

    def close(self):
        """Ends what was started here, by its pid; of a cgroup that is ours alone, all."""
        for process in self.programs:
            process.kill()
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.daemon.wait(5)
            self.daemon.kill()
        for process in [*self.programs, *([self.daemon] if self.daemon else [])]:
            process.wait()
        deadline = time.monotonic() + 2
        while self.cgroup.pids() and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in self.cgroup.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.cgroup.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # Measuring

    def read_everything(self):
        """Reads every page of all programs; returns what they read, in a few words each."""
        for holder in self.holders:
            holder.stdin.write(b"sum\n")
            holder.stdin.flush()
        digests = [server.digest() for server in self.servers]
        sums = []
        for holder in self.holders:
            line = holder.stdout.readline().decode().strip()
            if not line:
                raise Failed("a python program ended: it read wrong bytes, or was killed")
            sums.append(line)
        return digests, sums

    def used(self):
        if self.cgroup.path:
            return self.cgroup.used()
        total = 0
        for process in [*self.programs, self.daemon]:
            for line in open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii"):
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total

    def unmerged_reasons(self):
        for log in sorted(self.folder.glob("*.log")):
            for line in log.read_text(errors="replace").splitlines():
                if line.startswith("samepage:"):
                    say(f"  {line}")

    # The demo itself

    def run(self):
        if self.cgroup.path:
            say(f"memory is measured in the cgroup {self.cgroup.path}: all that is charged to it "
                "except cached files on disk")
        else:
            say("no memory cgroup can be made here (that needs root); memory is the programs' Pss")
        self.start_daemon()

        say(f"starting {SERVERS} redis-servers, each with the same {VALUES:,} values of about 2 KB")
        stream = set_commands([f"key:{i:06}" for i in range(VALUES)], 1)
        for number in range(SERVERS):
            self.start_server(number, stream)
        say(f"starting {HOLDERS} python programs, each with the same table of {TABLE_MIB} MiB, "
            "which they check all the time")
        for number in range(HOLDERS):
            self.start_holder(number)

        bytes_before = self.read_everything()
        before = self.used()
        say(f"before merging: {before / MIB:,.1f} MiB")

        say("merging …")
        cpu_before = self.status()["cpu_seconds"]
        begin = time.monotonic()
        self.cli("set", "run=1")
        waiter = subprocess.run([self.build / "samepage", "wait", "--timeout", "60"], env=self.env,
                                check=False)
        seconds = time.monotonic() - begin
        if waiter.returncode == 130:
            raise KeyboardInterrupt

        bytes_after = self.read_everything()
        after = self.used()
        status = self.status()
        cpu = status["cpu_seconds"] - cpu_before
        if not status["pages_sharing"]:
            self.unmerged_reasons()
            raise Failed("nothing was merged")
        self.report(status, before, after, seconds, cpu)
        if bytes_before != bytes_after:
            raise Failed(f"THE BYTES CHANGED: {bytes_before} before, {bytes_after} after")
        say(f"{SERVERS} digests and {HOLDERS} checksums: the same before and after")
        self.rewrite(bytes_after[0])
        say(f"demo: {SERVERS + HOLDERS} programs used {before / MIB:,.0f} MiB and use "
            f"{after / MIB:,.0f} MiB now: {(before - after) / MIB:,.0f} MiB "
            f"({100 * (before - after) / before:.0f} %) saved, with {cpu:.1f} s of CPU")

    def report(self, status, before, after, seconds, cpu):
        say(f"after merging:  {after / MIB:,.1f} MiB, {seconds:.1f} s later")
        say("")
        say(self.cli("ps").stdout.rstrip())
        say("")
        pages = status["pages_sharing"] + status["pages_shared"]
        for name, value in (
                ("frames in use (pages_shared)", f"{status['pages_shared']:,}"),
                ("pages saved (pages_sharing)", f"{status['pages_sharing']:,}"),
                ("mappings that this needs", f"{status['mappings']:,}"),
                ("CPU of samepage", f"{cpu:.2f} s, {1e6 * cpu / pages:.1f} us a merged page"),
                ("whole passes", f"{status['full_scans']:,}"),
                ("samepage's own count of what it saves", f"{status['bytes_saved'] / MIB:,.1f} MiB"),
                ("the cgroup's", f"{(before - after) / MIB:,.1f} MiB")):
            say(f"  {name:40}{value}")
        say("")

    def rewrite(self, digests):
        """One server writes some of its values anew: it alone may change (copy on write)."""
        stream = set_commands([f"key:{i:06}" for i in range(0, VALUES, VALUES // REWRITTEN)], 2)
        self.servers[0].send_all(stream, REWRITTEN)
        now = [server.digest() for server in self.servers]
        if now[0] == digests[0] or now[1:] != digests[1:]:
            raise Failed(f"THE BYTES ARE WRONG after writing: {digests} then {now}")
        say(f"{REWRITTEN:,} values of one redis-server written anew: the others did not change")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=HERE.parent / "build")
    build = parser.parse_args().build.resolve()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even where a shell had it ignored
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    demo = Demo(build)
    try:
        demo.run()
        return 0
    except Failed as failure:
        log = demo.folder / "samepaged.log"
        for line in log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []:
            say(f"  samepaged: {line}")
        say(f"demo: {failure}")
        return 1
    except KeyboardInterrupt:
        say("demo: interrupted")
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C does not stop the clean-up
        demo.close()


if __name__ == "__main__":
    sys.exit(main())
