"""The untrusted side of one check: load the candidate's program, answer calls, return plain data.

Everything here runs in the interpreter that the candidate owns. It may patch, read or break all of it, and wins
nothing: it holds no test and no expected value, and whatever it writes is decoded and compared by the judge.

Messages (see sandbox_codec): first {"source", "names", "tests"?}, answered with {"names": {name: kind}}; then
{"id", "op", "args", "kwargs"}, answered with {"id", "value", "args"?}. Anything that goes wrong is answered with
{"error": {"types", "message", "line", "stage"}} or {"exit": text}.
"""

from __future__ import annotations

import operator
import os
import socket
import sys
import types
from typing import Any

from sandbox_codec import MAX_FRAME, MAX_REQUEST, NotPlain, TooBig, decode, dump_frame, encode, split_frame

FILENAME = "<completion>"
RECURSION_LIMIT = 1000 + 12  # the candidate gets the usual 1000 above this module's frames
OUT_OF_MEMORY = dump_frame({"error": {"types": ["MemoryError"], "message": "", "line": 0, "stage": "run"}})

OPERATIONS = {
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "str": str,
}


class _Runner:
    def __init__(self, channel: socket.socket) -> None:
        self.channel, self.buffer = channel, bytearray()
        self.module = types.ModuleType("candidate")
        self.handles: list[Any] = []  # what the judge holds a reference to
        self.numbers: dict[int, int] = {}  # id of a handle: its number, so that one object stays one object

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
        """Compile and execute the program; says what became of each name that the tests use."""
        try:
            code = compile(request["source"], FILENAME, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # a NUL byte is a ValueError
            return {"error": _describe(error, "compile")}
        sys.modules["candidate"] = self.module
        namespace = self.module.__dict__
        exec(code, namespace)
        if "tests" in request:  # the weaker mode: the tests run here, and the candidate could forge the outcome
            exec(compile(request["tests"], "<tests>", "exec", dont_inherit=True), namespace)
        kinds = {}
        for name in request["names"]:
            value = namespace.get(name)
            kinds[name] = "absent" if name not in namespace else "callable" if callable(value) else "value"
        return {"names": kinds}

    def answer(self, request: dict) -> dict:
        sent = request["args"]
        args = [decode(node, self.resolve) for node in sent]
        kwargs = {name: decode(node, self.resolve) for name, node in request["kwargs"].items()}
        value = OPERATIONS[request["op"]](*args, **kwargs)
        same = [n for n, arg in enumerate(args) if value is arg and type(value) in (list, dict, set, bytearray)]
        result = {"x": {"argument": same[0]}} if same else encode(value, self.refer)
        reply = {"id": request["id"], "value": result}
        for position, node in enumerate(sent):
            if type(node) is list or (type(node) is dict and "x" not in node):
                after = encode(args[position], self.refer)
                if after != node:  # the function changed this argument, and the tests may look at it
                    reply.setdefault("args", []).append([position, after])
        return reply

    def resolve(self, body: Any) -> Any:
        return self.module.__dict__[body] if isinstance(body, str) else self.handles[body]

    def refer(self, value: Any) -> Any:
        kind = type(value)
        if kind.__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
            plain = encode(value.item())  # a numpy scalar is the number it holds
            return {"plain": plain}
        number = self.numbers.setdefault(id(value), len(self.handles))
        if number == len(self.handles):
            self.handles.append(value)
        return [number, str(kind.__name__)[:80]]


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
        except (TooBig, NotPlain) as error:
            reply = {"error": {"types": ["TooBig"], "message": f"the result cannot be sent: {error}", "line": 0}}
        except BaseException as error:
            reply = {"error": _describe(error, "load" if stage == runner.load else "run")}
        try:
            runner.send(reply)
        except TooBig as error:
            runner.send({"error": {"types": ["TooBig"], "message": f"the result cannot be sent: {error}", "line": 0}})
        stage = runner.answer


def _describe(error: BaseException, stage: str) -> dict:
    line = getattr(error, "lineno", 0) if isinstance(error, SyntaxError) else 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILENAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    names = [kind.__name__ for kind in type(error).__mro__[:12]]
    text = str(error.msg) if isinstance(error, SyntaxError) else _text(error)
    described = {"types": names, "message": text[:500], "line": line or 0, "stage": stage}
    try:
        arguments = encode(list(error.args))
        if len(dump_frame(arguments)) < 1000:  # most are one line of text
            described["args"] = arguments
    except Exception:
        pass  # the message will have to do
    return described


def _text(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except BaseException:
        return ""
