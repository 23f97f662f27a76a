"""Run the prompt's helpers and the tests of a task, and ask the candidate for values: a worker's trusted half.

`Sandbox` starts this script with a socket to it. The script starts its zygote, reports which layers hold, and then
answers checks one by one: {"task", "completion", "time_limit", "weak"} in, the fields of a `Verdict` out.
"""

from __future__ import annotations

import contextlib
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

if __name__ == "__main__":  # started by path: search modules in the project's folder, not in this one
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

from judging.codec import MAX_JOB, dump_frame, split_frame
from judging.python.reasons import (
    Progress,
    cause,
    compared,
    failed,
    how_it_died,
    loading_failed,
    outcome,
    place_of,
    told,
    too_long,
    untrue,
)
from judging.python.remote import Remote
from judging.python.session import CheckOver, Session, one_line
from judging.python.split import COMPARE, IMPORTABLE, RECORD, TRUTH, Split, Unsplittable, split
from judging.python.stdio import check_program
from judging.python.zygote import REPORT, START
from judging.tasks import candidate_source, is_program, test_source

REPEAT_ALARM = 0.05  # seconds between alarms after the first one, for tests that swallow its exception
LARGE, SPLIT_LIMIT = 64 * 1024, 30.0  # a task of more characters takes long to split, and gets this many seconds for it
OPEN = ("uncrossable", "raised")  # not yet a verdict: either the task or the completion is at fault
REAP_LIMIT = 2.0  # seconds that a zygote may take to kill and reap


class Broken(Exception):
    """The worker cannot continue; the caller starts another."""


class Judge:
    """One zygote and the checks that run on it, one after another."""

    def __init__(self, parent: socket.socket, caller: int, settings: dict[str, Any]) -> None:
        self.parent, self.caller = parent, caller
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = str(Path(__file__).with_name("zygote.py"))
        command = [sys.executable, "-s", "-B", program, str(theirs.fileno()), str(os.getpid()), json.dumps(settings)]
        self.zygote = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=dict(os.environ),  # ours holds only `judging.worker.ENVIRONMENT`
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self.layers = json.loads(self.control.recv(1 << 16) or '{"error": "the zygote did not start"}')
        self.session: Session | None = None
        self.armed, self.checks = False, 0
        self.references: dict[str, str] = {}  # task -> `cause` of its reference solution's verdict

    def tell(self, seconds: float) -> None:
        """Ask the caller to wait this many seconds from now."""
        self.parent.sendall(dump_frame({"wait": seconds}))

    def on_alarm(self, _: int, frame: types.FrameType | None) -> None:
        session = self.session
        if not self.armed or session is None:
            return
        if session.over is None and (left := session.deadline - time.monotonic()) > 0.001:  # extended for slow messages
            signal.setitimer(signal.ITIMER_REAL, left, REPEAT_ALARM)
            return self.tell(left)
        while frame is not None:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                # a half-imported module would break later checks; the alarm repeats in a moment
                session.over = session.over or ("timeout", "")
                return
            frame = frame.f_back
        session.end("timeout", "")

    def answer(self, job: dict[str, Any]) -> None:
        """Judge one completion and send the fields of its `Verdict`.

        Tests that may change this interpreter run in a fork of it.

        Raises:
            Broken: the zygote is gone, or the fork failed.
        """
        if is_program(job["task"]):
            return self.send(check_program(self, job))
        key = json.dumps([job["task"].get(name) for name in _PARTS])
        if len(key) > LARGE:
            self.tell(SPLIT_LIMIT)
        try:
            plan = _split_cached(key)
        except Unsplittable as error:
            if not job["weak"]:
                return self.send(outcome("refused", str(error)))
            plan = None
        if len(key) > LARGE:
            self.tell(job["time_limit"])
        if plan is None or not plan.lasting:
            return self.send(self.check(key, plan, job))
        for module in plan.modules:  # once here, not in every fork
            if module.partition(".")[0] in sys.stdlib_module_names or module in IMPORTABLE.values():
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
        pid = os.fork()
        if not pid:
            self.caller = os.getppid()
            try:
                self.send(self.check(key, plan, job))
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):  # end like the fork, because the caller looks at how this process ends
            os.kill(os.getpid(), os.WTERMSIG(status))
        if status:
            raise Broken("the fork that ran the tests failed")

    def send(self, reply: dict[str, Any]) -> None:
        try:
            self.parent.sendall(dump_frame(reply))
        except OSError:
            self.leave()

    def check(self, key: str, plan: Split | None, job: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of the verdict on one completion."""
        task, limit = job["task"], job["time_limit"]
        source = candidate_source(task, job["completion"])
        if (verdict := too_long(source)) is not None:
            return verdict
        verdict = self.attempt(plan, task, source, limit)
        if verdict["status"] in OPEN or (plan is not None and plan.settings and verdict["status"] == "fail"):
            verdict["status"] = "refused" if self.at_fault(key, plan, task, cause(verdict), limit) else "fail"
        again = plan is not None and (
            verdict["status"] == "pass" if plan.surroundings else verdict["status"] == "refused" and job["weak"]
        )
        if again:
            beside = self.attempt(None, task, source, max(limit - verdict["wall_seconds"], 0.01))
            if plan.surroundings:  # right values; it must also pass in the interpreter that the tests ask about
                beside |= {name: verdict[name] for name in ("tests_passed", "tests_total") if name in verdict}
            verdict = beside
        return verdict

    def at_fault(self, key: str, plan: Split, task: dict[str, Any], what: str, limit: float) -> bool:
        """Return whether the task is at fault: nothing was asked yet, or its reference solution fails with `what`."""
        if not self.session.asked:
            return True
        body = task.get("canonical_solution")
        if not body:
            return self.session.own_argument
        if key not in self.references:
            self.tell(2 * limit)
            self.references[key] = cause(self.attempt(plan, task, candidate_source(task, body), limit))
        return self.references[key] == what

    def attempt(self, plan: Split | None, task: dict[str, Any], source: str, limit: float) -> dict[str, Any]:
        """Run one child from fork to reaping. Without a plan this is the weaker mode: the tests run in the child."""
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
                verdict["status"] = "infrastructure"  # the candidate did not run yet
        return {**verdict, "cpu_seconds": cpu, "peak_mib": peak}

    def orphaned(self) -> bool:
        """Return whether the caller ended. A fork of it may still hold our socket open, so reading does not tell."""
        return os.getppid() != self.caller

    def leave(self) -> NoReturn:
        """End this worker: the zygote sees the socket close, kills its children, and ends."""
        self.control.close()
        try:
            self.zygote.wait(REAP_LIMIT)
        finally:
            os._exit(0)

    def start(self, cpu_seconds: int) -> socket.socket:
        """Get a locked-down child and return the socket to it."""
        self.control.send(START.pack(b"F", cpu_seconds))
        answer, descriptors, _, _ = socket.recv_fds(self.control, START.size, 1)
        if not descriptors:
            failure = START.unpack(answer)[1] if answer else 0
            raise Broken(f"fork failed: {os.strerror(failure)}" if failure else "the zygote is gone")
        return socket.socket(fileno=descriptors[0])

    def reap(self, how: bytes) -> tuple[int, bool, float, float]:
        """Have the child killed and reaped; return its wait status, whether we killed it, CPU seconds and peak MiB."""
        self.control.send(how)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        report = self.control.recv(REPORT.size) if poll.poll(REAP_LIMIT * 1000) else b""
        if len(report) != REPORT.size:
            raise Broken("the zygote is gone")
        status, killed, user, system, peak = REPORT.unpack(report)
        return status, killed, user + system, peak / 1024

    def run(self, plan: Split | None, task: dict, source: str, limit: float, channel: socket.socket) -> dict[str, Any]:
        """Run a check with a fresh child, under the deadline. The status is "gone" if the child hung up."""
        place = functools.partial(place_of, candidate_source(task, "").count("\n"))
        deadline = time.monotonic() + limit
        session = Session(channel, self.parent, self.leave, self.orphaned, deadline, place)
        self.session = session
        progress = Progress(plan.total if plan else None)
        try:
            try:
                self.armed = True
                signal.signal(signal.SIGALRM, self.on_alarm)  # earlier tests may have replaced the handler
                signal.setitimer(signal.ITIMER_REAL, limit, REPEAT_ALARM)
                verdict = _converse(session, plan, task, source, progress)
            except CheckOver:
                verdict = outcome("", "")
            except MemoryError:
                verdict = outcome("fail", "the test itself ran out of memory on what the function returned")
            except Exception as error:  # our own code failed on the program's values
                if not session.ready:
                    raise
                verdict = outcome("fail", f"the judge failed on what the program returned: {told(error)}")
            finally:
                self.armed = False
        except CheckOver:  # the alarm came during the last line
            verdict = outcome("", "")
        signal.setitimer(signal.ITIMER_REAL, 0)
        if verdict["status"] == "pass" and session.unsolicited():
            session.over = ("protocol", "something was written to the judge before it asked")
        if session.over is not None:  # this counts even if the tests swallowed the exception
            status, reason = session.over
            if status == "timeout":
                reason = f"no result within {limit:g} s"
            verdict = outcome(status, reason + progress.where())
        if plan is not None and plan.total is not None:
            passed = 0 if verdict["status"] == "protocol" else progress.passed
            verdict |= {"tests_passed": passed, "tests_total": plan.total}
        verdict["weak"] = plan is None
        progress.outcomes.clear()
        if (module := sys.modules.pop("tests_of_the_task", None)) is not None:
            module.__dict__.clear()  # its functions form a cycle with it, which would keep what the candidate returned
        self.checks += 1
        gc.collect(1 if self.checks % 32 else 2)  # usually only young objects
        return verdict


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
        return outcome("refused", f"the prompt's own code fails: {one_line(repr(error))}")
    ready = session.receive()
    if ready.get("ready") != "":
        return outcome("infrastructure", one_line(ready.get("ready")))
    session.ready = True
    session.know(namespace, plan.classes, plan.seeds)
    session.send({"source": source, "names": plan.remote, "classes": plan.classes})
    reply = session.receive()
    if failure := loading_failed(session, reply):
        return failure
    try:
        given = session.given(reply["names"], plan.remote)
    except Exception:
        session.end("protocol", "a malformed answer to the program")
    for name in plan.required:
        if name not in given or (name in plan.called and not callable(given[name])):
            problem = "is not callable" if name in given else "is not defined"
            return outcome("no_entry_point", f"{name} {problem}")
        value = given[name]
        raised = isinstance(value, type) and issubclass(value, Exception)
        if callable(value) and not isinstance(value, Remote) and not raised:  # e.g. a class of Python's
            given[name] = session.resolve([name, name, "c"])  # it is called in the candidate's process
    for name, imported in plan.imports.items():
        namespace[name] = importlib.import_module(imported)
    namespace.update(given)
    session.names = dict(namespace)  # a copy, without the names that the tests will define
    absent = set(plan.remote) - set(given)
    # values that are here already, such as a class of Python's, may be called without asking the candidate
    session.asked = any(not isinstance(value, Remote) for value in given.values())

    def record(number: int, error: BaseException | None) -> None:
        if session.over is None:  # else this test swallowed the end of the check, so it did not pass
            progress.record(number, error)

    namespace.update({COMPARE: compared, TRUTH: untrue, RECORD: record})
    try:
        exec(plan.tests, namespace)
        error = progress.first_error()
    except Exception as raised:
        error = progress.first_error() or raised
    except CheckOver:
        raise
    except SystemExit as raised:
        error = progress.first_error()
        if error is None and not session.asked:
            return outcome("refused", "the task's tests end the program")
        error = error or raised
    except BaseException as raised:  # pytest.fail(), KeyboardInterrupt
        error = progress.first_error() or raised
    if error is not None:
        return failed(error, absent)
    if not session.calls and plan.called:
        return outcome("fail", "the tests never called the function")
    return outcome("pass", "")


def _converse_weakly(session: Session, task: dict, source: str) -> dict[str, Any]:
    """Run the tests in the candidate's process, where it can forge a pass; it is locked down as always."""
    ready = session.receive()
    if ready.get("ready") != "":
        return outcome("infrastructure", one_line(ready.get("ready")))
    session.ready = True
    session.send({"source": source, "names": [], "tests": test_source(task)})
    reply = session.receive()
    return loading_failed(session, reply) or outcome("pass", "")


_PARTS = ("task_id", "prompt", "test", "entry_point", "test_list", "test_setup_code", "canonical_solution")


@functools.lru_cache(maxsize=1024)
def _split_cached(parts: str) -> Split:
    return split({key: value for key, value in zip(_PARTS, json.loads(parts), strict=True) if value is not None})


def main() -> None:
    """Serve checks; argv: descriptor of the socket to the caller, the caller's pid, the zygote's settings as JSON."""
    parent, settings = socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if settings["core"] is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {settings["core"]})
    judge = Judge(parent, int(sys.argv[2]), settings)
    if sys.platform == "linux":
        # a test may need any amount of memory for a returned value; it must not exhaust the machine's
        resource.setrlimit(resource.RLIMIT_AS, (settings["judge_mib"] << 20,) * 2)
    parent.sendall(dump_frame(judge.layers))
    gc.collect()
    gc.freeze()
    poll, buffer = select.poll(), bytearray()
    poll.register(parent, select.POLLIN)
    while True:
        while (frame := split_frame(buffer, MAX_JOB)) is None:
            while not poll.poll(1000):
                if judge.orphaned():
                    judge.leave()
            chunk = parent.recv(1 << 18)
            if not chunk:
                judge.leave()
            buffer += chunk
        del buffer[: frame[1]]
        try:
            judge.answer(frame[0])
        except Broken as error:
            judge.send(outcome("infrastructure", str(error)))
        except Exception as error:  # our own error, which must not be blamed on the completion
            judge.send(outcome("infrastructure", one_line(f"the judge failed: {error!r}")))


if __name__ == "__main__":
    main()
