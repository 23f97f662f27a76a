"""Load the candidate's program, answer calls and return plain data: the untrusted side of one check.

Everything here runs in the candidate's interpreter. The candidate may patch, read or break all of it and gains nothing:
there is no test and no expected value here, and the judge decodes and compares everything that is written. The
exception is the weaker mode, in which the tests run here too.

Messages (values as in objects.py): first {"source", "names", "classes"?, "tests"?}, answered with
{"names": {name: value}}; then {"id", "op", "args", "kwargs", "changes", "forget", "random"?}, answered with
{"id", "value", "changes", "free"}. An exception is answered with {"error": {"types", "message", "line", "stage", ...},
"changes"}, and an attempt to end the program with {"exit": text}.

A task that is judged by what a whole program prints has one message, {"source", "mark"}, answered with {"names": {}}
once the program is compiled. From then on the channel is the program's standard input and output.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import gc
import io
import operator
import os
import socket
import sys
import types
from typing import Any, NoReturn

from judging.codec import MAX_FRAME, MAX_REQUEST, TooBig, dump_frame, split_frame
from judging.python.objects import Objects
from judging.python.plain import MAX_NAME, enum_member, enum_name

FILENAME = "<completion>"
RECURSION_LIMIT = 1000 + 12  # the candidate gets the usual 1000 above this module's frames
OUT_OF_MEMORY = dump_frame({"error": {"types": ["builtins.MemoryError"], "message": "", "line": 0, "stage": "run"}})

OPERATIONS = {
    "call": lambda function, /, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "reversed": reversed,
    "str": str,
    "repr": repr,
    "delattr": delattr,
    "delitem": operator.delitem,
    "contains": operator.contains,
    "enter": lambda value: type(value).__enter__(value),
    "exit": lambda value, kind, args: type(value).__exit__(value, kind, kind and kind(*args), None),
}


# letter of an ability -> the method that an object with this ability has
ABILITIES = {"c": "__call__", "i": "__iter__", "n": "__next__", "l": "__len__", "g": "__getitem__",
             "s": "__setitem__", "b": "__bool__", "r": "__reversed__", "d": "__delitem__", "m": "__contains__",
             "w": "__enter__"}  # fmt: skip
ATTRIBUTES = ("name", "path", "value", "errno", "strerror", "filename", "filename2", "msg", "lineno", "offset", "text",
              "start", "end", "object", "reason", "encoding")  # fmt: skip


class _Runner:
    def __init__(self, channel: socket.socket) -> None:
        self.channel, self.buffer = channel, bytearray()
        self.module = types.ModuleType("candidate")
        own = self.module.__dict__.get
        self.objects = Objects(
            self.refer, self.resolve, fetch=own, member=lambda name: enum_member(name, own, load=True)
        )
        self.handles: list[Any] = []  # objects that the judge has a reference to
        self.handle_numbers: dict[int, int] = {}  # id of a handle -> its number, so that an object keeps one number
        self.program: types.CodeType | None = None  # of a task without tests: what `run_program` runs

    def receive(self) -> Any:
        while (frame := split_frame(self.buffer, MAX_REQUEST)) is None:
            chunk = self.channel.recv(1 << 16)
            if not chunk:
                os._exit(0)  # the judge is gone
            self.buffer += chunk
        message, used = frame
        del self.buffer[:used]
        return message

    def send(self, message: Any) -> None:
        try:
            self.channel.sendall(dump_frame(message, MAX_FRAME))
        except MemoryError:
            self.channel.sendall(OUT_OF_MEMORY)

    def load(self, request: dict) -> Any:
        """Compile and execute the program; return the value of each name that the tests use, or an error."""
        try:
            code = compile(request["source"], FILENAME, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # a NUL byte is a ValueError
            return {"error": _describe(error, "compile"), "changes": []}
        if "mark" in request:
            self.program = code
            return {"names": {}}
        sys.modules["candidate"] = self.module
        self.objects.classes.update(request.get("classes", ()))
        namespace = self.module.__dict__
        exec(code, namespace)
        if "tests" in request:  # the weaker mode: the candidate could forge the outcome
            exec(compile(request["tests"], "<tests>", "exec", dont_inherit=True), namespace)
        self.objects.begin()
        return {"names": {name: self.named(name) for name in request["names"] if name in namespace}}

    def named(self, name: str) -> Any:
        """Encode a value of the program by name; the judge will refer by this name to what is not plain data."""
        value = self.module.__dict__[name]
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == "candidate":
            return {"error": _types(value, self.module.__dict__)}
        node = self.objects.encode(value)
        return {"x": [name, *node["x"][1:]]} if type(node) is dict and "x" in node else node

    def answer(self, request: dict) -> dict:
        """Perform the operation that the judge asks for, and return the answer."""
        free = self.objects.free()  # the call before this one no longer holds anything
        self.objects.forget(request["forget"])
        args = [self.objects.decode(node) for node in request["args"]]
        kwargs = {name: self.objects.decode(node) for name, node in request["kwargs"].items()}
        self.objects.apply(request["changes"])
        if "random" in request:
            version, numbers, after = request["random"]
            # not imported above: the zygote loads it in a way that avoids its work after a fork
            __import__("random").setstate((version, tuple(numbers), after))
        free = [number for number in free if number not in self.objects.active]  # without those passed again
        value = OPERATIONS[request["op"]](*args, **kwargs)
        self.objects.begin()
        node = self.objects.encode(value)
        return {"id": request["id"], "value": node, "changes": self.objects.changes(), "free": free}

    def failed(self, error: BaseException, stage: str) -> dict:
        """Return the answer for an exception, with the changes that were made until then."""
        self.objects.begin()
        described = _describe(error, stage)
        self.detail(described, error)
        return {"error": described, "changes": self.objects.changes()}

    def explain(self, error: BaseException, stage: str) -> dict:
        """Return the answer of `failed`, or a shorter one if examining the exception raises another."""
        if isinstance(error, TooBig):
            return _too_big(error)
        known = self.objects.count
        try:
            return self.failed(error, stage)
        except BaseException:
            self.objects.rewind(known)
            self.objects.begin()
            try:
                return {"error": _describe(error, stage), "changes": self.objects.changes()}
            except TooBig as too_big:
                return _too_big(too_big)

    def detail(self, described: dict, error: BaseException, depth: int = 0) -> None:
        """Add an exception's types, arguments, attributes and causes to its description.

        Large arguments are replaced by the message and large attributes by None; at most three levels of causes are
        sent.
        """
        described["types"] = _types(type(error), self.module.__dict__)
        described["args"] = self.part(list(error.args), [described["message"]])
        found = {name: getattr(error, name) for name in ATTRIBUTES if hasattr(error, name)} | vars(error)
        described["attributes"] = [[name, self.part(value, None)] for name, value in found.items()]
        described["suppressed"] = error.__suppress_context__
        for key, above in (("cause", error.__cause__), ("context", error.__context__)):
            if above is not None and depth < 3:
                described[key] = {"message": _text(above)}
                self.detail(described[key], above, depth + 1)

    def part(self, value: Any, otherwise: Any) -> Any:
        """Return the node of a value, or that of `otherwise` if its repr is long."""
        if len(repr(value)) > 20_000:
            value = otherwise
        return self.objects.encode(value)

    def resolve(self, body: Any) -> Any:
        return self.module.__dict__[body] if isinstance(body, str) else self.handles[body]

    def refer(self, value: Any) -> Any:
        kind = type(value)
        number = self.handle_numbers.setdefault(id(value), len(self.handles))
        if number == len(self.handles):
            self.handles.append(value)
        if named := enum_name(value, self.module.__dict__.get):
            return [number, named, "E"]
        found = {}
        for base in reversed(type.__dict__["__mro__"].__get__(kind)):  # not getattr(): a metaclass may answer it
            found.update(base.__dict__)
        has = "P" * (self.module.__dict__.get(kind.__name__) is kind)  # the program has it under this name
        has += "".join(letter for letter, method in ABILITIES.items() if found.get(method) is not None)
        if isinstance(found.get("__repr__"), types.FunctionType):
            has += "R"
        answer = [number, str(kind.__name__)[:MAX_NAME], has]
        if issubclass(kind, Exception):
            return [*answer, *_types(kind, self.module.__dict__)]
        classes = self.objects.classes
        return (
            [*answer, *(base.__name__ for base in kind.__mro__[1:12] if base.__name__ in classes)]
            if classes
            else answer
        )


def serve(channel: socket.socket) -> None:
    """Answer the judge until it kills this process. Does not return."""
    runner = _Runner(channel)
    sys.setrecursionlimit(RECURSION_LIMIT)
    stage = runner.load
    while True:
        request = runner.receive()
        try:
            reply = stage(request)
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
            reply = {"exit": f"{type(error).__name__}({_text(error)})"}
        except BaseException as error:
            reply = runner.explain(error, "load" if stage == runner.load else "run")
        try:
            runner.send(reply)
        except (TooBig, RecursionError) as error:
            runner.send(_too_big(error))
        if runner.program is not None:
            run_program(channel, runner.program, request["mark"])
        stage = runner.answer


def run_program(channel: socket.socket, code: types.CodeType, mark: str) -> NoReturn:
    """Run a program as Python runs a script, with the channel as standard input and output; end as Python ends.

    Args:
        mark: if the program raises an exception, this goes out behind its output, followed by the line and the text of
            the exception. It only words the reason: the exit code decides.
    """
    channel.recv(1)  # not before the judge has read our answer: what comes then is the program's output
    for stream in (0, 1):
        os.dup2(channel.fileno(), stream)
    channel.close()
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", newline="\n", closefd=False)
    sys.argv = [FILENAME]
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__file__ = FILENAME
    status = 0
    try:
        exec(code, module.__dict__)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        status = 1
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            told = _describe(error, "run")
            said = f"{type(error).__name__}: {told['message']}".removesuffix(": ")
            os.write(1, f"{mark}{told['line']} {said}".encode("utf-8", "replace"))
    end(module, status)


def end(module: types.ModuleType, status: int) -> NoReturn:
    """End the process in the order in which Python does at the end of a script.

    That is: wait for threads, call the functions of atexit, write what the program left in buffers. Then it ends at
    once: taking the interpreter itself apart would take longer than most programs run.
    """
    steps = (
        getattr(sys.modules.get("threading"), "_shutdown", None),
        atexit._run_exitfuncs,
        lambda: sys.stdout.flush(),
        module.__dict__.clear,  # a file that nobody refers to any more writes its buffer
        gc.collect,
        lambda: sys.__stdout__.flush(),
    )
    for step in filter(None, steps):
        with contextlib.suppress(BaseException):
            step()
    os._exit(status & 0xFF)


def warm_up() -> None:
    """Run this module's code once before forking.

    Python specialises byte code as it runs, by writing into it. If that happens here, a fork need not do it again and
    copy the memory pages that it writes to.
    """
    pipe = io.BytesIO()
    runner = _Runner(types.SimpleNamespace(sendall=lambda data: pipe.write(data)))
    runner.send(runner.load({"source": "def warm(x):\n    return [x, 1, 'a']\n", "names": ["warm"]}))
    values = [{"x": "warm"}, [1, "a", [2.5, {"d": [["k", {"t": [1]}]]}]]]
    for number in range(24):
        request = {"id": number, "op": "call", "args": values, "kwargs": {}, "changes": [], "forget": []}
        (request, _) = split_frame(dump_frame(request), MAX_REQUEST)
        try:
            runner.send(runner.answer(request if number % 8 else request | {"op": "len"}))
        except TypeError as error:
            runner.send(runner.explain(error, "run"))
    del sys.modules["candidate"]


def _describe(error: BaseException, stage: str) -> dict:
    line = getattr(error, "lineno", 0) if isinstance(error, SyntaxError) else 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILENAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    text = str(error.msg) if isinstance(error, SyntaxError) else _text(error)
    return {"types": _types(type(error), {}), "message": text[:500], "line": line or 0, "stage": stage}


def _types(kind: type, own: dict) -> list[str]:
    """Return names by which the judge finds an exception's class, or else one of its bases.

    A class gets a name of Python's only if it is the class that Python has under this name.
    """
    return [_type_name(base, own) for base in kind.__mro__[:12]]


def _type_name(kind: type, own: dict) -> str:
    name, module = kind.__name__, kind.__module__
    if getattr(builtins, name, None) is kind:
        return f"builtins.{name}"
    if own.get(name) is kind:
        return name
    known = type(module) is str and module.partition(".")[0] in sys.stdlib_module_names
    return f"{module}.{name}" if known and getattr(sys.modules.get(module), name, None) is kind else f"?.{name}"


def _too_big(error: BaseException) -> dict:
    return {"error": {"types": ["TooBig"], "message": f"the result cannot be sent: {error}", "line": 0}}


def _text(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except BaseException:
        return ""
