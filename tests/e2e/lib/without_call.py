#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""without_call.py CALL COMMAND...: runs the command, to which the kernel refuses that system call (EPERM), as
container engines refuse some."""

import ctypes
import os
import sys
from errno import EPERM

ACT_ALLOW, ACT_ERRNO = 0x7fff0000, 0x00050000


def main():
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_load.argtypes = [ctypes.c_void_p]
    lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint,
                                           ctypes.c_void_p]
    context = lib.seccomp_init(ctypes.c_uint32(ACT_ALLOW))
    number = lib.seccomp_syscall_resolve_name(sys.argv[1].encode())
    assert lib.seccomp_rule_add_array(context, ACT_ERRNO | EPERM, number, 0, None) == 0, sys.argv[1]
    assert lib.seccomp_load(context) == 0
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
