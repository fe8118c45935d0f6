# SPDX-License-Identifier: Apache-2.0
"""as_unit.py UNIT COMMAND...: becomes COMMAND with what the service unit leaves to it: capabilities,
system calls, address families, namespaces, no new privileges, no writable code. (What a unit says about
files is not done here.)"""

import ctypes
import os
import resource
import subprocess
import sys

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 24, 38, 65
CAPABILITIES = """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD
LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND
AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE""".split()
CLONE_NEWNS, NAMESPACES = 0x20000, 0x7E020080
AF_UNIX, EPERM = 1, 1
RLIMIT_NICE = 13
ACT_ALLOW, ACT_ERRNO = 0x7FFF0000, 0x00050000
CMP_EQ, CMP_MASKED_EQ = 4, 7


def settings(unit):
    """{key: [values in order]} of [Service]."""
    found = {}
    with open(unit, encoding="ascii") as lines:
        for line in lines:
            key, eq, value = line.strip().partition("=")
            if eq and not key.startswith("#"):
                found.setdefault(key, []).append(value)
    return found


def calls_of(group):
    """The system calls of a group, and of those in it."""
    if not group.startswith("@"):
        return {group}
    out = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True,
                         check=True).stdout
    names = [line.strip() for line in out.splitlines()[1:]]
    found = set()
    for name in names:
        if name and not name.startswith("#"):
            found |= calls_of(name)
    return found


def allowed_calls(lines):
    """As systemd: the first line says whether a list allows; later ones add, those with ~ take."""
    allowed = set(calls_of("@default"))
    for line in lines:
        take = line.startswith("~")
        for word in line.lstrip("~").split():
            allowed = allowed - calls_of(word) if take else allowed | calls_of(word)
    return allowed | {"execve"}


class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64),
                ("b", ctypes.c_uint64)]


def load_filter(allowed):
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_load.argtypes = [ctypes.c_void_p]
    lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int,
                                           ctypes.c_uint, ctypes.c_void_p]
    context = lib.seccomp_init(ctypes.c_uint32(ACT_ERRNO | EPERM))

    def allow(name, compare=None):
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            rule = (Compare * 1)(compare) if compare else None
            assert lib.seccomp_rule_add_array(context, ACT_ALLOW, number, 1 if compare else 0,
                                              rule) == 0, name

    for name in sorted(allowed - {"socket", "unshare", "clone"}):
        allow(name)
    allow("socket", Compare(0, CMP_EQ, AF_UNIX, 0))
    allow("unshare", Compare(0, CMP_MASKED_EQ, NAMESPACES & ~CLONE_NEWNS, 0))
    allow("clone", Compare(0, CMP_MASKED_EQ, NAMESPACES & ~CLONE_NEWNS, 0))
    assert lib.seccomp_load(context) == 0


def main():
    unit = settings(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    keep = {name[4:] for value in unit["CapabilityBoundingSet"] for name in value.split()}
    keep -= set(os.environ.get("SAMEPAGE_TEST_WITHOUT", "").split())
    keep |= set(os.environ.get("SAMEPAGE_TEST_BESIDE", "").split())
    allowed = allowed_calls(unit["SystemCallFilter"])
    files = int(unit["LimitNOFILE"][0])
    files = min(files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    nice = 20 - int(unit["LimitNICE"][0])
    try:
        resource.setrlimit(RLIMIT_NICE, (nice, nice))
    except (PermissionError, ValueError):
        pass  # a container's root
    os.umask(int(unit["UMask"][0], 8))
    for number, name in enumerate(CAPABILITIES):
        if name not in keep:
            assert libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0, name
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)
    load_filter(allowed)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
