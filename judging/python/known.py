"""Keep track of the objects that have crossed the sandbox's border, and of their changes, at one of its ends."""

from __future__ import annotations

import operator
from collections import Counter
from itertools import chain
from sys import getrefcount
from typing import Any

from judging.codec import MAX_FRAME, MAX_REQUEST, TooBig
from judging.python.plain import COPIED, children, contents


class Known:
    """The numbered objects of one check at one end; `Encoder` writes them and `Objects` reads them."""

    def __init__(self, trusted: bool) -> None:
        self.trusted = trusted
        self.known: dict[int, Any] = {}  # number -> object
        self.numbers: dict[int, int] = {}  # id of an object -> its number
        self.before: dict[int, Any] = {}  # number of a mutable object -> its contents that both ends know
        self.deep: dict[int, int] = {}  # number -> how deep a tuple of tuples nests
        self.left: dict[int, int] = {}  # number -> items that an iterator of the tests still has
        self.active: set[int] = set()  # what the candidate may still hold; others cannot change until passed again
        self.looked = self.enough = 0  # elements compared since `free` ran, and how many `free` waits for
        self.scanned = 64  # number of known objects when `unused` last looked
        self.count = 0  # the next number
        self.unfinished: set[int] = set()  # immutable containers whose parts are being encoded
        self.room = 0  # how much the message may still grow

    def _encode(self, value: Any, depth: int) -> Any:
        """Return the node of a value; `Encoder` implements it."""
        raise NotImplementedError

    def _inside(self, value: Any, depth: int) -> Any:
        """Return the node of a mutable object's contents; `Encoder` implements it."""
        raise NotImplementedError

    # one message

    def begin(self) -> None:
        """Start to encode a message."""
        self.room = MAX_REQUEST if self.trusted else MAX_FRAME  # an element takes at least a byte
        self.unfinished.clear()

    def changes(self) -> list:
        """Return [number, contents] for each mutable object known to both ends that has changed.

        Raises:
            TooBig: an iterator has more items than before, or the changes do not fit into a message.
        """
        changed: list = []
        if not self.active:
            return changed
        seen: set[int] = set()
        while suspects := [number for number in self._suspects(seen) if number in self.active]:
            self._tell(suspects, changed)  # this may wake other objects
        for number in self.active & self.left.keys():
            value = self.known[number]
            if type(value) in COPIED and (left := operator.length_hint(value)) != self.left[number]:
                if left > self.left[number]:
                    raise TooBig("an iterator that was passed has more items than before")
                changed.append([number, {"I": left}])
                self.left[number] = left
        return changed

    def _tell(self, numbers: list[int], changed: list) -> None:
        """Add to `changed` the new contents of each of these objects that has changed."""
        for number in numbers:
            value, before = self.known[number], self.before[number]
            now = value if type(value) is list else contents(value)  # lists, the most frequent, need no copy
            self.looked += len(before) + 1
            same = all(map(operator.is_, now, before)) if isinstance(now, list) else now == before
            if same and len(now) == len(before):
                continue
            kept = min(len(now), len(before))
            if same and now is value and kept:  # a list that grew or shrank at its end
                changed.append([number, {"+": [kept, [self._encode(item, 1) for item in now[kept:]]]}])
            else:
                changed.append([number, self._inside(value, 1)])
            self.before[number] = now.copy() if now is value else now

    def _suspects(self, seen: set[int]) -> list[int]:
        """List active mutable objects that are not in `seen` and may have changed.

        Lists are compared in groups of 64, so that unchanged ones are dropped at once.
        """
        numbers = list((self.active & self.before.keys()) - seen)
        seen.update(numbers)
        found = []
        for start in range(0, len(numbers), 64):
            some = numbers[start : start + 64]
            now, before = [self.known[number] for number in some], [self.before[number] for number in some]
            if {list}.issuperset(map(type, now)) and list(map(len, now)) == (sizes := list(map(len, before))):
                if all(map(operator.is_, chain.from_iterable(now), chain.from_iterable(before))):
                    self.looked += sum(sizes) + len(sizes)
                    continue
            found += some
        return found

    def free(self) -> list[int]:
        """At the candidate's end, find active objects that only this table still refers to, and make them inactive.

        Such an object cannot change until it is passed again, so `changes` need not compare it. The search costs time,
        so it waits until `changes` has compared `enough` elements since the last search.

        Returns:
            the numbers of these objects.
        """
        if not self.active or self.looked < self.enough:
            return []
        self.looked = 0
        held: Counter = Counter()
        for number in self.active:
            weight = 2 if number in self.before else 1  # the object itself, and its contents in `before`
            for child in filter(self.numbers.__contains__, map(id, children(self.known[number]))):
                held[child] += weight
        known = self.known
        reached = [number for number in self.active if getrefcount(known[number]) - 2 > held[id(known[number])]]
        kept: set[int] = set()
        while reached:
            number = reached.pop()
            if number not in kept:
                kept.add(number)
                reached += self._numbers_in(self.known[number])
        gone = list(self.active - kept)
        self.active &= kept
        self.enough = 4 * sum(len(self.before.get(number, ())) + 1 for number in kept)
        return gone

    def wake(self, number: int) -> None:
        """Make an object and everything in it active: it is being passed, so it may change from now on."""
        waiting = [number]
        while waiting:
            number = waiting.pop()
            if number not in self.active:
                self.active.add(number)
                waiting += self._numbers_in(self.known[number])

    def _numbers_in(self, value: Any) -> list[int]:
        return [self.numbers[child] for child in filter(self.numbers.__contains__, map(id, children(value)))]

    def unused(self) -> list[int]:
        """Forget objects that nothing else here refers to; return their numbers, for the other end to forget too.

        The search runs only when the number of known objects has doubled since the last one.
        """
        if len(self.known) < 2 * self.scanned:
            return []
        gone = [number for number in self.known if getrefcount(self.known[number]) == 2]
        self.forget(gone)
        self.scanned = max(len(self.known), 64)
        return gone

    def rewind(self, count: int) -> None:
        """Forget every object numbered `count` or higher, because the message that introduced them will not be sent."""
        self.forget(list(range(count, self.count)))
        self.count = count

    def forget(self, numbers: list[int]) -> None:
        for number in numbers:
            self.numbers.pop(id(self.known.pop(number, None)), None)
            self.before.pop(number, None)
            self.left.pop(number, None)
        self.active.difference_update(numbers)

    def _register(self, value: Any, mutable: bool = False) -> int:
        number = self.count
        self.count += 1
        self.known[number] = value
        self.numbers[id(value)] = number
        self.active.add(number)
        if mutable:
            self.before[number] = contents(value)
        return number
