"""The sandbox's parts by themselves: the codec, the system call filter, what happens to arguments."""

import ctypes
import ctypes.util
import json
import math
import os
import struct
import sys
import tempfile
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from common import one_line  # noqa: E402
from judging import seccomp  # noqa: E402
from judging.codec import MAX_FRAME, Malformed, TooBig, dump_frame, split_frame  # noqa: E402
from judging.lockdown import interpreter_paths, landlock_version  # noqa: E402
from judging.python.objects import Objects  # noqa: E402
from judging.python.plain import MAX_DEPTH, NotPlain  # noqa: E402

# The codec

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**62, max_value=2**66)
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(codec=None))  # lone surrogates too
    | st.binary()
    | st.binary().map(bytearray)
    | st.builds(range, st.integers(), st.integers(), st.integers(1, 9))
)
keys = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = keys | st.tuples(keys, keys) | st.frozensets(keys, max_size=3)
plain = st.recursive(
    scalars | st.sets(keys, max_size=4) | st.frozensets(keys, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


def identical(a, b):
    """Equal, of the same type at every level, with nan equal to nan and 0.0 different from -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return repr(a) == repr(b)
    if isinstance(a, complex):
        return identical(a.real, b.real) and identical(a.imag, b.imag)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(identical(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(identical(x, y) for y in b) for x in a)
    return a == b


class Ends:
    """Both ends of a check without a process between them."""

    def __init__(self):
        self.judge, self.candidate = Objects(trusted=True), Objects()

    def cross(self, value, back=True):
        """What becomes of a value on its way from the candidate to the judge, or the other way."""
        sender, receiver = (self.candidate, self.judge) if back else (self.judge, self.candidate)
        sender.begin()
        frame = dump_frame([sender.encode(value), sender.changes()])
        (node, changes), used = split_frame(frame, 1 << 30)
        assert used == len(frame)
        received = receiver.decode(node)
        receiver.apply(changes)
        assert sender.count == receiver.count
        return received


def cross(value):
    return Ends().cross(value)


def encode(value):
    objects = Objects()
    objects.begin()
    return objects.encode(value)


@given(plain)
@example({"t": [1]})
@example({1: "a", "1": "b", (1,): None})
@example([True, 1, 1.0, -0.0, math.inf, math.nan])
@example("\ud800\x00é")
@example(-(2**63))
@example(2**63 - 1)
@example(1 << 100_000)
def test_round_trip(value):
    assert identical(cross(value), value)


TAGS = "tszdbyifcrxqOCDNIvaTSu#"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["t", "00", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["", *TAGS]), inner, max_size=2),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=500)
def test_decoding_anything_gives_a_value_or_malformed(node):
    try:
        value = Objects(trusted=True).decode(node)
    except (Malformed, NotPlain):
        return
    assert not callable(value) or isinstance(value, type)


@given(st.binary(max_size=64))
@example(b"\xff\xff\xff\xff")
@example(b"\0\0\0\x02{}")
@example(b"\0\0\0\x03NaN")
@example(b"\0\x01\0\0" + b"[" * 65536)
@example(b"\0\x01\0\0" + b"9" * 65536)
def test_any_bytes_are_a_frame_or_incomplete_or_malformed(data):
    try:
        frame = split_frame(data, MAX_FRAME)
    except Malformed:
        return
    assert frame is None or 4 <= frame[1] <= len(data)


def test_frames_are_split_where_they_end():
    stream = dump_frame([1]) + dump_frame({"a": 2})
    for cut in range(len(stream) + 1):
        first = split_frame(stream[:cut], MAX_FRAME)
        assert first == (None if cut < len(dump_frame([1])) else ([1], len(dump_frame([1]))))


class Evil(int):
    __eq__ = __ne__ = lambda self, other: True
    __hash__ = __index__ = __int__ = __abs__ = lambda self: 1 / 0


class EvilList(list):
    __iter__ = __len__ = __getitem__ = lambda self, *a: 1 / 0
    __class__ = dict


@pytest.mark.parametrize(
    "value, arrives",
    [
        (Evil(7), 7),
        (EvilList([1, 2]), [1, 2]),
        (type("S", (str,), {"__str__": None})("a"), "a"),
        (type("F", (float,), {"__float__": None})(1.5), 1.5),
        (type("D", (dict,), {"items": None})({1: 2}), {1: 2}),
        (type("B", (bytes,), {"hex": None})(b"a"), b"a"),
        (type("C", (complex,), {"real": None})(1j), 1j),
        (type("T", (tuple,), {})((1,)), (1,)),
    ],
)
def test_subclasses_arrive_with_their_name_and_nothing_else(value, arrives):
    received = cross(value)
    assert type(received).__name__ == type(value).__name__ and type(received).__bases__ == (type(arrives),)
    assert identical(type(arrives)(received), arrives) and received == arrives
    objects = Objects(trusted=True)
    objects.begin()
    with pytest.raises(NotPlain):
        objects.encode(value)


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [deep(MAX_DEPTH), "a" * (MAX_FRAME + 1), bytes(MAX_FRAME), [0] * MAX_FRAME, 1 << 8 * MAX_FRAME,
     ["a" * 1000] * 3000, {i: i for i in range(MAX_FRAME)}],
    ids=["deep", "str", "bytes", "list", "int", "strings", "dict"],
)  # fmt: skip
def test_what_is_too_big(value):
    with pytest.raises(TooBig):
        dump_frame(encode(value), MAX_FRAME)


def test_the_deepest_value_that_crosses():
    assert cross(deep(MAX_DEPTH - 1)) == deep(MAX_DEPTH - 1)


@pytest.mark.parametrize("value", [object(), print, iter([]), lambda: 0], ids=lambda value: type(value).__name__)
def test_what_is_not_plain(value):
    with pytest.raises(NotPlain):
        encode(value)


# Identity


def test_one_object_stays_one_object():
    ends, row = Ends(), [1]
    rows = ends.cross([row, row, (row,), {"k": row}])
    assert rows[0] is rows[1] is rows[2][0] is rows[3]["k"]
    assert ends.cross(row) is rows[0]  # in a later message too
    assert ends.cross(rows[0], back=False) is row
    around = []
    around.append(around)
    received = ends.cross(around)
    assert received[0] is received
    twice = ends.cross([math.nan, float("nan"), float("nan")])
    assert len(set(twice)) == 3
    nan = float("nan")
    assert len(set(ends.cross([nan, nan]))) == 1


@given(plain, plain)
@example([1, 2], [1.0, 2.0])
@example([({1},)], [({True},)])
@example(Counter("aab"), Counter("b"))
@example(OrderedDict(a=1, b=2), OrderedDict(b=2, a=1))
@example(deque([1, 2], 3), deque([2, 1], 3))
@example(defaultdict(list, a=[1]), defaultdict(list, b=[]))
def test_what_one_end_changes_is_changed_at_the_other(old, new):
    ends = Ends()
    received = ends.cross(old)
    if type(old) is not type(new) or not isinstance(old, list | dict | set | bytearray | deque):
        return
    before = id(received)
    (old.__setitem__(slice(None), new) if isinstance(old, list | bytearray) else (old.clear(), _refill(old, new)))
    ends.cross(None)
    assert id(received) == before and identical(received, new)
    assert ends.cross(old) is received
    received.clear()  # and back
    ends.cross(None, back=False)
    assert len(old) == 0


def _refill(old, new):
    old.extend(new) if isinstance(old, deque) else old.update(new)


def test_what_nobody_can_change_is_not_looked_at():
    ends = Ends()
    kept = [ends.cross([n]) for n in range(100)]
    ends.candidate.free()
    assert not ends.candidate.active and len(kept) == 100
    again = ends.cross(kept[3], back=False)
    again.append("changed")
    ends.cross(None)
    assert kept[3] == [3, "changed"]


def test_what_is_dropped_is_forgotten():
    ends = Ends()
    for n in range(1000):
        ends.cross([n])
        ends.candidate.forget(ends.judge.unused())
    assert len(ends.candidate.known) < 200


@given(
    st.lists(st.integers(-40, 40) | st.text(max_size=2), max_size=12), st.sampled_from(["literal", "copied", "added"])
)
def test_a_set_is_iterated_in_the_order_that_it_had(items, how):
    made = {"literal": lambda: set().union(items), "copied": lambda: set(set(items)), "added": lambda: set(items)}
    ours = made[how]()
    theirs = Ends().cross(ours)
    assert theirs == ours
    if all(isinstance(item, int) and 0 <= item < 8 for item in items):
        assert list(theirs) == list(ours)


def test_a_set_literal_of_the_report():
    assert list(cross({12, 13, 14, 15, 16})) == list({12, 13, 14, 15, 16})
    assert list(cross(set([12, 13, 14, 15, 16]))) == list(set([12, 13, 14, 15, 16]))


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [OrderedDict(b=1, a=2), Counter("abca"), defaultdict(list, {1: [2]}), deque([1, 2], maxlen=4), Fraction(1, 3),
     Decimal("1.50"), datetime(2020, 1, 2, 3), date(2020, 1, 2), timedelta(1, 2, 3), int, ValueError, Counter],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_types_that_a_test_can_tell_apart(value):
    received = cross(value)
    assert type(received) is type(value) and received == value and repr(received) == repr(value)


def test_a_named_tuple_keeps_its_names():
    received = cross(Point(1, [2]))
    assert (received.x, received._fields, type(received).__name__) == (1, ("x", "y"), "Point")
    assert Ends().cross([Point(1, 2), Point(3, 4)])[0]._replace(x=5) == (5, 2)


def test_numpy_values_are_numpys():
    numpy = pytest.importorskip("numpy")
    true = cross(numpy.bool_(True))
    assert type(true) is numpy.bool_ and true is not True and true == True  # noqa: E712
    assert type(cross(numpy.int64(3))) is numpy.int64
    ends, array = Ends(), numpy.arange(6.0).reshape(2, 3)
    received = ends.cross(array)
    assert received.dtype == array.dtype and (received == array).all()
    array[1, 2] = 9
    ends.cross(None)
    assert received[1, 2] == 9


def test_lone_surrogates_are_not_joined():
    assert cross("\ud83d" + "\ude00") == "\ud83d\ude00" != "\U0001f600"


@given(st.text(st.characters(codec=None), max_size=300))
def test_one_line_is_one_printable_line(text):
    line = one_line(text, 50)
    assert len(line) <= 50 and line.isprintable()
    line.encode()  # no lone surrogate is left


# The system call filter

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SAMPLES = [0, 1, 2, 3, 4, 9, 10, 15, 16, 17, 22, 23, 36, 0x201, 0x200, 0x202, 0x203, 0x241, 1024, 1030, 0x5401, 0x5412,
           0x21, 0x80, 0x81, 0x180, 0x8901, 0x10000, 0x3D0F00, 0x3F0F00, 0x10010000, 0x59616D61, 0x53564D41, 0xFFFFFFF0,
           0xFFFFFFFA, 1 << 32, (1 << 64) - 1]  # fmt: skip


def decide(code, number, arguments, arch):
    """Run a classic BPF program on one system call, as the kernel does. Returns its 32-bit answer."""
    data = struct.pack("<iIQ6Q", number if number < 1 << 31 else number - (1 << 32), arch, 0, *arguments)
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif operation == 0x05:
            at += k
        elif operation == 0x15:
            at += if_true if accumulator == k else if_false
        elif operation == 0x35:
            at += if_true if accumulator >= k else if_false
        elif operation == 0x25:
            at += if_true if accumulator > k else if_false
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0x06:
            return k
        else:
            raise AssertionError(f"unknown instruction {operation:#x}")


def expected(machine, number, arguments):
    """What the tables say about a call, read without the program."""
    column = list(ARCHITECTURES).index(machine)
    if any(row[column] == number for row in seccomp.ALLOWED.values()):
        return seccomp.ALLOW
    if any(row[column] == number for row in seccomp.ABSENT.values()):
        return seccomp.ERRNO | 38
    for row in seccomp.CHECKED.values():
        if row[column] == number:
            words = [(arguments[c.argument] >> (32 * c.high)) & 0xFFFFFFFF for c in row[2]]
            if all(word & c.mask in c.values for word, c in zip(words, row[2], strict=True)):
                return seccomp.ALLOW
    if any(row[column] == number for row in seccomp.BUSY.values()):
        return seccomp.ALLOW if arguments[1] & 0x80 else seccomp.ERRNO | 11
    return seccomp.ERRNO | 1


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_filter_says_what_the_tables_say(machine):
    code, arch = seccomp.instructions(machine), ARCHITECTURES[machine]
    assert len(code) <= 4096 and all(0 <= a <= 255 and 0 <= b <= 255 for _, a, b, _ in code)
    for number in [*range(700), 0x40000000, 0x40000039, 0x7FFFFFFF, 0xFFFFFFFF]:
        for value in SAMPLES:
            arguments = [value] * 6
            assert decide(code, number, arguments, arch) == expected(machine, number, arguments), (number, value)
    other = ARCHITECTURES["aarch64" if machine == "x86_64" else "x86_64"]
    assert decide(code, 0, [0] * 6, other) == seccomp.KILL


needs_libseccomp = pytest.mark.skipif(not ctypes.util.find_library("seccomp"), reason="libseccomp is not installed")


@needs_libseccomp
@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_numbers_are_libseccomps(machine):
    library = ctypes.CDLL(ctypes.util.find_library("seccomp"))
    column = list(ARCHITECTURES).index(machine)
    rows = seccomp.ALLOWED | seccomp.EXEC | seccomp.ABSENT | seccomp.CHECKED | seccomp.BUSY
    for name, row in rows.items():
        number = library.seccomp_syscall_resolve_name_arch(ARCHITECTURES[machine], name.encode())
        assert (number if number >= 0 else None) == row[column], name


class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


@needs_libseccomp
@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_libseccomp_builds_the_same_filter(machine):
    """The same policy, compiled by libseccomp, answers every sampled call alike."""
    library = ctypes.CDLL(ctypes.util.find_library("seccomp"))
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(seccomp.ERRNO | 1)))
    arch, column = ARCHITECTURES[machine], list(ARCHITECTURES).index(machine)
    library.seccomp_arch_remove(context, ctypes.c_uint32(0))
    assert library.seccomp_arch_add(context, ctypes.c_uint32(arch)) in (0, -17)

    def rule(action, name, comparisons):
        number = library.seccomp_syscall_resolve_name(name.encode())  # this machine's; translated for the filter's
        array = (Comparison * len(comparisons))(*comparisons)
        error = library.seccomp_rule_add_exact_array(context, ctypes.c_uint32(action), number, len(array), array)
        assert error == 0, (name, error)

    masked = 7  # SCMP_CMP_MASKED_EQ: argument & a == b
    for name, row in seccomp.ALLOWED.items():
        if row[column] is not None:
            rule(seccomp.ALLOW, name, [])
    for name in seccomp.ABSENT:
        rule(seccomp.ERRNO | 38, name, [])
    rule(seccomp.ALLOW, "futex", [Comparison(1, masked, 0x80, 0x80)])
    rule(seccomp.ERRNO | 11, "futex", [Comparison(1, masked, 0x80, 0)])
    for name, row in seccomp.CHECKED.items():
        if row[column] is None:
            continue
        choices = [[]]
        for check in row[2]:
            shift = 32 * check.high
            parts = [Comparison(check.argument, masked, check.mask << shift, value << shift) for value in check.values]
            choices = [[*choice, part] for choice in choices for part in parts]
        for choice in choices:  # libseccomp takes one comparison an argument: join the halves of a pointer
            joined = {}
            for part in choice:
                a, b = joined.get(part.arg, (0, 0))
                joined[part.arg] = (a | part.a, b | part.b)
            rule(seccomp.ALLOW, name, [Comparison(arg, masked, a, b) for arg, (a, b) in joined.items()])
    with tempfile.TemporaryFile() as file:
        assert library.seccomp_export_bpf(context, file.fileno()) == 0
        size = os.fstat(file.fileno()).st_size
        theirs = list(struct.iter_unpack("=HBBI", os.pread(file.fileno(), size, 0)))
    library.seccomp_release(context)
    ours = seccomp.instructions(machine)
    for number in range(700):
        for value in SAMPLES:
            arguments = [value] * 6
            assert decide(ours, number, arguments, arch) == decide(theirs, number, arguments, arch), (number, value)


# Landlock


def test_readable_paths_are_the_interpreters():
    paths = interpreter_paths()
    assert not any(str(ROOT).startswith(path) for path in paths), "this checkout must not be readable"
    for secret in ("/etc", "/etc/passwd", "/proc", "/tmp", "/", "/usr", str(Path.home())):
        assert secret not in paths
    assert any(Path(os.__file__).is_relative_to(path) for path in paths)


def test_landlock_version_is_a_number():
    assert landlock_version() >= 0


def test_frames_are_json():
    assert json.loads(dump_frame({"a": [1]})[4:]) == {"a": [1]}
