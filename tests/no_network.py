"""Runs a program to which the kernel gives no socket that could leave this computer: it is ended if it asks for one.

    python -m tests.no_network PROGRAM [ARGUMENT…]

ends with SIGSYS. Only Linux on x86-64 and arm64 can do that (seccomp); `is_possible` says whether.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""By machine: what the kernel calls it, and the number of the system call `socket`."""
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _DOMAIN = 0, 4, 16
"""Where they stand in what the filter sees of a system call (struct seccomp_data)."""
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_AF_UNIX = 1
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2


def is_possible() -> bool:
    """Tell whether this computer can do it."""
    return sys.platform == "linux" and platform.machine() in _SOCKET


def take_away() -> None:
    """Take the network from this process and all it starts, for good."""
    architecture, socket = _SOCKET[platform.machine()]
    steps = [  # (operation, steps to jump over if equal, if not, value)
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 2, socket),
        (_LOAD, 0, 0, _DOMAIN),
        (_EQUAL, 0, 1, _AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _KILL_PROCESS),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _MODE_FILTER, program, 0, 0)):
        if prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    take_away()
    os.execvp(sys.argv[1], sys.argv[1:])
