# SPDX-License-Identifier: Apache-2.0
"""T2: where it cannot be found out whether somebody maps frames still, nobody says that all is un-merged."""

import shutil

import pytest

from lib import place
from lib.place import wait_for
from lib.slow_file import holders, holding, slow_file, state  # noqa: F401
from test_t2_strays import end, kill_agent, merged, must_be_busy, run_2, rewrites, tell, PAGES

NOBODY, OTHER = 65534, 65533


def must_be_unknown(answer):
    assert not answer["ok"] and answer.get("errno") == "EAGAIN", answer
    assert "it is not known whether everything is un-merged" in answer["error"], answer


def lingering(daemon, compiled, uid=None):
    """A program without an agent, whose pages are all its own but lie in frames' mappings: it has to be looked who maps
    frames, and nobody does."""
    programs = rewrites(daemon, compiled, uid=uid)
    kill_agent(daemon, programs[0])
    tell(programs[0], f"own 2 0 {PAGES}")
    return programs


def finish(programs):
    for program in programs:
        program.popen.terminate()


@pytest.fixture
def daemon_of_a_copy(make_daemon, tmp_path):
    """A daemon whose program nobody else runs."""
    for name in ("samepaged", "samepage", "libsamepage-agent.so"):
        shutil.copy2(place.BUILD / name, tmp_path / name)
    daemon = make_daemon(build=tmp_path)
    daemon.start()
    return daemon


def test_t2_nobody_can_look(daemon_of_a_copy, compiled):
    """The daemon cannot start the process that looks: EAGAIN, the reason in the log, and run is 2; `off` is that and
    off."""
    daemon = daemon_of_a_copy
    programs = merged(daemon, compiled, 2)
    kill_agent(daemon, programs[0])
    (daemon.build / "samepaged").chmod(0o600)  # not for root either
    must_be_unknown(run_2(daemon))
    assert daemon.get("run") == "2"
    assert daemon.merged_pages(programs[1], programs[1].area) == 0
    assert "cannot look who maps frames still: Permission denied" in daemon.log()
    off = daemon.cli("off", check=False)
    assert off.returncode == 1 and "it is not known" in off.stderr, off
    (daemon.build / "samepaged").chmod(0o700)
    must_be_busy(daemon, run_2(daemon), programs[0])
    for program in programs:
        end(program)
    assert run_2(daemon)["ok"]


@pytest.mark.alone
def test_t2_who_cannot_be_looked_at(daemon, compiled, holders):  # noqa: F811
    """A process of the same user holds the lock of its memory: it may be one that maps frames."""
    programs = lingering(daemon, compiled)
    assert run_2(daemon)["ok"]
    holder, = holders()
    must_be_unknown(run_2(daemon))
    wait_for("no warning", lambda: f"as python3 (pid {holder.pid}): they keep their memory locked" in daemon.log())
    finish(programs)


@pytest.fixture
def users_daemon(make_daemon, tmp_path):
    """Root's daemon, which passes userfaultfd to a user."""
    place.need_root()
    path = tmp_path / "samepaged.conf"
    path.write_text(f"[users]\nuserfaultfd = {NOBODY}\n")
    daemon = make_daemon(options=["--config", path]).start()
    daemon.set_full_speed()
    return daemon


@pytest.mark.alone
@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
def test_t2_others_who_cannot_be_looked_at(users_daemon, compiled, holding, many):
    """Another user's do not matter, but where there are so many that it was given up. To root's domains they do: a
    program of root's may have become theirs."""
    theirs, roots = (lingering(users_daemon, compiled, uid=uid) for uid in (NOBODY, None))
    holding(5 if many else 2, uid=OTHER)
    answer = run_2(users_daemon, domain=f"u{NOBODY}")
    if many:
        must_be_unknown(answer)
    else:
        assert answer["ok"], answer
    must_be_unknown(run_2(users_daemon, domain="u0"))
    finish(theirs + roots)


def test_t2_without_its_first_thread(daemon, compiled):
    """A program's first thread ended: /proc/PID/maps is empty, and it maps frames all the same."""
    programs = rewrites(daemon, compiled)
    tell(programs[0], "leave")
    wait_for("its first thread does not end", lambda: state(programs[0].pid) == "Z")
    kill_agent(daemon, programs[0])
    answer = run_2(daemon)
    assert answer.get("errno") == "EBUSY" and f"pid {programs[0].pid})" in answer["error"], answer
    tell(programs[0], f"own 2 0 {PAGES}")
    assert run_2(daemon)["ok"]
    finish(programs)


@pytest.mark.alone
def test_t2_what_is_known_is_told(daemon, compiled, holders):  # noqa: F811
    """A program maps frames, and another one cannot be looked at: EBUSY."""
    programs = rewrites(daemon, compiled)
    kill_agent(daemon, programs[0])
    holders()
    must_be_busy(daemon, run_2(daemon), programs[0])
    finish(programs)
