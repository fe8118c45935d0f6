# SPDX-License-Identifier: Apache-2.0
"""What tests and benchmarks say to a Redis server: its protocol, and made values to keep."""

import socket

KINDS = ("view", "click", "purchase", "refund", "search")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def resp(*words):
    """A command of these words (bytes)."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


def _is_whole(answer):
    if not answer.endswith(b"\r\n"):
        return False
    head, _, rest = answer.partition(b"\r\n")
    return head[:1] != b"$" or head == b"$-1" or len(rest) == int(head[1:]) + 2


def command(connection, *words):
    """One command with an answer of one line (status, number or error) or one string: that line, or
    the length of the string as a line and the string, without the last end of line."""
    connection.sendall(resp(*(word.encode() for word in words)))
    answer = b""
    while not _is_whole(answer):
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("redis-server closed the connection")
        answer += data
    return answer[:-2]


def json_events(i, chance, size=2000):
    """About size bytes of JSON as programs keep it, of which a fast compressor leaves half; no two are equal."""
    events = []
    while sum(map(len, events)) + 2 * len(events) < size - 150:
        events.append(f'{{"at":{1700000000 + chance.randrange(10 ** 7)},"kind":"{chance.choice(KINDS)}",'
                      f'"user":"u{chance.randrange(10 ** 6):06}","price":{chance.randrange(10 ** 5) / 100},'
                      f'"tags":["t{chance.randrange(50)}","t{chance.randrange(50)}"]}}')
    return f'{{"id":{i},"events":[{",".join(events)}]}}'.encode()


def json_value(i, chance, size=2000):
    """A JSON object of about size bytes that no other value equals."""
    body = chance.randbytes((size - 150) // 2).hex()
    return (f'{{"id":{i},"user":"user-{i * 7919 % 100003}","active":{str(i % 3 == 0).lower()},'
            f'"tags":["t{i % 17}","t{i % 23}"],"score":{i * 31 % 1000},"body":"{body}"}}').encode()
