"""What is plain data at the sandbox's border: the types, and how each is taken apart and put together again."""

from __future__ import annotations

import builtins
import math
import operator
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

from sandbox_codec import Malformed

MAX_DEPTH = 200  # containers inside one another
JSON_INT = 2**63  # larger ints go as hex: reading decimal digits takes quadratic time
MAX_NAME = 80  # characters

ATOMS = {int, float, str, bool, type(None)}
TAGS = {tuple: "t", set: "s", frozenset: "z", dict: "d", OrderedDict: "O", Counter: "C"}
MAPPINGS = (OrderedDict, Counter, defaultdict, dict)  # a subclass before its base
BASES = (*MAPPINGS, int, float, str, list, tuple, set, frozenset, bytes, bytearray, complex, deque)
VALUES: dict[str, Callable[[Any], list]] = {
    "fractions.Fraction": lambda v: [v.numerator, v.denominator],
    "decimal.Decimal": lambda v: [str(v)],
    "datetime.date": lambda v: [v.year, v.month, v.day],
    "datetime.time": lambda v: [v.hour, v.minute, v.second, v.microsecond],
    "datetime.datetime": lambda v: [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond],
    "datetime.timedelta": lambda v: [v.days, v.seconds, v.microseconds],
}
ITERABLES = ([], (), "", b"", range(0), range(1 << 70), {}, {}.values(), {}.items(), set())
ITERATORS = (*(type(iter(x)) for x in ITERABLES), enumerate, zip, map, filter, reversed, type(reversed([])))
NUMBERS = "biufcSU"  # kinds of numpy's types that hold no objects
EMPTY = object()


class NotPlain(TypeError):
    """A value that is not plain data and that the caller has no reference for."""


def refuse(value: Any) -> Any:
    raise NotPlain(f"{type(value).__name__} is not plain data")


def array_of(body: Any, shape: tuple | None = None) -> Any:
    dtype, sizes, data = body
    import numpy

    found = numpy.dtype(text(dtype))
    if found.kind not in NUMBERS:
        raise Malformed(f"no array of {dtype!r:.20}")
    array = numpy.frombuffer(bytes.fromhex(text(data)), found).reshape(sizes if sizes is not None else ()).copy()
    if shape is not None and array.shape != shape:
        raise Malformed("an array that changes its shape")
    return array


def text(body: Any) -> str:
    if type(body) is not str:
        raise Malformed("text is wanted")
    return body


def contents(value: Any) -> Any:
    """What is in a mutable object, one level deep: a list to be compared by identity, or bytes."""
    kind = plain_base(type(value))
    if kind is None:
        return value.tobytes()
    if kind is bytearray:
        return bytes(value)
    if kind in MAPPINGS:
        return [*kind.keys(value), *kind.values(value)]
    return list(kind.__iter__(value))


def children(value: Any) -> Any:
    """What a container holds; () of anything else."""
    kind = plain_base(type(value))
    if kind in MAPPINGS:
        return [*kind.keys(value), *kind.values(value)]
    return kind.__iter__(value) if kind in ITERABLE else ()


def fill_set(value: set, items: list) -> None:
    """Fill a set so that it is iterated in the order of `items`, if one of the usual ways to fill one does that."""
    for fill in (lambda: [set.add(value, item) for item in items], lambda: set.update(value, dict.fromkeys(items)),
                 lambda: set.update(value, set(items))):  # fmt: skip
        set.clear(value)
        fill()
        if all(map(operator.is_, value, items)):
            return


def frozen(items: list) -> frozenset:
    ordered: set = set()
    fill_set(ordered, items)
    first = frozenset(items)
    return first if all(map(operator.is_, first, items)) else frozenset(ordered)


def plain_base(kind: type) -> type | None:
    # __mro__ of the type and not isinstance(), which asks the object for its __class__
    if kind in BASE_SET:
        return kind
    return next((base for base in type.__dict__["__mro__"].__get__(kind) if base in BASE_SET), None)


def is_enum(kind: type) -> bool:
    enum = sys.modules.get("enum")
    return enum is not None and issubclass(kind, enum.Enum)


def fields_of(kind: type) -> list[str] | None:
    fields = getattr(kind, "_fields", None)
    return list(fields) if type(fields) is tuple and all(type(field) is str for field in fields) else None


def fetch(name: str, load: bool = False) -> Any:
    """What a dotted or builtin name stands for, None if nothing."""
    module, _, last = name.rpartition(".")
    if not module:
        return getattr(builtins, last, None)
    if load and module.partition(".")[0] in sys.stdlib_module_names:
        __import__(module)
    return getattr(sys.modules.get(module), last, None)


def name_of(value: Any) -> str | None:
    """The name by which the other end finds a type or function of Python."""
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if type(module) is not str or type(name) is not str or module.partition(".")[0] not in sys.stdlib_module_names:
        return None
    full = name if module == "builtins" else f"{module}.{name}"
    return full if fetch(full) is value else None


MUTABLE: dict[type, str] = {list: "", dict: "d", set: "s", bytearray: "y", OrderedDict: "O", Counter: "C",
                             defaultdict: "D", deque: "q"}  # fmt: skip
CONTAINERS = {*MUTABLE, *TAGS}
OF_TAG = {tag: kind for kind, tag in (MUTABLE | TAGS).items() if tag}
BASE_SET = set(BASES)
ITERABLE = {list, tuple, set, frozenset, deque}
NEW: dict[str, Callable[[], Any]] = {"d": dict, "s": set, "y": bytearray, "O": OrderedDict, "C": Counter}
BARE: dict[type, Callable[[Any], Any]] = {
    int: int.__int__, float: float.__float__, str: str.__str__, complex: complex.__pos__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
}  # fmt: skip
ATOM_TAGS = {int: "i", float: "f", bytes: "b", complex: "c", range: "r"}
ENCODE: dict[type, Callable[[Any], Any]] = {
    int: lambda value: format(value, "x"),
    float: repr,
    str: str,
    bytes: bytes.hex,
    complex: lambda value: [real(value.real), real(value.imag)],
    range: lambda value: [whole(part) for part in (value.start, value.stop, value.step)],
}
FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "b": bytes.fromhex,
    "i": lambda text: int(text, 16),
    "u": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    "f": lambda text: float({"nan": "nan", "inf": "inf", "-inf": "-inf"}[text]),
}


def real(value: float) -> Any:
    return value if math.isfinite(value) else {"f": repr(value)}


def whole(value: int) -> Any:
    return value if -JSON_INT < value < JSON_INT else {"i": format(value, "x")}
