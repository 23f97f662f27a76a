"""Define plain data at the sandbox's border: its types, and how values of each are taken apart and rebuilt."""

from __future__ import annotations

import builtins
import contextlib
import copy
import functools
import itertools
import math
import operator
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

from judging.codec import Costly, Malformed

MAX_DEPTH = 200  # levels of containers inside containers
JSON_INT = 2**63  # larger ints are sent as hex: reading decimal digits takes quadratic time
MAX_NAME = 80  # characters

ATOMS = {int, float, str, bool, type(None)}
TAGS = {tuple: "t", set: "s", frozenset: "z", dict: "d", OrderedDict: "O", Counter: "C"}
MAPPINGS = (OrderedDict, Counter, defaultdict, dict)  # subclasses before their base
BASES = (*MAPPINGS, int, float, str, list, tuple, set, frozenset, bytes, bytearray, complex, deque)
VALUES: dict[str, Callable[[Any], list]] = {
    "fractions.Fraction": lambda v: [v.numerator, v.denominator],
    "decimal.Decimal": lambda v: [str(v)],
    "datetime.date": lambda v: [v.year, v.month, v.day],
    "datetime.time": lambda v: [v.hour, v.minute, v.second, v.microsecond, v.tzinfo],
    "datetime.datetime": lambda v: [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo],
    "datetime.timezone": lambda v: [v.utcoffset(None)],
    "zoneinfo.ZoneInfo": lambda v: [v.key],
    "pathlib.PosixPath": lambda v: [str(v)],
    "pathlib.PurePosixPath": lambda v: [str(v)],
    "uuid.UUID": lambda v: [str(v)],
    "datetime.timedelta": lambda v: [v.days, v.seconds, v.microseconds],
    "builtins.slice": lambda v: [v.start, v.stop, v.step],
}
ITERABLES: tuple[Iterable, ...] = ([], (), "", "\xe4", b"", range(0), {}, {}.values(), {}.items(), set())
COPIED = {*(type(iter(x)) for x in ITERABLES), type(reversed([]))}  # iterators that can be copied
ITERATORS = {
    types.GeneratorType, type(iter(range(1 << 70))), enumerate, zip, map, filter, reversed,
    *(kind for kind in vars(itertools).values() if isinstance(kind, type)),
}  # fmt: skip
VIEWS = {type(getattr(m, name)()): name for m in ({}, OrderedDict()) for name in ("keys", "values", "items")}
# methods that Python itself calls; the judge's classes for the candidate's objects must define them to forward them
CALLED_BY_PYTHON = {f"__{name}__" for name in ("call iter next len getitem setitem delitem contains bool reversed "
                                               "enter exit str repr missing").split()}  # fmt: skip
ARITHMETIC = {f"__{prefix}{name}__" for name in ("add sub mul matmul truediv floordiv mod divmod pow lshift rshift and "
                                                 "or xor").split() for prefix in ("", "r", "i")}  # fmt: skip
ARITHMETIC |= {f"__{name}__" for name in "neg pos abs invert round format int float index lt le gt ge".split()}
CALLED_BY_PYTHON |= ARITHMETIC
NUMBERS = "biufcSUmM"  # kinds of numpy's types that hold no objects
COLLISIONS = 1000  # more keys with the same hash would cost the judge too much time
NAMED = sys.stdlib_module_names | {"numpy"}  # modules whose types and functions are sent by name
EMPTY = object()


class NotPlain(TypeError):
    """A value is not plain data and cannot be sent as a reference either."""


def refuse(value: Any) -> Any:
    raise NotPlain(f"{type(value).__name__} is not plain data")


def array_of(body: Any) -> Any:
    dtype, sizes, data, *fixed = body
    import numpy

    found = numpy.dtype(text(dtype))
    if found.kind not in NUMBERS:
        raise Malformed(f"no array of {dtype!r:.20}")
    array = numpy.frombuffer(bytes.fromhex(text(data)), found).reshape(sizes if sizes is not None else ()).copy()
    if fixed:
        array.flags.writeable = False
    return array


def fill_array(value: Any, new: Any) -> None:
    if value.dtype != new.dtype or value.size != new.size:
        raise Malformed("an array that changes its type or its size")
    if value.shape != new.shape:
        value.shape = new.shape
    value[...] = new


def text(body: Any) -> str:
    if type(body) is not str:
        raise Malformed("text is wanted")
    return body


def contents(value: Any) -> Any:
    """Return what is in a mutable object, one level deep.

    The result is a list, whose items are to be compared by identity, or a value that can be compared with ==.
    """
    kind = plain_base(type(value))
    if kind is None:
        if type(value).__module__ == "numpy":
            return value.shape, value.tobytes()
        return [*(found := state(value)), *found.values()]
    if kind is bytearray:
        return bytes(value)
    if kind in MAPPINGS:
        return [*kind.keys(value), *kind.values(value)]
    return list(kind.__iter__(value))


def children(value: Any) -> Any:
    """Return the objects that a container holds; nothing for any other value."""
    kind = plain_base(type(value))
    if kind in MAPPINGS:
        return [*kind.keys(value), *kind.values(value)]
    if kind is None:
        return list(state(value).values())
    return kind.__iter__(value) if kind in ITERABLE else ()


def forked(iterator: Any) -> Any:
    """Return a second iterator over the remaining items, without advancing this one; None if that is impossible."""
    kind = type(iterator)
    if kind in COPIED:
        return copy.copy(iterator)
    if kind not in (enumerate, zip, map, filter):
        return None
    make, parts, *strict = iterator.__reduce__()
    parts = [forked(part) if hasattr(type(part), "__next__") else part for part in parts]
    if any(part is None for part in parts[kind in (map, filter) :]):
        return None
    new = make(*parts)
    if strict:
        new.__setstate__(*strict)
    return new


def state(value: Any) -> dict[str, Any]:
    """Return the attributes of an object of one of the prompt's own classes, slots included."""
    found: dict[str, Any] = {}
    for name in slots_of(type(value)):
        with contextlib.suppress(AttributeError):
            found[name] = object.__getattribute__(value, name)
    with contextlib.suppress(AttributeError):
        found |= object.__getattribute__(value, "__dict__")
    return found


def slots_of(kind: type) -> list[str]:
    found = []
    for base in type.__dict__["__mro__"].__get__(kind):
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if type(slots) is str else slots:
            if name.startswith("__") and not name.endswith("__"):
                found.append(f"_{base.__name__.lstrip('_')}{name}")  # Python's name for a private attribute
            elif not name.startswith("__"):
                found.append(name)
    return found


@functools.lru_cache(maxsize=256)
def is_bare(kind: type) -> bool:
    """Return whether object.__new__ makes an instance of the class, so none of its code runs; False for exceptions."""
    try:
        object.__new__(kind)
    except TypeError:
        return False
    return not issubclass(kind, BaseException)


def fill_object(value: Any, attributes: dict[str, Any]) -> None:
    """Give an object these attributes and remove all others. Raise Malformed for a name that is not allowed."""
    slots = slots_of(type(value))
    for name in state(value).keys() - attributes.keys():
        object.__delattr__(value, name)
    for name, part in attributes.items():
        if type(name) is not str or name.startswith("__"):  # C code trusts some, such as __array_interface__
            raise Malformed(f"{name!r:.80} is no attribute")
        if name in slots:
            object.__setattr__(value, name, part)
    if others := {name: part for name, part in attributes.items() if name not in slots}:
        value.__dict__.clear()  # then update() keeps the other end's order
        value.__dict__.update(others)


def fill_deque(value: deque, items: list) -> None:
    if len(items) == deque.__len__(value):  # in place, because a loop over it may be running
        for place, item in enumerate(items):
            deque.__setitem__(value, place, item)
        return
    deque.clear(value)
    deque.extend(value, items)


def fill_mapping(value: dict, kind: type, items: list[tuple]) -> None:
    if list(kind.keys(value)) == [key for key, _ in items]:
        for key, item in items:  # in place, because a loop over its keys may be running
            kind.__setitem__(value, key, item)
        return
    kind.clear(value)
    (OrderedDict if kind is OrderedDict else dict).update(value, items)


def spread(keys: list) -> list:
    """Return the keys for a set or dict. Raise Costly if too many share a hash: filling would take quadratic time."""
    if len(keys) > COLLISIONS and len(keys) - len(set(map(hash, keys))) > COLLISIONS:
        raise Costly(f"more than {COLLISIONS} keys have the same hash")
    return keys


def fill_set(value: set, items: list) -> None:
    """Fill a set so that iteration follows the order of `items`, if one of the usual ways to fill a set does that."""
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
    # the type's __mro__, not isinstance(), which asks the object for its __class__
    if kind in BASE_SET:
        return kind
    return next((base for base in type.__dict__["__mro__"].__get__(kind) if base in BASE_SET), None)


@functools.lru_cache(maxsize=256)
def replaced(kind: type, base: type) -> list[str]:
    """List the methods that a subclass defines itself: those of its plain base, and those that Python calls."""
    order = type.__dict__["__mro__"].__get__(kind)
    if is_enum(kind):
        return []
    names = {name for above in order[: order.index(base)] for name, member in vars(above).items() if member is not None}
    return sorted(name for name in names if name in CALLED_BY_PYTHON or (name[:1] != "_" and hasattr(base, name)))


def is_enum(kind: type) -> bool:
    enum = sys.modules.get("enum")
    return enum is not None and issubclass(kind, enum.Enum)


def enum_name(value: Any, own: Callable[[str], Any]) -> str | None:
    """Return "class.member" for a member of an enumeration that both ends may have: the program's own, or Python's.

    Returns None for other values.
    """
    kind = type(value)
    if not is_enum(kind):
        return None
    name = kind.__name__ if own(kind.__name__) is kind else name_of(kind)
    if not name or (value.name is None and value.value != 0):  # a flag with bits that have no name
        return None
    return f"{name}.{value.name or ''}"


def enum_member(name: str, own: Callable[[str], Any], load: bool = False) -> Any:
    """Return the member of an enumeration by "class.member"; None if there is none."""
    kind_name, dot, member = name.rpartition(".")
    if not dot:
        return None
    kind = fetch(kind_name, load) if "." in kind_name else own(kind_name)
    if not isinstance(kind, type) or not is_enum(kind):
        return None
    if member in kind.__members__:
        return kind.__members__[member]
    if not issubclass(kind, sys.modules["enum"].Flag):
        return None
    found = kind(0)
    for part in filter(None, member.split("|")):
        if part not in kind.__members__ and not part.isdecimal():
            return None
        found |= kind.__members__[part] if part in kind.__members__ else kind(int(part))  # unnamed bits
    return found


def fields_of(kind: type) -> list[str] | None:
    fields = getattr(kind, "_fields", None)
    return list(fields) if type(fields) is tuple and all(type(field) is str for field in fields) else None


def fetch(name: str, load: bool = False) -> Any:
    """Return the object with this dotted or builtin name, None if there is none.

    Args:
        load: import the module if it is one of `NAMED`.
    """
    module, _, last = name.rpartition(".")
    if not module:
        return getattr(builtins, last, None)
    if isinstance(kind := getattr(builtins, module, None), type):  # a method, such as str.upper
        return getattr(kind, last, None)
    if load and module.partition(".")[0] in NAMED:
        __import__(module)
    return getattr(sys.modules.get(module), last, None)


def name_of(value: Any) -> str | None:
    """Return the name by which the other end finds a type or function of Python; None if it has none."""
    if type(value) is types.MethodDescriptorType:
        full = f"{value.__objclass__.__name__}.{value.__name__}"
        return full if fetch(full) is value else None
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if type(module) is not str or type(name) is not str or module.partition(".")[0] not in NAMED:
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
