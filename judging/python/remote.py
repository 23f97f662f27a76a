"""Represent the candidate's functions and objects in the tests."""

from __future__ import annotations

import functools
import re
import sys
import types
from collections.abc import Callable
from typing import Any

from common.text import one_line
from judging.python.plain import ARITHMETIC, ITERATORS, NotPlain, forked

_MADE_BY_TESTS = (types.FunctionType, types.GeneratorType, type, types.ModuleType)
DESCRIBED = {"__name__", "__qualname__", "__doc__", "__annotations__"}
ENDING = {"send", "throw", "next"}  # methods that may raise StopIteration
# classes that isinstance() may recognise an object as, by name
CLASSES = {kind.__name__: kind for kind in (
    types.GeneratorType, types.CoroutineType, types.FunctionType, types.BuiltinFunctionType, types.MethodType,
    types.ModuleType, re.Pattern, re.Match, map, filter, zip, enumerate, reversed, memoryview,
)}  # fmt: skip


def reference_of(value: Any) -> Any:
    if isinstance(value, _RemoteIterator):
        return reference_of(value.remote)
    if isinstance(value, Remote):
        return object.__getattribute__(value, "__sandbox__")[1]
    error = NotPlain(f"{type(value).__name__} {one_line(object.__repr__(value), 60)}")
    made = isinstance(value, _MADE_BY_TESTS) or type(value).__module__ == "tests_of_the_task"
    # a class made by the judge for an object of the candidate's does not belong to the tests
    error.own = made and not (isinstance(value, type) and value.__module__.startswith("judging."))
    raise error


def far(session: Any, value: Any, name: str) -> Any:
    if name.startswith("__") and name not in DESCRIBED:  # copy, pickle and unittest look for such names
        raise AttributeError(name)
    found = session.request("getattr", [value, name])
    if name in ENDING and isinstance(found, Remote):
        session.ending.add(reference_of(found))
    return found


def _ask(remote: Any, op: str, /, *args: Any, **kwargs: Any) -> Any:
    return object.__getattribute__(remote, "__sandbox__")[0].request(op, [remote, *args], kwargs)


def methods_from_afar(session: Any, name: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the members of the class that represents a candidate's subclass of a plain type.

    Its methods are run in the candidate's process.

    Args:
        name: the name of the candidate's class.
        names: the methods that it replaces.
    """
    methods: dict[str, Any] = {"__getattr__": lambda value, name: far(session, value, name)}
    methods["__sandbox__"] = session, None, f"<{name} object in the sandbox>"
    methods["__setattr__"] = lambda value, name, new: _ask(value, "setattr", name, new)
    for name in names:
        if name in METHODS:
            methods[name] = METHODS[name]
        elif name in ARITHMETIC:
            methods[name] = functools.partialmethod(_not_asked, name)
        elif not name.startswith("__"):
            methods[name] = property(lambda value, name=name: far(session, value, name))
    return methods


def _not_asked(value: Any, name: str, *args: Any) -> Any:
    """Refuse arithmetic and ordering that the candidate's class defines itself.

    Asking the candidate would tell it the expected value, as in `abs(result - expected)`; the plain base's method would
    not be what the class defines.
    """
    raise TypeError(f"{name} of the program's own class is not asked")


def shown(value: Any) -> str | None:
    """Return the text by which a log shows a candidate's object, whose own repr cannot be trusted; None for others."""
    try:
        return object.__getattribute__(value, "__sandbox__")[2]
    except AttributeError:
        return None


class Remote:
    """The candidate's function (referred to by name) or object (by number), as the tests see it.

    It has attributes and can be printed; it supports further operations if the object does (`ABILITIES`). All of these
    run in the candidate's process and return plain data or another `Remote`. A `Remote` equals only itself, because the
    candidate must never decide what is equal.
    """

    __slots__ = ("__sandbox__",)

    def __getattr__(self, name: str) -> Any:
        session, reference, _ = object.__getattribute__(self, "__sandbox__")
        if name == "__name__" and isinstance(reference, str):
            return reference
        return far(session, self, name)

    def __delattr__(self, name: str) -> None:
        _ask(self, "delattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "setattr", name, value)

    def __str__(self) -> str:
        return _of(str, _ask(self, "str"))

    def __repr__(self) -> str:
        return object.__getattribute__(self, "__sandbox__")[2]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return hash(object.__getattribute__(self, "__sandbox__")[1])


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} is wanted, and not {type(value).__name__}")
    return value


def _iter(self: Remote) -> Any:
    remote = _ask(self, "iter")
    return self if remote is self and not hasattr(type(self), "__len__") else _RemoteIterator(remote, self)


def _reversed(self: Any) -> Any:
    return _RemoteIterator(_ask(self, "reversed"), self)


def _len(self: Remote) -> int:
    session, key = _session_and_key(self)
    length = _of(int, _ask(self, "len"))
    before = session.lengths.get(key)
    if before is not None and before != (length, session.changes) and before[1] == session.changes:
        session.end("fail", "len() answers differently without a change")
    session.lengths[key] = length, session.changes
    return length


def _session_and_key(value: Any) -> tuple[Any, Any]:
    session, reference, _ = object.__getattribute__(value, "__sandbox__")
    return session, reference if reference is not None else f"#{session.objects.numbers.get(id(value))}"


def _exit(self: Any, kind: Any, error: Any, _: Any) -> bool:
    """End a `with` block; an exception is passed on as its nearest builtin class."""
    if isinstance(error, AssertionError):  # the test's own: the program sees no message, and cannot swallow it
        _ask(self, "exit", AssertionError, ())
        return False
    known = next((base for base in kind.__mro__ if base.__module__ == "builtins"), None) if kind else None
    plain = all(type(part) in (str, int, float) for part in error.args) if error else False
    return bool(_ask(self, "exit", known, error.args if plain else ()))


# letter -> methods; a `Remote` has them if the candidate's object has the first of them
ABILITIES: dict[str, dict[str, Callable[..., Any]]] = {
    "c": {"__call__": lambda self, /, *args, **kwargs: _ask(self, "call", *args, **kwargs)},
    "i": {"__iter__": _iter},
    "n": {"__next__": lambda self: _ask(self, "next")},
    "l": {"__len__": _len},
    "g": {"__getitem__": lambda self, key: _ask(self, "getitem", key)},
    "s": {"__setitem__": lambda self, key, value: _ask(self, "setitem", key, value)},
    "b": {"__bool__": lambda self: _of(bool, _ask(self, "bool"))},
    "r": {"__reversed__": _reversed},
    "d": {"__delitem__": lambda self, key: _ask(self, "delitem", key)},
    "m": {"__contains__": lambda self, item: _of(bool, _ask(self, "contains", item))},
    "w": {"__enter__": lambda self: _ask(self, "enter"), "__exit__": _exit},
    "R": {"__repr__": lambda self: _of(str, _ask(self, "repr"))},
}
METHODS = {name: method for methods in ABILITIES.values() for name, method in methods.items()} | {
    "__missing__": lambda self, key: _ask(self, "getitem", key),
    "__str__": lambda self: _of(str, _ask(self, "str")),
}


@functools.lru_cache(maxsize=256)
def remote_class(name: str, abilities: str, own: Any = None) -> type:
    """Return the class of a `Remote` for an object with these abilities.

    Args:
        own: the class that isinstance() reports: the prompt's or Python's class with the same name, or one below it.
    """
    methods: dict[str, Any] = {"__slots__": (), "__doc__": property(lambda self: Remote.__getattr__(self, "__doc__"))}
    for letter in abilities:
        methods |= ABILITIES.get(letter, {})
    if {"g", "l"} <= set(abilities):
        # without these, Python loops until an IndexError, which the candidate could raise early
        methods |= {"__iter__": _iter, "__reversed__": _reversed}
    if own is not None:
        methods["__class__"] = property(lambda self: own)
    return type(name, (Remote,), methods)


def _references(args: list, kwargs: dict) -> list[int]:
    return [sys.getrefcount(value) for value in (*args, *kwargs.values())]


def kept_elsewhere(args: list, kwargs: dict) -> str:
    """Return the type name of an iterator argument that cannot be sent, or "".

    An iterator that cannot be copied must be used up to be sent, so nothing else may refer to it. A generator made by a
    function of the tests is not sent either, because it could notice when its items are taken.
    """
    values = [*args, *kwargs.values()]
    if not any(type(value) in ITERATORS for value in values):
        return ""
    del values
    counts = _references(args, kwargs)
    for value, count, place in zip((*args, *kwargs.values()), counts, range(len(counts)), strict=True):
        if type(value) not in ITERATORS or forked(value) is not None:
            continue
        lazy = type(value) is types.GeneratorType and value.gi_code.co_name != "<genexpr>"
        if lazy or count > _ALONE[place >= len(args)]:
            return type(value).__name__
    return ""


def _alone() -> tuple[int, int]:
    """Count the references to an argument that only the call holds: for a positional one, and for one by name."""
    seen: list[int] = []

    class Asked:
        def request(self, op: str, args: list, kwargs: dict) -> None:
            seen.append(_references(args, kwargs)[-1])

    remote = remote_class("asked", "c")()
    object.__setattr__(remote, "__sandbox__", (Asked(), "asked", ""))
    remote(iter(()))
    remote(by_name=iter(()))
    return seen[0], seen[1]


class _RemoteIterator:
    """The iterator that `iter` of a `Remote` returns; it checks that the number of items agrees with len()."""

    def __init__(self, remote: Any, source: Remote) -> None:
        self.remote, self.source, self.count = remote, source, 0
        session, key = _session_and_key(source)
        self.length = _len(source) if key in session.lengths else None  # again: it may have changed
        self.since = session.changes

    def __iter__(self) -> _RemoteIterator:
        return self

    def __next__(self) -> Any:
        if not hasattr(type(self.remote), "__next__"):
            raise TypeError("iter() returned something that is not an iterator")
        try:
            value = next(self.remote)
        except StopIteration:
            session, _ = _session_and_key(self.source)
            alone = session.changes == self.since + self.count + 1  # the loop asked nothing else
            if self.length not in (None, self.count) and (alone or _len(self.source) != self.count):
                session.end("fail", "len() and iteration do not agree")
            raise
        self.count += 1
        return value


_ALONE = _alone()
