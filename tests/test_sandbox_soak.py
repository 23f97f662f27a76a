"""Ten thousand checks, a quarter of them hostile: no verdict changes, nothing is left, nothing grows."""

import gzip
import json
import os
import random
import resource
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from attack_runner import Traces, available, judges_of, pair, processes  # noqa: E402
from attacks import TASKS, corpus  # noqa: E402

from judging.pool import Sandbox  # noqa: E402

HUMANEVAL = ROOT.parent / "shared" / "data" / "HumanEval.jsonl.gz"
CHECKS = int(os.environ.get("SOAK_CHECKS", "10000"))


def benign():
    """(task, completion) pairs that pass, and some that fail honestly."""
    if HUMANEVAL.is_file():
        with gzip.open(HUMANEVAL, "rt") as lines:
            tasks = [json.loads(line) for line in lines]
        # HumanEval/75 alone costs as much as a hundred others
        tasks = [task for task in tasks if task["task_id"] != "HumanEval/75"]
        pairs = [(task, task["canonical_solution"]) for task in tasks]
        return pairs + [(task, tasks[i - 1]["canonical_solution"]) for i, task in enumerate(tasks)]
    return [(TASKS["double"], f"    return {factor} * x\n") for factor in (1, 2, 3, 2.0)]


def resident_mib():
    """This process's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.slow
def test_soak():
    traces = Traces()
    rng = random.Random(0)
    try:
        # what runs into its limit on purpose takes a second each: a few of those, and all the others
        rows = [row for row in corpus() if available(row) and row.expected != ("pass",)]
        rows = [row for row in rows if "timeout" not in row.expected or rng.random() < 0.1]
        hostile = [(*pair(row, traces), row.limit) for row in rows]
        kind = [(task, completion, 5.0) for task, completion in benign()]
        with Sandbox(num_workers=2) as pool:
            judges = judges_of(pool)
            quiet = {(id(job[0]), job[1]): pool.check(*job).status for job in hostile + kind}
            jobs = [rng.choice(hostile if n % 4 == 0 else kind) for n in range(CHECKS)]
            memory, descriptors, different = [], [], []
            for start in range(0, CHECKS, 500):
                futures = [(job, pool.submit(*job)) for job in jobs[start : start + 500]]
                for job, future in futures:
                    status = future.result().status
                    wanted = quiet[id(job[0]), job[1]]
                    if status != wanted and "timeout" in (status, wanted):
                        status = pool.check(*job).status  # again, alone
                    if status != wanted:
                        different.append((job[1], wanted, status))
                judges |= judges_of(pool)
                memory.append(resident_mib())
                descriptors.append(len(os.listdir("/proc/self/fd")))
        time.sleep(0.1)
        # rows that may end in two ways, such as a thread that races its own process, may differ
        steady = {pair(row, traces)[1] for row in rows if len(row.expected) == 1} | {job[1] for job in kind}
        assert [d for d in different if d[0] in steady] == []
        assert processes(judges) == []
        assert traces.differences() == []
        assert max(descriptors) - descriptors[0] <= 2
        settled = memory[len(memory) // 4 :]
        assert max(settled) - settled[0] < 4, memory
    finally:
        traces.close()
