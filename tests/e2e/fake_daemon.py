# SPDX-License-Identifier: Apache-2.0
"""A daemon that only speaks docs/control.md, to test the commands alone.

As a module: FakeDaemon(path) answers from a thread and notes the requests. As a program: listens at
SAMEPAGE_SOCKET until it is ended, so that it can stand in for samepaged.
"""
import json
import os
import socket
import sys
import threading

STATUS = {
    "ok": True, "pages_shared": 10, "pages_sharing": 30, "pages_unshared": 5, "pages_volatile": 2,
    "full_scans": 7, "pages_scanned": 99, "kernel_pages_allocated": 10, "pages_tracked": 100,
    "run": 1, "pages_to_scan": 5000, "sleep_millisecs": 20, "max_kernel_pages": 0,
    "max_mappings": 0, "bytes_saved": 122880, "bytes_per_tracked_page": 64.5,
    "cpu_seconds": 0.25, "daemon_pid": 1, "domains": 1, "processes": 2, "mappings": 3,
    "quiet_passes": 0, "pages_lifted": 50, "pages_put_back": 2, "pages_merged": 48,
    "pages_unmerged": 8, "merge_changed": 1, "merge_pinned": 0, "merge_gone": 0, "merge_fork": 0,
    "merge_attributes": 0, "merge_mappings": 0, "merge_memory": 4, "frames_lingering": 0,
    "segments": 1, "pool_bytes": 40960, "repairs": 0, "takeovers": 0, "version": "0.1.0",
}


class FakeDaemon:
    def __init__(self, path):
        self.requests = []
        self.status = dict(STATUS)
        self.answers = {}  # op: a packet or a list of packets (bytes or object), or a function
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        self.listener.listen(16)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def answer(self, request):
        given = self.answers.get(request.get("op"))
        if callable(given):
            given = given(request)
        if given is None:
            given = self.status if request.get("op") == "status" else {"ok": True}
        return given if isinstance(given, list) else [given]

    def serve(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            with conn:
                data = conn.recv(65536)
                if not data:
                    continue
                try:
                    request = json.loads(data)
                except ValueError:
                    continue  # an agent
                self.requests.append(request)
                for packet in self.answer(request):
                    conn.send(packet if isinstance(packet, bytes) else json.dumps(packet).encode())

    def close(self):
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()


if __name__ == "__main__":
    try:
        daemon = FakeDaemon(os.environ["SAMEPAGE_SOCKET"])
    except OSError as error:
        sys.exit(f"fake: another daemon is there: {error}")
    daemon.thread.join()
