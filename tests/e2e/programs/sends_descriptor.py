# SPDX-License-Identifier: Apache-2.0
"""SOCKET WHEN WHAT: sends the daemon a descriptor that is not easily closed, when it is told to. WHAT is a file to be
opened, or "linger": a connection that waits ten minutes for data to be read when it is closed by the last who has it."""

import os
import pathlib
import socket
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from lib import fake_agent as fa  # noqa: E402


def lingers():
    """The descriptor, and what must stay open."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    sender = socket.socket()
    sender.connect(listener.getsockname())
    receiver, _ = listener.accept()
    sender.setblocking(False)
    try:
        while True:
            sender.send(bytes(65536))
    except BlockingIOError:
        pass
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
    return sender.detach(), receiver


path, when, what = sys.argv[1:]
fd, kept = lingers() if what == "linger" else (os.open(what, os.O_RDONLY), None)
sock = fa.FakeAgent(path).sock if when == "answer" else fa.connect(path)
print("ready", flush=True)
sys.stdin.readline()
if when == "unread":  # it comes to lie behind a request
    sock.send(b'{"op":"status"}')
packet = {"hello": fa.packet(fa.HELLO, fa.hello_body()), "answer": fa.packet(fa.DONE, struct.pack("<iI", 0, 0))}
fa.send_fd(sock, packet.get(when, b'{"op":"status"}'), fd)
if when == "unread":
    sock.close()
if what == "linger":
    os.close(fd)
print("sent", flush=True)
sys.stdin.readline()
os._exit(0)
