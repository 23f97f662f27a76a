"""List the system calls that the untrusted process may make, and write them as a classic BPF program for seccomp.

The list names what is allowed, so a call that nobody thought of is refused (EPERM) as well: bpf, keyctl, userfaultfd,
perf_event_open, io_uring, System V IPC, POSIX queues, sched_setaffinity, fsync and whatever the next kernel adds.
Left out on purpose: every way to start a program or a process, to signal one, to make a socket with an address, to
change a file's mode, owner, times or attributes, to lock a file, or to raise a limit. The call numbers were checked
against libseccomp for both architectures. The filter has run on x86-64 only; aarch64 is untested.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

# name: (number on x86-64, number on aarch64); None where the architecture has no such call
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # descriptors
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59), "poll": (7, None),
    "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create": (213, None),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441), "eventfd": (284, None), "eventfd2": (290, 19), "recvfrom": (45, 207),
    "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205),
    # files; Landlock decides which can be opened
    "stat": (4, None), "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "getdents": (78, None),
    "getdents64": (217, 61), "getcwd": (79, 17),
    # memory
    "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "madvise": (28, 233),
    "brk": (12, 214),
    # signals to itself and timers
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "pause": (34, None),
    "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153),
    # threads
    "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "membarrier": (324, 283), "restart_syscall": (219, 128), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126), "getcpu": (309, 168),
    "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260), "waitid": (247, 95),
    # identity, limits and machine
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getpgrp": (111, None), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148),
    "getresgid": (120, 150), "getgroups": (115, 158), "getrusage": (98, 165), "getrlimit": (97, 163),
    "uname": (63, 160), "getrandom": (318, 278), "arch_prctl": (158, None),
}  # fmt: skip

# Only for a child that will execute another program, which inherits the filter; Landlock decides which programs. Such a
# program may also read links. A candidate may not, because a link's target tells about files that it cannot open.
EXEC = {"execve": (59, 221), "readlink": (89, None), "readlinkat": (267, 78), "sysinfo": (99, 179)}

# Answered with "no such call" (ENOSYS), so that the C library falls back to clone(), whose flags a filter can read.
ABSENT: dict[str, tuple[int, int]] = {"clone3": (435, 435)}


class Check(NamedTuple):
    """A condition on an argument's lower 32 bits (upper 32 if `high`): (argument & mask) must be one of `values`."""

    argument: int
    mask: int
    values: tuple[int, ...]
    high: bool = False


WORD = 0xFFFFFFFF
CLONE_THREAD = 0x00010000
CLONE_SHARED = CLONE_THREAD | 0x700  # a thread shares memory, current folder and descriptors with the others
CLONE_NEW = 0x7E020000  # every namespace
O_ACCMODE, O_TRUNC = 0x3, 0x200
MAP_KIND, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS = 0xF, 1, 2, 0x20
FUTEX_PRIVATE = 0x80


def _null(argument: int) -> tuple[Check, Check]:
    return Check(argument, WORD, (0,)), Check(argument, WORD, (0,), high=True)


# Allow the named clocks (0 to 15) and the CPU time of this process and thread (-8 to -1). Another process's CPU time
# would be a counter that one check can advance and the next can read.
_CLOCK = (Check(0, WORD - 7, (0, 8, WORD - 7)),)

# Opening for reading with O_TRUNC empties the file; Landlock checks that only since its third version.
_OPEN_FLAGS = (0, 1, 2, O_TRUNC | 1, O_TRUNC | 2)

# name: (number on x86-64, number on aarch64, conditions on the arguments)
CHECKED: dict[str, tuple[int | None, int | None, tuple[Check, ...]]] = {
    "open": (2, None, (Check(1, O_TRUNC | O_ACCMODE, _OPEN_FLAGS),)),
    "openat": (257, 56, (Check(2, O_TRUNC | O_ACCMODE, _OPEN_FLAGS),)),
    "clone": (56, 220, (Check(0, CLONE_SHARED | CLONE_NEW, (CLONE_SHARED,)),)),  # a thread, never a process
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. No locks, and neither F_SETOWN nor F_SETSIG, which
    # together can send any signal to any process of the same user.
    "fcntl": (72, 25, (Check(1, WORD, (0, 1, 2, 3, 4, 1030)),)),
    "ioctl": (16, 29, (Check(1, WORD, (0x5401, 0x5421, 0x541B, 0x5450, 0x5451)),)),  # TCGETS FIONBIO FIONREAD FIO*CLEX
    "prctl": (157, 167, (Check(0, WORD, (15, 16, 0x53564D41)),)),  # a thread's name, a mapping's name
    "prlimit64": (302, 261, (Check(0, WORD, (0,)), *_null(2))),  # reading its own limits
    "socketpair": (53, 199, (Check(0, WORD, (1,)), Check(1, 0xF, (1,)))),  # AF_UNIX streams: asyncio's self-pipe
    # no address, with which one end of a socketpair could write to any local socket; no out-of-band data
    "sendto": (44, 206, (*_null(4), Check(3, 1, (0,)))),
    # no shared mapping of a file, through which two checks could signal each other
    "mmap": (9, 222, (Check(3, MAP_KIND | MAP_ANONYMOUS,
                            (MAP_PRIVATE, MAP_PRIVATE | MAP_ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS)),)),
    # SO_TYPE, SO_ERROR, SO_PROTOCOL, SO_DOMAIN; neither SO_PEERCRED nor SO_COOKIE, which counts the machine's sockets
    "getsockopt": (55, 209, (Check(1, WORD, (1,)), Check(2, WORD, (3, 4, 38, 39)))),
    "clock_gettime": (228, 113, _CLOCK),
    "clock_getres": (229, 114, _CLOCK),
    "clock_nanosleep": (230, 115, _CLOCK),
}  # fmt: skip

# Answered with "try again" (EAGAIN) if a condition fails. Any process can reach a futex that is not private, by file
# and offset. The C library's pthread_join waits on such a futex in its own memory; given EAGAIN it asks again until the
# thread is gone.
BUSY: dict[str, tuple[int | None, int | None, tuple[Check, ...]]] = {
    "futex": (202, 98, (Check(1, FUTEX_PRIVATE, (FUTEX_PRIVATE,)),)),
}

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
ALLOW, KILL = 0x7FFF0000, 0x80000000
ERRNO = 0x00050000

_LOAD, _JUMP, _IF_EQUAL, _IF_AT_LEAST, _AND, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x54, 0x06
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, k


def supports(machine: str) -> bool:
    """Return whether there is a table for this `os.uname().machine`."""
    return machine in _MACHINES


def program(machine: str, allow_exec: bool = False) -> bytes:
    """Return the filter as an array of `struct sock_filter`, eight bytes per instruction.

    Args:
        machine: as `os.uname().machine`.
        allow_exec: also allow the calls in `EXEC`.

    Raises:
        KeyError: there is no table for this machine.
    """
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions(machine, allow_exec))


def instructions(machine: str, allow_exec: bool = False) -> list[Instruction]:
    """Build the filter: it kills a process that makes another architecture's calls, then looks up the call's number in
    a binary tree of ranges.

    Arguments and errors as for `program`.
    """
    column, arch = _MACHINES[machine]
    allowed = ALLOWED | EXEC if allow_exec else ALLOWED
    leaves = {row[column]: [(_RETURN, 0, 0, ALLOW)] for row in allowed.values() if row[column] is not None}
    leaves |= {row[column]: [(_RETURN, 0, 0, ERRNO | errno.ENOSYS)] for row in ABSENT.values()}
    for table, number in ((CHECKED, errno.EPERM), (BUSY, errno.EAGAIN)):
        leaves |= {row[column]: _checks(row[2], number) for row in table.values() if row[column] is not None}
    ranges: list[tuple[int, list[Instruction]]] = []  # (first number of the range, instructions for it)
    refuse = [(_RETURN, 0, 0, ERRNO | errno.EPERM)]
    for number in range(max(leaves) + 2):  # the last range also refuses x86-64's x32 calls, which start at 2**30
        leaf = leaves.get(number, refuse)
        if not ranges or ranges[-1][1] != leaf:
            ranges.append((number, leaf))
    return [
        (_LOAD, 0, 0, _ARCH),
        (_IF_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NR),
        *_tree(ranges),
    ]


def _tree(ranges: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    left, right = _tree(ranges[:middle]), _tree(ranges[middle:])
    bound = ranges[middle][0]
    if len(left) <= 255:
        return [(_IF_AT_LEAST, len(left), 0, bound), *left, *right]
    return [(_IF_AT_LEAST, 0, 1, bound), (_JUMP, 0, 0, len(left)), *left, *right]  # conditional jumps reach 255


def _checks(checks: tuple[Check, ...], otherwise: int) -> list[Instruction]:
    code: list[Instruction] = []
    for check in checks:
        code.append((_LOAD, 0, 0, _ARGS + 8 * check.argument + 4 * check.high))  # both machines are little-endian
        if check.mask != WORD:
            code.append((_AND, 0, 0, check.mask))
        for position, value in enumerate(check.values, start=1):
            code.append((_IF_EQUAL, len(check.values) - position + 1, 0, value))
        code.append((_RETURN, 0, 0, ERRNO | otherwise))
    return [*code, (_RETURN, 0, 0, ALLOW)]
