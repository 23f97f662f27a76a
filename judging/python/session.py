"""Call into the untrusted process and represent its functions and objects: the judge's end of one check.

To the tests, a `Remote` looks like the candidate's function or object. Calling it sends the arguments and brings back
plain data; objects that crossed before keep their identity (objects.py). Anything that ends a check (deadline, death,
a broken frame) raises `CheckOver` at once and again at every later call, so a bare `except` in a test cannot turn it
into a pass.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from common import one_line
from judging.codec import MAX_FRAME, MAX_REQUEST, Costly, Malformed, TooBig, dump_frame, split_frame
from judging.python.objects import Objects
from judging.python.plain import MAX_NAME, NotPlain, enum_member, is_enum, plain_base
from judging.python.remote import CLASSES, Remote, kept_elsewhere, methods_from_afar, reference_of, remote_class

_MODULES = sys.stdlib_module_names | {"numpy"}
_NOT_RAISED = {"unittest", "doctest"}  # SkipTest and the like would end a test as passed
LARGE = 16 * 1024  # bytes; encoding a larger message takes time that is not counted against the candidate
LOOK_UP = struct.pack("@ll", 0, 200_000)  # a struct timeval: how long one read from the candidate waits (0.2 s)


class CheckOver(BaseException):
    """The check is decided; `Session.over` says how."""


class Session:
    """One conversation with one child.

    Attributes:
        over: (status, reason) once the check was decided before the end of the tests, else None. Status "gone" means
            that the child hung up; then the way it died decides.
        calls: number of requests that the candidate answered.
        asked: whether the candidate was asked anything; before that, nothing that happens depends on it.
        names: the names that the tests know: the prompt's helpers and the candidate's functions.
        transport: seconds spent encoding large arguments, which are not counted against the candidate.
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
        self.limit, self.place = deadline, place
        self.buffer = bytearray()
        self.over: tuple[str, str] | None = None
        self.calls = self.changes = 0
        self.ready = False  # whether the candidate's program may have run
        self.asked = False
        self.lock = threading.RLock()  # tests may call from several threads
        self.question = 0
        self.own_argument = False  # whether the tests made the value that could not cross
        self.names: dict[str, Any] = {}
        self.seeds = False  # whether the state of `random` in the tests is sent to the program
        self.seed: tuple = ()
        self.transport = 0.0
        self.objects = Objects(reference_of, self.resolve, True, self.stand_in, self.class_of, self.member)
        self.remotes: dict[int | str, Remote] = {}
        self.lengths: dict[int | str, tuple[int, int]] = {}  # remote -> its last len(), after how many changes
        self.ending: set[int | str] = set()  # the remotes that may raise StopIteration when they are called
        self.stand_ins: dict[tuple, type] = {}
        self.raised: dict[str, type[Exception]] = {}  # the candidate's own exceptions, by name
        self.caller = select.poll()
        self.caller.register(parent, select.POLLIN)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, LOOK_UP)

    @property
    def deadline(self) -> float:
        """The end of the check on `time.monotonic()`; reading a message takes about as long as writing it."""
        return self.limit + 2 * self.transport

    def class_of(self, name: str) -> Any:
        return self.names.get(name)

    def end(self, status: str, reason: str) -> NoReturn:
        """Decide the check and raise `CheckOver`; only the first decision counts."""
        if self.over is None:
            self.over = (status, reason)
        raise CheckOver

    def send(self, message: Any) -> None:
        """Send one message."""
        self.ship(self.framed(message))

    def framed(self, message: Any) -> bytes:
        try:
            return dump_frame(message, MAX_REQUEST)
        except (TooBig, RecursionError) as error:
            self.end("uncrossable", f"the arguments cannot be sent: {error}")

    def ship(self, frame: bytes) -> None:
        try:
            self.channel.sendall(frame)
        except OSError:
            self.end("gone", "")

    def receive(self) -> Any:
        """Return the next message; end the check if more was written than this."""
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
        """Return the next bytes from the candidate, b"" if there will be none.

        While waiting, it checks now and then whether the caller has left or the deadline has passed.
        """
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
        """Return whether the candidate wrote something that nobody asked for."""
        try:
            return bool(self.buffer or self.channel.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK))
        except OSError:
            return False

    def request(self, op: str, args: list, kwargs: dict | None = None) -> Any:
        """Have the candidate's process perform `op`, apply its changes to our objects, and return the result.

        Raises:
            CheckOver: there will be no answer.
            Exception: the candidate raised it; as a type that the tests know, with message and line in `_remote`.
        """
        kept = kept_elsewhere(args, kwargs or {})
        with self.lock:
            if kept and not self.over:
                self.own_argument = True
                self.end("uncrossable", f"the test may go on with the {kept} that it passes")
            return self._request(op, args, kwargs or {})

    def _request(self, op: str, args: list, kwargs: dict) -> Any:
        if self.over:
            raise CheckOver
        self.changes += op not in ("len", "bool", "str", "repr", "iter", "reversed", "contains")
        started = time.monotonic()
        self.objects.begin()
        try:
            gone = self.objects.unused()
            message = {
                "op": op,
                "args": [self.objects.encode(arg) for arg in args],
                "kwargs": {name: self.objects.encode(value) for name, value in kwargs.items()},
                "changes": self.objects.changes(),
                "forget": gone,
            }
            if self.seeds and (seed := (_seeded[0], random.getstate())) != self.seed:
                self.seed, message["random"] = seed, seed[1]
        except (NotPlain, TooBig) as error:
            by_name = op == "call" and isinstance(args[0], Remote) and type(reference_of(args[0])) is str
            self.own_argument = getattr(error, "own", False) and by_name
            # the judge runs the task's reference solution to find out whose fault this is
            self.end("uncrossable", f"the test passes an argument that cannot cross: {error}")
        self.asked = True
        if op == "call" and isinstance(args[0], Remote) and reference_of(args[0]) in self.ending:
            op = "next"  # so StopIteration is allowed
        self.question = int.from_bytes(os.urandom(6), "big")  # nothing written earlier can pass as the answer
        frame = self.framed({"id": self.question, **message})
        if len(frame) > LARGE:  # only what the tests pass extends the deadline, or the program could extend it for ever
            self.transport += time.monotonic() - started
        self.ship(frame)
        reply = self.receive()
        try:
            return self.take(reply, op)
        except (Malformed, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            if hasattr(error, "_remote"):
                raise  # the candidate's own exception
            status = "fail" if isinstance(error, Costly) else "protocol"
            self.end(status, f"a malformed answer: {one_line(error)}")

    def take(self, reply: dict, op: str) -> Any:
        if "error" in reply or "exit" in reply:
            self.complain(reply, op)
        if type(reply["id"]) is not int or reply["id"] != self.question:
            self.end("protocol", "an answer to a question that was not asked")
        self.objects.active.difference_update(reply["free"])
        value = self.objects.decode(reply["value"])
        self.objects.apply(reply["changes"])
        self.calls += 1
        return value

    def resolve(self, body: Any) -> Any:
        """Return the `Remote` for an object of the candidate's: always the same one, with the object's abilities."""
        reference, name, abilities, *bases = body
        if type(reference) not in (int, str) or type(name) is not str or type(abilities) is not str:
            raise Malformed("a reference is a number, a name and abilities")
        if "E" in abilities and (member := self.member(name)) is not None:
            return member
        if reference not in self.remotes:
            own = self.class_above(name, bases, "P" in abilities)
            kind = (remote_class if own is None else remote_class.__wrapped__)(name[:MAX_NAME], abilities, own)
            self.remotes[reference] = new = kind()
            object.__setattr__(new, "__sandbox__", (self, reference, f"<{name[:MAX_NAME]} object in the sandbox>"))
        return self.remotes[reference]

    def class_above(self, name: str, bases: list[str], own_name: bool) -> type | None:
        """Return the class that isinstance() reports for a candidate's object, or None.

        It is a class of the prompt's or of Python's, or a new subclass of one.

        Args:
            name: the name of the object's class.
            bases: for an exception all base classes, for another object those that the prompt defines.
            own_name: whether the program has the object's class under this name.
        """
        prompts = [
            kind for base in bases if base in self.objects.classes and isinstance(kind := self.names[base], type)
        ]
        if prompts:
            return type(name[:MAX_NAME], (prompts[0],), {})
        if bases:
            return self.exception_type(bases)
        own = self.names.get(name) if own_name else CLASSES.get(name)
        return own if isinstance(own, type) and not is_enum(own) else None

    def know(self, names: dict[str, Any], classes: list[str], seeds: bool) -> None:
        """Start with the prompt's names and classes; with `seeds`, send the tests' state of `random` to the program."""
        self.names, self.seeds = names, seeds
        self.objects.classes.update(classes)

    def given(self, nodes: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
        """Return the program's values for those names that the tests want and the program defines."""

        def bases(name: str) -> int:
            return len(nodes[name].get("error", ())) if type(nodes[name]) is dict else 0

        return {name: self.named(nodes[name]) for name in sorted(nodes, key=bases) if name in wanted}

    def named(self, node: Any) -> Any:
        """Return the tests' value for a name of the program's; for an exception class, a class that they can catch."""
        if type(node) is dict and "error" in node:
            return self.exception_type(node["error"], True)
        return self.objects.decode(node)

    def exception_type(self, names: list[str], make: bool = False) -> type[Exception]:
        """Return the class by which the tests know an exception.

        Args:
            names: the name of its class, followed by those of the bases.
            make: the program defines this class itself, so make a new one even if the prompt has one of this name.
        """
        first, *others = names
        found = self.raised.get(first) or exception_class(first, self.names)
        if found is not None and (not make or "." in first):
            return found
        known = [kind for other in others if (kind := self.raised.get(other) or exception_class(other, self.names))]
        nearest = [kind for kind in known if not any(kind is not other and issubclass(other, kind) for other in known)]
        body = {"__str__": _said}
        try:
            made = type(first.rpartition(".")[2], tuple(dict.fromkeys(nearest)) or (Exception,), body)
        except TypeError:  # these bases cannot be combined
            made = type(first.rpartition(".")[2], (known[0],), body)
        self.raised[first] = made
        return made

    def member(self, name: str) -> Any:
        """Return a member of an enumeration that the prompt or Python defines; None if only the candidate has it."""
        return enum_member(name, self.class_of)

    def stand_in(self, name: str, base: type, replaced: tuple[str, ...]) -> type:
        """Return the class that represents a candidate's subclass of a plain type: the base, with forwarded methods."""
        key = name, base, replaced
        if key not in self.stand_ins:
            methods = methods_from_afar(self, name, replaced)
            own = self.names.get(name) if name in self.objects.classes else None
            if isinstance(own, type) and plain_base(own) is base and not is_enum(own):
                methods["__class__"] = property(lambda value: own)
            self.stand_ins[key] = type(name, (base,), methods)
        return self.stand_ins[key]

    def complain(self, reply: dict, op: str = "") -> NoReturn:
        """Raise the candidate's exception, or end the check if it tried to end the program or sent too much."""
        if "exit" in reply:
            self.end("crash", f"the program tried to end itself: {one_line(reply['exit'])}")
        error = reply["error"]
        line = error["line"]
        where = self.place(line) if type(line) is int and 0 < line < 10**6 else ""
        kinds = error["types"]
        if kinds[0] == "TooBig":  # not raised: a test may expect an exception
            self.end("fail", one_line(error["message"]))
        raised = self.exception(error, op)
        self.objects.apply(reply.get("changes", []))
        message = str(error["message"])
        shown = str(kinds[0]).rpartition(".")[2]
        vars(raised)["_remote"] = one_line(f"{shown}: {message}" if message else shown) + where
        self.calls += 1
        raise raised

    def exception(self, error: dict, op: str = "", depth: int = 0) -> Exception:
        """Make the exception that an answer describes, with its attributes and its cause."""
        kind = self.exception_type(error["types"])
        if issubclass(kind, StopIteration) and op != "next":
            kind = RuntimeError  # else a call inside map() or zip() could end a test's loop early
        arguments = self.objects.decode(error["args"]) if "args" in error else [str(error["message"])]
        raised = _made(kind, arguments)
        for name, node in error.get("attributes", ()):
            value = self.objects.decode(node)
            if isinstance(raised, UnicodeError):
                break  # its constructor has set them, and checked their bounds
            if type(name) is str and (name == "__notes__" or not name.startswith(("__", "_remote", "_sandbox"))):
                with contextlib.suppress(AttributeError, TypeError):
                    object.__setattr__(raised, name, value)
        if kind.__str__ is _said and len(message := str(error["message"])) < 500:
            vars(raised)["_sandbox_message"] = message
        for key in {"cause", "context"} & error.keys():
            if depth < 3:
                BaseException.__setattr__(raised, f"__{key}__", self.exception(error[key], depth=depth + 1))
        # not by its own __setattr__, which raises in a frozen dataclass
        BaseException.__setattr__(raised, "__suppress_context__", error.get("suppressed") is True)
        return raised


_seeded = [0]  # counts calls of seed() and setstate(): seeding again with the same seed may not change the state


def _counted(function: Callable[..., None]) -> Callable[..., None]:
    def counted(*args: Any, **kwargs: Any) -> None:
        _seeded[0] += 1
        function(*args, **kwargs)

    return counted


random.seed, random.setstate = _counted(random.seed), _counted(random.setstate)


def _said(error: Exception) -> str:
    """Return the text that the candidate's own `__str__` gave in its process."""
    return vars(error).get("_sandbox_message", Exception.__str__(error))


def _made(kind: type[Exception], arguments: list) -> Exception:
    try:
        # builtin classes set their attributes in the constructor; other constructors may run the prompt's own code
        made = kind(*arguments) if kind.__module__ == "builtins" else kind.__new__(kind, *arguments)
    except (TypeError, ValueError):
        try:
            made = kind.__new__(kind)
        except (TypeError, ValueError):  # e.g. an ExceptionGroup, which must hold exceptions
            made = Exception.__new__(Exception)
    BaseException.args.__set__(made, tuple(arguments))  # not args=, which a frozen dataclass refuses
    return made


def exception_class(name: Any, own: dict[str, Any]) -> type[Exception] | None:
    """Return the exception class named "module.name", or None; without a module, look it up in `own`.

    Raises Malformed if the name is not text.
    """
    if type(name) is not str:
        raise Malformed("an exception's name is text")
    module, _, last = name.rpartition(".")
    if module.partition(".")[0] in _NOT_RAISED or (module and module.partition(".")[0] not in _MODULES):
        return None
    kind = getattr(sys.modules.get(module), last, None) if module else own.get(last)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None
