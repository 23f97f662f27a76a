"""Show a run on the screen: one line a step with the time left, and at the end what to look at.

`--quiet` prints only errors. `--json_lines` prints the log's records, one a line, and everything else on stderr. A
step's line shows a part of its record; the log has all of it. docs/metrics.md explains the metrics, healthy and sick.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from statistics import fmean
from typing import Any

from common.text import duration

SHOWN = {  # name in the record: label and format on the screen, in this order
    "base_reward": ("pass", ".1%"),
    "reward": ("reward", ".3f"),
    "kept": ("kept", ".0f"),
    "functional": ("functional", ".2f"),
    "loss": ("loss", ".4g"),
    "accuracy": ("accuracy", ".0%"),
    "margin": ("margin", ".3g"),
    "chosen_logprob": ("chosen log p", ".3g"),
    "gen_len": ("length", ".1f"),
    "cut_off": ("cut off", ".0%"),
    "entropy": ("entropy", ".3f"),
    "kl_reference": ("KL", ".3g"),
    "clip_fraction": ("clipped", ".0%"),
    "explained_variance": ("critic explains", ".0%"),
    "grad_norm": ("gradient", ".3g"),
    "valid_pass_rate": ("valid pass", ".1%"),
    "curve_pass_rate": ("curve", ".1%"),
}
ALARMS = ("left_out", "skipped_updates", "weak", "dropped_groups", "retried")  # shown only if they are not 0


def step_line(record: dict[str, Any], share: float, left: float) -> str:
    """Format a step as one line.

    Args:
        share: the share of the run that is done.
        left: seconds that the rest takes at this speed; negative if not known.

    >>> step_line({"step": 3, "base_reward": 0.5, "gen_len": 46.125, "left_out": 0}, 0.25, 75)
    'step 3  25%  pass 50.0%  length 46.1  left 1 min 15 s'
    """
    known = [name for name in SHOWN if isinstance(record.get(name), int | float)]
    if "base_reward" in known:  # a policy gradient's loss says little
        known = [name for name in known if name != "loss"]
    metrics = [f"{SHOWN[name][0]} {record[name]:{SHOWN[name][1]}}" for name in known]
    alarms = [f"{name.replace('_', ' ')} {record[name]}" for name in ALARMS if record.get(name)]
    fleet = [f"{value:.0f}" for name, value in record.items() if name.startswith("server")]  # of each server
    speeds = [f"tokens/s {' + '.join(fleet)}"] if fleet else []
    rest = [f"left {duration(left)}"] if left >= 0 and share < 1 else []
    return "  ".join([f"step {record['step']}", f"{share:.0%}", *metrics, *alarms, *speeds, *rest])


class Screen:
    """Where the lines of a run go.

    share: the share of the run that was done when this process began: more than 0 if it resumes.
    """

    def __init__(self, args: Any, share: float = 0.0) -> None:
        from common import processes  # not at the top: the rest needs no torch

        first = processes.processes().is_main_process
        told = args.quiet and not getattr(args, "dry_run", False)  # a dry run is made for what it prints
        self.quiet, self.json_lines, self.out = told or not first, args.json_lines and first, sys.stdout
        self.began, self.share = time.perf_counter(), share

    @contextlib.contextmanager
    def notes(self) -> Iterator[None]:
        """Send what is printed within the block where notes go: to the screen, to stderr, or nowhere."""
        with contextlib.ExitStack() as stack:
            if self.json_lines:
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            elif self.quiet:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            yield

    def show(self, record: dict[str, Any], share: float) -> None:
        """Show a record. share: the share of the run that is done with it."""
        if self.json_lines:
            print(json.dumps(record), file=self.out, flush=True)
        elif not self.quiet:
            made, spent = share - self.share, time.perf_counter() - self.began
            print(step_line(record, share, spent * (1 - share) / made if made > 0 else -1), file=self.out, flush=True)


def summary(records: list[dict[str, Any]], method: str, seconds: float, num_samples: int = 2) -> list[str]:
    """Summarise a run: the first and the last tenth of its steps side by side, and what to look at.

    Args:
        records: the records of its log, in order.
        seconds: how long it took, from its beginning.
        num_samples: completions a task.
    """
    steps = [record for record in records if record["step"] > 0]
    if not steps:
        return [f"{method}: no step was made"]
    tokens = steps[-1].get("sampled_tokens")
    head = [f"{steps[-1]['step']} steps", *([f"{tokens:,} sampled tokens"] if tokens else []), duration(seconds)]
    lines = [f"{method}: {', '.join(head)}"]
    ends = first_and_last(records)  # step 0: what was measured at the start
    names = [name for name in SHOWN if name in ends and not (name == "loss" and "base_reward" in ends)]
    shown = [(*SHOWN[name], *ends[name]) for name in names]
    changes = [f"{label} {first:{how}} to {last:{how}}" for label, how, first, last in shown]
    if changes and len(steps) > 1:
        lines.append(f"first tenth of the steps to the last: {', '.join(changes)}")
    found = findings(records, ends, num_samples)
    return lines + [f"look at: {finding}" for finding in found]


def first_and_last(steps: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return each metric's mean over the first, and over the last, tenth of the steps that have it."""
    ends = {}
    for name in dict.fromkeys(name for step in steps for name in step):
        values = [step[name] for step in steps if isinstance(step.get(name), int | float)]
        if values:
            few = max(1, len(values) // 10)
            ends[name] = fmean(values[:few]), fmean(values[-few:])
    return ends


def findings(records: list[dict[str, Any]], ends: dict[str, tuple[float, float]], num_samples: int = 2) -> list[str]:
    """Return what looks sick in the log, by the rules of thumb of docs/metrics.md."""
    first, last = ({name: pair[which] for name, pair in ends.items()} for which in (0, 1))
    passed, reward = last.get("base_reward"), last.get("reward")
    found = []
    if passed is not None and not any(record.get("base_reward") for record in records):
        found.append(
            "no completion passes; the report gives the reasons (or the tests ask for what the model cannot do)"
        )
    elif (
        passed is not None
        and "set_aside" not in last  # a selection draws harder tasks as the policy gets better
        and len(records) >= 50  # of fewer it is noise
        and passed < first["base_reward"] - 0.05
    ):
        up = " while the reward rose: it pays for something other than the tests" if reward > first["reward"] else ""
        found.append(f"the pass rate fell from {first['base_reward']:.1%} to {passed:.1%}{up}; lower --learning_rate")
    valid = [(record["valid_pass_rate"], record["step"]) for record in records if "valid_pass_rate" in record]
    best = max(valid, key=lambda pair: pair[0], default=None)  # the first of equals, as it is kept
    if best and best[0] > valid[-1][0] + 0.02:
        found.append(f"validation tasks: {best[0]:.1%} at step {best[1]}, {valid[-1][0]:.1%} at the end")
    if last.get("cut_off", 0) > 0.1:
        found.append(f"{last['cut_off']:.0%} of the completions still reach --max_new_tokens without ending")
    if last.get("gen_len", 10) < 3:
        found.append(f"completions have shrunk to {last['gen_len']:.1f} tokens")
    if last.get("entropy", 1) < 0.02:
        found.append("entropy is near 0: all samples of a task are the same, and nothing is left to learn from")
    if last.get("tied_groups", 0) > 0.9 and num_samples > 1:
        found.append("nearly all groups pass or fail as a whole; choose tasks by their difficulty (task_difficulty.py)")
    if last.get("approx_kl", 0) > 0.1:
        found.append("the policy moves far within a batch (approx_kl); fewer passes, or a lower --learning_rate")
    if "chosen_logprob" in last and last["chosen_logprob"] < first["chosen_logprob"] - 0.5:
        found.append("log p of the chosen completions falls too (likelihood displacement); a higher --beta")
    unjudged = sum(record.get("left_out", 0) for record in records)
    if unjudged:
        found.append(f"{unjudged} samples could not be judged and were left out; docs/sandbox.md")
    if last.get("skipped_updates"):
        found.append(f"{records[-1]['skipped_updates']} updates were not finite and left out; lower --learning_rate")
    return found
