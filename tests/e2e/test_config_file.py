# SPDX-License-Identifier: Apache-2.0
"""samepaged.conf(5): what is wrong is one line with file and line, exit status 2, nothing started;
what is right is in force, and the command line wins over it."""

import os
import pathlib
import subprocess

import pytest

from lib import place


@pytest.fixture
def config(tmp_path):
    """config(text): a file with that text."""
    def write(text):
        path = tmp_path / "samepaged.conf"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o644)
        return path

    place.need_build()
    return write


def samepaged(*args, env=None):
    return subprocess.run([place.BUILD / "samepaged", *[str(a) for a in args]], timeout=place.patient(20),
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
                          env={**os.environ, **(env or {})})


def must_refuse(done, *words):
    assert done.returncode == 2, done
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1, done
    assert done.stderr.startswith("samepaged: "), done.stderr
    for word in words:
        assert word in done.stderr, (word, done.stderr)


WRONG = [
    ("[nosuch]\n", 1, "nosuch"), ("\n[nosuch]\nrun = 1\n", 2, "nosuch"),
    ("run = 1\n", 1, "before any section"), ("[samepaged]\nnosuch = 1\n", 2, "nosuch"),
    ("[samepaged]\nallow = *\n", 2, "allow"), ("[users]\nrun = 1\n", 2, "run"),
    ("[samepaged\n", 1, ""), ("[samepaged]\nrun\n", 2, "KEY = VALUE"),
    ("[samepaged]\nrun = 3\n", 2, "0 to 2"), ("[samepaged]\nrun =\n", 2, "0 to 2"),
    ("[samepaged]\npages_to_scan = -1\n", 2, "0 to 4294967295"),
    ("[samepaged]\npages_to_scan = 4294967296\n", 2, "4294967295"),
    ("[samepaged]\nmax_kernel_pages = 18446744073709551616\n", 2, "18446744073709551615"),
    ("[samepaged]\nmax_mappings = -1\n", 2, "max_mappings"),
    ("[samepaged]\nmax_page_sharing = 1\n", 2, "2 to 2147483647"), ("[samepaged]\nsmart_scan = y\n", 2, "0 to 1"),
    ("[samepaged]\nadvisor_mode = 1\n", 2, "none or scan-time"), ("[samepaged]\nfull_scans = 0\n", 2, "full_scans"),
    ("[samepaged]\nrun = 1\nrun = 1\n", 3, "twice"), ("[samepaged]\nrun = 1\n  1\n", 3, "twice"),
    ("[samepaged]\nsleep_millisecs = 20 # fast\n", 2, "sleep_millisecs"),
    ("[samepaged]\nsocket = relative\n", 2, "socket"),
    ("[samepaged]\nsocket = /" + "x" * 107 + "\n", 2, "107"),
    ("[samepaged]\nlog = " + "/x" * 150 + "\n", 2, "longer than 198"),
    ("[samepaged]\nrun = 1" + " " * 300 + "\n", 2, "longer than 198"),
    ("[users]\nallow = no-such-user-here\n", 2, "no-such-user-here"),
    ("[users]\nallow = root\n  @no-such-group\n", 3, "no-such-group"),
    ("[users]\nuserfaultfd = 4294967295\n", 2, "4294967295"),
    ("[users]\nuserfaultfd = -1\n", 2, "-1"), ("[users]\nallow = @\n", 2, "group"),
    ("[users]\n" + "allow = 1 2 3 4 5 6 7 8 9 10\n" * 7, 8, "too many"),
    ("[users]\nmax_programs = 0\n", 2, "1 to 4096"), ("[users]\nmax_programs = 4097\n", 2, "4096"),
    ("[users]\nmax_connections = 513\n", 2, "512"), (b"[users]\nallow = \0\n", 2, "0"),
    ("[swap]\nswap = disk\n", 2, "none or store"), ("[swap]\nswap_memory = 3M\n", 2, "at least 4M"),
    ("[swap]\nswap_memory = 1x\n", 2, "swap_memory"), ("[swap]\nswap_size = 99999999999T\n", 2, "swap_size"),
    ("[swap]\nswap_size = 0\n", 2, "at least 4M"), ("[swap]\nswap_size = 65G\n", 2, "at most 64G"),
    ("[swap]\nswap_memory = 1T\n", 2, "at most 64G"), ("[swap]\nswap_encrypt = 1\n", 2, "no or yes"),
    ("[swap]\nswap_encrypt = yes\n", 2, "swap_file"), ("[swap]\nswap_size =\n", 2, "swap_size"),
    ("[swap]\nswap_size = -1\n", 2, "swap_size"), ("[swap]\nswap_size = 18446744073709551616\n", 2, "swap_size"),
    ("[swap]\nswap_file = x\n", 2, "swap_file"), ("[swap]\nswap_file = /x\n", 2, "needs swap_size"),
    ("[swap]\nswap = none\nswap = store\n", 3, "twice"), ("[swap]\nnosuch = 1\n", 2, "swap_compressor"),
    ("[swap]\nreclaim_min = 2G\nreclaim_max = 1G\n", 3, "reclaim_max"), ("[swap]\nreclaim_min = 0\n", 2, "at least 1M"),
    (b"[users]\nallow = \x1b[2Jx\n", 2, "?[2Jx"), ("[samepaged]\nRun = 1\n", 2, "Run"),
]


@pytest.mark.parametrize("text, line, word", WRONG, ids=[repr(t[0][:40]) for t in WRONG])
def test_wrong(config, tmp_path, text, line, word):
    path = config(text)
    must_refuse(samepaged("--check-config", "--config", path), f"{path}:{line}: ", word)


def test_wrong_file_starts_nothing(config, tmp_path):
    socket = tmp_path / "s.sock"
    must_refuse(samepaged("--config", config("[samepaged]\nrun = 9\n"), "--socket", socket), ":2:")
    assert not list(tmp_path.glob("s.sock*"))


def test_file_that_cannot_be_used(config, tmp_path):
    missing = tmp_path / "missing.conf"
    must_refuse(samepaged("--config", missing, "--check-config"), str(missing), "No such file")
    must_refuse(samepaged("--config", tmp_path, "--check-config"), "plain file")
    path = config("[samepaged]\n" + "#" * 100 + "\n" + ("# x\n" * 20000))
    must_refuse(samepaged("--config", path, "--check-config"), "65536")
    path = config("[samepaged]\n")
    path.chmod(0o666)
    must_refuse(samepaged("--config", path, "--check-config"), "chmod")
    if os.geteuid() == 0:
        path.chmod(0o644)
        os.chown(path, 65534, 65534)
        must_refuse(samepaged("--config", path, "--check-config"), "belongs")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    must_refuse(samepaged("--config", fifo, "--check-config"), "plain file")


@pytest.mark.parametrize("text", [
    "", "\ufeff[samepaged]\n", "# only\n; comments\n\n", "[samepaged]\n[users]\n[samepaged]\nrun=0\n",
    "[users]\r\nallow = root\r\n", "[users]\nallow =\n", "[users]\nuserfaultfd: @0,root 5\n   6, 7\n",
    "[swap]\nswap = store\nswap_file = /x\nswap_size = 64G\nswap_encrypt = yes\nreclaim_max = 0\nreclaim_floor = 1K\n",
    "[samepaged]\nmax_kernel_pages = 18446744073709551615", "[samepaged]\nrun = 0 ; not yet\n"])
def test_right(config, text):
    path = config(text)
    done = samepaged("--check-config", "--config", path)
    assert done.returncode == 0 and done.stderr == "" and str(path) in done.stdout, done


def test_example_is_right_and_changes_nothing(config):
    text = (place.ROOT / "data" / "samepaged.conf").read_text()
    assert samepaged("--check-config", "--config", config(text)).returncode == 0
    plain = "\n".join(line[1:] if line[:1] == "#" and line[1:2].islower() and " = " in line or
                      line == "#userfaultfd =" else line for line in text.splitlines())
    assert plain.count("=") >= 9
    assert samepaged("--check-config", "--config", config(plain)).returncode == 0


def test_default_file_of_a_user(tmp_path):
    """Another user than root has a file of their own; one that is not there is fine."""
    place.need_root()
    place.need_build()

    def check(**env):
        return subprocess.run(
            ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
             place.BUILD / "samepaged", "--check-config"], timeout=place.patient(20), capture_output=True,
            text=True, env={**os.environ, **env}, check=False)

    home = pathlib.Path("/nonexistent")
    done = check(HOME=str(home), XDG_CONFIG_HOME="")
    assert done.returncode == 0 and "no configuration file" in done.stdout, done


def test_in_force(make_daemon, config):
    """Settings, socket and log of the file; options and the environment win."""
    path = config("[samepaged]\nrun = 0\npages_to_scan = 77\nsleep_millisecs = 99\n"
                  "max_kernel_pages = 12345\nmax_mappings = 17\n"
                  "socket = /nonexistent/samepage/ignored.sock\n")
    daemon = make_daemon(options=["--config", path, "--sleep-millisecs", "11"]).start()
    got = [daemon.get(key) for key in ("run", "pages_to_scan", "sleep_millisecs",
                                       "max_kernel_pages", "max_mappings")]
    assert got == ["0", "77", "11", "12345", "17"]
    daemon.stop()


def test_settings_of_ksm_in_force(make_daemon, config):
    """The advisor says pages_to_scan from the start (K16), whatever the file says of it."""
    path = config("[samepaged]\nadvisor_mode = scan-time\nadvisor_min_pages_to_scan = 700\npages_to_scan = 9\n"
                  "max_page_sharing = 2\nsmart_scan = 0\nrun = 0\n")
    daemon = make_daemon(options=["--config", path]).start()
    got = [daemon.get(key) for key in ("advisor_mode", "pages_to_scan", "max_page_sharing", "smart_scan")]
    assert got == ["none [scan-time]", "700", "2", "0"]
    daemon.stop()


def test_socket_and_log_of_the_file(make_daemon, config):
    daemon = make_daemon()
    log = daemon.directory / "its.log"
    path = config(f"[samepaged]\nsocket = {daemon.socket}\nlog = {log}\n")
    daemon.options, daemon.pass_socket = ["--config", path], False
    daemon.start()
    assert "listens at" in log.read_text()
    daemon.stop()
