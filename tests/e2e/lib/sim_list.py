# SPDX-License-Identifier: Apache-2.0
"""Does on real memory what a list of the simulator says (samepage-sim --real, tests/sim/README.md), and compares."""

import array
import collections
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess

from lib import place, proc
from lib.control import answer_to, ask
from lib.place import NotInTime, wait_for

PAGES = 96
STRETCH = 8  # pages (match.c)
ALL = 1 << 40
PFNZERO = 1 << 5
PRESENT_OR_SWAPPED, PRESENT, OF_A_FILE = 3 << 62, 1 << 63, 1 << 61

Page = collections.namedtuple("Page", "state frame there")


def lines_of(*how):
    """What the simulator writes."""
    done = subprocess.run([place.SIM, "--real", *map(str, how)], capture_output=True,
                          text=True, check=False, timeout=place.patient(60))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def zero_pages(pid, address):
    """The pages that are the kernel's own page of zeros."""
    regions = (ctypes.c_uint64 * (3 * PAGES))()
    end = address + PAGES * 4096
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        arg = bytearray(struct.pack("<12Q", 96, 0, address, end, 0, ctypes.addressof(regions), PAGES, 0, 0,
                                    PFNZERO, 0, PFNZERO))
        found = fcntl.ioctl(pagemap, proc.PAGEMAP_SCAN, arg)
    return {i for r in range(found) for i in range((regions[3 * r] - address) // 4096,
                                                   (regions[3 * r + 1] - address) // 4096)}


def pages_of(pid, address):
    """{page: Page} of what is mapped there, by the kernel's word: state "s" (a site), "k" (private in a frame's
    mapping), "z" (the kernel's page of zeros) or "a" (plain)."""
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as maps:
        lines = [line.split(None, 5) for line in maps]
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // 4096 * 8)
        entries = array.array("Q", pagemap.read(PAGES * 8))
    zeros, found = zero_pages(pid, address), {}
    for fields in lines:
        start, stop = (int(x, 16) for x in fields[0].split("-"))
        first, last = max(0, (start - address) // 4096), min(PAGES, (stop - address) // 4096)
        for i in range(first, last) if fields[1] != "---p" else ():
            there = bool(entries[i] & PRESENT)
            if fields[4] == "0":
                found[i] = Page("z" if i in zeros else "a" if entries[i] & PRESENT_OR_SWAPPED else "0", None, there)
            elif entries[i] & (PRESENT_OR_SWAPPED | OF_A_FILE) in (0, OF_A_FILE | PRESENT):
                offset = (int(fields[2], 16) + address + i * 4096 - start) // 4096
                found[i] = Page("s", (fields[3], fields[4], offset), there)
            else:
                found[i] = Page("k", None, there)
    return found


def stretches(step):
    """Contents that enough neighbours have to get a frame for every few of them, if they were seen together."""
    found = set()
    for process in step["processes"].values():
        run, last = 0, (None, None)
        for page, content, *_ in process["pages"]:
            run = run + 1 if (page - 1, content) == last else 1
            last = page, content
            if run >= STRETCH:
                found.add(content)
    return found


def share_memory(pid, other):
    number = {"x86_64": 312, "aarch64": 272}[os.uname().machine]  # kcmp
    return ctypes.CDLL(None).syscall(number, pid, other, 1, 0, 0) == 0


class Process:
    """One of them, at the end of a connection of its own."""

    def __init__(self, connection, program=None):
        self.connection, self.program = connection, program
        connection.settimeout(place.patient(60))
        number, pid, address = connection.recv(256).split()
        self.number, self.pid, self.address = int(number), int(pid), int(address, 16)

    def tell(self, *words):
        self.connection.sendall(" ".join(map(str, words)).encode())

    def hear(self):
        return self.connection.recv(16384).decode()

    def do(self, *words):
        self.tell(*words)
        heard = self.hear()
        assert heard == "ok", f"process {self.number}, {words}: {heard or 'it ended'}"

    def read(self, page, n):
        """{page: contents}."""
        self.tell("read", page, n)
        heard = self.hear()
        assert heard.startswith("read"), f"process {self.number}: {heard or 'it ended'}"
        return {int(p): content if content == "wrong" else int(content)
                for p, content in (word.split(":") for word in heard.split()[1:])}


class Replay:
    """Under a daemon that scans nothing but in a scan, and has a store or not."""

    def __init__(self, daemon, program, has_store):
        self.daemon, self.path, self.has_store = daemon, program, has_store
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(daemon.directory / "list.sock"))
        self.listener.listen(64)
        self.listener.settimeout(place.patient(60))
        self.processes, self.settings, self.programs = {}, {}, []
        self.frames = {}  # (process, page, the simulator's frame): the real one
        self.alive, self.ended, self.step = True, False, None
        self.dead = set()  # pids whose agent is
        self.evicted_exact, self.counts = False, collections.Counter()

    def close(self):
        for process in self.processes.values():
            process.connection.close()
        self.listener.close()

    def play(self, lines):
        for number, step in enumerate(lines):
            self.step = number
            self.counts[step["op"]] += 1
            try:
                getattr(self, "do_" + step["op"].replace("-", "_"))(step)
            except (AssertionError, NotInTime) as error:
                raise type(error)(f"line {number + 1}, {json.dumps(step)[:200]}: {error}") from None

    # What processes do.

    def accept(self, number, program=None):
        process = Process(self.listener.accept()[0], program)
        assert process.number == number, (process.number, number)
        assert number not in self.processes
        self.processes[number] = process
        self.forget(number)
        self.wait_known([process])

    def forget(self, number):
        self.frames = {key: frame for key, frame in self.frames.items() if key[0] != number}

    def wait_known(self, processes):
        wanted = {p.pid for p in processes}

        def known():
            return wanted <= {p["pid"] for p in ask(self.daemon, "ps")["processes"]
                              if p["state"] not in ("joining", "stalled")}

        if self.alive:
            wait_for(lambda: f"not known to the daemon: {ask(self.daemon, 'ps')}", known, every=0.002)

    def do_spawn(self, step):
        program = self.daemon.run(self.path, self.daemon.directory / "list.sock", step["as"], all=False)
        self.accept(step["as"], program)

    def do_fork(self, step):
        parent = self.processes[step["process"]]
        parent.do("fork", step["as"])
        self.accept(step["as"])

    def do_exec(self, step):
        process = self.processes.pop(step["process"])
        process.tell("exec", step["as"])
        assert process.hear() == ""
        process.connection.close()
        self.forget(step["process"])
        self.accept(step["as"], process.program)

    def do_exit(self, step):
        process = self.processes.pop(step["process"])
        if self.step % 2:
            os.kill(process.pid, signal.SIGKILL)
        process.connection.close()
        if process.program:
            process.program.popen.wait(place.patient(60))
        wait_for(f"process {process.number} does not end", lambda: not proc.exists(process.pid), every=0.002)
        self.forget(step["process"])

    def do_kill_agent(self, step):
        process = self.processes[step["process"]]
        agents = [p.pid for p in proc.all_processes()
                  if p.comm == "samepage-agent" and share_memory(p.pid, process.pid)]
        assert len(agents) == 1, agents
        self.dead.add(process.pid)
        os.kill(agents[0], signal.SIGKILL)
        wait_for("its agent does not end", lambda: not proc.exists(agents[0]), every=0.002)
        if self.alive:
            wait_for(lambda: f"its agent is dead: {ask(self.daemon, 'ps')}",
                     lambda: all(p["state"] not in ("merging", "joining", "stalled")
                                 for p in ask(self.daemon, "ps")["processes"] if p["pid"] == process.pid),
                     every=0.002)

    def on_pages(self, step):
        self.processes[step["process"]].do(step["op"], step["page"], step["n"], step["content"], step["add"])

    do_map = do_write = do_unmap = do_zero = do_special = do_lock = do_unlock = on_pages

    def do_touch(self, step):
        read = self.processes[step["process"]].read(step["page"], step["n"])
        holds = {int(page): content for page, content in step["holds"].items()}
        assert read == holds, f"X: process {step['process']} reads {read}"

    # What the daemon is asked.

    def do_scan(self, _):
        """Until all is as the next look says."""

    def set(self, key, value):
        ask(self.daemon, "set", key=key, value=str(value))

    def do_set(self, step):
        answer = answer_to(self.daemon, "set", key=step["key"], value=str(step["value"]))
        said = answer.get("errno", "")
        assert said == step["errno"] or (step["errno"] == "?" and said in ("", "EBUSY")), \
            f"the simulator says {step['errno'] or 'ok'}: {answer}"
        if answer["ok"] or step["key"] == "run":
            self.settings[step["key"]] = str(step["value"])
        if step["key"] == "run":
            self.compare_strays(said)

    def compare_strays(self, said):
        """T2: by the kernel's word, frames that programs without agents map after run 2."""
        frames = {page.frame for process in self.processes.values() if process.pid in self.dead and said
                  for page in pages_of(process.pid, process.address).values() if page.state == "s"}
        counted = ask(self.daemon, "status")["frames_stray"]
        assert counted == len(frames), f"T2: {counted} frames, the kernel says {len(frames)}"

    def do_unmerge(self, step):
        ask(self.daemon, "unmerge", pid=self.processes[step["process"]].pid)

    def do_reclaim(self, _):
        def nothing_left():
            answer = answer_to(self.daemon, "reclaim", bytes=ALL)
            assert answer["ok"] or answer.get("errno") == "EAGAIN", answer
            return answer["ok"] and not answer["evicted"] and not answer["again"] and not answer["referenced"]

        if self.has_store:
            wait_for("frames are left", nothing_left, every=0.001)
        self.evicted_exact = True

    def do_kill_daemon(self, _):
        self.alive = False
        self.daemon.kill()

    def do_start_daemon(self, _):
        self.daemon.start()
        self.alive = True
        for key, value in self.settings.items():
            if self.processes:
                assert ask(self.daemon, "get", key=key)["value"] == value, f"D1: {key} is not {value}"
            else:
                self.set(key, value)
        self.wait_known([p for p in self.processes.values() if p.pid not in self.dead])

    # Comparing.

    def do_look(self, step):
        if self.ended:
            return
        if step["rest"] and self.alive:
            self.set("pages_to_scan", 100000)
            self.wait_same(step, wake=True)
            began = ask(self.daemon, "status")["full_scans"]
            wait_for("no passes", lambda: self.wake() and ask(self.daemon, "status")["full_scans"] > began + 2,
                     every=0.001)
            self.set("pages_to_scan", 0)
        self.wait_same(step)
        self.evicted_exact = False
        self.note_frames(step)

    def wake(self):
        self.set("sleep_millisecs", 0)
        return True

    def wait_same(self, step, wake=False):
        def same():
            if wake:
                self.wake()
            return not self.differences(step)

        if self.differences(step):
            wait_for(lambda: "; ".join(self.differences(step)), same, every=0.002)

    def differences(self, step):
        """What is not as the simulator says; the first ones."""
        found, seen, open_pages = [], {}, False
        assert sorted(map(int, step["processes"])) == sorted(self.processes)
        contents = collections.defaultdict(set), collections.defaultdict(set)
        for name, expected in step["processes"].items():
            process = self.processes[int(name)]
            pages = seen[process.number] = pages_of(process.pid, process.address)
            wanted = {page: (content, state, frame, out) for page, content, state, frame, out in expected["pages"]}
            if set(pages) != set(wanted):
                found.append(f"process {name} maps {sorted(set(pages) ^ set(wanted))}, or not")
                continue
            for i, (content, state, frame, out) in wanted.items():
                page = pages[i]
                open_pages |= state == "?"
                allowed = {"x": "a", "p": "ak", "?": "aksz"}.get(state, state)
                if page.state not in allowed:
                    found.append(f"page {i} of process {name}, contents {content}, is {page.state}, not {state}")
                if page.frame and state == "s" and expected["agent"] != "dead":
                    contents[0][content].add(frame)
                    contents[1][content].add(page.frame)
                    before = self.frames.get((process.number, i, frame), page.frame)
                    if before != page.frame:
                        found.append(f"S6: page {i} of process {name} maps {page.frame}, before {before}")
                if self.has_store and self.evicted_exact and page.frame and bool(out) == page.there and out:
                    found.append(f"S1: page {i} of process {name} is not out of memory")
        loose = {content for content, frames in contents[0].items() if len(frames) > 1} | stretches(step)
        for content, frames in contents[0].items():
            if content not in loose and len(frames) != len(contents[1][content]):
                found.append(f"contents {content} are in {len(contents[1][content])} frames, not {len(frames)}")
        if self.has_store and self.evicted_exact and not open_pages:
            out = ask(self.daemon, "status")["frames_evicted"]
            if out != step["frames_evicted"]:
                found.append(f"S1: frames_evicted is {out}, the simulator says {step['frames_evicted']}")
        if step["counted"]:
            found += self.wrong_counters(step, seen, open_pages, loose)
        return found[:6]

    def wrong_counters(self, step, seen, open_pages, loose):
        known = [seen[int(name)] for name, p in step["processes"].items() if p["agent"] != "dead"]
        frames = [page.frame for pages in known for page in pages.values() if page.frame and page.state == "s"]
        wanted = {"pages_shared": len(set(frames)), "pages_sharing": len(frames) - len(set(frames)),
                  "ksm_zero_pages": sum(page.state == "z" for pages in known for page in pages.values())}
        status = ask(self.daemon, "status")
        found = [f"K12: {key} is {status[key]}, the kernel says {value}" for key, value in wanted.items()
                 if status[key] != value]
        if not open_pages:
            status["sites"], step["sites"] = (s["pages_shared"] + s["pages_sharing"] for s in (status, step))
            found += [f"{key} is {status[key]}, the simulator says {step[key]}"
                      for key in ("sites", "ksm_zero_pages") + (() if loose else ("pages_shared", "pages_sharing"))
                      if status[key] != step[key]]
        return found

    def note_frames(self, step):
        self.frames = {}
        for name, expected in step["processes"].items():
            process = self.processes[int(name)]
            pages = pages_of(process.pid, process.address)
            for page, _, state, frame, _ in expected["pages"]:
                if state == "s":
                    self.frames[process.number, page, frame] = pages[page].frame
        self.last = step

    def do_read(self, _):
        """All pages of all processes."""
        for number, process in self.processes.items():
            read = process.read(0, PAGES)
            for page, content, *_ in self.last["processes"][str(number)]["pages"]:
                assert read.pop(page) == content, f"X: page {page} of process {number} is not {content}"
            assert not read, read
        self.evicted_exact = True

    def do_plain(self, _):
        """Nothing keeps what was written from being merged again; where there is a store, it cannot be."""
        for process in self.processes.values():
            process.do("plain")
        self.ended = self.has_store

    def do_end(self, _):
        for number in list(self.processes):
            self.do_exit({"process": number})
        wait_for(lambda: f"something is left: {ask(self.daemon, 'status')}", self.nothing_left)

    def nothing_left(self):
        status = ask(self.daemon, "status")
        return not any(status[key] for key in ("pages_shared", "pages_sharing", "ksm_zero_pages", "frames_evicted",
                                               "frames_lingering", "segments", "processes"))
