"""The trusted half of a worker: executes the prompt's helpers and the tests, and asks the candidate for values.

Started by `sandbox.Sandbox` with a socket to it. It starts its zygote, reports the layers that hold, then answers one
check at a time: {"task", "completion", "time_limit", "weak"} in, the fields of a `Verdict` out.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import math
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any, NoReturn

from sandbox_codec import MAX_REQUEST, dump_frame, split_frame
from sandbox_session import CheckOver, Remote, Session, one_line
from sandbox_split import COMPARE, RECORD, TRUTH, Split, Unsplittable, split
from sandbox_zygote import REPORT, START
from tasks import candidate_source, test_source

MAX_SOURCE = 256 * 1024  # characters of a program under test
JUDGE_MEMORY = 4 << 30  # bytes: a test may blow up on what the candidate returned, and must not take the machine along
REPEAT_ALARM = 0.05  # seconds between deadlines after the first one, for tests that swallow it
REAP_LIMIT = 2.0  # seconds a zygote may take to kill and reap


class Broken(Exception):
    """The worker cannot go on; the caller starts another."""


class Judge:
    """One zygote and the checks that run on it, one after another."""

    def __init__(self, parent: socket.socket, caller: int, settings: dict[str, Any]) -> None:
        self.parent, self.caller = parent, caller
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = str(Path(__file__).with_name("sandbox_zygote.py"))
        command = [sys.executable, "-s", "-B", program, str(theirs.fileno()), str(os.getpid()), json.dumps(settings)]
        self.zygote = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=dict(os.environ),  # ours is empty but for what `sandbox.ENVIRONMENT` holds
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self.layers = json.loads(self.control.recv(1 << 16) or '{"error": "the zygote did not start"}')
        self.session: Session | None = None
        self.armed = False
        self.spent = False  # whether a task may have changed this interpreter for those after it

    def on_alarm(self, _: int, frame: types.FrameType | None) -> None:
        if self.armed and self.session is not None:
            while frame is not None:
                if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                    # a module left half imported breaks later checks; the alarm comes again in a moment
                    self.session.over = self.session.over or ("timeout", "")
                    return
                frame = frame.f_back
            self.session.end("timeout", "")

    def check(self, job: dict[str, Any]) -> dict[str, Any]:
        """Judge one completion.

        Returns:
            the fields of a `Verdict`.

        Raises:
            Broken: the zygote is gone.
        """
        task, completion, limit = job["task"], job["completion"], job["time_limit"]
        try:
            plan = _split_cached(json.dumps([task.get(k) for k in _PARTS]))
        except Unsplittable as error:
            if not job["weak"]:
                return _verdict("refused", str(error))
            plan = None
        source = candidate_source(task, completion)
        if len(source) > MAX_SOURCE:
            return _verdict("syntax", f"the program has {len(source)} characters, and {MAX_SOURCE} are allowed")
        verdict = self.attempt(plan, task, source, limit)
        if verdict["status"] == "refused" and job["weak"] and plan is not None:
            verdict = self.attempt(None, task, source, max(limit - verdict["wall_seconds"], 0.01))
        self.spent = self.spent or (plan is not None and plan.lasting)
        return verdict

    def attempt(self, plan: Split | None, task: dict[str, Any], source: str, limit: float) -> dict[str, Any]:
        """One child from fork to reaping; in the weaker mode if there is no plan."""
        started = time.monotonic()
        try:
            with self.start(math.ceil(limit) + 1) as channel:
                verdict = self.run(plan, task, source, limit, channel)
                verdict["wall_seconds"] = time.monotonic() - started
                hung_up = verdict["status"] == "gone"
                ended, killed, cpu, peak = self.reap(b"W" if hung_up else b"K")
        except OSError as error:
            raise Broken(f"the zygote is gone ({error.strerror})") from None
        if hung_up:
            verdict["status"], verdict["reason"] = how_it_died(ended, killed, cpu, limit)
            if not self.session.ready:
                verdict["status"] = "infrastructure"  # the candidate cannot have done that
        return {**verdict, "cpu_seconds": cpu, "peak_mib": peak}

    def orphaned(self) -> bool:
        """Whether the caller ended; a fork of it may still hold the other end of our socket open."""
        return os.getppid() != self.caller

    def leave(self) -> NoReturn:
        """End this worker: the zygote sees the socket close, kills what runs, and ends."""
        self.control.close()
        try:
            self.zygote.wait(REAP_LIMIT)
        finally:
            os._exit(0)

    def start(self, cpu_seconds: int) -> socket.socket:
        """Get a locked-down child. Returns the socket to it."""
        self.control.send(START.pack(b"F", cpu_seconds))
        answer, descriptors, _, _ = socket.recv_fds(self.control, START.size, 1)
        if not descriptors:
            failure = START.unpack(answer)[1] if answer else 0
            raise Broken(f"fork failed: {os.strerror(failure)}" if failure else "the zygote is gone")
        return socket.socket(fileno=descriptors[0])

    def reap(self, how: bytes) -> tuple[int, bool, float, float]:
        """Have the child killed and waited for. Returns its wait status, who killed it, CPU seconds and peak MiB."""
        self.control.send(how)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        report = self.control.recv(REPORT.size) if poll.poll(REAP_LIMIT * 1000) else b""
        if len(report) != REPORT.size:
            raise Broken("the zygote is gone")
        status, killed, user, system, peak = REPORT.unpack(report)
        return status, killed, user + system, peak / 1024

    def run(self, plan: Split | None, task: dict, source: str, limit: float, channel: socket.socket) -> dict[str, Any]:
        """One conversation with a fresh child, under the deadline. Status "gone" if the child hung up."""
        place = functools.partial(_place, candidate_source(task, "").count("\n"))
        deadline = time.monotonic() + limit
        session = Session(channel, self.parent, self.leave, self.orphaned, deadline, place)
        self.session = session
        progress = Progress(plan.total if plan else None)
        try:
            try:
                self.armed = True
                signal.signal(signal.SIGALRM, self.on_alarm)  # an earlier task's tests may have taken it
                signal.setitimer(signal.ITIMER_REAL, limit, REPEAT_ALARM)
                verdict = _converse(session, plan, task, source, progress)
            except CheckOver:
                verdict = _verdict("", "")
            except MemoryError:
                verdict = _verdict("fail", "the test itself ran out of memory on what the function returned")
            finally:
                self.armed = False
        except CheckOver:  # the alarm went off on the very last line
            verdict = _verdict("", "")
        signal.setitimer(signal.ITIMER_REAL, 0)
        if verdict["status"] == "pass" and session.unsolicited():
            session.over = ("protocol", "something was written to the judge before it asked")
        if session.over is not None:  # sticky: whatever the tests made of it
            status, reason = session.over
            if status == "timeout":
                reason = f"no result within {limit:g} s"
            verdict = _verdict(status, reason + progress.where())
        if plan is not None and plan.total is not None:
            passed = 0 if verdict["status"] == "protocol" else progress.passed
            verdict |= {"tests_passed": passed, "tests_total": plan.total}
        verdict["weak"] = plan is None
        progress.outcomes.clear()
        if (module := sys.modules.pop("tests_of_the_task", None)) is not None:
            module.__dict__.clear()  # its functions hold it in a cycle, and with it whatever the candidate returned
        gc.collect()
        return verdict


class Progress:
    """Which of the counted tests passed."""

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


def _converse(session: Session, plan: Split | None, task: dict, source: str, progress: Progress) -> dict[str, Any]:
    if plan is None:
        return _converse_weakly(session, task, source)
    module = types.ModuleType("tests_of_the_task")
    sys.modules["tests_of_the_task"] = module
    namespace = module.__dict__
    sys.setrecursionlimit(1000)
    random.seed(0)
    try:
        exec(plan.helpers, namespace)
    except Exception as error:
        return _verdict("refused", f"the prompt's own code fails: {one_line(repr(error))}")
    ready = session.receive()
    if ready.get("ready") != "":
        return _verdict("infrastructure", one_line(ready.get("ready")))
    session.ready = True
    session.send({"source": source, "names": plan.remote})
    reply = session.receive()
    if failure := _loading_failed(session, reply):
        return failure
    kinds = reply.get("names") if type(reply) is dict else None
    if type(kinds) is not dict:
        session.end("protocol", "a malformed answer to the program")
    for name in plan.required:
        if kinds.get(name) != "callable":
            problem = "is not callable" if kinds.get(name) == "value" else "is not defined"
            return _verdict("no_entry_point", f"{name} {problem}")
    session.exceptions = {k: v for k, v in namespace.items() if isinstance(v, type) and issubclass(v, Exception)}
    for name, imported in plan.imports.items():
        namespace[name] = importlib.import_module(imported)
    for name in plan.remote:
        if kinds.get(name) != "absent":
            namespace[name] = Remote(session, name, f"<{name}>")

    def record(number: int, error: BaseException | None) -> None:
        if session.over is None:  # else this test has swallowed the end of the check, and did not pass
            progress.record(number, error)

    namespace.update({COMPARE: _compared, TRUTH: _untrue, RECORD: record})
    try:
        exec(plan.tests, namespace)
        error = progress.first_error()
    except Exception as raised:
        error = progress.first_error() or raised
    except CheckOver:
        raise
    except SystemExit as raised:
        error = progress.first_error()
        if error is None and not session.calls:
            return _verdict("refused", "the task's tests end the program")
        error = error or raised
    except BaseException as raised:  # pytest.fail(), KeyboardInterrupt
        error = progress.first_error() or raised
    if error is not None:
        return _failed(error)
    if not session.calls:
        return _verdict("fail", "the tests never called the function")
    return _verdict("pass", "")


def _converse_weakly(session: Session, task: dict, source: str) -> dict[str, Any]:
    """The tests run beside the candidate, which can forge a pass; it stays as locked down as ever."""
    ready = session.receive()
    if ready.get("ready") != "":
        return _verdict("infrastructure", one_line(ready.get("ready")))
    session.ready = True
    session.send({"source": source, "names": [], "tests": test_source(task)})
    reply = session.receive()
    return _loading_failed(session, reply) or _verdict("pass", "")


def _loading_failed(session: Session, reply: Any) -> dict[str, Any] | None:
    """The verdict on a program that did not load, None if it did."""
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
            return _verdict("syntax", error._remote)
        if stage == "compile":
            return _verdict("syntax", f"too complex to compile: {error._remote}")
        return _failed(error)


def _failed(error: BaseException) -> dict[str, Any]:
    remote = getattr(error, "_remote", None)
    if isinstance(error, MemoryError) and remote:
        return _verdict("memory", remote)
    if remote:
        return _verdict("fail", remote)
    if isinstance(error, _Explained):
        return _verdict("fail", one_line(error, 400))
    return _verdict("fail", f"the test raised {type(error).__name__}: {one_line(error)}")


class _Explained(AssertionError):
    pass


def _compared(text: str, left: Any, right: Any) -> _Explained:
    return _Explained(f"assert {one_line(text, 160)}: left is {_short(left)}, right is {_short(right)}")


def _untrue(text: str, value: Any) -> _Explained:
    return _Explained(f"assert {one_line(text, 160)}: it is {_short(value)}")


def _short(value: Any) -> str:
    try:
        return one_line(repr(value), 80)
    except ValueError:  # an int of more digits than Python likes to print
        return f"a very large {type(value).__name__}"


def _place(prompt_lines: int, line: int) -> str:
    inside = line - prompt_lines
    return f" (line {inside} of the completion)" if inside > 0 else f" (line {line} of the prompt)"


def _verdict(status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "reason": reason}


def how_it_died(status: int, killed_by_us: bool, cpu_seconds: float, limit: float) -> tuple[str, str]:
    """Status and reason for a child that hung up, from its wait status."""
    if killed_by_us:
        return "protocol", "the program closed its connection to the judge"
    if os.WIFEXITED(status):
        return "crash", f"the program ended itself (exit code {os.WEXITSTATUS(status)}) before the tests were done"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu_seconds >= limit):
        return "timeout", f"{cpu_seconds:.1f} s of CPU time used"
    if number == signal.SIGKILL:  # the candidate has no way to send it
        return "infrastructure", "the child was killed from outside"
    return "crash", f"the program died of {signal.Signals(number).name}"


_PARTS = ("task_id", "prompt", "test", "entry_point", "test_list", "test_setup_code")


@functools.lru_cache(maxsize=1024)
def _split_cached(parts: str) -> Split:
    return split({key: value for key, value in zip(_PARTS, json.loads(parts), strict=True) if value is not None})


def main() -> None:
    """Arguments: the descriptor of the socket to the caller, the caller's pid, and the zygote's settings as JSON."""
    parent = socket.socket(fileno=int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    settings = json.loads(sys.argv[3])
    if settings["core"] is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {settings["core"]})
    judge = Judge(parent, int(sys.argv[2]), settings)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (JUDGE_MEMORY, JUDGE_MEMORY))
    parent.sendall(dump_frame(judge.layers))
    gc.collect()
    gc.freeze()
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    buffer = bytearray()
    while True:
        while (frame := split_frame(buffer, 4 * MAX_REQUEST)) is None:
            while not poll.poll(1000):
                if judge.orphaned():
                    judge.leave()
            chunk = parent.recv(1 << 18)
            if not chunk:
                judge.leave()
            buffer += chunk
        del buffer[: frame[1]]
        try:
            reply = judge.check(frame[0])
        except Broken as error:
            reply = _verdict("infrastructure", str(error))
        except Exception as error:  # ours, so it must not pass for the completion's
            reply = _verdict("infrastructure", one_line(f"the judge failed: {error!r}"))
        try:
            parent.sendall(dump_frame(reply | {"spent": judge.spent}))
        except OSError:
            judge.leave()


if __name__ == "__main__":
    main()
