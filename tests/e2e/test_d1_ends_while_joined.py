# SPDX-License-Identifier: Apache-2.0
"""D1: a program begins just when the daemon ends, which heard it and does not answer any more. It is merged by the next
one, though it was never merged by any."""

import socket

import pytest

PAGES = 256
THREADS = 1


class Ends:
    """Listens where the daemon does, until it was asked so many things, and answers all but the last of them."""

    def __init__(self, path, questions):
        self.path, self.questions = path, questions
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen()

    def answer_all_but_the_last(self):
        for _ in range(self.questions - 1):
            with self.listener.accept()[0] as asker:
                asker.recv(65536)
                asker.send(b'{"ok":true}')
        asker = self.listener.accept()[0]
        asker.recv(65536)
        self.listener.close()
        self.path.unlink()
        return asker


@pytest.mark.parametrize("who", ["run", "program"])
def test_d1_daemon_ends_while_it_is_joined(make_daemon, compiled, who):
    daemon = make_daemon()
    ending = Ends(daemon.socket, {"run": 1, "program": 2}[who])
    program = daemon.run(compiled("writes_on"), PAGES, THREADS)
    asker = ending.answer_all_but_the_last()
    daemon.start()
    asker.close()
    area = program.region()
    daemon.set_full_speed()
    daemon.run(compiled("writes_on"), PAGES, THREADS).region()
    daemon.wait_merged(program, area, share=1.0)
    assert program.stderr() == ""
    program.say("rest")
    assert program.line() == "ok"
