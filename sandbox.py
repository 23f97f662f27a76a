"""Runs untrusted Python and returns a verdict: the reward that every stage learns from.

    with Sandbox(time_limit=5.0) as sandbox:
        verdict = sandbox.check(task, completion)
        verdicts = sandbox.check_many((task, completion) for completion in completions)

`docs/sandbox.md` says who is not trusted and what is promised. The parts: sandbox_judge (trusted: runs the tests),
sandbox_session (its calls into the candidate), sandbox_split (what is asked of whom), sandbox_zygote and sandbox_runner
(the locked-down child), sandbox_lockdown and sandbox_seccomp (the locks), sandbox_codec (plain data between the two).

`python sandbox.py --probe` prints the layers that hold on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sandbox_probe
from common import InputError
from sandbox_codec import Malformed, dump_frame, split_frame

STATUSES = (
    "pass",  # the last line of the tests was reached, every assert held, and the function was called
    "fail",  # an assert did not hold, or the program or a test raised
    "timeout",  # wall or CPU time
    "memory",  # MemoryError
    "crash",  # the program ended itself or died of a signal
    "protocol",  # it wrote to the judge what it was not asked for, or closed the connection
    "syntax",  # it does not compile
    "no_entry_point",  # it does not define the function, or what it defines cannot be called
    "refused",  # the task's tests cannot be kept apart from the program; says nothing about the completion
    "infrastructure",  # ours or the machine's failure, twice; says nothing about the completion
)
UNJUDGED = ("refused", "infrastructure")  # not a reward of 0: no reward
REQUIRED_LAYERS = ("rlimits", "landlock", "seccomp")
GRACE = 0.6  # seconds past its limit that a check may take before the judge itself is killed
START_LIMIT = 20.0  # seconds for a worker to start
CLOSE_LIMIT = 0.3  # seconds that workers get to clean up by themselves

# All that a worker finds in its environment. One thread in numpy: a core for each worker is there, and no more.
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


@dataclass(frozen=True)
class Verdict:
    """What became of one completion.

    Attributes:
        status: one of `STATUSES`.
        reason: one line that a person can act on; "" for a pass.
        wall_seconds, cpu_seconds: from the start of the check, and used by the candidate's process.
        peak_mib: the most memory that process had resident.
        tests_passed, tests_total: where the task's tests can be counted, else None.
        weak: the tests ran in the candidate's interpreter, so a pass can be forged.
    """

    status: str
    reason: str
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0
    tests_passed: int | None = None
    tests_total: int | None = None
    weak: bool = False

    @property
    def passed(self) -> bool:
        """Whether the completion is right."""
        return self.status == "pass"

    @property
    def judged(self) -> bool:
        """Whether this says anything about the completion; if not, leave it out of the batch."""
        return self.status not in UNJUDGED


class _Dead(Exception):
    """The judge is gone; the message says how it looked."""


class _Worker:
    """One judge process and the socket to it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.socket, theirs = socket.socketpair()
        program = str(Path(__file__).resolve().with_name("sandbox_judge.py"))
        arguments = [str(theirs.fileno()), str(os.getpid()), json.dumps(settings)]
        self.process = subprocess.Popen(
            [sys.executable, "-s", "-B", program, *arguments],
            pass_fds=[theirs.fileno()],
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us; we tell the workers
        )
        theirs.close()
        self.buffer = bytearray()

    def receive(self, limit: float) -> Any:
        """The next message; raises TimeoutError after `limit` seconds and _Dead at the end of the stream."""
        give_up = time.monotonic() + limit
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        try:
            while (frame := split_frame(self.buffer, 1 << 20)) is None:
                if not poll.poll(max(give_up - time.monotonic(), 0) * 1000):
                    raise TimeoutError
                if not (chunk := self.socket.recv(1 << 16)):
                    raise _Dead("the judge ended")
                self.buffer += chunk
        except (OSError, Malformed) as error:
            if isinstance(error, TimeoutError):
                raise
            raise _Dead(str(error)) from None
        del self.buffer[: frame[1]]
        return frame[0]

    def check(self, job: dict[str, Any]) -> Verdict:
        started = time.monotonic()
        try:
            self.socket.sendall(dump_frame(job))
            fields = self.receive(job["time_limit"] + GRACE)
        except OSError as error:
            if not isinstance(error, TimeoutError):
                raise _Dead(str(error)) from None
            self.kill()
            reason = f"no result within {job['time_limit']:g} s: a test hangs on what the function returned"
            return Verdict("timeout", reason, wall_seconds=time.monotonic() - started)
        return Verdict(**fields)

    def hang_up(self) -> None:
        """Tell the judge to clean up and go."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def kill(self, after: float = 0.0) -> None:
        """End the judge, its zygote and whatever that runs; they get `after` seconds to do it themselves."""
        self.hang_up()
        try:
            self.process.wait(after) if after else None
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # a child of the zygote dies with the zygote
        except OSError:
            pass
        self.process.wait()
        self.socket.close()


class Sandbox:
    """A pool of workers that judge completions.

    Args:
        time_limit: seconds of wall time for one check, its loading included.
        memory_mib: address space of one candidate.
        num_workers: checks that run at the same time; None: one for each core this process may use.
        allow_missing_layers: run even where a required layer does not hold (anything but a recent Linux).
        allow_weak_tests: run tests that cannot be kept apart in the candidate's interpreter instead of refusing them.

    Attributes:
        layers: what holds on this machine, for run logs and metrics files.

    Raises:
        InputError: a required layer does not hold here, or a worker does not start.
    """

    def __init__(
        self,
        time_limit: float = 5.0,
        memory_mib: int = 1024,
        num_workers: int | None = None,
        allow_missing_layers: bool = False,
        allow_weak_tests: bool = False,
        namespaces: bool = True,
    ) -> None:
        if time_limit <= 0 or memory_mib < 64:
            raise InputError("the sandbox needs a time limit above 0 s and 64 MiB of memory or more")
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0] * (os.cpu_count() or 1)
        self.time_limit = time_limit
        self.num_workers = num_workers or len(cores)
        # A worker's judge and child take turns, so they share a core where there is a worker for every one: handing
        # over on one core costs less than waking another (a third more checks per second on a busy machine).
        pins = [cores[n % len(cores)] if self.num_workers >= len(cores) else None for n in range(self.num_workers)]
        self.allow_weak_tests = allow_weak_tests
        common = {"memory_mib": memory_mib, "namespaces": namespaces}
        self._settings = [{**common, "worker": n, "core": pin} for n, pin in enumerate(pins)]
        self._pid = os.getpid()
        self._closed = False
        self._jobs: queue.SimpleQueue[tuple[Future[Verdict], dict[str, Any]] | None] = queue.SimpleQueue()
        self._workers: list[_Worker | None] = [_Worker(settings) for settings in self._settings]
        try:
            reports = [worker.receive(START_LIMIT) for worker in self._workers if worker]
        except (_Dead, TimeoutError) as error:
            self._end_workers()
            raise InputError(f"the sandbox does not start ({error}); python sandbox.py --probe tells more") from None
        self.layers: dict[str, Any] = reports[0]
        missing = missing_layers(self.layers)
        if missing and not allow_missing_layers:
            self._end_workers()
            raise InputError(f"the sandbox lacks {', '.join(missing)} on this machine; see docs/sandbox.md")
        self._threads = [
            threading.Thread(target=self._serve, args=(n,), name=f"sandbox-{n}", daemon=True)
            for n in range(self.num_workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: dict[str, Any], completion: str, time_limit: float | None = None) -> Future[Verdict]:
        """Queue one check and return at once; its verdict is the future's result."""
        if self._closed:
            raise RuntimeError("the sandbox is closed")
        job = {
            "task": task,
            "completion": completion,
            "time_limit": time_limit or self.time_limit,
            "weak": self.allow_weak_tests,
        }
        future: Future[Verdict] = Future()
        self._jobs.put((future, job))
        return future

    def check(self, task: dict[str, Any], completion: str, time_limit: float | None = None) -> Verdict:
        """Judge one completion of one task."""
        return self.submit(task, completion, time_limit).result()

    def check_many(self, pairs: Iterable[tuple[dict[str, Any], str]]) -> list[Verdict]:
        """Judge (task, completion) pairs on all workers; verdicts in the order of the pairs."""
        futures = [self.submit(task, completion) for task, completion in pairs]
        return [future.result() for future in futures]

    def as_completed(self, pairs: Iterable[tuple[dict[str, Any], str]]) -> Iterator[tuple[int, Verdict]]:
        """Yield (index of the pair, verdict) as checks finish.

        `pairs` may be a generator that samples: what it has produced is judged while it produces the rest.
        """
        done: queue.SimpleQueue[tuple[int, Future[Verdict]]] = queue.SimpleQueue()
        pending = 0
        for index, (task, completion) in enumerate(pairs):
            future = self.submit(task, completion)
            future.add_done_callback(lambda future, index=index: done.put((index, future)))
            pending += 1
            while not done.empty():
                finished, future = done.get()
                pending -= 1
                yield finished, future.result()
        for _ in range(pending):
            finished, future = done.get()
            yield finished, future.result()

    def close(self) -> None:
        """Drop what is queued, end the workers, and wait until nothing is left of them."""
        if self._closed or os.getpid() != self._pid:  # a fork of the caller does not own the workers
            return
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        self._end_workers()
        for thread in self._threads:
            thread.join()
        while not self._jobs.empty():
            if (item := self._jobs.get()) is not None:
                item[0].set_exception(CancelledError())

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_workers(self) -> None:
        workers = [worker for worker in self._workers if worker]
        for worker in workers:
            worker.hang_up()
        give_up = time.monotonic() + CLOSE_LIMIT
        for worker in workers:
            worker.kill(after=max(give_up - time.monotonic(), 0.001))

    def _serve(self, number: int) -> None:
        while (item := self._jobs.get()) is not None and not self._closed:
            future, job = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._judge(number, job))
            except BaseException as error:
                future.set_exception(error)
        if item is not None:
            item[0].set_exception(CancelledError())

    def _judge(self, number: int, job: dict[str, Any]) -> Verdict:
        """Run one job on one worker, starting another worker where the first one broke."""
        verdict = Verdict("infrastructure", "")
        for _ in range(2):
            try:
                worker = self._workers[number] or self._restart(number)
                verdict = worker.check(job)
            except (_Dead, TimeoutError, OSError) as error:
                verdict = Verdict("infrastructure", f"the worker failed: {error}")
            if self._closed:
                raise CancelledError
            if worker.process.poll() is not None or verdict.status == "infrastructure":
                worker.kill()
                self._workers[number] = None
            if verdict.status != "infrastructure":
                break
        return verdict

    def _restart(self, number: int) -> _Worker:
        worker = self._workers[number] = _Worker(self._settings[number])
        worker.receive(START_LIMIT)
        return worker


def missing_layers(layers: dict[str, Any]) -> list[str]:
    """The required layers that do not hold, or why none could be tried."""
    if "error" in layers:
        return [f"everything ({layers['error']})"]
    return [name for name in REQUIRED_LAYERS if not layers.get(name)]


def self_test(sandbox: Sandbox | None = None) -> None:
    """Try a handful of attacks, in about a second; every training run starts with this.

    Raises:
        InputError: one of them got through.
    """
    if sandbox is not None:
        sandbox_probe.self_test(sandbox)
        return
    with Sandbox(num_workers=1) as own:
        sandbox_probe.self_test(own)


def probe() -> int:
    """Print what holds on this machine. Returns the exit code: 0 if that is enough."""
    try:
        sandbox = Sandbox(num_workers=1, allow_missing_layers=True)
    except InputError as error:
        print(error)
        return 1
    with sandbox:
        missing = missing_layers(sandbox.layers)
        for name, value in sandbox.layers.items():
            text = ", ".join(value) if isinstance(value, list) else {True: "yes", False: "no"}.get(value, value)
            required = "required" if name in REQUIRED_LAYERS else "a bonus"
            print(f"{name:<12} {required:<9} {text or 'none'}")
        problems = sandbox_probe.attack(sandbox) if "error" not in sandbox.layers else []
    for problem in problems:
        print(f"got through: {problem}")
    print(f"missing: {', '.join(missing)}" if missing else f"{len(sandbox_probe.ATTACKS)} attacks tried")
    return 1 if missing or problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs untrusted Python; see docs/sandbox.md.")
    parser.add_argument("--probe", action="store_true", help="print the layers that hold on this machine")
    if parser.parse_args().probe:
        return probe()
    parser.print_help()
    return 2


if __name__ == "__main__":
    sys.exit(main())
