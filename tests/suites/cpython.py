# SPDX-License-Identifier: Apache-2.0
"""CPython's own regression tests, of Debian's package libpython3.11-testsuite.

Each module runs twice at once, each in its own folder, with the same hash seed and the same addresses:
so that the two interpreters' memory is largely the same, and merged, while the tests work on it."""

import xml.etree.ElementTree

from result import Result
from place import text_of

PYTHON = "/usr/bin/python3"
TESTS = "/usr/lib/python3.11/test"
INSTANCES = 2
SECONDS = 1500
WHOLE = "(as a whole)"

MODULES = ("test_mmap", "test_os", "test_posix", "test_subprocess", "test_threading",
           "test_multiprocessing_fork", "test_multiprocessing_spawn", "test_signal", "test_faulthandler",
           "test_gc", "test_io", "test_ctypes", "test_resource")
# Asked for with --more: what else pokes at memory, processes and threads.
MORE = ("test_fork1", "test_wait3", "test_wait4", "test_thread", "test_threading_local",
        "test_threadsignals", "test_concurrent_futures", "test_asyncio", "test_socket", "test_selectors",
        "test_select", "test_poll", "test_epoll", "test_array", "test_memoryview", "test_buffer",
        "test_bytes", "test_pickle", "test_dbm", "test_dbm_gnu", "test_dbm_ndbm", "test_dbm_dumb",
        "test_tracemalloc", "test_pty", "test_fcntl", "test_largefile", "test_shutil", "test_tempfile",
        "test_threadedtempfile", "test_zlib", "test_bz2", "test_lzma", "test_hashlib",
        "test_multiprocessing_forkserver", "test_multiprocessing_main_handling", "test_venv",
        "test_exceptions", "test_bigmem", "test_list", "test_dict", "test_set", "test_re", "test_json",
        "test_decimal", "test_eintr", "test_popen", "test_queue", "test_sched", "test_sys",
        "test_cmd_line", "test_cmd_line_script", "test_repl", "test_site", "test_gdb", "test_atexit",
        "test_weakref", "test_httpservers", "test_ssl", "test_ftplib", "test_smtplib", "test_marshal",
        "test_struct", "test_zipfile", "test_tarfile", "test_random", "test_time", "test_file_eintr",
        "test_xml_etree_c", "test_unicode", "test_gzip", "test_fileio", "test_memoryio", "test_socketserver")


def outcomes(path):
    """{test: what became of it} of a file as --junit-xml writes it."""
    try:
        root = xml.etree.ElementTree.parse(path).getroot()
    except (OSError, xml.etree.ElementTree.ParseError):
        return {}
    found = {}
    for case in root.iter("testcase"):
        bad = any(case.find(kind) is not None for kind in ("error", "failure"))
        skipped = case.find("skipped") is not None or case.get("result") == "skipped"
        found[case.get("name")] = "failed" if bad else "skipped" if skipped else "passed"
    return found


class Module:
    """One module of tests."""

    kind = "cpython"

    def __init__(self, name):
        self.name = name

    def _start(self, place, number):
        folder = place.folder / str(number)
        # The tests of SIGINT fail where it is ignored, as in a shell's background.
        return place.start_logged(
            folder, "env", "--default-signal=INT", "setarch", "-R", PYTHON, "-m", "test", "-v", "-u", "cpu,subprocess", "--timeout",
            SECONDS // 2, "--junit-xml", folder / "junit.xml", self.name, env={"PYTHONHASHSEED": "0"})

    def run(self, place):
        programs = [self._start(place, number) for number in range(INSTANCES)]
        late = place.wait_all(programs, SECONDS)
        result = Result(INSTANCES)
        for number, program in enumerate(programs):
            of_this = outcomes(program.log.parent / "junit.xml")
            status = program.popen.poll()
            of_this[WHOLE] = "took too long" if program in late else \
                "passed" if status == 0 else "failed"
            result.add(of_this)
            if of_this[WHOLE] != "passed":
                result.tell(f"instance {number + 1}, exit status {status}", text_of(program.log))
        return result
