# SPDX-License-Identifier: Apache-2.0
"""The commands: wrong use changes nothing, errors are one line, run becomes the program."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fake_daemon

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SAMEPAGE_BUILD", ROOT / "build")).resolve()
SAMEPAGE = BUILD / "samepage"


@pytest.fixture
def place(tmp_path):
    """An installation of its own: samepage, and beside it whatever the test puts there."""
    shutil.copy2(SAMEPAGE, tmp_path / "samepage")
    return tmp_path


@pytest.fixture
def cli(place):
    def call(*words, **options):
        env = {k: v for k, v in os.environ.items()
               if k != "LD_PRELOAD" and not k.startswith("SAMEPAGE_")}
        env["SAMEPAGE_SOCKET"] = str(place / "sock")
        env.update(options.pop("env", {}))
        return subprocess.run([options.pop("exe", place / "samepage"), *map(str, words)], env=env,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=options.pop("timeout", 120), **options)
    return call


@pytest.fixture
def daemon(place):
    fake = fake_daemon.FakeDaemon(str(place / "sock"))
    yield fake
    fake.close()


@pytest.fixture
def agent(place):
    """A library that does nothing, where the agent would be."""
    source = place / "agent.c"
    source.write_text("int sp_nothing;\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", place / "libsamepage-agent.so", source],
                   check=True)
    return place / "libsamepage-agent.so"


@pytest.fixture
def startable(place):
    """A samepaged that is the fake one; ended when the test ends, by its pid."""
    program = place / "samepaged"
    program.write_text(f"#!/bin/sh\necho $$ >>{place}/pids\n"
                       f"exec /usr/bin/python3 {fake_daemon.__file__}\n")
    program.chmod(0o755)
    yield program
    for pid in (place / "pids").read_text().split() if (place / "pids").exists() else []:
        try:
            os.kill(int(pid), signal.SIGTERM)
        except ProcessLookupError:
            pass


def one_line(text):
    return text.startswith("samepage: ") and text.count("\n") == 1 and text.endswith("\n")


# Wrong use

WRONG = [
    ["nonsense"], ["--nonsense"], ["status", "--bad"], ["status", "word"], ["status", "--json=1"],
    ["ps", "-x"], ["get"], ["get", "a", "b"], ["get", "nonsense"], ["get", "--json"],
    ["set"], ["set", "run"], ["set", "run="], ["set", "run=3"], ["set", "run=-1"],
    ["set", "run=+1"], ["set", "run= 1"], ["set", "run=1 "], ["set", "run=0x1"], ["set", "=1"],
    ["set", "nonsense=1"], ["set", "pages_shared=1"], ["set", "run=1", "pages_to_scan=5"],
    ["set", "pages_to_scan=4294967296"],
    ["set", "sleep_millisecs=99999999999999999999999"],
    ["set", "max_kernel_pages=18446744073709551616"], ["set", "max_mappings=4294967296"],
    ["set", "max_page_sharing=1"], ["set", "smart_scan=yes"], ["set", "advisor_mode=1"],
    ["set", "advisor_mode=[none]"], ["set", "advisor_target_scan_time=0"], ["set", "general_profit=0"],
    ["get", "--domain", "u0"], ["get", "--domain", "", "run"], ["set", "run=1", "--domain", "u0"],
    ["wait", "--timeout"], ["wait", "--timeout", "x"], ["wait", "--timeout", "-1"],
    ["wait", "--timeout", "99999999999999999999"], ["wait", "now"],
    ["unmerge", "0"], ["unmerge", "x"], ["unmerge", "1", "2"], ["unmerge", "99999999999"],
    ["unmerge", "--all"], ["off", "1"], ["off", "--x"],
    ["run"], ["run", "--"], ["run", "--domain"], ["run", "--domain", "", "true"],
    ["run", "--domain", "a/b", "true"], ["run", "--domain", "x" * 32, "true"],
    ["run", "--all=1", "true"], ["run", "--nonsense", "true"],
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_use_is_2_and_asks_nothing(cli, daemon, words):
    done = cli(*words)
    assert done.returncode == 2, done
    assert one_line(done.stderr) and not done.stdout, done
    assert daemon.requests == []


@pytest.mark.parametrize("words", [["set", "run=3"], ["get", "x"], ["unmerge", "x"]], ids=" ".join)
def test_wrong_use_is_2_without_a_daemon_too(cli, words):
    assert cli(*words).returncode == 2


def test_no_words_prints_usage_and_is_2(cli):
    done = cli()
    assert done.returncode == 2 and "usage:" in done.stderr and not done.stdout


@pytest.mark.parametrize("words", [["--help"], ["help"], ["help", "run"], ["run", "--help"],
                                   ["run", "--domain", "a", "--help"], ["set", "--help"],
                                   ["off", "--help"], ["wait", "--json", "--help"]], ids=" ".join)
def test_help_is_on_stdout(cli, daemon, words):
    done = cli(*words)
    assert done.returncode == 0 and done.stdout.startswith("usage: samepage"), done
    assert not done.stderr and daemon.requests == []


def test_version(cli):
    done = cli("--version")
    assert done.returncode == 0 and done.stdout.startswith("samepage ")


def test_output_that_cannot_be_written_is_1(cli, daemon):
    with open("/dev/full", "w") as full:
        done = subprocess.run([SAMEPAGE, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and one_line(done.stderr)


# Asking

@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["ps"], ["get", "run"],
                                   ["set", "run=1"], ["wait"], ["unmerge"], ["unmerge", "1"],
                                   ["off"]], ids=" ".join)
def test_no_daemon_is_1_and_says_how_to_start_one(cli, words):
    done = cli(*words)
    assert done.returncode == 1 and one_line(done.stderr), done
    assert "samepage run" in done.stderr and not done.stdout


def test_a_socket_that_nobody_listens_at_is_no_daemon(cli, daemon):
    daemon.close()
    done = cli("status")
    assert done.returncode == 1 and "no daemon is running" in done.stderr


def test_a_path_too_long_is_1(cli):
    done = cli("status", env={"SAMEPAGE_SOCKET": "/tmp/" + "x" * 200})
    assert done.returncode == 1 and one_line(done.stderr)


def test_status_for_people(cli, daemon):
    done = cli("status")
    assert done.returncode == 0
    assert "merging (run=1)" in done.stdout and "120.0 KiB" in done.stdout
    assert "changed 1, memory 4" in done.stdout


def test_status_json_is_the_answer(cli, daemon):
    assert json.loads(cli("status", "--json").stdout) == daemon.status


def test_negative_saving_is_shown(cli, daemon):
    daemon.status["bytes_saved"] = -2097152
    assert "-2.0 MiB" in cli("status").stdout


def process(pid, comm="redis-server"):
    return {"pid": pid, "comm": comm, "domain": "default", "pages_tracked": 9, "sites": 4,
            "bytes_saved": 4096, "cpu_seconds": 0.5, "mappings": 2, "mappings_budget": 100,
            "state": "merging"}


def test_ps_joins_packets(cli, daemon):
    daemon.answers["ps"] = [{"ok": True, "processes": [process(11)], "more": True},
                            {"ok": True, "processes": [process(12), process(13)]}]
    assert [p["pid"] for p in json.loads(cli("ps", "--json").stdout)["processes"]] == [11, 12, 13]
    lines = cli("ps").stdout.splitlines()
    assert len(lines) == 4 and lines[0].split()[0] == "PID" and lines[3].split()[0] == "13"


def test_ps_lets_no_name_steer_the_terminal(cli, daemon):
    daemon.answers["ps"] = {"ok": True, "processes": [process(11, "a\x1b[2J\nb")]}
    out = cli("ps").stdout
    assert "\x1b" not in out and out.count("\n") == 2


def test_get(cli, daemon):
    daemon.answers["get"] = {"ok": True, "value": "5000"}
    done = cli("get", "pages_to_scan")
    assert (done.returncode, done.stdout) == (0, "5000\n")
    assert daemon.requests == [{"op": "get", "key": "pages_to_scan"}]


def test_get_and_set_of_a_domain(cli, daemon):
    daemon.answers["get"] = {"ok": True, "value": "[none] scan-time"}
    assert cli("get", "--domain", "u0:web", "advisor_mode").stdout == "[none] scan-time\n"
    assert cli("set", "--domain=u0:web", "smart_scan=0").returncode == 0
    assert daemon.requests == [{"op": "get", "key": "advisor_mode", "domain": "u0:web"},
                               {"op": "set", "key": "smart_scan", "value": "0", "domain": "u0:web"}]


@pytest.mark.parametrize("word", ["run=2", "pages_to_scan=4294967295", "pages_to_scan=0", "sleep_millisecs=0",
                                  "max_kernel_pages=18446744073709551615", "max_mappings=0",
                                  "merge_across_nodes=0", "max_page_sharing=2", "use_zero_pages=1",
                                  "advisor_mode=scan-time", "advisor_target_scan_time=18446744073709551615",
                                  "stable_node_chains_prune_millisecs=0"])
def test_set(cli, daemon, word):
    done = cli("set", word)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    key, value = word.split("=")
    assert daemon.requests == [{"op": "set", "key": key, "value": value}]


@pytest.mark.parametrize("status", [1, 2])
def test_the_daemons_error_is_passed_on(cli, daemon, status):
    daemon.answers["set"] = {"ok": False, "error": "memory is short", "exit": status}
    done = cli("set", "run=2")
    assert (done.returncode, done.stderr) == (status, "samepage: memory is short\n")


def test_unmerge_and_off(cli, daemon):
    daemon.answers["unmerge"] = daemon.answers["off"] = {"ok": True, "pages": 42}
    for words in (["unmerge"], ["unmerge", "812"], ["off"]):
        done = cli(*words)
        assert done.returncode == 0 and "42" in done.stdout
    assert daemon.requests == [{"op": "unmerge"}, {"op": "unmerge", "pid": 812}, {"op": "off"}]


def test_unmerge_of_a_pid_that_is_not_there_is_1(cli, daemon):
    daemon.answers["unmerge"] = {"ok": False, "error": "process 812 is not merged", "exit": 1}
    done = cli("unmerge", "812")
    assert done.returncode == 1 and one_line(done.stderr)


@pytest.mark.parametrize("packet", [b"", b"{", b"[1]", b"null", b"x" * 70000, b"{\"ok\":true"],
                         ids=["none", "half", "list", "null", "huge", "cut"])
def test_an_answer_that_is_none_is_1(cli, daemon, packet):
    daemon.answers["status"] = [packet] if packet else []
    done = cli("status")
    assert done.returncode == 1 and one_line(done.stderr)


# wait

def counting(daemon, quiet_from=2):
    """Every look finds one pass more; quiet_passes grows once quiet_from passes are over."""
    first = daemon.status["full_scans"]

    def answer(_):
        daemon.status["full_scans"] += 1
        passed = daemon.status["full_scans"] - first
        daemon.status["quiet_passes"] = max(0, passed - quiet_from)
        return daemon.status
    daemon.answers["status"] = answer


def test_wait_returns_after_three_passes_two_of_them_quiet(cli, daemon):
    counting(daemon)
    done = cli("wait", "--timeout", "100", "--json")
    last = json.loads(done.stdout)
    assert done.returncode == 0 and not done.stderr
    assert (last["full_scans"], last["quiet_passes"]) == (11, 2)


def test_wait_does_not_trust_quiet_passes_from_before(cli, daemon):
    daemon.status["quiet_passes"] = 50
    counting(daemon, quiet_from=-50)
    assert cli("wait").returncode == 0
    assert daemon.status["full_scans"] == 7 + 1 + 3


def test_wait_gives_up_and_says_what_is_missing(cli, daemon):
    done = cli("wait", "--timeout", "1")
    assert done.returncode == 1 and one_line(done.stderr) and "0 of 3 passes" in done.stderr


def test_wait_for_a_stopped_daemon_is_1_at_once(cli, daemon):
    daemon.status["run"] = 0
    done = cli("wait")
    assert done.returncode == 1 and "set run=1" in done.stderr


def test_wait_starts_anew_with_a_new_daemon(cli, daemon):
    seen = []

    def answer(_):
        seen.append(1)
        daemon.status["full_scans"] = 1000 if len(seen) < 3 else len(seen) - 3
        daemon.status["quiet_passes"] = 9
        return daemon.status
    daemon.answers["status"] = answer
    assert cli("wait", "--timeout", "100").returncode == 0
    assert daemon.status["full_scans"] == 3


def test_wait_interrupted_is_130(place, daemon):
    waiter = subprocess.Popen([place / "samepage", "wait"], stderr=subprocess.PIPE,
                              env={**os.environ, "SAMEPAGE_SOCKET": str(place / "sock")})
    while not daemon.requests:
        time.sleep(0.01)
    time.sleep(0.1)
    waiter.send_signal(signal.SIGINT)
    assert waiter.wait(60) == 130 and waiter.stderr.read() == b""


def test_wait_on_a_terminal_shows_progress_and_clears_it(place, daemon):
    counting(daemon)
    ours, theirs = os.openpty()
    waiter = subprocess.Popen([place / "samepage", "wait"], stderr=theirs, stdout=subprocess.PIPE,
                              env={**os.environ, "SAMEPAGE_SOCKET": str(place / "sock")})
    assert waiter.wait(60) == 0 and waiter.stdout.read() == b""
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)
    assert "30 pages merged" in shown and shown.endswith("\r\x1b[K") and "\n" not in shown


# run

PRINT_ENV = ["/usr/bin/python3", "-c",
             "import os, json; print(json.dumps([os.getpid(), dict(os.environ)]))"]


def test_run_sets_the_environment_and_keeps_the_pid(place, daemon, agent):
    child = subprocess.Popen([place / "samepage", "run", "--all", "--domain", "blue", "--",
                              *PRINT_ENV], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             cwd=place, env={"SAMEPAGE_SOCKET": "sock", "PATH": "/usr/bin:/bin"})
    out, err = child.communicate(timeout=60)
    pid, env = json.loads(out)
    assert pid == child.pid and err == b""
    assert env["LD_PRELOAD"] == str(agent)
    assert env["SAMEPAGE_SOCKET"] == str(place / "sock")
    assert env["SAMEPAGE_MODE"] == "all" and env["SAMEPAGE_DOMAIN"] == "blue"


def test_run_goes_in_front_of_another_preload_once(cli, place, daemon, agent):
    other = place / "other.so"
    shutil.copy(agent, other)
    done = cli("run", place / "samepage", "run", *PRINT_ENV, env={"LD_PRELOAD": f"{other}"})
    env = json.loads(done.stdout)[1]
    assert env["LD_PRELOAD"] == f"{agent}:{other}"
    assert env["SAMEPAGE_MODE"] == "advised" and "SAMEPAGE_DOMAIN" not in env


@pytest.mark.parametrize("words, status", [(["sh", "-c", "exit 7"], 7), (["true"], 0)])
def test_run_has_the_programs_exit_status(cli, daemon, agent, words, status):
    done = cli("run", *words)
    assert (done.returncode, done.stderr) == (status, "")


def test_run_dies_of_the_programs_signal(cli, daemon, agent):
    assert cli("run", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM


def test_run_leaves_options_to_the_program(cli, daemon, agent):
    assert cli("run", "echo", "--help", "--all").stdout == "--help --all\n"


def test_run_of_nothing_is_127_and_of_a_folder_126(cli, place, daemon, agent):
    for words, status in ((["no-such-command-x"], 127), (["/no/such"], 127), ([str(place)], 126),
                          ([str(place / "agent.c")], 126)):
        done = cli("run", *words)
        assert done.returncode == status and one_line(done.stderr), done


def build(place, *flags):
    source = place / "p.c"
    source.write_text('#include <stdio.h>\n#include <stdlib.h>\nint main(void) {\n'
                      'printf("%s", getenv("LD_PRELOAD") ? "preload" : "plain"); return 5; }\n')
    subprocess.run(["gcc", *flags, "-o", place / "p", source], check=True)
    return place / "p"


@pytest.mark.parametrize("flag", ["-static", "-static-pie"])
def test_run_of_a_static_program_says_so_in_one_line(cli, place, daemon, agent, flag):
    done = cli("run", build(place, flag))
    assert (done.returncode, done.stdout) == (5, "plain")
    assert one_line(done.stderr) and "statically linked" in done.stderr, done
    assert daemon.requests == []


def test_run_of_a_script_looks_at_its_interpreter(cli, place, daemon, agent):
    program = build(place, "-static")
    script = place / "script"
    script.write_text(f"#! {program}\n")
    script.chmod(0o755)
    assert "statically linked" in cli("run", script).stderr
    script.write_text("#!/bin/sh\nexit 3\n")
    done = cli("run", script)
    assert (done.returncode, done.stderr) == (3, "")


def test_run_of_another_loader_or_machine_says_so(cli, place, daemon, agent):
    program = build(place, "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1")
    assert "another C library" in cli("run", program).stderr
    data = bytearray(program.read_bytes())
    data[18] = 2  # e_machine: SPARC
    program.write_bytes(data)
    done = cli("run", program)
    assert "another architecture" in done.stderr and done.returncode == 126


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make such a file")
def test_run_of_a_setuid_program_says_so(cli, place, daemon, agent):
    program = build(place)
    os.chown(program, 12345, 0)
    program.chmod(0o4755)
    done = cli("run", program)
    assert done.returncode == 5 and one_line(done.stderr) and "set-user-ID" in done.stderr


def test_run_without_an_agent_library_runs_unmerged(cli, place, daemon):
    done = cli("run", "echo", "hi", exe=hidden(place))
    assert (done.returncode, done.stdout) == (0, "hi\n")
    assert one_line(done.stderr) and "not merged" in done.stderr


def hidden(place):
    """samepage in a folder whose neighbours hold nothing of ours either."""
    folder = place / "a" / "b"
    folder.mkdir(parents=True)
    shutil.copy2(place / "samepage", folder / "samepage")
    return folder / "samepage"


def test_run_without_a_daemon_runs_unmerged(cli, place, agent):
    done = cli("run", *PRINT_ENV)
    env = json.loads(done.stdout)[1]
    assert done.returncode == 0 and one_line(done.stderr) and "LD_PRELOAD" not in env
    assert "SAMEPAGE_MODE" not in env


def test_run_says_why_the_daemon_does_not_start(cli, place, agent):
    (place / "samepaged").write_text("#!/bin/sh\necho one >&2\necho no room >&2\nexit 1\n")
    (place / "samepaged").chmod(0o755)
    done = cli("run", "true")
    assert done.returncode == 0 and one_line(done.stderr) and "no room" in done.stderr, done


def test_run_in_a_place_with_a_blank_runs_unmerged(cli, place, daemon, agent):
    folder = place / "my files"
    folder.mkdir()
    for name in ("samepage", "libsamepage-agent.so"):
        shutil.copy2(place / name, folder / name)
    done = cli("run", "true", exe=folder / "samepage")
    assert done.returncode == 0 and one_line(done.stderr) and "LD_PRELOAD" in done.stderr


def test_run_starts_a_daemon_that_is_not_the_programs_child(cli, place, agent, startable):
    done = cli("run", "sh", "-c", "cat /proc/$$/task/$$/children; echo; echo $LD_PRELOAD")
    children, preload = done.stdout.split("\n")[:2]
    assert (done.returncode, done.stderr) == (0, "") and preload == str(agent)
    assert children.split() == [] or len(children.split()) == 1  # at most cat itself
    pid = int((place / "pids").read_text())
    assert f"\nPPid:\t{os.getpid()}\n" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/fd/2") == str(place / "samepaged.log")
    assert cli("status").returncode == 0


def test_two_runs_at_once_use_one_daemon(place, agent, startable):
    env = {**os.environ, "SAMEPAGE_SOCKET": str(place / "sock")}
    runs = [subprocess.Popen([place / "samepage", "run", "sh", "-c", "echo $LD_PRELOAD"], env=env,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(4)]
    for run in runs:
        out, err = run.communicate(timeout=60)
        assert (out.strip(), err) == (str(agent), "")


def test_run_of_a_script_without_an_interpreter_is_the_shells(cli, place, daemon, agent):
    script = place / "script"
    script.write_text("echo $0 $1\nexit 4\n")
    script.chmod(0o755)
    done = cli("run", script, "word")
    assert (done.returncode, done.stdout, done.stderr) == (4, f"{script} word\n", "")
