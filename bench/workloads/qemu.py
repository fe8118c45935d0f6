# SPDX-License-Identifier: Apache-2.0
"""Three virtual machines that QEMU emulates (TCG, so it needs no KVM), booted with Debian's cloud
kernel and its initramfs to the prompt of the latter. QEMU advises MADV_MERGEABLE by itself."""

import pathlib
import shutil
import socket
import time

QEMU = "qemu-system-x86_64"
PROMPT = b"(initramfs) "
BOOT_SECONDS, ANSWER_SECONDS = 300, 60
INSTALL = "is not installed (scripts/deps.sh --bench)"


def newest(pattern):
    found = sorted(pathlib.Path("/boot").glob(pattern), key=lambda path: path.stat().st_mtime)
    assert found, f"/boot/{pattern} {INSTALL}"
    return found[-1]


class Guest:
    def __init__(self, place, number, mib):
        self.log = place.tmp / f"serial-{number}.log"
        self.socket = place.tmp / f"serial-{number}"
        kernel = newest("vmlinuz-*-cloud-amd64")
        initrd = kernel.with_name(kernel.name.replace("vmlinuz", "initrd.img"))
        assert initrd.exists(), f"{initrd} {INSTALL}"
        assert shutil.which(QEMU), f"{QEMU} {INSTALL}"
        self.program = place.launch(
            [QEMU, "-accel", "tcg", "-m", mib, "-display", "none", "-monitor", "none",
             "-nic", "none", "-no-reboot", "-kernel", kernel, "-initrd", initrd,
             "-append", "console=ttyS0", "-serial", "chardev:serial", "-chardev",
             f"socket,id=serial,path={self.socket},server=on,wait=off,logfile={self.log}"])

    def wait_for(self, what, behind, seconds):
        """Waits until the guest printed it behind so many bytes."""
        deadline = time.monotonic() + seconds
        while True:
            said = self.log.read_bytes()[behind:] if self.log.exists() else b""
            if what in said:
                return
            status = self.program.poll()
            assert status is None, f"QEMU (pid {self.program.pid}) ended with status {status}"
            assert time.monotonic() < deadline, \
                f"the guest of pid {self.program.pid} did not say {what!r} in {seconds} s: " \
                f"{said[-300:]!r}"
            time.sleep(0.1)

    def answers(self):
        """The guest's shell still runs what it is told."""
        behind = self.log.stat().st_size
        with socket.socket(socket.AF_UNIX) as serial:
            serial.connect(str(self.socket))
            serial.sendall(b"echo $((6 * 7)) guest\n")
            self.wait_for(b"42 guest", behind, ANSWER_SECONDS)


class Workload:
    name = "qemu"
    about = "3 QEMU guests of 512 MB, booted to the initramfs prompt"
    advises = True
    scale = 1.0
    guests = ()

    def start(self, place):
        count, mib = (3, 512) if self.scale >= 1 else (2, 256)
        self.guests = []
        for number in range(count):
            self.guests.append(Guest(place, number, mib))
        for guest in self.guests:
            guest.wait_for(PROMPT, 0, BOOT_SECONDS)

    def pids(self):
        return [guest.program.pid for guest in self.guests]

    def check(self):
        for guest in self.guests:
            guest.answers()

    def stop(self):
        for guest in self.guests:
            guest.program.kill()
        for guest in self.guests:
            guest.program.wait()
