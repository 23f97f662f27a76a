"""Judge a whole program by what it prints: a fresh child for each input, its output compared here.

The child gets the program, then one input. The expected outputs stay in this process. What the program prints is bytes
that are only compared, and its exit code comes from the kernel, so there is nothing to forge: a program passes an input
if it prints what is expected, ends by itself, and its exit code is 0.
"""

from __future__ import annotations

import functools
import io
import math
import os
import re
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

from common import one_line
from judging.python.reasons import how_it_died, loading_failed, outcome, place_of, too_long
from judging.python.session import CheckOver, Session
from judging.tasks import candidate_source

SPARE, MOST = 64 * 1024, 16 * 1024 * 1024  # bytes: a program may print 4 times what is expected, and SPARE, up to MOST
LOOK_UP_MS = 200  # how often a silent program is checked for
SHOWN = 60  # bytes of a line that a reason quotes
LONGEST_NUMBER = 400  # characters; longer tokens are compared as text

_DECIMAL = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_PIECES = re.compile(rb"\s+|\S+")
_TOKENS = re.compile(rb"\S+")


def difference(printed: bytes, expected: bytes, compare: str = "lines", tolerance: float = 0.0) -> str:
    r"""Return "" if an output counts as right, else the first difference.

    Args:
        compare: "lines": as judges of contests do, blanks at the end of a line and empty lines at the end do not count.
            "tokens": only the words between blanks count, however they are spread over lines.
        tolerance: numbers may differ by this, absolute or relative to the expected one; 0 compares them as text.

    >>> difference(b"1 2  \n3\n\n", b"1 2\n3")
    ''
    >>> difference(b"1\n2\n3", b"1 2\n3"), difference(b"1\n2\n3", b"1 2\n3", "tokens")
    ("line 1 is '1', expected '1 2'", '')
    >>> difference(b"0.33333", b"0.333333", tolerance=1e-4), difference(b"", b"1")
    ('', "line 1 is missing, expected '1'")
    """
    pieces, name = (_lines, "line") if compare == "lines" else (_words, "token")
    ours, theirs = pieces(printed), pieces(expected)
    number = 0
    while True:
        number += 1
        one, other = next(ours, None), next(theirs, None)
        if one is None or other is None or not alike(one, other, tolerance):
            if one is None and other is None:
                return ""
            seen = "missing" if one is None else _shown(one)
            return f"{name} {number} is {seen}, expected {'the end' if other is None else _shown(other)}"


def alike(printed: bytes, expected: bytes, tolerance: float) -> bool:
    """Return whether two lines or tokens are equal, up to the tolerance of the numbers in them.

    >>> alike(b"x 1.0", b"x 1", 1e-6), alike(b"x  1.0", b"x 1", 1e-6), alike(b"x 1.0", b"x 1", 0)
    (True, False, False)
    """
    if printed == expected or not tolerance:
        return printed == expected
    ours, theirs = _PIECES.finditer(printed), _PIECES.finditer(expected)
    while True:
        one, other = next(ours, None), next(theirs, None)
        if one is None or other is None:
            return one is other
        if one[0] != other[0] and not near(one[0], other[0], tolerance):
            return False


def near(printed: bytes, expected: bytes, tolerance: float) -> bool:
    """Return whether both are finite decimal numbers that differ by at most `tolerance`, absolute or relative.

    Two whole numbers without point or exponent must be equal as text: a count is right or wrong.

    >>> near(b"1e3", b"1000.0005", 1e-6), near(b"1001", b"1000", 0.1), near(b"nan", b"nan0", 1), near(b"1_0", b"10", 1)
    (True, False, False, False)
    """
    both = (printed, expected)
    if any(len(text) > LONGEST_NUMBER or not _DECIMAL.fullmatch(text) for text in both):
        return False
    if all(text.lstrip(b"+-").isdigit() for text in both):
        return False
    ours, theirs = float(printed), float(expected)
    if math.isinf(ours) or math.isinf(theirs):
        return False
    return abs(ours - theirs) <= max(tolerance, tolerance * abs(theirs))


def most_bytes(expected: bytes) -> int:
    """Return how many bytes a program may print where this is expected.

    >>> most_bytes(b"42") - SPARE, most_bytes(bytes(10**7)) == MOST
    (8, True)
    """
    return min(4 * len(expected) + SPARE, MOST)


def _lines(text: bytes) -> Iterator[bytes]:
    return (line.rstrip() for line in io.BytesIO(text.rstrip()))  # one by one: a list of them could take 40 times more


def _words(text: bytes) -> Iterator[bytes]:
    return (found[0] for found in _TOKENS.finditer(text))


def _shown(text: bytes) -> str:
    said = text[:SHOWN].decode("utf-8", "backslashreplace")
    return repr(said) + "..." * (len(text) > SHOWN)


def check_program(judge: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Run one completion on its task's inputs and return the fields of the verdict.

    It passes if it passes every input. With job["all"], inputs after one that failed run too, to be counted.

    Args:
        judge: has `start` and `reap` for one child, and what a `Session` needs.
    """
    task, limit, total = job["task"], job["time_limit"], job["total_limit"]
    source = candidate_source(task, job["completion"])
    if (verdict := too_long(source)) is not None:
        return verdict
    started = time.monotonic()
    passed, cpu, peak, first = 0, 0.0, 0.0, None
    pairs = list(zip(task["inputs"], task["outputs"], strict=True))
    for number, (given, expected) in enumerate(pairs, start=1):
        left = started + total - time.monotonic()
        if left > 0:
            verdict = attempt(judge, source, given.encode(), expected.encode(), min(limit, left), job)
            cpu, peak = cpu + verdict.pop("cpu_seconds"), max(peak, verdict.pop("peak_mib"))
        if left <= 0 or (verdict["status"] == "timeout" and time.monotonic() >= started + total):
            verdict, left = outcome("timeout", f"all inputs together took longer than {total:g} s"), 0
        if verdict["status"] == "infrastructure":
            return verdict
        passed += verdict["status"] == "pass"
        if verdict["status"] != "pass" and first is None:
            about = "" if verdict["status"] == "syntax" else f"input {number} of {len(pairs)}: "
            first = outcome(verdict["status"], about + verdict["reason"])
        if first is not None and (not job["all"] or left <= 0 or first["status"] == "syntax"):
            break
    usage = {"wall_seconds": time.monotonic() - started, "cpu_seconds": cpu, "peak_mib": peak}
    return {**(first or outcome("pass", "")), **usage, "tests_passed": passed, "tests_total": len(pairs)}


def attempt(judge: Any, source: str, given: bytes, expected: bytes, limit: float, job: dict) -> dict[str, Any]:
    """Run a program in a fresh child on one input, and compare what it prints.

    Returns:
        status, reason, cpu_seconds and peak_mib.
    """
    mark, printed, deadline = os.urandom(16).hex(), b"", time.monotonic() + limit
    with judge.start(math.ceil(job["time_limit"]) + 1) as channel:
        session = Session(channel, judge.parent, judge.leave, judge.orphaned, deadline, functools.partial(place_of, 0))
        try:
            ready = session.receive()
            if ready.get("ready") == "":
                session.ready = True
                session.send({"source": source, "mark": mark})
                verdict = loading_failed(session, session.receive())
            else:
                verdict = outcome("infrastructure", one_line(ready.get("ready")))
            if verdict is None:
                printed = exchange(session, given, most_bytes(expected))
        except CheckOver:
            verdict = outcome(*session.over)
        gone = verdict is None or verdict["status"] == "gone"
        status, killed, cpu, peak = judge.reap(b"W" if gone else b"K")
    if gone and not session.ready:
        verdict = outcome("infrastructure", "a child died before the program ran")
    elif gone and killed:
        verdict = outcome("fail", "the program closed its output and did not end")
    elif gone and status == 0:
        wrong = difference(printed, expected, job["compare"], job["tolerance"])
        verdict = outcome("fail" if wrong else "pass", wrong)
    elif gone and os.WIFEXITED(status):
        verdict = raised(printed.rpartition(mark.encode())) or outcome("fail", f"exit code {os.WEXITSTATUS(status)}")
    elif gone:
        verdict = outcome(*how_it_died(status, killed, cpu, limit))
    elif verdict["status"] == "timeout":
        verdict["reason"] = f"it did not end within {limit:g} s"
    return {**verdict, "cpu_seconds": cpu, "peak_mib": peak}


def exchange(session: Session, given: bytes, most: int) -> bytes:
    """Write the input to the program and return what it prints until it ends.

    Both happen at once, because a program may print before it reads, or never read. The input is followed by the end of
    file. Raises CheckOver if the time is over or the program prints more than `most` bytes.
    """
    channel, printed, unsent = session.channel, bytearray(), memoryview(b"\n" + given)  # one byte starts the program
    channel.setblocking(False)
    poll = select.poll()
    poll.register(channel, select.POLLIN | select.POLLOUT)
    while True:
        left = session.deadline - time.monotonic()
        if left <= 0:
            session.end("timeout", "")
        if session.caller.poll(0) or session.orphaned():
            session.leave()  # nobody is left to tell
        events = sum(event for _, event in poll.poll(min(LOOK_UP_MS, math.ceil(left * 1000))))
        try:
            if events & select.POLLOUT:
                unsent = unsent[channel.send(unsent[: 1 << 16]) :] if unsent else unsent
                if not unsent:
                    channel.shutdown(socket.SHUT_WR)
                    poll.modify(channel, select.POLLIN)
        except BlockingIOError:
            pass
        except OSError:  # it ended without reading all of its input
            poll.modify(channel, select.POLLIN)
        try:
            chunk = channel.recv(1 << 16) if events & ~select.POLLOUT else None
        except BlockingIOError:
            continue
        except OSError:
            chunk = b""
        if chunk == b"":
            return bytes(printed)
        printed += chunk or b""
        if len(printed) > most:
            session.end("fail", f"it prints too much: more than {most} bytes")


def raised(tail: tuple[bytes, bytes, bytes]) -> dict[str, Any] | None:
    """Return the verdict on a program that raised an exception, from what `run_program` wrote behind its mark.

    >>> raised((b"", b"mark", b"2 KeyError: 'x'"))
    {'status': 'fail', 'reason': "KeyError: 'x' (line 2 of the completion)"}
    """
    line, _, said = tail[2][:2000].decode("utf-8", "replace").partition(" ")
    if not tail[1] or not said:
        return None
    where = place_of(0, int(line)) if re.fullmatch("[1-9][0-9]{0,5}", line) else ""
    return outcome("memory" if said.startswith("MemoryError") else "fail", one_line(said) + where)
