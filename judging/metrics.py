"""Compute the statistics of an evaluation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist, mean
from typing import Any

import numpy as np

from judging.pool import UNJUDGED
from judging.tasks import Task, has_whole_program


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Estimate, without bias, the chance that at least one of k samples passes.

    The formula is 1 - C(n-c, k) / C(n, k) (arXiv 2107.03374, eq. 1). Raises ValueError unless 0 <= c <= n and
    1 <= k <= n.

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
    (0.25, 0.5, 1.0)
    """
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_correct} correct among {num_samples} is not defined")
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def wilson_interval(rate: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for a share `rate` observed on `count` trials (Wilson 1927,
    doi 10.2307/2276774).

    >>> [round(bound, 3) for bound in wilson_interval(12 / 33, 33)]
    [0.222, 0.534]
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = rate + z * z / (2 * count)
    spread = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return max(0.0, min(low, rate)), min(1.0, max(high, rate))  # rounding must not put the rate outside


def mean_parts(verdicts: list[dict[str, float] | None]) -> dict[str, float]:
    """Return the mean of each part of Verilog verdicts, over the verdicts that have this part.

    >>> mean_parts([{"compilation": 1.0, "functional": 0.5}, {"compilation": 0.0}, None])
    {'compilation': 0.5, 'functional': 0.5}
    """
    parts = [parts for parts in verdicts if parts]
    names = list(dict.fromkeys(name for one in parts for name in one))
    return {name: mean(one[name] for one in parts if name in one) for name in names}


def second_turn_rates(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a metrics file says of second turns, from per-task lines with `turn_2`; nothing if there are none.

    Returns:
        pass_at_1_turn_2: mean over tasks of the share of samples that pass at the first or at the second turn; and the
            same of cut completions, which decide whether a second turn is taken.
        turn_2_share, turn_2_pass: samples that took a second turn, and those of them whose cut second answer passes.
        turn_2_no_room: how many failed and had no room for a second turn.
    """
    if not rows or "turn_2" not in rows[0]:
        return {}
    failed = [row["turn_2"] for row in rows if row["turn_2"]]
    taken = [turn for turn in failed if turn["status"] != "no_room"]
    found: dict[str, Any] = {}
    for name in ("passed", "passed_stopped"):
        suffix = name.removeprefix("passed")
        by_task: dict[str, list[bool]] = {}
        for row in rows:
            by_task.setdefault(row["task_id"], []).append(row[name] or bool(row["turn_2"] and row["turn_2"][name]))
        rate = mean(mean(map(float, passed)) for passed in by_task.values())
        found[f"num_pass{suffix}_turn_2"] = sum(map(sum, by_task.values()))
        found[f"pass_at_1{suffix}_turn_2"] = rate
        found[f"pass_at_1{suffix}_turn_2_interval"] = wilson_interval(rate, len(by_task))
    return found | {
        "turn_2_share": len(taken) / len(rows),
        "turn_2_pass": mean(float(turn["passed_stopped"]) for turn in taken) if taken else None,
        "turn_2_no_room": len(failed) - len(taken),
        "avg_gen_len_turn_2": mean(turn["gen_len"] for turn in taken) if taken else None,
    }


def paired_difference(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, tuple[float, float], float]:
    """Compare two evaluations of the same tasks: mean of second - first, its interval, and a two-sided p-value.

    It speaks of what was evaluated, not of the method that made it: the seeds do not vary (`intervals.paired_t`).

    The interval is the percentile bootstrap over tasks (Efron 1979, doi 10.1214/aos/1176344552). The p-value is that of
    the paired randomisation test, which flips the sign of each task's difference at random (Fisher 1935). For two
    evaluations with one sample per task this is McNemar's exact test, up to the number of draws.

    Args:
        first, second: one score per task, for example a mean over seeds; both in the same order.

    >>> difference, interval, p = paired_difference([0.0, 0.0, 1.0, 0.0] * 25, [1.0, 0.0, 1.0, 0.0] * 25)
    >>> difference, p < 0.001
    (0.25, True)
    """
    if len(first) != len(second) or not len(first):
        raise ValueError("need scores of the same tasks, at least one")
    differences = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)  # (N,)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(
        len(differences), np.full(len(differences), 1 / len(differences)), size=draws
    )  # (draws, N)
    low, high = np.quantile(counts @ differences / len(differences), [0.5 - confidence / 2, 0.5 + confidence / 2])
    signs = rng.integers(0, 2, size=(draws, len(differences)), dtype=np.int8) * 2 - 1
    flipped = np.abs(signs @ differences)
    # the observed signs count as one of the draws; 1e-9 keeps rounding from separating equal sums
    p = (1 + np.sum(flipped >= abs(differences.sum()) - 1e-9)) / (1 + draws)
    return float(differences.mean()), (float(low), float(high)), float(p)


def fewest(rows: list[dict[str, Any]]) -> int:
    """Return the smallest number of per-task lines that a task has."""
    return min(Counter(row["task_id"] for row in rows).values())


def rates(rows: list[dict[str, Any]], suffix: str) -> dict[str, float]:
    """Return the scores of a run from its per-task lines: raw completions (`suffix` "") or cut ones ("_stopped").

    Returns:
        pass_at_k: over tasks, for every k up to the fewest samples a task has.
        success_rate: the share of tasks that at least one sample passes.
        test_pass_rate: the share of its task's tests that a completion passes, a mean over samples: 1 for one that
            passes, 0 for a failing one whose tests could not be counted.
    """
    groups: dict[str, list[bool]] = {}
    for row in rows:
        groups.setdefault(row["task_id"], []).append(row["passed" + suffix])
    found = {
        f"pass_at_{k}": sum(pass_at_k(len(group), sum(group), k) for group in groups.values()) / len(groups)
        for k in range(1, fewest(rows) + 1)
    }
    shares = [
        1.0 if row["passed" + suffix] else (row["tests_passed" + suffix] or 0) / (row["tests_total"] or 1)
        for row in rows
    ]
    found |= {"success_rate": sum(map(any, groups.values())) / len(groups), "test_pass_rate": sum(shares) / len(rows)}
    return {name + suffix: rate for name, rate in found.items()}


def unjudged(row: dict[str, Any]) -> bool:
    """Return whether a check of a per-task line has no verdict: of its completion, of the cut one, of its second turn.

    >>> unjudged({"status": "pass", "status_stopped": "infrastructure"}), unjudged({"status": "fail"})
    (True, False)
    """
    turn = row.get("turn_2") or {}
    found = (row["status"], row.get("status_stopped"), turn.get("status"), turn.get("status_stopped"))
    return any(status in UNJUDGED for status in found)


def metrics_of(rows: list[dict[str, Any]], tasks: list[Task]) -> dict[str, Any]:
    """Return the scores of a run from its per-task lines, and what else the metrics file says of them."""
    raw = rates(rows, "")
    judged = [row for row in rows if row.get("parts")]
    parts = {name: mean_parts([row[name] for row in judged]) for name in ("parts", "parts_stopped") if judged}
    ends = [row["ended"] for row in rows if row["ended"] is not None]
    by_id = {task["task_id"]: task for task in tasks}
    broken = [row["ended"] is False and not has_whole_program(by_id[row["task_id"]], row["completion"]) for row in rows]
    lengths = [row["gen_len"] for row in rows if row["gen_len"] is not None]
    return {
        "num_tasks": len(tasks),
        "num_samples": len(rows),
        "num_pass": sum(row["passed"] for row in rows),
        **raw,
        "pass_at_1_interval": wilson_interval(raw["pass_at_1"], len(tasks)),
        "num_pass_stopped": sum(row["passed_stopped"] for row in rows),
        **rates(rows, "_stopped"),
        **second_turn_rates(rows),
        **parts,
        "avg_gen_len": sum(lengths) / len(lengths) if lengths else None,
        "cut_off": sum(not ended for ended in ends) / len(ends) if ends else None,
        "broken_off": sum(broken) / len(ends) if ends else None,
        "statuses": dict(Counter(row["status"] for row in rows)),
        "unjudged": sum(unjudged(row) for row in rows),
        "weak": sum(row["weak"] for row in rows),
    }
