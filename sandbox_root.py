"""A root folder of its own for the untrusted process: what it may read, read-only, and nothing else that has a name.

Made in a new mount namespace, of which the process must be in command. No access time changes by what is read in
here: the mounts say so where that is allowed, and in a user namespace, where it is not, files are seen through an
overlay, which never changes the times of what lies beneath.
"""

from __future__ import annotations

import ctypes
import os

from sandbox_paths import DEVICES, Paths

_PLACE = "/proc"  # where the new root is built: a folder that always exists and holds nothing that is to be shown
_SMALL = 1 << 16  # bytes of a file that may as well be copied

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


class _Root:
    def __init__(self) -> None:
        self.noatime = True  # whether a mount's access times may be switched off
        self.steady = True  # whether no access time changes
        self.stages: dict[str, str] = {}  # folder of the machine: overlay of it, for its single files

    def bind(self, source: str, target: str, more: int) -> None:
        """Show a file or a folder; raises OSError (EPERM) where that would keep counting access times."""
        _mount(source, target, None, _BIND)
        found = os.statvfs(target).f_flag
        flags = found & _KEPT | more | _REMOUNT | _BIND
        if not found & _NOATIME:
            flags |= _RELATIME if found & _RELATIME_IN_STATVFS else _STRICTATIME
        if self.noatime:
            try:
                _mount(None, target, None, flags & ~(_RELATIME | _STRICTATIME) | _NOATIME)
                return
            except PermissionError:  # flags that a user namespace inherits are locked
                self.noatime = False
        _mount(None, target, None, flags)

    def overlay(self, source: str, target: str) -> None:
        empty = f"{_PLACE}/.empty"
        os.makedirs(empty, exist_ok=True)
        lower = ":".join(path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,") for path in (source, empty))
        _mount("none", target, "overlay", _RDONLY | _NOSUID | _NODEV, f"lowerdir={lower}")

    def show(self, path: str) -> None:
        source, target = os.path.realpath(path), f"{_PLACE}{path}"
        folder = os.path.isdir(source)
        os.makedirs(target if folder else os.path.dirname(target), exist_ok=True)
        more = _RDONLY | _NOSUID | _NODEV | (_NOEXEC if path.startswith(("/etc/", "/usr/share/")) else 0)
        if not folder:
            if not self.noatime and os.path.getsize(source) <= _SMALL:
                with open(source, "rb") as original, open(target, "wb") as copy:
                    copy.write(original.read())
                return
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        if self.noatime:
            self.bind(source, target, more)
            if self.noatime or os.statvfs(target).f_flag & _NOATIME:
                return
            _unmount(target)  # found out just now that it does not work
        try:
            if folder:
                self.overlay(source, target)
            else:
                self.bind(self.staged(os.path.dirname(source)) + "/" + os.path.basename(source), target, more)
        except OSError:
            self.bind(source, target, more)
            self.steady = False

    def staged(self, folder: str) -> str:
        if folder not in self.stages:
            self.stages[folder] = f"{_PLACE}/.stage{len(self.stages)}"
            os.makedirs(self.stages[folder])
            self.overlay(folder, self.stages[folder])
        return self.stages[folder]


def enter(paths: Paths) -> bool:
    """Go under a root that has `paths` and two devices.

    Returns:
        whether no access time changes any more.

    Raises:
        OSError: the machine does not let us; the old root is still in place.
    """
    os.umask(0o022)
    root, sealed = _Root(), []

    def folder_of_our_own(target: str) -> None:
        _mount("none", target, "tmpfs", _NOSUID | _NODEV | _NOEXEC | _NOATIME, "mode=755,size=4m")
        sealed.append(target)

    _mount(None, "/", None, _REC | _PRIVATE)
    folder_of_our_own(_PLACE)
    try:
        for path in sorted([*paths.shown, *paths.hidden]):  # a folder comes before what is in it
            if path in paths.hidden:
                folder_of_our_own(f"{_PLACE}{path}")
            else:
                root.show(path)
        for path in DEVICES:
            os.makedirs(os.path.dirname(f"{_PLACE}{path}"), exist_ok=True)
            os.close(os.open(f"{_PLACE}{path}", os.O_CREAT | os.O_WRONLY, 0o644))
            root.bind(path, f"{_PLACE}{path}", _NOSUID | _NOEXEC)
        for stage in root.stages.values():
            _unmount(stage)
            os.rmdir(stage)
        for target in sealed:
            _mount(None, target, None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV | _NOEXEC | _NOATIME)
        os.chdir(_PLACE)
        here = ctypes.c_char_p(b".")
        _checked(_libc.syscall(ctypes.c_long(_PIVOT_ROOT[os.uname().machine]), here, here), "pivot_root")
    except OSError:
        os.chdir("/")
        _unmount(_PLACE)
        raise
    _unmount(".")  # the old root lies over the new one
    os.chdir("/")
    return root.steady
