"""Give the untrusted process a root folder with only the files that it may read, read-only.

The process must be in a new mount namespace and have the right to mount in it. Reading changes no access time here:
the kernel never writes one through a read-only mount, whatever the mount's options for access times.
"""

from __future__ import annotations

import ctypes
import os

from judging.paths import DEVICES, Paths

_PLACE = "/proc"  # where the new root is built: a folder that always exists and holds nothing that the process may read

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _NOATIME, _NODIRATIME = 1, 2, 4, 8, 32, 1024, 2048
_BIND, _REC, _PRIVATE, _RELATIME, _STRICTATIME = 4096, 16384, 1 << 18, 1 << 21, 1 << 24
_KEPT = _RDONLY | _NOSUID | _NODEV | _NOEXEC | _NOATIME | _NODIRATIME  # the same numbers in statvfs
_RELATIME_IN_STATVFS = 4096
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _checked(_libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]), f"mount {target}")


def _unmount(target: str) -> None:
    _checked(_libc.umount2(os.fsencode(target), _DETACH), f"umount {target}")


def _bind(source: str, target: str, more: int) -> None:
    _mount(source, target, None, _BIND)
    found = os.statvfs(target).f_flag
    flags = found & _KEPT | more | _REMOUNT | _BIND
    if not found & _NOATIME:  # a user namespace must repeat the access-time option that it inherits
        flags |= _RELATIME if found & _RELATIME_IN_STATVFS else _STRICTATIME
    _mount(None, target, None, flags)


def _show(path: str, more: int) -> None:
    source, target = os.path.realpath(path), f"{_PLACE}{path}"
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _bind(source, target, more)


def enter(paths: Paths) -> None:
    """Change the root to one that holds only `paths` and two devices.

    Raises:
        OSError: the machine does not allow it; the old root is then still in place.
    """
    os.umask(0o022)
    sealed = []

    def folder_of_our_own(target: str) -> None:
        _mount("none", target, "tmpfs", _NOSUID | _NODEV | _NOEXEC, "mode=755,size=4m")
        sealed.append(target)

    _mount(None, "/", None, _REC | _PRIVATE)
    folder_of_our_own(_PLACE)
    try:
        for path in sorted([*paths.shown, *paths.hidden]):  # sorted, so that a folder comes before its contents
            if path in paths.hidden:
                folder_of_our_own(f"{_PLACE}{path}")
            else:
                program = 0 if not path.startswith(("/etc/", "/usr/share/")) else _NOEXEC  # libraries need exec
                _show(path, _RDONLY | _NOSUID | _NODEV | program)
        for path in DEVICES:
            _show(path, _NOSUID | _NOEXEC)
        for target in sealed:
            _mount(None, target, None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV | _NOEXEC)
        os.chdir(_PLACE)
        here = ctypes.c_char_p(b".")
        _checked(_libc.syscall(ctypes.c_long(_PIVOT_ROOT[os.uname().machine]), here, here), "pivot_root")
    except OSError:
        os.chdir("/")
        _unmount(_PLACE)
        raise
    _unmount(".")  # the old root, which is mounted on top of the new one
    os.chdir("/")
