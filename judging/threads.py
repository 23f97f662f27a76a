"""Limit the threads of one candidate where the kernel's own limit counts all threads of a user.

The kernel counts like that without root and without a user namespace. A candidate that starts as many threads as it can
would then leave none to the others. So a second filter makes the kernel ask the zygote, through a descriptor, about
each new thread.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct

from judging import lockdown, seccomp

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_FILTER, _NEW_LISTENER, _IS_KNOWN = 1, 8, 2
_ASK, _GO_ON = 0x7FC00000, 1
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # ioctls
_QUESTION, _ANSWER = struct.Struct("=Q72x"), struct.Struct("=QqiI")  # a question begins with its number

_libc = ctypes.CDLL(None, use_errno=True)


def available() -> bool:
    """Return whether the kernel can ask another process about a system call."""
    machine = os.uname().machine
    if not lockdown.LINUX or machine not in _SECCOMP:
        return False
    numbers = [ctypes.c_long(number) for number in (_SECCOMP[machine], _IS_KNOWN, 0)]
    return _libc.syscall(*numbers, struct.pack("=I", _ASK)) == 0 and os.path.isdir("/proc/self/task")


def ask_about_threads(channel: socket.socket) -> None:
    """In a child, make the kernel ask about every new thread, and send the descriptor for the answers to `channel`."""
    machine = os.uname().machine
    clone = seccomp.CHECKED["clone"][machine != "x86_64"]
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, clone), (0x06, 0, 0, _ASK), (0x06, 0, 0, seccomp.ALLOW)]
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(code), ctypes.addressof(instructions))
    numbers = [ctypes.c_long(n) for n in (_SECCOMP[machine], _SET_FILTER, _NEW_LISTENER)]
    listener = _libc.syscall(*numbers, header)
    if listener >= 0:  # else only the user's limit applies
        socket.send_fds(channel, [b"L"], [listener])
        os.close(listener)


class Doorman:
    """The zygote's end of the questions: poll `fileno`, and call `answer` when there is something to read."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.listener = -1
        self.open = True

    def fileno(self) -> int:
        return self.ours.fileno() if self.listener < 0 else self.listener

    def answer(self, pid: int) -> None:
        """Receive the descriptor from child `pid`, or answer a question: allow the new thread if there are few."""
        try:
            if self.listener < 0:
                _, descriptors, _, _ = socket.recv_fds(self.ours, 1, 1)
                self.open = bool(descriptors)
                self.listener = descriptors[0] if descriptors else -1
                return
            (number,) = _QUESTION.unpack(fcntl.ioctl(self.listener, _RECEIVE, bytes(_QUESTION.size)))
            few = len(os.listdir(f"/proc/{pid}/task")) < lockdown.MAX_THREADS
            refused = _ANSWER.pack(number, 0, -errno.EAGAIN, 0)
            fcntl.ioctl(self.listener, _SEND, _ANSWER.pack(number, 0, 0, _GO_ON) if few else refused)
        except OSError:
            pass  # the child ended meanwhile

    def close(self) -> None:
        self.ours.close()
        if self.listener >= 0:
            os.close(self.listener)
