# SPDX-License-Identifier: Apache-2.0
"""Constant reclaim, for tests and for the torture."""

import json
import socket
import threading

SECONDS = 60.0
BYTES = 4 << 20 # at a time


class Reclaimer:
    """Has frames leave memory, again and again; each time its turn comes at the daemon listening at path."""

    def __init__(self, path):
        self.path, self.ended = str(path), threading.Event()
        self.evicted = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        request = json.dumps({"op": "reclaim", "bytes": BYTES}).encode()
        while not self.ended.wait(0.01):
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
                    asked.settimeout(SECONDS)
                    asked.connect(self.path)
                    while not self.ended.wait(0.01):
                        asked.sendall(request)
                        answer = asked.recv(65536)
                        if not answer:
                            break
                        self.evicted += json.loads(answer).get("evicted", 0)
            except OSError:
                pass  # it is killed, or not started yet

    def close(self):
        self.ended.set()
        self.thread.join()
