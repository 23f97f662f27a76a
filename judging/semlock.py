"""Replace multiprocessing's semaphore by one for threads, because the real one needs a file in /dev/shm.

No process can be started in the sandbox, so it only has to serve threads, as in `multiprocessing.pool.ThreadPool`.
"""

from __future__ import annotations

from importlib import machinery, util
from types import ModuleType
from typing import Any

_NAME = "_multiprocessing"
_RECURSIVE = 0  # the kind of semaphore that its owner may acquire again


class SemLock:
    """A `_multiprocessing.SemLock` without a name, which works only between threads."""

    SEM_VALUE_MAX = 2**31 - 1
    handle, name = 0, None

    def __init__(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> None:
        import threading  # not at the top: if the zygote had loaded it, it would do work after every fork

        self.kind, self.maxvalue = kind, maxvalue
        self._free, self._held = value, 0
        self._owner: int | None = None
        self._me = threading.get_ident
        self._changed = threading.Condition(threading.Lock())

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        me = self._me()
        with self._changed:
            if self.kind != _RECURSIVE or self._owner != me:
                if not self._changed.wait_for(lambda: self._free > 0, timeout if block else 0):
                    return False
                self._free -= 1
            self._owner, self._held = me, self._held + 1
        return True

    def release(self) -> None:
        with self._changed:
            if self.kind == _RECURSIVE:
                if not self._is_mine():
                    raise AssertionError("attempt to release recursive lock not owned by thread")
                if self._held > 1:
                    self._held -= 1
                    return
            elif self._free >= self.maxvalue:
                raise ValueError("semaphore or lock released too many times")
            self._free, self._held = self._free + 1, self._held - 1
            self._changed.notify()

    def _count(self) -> int:
        return self._held

    def _is_mine(self) -> bool:
        return self._held > 0 and self._owner == self._me()

    def _get_value(self) -> int:
        return self._free

    def _is_zero(self) -> bool:
        return self._free == 0

    def _after_fork(self) -> None:
        self._held = 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: Any) -> None:
        self.release()


class _Loader(machinery.ExtensionFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.SemLock = SemLock


class Finder:
    """An import finder that puts the replacement into `_multiprocessing` when a program imports it; few do."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> machinery.ModuleSpec | None:
        if name != _NAME:
            return None
        spec = machinery.PathFinder.find_spec(name, path, target)
        if spec is None or not isinstance(spec.loader, machinery.ExtensionFileLoader):
            return spec
        return util.spec_from_file_location(name, spec.origin, loader=_Loader(name, spec.origin))
