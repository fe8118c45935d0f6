# SPDX-License-Identifier: Apache-2.0
"""X: a program whose system calls do not all go through the gate is recognised: it runs right, nothing
is merged in it (any more), and explain says why. Programs that only look like one are merged."""

import pathlib
import shutil
import subprocess

import pytest

from lib import place
from lib.place import wait_for


def partner(daemon, compiled):
    """Somebody to merge with."""
    program = daemon.run(compiled("x_rows"), "hold")
    program.region()


def finish(program):
    program.say()
    assert program.line() == "ok"
    program.must_finish(0)


def wait_unmerged(daemon, program):
    wait_for(lambda: f"{daemon.merged_pages(program, program.area)} pages are merged still: "
             f"{daemon.ps(program.pid)}, {daemon.explain(program.pid)}",
             lambda: daemon.merged_pages(program, program.area) == 0)


@pytest.mark.parametrize("how", ["wrapper", "constant", "register"])
def test_raw_calls_at_start(daemon, compiled, how):
    """Code with calls that cannot be patched: nothing is ever merged, and one line names it."""
    partner(daemon, compiled)
    program = daemon.run(compiled("raw_calls", f"-DRAW_{how.upper()}"), how)
    program.area = program.region()
    scans = daemon.status("full_scans")
    wait_for("no passes", lambda: daemon.status("full_scans") >= scans + 4)
    assert daemon.merged_pages(program, program.area) == 0
    daemon.wait_state(program.pid, "unprotected")
    assert daemon.explain(program.pid)["because"] == ["own_system_calls"]
    assert "makes system calls of its own" in daemon.cli("explain", program.pid).stdout
    lines = program.samepage_lines()
    assert len(lines) == 1 and "makes system calls of its own (at 0x" in lines[0], lines
    program.say()
    assert program.line() == "done"
    finish(program)


def test_raw_calls_loaded_later(daemon, compiled):
    """A library with such calls is loaded: before it is of use to anybody nothing is lifted, and what
    was merged becomes the program's own."""
    library = compiled("raw_calls", "-DRAW_LIBRARY", "-shared", "-fPIC")
    partner(daemon, compiled)
    program = daemon.run(compiled("raw_calls"), "late", library)
    program.area = program.region()
    daemon.wait_merged(program, program.area)
    daemon.wait_state(program.pid, "merging")
    program.say()
    assert program.line() == "done"
    wait_unmerged(daemon, program)
    daemon.wait_state(program.pid, "unprotected")
    assert daemon.explain(program.pid)["because"] == ["own_system_calls"]
    wait_for(lambda: f"no line: {program.stderr()}",
             lambda: any("system calls of its own" in line for line in program.samepage_lines()))
    finish(program)


def test_raw_calls_of_made_code(daemon, compiled):
    """What code in anonymous memory did is noticed by what it did."""
    partner(daemon, compiled)
    program = daemon.run(compiled("raw_calls"), "made")
    program.area = program.region()
    daemon.wait_merged(program, program.area)
    program.say()
    assert program.line() == "done"
    wait_unmerged(daemon, program)
    daemon.wait_state(program.pid, "unprotected")
    assert daemon.explain(program.pid)["because"] == ["changed_unseen"]
    finish(program)


@pytest.mark.parametrize("when", ["early", "late"])
def test_raw_calls_by_an_io_uring(daemon, compiled, when):
    """Advice that a ring gives for the program (IORING_OP_MADVISE) is found in the ring: who asked for it
    once, before anything is merged or while much is, has its own memory when it asks again."""
    partner(daemon, compiled)
    program = daemon.run(compiled("ring_advice"), when)
    said = program.line().split(None, 1)
    if said[0] == "skip":
        pytest.skip(said[1])
    program.area = int(said[1].split()[0], 16), int(said[1].split()[1])
    if when == "late":
        daemon.wait_merged(program, program.area)
    else:
        daemon.wait_state(program.pid, "unprotected")
        assert daemon.merged_pages(program, program.area) == 0
    program.say()
    assert program.line() == "done"
    wait_unmerged(daemon, program)
    daemon.wait_state(program.pid, "unprotected")
    assert daemon.explain(program.pid)["because"] == ["ring_advice"]
    assert "by an io_uring" in daemon.cli("explain", program.pid).stdout
    finish(program)


def test_raw_calls_static(daemon, compiled):
    """A static program is told by samepage run, and explained."""
    program = daemon.run(compiled("raw_calls", "-static"), "made")
    program.region()
    assert any("statically linked" in line for line in program.samepage_lines())
    told = daemon.cli("explain", program.pid, check=False)
    assert told.returncode == 1 and "statically linked" in told.stderr
    program.say()
    assert program.line() == "done"
    finish(program)


CALL = {"munlock": 150, "pkey_mprotect": 329, "shmdt": 67, "remap_file_pages": 216}


def changed_libc(folder, function):
    """A folder with a libc that differs from this machine's by one byte: where the number of the function's
    system call is loaded, it goes to another register."""
    path = next(line.split(None, 5)[5].strip() for line in open("/proc/self/maps", encoding="ascii")
                if "/libc.so.6" in line)
    text = pathlib.Path(path).read_bytes()
    site = b"\xb8" + CALL[function].to_bytes(4, "little") + b"\x0f\x05"
    assert text.count(site) == 1, f"{function}'s call has another form in {path}"
    (folder / "lib").mkdir()
    (folder / "lib" / "libc.so.6").write_bytes(text.replace(site, b"\xb9" + site[1:]))
    return folder / "lib"


@pytest.mark.parametrize("function", CALL)
def test_raw_calls_of_a_changed_libc(daemon, compiled, function):
    """A libc that is not as it is known: one line names it and what differs, and nothing is merged."""
    partner(daemon, compiled)
    env = {"LD_LIBRARY_PATH": str(changed_libc(daemon.directory, function))}
    program = daemon.run(compiled("raw_calls"), "made", env=env)
    program.area = program.region()
    lines = program.samepage_lines()
    assert len(lines) == 1 and "libc.so.6 (build-id" in lines[0] and f"its {function} " in lines[0], lines
    scans = daemon.status("full_scans")
    wait_for("no passes", lambda: daemon.status("full_scans") >= scans + 4)
    assert daemon.merged_pages(program, program.area) == 0 and not program.agents()
    told = daemon.cli("explain", program.pid, check=False)
    assert told.returncode == 1 and "its agent could not start" in told.stderr
    program.say()
    assert program.line() == "done"
    finish(program)


MUSL = """
#include <stdio.h>
int main(void) { puts("ready"); fflush(stdout); return getchar() == 'g' ? 7 : 1; }
"""


@pytest.mark.skipif(not shutil.which("musl-gcc"), reason="there is no musl (musl-tools)")
@pytest.mark.parametrize("by_shell", [False, True], ids=["itself", "by-a-shell"])
def test_raw_calls_musl(daemon, by_shell):
    """Another C library than glibc: told by samepage run, and explained; started by somebody who is merged
    it runs as well."""
    path = daemon.directory / "musl"
    subprocess.run(["musl-gcc", "-O1", "-x", "c", "-o", path, "-"], input=MUSL, text=True, check=True,
                   timeout=place.patient(60))
    program = daemon.run(*(("/bin/sh", "-c", f"{path}; exit $?") if by_shell else (path,)))
    assert program.line() == "ready", program.stderr()
    running = next(p for p in program.processes() if p.comm == "musl")
    told = daemon.cli("explain", running.pid, check=False)
    assert told.returncode == 1 and "another C library than glibc" in told.stderr, told.stderr
    lines = program.samepage_lines()
    assert len(lines) == 1 and "musl" in lines[0] and "another C library" in lines[0], program.stderr()
    program.say()
    program.must_finish(7)


@pytest.mark.skipif(not shutil.which("go"), reason="there is no Go compiler (golang-go)")
def test_raw_calls_go(daemon, compiled):
    """A Go program that uses C loads the library, but makes its calls itself."""
    folder = daemon.directory
    (folder / "main.go").write_text(
        'package main\n\nimport "C"\nimport ("fmt"; "bufio"; "os")\n\n'
        'func main() {\n\tfmt.Println("ready")\n\tbufio.NewReader(os.Stdin).ReadString(10)\n'
        '\tfmt.Println("ok")\n}\n')
    subprocess.run(["go", "build", "-o", "prog", "main.go"], cwd=folder, check=True, timeout=300,
                   env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "CGO_ENABLED": "1"})
    program = daemon.run(folder / "prog")
    assert program.line() == "ready"
    daemon.wait_state(program.pid, "unprotected")
    finish(program)


NOT_RAW = {
    "python": ("/usr/bin/python3", "-c", "import ctypes, ssl, sqlite3, decimal; print('up'); input()"),
    "node": ("/usr/bin/node", "-e", "JSON.parse('[1]'); console.log('up'); process.stdin.resume()"),
    "qemu": ("/usr/bin/qemu-system-x86_64", "-display", "none", "-nodefaults", "-accel", "tcg",
             "-m", "64", "-monitor", "none", "-serial", "none"),
    "redis": ("/usr/bin/redis-server", "--port", "0", "--unixsocket", "redis.sock", "--save", ""),
}


@pytest.mark.parametrize("name", NOT_RAW)
def test_raw_calls_not_taken_for_it(daemon, name):
    """Just-in-time compilers, extension modules that are loaded later, and large programs with tables
    in their code are merged."""
    argv = NOT_RAW[name]
    if not shutil.which(argv[0]):
        pytest.skip(f"{argv[0]} is not there")
    program = daemon.run(*argv)
    if name in ("python", "node"):
        assert program.line() == "up"
    scans = daemon.status("full_scans")
    wait_for("no passes", lambda: daemon.status("full_scans") >= scans + 4)
    daemon.wait_state(program.pid, "merging")
    wait_for(lambda: f"{daemon.ps(program.pid)}", lambda: daemon.ps(program.pid)["pages_tracked"] > 0)
    assert program.samepage_lines() == []
    program.destroy()  # redis writes its title over its environment, by which kill() finds processes


def test_raw_calls_asan_not_taken_for_it(daemon, compiled):
    """The sanitizers' runtimes make calls of their own, which are patched."""
    program = daemon.run(compiled("x_rows", "-fsanitize=address"), "hold")
    program.area = program.region()
    partner(daemon, compiled)
    daemon.wait_merged(program, program.area)
    daemon.wait_state(program.pid, "merging")
    program.say()
    program.must_finish(0)
