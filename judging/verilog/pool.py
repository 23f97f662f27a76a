"""Judge Verilog on a pool of workers, and compute the weighted score of a verdict's parts."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from common import InputError
from judging.pool import Sandbox, Verdict
from judging.tasks import code_of, prose_of
from judging.verilog.reasoning import ReasoningJudge, explanation
from judging.verilog.tools import find_tools

PARTS = ("compilation", "functional", "synthesis", "quality", "reasoning")


WEIGHTS = (0.4, 0.5, 0.3, 0.5, 0.6)  # weights of PARTS, in the same order


TASK_FIELDS = ("prompt", "test", "top_module")


JUDGES_AT_A_TIME = 8  # number of simultaneous requests to the judge model


def score(parts: Mapping[str, float], weights: Sequence[float] = WEIGHTS) -> float:
    """Return the weighted mean of the parts that are present, in [0, 1].

    Raises:
        InputError: there are not five weights, one is negative or infinite, or all of the parts present have weight 0.

    >>> score({"compilation": 1.0, "functional": 0.5, "synthesis": 1.0, "quality": 1.0})
    0.8529411764705882
    >>> score({"compilation": 1.0, "functional": 0.25}, (0, 1, 0, 0, 0))
    0.25
    """
    if len(weights) != len(PARTS) or any(not 0 <= weight < float("inf") for weight in weights):
        raise InputError(f"want {len(PARTS)} weights of 0 or more: {', '.join(PARTS)}")
    used = [(weight, parts[name]) for name, weight in zip(PARTS, weights, strict=True) if name in parts]
    total = sum(weight for weight, _ in used)
    if total <= 0:
        raise InputError("the weights of the parts in use are all 0")
    return sum(weight * part for weight, part in used) / total


class VerilogSandbox(Sandbox):
    """A pool of workers that judge Verilog. It is used like `Sandbox`, also from several threads.

    Args:
        time_limit: seconds of wall time for one check with all its tools, without the judge model's answer.
        memory_mib: MiB of address space for one tool.
        judge: the model that reads explanations; None leaves out the part `reasoning`.
        num_workers, allow_missing_layers, namespaces: as for `Sandbox`.

    Raises:
        InputError: the machine is not Linux, a tool or a required layer is missing, or a worker does not start.
    """

    program = "verilog/judge.py"

    def __init__(
        self,
        time_limit: float = 10.0,
        memory_mib: int = 1024,
        num_workers: int | None = None,
        allow_missing_layers: bool = False,
        judge: ReasoningJudge | None = None,
        namespaces: bool = True,
    ) -> None:
        if sys.platform != "linux":
            raise InputError("the Verilog sandbox needs Linux")
        self.extra = {"tools": find_tools()}
        self._references: dict[tuple[Any, ...], str] = {}  # task -> why its reference fails, or ""
        super().__init__(time_limit, memory_mib, num_workers, allow_missing_layers, namespaces=namespaces)
        self.judge = judge
        self._asking = ThreadPoolExecutor(JUDGES_AT_A_TIME, thread_name_prefix="verilog-judge") if judge else None

    def submit(self, task: dict[str, Any], completion: str, time_limit: float | None = None) -> Future[Verdict]:
        """Queue one check and return at once; its verdict is the future's result.

        Raises:
            InputError: the task lacks a field.
        """
        lacking = [name for name in TASK_FIELDS if not isinstance(task.get(name), str)]
        if lacking:
            raise InputError(f"task {task.get('task_id')!r} has no text field {lacking[0]!r}")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", task["top_module"]):
            raise InputError(f"task {task.get('task_id')!r}: top_module {task['top_module']!r} is not a module's name")
        kept = {name: task[name] for name in TASK_FIELDS}
        kept |= {"language": "verilog", "latches": task.get("latches") is True}
        code = code_of(task, completion)
        job = {"task": kept, "completion": code, "time_limit": time_limit or self.time_limit}
        job["reference"] = str(task.get("canonical_solution") or "")
        verdict = self._queue(job)
        if self._asking is None or self.judge is None:
            return verdict
        told = prose_of(completion, task) if task.get("instruct") else explanation(code)
        asked = self._asking.submit(self.judge.score, task["prompt"], told, code)
        return _joined(verdict, asked)

    def _judge(self, number: int, job: dict[str, Any]) -> Verdict:
        verdict = super()._judge(number, job)
        if verdict.judged and not verdict.passed and (reason := self._reference_fails(number, job)):
            return dataclasses.replace(
                verdict, status="refused", reason=reason, parts=None, tests_passed=None, tests_total=None
            )
        if verdict.judged and verdict.parts is None:  # the worker was late and had to be killed
            verdict = dataclasses.replace(verdict, parts=dict.fromkeys(PARTS[:-1], 0.0))
        return verdict

    def _reference_fails(self, number: int, job: dict[str, Any]) -> str:
        """Return why the task's own reference solution fails; "" if it passes or there is none.

        If it fails, no completion can be expected to pass. The reference has a separate check with its own time limit,
        so that no completion can influence the result.
        """
        if not job.get("reference", "").strip():
            return ""
        key = (*job["task"].values(), job["reference"])
        if key not in self._references:
            limit = max(self.time_limit, job["time_limit"])
            verdict = super()._judge(number, job | {"completion": job["reference"], "time_limit": limit})
            failed = verdict.judged and not verdict.passed
            reason = f"the task's own reference fails its testbench: {verdict.reason}" if failed else ""
            if not verdict.judged or verdict.status == "timeout":  # perhaps the machine's fault: do not keep it
                return reason
            self._references[key] = reason
        return self._references[key]

    def versions(self) -> dict[str, str]:
        """Return what each tool prints about its version."""
        return json.loads(self._queue({"ask": "versions", "time_limit": self.time_limit}).result().reason)

    def close(self) -> None:
        super().close()
        if self._asking is not None:
            self._asking.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> VerilogSandbox:
        return self


def _joined(verdict: Future[Verdict], asked: Future[float | None]) -> Future[Verdict]:
    """Return a future of the verdict with the part `reasoning` added, unless the judge model gave no answer."""
    both: Future[Verdict] = Future()
    both.set_running_or_notify_cancel()

    def join(_: Future[Any]) -> None:
        if not verdict.done() or not asked.done() or both.done():
            return
        try:
            result, reasoning = verdict.result(), asked.result()
            if result.parts is not None and reasoning is not None:
                result = dataclasses.replace(result, parts={**result.parts, "reasoning": reasoning})
            both.set_result(result)
        except BaseException as error:
            both.set_exception(error)

    asked.add_done_callback(lambda _: verdict.add_done_callback(join))
    return both
