"""Send values across the sandbox's border as a graph of plain data, in which every object keeps its identity.

Both ends number objects in the order in which they cross. An object that crosses again is therefore recognised: two
rows that are one list, an argument that is returned, a list that the candidate kept and changes later. With each
message, an end also sends the changes of the mutable objects that both ends know.

JSON's own values represent themselves (None, bool, int below 2**63, finite float, str, list); everything else is an
object with one key, its tag:

    {"#": n} the object with this number      {"x": ...} a reference: the caller decides what it means
    {"t": [...]} tuple     {"s": [...]} set           {"z": [...]} frozenset    {"d": [[key, value], ...]} dict
    {"b": "hex"} bytes     {"y": "hex"} bytearray     {"i": "hex"} large int    {"f": "nan" | "inf" | "-inf"}
    {"u": "hex"} str with lone surrogates     {"c": [re, im]} complex           {"r": [a, b, step]} range
    {"O" | "C": [pairs]} OrderedDict, Counter {"D": [factory, pairs]} defaultdict
    {"q": [maxlen, items]} deque   {"N": [name, fields, items]} named tuple     {"I": [items]} an iterator
    {"v": [type, arguments]} Fraction, Decimal, date, time, datetime, timedelta, slice and the others in `VALUES`
    {"a": [dtype, shape, "hex"]} numpy array, without a shape a numpy scalar    {"T": name} a type or function of Python
    {"w": ["keys" | "values" | "items", mapping]} a view of a dict
    {"o": [class, [[name, value]]]} an object of one of the prompt's own classes, which both ends have
    {"S": [name, hashable, plain, methods]} an instance of a subclass of one of these types

Only the tests can send {"m": [object, name]} a method of such an object, {"p": [pattern, flags]} a compiled pattern,
{"e": "class.member"} a member of an enumeration. In changes, {"I": n} says how many items an iterator has left, and
{"+": [n, items]} says that a list keeps its first n items, followed by these.

An instance of a subclass of a builtin type arrives as an instance of a new subclass with the same name. Methods that
the candidate's class replaces are forwarded to its process. The contents and `==` are those of the builtin base, so an
`__eq__` of the candidate's never reaches the judge.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict, deque, namedtuple
from itertools import islice
from typing import Any

from judging.codec import Costly, Malformed
from judging.python.encode import Encoder
from judging.python.plain import (
    ATOMS,
    BASE_SET,
    BASES,
    CALLED_BY_PYTHON,
    EMPTY,
    FROM_TEXT,
    MAPPINGS,
    MAX_DEPTH,
    MAX_NAME,
    MUTABLE,
    NEW,
    OF_TAG,
    VALUES,
    array_of,
    contents,
    fetch,
    fill_array,
    fill_deque,
    fill_mapping,
    fill_object,
    fill_set,
    frozen,
    plain_base,
    spread,
    text,
)

MAX_BITS = 1 << 16  # of an int in a Fraction or the like, whose constructor takes quadratic time
MAX_NESTING = 5000  # levels of tuples inside tuples, over all messages


class Objects(Encoder):
    """The objects that have crossed in one check, as one end knows them; `Encoder` documents the arguments."""

    def apply(self, changes: list) -> None:
        """Apply the other end's `changes` to our objects.

        Raises:
            Malformed: `changes` cannot have written this.
            Costly: a new value takes far longer to read than to write.
        """
        try:
            for number, node in changes:
                value = self.known[number]
                if number in self.left:
                    self._draw(number, value, node["I"])
                    continue
                if number not in self.before:
                    raise Malformed(f"object {number} cannot change")
                self._fill(value, node, 1)
                self.before[number] = contents(value)
        except (MemoryError, Costly):
            raise
        except Exception as error:
            raise Malformed(f"malformed change: {error}"[:200]) from None

    def _draw(self, number: int, iterator: Any, left: int) -> None:
        """Advance an iterator as far as the other end has advanced its copy."""
        taken = self.left[number] - left
        if type(left) is not int or left < 0 or taken < 0:
            raise Malformed("an iterator has no more items than it had")
        self.left[number] = left
        deque(islice(iterator, taken), maxlen=0)

    def decode(self, node: Any) -> Any:
        """Return the value of a node; the inverse of `encode`.

        Raises:
            Malformed: `encode` cannot have written this.
            Costly: the value takes far longer to read than to write.

        >>> Objects().decode({'t': [1, {'d': [['a', {'s': [2]}]]}]})
        (1, {'a': {2}})
        """
        if type(node) in ATOMS:  # by far the most frequent case
            return node
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + 5 * MAX_DEPTH)
        try:
            return self._decode(node, 0)
        except (MemoryError, Costly):
            raise
        except Exception as error:  # a constructor may raise anything on a hostile process's message
            raise Malformed(f"malformed value: {error}"[:200]) from None
        finally:
            sys.setrecursionlimit(limit)

    def _decode(self, node: Any, depth: int) -> Any:
        kind = type(node)
        if kind in ATOMS:
            return node
        if depth > MAX_DEPTH:
            raise Malformed(f"nests deeper than {MAX_DEPTH} levels")
        if kind is list:
            if ATOMS.issuperset(map(type, node)):
                self.before[self._register(node)] = node.copy()
                return node
            return self._made([], node, depth)
        ((tag, body),) = node.items()
        if tag == "#":
            value = self.known[body]
            if value is EMPTY:
                raise Malformed("a tuple that holds itself")
            self.wake(body)
            return value
        if tag == "x":
            return self.resolve(body)
        if tag in FROM_TEXT:
            value = FROM_TEXT[tag](text(body))
            if value != value:
                self._register(value)
            return value
        if tag == "o":
            kind = self.fetch(body[0])
            if body[0] not in self.classes or not isinstance(kind, type) or not self.is_plain(kind):
                raise Malformed(f"no class {body[0]!r:.80} of the prompt's")
            return self._made(object.__new__(kind), node, depth)
        if tag in NEW:
            return self._made(NEW[tag](), node, depth)
        if tag == "D":
            return self._made(defaultdict(self._decode(body[0], depth)), node, depth)
        if tag == "q":
            return self._made(deque(maxlen=body[0]), node, depth)
        if tag == "a":
            return self._from_array(body)
        if tag == "S":
            return self._subclass(body, depth)
        if tag in "mpe" and not self.trusted:
            return self._of_tests_back(tag, body, depth)
        return self._immutable(tag, body, depth)

    def _made(self, value: Any, node: Any, depth: int) -> Any:
        number = self._register(value)
        self._fill(value, node, depth)
        self.before[number] = contents(value)
        return value

    def _fill(self, value: Any, node: Any, depth: int) -> None:
        """Replace a container's contents by those of a node."""
        kind = plain_base(type(value))
        if kind is list:
            if type(node) is dict:
                kept, added = node["+"]
                if type(kept) is not int or not 0 <= kept <= list.__len__(value):
                    raise Malformed("a list that keeps more than it has")
                tail = [self._decode(item, depth + 1) for item in added]
                list.__setitem__(value, slice(kept, None), tail)
                return
            flat = ATOMS.issuperset(map(type, node))
            items = node if flat else [self._decode(item, depth + 1) for item in node]
            list.__setitem__(value, slice(None), items)
            return
        ((tag, body),) = node.items()
        if kind is None and tag == "a":
            fill_array(value, array_of(body))
            return
        if kind is None:
            atoms = {name: part for name, part in body[1] if type(part) in ATOMS}
            fill_object(value, atoms)  # first, because a set that refers back to it asks for its hash
            fill_object(value, {name: self._decode(part, depth + 1) for name, part in body[1]})
            return
        if tag != MUTABLE[kind]:
            raise Malformed(f"tag {tag!r} for a {kind.__name__}")
        # call the plain type's own methods: at the candidate's end, a subclass may replace them
        if kind is bytearray:
            bytearray.__setitem__(value, slice(None), bytes.fromhex(text(body)))
        elif kind is set:
            fill_set(value, spread([self._decode(item, depth + 1) for item in body]))
        elif kind is deque:
            fill_deque(value, [self._decode(item, depth + 1) for item in body[1]])
        else:
            pairs = body[1] if kind is defaultdict else body
            items = [(self._decode(key, depth + 1), self._decode(item, depth + 1)) for key, item in pairs]
            spread([key for key, _ in items])
            fill_mapping(value, kind, items)

    def _immutable(self, tag: str, body: Any, depth: int) -> Any:
        if tag == "c":
            real, imag = (FROM_TEXT["f"](part["f"]) if type(part) is dict else part for part in body)
            if type(real) is not float or type(imag) is not float:
                raise Malformed("a complex number has two floats")
            return complex(real, imag)
        if tag == "r":
            return range(*(FROM_TEXT["i"](part["i"]) if type(part) is dict else part for part in body))
        if tag == "v":
            name, arguments = body
            if name not in VALUES:
                raise Malformed(f"no value of type {name!r:.80}")
            parts = [self._decode(part, depth) for part in arguments]
            if any(type(part) is int and part.bit_length() > MAX_BITS for part in parts):
                raise Costly(f"a {name} of more than {MAX_BITS} bits")
            return fetch(name, load=True)(*parts)
        if tag == "T":
            return self._named(text(body))
        number = self._register(EMPTY)
        if tag == "t":
            value: Any = tuple([self._decode(item, depth + 1) for item in body])
        elif tag == "z":
            value = frozen(spread([self._decode(item, depth + 1) for item in body]))
        elif tag == "w":
            mapping = self._decode(body[1], depth + 1)
            if body[0] not in ("keys", "values", "items") or plain_base(type(mapping)) not in MAPPINGS:
                raise Malformed("a view of what is no mapping")
            value = getattr(plain_base(type(mapping)), body[0])(mapping)
        elif tag == "I" and not self.trusted:
            value = iter([self._decode(item, depth + 1) for item in body])
            self.left[number] = len(body)
        elif tag == "N":
            name, fields, items = body
            values = [self._decode(item, depth + 1) for item in items]
            value = self._named_tuple(text(name), fields)._make(values)
        else:
            raise Malformed(f"no tag {tag!r:.20}")
        if tag != "I" and tag != "w":
            self._measure(number, value)
        return self._settle(number, value)

    def _measure(self, number: int, value: Any) -> None:
        """Raise Costly if tuples nest too deeply, over all messages of a check, for C code to hash them."""
        if ATOMS.issuperset(map(type, value)):
            return
        inside = (self.deep.get(self.numbers.get(id(part), -1), 0) for part in value)
        self.deep[number] = 1 + max(inside, default=0)
        if self.deep[number] > MAX_NESTING:
            raise Costly(f"tuples that nest deeper than {MAX_NESTING} levels")

    def _of_tests_back(self, tag: str, body: Any, depth: int) -> Any:
        if tag == "m":
            return getattr(self._decode(body[0], depth), body[1])
        if tag == "p":
            return re.compile(self._decode(body[0], depth), body[1])
        if (member := self.member(body)) is None:
            raise Malformed(f"no member {body!r:.80}")
        return member

    def _settle(self, number: int, value: Any) -> Any:
        """Give an immutable object, which could not be made before its parts, the number reserved for it."""
        self.numbers.pop(id(EMPTY), None)
        self.known[number] = value
        self.numbers.setdefault(id(value), number)
        return value

    def _subclass(self, body: list, depth: int) -> Any:
        name, hashable, node, names = body
        number = self._register(EMPTY)
        if type(node) is list:
            plain: Any = []
            base: type = list
        elif type(node) is dict and next(iter(node)) in OF_TAG:
            base = OF_TAG[next(iter(node))]
            plain = None
        else:
            plain = self._decode(node, depth)
            base = type(plain)
        if base not in BASES:
            raise Malformed("a subclass of what has none")
        if (member := self.member(text(name))) is not None:
            return self._settle(number, member)
        methods = tuple(name for name in names if name in CALLED_BY_PYTHON or (name[:1] != "_" and hasattr(base, name)))
        kind = self.stand_in(name.partition(".")[0][:MAX_NAME], base, methods)
        if hashable and base.__hash__ is None:
            kind.__hash__ = object.__hash__
        if base in MUTABLE or base is list:
            value = base.__new__(kind)
            self._settle(number, value)
            if base is defaultdict:
                defaultdict.default_factory.__set__(value, self._decode(node["D"][0], depth))
            self._fill(value, node, depth)
            self.before[number] = contents(value)
            return value
        if base in (tuple, frozenset):
            ((_, items),) = node.items()
            plain = [self._decode(item, depth + 1) for item in items]
        return self._settle(number, base.__new__(kind, plain))

    def _named(self, name: str) -> Any:
        """Return the type or function of Python with this name; the judge's end accepts types of plain data only."""
        found = fetch(name, load=not self.trusted)
        builtin = isinstance(found, type) and ("." not in name or found in BASE_SET)
        if self.trusted and not builtin and found is not Ellipsis and found is not NotImplemented:
            raise Malformed(f"no type {name!r:.80}")
        return found

    def _named_tuple(self, name: str, fields: Any) -> Any:
        own = self.fetch(name)
        if isinstance(own, type) and issubclass(own, tuple) and list(getattr(own, "_fields", ())) == fields:
            return own
        if type(fields) is not list or len(fields) > 255 or any(type(field) is not str for field in fields):
            raise Malformed("the fields of a named tuple are names")
        key = (name, *fields)
        if key not in self.made:
            made = namedtuple("named", fields, rename=True)
            made.__name__ = name[:MAX_NAME]  # namedtuple() would refuse some names
            self.made[key] = self.stand_in(made.__name__, made, ())
        return self.made[key]

    def _from_array(self, body: list) -> Any:
        value = array_of(body)
        if body[1] is None:
            return value[()]
        self._register(value, mutable=True)
        return value
