"""Measure how fast programs are judged by what they print, against a fresh interpreter for each input.

    python benchmarks/bench_stdio.py [--inputs 10 100] [--rounds 5] [--workers 1 2] [--limit 8]

Both ways run the same small right programs, one for each task, and compare what they print in the same way. They take
turns within a round; the ratio is computed there, and medians over the rounds are printed. Only the sandbox locks the
programs down.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.bench_sandbox import machine, measure
from judging.pool import Sandbox
from judging.python.stdio import difference

TIME_LIMIT, TOTAL_LIMIT = 10.0, 600.0  # seconds
PROGRAMS = (  # each reads some numbers; by the ways in which programs read and print
    "print(sum(map(int, input().split())))\n",
    "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n",
    "import sys\nsys.stdout.write(str(sum(map(int, sys.stdin.buffer.readline().split()))) + '\\n')\n",
    "def main():\n    n = [int(word) for word in open(0).read().split()]\n    print(sum(n))\n\n\nmain()\n",
)


def make_tasks(count: int, inputs: int) -> list[dict[str, Any]]:
    """Return tasks with this many inputs each: sums of some numbers."""
    numbers = [[n, 3 * n, n * n] for n in range(inputs)]
    texts = {
        "inputs": [" ".join(map(str, row)) + "\n" for row in numbers],
        "outputs": [f"{sum(row)}\n" for row in numbers],
    }
    return [
        {"task_id": f"sum/{n}", "prompt": "", "canonical_solution": PROGRAMS[n % len(PROGRAMS)], **texts}
        for n in range(count)
    ]


def fresh(tasks: list[dict[str, Any]], workers: int) -> int:
    """Start an interpreter for each input; return how many programs pass."""

    def run(task: dict[str, Any]) -> bool:
        command = [sys.executable, "-c", task["canonical_solution"]]
        for given, expected in zip(task["inputs"], task["outputs"], strict=True):
            done = subprocess.run(command, input=given.encode(), capture_output=True, timeout=TIME_LIMIT)
            if done.returncode or difference(done.stdout, expected.encode()):
                return False
        return True

    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(run, tasks))


def compare(tasks: list[dict[str, Any]], workers: int, rounds: int) -> dict[str, list[float]]:
    """Return programs per second of both ways in every round; the order alternates."""
    with Sandbox(time_limit=TIME_LIMIT, total_limit=TOTAL_LIMIT, num_workers=workers) as sandbox:

        def ours(tasks: list[dict[str, Any]], workers: int) -> int:
            return sum(v.passed for v in sandbox.check_many((t, t["canonical_solution"]) for t in tasks))

        return measure({"sandbox": ours, "python": fresh}, tasks, workers, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--inputs", type=int, nargs="+", default=[10, 100], help="inputs of a task")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--limit", type=int, default=8, help="programs in a round")
    args = parser.parse_args()
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}\n")
    print(
        "| way | inputs | workers | programs/s, median (range) | inputs/s | against python |\n|---|---|---|---|---|---|"
    )
    for inputs in args.inputs:
        for workers in args.workers:
            speeds = compare(make_tasks(args.limit, inputs), workers, args.rounds)
            for name, values in speeds.items():
                middle, span = statistics.median(values), f"{min(values):.2f}-{max(values):.2f}"
                ratio = statistics.median(a / b for a, b in zip(values, speeds["python"], strict=True))
                print(
                    f"| {name} | {inputs} | {workers} | {middle:.2f} ({span}) | {middle * inputs:.0f} | {ratio:.2f}x |"
                )


if __name__ == "__main__":
    main()
