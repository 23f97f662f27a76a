"""The judge's end of one check: calls into the untrusted process, and what stands for its functions and objects.

A `Remote` looks to the tests like the candidate's function or object. Calling it ships the arguments and brings plain
data back. Whatever ends a check (deadline, death, a broken frame) is sticky: it is raised as `CheckOver` at once and
again at every later call, so no bare `except` in a test can turn it into a pass.
"""

from __future__ import annotations

import builtins
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from sandbox_codec import MAX_FRAME, MAX_REQUEST, Malformed, NotPlain, TooBig, decode, dump_frame, encode, split_frame

LOOK_UP = struct.pack("@ll", 0, 200_000)  # a struct timeval: how long one read from the candidate waits


class CheckOver(BaseException):
    """The check is decided; the session says how."""


class Session:
    """One conversation with one child.

    Attributes:
        over: (status, reason) once the check was decided before the tests reached their end, else None.
            Status "gone" means that the child hung up: how it died decides.
        calls: how many calls into the candidate were answered.
    """

    def __init__(
        self,
        channel: socket.socket,
        parent: socket.socket,
        leave: Callable[[], NoReturn],
        orphaned: Callable[[], bool],
        deadline: float,
        place: Callable[[int], str],
    ) -> None:
        self.channel, self.leave, self.orphaned = channel, leave, orphaned
        self.deadline, self.place = deadline, place
        self.buffer = bytearray()
        self.over: tuple[str, str] | None = None
        self.calls = self.changes = 0
        self.ready = False  # whether the candidate's program may have run
        self.lock = threading.RLock()  # tests may call from several threads
        self.asked = 0
        self.exceptions: dict[str, Any] = {}  # names the prompt gives to exceptions of its own
        self.caller = select.poll()
        self.caller.register(parent, select.POLLIN)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, LOOK_UP)

    def end(self, status: str, reason: str) -> NoReturn:
        """Decide the check; the first decision stands."""
        if self.over is None:
            self.over = (status, reason)
        raise CheckOver

    def send(self, message: Any) -> None:
        """Ship one message."""
        try:
            frame = dump_frame(message, MAX_REQUEST)
        except TooBig as error:
            # after a call they may hold what the candidate returned, and it must not get out of a verdict that way
            self.end("fail" if self.calls else "refused", f"the arguments cannot be sent: {error}")
        try:
            self.channel.sendall(frame)
        except OSError:
            self.end("gone", "")

    def receive(self) -> Any:
        """The next message, which must be all that was written."""
        while True:
            try:
                frame = split_frame(self.buffer, MAX_FRAME)
            except Malformed as error:
                self.end("protocol", str(error))
            if frame is not None:
                if len(self.buffer) != frame[1]:
                    self.end("protocol", "more was written to the judge than one answer")
                self.buffer.clear()
                return frame[0]
            chunk = self.read()
            if not chunk:
                self.end("gone", "")
            self.buffer += chunk

    def read(self) -> bytes:
        """What the candidate wrote next; looks up now and then for a caller that left, and for the deadline."""
        while True:
            try:
                return self.channel.recv(1 << 16)
            except BlockingIOError:
                if self.caller.poll(0) or self.orphaned():
                    self.leave()  # nobody is left to tell
                if time.monotonic() > self.deadline:
                    self.end("timeout", "")
            except OSError:
                return b""

    def unsolicited(self) -> bool:
        """Whether something was written that nobody asked for."""
        try:
            return bool(self.buffer or self.channel.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK))
        except OSError:
            return False

    def request(self, op: str, args: list, kwargs: dict | None = None) -> Any:
        """Let the candidate's process do `op`, and update mutable arguments to what they are after it.

        Raises:
            CheckOver: there is no answer and there will be none.
            Exception: what the candidate raised, as a builtin type, with `_remote` telling the line.
        """
        with self.lock:
            return self._request(op, args, kwargs or {})

    def _request(self, op: str, args: list, kwargs: dict) -> Any:
        if self.over:
            raise CheckOver
        self.changes += op in ("call", "setattr", "setitem", "next", "getattr")
        try:
            nodes = [encode(arg, _reference, strict=True) for arg in args]
            named = {name: encode(value, _reference, strict=True) for name, value in kwargs.items()}
        except (NotPlain, TooBig) as error:
            if op == "call" and type(_reference(args[0])) is str and not (isinstance(error, TooBig) and self.calls):
                self.end("refused", f"the test passes an argument that cannot cross: {error}")
            # asked of an object that the program returned: it must not get out of a verdict by returning one
            raise TypeError(f"not to be had from an object in the sandbox: {error}") from None
        self.asked = int.from_bytes(os.urandom(6), "big")  # so that nothing written before can pass for the answer
        self.send({"id": self.asked, "op": op, "args": nodes, "kwargs": named})
        reply = self.receive()
        try:
            return self.take(reply, args, op)
        except (Malformed, LookupError, TypeError, ValueError, AttributeError) as error:
            if hasattr(error, "_remote"):
                raise  # the candidate's own exception
            self.end("protocol", f"a malformed answer: {error}"[:200])

    def take(self, reply: dict, args: list, op: str) -> Any:
        if "error" in reply or "exit" in reply:
            self.complain(reply, op)
        if type(reply["id"]) is not int or reply["id"] != self.asked:
            self.end("protocol", "an answer to a question that was not asked")
        value = decode(reply["value"], lambda body: self.resolve(body, args))
        for position, node in reply.get("args", ()):
            update(args[position], decode(node, self.resolve))
        self.calls += 1
        return value

    def resolve(self, body: Any, args: list | None = None) -> Any:
        if type(body) is dict:
            return args[body["argument"]] if args and "argument" in body else decode(body["plain"])
        number, name = body
        if type(number) is not int or type(name) is not str:
            raise Malformed("a reference is a number and a name")
        return Remote(self, number, f"<{name} object in the sandbox>")

    def complain(self, reply: dict, op: str = "") -> NoReturn:
        """Raise what the candidate raised; end the check where it tried to end the program."""
        if "exit" in reply:
            self.end("crash", f"the program tried to end itself: {one_line(reply['exit'])}")
        error = reply["error"]
        names, message, line = error["types"], str(error["message"]), error["line"]
        where = self.place(line) if type(line) is int and 0 < line < 10**6 else ""
        text = f"{names[0]}: {message}" if message else str(names[0])
        if names[0] == "TooBig":  # no exception: a test may expect one
            self.end("fail", one_line(message))
        found = (_exception(name, self.exceptions) for name in names)
        kind = next((kind for kind in found if kind), Exception)
        if kind is StopIteration and op != "next":
            kind = RuntimeError  # else a call inside map() or zip() could end a test's loop early, and pass it
        arguments = decode(error["args"]) if "args" in error else [message]
        self.calls += 1
        raise _raised(kind, arguments, one_line(text) + where)


def _raised(kind: type[Exception], arguments: list, remote: str) -> Exception:
    try:
        error = kind.__new__(kind)
    except TypeError:  # an ExceptionGroup wants exceptions to hold
        error = Exception.__new__(Exception)
    error.args = tuple(arguments)
    error._remote = remote
    return error


def _exception(name: Any, own: dict[str, Any]) -> type[Exception] | None:
    if type(name) is not str:
        raise Malformed("an exception's name is text")
    kind = own.get(name) or getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


def _reference(value: Any) -> Any:
    if type(value) is Remote:
        return object.__getattribute__(value, "_reference")
    if type(value) is _RemoteIterator:
        return _reference(value.remote)
    raise NotPlain(f"{type(value).__name__} {one_line(repr(value), 60)}")


def update(old: Any, new: Any) -> None:
    """Make a mutable argument equal to what became of it in the sandbox, keeping every object's identity.

    >>> inner = [1]
    >>> outer = [inner, 2]
    >>> update(outer, [[1, 5], 2, 3])
    >>> outer, inner
    ([[1, 5], 2, 3], [1, 5])
    """
    kind = type(old)
    if kind is not type(new):
        return
    if kind is list or kind is tuple:
        merged = [_merge(a, b) for a, b in zip(old, new, strict=False)] + list(new[len(old) :])
        if kind is list:
            old[:] = merged
    elif kind is dict:
        merged_items = {key: _merge(old[key], value) if key in old else value for key, value in new.items()}
        old.clear()
        old.update(merged_items)
    elif kind is set:
        old.clear()
        old.update(new)
    elif kind is bytearray:
        old[:] = new


def _merge(old: Any, new: Any) -> Any:
    if type(old) is type(new) and type(old) in (list, tuple, dict, set, bytearray):
        update(old, new)
        return new if type(old) is tuple and not _alike(old, new) else old
    return new


def _alike(one: Any, other: Any) -> bool:
    """Equal, and of the same types throughout: b"" and bytearray(b"") are equal, and not alike."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, dict):
        return _alike(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return {(type(x), x) for x in one} == {(type(x), x) for x in other}
    return not isinstance(one, list | tuple) or all(map(_alike, one, other))


class Remote:
    """The candidate's function (known by its name) or object (by a number), as the tests see it.

    It can be called, iterated, indexed, measured, asked for attributes, and printed: all of these run over there and
    bring plain data, or another `Remote`, back. It equals itself and nothing else: equality is never the candidate's
    to say.
    """

    def __init__(self, session: Session, reference: str | int, text: str) -> None:
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_reference", reference)
        object.__setattr__(self, "_text", text)
        object.__setattr__(self, "_length", None)
        if isinstance(reference, str):
            object.__setattr__(self, "__name__", reference)

    def _ask(self, op: str, *args: Any, **kwargs: Any) -> Any:
        session = object.__getattribute__(self, "_session")
        return session.request(op, [self, *args], kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask("call", *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copy, pickle and unittest look for
            raise AttributeError(name)
        return self._ask("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("setitem", key, value)

    def __iter__(self) -> Any:
        return _RemoteIterator(self._ask("iter"), self)

    def __reversed__(self) -> Any:  # else IndexError, which is the candidate's to raise, ends it early
        return iter(list(self)[::-1])

    def __next__(self) -> Any:
        return self._ask("next")

    def __len__(self) -> int:
        length, before = self._ask("len"), object.__getattribute__(self, "_length")
        session = object.__getattribute__(self, "_session")
        if before is not None and length != before and session.changes == object.__getattribute__(self, "_changes"):
            session.end("fail", "len() answers differently without a change")
        object.__setattr__(self, "_length", length)
        object.__setattr__(self, "_changes", session.changes)
        return length

    def __bool__(self) -> bool:
        return self._ask("bool")

    def __str__(self) -> str:
        return self._ask("str")

    def __repr__(self) -> str:
        return object.__getattribute__(self, "_text")

    def __eq__(self, other: object) -> bool:
        if type(other) is not Remote:
            return False
        return object.__getattribute__(self, "_reference") == object.__getattribute__(other, "_reference")

    def __hash__(self) -> int:
        return hash(object.__getattribute__(self, "_reference"))


class _RemoteIterator:
    """What `iter` of a `Remote` returns, whatever the candidate's `__iter__` returned."""

    def __init__(self, remote: Any, source: Remote) -> None:
        self.remote, self.source, self.count = remote, source, 0

    def __iter__(self) -> _RemoteIterator:
        return self

    def __next__(self) -> Any:
        if type(self.remote) is not Remote:
            self.fail()
        try:
            value = next(self.remote)
        except StopIteration:
            if object.__getattribute__(self.source, "_length") not in (None, self.count):
                object.__getattribute__(self.source, "_session").end("fail", "len() and iteration do not agree")
            raise
        self.count += 1
        return value

    def fail(self) -> NoReturn:
        raise TypeError("iter() returned something that is not an iterator")


def one_line(text: object, limit: int = 200) -> str:
    r"""Text for a log: one line, printable, not longer than `limit`.

    >>> one_line("a\n\x1b[31mb")
    'a \\x1b[31mb'
    """
    text = str(text)[: 4 * limit].replace("\n", " ")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
