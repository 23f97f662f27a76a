"""The judge's end of one check: calls into the untrusted process, and what stands for its functions and objects.

A `Remote` looks to the tests like the candidate's function or object. Calling it ships the arguments and brings plain
data back; objects that crossed before keep their identity (objects.py). Whatever ends a check (deadline, death, a
broken frame) is sticky: it is raised as `CheckOver` at once and again at every later call, so no bare `except` in a
test can turn it into a pass.
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
_NOT_RAISED = {"unittest", "doctest"}  # SkipTest and its like would end a test and pass it
LARGE = 16 * 1024  # bytes of a message that takes time
LOOK_UP = struct.pack("@ll", 0, 200_000)  # a struct timeval: how long one read from the candidate waits


class CheckOver(BaseException):
    """The check is decided; the session says how."""


class Session:
    """One conversation with one child.

    Attributes:
        over: (status, reason) once the check was decided before the tests reached their end, else None.
            Status "gone" means that the child hung up: how it died decides.
        calls: how many calls into the candidate were answered.
        asked: whether anything was asked of it: until then, what happens does not depend on it.
        names: what the tests know by name: the prompt's helpers and the candidate's functions.
        transport: seconds spent on sending large arguments, which are not the candidate's.
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
        self.own_argument = False  # whether what could not cross was made by the tests
        self.names: dict[str, Any] = {}
        self.seeds = False  # whether the program goes by the state of `random` in the tests
        self.seed: tuple = ()
        self.transport = 0.0
        self.objects = Objects(reference_of, self.resolve, True, self.stand_in, self.class_of, self.member)
        self.remotes: dict[int | str, Remote] = {}
        self.lengths: dict[int | str, tuple[int, int]] = {}  # of a remote: what len() was, after how many changes
        self.ending: set[int | str] = set()  # the remotes that may raise StopIteration when they are called
        self.stand_ins: dict[tuple, type] = {}
        self.raised: dict[str, type[Exception]] = {}  # the candidate's own exceptions, by name
        self.caller = select.poll()
        self.caller.register(parent, select.POLLIN)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, LOOK_UP)

    @property
    def deadline(self) -> float:
        """By `time.monotonic()`: reading takes the other end about as long as writing takes this one."""
        return self.limit + 2 * self.transport

    def class_of(self, name: str) -> Any:
        return self.names.get(name)

    def end(self, status: str, reason: str) -> NoReturn:
        """Decide the check; the first decision stands."""
        if self.over is None:
            self.over = (status, reason)
        raise CheckOver

    def send(self, message: Any) -> None:
        """Ship one message."""
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
        """Let the candidate's process do `op`; afterwards our objects are as it left them.

        Raises:
            CheckOver: there is no answer and there will be none.
            Exception: what the candidate raised, as a type of Python's, with `_remote` telling the line.
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
            # whose fault that is, the judge finds out by the task's reference
            self.end("uncrossable", f"the test passes an argument that cannot cross: {error}")
        self.asked = True
        if op == "call" and isinstance(args[0], Remote) and reference_of(args[0]) in self.ending:
            op = "next"  # what it may raise
        self.question = int.from_bytes(os.urandom(6), "big")  # nothing written before can pass for the answer
        frame = self.framed({"id": self.question, **message})
        if len(frame) > LARGE:  # what the tests pass, not what the program returns, or that could take for ever
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
        """What stands for an object of the candidate's: one `Remote` for each, with the abilities that it has."""
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
        """The class of which an object of the candidate's says to be an instance: the prompt's, Python's, or one below.

        Args:
            bases: of an exception all, of another object those that the prompt defines.
            own_name: its class is the one that the program has by this name.
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
        """Begin with what the prompt defines. `seeds`: the tests seed `random`, and the program goes by it."""
        self.names, self.seeds = names, seeds
        self.objects.classes.update(classes)

    def given(self, nodes: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
        """What the program defines of the names that the tests want."""

        def bases(name: str) -> int:
            return len(nodes[name].get("error", ())) if type(nodes[name]) is dict else 0

        return {name: self.named(nodes[name]) for name in sorted(nodes, key=bases) if name in wanted}

    def named(self, node: Any) -> Any:
        """What a name of the program's stands for in the tests; for an exception's class, one that they can catch."""
        if type(node) is dict and "error" in node:
            return self.exception_type(node["error"], True)
        return self.objects.decode(node)

    def exception_type(self, names: list[str], make: bool = False) -> type[Exception]:
        """The class by which the tests know an exception, of its class's name and its bases' names.

        Args:
            make: the program under test may have put its own in the place of one of the same name.
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
        except TypeError:  # bases that do not go together here
            made = type(first.rpartition(".")[2], (known[0],), body)
        self.raised[first] = made
        return made

    def member(self, name: str) -> Any:
        """The member of an enumeration that the prompt or Python defines; None if it is the candidate's own."""
        return enum_member(name, self.class_of)

    def stand_in(self, name: str, base: type, replaced: tuple[str, ...]) -> type:
        """The class of an instance of the candidate's subclass of a plain type: the base, and methods from afar."""
        key = name, base, replaced
        if key not in self.stand_ins:
            methods = methods_from_afar(self, name, replaced)
            own = self.names.get(name) if name in self.objects.classes else None
            if isinstance(own, type) and plain_base(own) is base and not is_enum(own):
                methods["__class__"] = property(lambda value: own)
            self.stand_ins[key] = type(name, (base,), methods)
        return self.stand_ins[key]

    def complain(self, reply: dict, op: str = "") -> NoReturn:
        """Raise what the candidate raised; end the check where it tried to end the program."""
        if "exit" in reply:
            self.end("crash", f"the program tried to end itself: {one_line(reply['exit'])}")
        error = reply["error"]
        line = error["line"]
        where = self.place(line) if type(line) is int and 0 < line < 10**6 else ""
        kinds = error["types"]
        if kinds[0] == "TooBig":  # no exception: a test may expect one
            self.end("fail", one_line(error["message"]))
        raised = self.exception(error, op)
        self.objects.apply(reply.get("changes", []))
        message = str(error["message"])
        shown = str(kinds[0]).rpartition(".")[2]
        vars(raised)["_remote"] = one_line(f"{shown}: {message}" if message else shown) + where
        self.calls += 1
        raise raised

    def exception(self, error: dict, op: str = "", depth: int = 0) -> Exception:
        """The exception that an answer describes, with its attributes and its cause."""
        kind = self.exception_type(error["types"])
        if issubclass(kind, StopIteration) and op != "next":
            kind = RuntimeError  # else a call inside map() or zip() could end a test's loop early, and pass it
        arguments = self.objects.decode(error["args"]) if "args" in error else [str(error["message"])]
        raised = _made(kind, arguments)
        for name, node in error.get("attributes", ()):
            value = self.objects.decode(node)
            if isinstance(raised, UnicodeError):
                break  # its constructor has set them, within bounds
            if type(name) is str and (name == "__notes__" or not name.startswith(("__", "_remote", "_sandbox"))):
                with contextlib.suppress(AttributeError, TypeError):
                    object.__setattr__(raised, name, value)
        if kind.__str__ is _said and len(message := str(error["message"])) < 500:
            vars(raised)["_sandbox_message"] = message
        for key in {"cause", "context"} & error.keys():
            if depth < 3:
                BaseException.__setattr__(raised, f"__{key}__", self.exception(error[key], depth=depth + 1))
        # not by its own __setattr__: a frozen dataclass has one that raises
        BaseException.__setattr__(raised, "__suppress_context__", error.get("suppressed") is True)
        return raised


_seeded = [0]  # how often; to the same seed it changes no state


def _counted(function: Callable[..., None]) -> Callable[..., None]:
    def counted(*args: Any, **kwargs: Any) -> None:
        _seeded[0] += 1
        function(*args, **kwargs)

    return counted


random.seed, random.setstate = _counted(random.seed), _counted(random.setstate)


def _said(error: Exception) -> str:
    """What the candidate's own `__str__` said over there."""
    return vars(error).get("_sandbox_message", Exception.__str__(error))


def _made(kind: type[Exception], arguments: list) -> Exception:
    try:
        # what is written in C keeps its attributes by its constructor; what is not may run the prompt's own code
        made = kind(*arguments) if kind.__module__ == "builtins" else kind.__new__(kind, *arguments)
    except (TypeError, ValueError):
        try:
            made = kind.__new__(kind)
        except (TypeError, ValueError):  # an ExceptionGroup wants exceptions to hold
            made = Exception.__new__(Exception)
    BaseException.args.__set__(made, tuple(arguments))  # a frozen dataclass refuses to be set
    return made


def exception_class(name: Any, own: dict[str, Any]) -> type[Exception] | None:
    """By "module.name"; without a module it is one of the program's own, which the prompt may define."""
    if type(name) is not str:
        raise Malformed("an exception's name is text")
    module, _, last = name.rpartition(".")
    if module.partition(".")[0] in _NOT_RAISED or (module and module.partition(".")[0] not in _MODULES):
        return None
    kind = getattr(sys.modules.get(module), last, None) if module else own.get(last)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None
