"""Runs untrusted Python against a task's tests and returns a verdict.

Every check runs in a fresh child process with a time limit, a memory limit, an empty environment and its own process
group, which is killed afterwards. A pass takes proof that the last line of the tests was reached; an exit code is none.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tasks import Task, candidate_source, test_source

WORKER = Path(__file__).with_name("sandbox_worker.py")


@dataclass(frozen=True)
class Verdict:
    """What became of one completion.

    status: pass, fail, timeout, memory, crash, syntax, no_entry_point, or infrastructure (the check itself broke; such
        a sample is left out of training, never scored 0).
    reason: one line for a person; empty for a pass.
    """

    status: str
    reason: str
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status == "pass"


class Sandbox:
    """A pool of workers, each of which forks one child a check. A context manager; `close` ends the workers.

    Args:
        time_limit: seconds a check may take.
        memory_mib: address space of a check.
        num_workers: checks at a time; the number of cores by default.
    """

    def __init__(self, time_limit: float = 5.0, memory_mib: int = 1024, num_workers: int | None = None):
        self.time_limit, self.memory_mib = time_limit, memory_mib
        num_workers = num_workers or len(os.sched_getaffinity(0))
        self._free: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
        self._workers: list[subprocess.Popen] = []
        self._lock = threading.Lock()
        for _ in range(num_workers):
            self._free.put(self._start_worker())
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="sandbox")

    def _start_worker(self) -> subprocess.Popen:
        # exec, not fork: the caller may hold gigabytes, threads and a CUDA context
        command = [sys.executable, "-I", "-S", str(WORKER)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        worker = subprocess.Popen(command, env={}, cwd="/", text=True, encoding="utf-8", **pipes)
        with self._lock:
            self._workers.append(worker)
        return worker

    def submit(self, task: Task, completion: str) -> Future[Verdict]:
        """Queue one check and return at once."""
        return self._threads.submit(self._check, task, completion)

    def check(self, task: Task, completion: str) -> Verdict:
        return self.submit(task, completion).result()

    def check_many(self, pairs: Iterable[tuple[Task, str]]) -> list[Verdict]:
        """Verdicts in the order of the pairs."""
        return [future.result() for future in [self.submit(*pair) for pair in pairs]]

    def as_completed(self, pairs: Iterable[tuple[Task, str]]) -> Iterator[tuple[int, Verdict]]:
        """(index of the pair, verdict) as the checks finish."""
        futures = {self.submit(*pair): index for index, pair in enumerate(pairs)}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def _check(self, task: Task, completion: str) -> Verdict:
        request = {"candidate": candidate_source(task, completion), "test": test_source(task),
                   "entry_point": task["entry_point"], "time_limit": self.time_limit, "memory_mib": self.memory_mib,
                   "secret": secrets.token_hex(16)}  # fmt: skip
        for _ in range(2):
            worker = self._free.get()
            try:
                worker.stdin.write(json.dumps(request) + "\n")
                worker.stdin.flush()
                return Verdict(**json.loads(worker.stdout.readline()))
            except (OSError, ValueError):
                worker.kill()
                worker = self._start_worker()
            finally:
                self._free.put(worker)
        return Verdict("infrastructure", "the sandbox worker died twice on this check")

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.stdin.close()
            worker.wait()
            worker.stdout.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exception) -> None:
        self.close()
