"""Encode values for the sandbox's border: this is the sending half of objects.py."""

from __future__ import annotations

import gc
import math
import sys
import types
from collections import defaultdict, deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from judging.codec import MAX_FRAME, MAX_REQUEST, TooBig
from judging.python.known import Known
from judging.python.plain import (
    ATOM_TAGS,
    ATOMS,
    BARE,
    BASE_SET,
    CONTAINERS,
    COPIED,
    ENCODE,
    ITERATORS,
    JSON_INT,
    MAPPINGS,
    MAX_DEPTH,
    MAX_NAME,
    MUTABLE,
    NUMBERS,
    TAGS,
    VALUES,
    VIEWS,
    enum_name,
    fetch,
    fields_of,
    forked,
    is_bare,
    is_enum,
    name_of,
    plain_base,
    refuse,
    replaced,
    state,
)

MAX_ITEMS = 100_000  # in an iterator that a test passes
_ZONES = {"builtins", "datetime", "zoneinfo"}  # None, and time zones that are plain data
_NAMED = (type, types.BuiltinFunctionType, types.FunctionType, types.MethodDescriptorType)  # sent by name


class Encoder(Known):
    """The objects that have crossed in one check, as one end knows them, and how to send more.

    Args:
        refer: called with a value that is not plain data; returns the body of an "x" tag, or raises.
        resolve: turns the body of an "x" tag into a value.
        trusted: whether this is the judge's end. That end sends no instance of a subclass as such. From the other end
            it accepts no functions, and no classes except those of plain data.
        stand_in: makes the class for an instance of a subclass, from the subclass's name, its plain base and the names
            of the methods that it replaces.
        fetch: returns this end's class of a name, for named tuples and the prompt's classes; None if there is none.
        member: returns the member of an enumeration that both ends have, by "class.name"; else None.
    """

    def __init__(
        self,
        refer: Callable[[Any], Any] = refuse,
        resolve: Callable[[Any], Any] = refuse,
        trusted: bool = False,
        stand_in: Callable[[str, type, tuple], type] = lambda name, base, replaced: type(name, (base,), {}),
        fetch: Callable[[str], Any] = lambda name: None,
        member: Callable[[str], Any] = lambda name: None,
    ) -> None:
        super().__init__(trusted)
        self.refer, self.resolve = refer, resolve
        self.stand_in, self.fetch, self.member = stand_in, fetch, member
        self.classes: set[str] = set()  # the prompt's own classes: both ends have them, their objects are plain data
        self.made: dict[tuple, type] = {}  # classes that were made for named tuples

    # values to nodes

    def encode(self, value: Any) -> Any:
        """Turn a value into a node that `json.dumps` can write. Call `begin` first for each message.

        Raises:
            TooBig: the value nests deeper than `MAX_DEPTH` or is larger than a message.
            NotPlain: only if `refer` raises it.

        >>> objects = Encoder()
        >>> objects.begin()
        >>> objects.encode((1, {"a": {2}}))
        {'t': [1, {'d': [['a', {'s': [2]}]]}]}
        """
        if type(value) in ATOMS:  # by far the most frequent case
            return self._encode(value, 0)
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + 5 * MAX_DEPTH)
        try:
            return self._encode(value, 0)
        except RecursionError:
            raise TooBig(f"it nests deeper than {MAX_DEPTH} levels") from None
        finally:
            sys.setrecursionlimit(limit)

    def _encode(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is int and -JSON_INT < value < JSON_INT:
            return value
        if kind is str and value.isascii():
            self._spend(len(value))
            return value
        if kind is float and math.isfinite(value):
            return value
        number = self.numbers.get(id(value))
        if number is not None:
            if number in self.unfinished:
                raise TooBig("it contains itself by way of a tuple")
            self.wake(number)
            return {"#": number}
        if (
            kind is list and depth < MAX_DEPTH and ATOMS.issuperset(kinds := set(map(type, value)))
        ):  # a shortcut, since most lists hold only atoms, and all large ones do
            self._spend(2 * len(value))
            self._register(value, mutable=True)
            return self._flat(value, kinds)
        if kind is list or kind is tuple or kind in CONTAINERS:
            return self._container(kind, value, depth + 1)
        if kind in ENCODE:
            return self._atom(kind, value)
        return self._other(kind, value, depth)

    def _atom(self, kind: type, value: Any) -> Any:
        if kind is str:
            try:
                self._spend(len(value.encode()))
                return value
            except UnicodeEncodeError:  # JSON would join two lone surrogates into one character
                return {"u": value.encode("utf-8", "surrogatepass").hex()}
        if kind is float and value != value:
            self._register(value)  # a nan equals only itself, so it needs an identity
        node = ENCODE[kind](value)
        self._spend(len(node) if type(node) is str else 4)
        return {ATOM_TAGS[kind]: node}

    def _container(self, kind: type, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise TooBig(f"it nests deeper than {MAX_DEPTH} levels")
        number = self._register(value, kind in MUTABLE)
        if kind in MUTABLE:
            return self._inside(value, depth)
        self.unfinished.add(number)
        node = self._inside(value, depth)
        self.unfinished.discard(number)
        return node

    def _inside(self, value: Any, depth: int) -> Any:
        """Return the node of a numbered container, which has a plain type or a subclass of one."""
        kind = plain_base(type(value))
        if kind is bytearray:
            self._spend(2 * bytearray.__len__(value))
            return {"y": bytearray.hex(value)}
        if kind is None and type(value).__module__ == "numpy":
            return self._array(value)
        if kind is None:
            self._spend(2 * len(attributes := state(value)))
            return {"o": [type(value).__name__, [[name, self._encode(v, depth)] for name, v in attributes.items()]]}
        self._spend(2 * kind.__len__(value))
        if kind in MAPPINGS:
            pairs = [[self._encode(k, depth), self._encode(v, depth)] for k, v in kind.items(value)]
            if kind is defaultdict:
                return {"D": [self._encode(value.default_factory, depth), pairs]}
            return {TAGS[kind]: pairs}
        items = [self._encode(item, depth) for item in kind.__iter__(value)]
        if kind is list:
            return items
        if kind is deque:
            return {"q": [value.maxlen, items]}
        return {TAGS[kind]: items}

    def _flat(self, value: list, kinds: set[type]) -> list:
        """Return the node of a list of atoms; if they all have one type, no Python code looks at each of them."""
        plain = True
        if int in kinds:
            whole = value if len(kinds) == 1 else [x for x in value if type(x) is int]
            plain = -JSON_INT < min(whole) and max(whole) < JSON_INT
        if float in kinds:
            reals = value if len(kinds) == 1 else [x for x in value if type(x) is float]
            plain = plain and all(map(math.isfinite, reals))
        if str in kinds:
            texts = value if len(kinds) == 1 else [x for x in value if type(x) is str]
            plain = plain and all(map(str.isascii, texts))
            self._spend(sum(map(len, texts)))
        return list(value) if plain else [self._encode(item, 0) for item in value]

    def _array(self, value: Any) -> Any:
        self._spend(2 * value.nbytes)
        node = [value.dtype.str, list(value.shape), value.tobytes().hex()]
        return {"a": node if value.flags.writeable else [*node, False]}

    def _other(self, kind: type, value: Any, depth: int) -> Any:
        module = kind.__module__
        if module == "numpy" and (numpy := sys.modules.get("numpy")) is not None:
            if kind is numpy.ndarray and value.dtype.kind in NUMBERS:
                self._register(value, mutable=True)
                return self._array(value)
            if issubclass(kind, numpy.generic) and getattr(numpy, kind.__name__, None) is kind:
                if value.dtype.kind in NUMBERS:
                    return {"a": [value.dtype.str, None, value.tobytes().hex()]}
        name = f"{module}.{kind.__qualname__}"
        if name in VALUES and fetch(name) is kind and type(getattr(value, "tzinfo", None)).__module__ in _ZONES:
            return {"v": [name, [self._encode(part, 0) for part in VALUES[name](value)]]}
        # test the class, not the object, which may claim another class
        if issubclass(kind, _NAMED if self.trusted else type) and (named := name_of(value)):
            if self.trusted or "." not in named or value in BASE_SET:
                return {"T": named}
        if value is Ellipsis or value is NotImplemented:
            return {"T": repr(value)}
        if kind in VIEWS and depth < MAX_DEPTH:
            self.unfinished.add(number := self._register(value))
            node = self._encode(gc.get_referents(value)[0], depth + 1)
            self.unfinished.discard(number)
            return {"w": [VIEWS[kind], node]}
        if self.trusted and (node := self._of_tests(kind, value, depth)) is not None:
            return node
        base = plain_base(kind)
        if base is None and kind.__name__ in self.classes and self.is_plain(kind) and depth < MAX_DEPTH:
            self._register(value, mutable=True)
            return self._inside(value, depth + 1)
        if base is tuple and (fields := fields_of(kind)) and depth < MAX_DEPTH:
            number = self._register(value)
            self.unfinished.add(number)
            items = [self._encode(item, depth + 1) for item in tuple.__iter__(value)]
            self.unfinished.discard(number)
            return {"N": [kind.__name__[:MAX_NAME], fields, items]}
        if base is None or self.trusted:
            return {"x": self.refer(value)}
        self._register(value, base in MUTABLE)
        hashable = kind.__dict__.get("__hash__", base.__hash__) is not None
        name = enum_name(value, self.fetch) or str(kind.__name__)[:MAX_NAME]
        return {"S": [name, hashable, self._plain_part(base, value, depth), replaced(kind, base)]}

    def is_plain(self, kind: type) -> bool:
        """Return whether this end has the class under its name, and its objects can be sent as their attributes."""
        return self.fetch(kind.__name__) is kind and not is_enum(kind) and is_bare(kind)

    def _of_tests(self, kind: type, value: Any, depth: int) -> Any:
        """Encode what only tests can pass: iterators, methods of plain data, patterns, members of enumerations.

        Returns None for anything else.
        """
        if kind in COPIED or (kind in ITERATORS and depth == 0):
            # The tests may continue a copied iterator where the candidate stopped. Other iterators are used up here;
            # remote.kept_elsewhere has checked that the tests do not hold them.
            source = forked(value) or value
            items = list(islice(source, MAX_ITEMS + 1))
            if len(items) > MAX_ITEMS:
                raise TooBig(f"an iterator of more than {MAX_ITEMS} items")
            self.left[self._register(value)] = len(items)
            return {"I": [self._encode(item, depth + 1) for item in items]}
        if kind is types.BuiltinMethodType and plain_base(type(value.__self__)) is not None:
            return {"m": [self._encode(value.__self__, depth), value.__name__]}
        if f"{kind.__module__}.{kind.__qualname__}" == "re.Pattern":
            return {"p": [self._encode(value.pattern, depth), value.flags]}
        named = enum_name(value, self.fetch)
        return {"e": named} if named else None

    def _plain_part(self, base: type, value: Any, depth: int) -> Any:
        """Encode an instance of a subclass as its plain base holds it, using the base's own methods."""
        if base in CONTAINERS or base is list or base is tuple:
            if depth >= MAX_DEPTH:
                raise TooBig(f"it nests deeper than {MAX_DEPTH} levels")
            return self._inside(value, depth + 1)
        return self._encode(BARE[base](value), depth)

    def _spend(self, count: int) -> None:
        self.room -= count
        if self.room < 0:
            raise TooBig(f"it is larger than {(MAX_REQUEST if self.trusted else MAX_FRAME) // 1024} KiB")
