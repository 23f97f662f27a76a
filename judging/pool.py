"""Judge completions on a pool of workers: `Sandbox` takes them and returns a `Verdict` for each."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

from common import InputError
from judging.codec import TooBig
from judging.paths import readable
from judging.tasks import before, code_of, is_program
from judging.worker import Dead, Worker

STATUSES = (
    "pass",  # the tests ran to their last line, every assert held, and they called the function
    "fail",  # an assert did not hold, or the program or a test raised an exception
    "timeout",  # the limit on wall or CPU time was exceeded
    "memory",  # MemoryError
    "crash",  # the program ended itself or a signal killed it
    "protocol",  # the program sent the judge something unasked, or closed the connection
    "syntax",  # the program does not compile
    "no_entry_point",  # the program does not define the function, or defines something that cannot be called
    "refused",  # the tests cannot be run outside the program's interpreter; says nothing about the completion
    "infrastructure",  # our code or the machine failed twice; says nothing about the completion
)


UNJUDGED = ("refused", "infrastructure")  # these give no reward at all, not a reward of 0


REQUIRED_LAYERS = ("rlimits", "landlock", "seccomp")


TASK_FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point", "test_list", "test_setup_code",
               "inputs", "outputs")  # fmt: skip


START_LIMIT = 20.0  # seconds for a worker to start


CLOSE_LIMIT = 0.3  # seconds that workers have to clean up by themselves


JUDGE_MIB = 4096  # upper limit on a judge's address space


JUDGE_SHARE = 0.5  # share of the machine's memory for all judges together


# signals that end a judge that fails on a returned value; nothing outside sends it these
CRASHES = tuple(-number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL))


@dataclass(frozen=True)
class Verdict:
    """The result of checking one completion.

    Attributes:
        status: one of `STATUSES`.
        reason: one line that says what went wrong; "" for a pass.
        wall_seconds: wall time since the start of the check.
        cpu_seconds: CPU time of the candidate's process.
        peak_mib: the largest resident memory of that process, in MiB.
        tests_passed, tests_total: counts of the task's tests, or of its inputs; None if they cannot be counted.
        weak: the tests ran in the candidate's interpreter, so it could have forged a pass.
        parts: the parts of a Verilog verdict, each in [0, 1]; None for Python.
    """

    status: str
    reason: str
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0
    tests_passed: int | None = None
    tests_total: int | None = None
    weak: bool = False
    parts: dict[str, float] | None = None

    @property
    def passed(self) -> bool:
        """Whether the completion passed all tests."""
        return self.status == "pass"

    @property
    def judged(self) -> bool:
        """Whether the verdict says anything about the completion; if not, leave the sample out of the batch."""
        return self.status not in UNJUDGED


class Sandbox:
    """A pool of workers that judge completions.

    Args:
        time_limit: seconds of wall time for one check, including loading the program; for a task that is judged by
            what a program prints, for one of its inputs.
        memory_mib: MiB of address space for one candidate.
        num_workers: number of checks that run at the same time; None means one for each core that this process may
            use, divided among the processes of a launcher.
        allow_missing_layers: run even if a required layer is missing (on anything but a recent Linux).
        allow_weak_tests: run tests that cannot be separated from the program in the candidate's interpreter; otherwise
            such tests are refused.
        namespaces: use them where the machine allows it; False tests the sandbox without them.
        packages: packages that programs may import beside the standard library; those not installed are ignored.
        total_limit: seconds of wall time for all inputs of one completion.
        compare, tolerance: how printed text is compared (`judging.python.stdio.difference`).
        count_all: run a program on the inputs after one that failed too, so that `tests_passed` counts them all.

    Attributes:
        layers: the protections that hold on this machine, for run logs and metrics files.

    Raises:
        InputError: a required layer is missing on this machine, a limit is too small, or a worker does not start.
    """

    program = "python/judge.py"  # the script that a worker runs
    extra: dict[str, Any] = {}  # further settings for a worker, from subclasses

    def __init__(
        self,
        time_limit: float = 5.0,
        memory_mib: int = 1024,
        num_workers: int | None = None,
        allow_missing_layers: bool = False,
        allow_weak_tests: bool = False,
        namespaces: bool = True,
        packages: Iterable[str] = ("numpy",),
        total_limit: float = 30.0,
        compare: str = "lines",
        tolerance: float = 0.0,
        count_all: bool = False,
    ) -> None:
        if sys.platform != "linux" and not allow_missing_layers:
            raise InputError("the sandbox needs Linux with Landlock and seccomp; docs/sandbox.md says what else works")
        if time_limit <= 0 or memory_mib < 64:
            raise InputError("the sandbox needs a time limit above 0 s and 64 MiB of memory or more")
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0] * (os.cpu_count() or 1)
        self.time_limit = time_limit
        # the processes of a launcher share the machine's cores and memory
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self.num_workers = num_workers or max(1, len(cores) // sharing)
        # A worker's judge and its child take turns. If there is a worker for every core, the two share one: switching
        # on one core costs less than waking another (a third more checks per second on a busy machine).
        pins = [cores[n % len(cores)] if self.num_workers >= len(cores) else None for n in range(self.num_workers)]
        self.allow_weak_tests = allow_weak_tests
        self.printing = {"total_limit": total_limit, "compare": compare, "tolerance": tolerance, "all": count_all}
        paths = readable(tuple(packages))
        judge_mib = max(512, min(JUDGE_MIB, int(JUDGE_SHARE * machine_mib() / self.num_workers / sharing)))
        shared = {
            "memory_mib": memory_mib,
            "judge_mib": judge_mib,
            "namespaces": namespaces,
            "paths": paths,
            **self.extra,
        }
        self._settings = [{**shared, "core": pin} for pin in pins]
        self._pid = os.getpid()
        self._closed = False
        self._lock = threading.Lock()  # close() must not miss a worker that is being restarted
        self._jobs: queue.SimpleQueue[tuple[Future[Verdict], dict[str, Any]] | None] = queue.SimpleQueue()
        self._workers: list[Worker | None] = [Worker(settings, self.program) for settings in self._settings]
        try:
            reports = [worker.receive(START_LIMIT) for worker in self._workers if worker]
        except (Dead, TimeoutError) as error:
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
        """Queue one check and return at once; its verdict is the future's result.

        Args:
            time_limit: seconds of wall time; None means the sandbox's own limit.

        Raises:
            InputError: the task lacks a field.
            RuntimeError: the sandbox is closed.
        """
        if self._closed:
            raise RuntimeError("the sandbox is closed")
        lacking = [name for name in ("prompt",) if not isinstance(task.get(name), str)]
        if is_program(task):
            lacking += [name for name in ("inputs", "outputs") if not isinstance(task.get(name), list)]
        elif not task.get("test_list"):
            lacking += [name for name in ("test", "entry_point") if not isinstance(task.get(name), str)]
        if lacking:
            kind = "list" if lacking[0] in ("inputs", "outputs") else "text field"
            raise InputError(f"task {task.get('task_id')!r} has no {kind} {lacking[0]!r}")
        code = code_of(task, completion)
        job = {
            "task": {name: task[name] for name in TASK_FIELDS if name in task} | {"prompt": before(task, code)},
            "completion": code,
            "time_limit": time_limit or self.time_limit,
            "weak": self.allow_weak_tests,
            **(self.printing if is_program(task) else {}),
        }
        return self._queue(job)

    def _queue(self, job: dict[str, Any]) -> Future[Verdict]:
        future: Future[Verdict] = Future()
        with self._lock:  # otherwise close() could drain the queue between the test and the put
            if self._closed:
                raise RuntimeError("the sandbox is closed")
            self._jobs.put((future, job))
        return future

    def check(self, task: dict[str, Any], completion: str, time_limit: float | None = None) -> Verdict:
        """Judge one completion of one task."""
        return self.submit(task, completion, time_limit).result()

    def check_many(self, pairs: Iterable[tuple[dict[str, Any], str]]) -> list[Verdict]:
        """Judge (task, completion) pairs on all workers; return the verdicts in the order of the pairs."""
        futures = [self.submit(task, completion) for task, completion in pairs]
        return [future.result() for future in futures]

    def as_completed(self, pairs: Iterable[tuple[dict[str, Any], str]]) -> Iterator[tuple[int, Verdict]]:
        """Yield (index of the pair, verdict) as checks finish.

        `pairs` may be a generator that samples: completions are judged while it produces the next ones.
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

    def versions(self) -> dict[str, str]:
        """Return the versions of the programs that a check runs beside Python; none for Python tasks."""
        return {}

    def close(self) -> None:
        """Cancel queued checks, end the workers, and wait until they are gone."""
        if self._closed or os.getpid() != self._pid:  # a forked copy of this process does not own the workers
            return
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        self._end_workers()
        for thread in self._threads:
            thread.join()
        while not self._jobs.empty():
            if (item := self._jobs.get()) is not None and item[0].set_running_or_notify_cancel():
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
        if item is not None and item[0].set_running_or_notify_cancel():
            item[0].set_exception(CancelledError())

    def _judge(self, number: int, job: dict[str, Any]) -> Verdict:
        """Run one job on one worker; if the worker breaks, start another and try once more."""
        verdict, ends = Verdict("infrastructure", ""), []
        for _ in range(2):
            try:
                verdict = Verdict(**self._running(number).check(job))
            except TooBig as error:
                return Verdict("syntax", f"task and completion cannot be sent: {error}")
            except (Dead, TimeoutError, OSError) as error:
                verdict = Verdict("infrastructure", f"the worker failed: {error}")
                ends.append(getattr(error, "code", None))
            if self._closed:
                raise CancelledError
            worker = self._workers[number]
            broken = verdict.status == "infrastructure"
            if worker and (broken or worker.process.poll() is not None):
                worker.kill()
                self._workers[number] = None
            if verdict.status != "infrastructure":
                break
        if len(ends) == 2 and all(end in CRASHES for end in ends):
            return Verdict("crash", "the tests crashed the judge on what the program returned")
        return verdict

    def _running(self, number: int) -> Worker:
        """Return the worker with this number; start it again if it was ended."""
        worker = self._workers[number]
        if worker is None:
            with self._lock:
                if self._closed:
                    raise CancelledError
                worker = self._workers[number] = Worker(self._settings[number], self.program)
            layers = worker.receive(START_LIMIT)
            if missing_layers(layers) != missing_layers(self.layers):
                raise Dead(f"{', '.join(missing_layers(layers))} is missing after a restart")
        return worker


def machine_mib() -> int:
    """Return the memory in MiB of this machine, or of this container if it has a limit."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # versions 2 and 1
        try:
            with open(path) as file:
                found.append(int(file.read()))
        except (OSError, ValueError):  # "max"
            pass
    return min(found) >> 20


def missing_layers(layers: dict[str, Any]) -> list[str]:
    """List the required layers that do not hold, or the reason why none could be tried."""
    if "error" in layers:
        return [f"everything ({layers['error']})"]
    return [name for name in REQUIRED_LAYERS if not layers.get(name)]
