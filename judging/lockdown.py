"""Take powers away from a process, by ctypes: resource limits, Landlock, seccomp, namespaces, user ids.

Uses only the standard library: no libseccomp, no root needed. Each function raises OSError if the kernel refuses; the
caller decides whether that is fatal. Works on Linux on x86-64 and aarch64 (untested there); elsewhere only the resource
limits work.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import socket
import struct
import sys

from judging import seccomp
from judging.paths import DEVICES, Paths, readable

LINUX = sys.platform == "linux"
MIB = 1024 * 1024
SANDBOX_UIDS = 61184, 4096  # first id and number of ids: above those of users and services, below the overflow uid
MAX_THREADS = 64  # of one candidate
MAX_DESCRIPTORS = 64

_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_CAPSET = {"x86_64": 126, "aarch64": 91}.get(os.uname().machine if LINUX else "", -1)
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture

# Landlock's rights on files. Each version of Landlock knows the first N of them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}
_RIGHTS_NOW = 16
_NET_RIGHTS = 0b11  # bind and connect TCP, from version 4
_SCOPES = 0b11  # abstract unix sockets and signals, from version 6

_NAMESPACES = {"pid": 0x20000000, "net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000}
_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_NOBODY = 65534  # an id that is not mapped looks like this one in a user namespace
_KEEP_CAPABILITIES, CHECKPOINT_RESTORE = 8, 40


if _libc is not None:
    _libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 4
    _libc.unshare.argtypes = [ctypes.c_int]
    _libc.syscall.argtypes = [ctypes.c_long] + [ctypes.c_void_p] * 4
    _libc.syscall.restype = ctypes.c_long


def _call(function: str, number: int, *arguments: int | bytes | None) -> int:
    assert _libc is not None, "Linux only"
    padding = () if function == "unshare" else (0,) * (4 - len(arguments))
    result = getattr(_libc, function)(number, *arguments, *padding)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{function}({number}): {os.strerror(error)}")
    return result


def trim_heap() -> None:
    """Return unused memory to the system: every fork copies the page tables of the rest."""
    if _libc is not None and hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def no_new_privileges() -> None:
    """Make sure that no setuid program gives this process or its children new privileges (seccomp needs this)."""
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the parent thread that started it ends.

    Call it after the last change of uid, because that clears the request.

    Args:
        parent: the parent's process id; exit at once if `os.getppid()` differs, for then the parent is already gone.
    """
    _call("prctl", _PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent:
        os._exit(1)


def limit_cpu(seconds: int) -> None:
    """Have the kernel send SIGXCPU after `seconds` of CPU time, and SIGKILL one second later."""
    _lower(resource.RLIMIT_CPU, seconds, seconds + 1)


def limit_resources(memory_mib: int, threads: int) -> None:
    """Set hard resource limits: address space, no file growth, few descriptors, no core file.

    Args:
        threads: limit for all threads of the real user id; the kernel ignores it for uid 0.
    """
    limits = {
        "AS": memory_mib * MIB,
        "NPROC": threads,
        "FSIZE": 0,
        "NOFILE": MAX_DESCRIPTORS,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "NICE": 0,
        "RTPRIO": 0,
        "SIGPENDING": 64,
    }
    for name, value in limits.items():
        if hasattr(resource, f"RLIMIT_{name}"):
            _lower(getattr(resource, f"RLIMIT_{name}"), value)


def _lower(which: int, soft: int, hard: int | None = None) -> None:
    ceiling = resource.getrlimit(which)[1]
    hard = soft if hard is None else hard
    hard = hard if ceiling == resource.RLIM_INFINITY else min(hard, ceiling)
    resource.setrlimit(which, (min(soft, hard), hard))


def threads_of(uid: int) -> int:
    """Count the threads that this user id runs now, as far as /proc shows them."""
    count = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                pass  # it ended meanwhile
    return count


def counts_threads_by_namespace() -> bool:
    """Return whether the limit on threads counts only those of one user namespace: true since Linux 5.14."""
    version = [int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit()]
    return version >= [5, 14]


def landlock_version() -> int:
    """Return the kernel's Landlock version, 0 if it has none."""
    try:
        return _call("syscall", _LANDLOCK_CREATE, None, 0, 1) if LINUX else 0
    except OSError:
        return 0


def landlock_ruleset(
    readable: list[str], writable: list[str], runnable: list[str] | None = None, listed: list[str] | None = None
) -> int:
    """Return the descriptor of a Landlock ruleset that allows only what the arguments name.

    Where the Landlock version knows them, TCP ports, abstract unix sockets and signals to the outside are forbidden
    too. Paths that do not exist are skipped.

    Args:
        readable: files and folders to read from, with everything beneath.
        writable: files to read and write.
        runnable: files to read and execute.
        listed: folders in which names may be listed, but no file read.
    """
    version = landlock_version()
    handled = (1 << _RIGHTS_OF_VERSION.get(version, _RIGHTS_NOW)) - 1
    fields = [handled] + ([_NET_RIGHTS] if version >= 4 else []) + ([_SCOPES] if version >= 6 else [])
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _call("syscall", _LANDLOCK_CREATE, attributes, len(attributes), 0)
    allowed = [(path, _READ_FILE | _READ_DIR) for path in readable]
    allowed += [(path, _READ_FILE | _WRITE_FILE) for path in writable]
    allowed += [(path, _READ_FILE | _EXECUTE) for path in runnable or []]
    allowed += [(path, _READ_DIR) for path in listed or []]
    for path, wanted in allowed:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rights = wanted if os.path.isdir(path) else wanted & ~_READ_DIR
        _call("syscall", _LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, opened), 0)
        os.close(opened)
    high = fcntl.fcntl(ruleset, fcntl.F_DUPFD_CLOEXEC, 10)  # leave descriptor 3 free for the child
    os.close(ruleset)
    return high


def landlock_enforce(ruleset: int) -> None:
    """Put this process under a ruleset; this cannot be undone."""
    _call("syscall", _LANDLOCK_RESTRICT, ruleset, 0)


def interpreter_paths(paths: Paths | None = None) -> list[str]:
    """List the paths that Landlock should let a candidate read: `paths`, or by default the interpreter's own files."""
    return sorted({*(paths or readable(())).pieces(), *DEVICES} - {"/dev/null"})


class SeccompProgram:
    """The system call filter for this machine, in the kernel's format; made once and installed in many children."""

    def __init__(self, allow_exec: bool = False) -> None:
        program = seccomp.program(os.uname().machine, allow_exec)
        self.instructions = ctypes.create_string_buffer(program, len(program))
        self.header = struct.pack("@HP", len(program) // 8, ctypes.addressof(self.instructions))

    def enforce(self) -> None:
        """Filter this process's system calls; this cannot be undone. Call `no_new_privileges` first."""
        _call("prctl", _PR_SET_SECCOMP, 2, self.header)


def seccomp_program(allow_exec: bool = False) -> SeccompProgram | None:
    """Return the filter for this machine, None if there is no table for its architecture."""
    return SeccompProgram(allow_exec) if LINUX and seccomp.supports(os.uname().machine) else None


def enter_namespaces(mounts: bool = False) -> list[str]:
    """Enter new namespaces for process ids, network and IPC; the next child is the first process in them.

    Args:
        mounts: enter a new mount namespace too, where that is allowed.

    Returns:
        the names of the new namespaces; [] where the machine allows none.
    """
    if not LINUX:
        return []
    flags = sum(_NAMESPACES.values())
    wanted = [flags | _NEW_MOUNTS, flags | _NEW_MOUNTS | _NEW_USER] if mounts else []
    ids = {"setgroups": "deny", "uid_map": f"{_NOBODY} {os.geteuid()} 1", "gid_map": f"{_NOBODY} {os.getegid()} 1"}
    for attempt in (*wanted, flags, flags | _NEW_USER):
        # Root needs a user namespace only where it may not unshare without one. Its real id must then change, because
        # the kernel does not limit the threads of id 0.
        if attempt & _NEW_USER and os.geteuid() == 0:
            with contextlib.suppress(OSError):
                os.setresuid(SANDBOX_UIDS[0] + os.getpid() % SANDBOX_UIDS[1], 0, 0)
        try:
            _call("unshare", attempt)
        except OSError:
            continue
        if attempt & _NEW_USER and attempt & _NEW_MOUNTS:
            for name, text in ids.items():  # files on a file system that we mount need an owner
                try:
                    with open(f"/proc/self/{name}", "w") as file:
                        file.write(text)
                except OSError:
                    pass  # mounting then fails with its own error
        names = [*(["user"] if attempt & _NEW_USER else []), *_NAMESPACES]
        return [*names, "mount"] if attempt & _NEW_MOUNTS else names
    return []


def enter_as_first(channel: socket.socket, mounts: bool = False) -> list[str]:
    """Enter new namespaces and continue as their first process; when it ends, the kernel ends all others in them.

    The calling process forks: it closes `channel`, waits for that first process, and exits after it. Returns the same
    as `enter_namespaces`.
    """
    namespaces = enter_namespaces(mounts)
    if namespaces:
        pid = os.fork()
        if pid:
            channel.close()
            os.waitpid(pid, 0)
            os._exit(0)
    return namespaces


def keep_capabilities() -> None:
    """Keep the permitted capabilities over the next change of uid, so that `drop_capabilities` can choose from them."""
    _call("prctl", _KEEP_CAPABILITIES, 1)


def drop_capabilities(keep: int | None = None) -> None:
    """Give up every capability except number `keep`: uid 0 is then only the owner of root's files."""
    header = struct.pack("=Ii", 0x20080522, 0)
    low, high = (0, 0) if keep is None else ((1 << keep) & 0xFFFFFFFF, (1 << keep) >> 32)
    _call("syscall", _CAPSET, header, struct.pack("=6I", low, low, 0, high, high, 0))


def drop_user(number: int, keep_files: bool) -> int:
    """As root, change to a user id that nobody else has.

    Args:
        number: picks the id, so that the candidates of two workers are different users.
        keep_files: change only the real id, by which the kernel counts threads. Files are still opened as root, for
            an interpreter that other users cannot read.

    Returns:
        the new real user id.
    """
    uid = SANDBOX_UIDS[0] + number % SANDBOX_UIDS[1]
    os.setgroups([])
    if keep_files:
        os.setresuid(uid, 0, 0)
    else:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    return uid


def readable_by_others(paths: list[str]) -> bool:
    """Return whether any user can read these paths, by their modes and those of every folder above them."""
    for path in paths:
        while True:
            mode = os.stat(path).st_mode
            if not mode & 0o001 if os.path.isdir(path) else not mode & 0o004:
                return False
            if path == os.path.dirname(path):
                break
            path = os.path.dirname(path)
    return True
