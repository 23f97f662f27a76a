"""The frame around a training loop: folder, sandbox, steps, log, saved state. Each script has its own loop.

with training_run(args, "rl", tasks, args.num_steps, args.token_budget) as run:
    for _ in run.steps():
        samples = run.score(run.sample(args.batch_size), reward_fn)
        if not samples:                         # none could be judged
            run.skip_update({})
            continue
        ...                                     # advantage
        batch, metrics = run.batch(samples), Metrics()
        for micro_batch in run.micro_batches(batch):
            ...                                 # loss
            run.backward(loss)
            metrics.add(loss=loss)
        step_metrics = metrics.total() | {"grad_norm": run.clip_gradients()}
        if run.is_finite(step_metrics["loss"], step_metrics["grad_norm"], samples):
            run.optimizer.step()
        run.optimizer.zero_grad()
        run.scheduler.step()
        run.log(run.metrics(samples, advantage) | step_metrics | run.validate(), samples, advantage)
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from common import Preempted, processes, require
from judging.by_language import open_sandbox
from model import memory
from model.load import base_and_adapter, compute_dtype, load_tokenizer, pick_device, save_adapter, set_deterministic
from model.sampling_vllm import check_engine
from training.dry_run import report_dry_run
from training.learner import Learner
from training.learning_curve import LearningCurve
from training.metrics import completion_rows, step_metrics
from training.record import RunLog, conclude, finish_record, start_record
from training.replay import Replay
from training.resume import StopRequest, drop_state, read_state, restore_state, save_state
from training.sampler import Sampler
from training.samples import Sample
from training.screen import Screen
from training.task_order import TaskOrder
from training.tracking import Tracker, check_tracker, run_name
from training.validation import Validation, fixed_tasks


@contextlib.contextmanager
def training_run(
    args: Any,
    method: str,
    items: list,
    num_steps: int,
    token_budget: int = 0,
    critic: bool = False,
    judged: bool = True,
) -> Iterator[Run]:
    """Start a run, or resume an interrupted one. If the block ends without an error, save the adapter in `output_dir`.

    Args:
        method: its short name, which begins the log's file name.
        items: tasks or preference pairs; `run.draw` returns indices into this list.
        token_budget: the run also ends after the step in which this many tokens have been sampled; 0 sets no budget.
        critic: whether to train a critic too.
        judged: whether the run samples completions and judges them in a sandbox.

    Raises:
        InputError: the starting adapter or the output folder cannot be used, or the sandbox fails its self-test.
        Preempted: SIGTERM or SIGINT came; the state is saved.
    """
    check_tracker(args)
    compute_dtype(pick_device(), args.dtype)  # raises InputError if the device does not support it
    set_deterministic(args.deterministic)
    started, screen = time.perf_counter(), Screen(args)
    valid = fixed_tasks(args, items, getattr(args, "valid_path", ""))
    on_curve = fixed_tasks(args, items, args.curve_path)[: args.curve_tasks] if judged else []
    if judged:
        check_engine(args)
    require(
        base_and_adapter(args.sft_model)[1] is not None,
        f"--sft_model {args.sft_model}: is no adapter; run train_sft_lora.py first",
    )
    state = None

    def resumes(partial: Path) -> bool:
        nonlocal state
        state = read_state(partial, args)
        return state is not None

    output = processes.output_folder("" if args.dry_run else args.output_dir, keep=resumes)
    sandboxed = open_sandbox(args, items) if judged else nullcontext()
    with screen.notes():
        memory.warn_if_large(args, method, args.sft_model)
        with output as folder, sandboxed as sandbox, StopRequest() as stop:
            state = processes.from_first(state)
            with memory.answer_for_memory(args, lambda: "loading"):
                run = Run(args, method, items, num_steps, token_budget, folder, sandbox, stop, critic, valid, on_curve,
                          screen)  # fmt: skip
            run.opened = started
            if state is not None:
                run.restore(state)
            with run.open_log(), memory.answer_for_memory(args, lambda: run.phase):
                yield run
            if not args.dry_run:
                run.finish()
        if not args.dry_run and processes.processes().is_main_process:
            drop_state(Path(args.output_dir))  # not before the folder has its name: a kill would cost the whole run
            conclude(args.output_dir, method)


class Run(Learner):
    """The object that a script's loop works with: a `Learner` with the steps, samples and records of its training.

    step: the current step; 0 before the first. drawn, tokens: how many items were drawn, and tokens sampled, so far.
    seconds: training time of the interrupted runs that this one resumes.
    """

    def __init__(self, args, method, items, num_steps, token_budget, folder, sandbox, stop, critic, valid, on_curve,
                 screen):  # fmt: skip
        self.method, self.items, self.folder, self.screen = method, items, folder, screen
        self.num_steps, self.token_budget, self.sandbox, self.stop = num_steps, token_budget, sandbox, stop
        self.record = start_record(folder, args, **({"sandbox": sandbox.layers} if sandbox else {}))
        tokenizer = load_tokenizer(args.sft_model, args.trust_remote_code)
        self.sampler = Sampler(args, items, tokenizer, sandbox) if sandbox else None
        self.validation = self.curve = None
        if on_curve:
            prompts = self.sampler.encode(on_curve, args.curve_path)
            self.curve = LearningCurve(args.curve_path, on_curve, prompts, args.curve_every)
        if valid:
            prompts = self.sampler.encode(valid, args.valid_path)
            self.validation = Validation(args.valid_path, valid, prompts, args.valid_every, args.patience)
        if self.sampler:
            self.sampler.start_engine()
        super().__init__(args, tokenizer, num_steps, critic, folder)
        self.order, self.completions = TaskOrder(len(items), args), folder / "completions.jsonl"
        self.stateful = {"optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler}
        self.stateful |= {"order": self.order}
        replay = getattr(args, "replay", 0)  # GRPO's alone
        self.replay = Replay(replay) if replay else None
        self.stateful |= {"replay": self.replay} if self.replay else {}
        self.ahead = self.sampler.ahead if self.sampler else None
        self.stateful |= {"ahead": self.ahead} if self.ahead else {}
        self.stateful |= {"critic": self.critic} if critic else {}
        self.stateful |= {"validation": self.validation} if self.validation else {}
        self.stateful |= {"curve": self.curve} if self.curve else {}
        self.step = self.drawn = self.tokens = self.log_bytes = 0
        self.task_of_group: dict[int, int] = {}  # of this step
        self.seconds, self.opened, self.fresh = 0.0, time.perf_counter(), True

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.fresh = False
        position = restore_state(state, self.model, self.stateful)
        self.step, self.drawn, self.tokens = position["step"], position["drawn"], position["tokens"]
        self.log_bytes, self.finite.skipped = position["log_bytes"], position["skipped"]
        self.seconds, self.screen.share = position["seconds"], self.share_done
        self.finite.in_a_row = position["in_a_row"]
        if self.sampler:
            self.sampler.fresh, self.sampler.refused = False, position["refused"]
        if self.completions.exists():
            os.truncate(self.completions, position["completions_bytes"])
        print(f"resuming after step {self.step}")

    def save(self) -> None:
        save_state(self.folder, self.args, self.model, self.stateful, step=self.step, drawn=self.drawn,
                   tokens=self.tokens, log_bytes=self.log_file.size, skipped=self.finite.skipped,
                   in_a_row=self.finite.in_a_row, refused=self.sampler.refused if self.sampler else None,
                   completions_bytes=size_of(self.completions),
                   seconds=self.seconds + time.perf_counter() - self.opened)  # fmt: skip

    @contextlib.contextmanager
    def open_log(self) -> Iterator[None]:
        """Open log and tracker, and close them when the block ends, with or without an error."""
        self.log_file = RunLog(self.folder / f"{self.method}_train_log.jsonl", self.log_bytes)
        report_to = "none" if self.args.dry_run else self.args.report_to
        after = None if self.fresh else self.step
        self.tracker = Tracker(report_to, self.folder, asdict(self.args), run_name(self.args), after)
        budget = f" or {self.token_budget:,} sampled tokens" if self.token_budget else ""
        items = f"{len(self.items)} {'tasks' if self.sandbox else 'pairs'}"
        print(f"{self.method}: {items}, up to {self.num_steps} steps{budget}, on {self.device}")
        self.screen.began = time.perf_counter()
        with contextlib.ExitStack() as stack:  # the sampler first: its thread would keep a failed run from ending
            stack.callback(self.log_file.close)
            stack.callback(self.tracker.close)
            if self.sampler:
                stack.callback(self.sampler.close)
            yield

    def steps(self) -> Iterator[int]:
        """Yield step numbers up to `num_steps`, the token budget or early stopping.

        After a step, save the adapter and the state if they are due. After SIGTERM or SIGINT, save and raise Preempted.
        """
        self.begin_step()
        if self.step == 0 and (found := self.validate()):
            self.write({"step": 0, "epoch": 0.0, "sampled_tokens": 0} | found)
        while self.share_done < 1 and not (self.validation and self.validation.early_stop):
            self.step += 1
            self.begin_step()
            yield self.step
            if self.args.dry_run:
                report_dry_run(self)
                return
            if self.is_due(self.args.keep_every):
                save_adapter(self.model, self.tokenizer, self.folder / f"step_{self.step}")
            self.stop.asked = any(processes.gather([self.stop.asked]))
            if self.stop.asked or self.is_due(self.args.save_every):
                self.save()
            if self.stop.asked:
                raise Preempted(f"stopped after step {self.step}; the same command resumes from there")

    def begin_step(self) -> None:
        self.started, self.spent = time.perf_counter(), {"sample": 0.0, "score": 0.0, "validate": 0.0, "curve": 0.0}
        self.step_tokens, self.left_out, self.task_of_group = 0, 0, {}
        self.learning_rate = self.optimizer.param_groups[0]["lr"]

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.spent[what] += time.perf_counter() - started

    @property
    def share_done(self) -> float:
        """The share of the steps, or of the token budget if that is larger, that is done: 1 at the end."""
        return min(1.0, max(self.step / self.num_steps, self.tokens / self.token_budget if self.token_budget else 0))

    def is_due(self, every: int) -> bool:
        """Return whether the current step is a multiple of `every`; 0 means never."""
        return every > 0 and self.step % every == 0

    def draw(self, count: int) -> list[int]:
        """Return the indices of the next items; `TaskOrder` says which these are."""
        self.drawn += count
        return self.order.draw(count)

    def sample(self, num_tasks: int) -> list[Sample]:
        """Sample `num_samples` completions of each of the next tasks; each goes to the sandbox as soon as it ends.

        With several processes, each samples its share. Each process's first samples must pass the parity gate. With
        --async_steps 1, the samples were begun a step ago, and those of the next step, if there is one, are begun.
        """
        with self.timed("sample"):
            self.phase = "sampling"
            if self.ahead and self.ahead.drawn:
                numbered, samples = self.ahead.take(self.model)
            else:
                drawn = self.order.draw(num_tasks, self.task_of_group.values())
                numbered = list(enumerate(drawn, start=self.drawn))
                samples = self.sampler.sample(self.model, processes.share(numbered))
            self.task_of_group |= dict(numbered)
            self.drawn += num_tasks
        self.sampler.check_parity(self.model, samples)
        tokens = self.tokens + sum(s.length for s in samples)
        last = self.step == self.num_steps or 0 < self.token_budget <= tokens or self.args.dry_run
        if self.ahead and not last:
            with self.timed("sample"):
                self.ahead.begin(self.model, list(enumerate(self.order.draw(num_tasks), start=self.drawn)))
        return samples

    def score(self, samples: list[Sample], reward_fn: Callable[[list[Sample]], list[float]]) -> list[Sample]:
        """Return the samples of all processes with their verdicts and rewards.

        Samples that the sandbox could not judge are left out, because they are not the policy's failures.

        Raises:
            InputError: no task of the run can be judged.
        """
        with self.timed("score"):
            samples = self.sampler.judge(samples)
            self.step_tokens += sum(s.length for s in samples)
            self.tokens += sum(s.length for s in samples)
            judged = [s for s in samples if s.verdict.judged]
            self.left_out += len(samples) - len(judged)
            self.order.note_samples(self.task_of_group, judged)
        for s, reward in zip(judged, reward_fn(judged) if judged else [], strict=True):
            s.reward = reward
        return judged

    def validate(self) -> dict[str, float]:
        """Measure the validation tasks and the learning curve if they are due after this step.

        Returns:
            the metrics to log, if any.
        """
        if self.args.dry_run:
            return {}
        v, c, found = self.validation, self.curve, {}
        first, last, self.phase = self.step == 0, self.share_done == 1, "sampling"
        if v and v.due(self.step, last):
            with self.timed("validate"):
                passed, _ = self.sampler.passed(self.model, v, first, num_samples=1, temperature=0.0)
                found = v.note(self.step, passed, self.model, self.critic)
        if c and c.due(self.tokens, last or bool(v and v.early_stop)):
            with self.timed("curve"):
                passed, tokens = self.sampler.passed(self.model, c, first, num_samples=self.args.curve_samples,
                                                     temperature=1.0, top_p=1.0, stream=c.stream)  # fmt: skip
                found |= c.note(self.tokens, passed, tokens)
            c.seconds += self.spent["curve"]
        return found

    def skip_update(self, metrics: dict[str, Any]) -> None:
        """End a step that has nothing to train on: move the schedule, validate if that is due, and log."""
        self.scheduler.step()
        self.log(metrics | self.validate())

    def note_ratios(self, samples: list[Sample], ratio_by_row: dict[int, float]) -> None:
        """Store each sample's importance ratio; each process gives those that it computed, by the sample's index."""
        for row, ratio in processes.gather(list(ratio_by_row.items())):
            samples[row].ratio = ratio

    metrics = staticmethod(step_metrics)

    def log(
        self,
        metrics: dict[str, Any],
        samples: list[Sample] = (),
        advantage: list[float] = (),
        token_advantage: torch.Tensor | None = None,
    ) -> None:
        """Write one dict to the log, the screen and the tracker, with the step, the counts and the speeds added.

        Every `log_completions` steps, also write the samples with their advantages to completions.jsonl.

        Args:
            token_advantage: (B, R), the advantage of each token; only with a critic.
        """
        training = time.perf_counter() - self.started - sum(self.spent.values())
        record = {
            "step": self.step,
            "epoch": self.drawn / len(self.items),
            **metrics,
            "skipped_updates": self.finite.skipped,
            "learning_rate": self.learning_rate,
        }
        if self.scaler.is_enabled():
            record["loss_scale"] = self.scaler.get_scale()
        if s := self.sampler:
            seconds = (self.ahead and self.ahead.seconds) or self.spent["sample"]
            if len(s.variants) > len(self.items):
                record["curriculum_level"] = s.level(self.drawn - 1)
            record |= {
                "sampled_tokens": self.tokens,
                "sample_tokens_per_second": self.step_tokens / max(seconds, 1e-9),
                "score_seconds": self.spent["score"],
                "left_out": self.left_out,
            } | ((self.ahead or s.fleet).counts() if s.fleet else {})
            record |= self.order.metrics() | ({"wait_seconds": self.spent["sample"]} if self.ahead else {})
        record["train_tokens_per_second"] = self.step_tokens / max(training, 1e-9)
        measured = {"valid_pass_rate", "curve_pass_rate"} & record.keys()
        self.write(record, show=bool(measured) or self.step % self.args.log_every == 0)
        rows = completion_rows(samples, advantage, token_advantage) if samples else []
        if rows and self.is_due(self.args.log_completions):
            with self.completions.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"step": self.step} | row) + "\n" for row in rows)
        if rows and self.is_due(self.args.track_completions):
            self.tracker.log_completions(self.step, rows)

    def write(self, record: dict[str, Any], show: bool = True) -> None:
        self.log_file.write(record)
        self.tracker.log(record)
        if show:
            self.screen.show(record, self.share_done)

    def finish(self) -> None:
        """Save the adapter (the best one with validation), its critic and the run's cost.

        Raises:
            InputError: nothing that was sampled could be judged.
        """
        if self.sampler:
            self.sampler.require_judged()
        v = self.validation
        if v and v.weights:
            print(f"kept: step {v.best_step}, which passes {v.best_rate:.1%} of the validation tasks; the last, "
                  f"step {self.step}, passes {v.last_rate:.1%}")  # fmt: skip
            if v.best_step != self.step:
                self.save_weights(self.folder / "last")
                v.restore_best(self.model, self.critic)
        self.save_weights(self.folder)
        seconds, more = self.seconds + time.perf_counter() - self.opened, {}
        if c := self.curve:
            seconds, more = seconds - c.seconds, c.spent()
            if c.points:
                print(f"learning curve: {len(c.points)} points, area {more['area']:.1%}")
        finish_record(self.folder, self.record, self.step, self.tokens, seconds, **more)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
