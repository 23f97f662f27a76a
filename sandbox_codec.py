"""Plain data across the sandbox's border: tagged JSON in frames with a length before them.

The judge decodes what a hostile process wrote, so there is no pickle and no marshal here, and everything has a cap.
JSON's own values stand for themselves (None, bool, int below 2**63, finite float, str, list); everything else is an
object with one key, its tag:

    {"t": [...]} tuple     {"s": [...]} set           {"z": [...]} frozenset    {"d": [[key, value], ...]} dict
    {"b": "hex"} bytes     {"y": "hex"} bytearray     {"i": "hex"} large int    {"f": "nan" | "inf" | "-inf"}
    {"c": [re, im]} complex   {"r": [a, b, step]} range   {"x": ...} a reference: what it means is up to the caller

A subclass of a builtin type arrives as the plain type, so that an `__eq__` of the candidate's never reaches the judge.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from typing import Any

MAX_FRAME = 256 * 1024  # bytes: what one reply of the untrusted side may hold
MAX_REQUEST = 16 * 1024 * 1024  # bytes: what the trusted side may send
MAX_DEPTH = 100  # containers inside one another
JSON_INT = 2**63  # larger ints go as hex: reading decimal digits takes quadratic time

_LENGTH = struct.Struct(">I")


class TooBig(ValueError):
    """A value that does not fit: its message says which cap it met."""


class NotPlain(TypeError):
    """A value that is not plain data and that the caller has no reference for."""


class Malformed(ValueError):
    """Bytes that `encode` would never have written."""


def _refuse(value: Any) -> Any:
    raise NotPlain(f"{type(value).__name__} is not plain data")


def encode(value: Any, refer: Callable[[Any], Any] = _refuse, strict: bool = False) -> Any:
    """Turn a value into what `json.dumps` can write.

    Args:
        refer: called with whatever is not plain data; returns the body of an "x" tag, or raises.
        strict: treat an instance of a subclass of a builtin type as not plain, instead of dropping its type.

    Raises:
        TooBig: deeper than `MAX_DEPTH` (so also anything that contains itself) or larger than `MAX_FRAME`.

    >>> encode((1, {"a": {2}}))
    {'t': [1, {'d': [['a', {'s': [2]}]]}]}
    """
    if value is None or value is True or value is False:  # the most frequent results by far
        return value
    return _Encoder(refer, strict).encode(value, 0)


class _Encoder:
    def __init__(self, refer: Callable[[Any], Any], strict: bool) -> None:
        self.refer, self.strict = refer, strict
        self.room = MAX_REQUEST if strict else MAX_FRAME  # every element and character takes a byte or more
        self.deepest = 2 * MAX_DEPTH if strict else MAX_DEPTH  # a test may wrap a result, and hand it back

    def encode(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is not int and kind is not str and kind is not float and kind is not list:
            if kind in _PLAIN:
                pass
            elif not self.strict and (base := _plain_base(kind)):
                kind = base
            else:
                return {"x": self.refer(value)}
        if kind is int:
            value = int.__int__(value)
            if -JSON_INT < value < JSON_INT:
                return value
            self.spend(value.bit_length() // 4)
            return {"i": format(value, "x")}
        if kind is float:
            value = float.__float__(value)
            return value if math.isfinite(value) else {"f": repr(value)}
        if kind is str:
            self.spend(str.__len__(value))
            return str.__str__(value)
        if kind is complex:
            value = complex.__pos__(value)
            return {"c": [self.encode(value.real, depth), self.encode(value.imag, depth)]}
        if kind is bytes or kind is bytearray:
            self.spend(2 * kind.__len__(value))
            return {"b" if kind is bytes else "y": kind.hex(value)}
        if kind is range:
            return {"r": [self.encode(part, depth) for part in (value.start, value.stop, value.step)]}
        return self.container(kind, value, depth + 1)

    def container(self, kind: type, value: Any, depth: int) -> Any:
        if depth > self.deepest:
            raise TooBig(f"it nests deeper than {self.deepest} levels, or contains itself")
        self.spend(2 * kind.__len__(value))
        if kind is dict:
            pairs = [[self.encode(k, depth), self.encode(v, depth)] for k, v in dict.items(value)]
            return {"d": pairs}
        items = [self.encode(item, depth) for item in kind.__iter__(value)]
        return items if kind is list else {_TAGS[kind]: items}

    def spend(self, count: int) -> None:
        self.room -= count
        if self.room < 0:
            raise TooBig(f"it is larger than {MAX_FRAME // 1024} KiB")


_TAGS = {tuple: "t", set: "s", frozenset: "z"}
_PLAIN = (int, float, str, list, tuple, dict, set, frozenset, bytes, bytearray, complex, range)


def _plain_base(kind: type) -> type | None:
    # __mro__ of the type and not isinstance(), which asks the object for its __class__
    return next((base for base in type.__dict__["__mro__"].__get__(kind) if base in _PLAIN), None)


def decode(node: Any, resolve: Callable[[Any], Any] = _refuse) -> Any:
    """The inverse of `encode`; `resolve` turns the body of an "x" tag into a value.

    Raises:
        Malformed: `encode` cannot have written this.

    >>> decode({'t': [1, {'d': [['a', {'s': [2]}]]}]})
    (1, {'a': {2}})
    """
    try:
        return _decode(node, resolve, 0)
    except (TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise Malformed(f"malformed value: {error}"[:200]) from None


def _decode(node: Any, resolve: Callable[[Any], Any], depth: int) -> Any:
    kind = type(node)
    if node is None or kind is bool or kind is int or kind is str or kind is float:
        return node
    if depth > 2 * MAX_DEPTH + 2:  # what a strict encoder may send
        raise Malformed(f"nests deeper than {2 * MAX_DEPTH} levels")
    if kind is list:
        return [_decode(item, resolve, depth + 1) for item in node]
    ((tag, body),) = node.items()
    if tag == "x":
        return resolve(body)
    if tag in _TEXT:
        if type(body) is not str:
            raise Malformed(f"tag {tag!r} wants text")
        return _TEXT[tag](body)
    if type(body) is not list:
        raise Malformed(f"tag {tag!r} wants a list")
    if tag == "d":
        return {_decode(key, resolve, depth + 1): _decode(value, resolve, depth + 1) for key, value in body}
    return _LISTS[tag]([_decode(item, resolve, depth + 1) for item in body])


def _complex(parts: list) -> complex:
    real, imag = parts
    if type(real) is not float or type(imag) is not float:
        raise Malformed("a complex number has two floats")
    return complex(real, imag)


def _range(parts: list) -> range:
    start, stop, step = parts
    return range(start, stop, step)


_TEXT: dict[str, Callable[[str], Any]] = {
    "b": bytes.fromhex,
    "y": bytearray.fromhex,
    "i": lambda text: int(text, 16),
    "f": {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}.__getitem__,
}
_LISTS: dict[str, Callable[[list], Any]] = {
    "t": tuple,
    "s": set,
    "z": frozenset,
    "c": _complex,
    "r": _range,
}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


# made once: json.dumps and json.loads make one a call as soon as an option is not the default
_JSON_WRITER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))
_JSON_READER = json.JSONDecoder(parse_constant=_no_constant)


def dump_frame(message: Any, limit: int = MAX_REQUEST) -> bytes:
    """One message as bytes: its length in four bytes, big-endian, then ASCII JSON.

    Raises:
        TooBig: longer than `limit` bytes.
    """
    body = _JSON_WRITER.encode(message).encode("ascii")
    if len(body) > limit:
        raise TooBig(f"it is larger than {limit // 1024} KiB")
    return _LENGTH.pack(len(body)) + body


def split_frame(buffer: bytes | bytearray, limit: int) -> tuple[Any, int] | None:
    """The first message in a buffer and the number of bytes it took; None while it is incomplete.

    Raises:
        Malformed: longer than `limit` bytes, or not JSON.
    """
    if len(buffer) < 4:
        return None
    (length,) = _LENGTH.unpack_from(buffer)
    if length > limit:
        raise Malformed(f"a frame of {length} bytes, where {limit} are allowed")
    if len(buffer) < 4 + length:
        return None
    try:
        text = buffer[4 : 4 + length].decode("ascii")
        message, end = _JSON_READER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a frame that is not JSON: {error}"[:200]) from None
    if end != length:
        raise Malformed("a frame that goes on after its JSON")
    return message, 4 + length
