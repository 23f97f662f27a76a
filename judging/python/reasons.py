"""Describe the result of a check: a status, and one line that a person can act on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

from common import one_line
from judging.python.remote import shown

MAX_SOURCE = 256 * 1024  # characters of a program under test


class Progress:
    """The outcomes of the counted tests so far."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.outcomes: dict[int, BaseException | None] = {}

    def record(self, number: int, error: BaseException | None) -> None:
        self.outcomes[number] = error

    @property
    def passed(self) -> int:
        return sum(error is None for error in self.outcomes.values())

    def first_error(self) -> BaseException | None:
        return next((error for error in self.outcomes.values() if error is not None), None)

    def where(self) -> str:
        return f" (after {len(self.outcomes)} of {self.total} tests)" if self.total and self.outcomes else ""


def failed(error: BaseException, absent: Iterable[str] = ()) -> dict[str, Any]:
    """Return status and reason for an exception that ended the tests.

    Args:
        absent: names that the candidate was asked for and did not define.
    """
    remote = getattr(error, "_remote", None)
    if isinstance(error, MemoryError) and remote:
        return outcome("memory", remote)
    if remote:
        return outcome("fail", remote)
    if isinstance(error, Explained):
        return outcome("fail", one_line(error, 400))
    reason = f"the test raised {type(error).__name__}: {told(error)}"
    missing = isinstance(error, NameError) and error.name in absent
    # any other BaseException is a failure reported by a test library, for example pytest.fail's
    asserted = isinstance(error, AssertionError) or not isinstance(error, Exception | SystemExit | KeyboardInterrupt)
    return outcome("fail" if missing or asserted else "raised", reason)


def loading_failed(session: Any, reply: Any) -> dict[str, Any] | None:
    """Return the verdict on a program that did not load, None if it did."""
    if type(reply) is not dict:
        session.end("protocol", "a malformed answer to the program")
    if "error" not in reply and "exit" not in reply:
        return None
    try:
        session.complain(reply)
    except Exception as error:
        if not hasattr(error, "_remote"):
            session.end("protocol", "a malformed answer to the program")
        stage = reply["error"].get("stage")
        if stage == "compile" and not isinstance(error, MemoryError | RecursionError):
            return outcome("syntax", error._remote)
        if stage == "compile":
            return outcome("syntax", f"too complex to compile: {error._remote}")
        return failed(error)


def too_long(source: str) -> dict[str, Any] | None:
    """Return the verdict on a program that is too long to be tried, else None."""
    allowed = len(source) <= MAX_SOURCE
    return (
        None
        if allowed
        else outcome("syntax", f"the program has {len(source)} characters, and {MAX_SOURCE} are allowed")
    )


def told(error: BaseException) -> str:
    """Return an exception's text. It may hold the program's objects, which may refuse to be printed."""
    try:
        return one_line(error)
    except Exception:
        return f"({type(error).__name__} that cannot be printed)"


def cause(verdict: dict[str, Any]) -> str:
    """Return the status and the reason up to its first colon, which for an exception ends with its type."""
    return f"{verdict['status']}: {verdict['reason'].partition(':')[0]}"


class Explained(AssertionError):
    pass


def compared(text: str, left: Any, right: Any) -> Explained:
    return Explained(f"assert {one_line(text, 160)}: left is {short(left)}, right is {short(right)}")


def untrue(text: str, value: Any) -> Explained:
    return Explained(f"assert {one_line(text, 160)}: it is {short(value)}")


def short(value: Any) -> str:
    return one_line("".join(_pieces(value, [80])), 80)


def _pieces(value: Any, room: list[int]) -> Iterator[str]:
    """Yield the text of repr() piece by piece until there is no room, because a list may hold another 2**60 times."""
    kind = type(value)
    brackets = _BRACKETS.get(kind)
    if brackets is None or not value or room[0] < -80:
        try:
            text = shown(value) or repr(value[:200] if kind in (str, bytes) else value) if room[0] >= 0 else "..."
        except ValueError:  # an int with more digits than Python agrees to print
            text = f"a very large {kind.__name__}"
        room[0] -= len(text)
        yield text
        return
    yield brackets[0]
    for number, item in enumerate(value):
        if room[0] < 0:
            yield "..."
            break
        room[0] -= 1
        yield ", " if number else ""
        yield from _pieces(item, room)
        if kind is dict:
            yield ": "
            yield from _pieces(value[item], room)
    yield ",)" if kind is tuple and len(value) == 1 else brackets[1]


_BRACKETS = {list: "[]", tuple: "()", set: "{}", dict: "{}"}


def place_of(prompt_lines: int, line: int) -> str:
    inside = line - prompt_lines
    return f" (line {inside} of the completion)" if inside > 0 else f" (line {line} of the prompt)"


def outcome(status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "reason": reason}


def how_it_died(status: int, killed_by_us: bool, cpu_seconds: float, limit: float) -> tuple[str, str]:
    """Return status and reason for a child that hung up, from its wait status."""
    if killed_by_us:
        return "protocol", "the program closed its connection to the judge"
    if os.WIFEXITED(status):
        return "crash", f"the program ended itself (exit code {os.WEXITSTATUS(status)}) before the tests were done"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu_seconds >= limit):
        return "timeout", f"{cpu_seconds:.1f} s of CPU time used"
    if number == signal.SIGKILL:  # the candidate cannot send it
        return "infrastructure", "the child was killed from outside"
    return "crash", f"the program died of {signal.Signals(number).name}"
