"""The frame around a training loop: folder, policy, sampling, scoring, log, saved state. The loop is the script's own.

with training_run(args, "rl", tasks, args.num_steps, args.token_budget) as run:
    for step in run.steps():
        samples = run.score(run.sample(args.batch_size))
        ...                                     # advantage, loss, backward
        grad_norm = run.update(loss, samples)
        run.log({"loss": loss, "grad_norm": grad_norm, **run.figures(samples, advantage)})
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.utils.rnn import pad_sequence
from transformers import get_scheduler, set_seed

from common import Preempted, processes, require
from judging.by_language import open_sandbox, require_judged
from judging.pool import Verdict
from judging.tasks import answer, language_of, prompt_variants, read_tasks
from model import memory
from model.load import (
    base_and_adapter,
    compute_dtype,
    dtype_of,
    eos_ids,
    load_config,
    load_policy,
    load_tokenizer,
    pick_device,
    save_adapter,
    set_deterministic,
    set_recomputing,
    trainable_parameters,
    zero_head,
)
from model.logprobs import TokenOutputs, completion_outputs, takes_shared_prompts
from model.micro_batches import micro_batches
from model.parity import MIN_TOKENS, as_reference, check_ends, check_parity, largest, load_reference
from model.sampling import encode_prompts, sample
from model.sampling_vllm import VllmSampler, check_engine
from model.tokens import check_ids
from training.dry_run import report_dry_run
from training.record import RunLog, conclude, finish_record, start_record
from training.resume import FiniteGuard, StopRequest, drop_state, loss_scaler, read_state, restore_state, save_state
from training.samples import BeforeUpdate, Sample, complete, completion_rows, enough_tokens, item_order, step_figures
from training.screen import Screen
from training.tracking import Tracker, check_tracker, run_name
from training.validation import Validation

warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")  # the first update was skipped


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
    """Open a run, or go on with the one that was interrupted; its adapter takes its place if the block ends well.

    Args:
        items: tasks, or whatever else `run.draw` gives indices of.
        token_budget: the run also ends after the step in which so many tokens have been sampled; 0: it does not.
        judged: whether completions are sampled and run; then there is a sandbox.

    Raises:
        InputError: the starting adapter or the output folder is of no use, or the sandbox does not hold.
        Preempted: SIGTERM or SIGINT came; the state is saved.
    """
    check_tracker(args)
    compute_dtype(pick_device(), args.dtype)  # refuses what the device has not
    set_deterministic(args.deterministic)
    started, screen = time.perf_counter(), Screen(args)
    valid = []
    if getattr(args, "valid_path", ""):
        level = "normal" if args.prompt_level == "curriculum" else args.prompt_level
        valid = read_tasks(args.valid_path, level, args.instruct)
        language_of([*items, *valid], f"{args.train_path} and {args.valid_path}")
    if judged:
        check_engine(args)
    require(
        base_and_adapter(args.sft_model)[1] is not None,
        f"--sft_model {args.sft_model}: is no adapter; run train_sft_lora.py first",
    )
    state = None

    def goes_on(partial: Path) -> bool:
        nonlocal state
        state = read_state(partial, args)
        return state is not None

    output = processes.output_folder("" if args.dry_run else args.output_dir, keep=goes_on)
    sandboxed = open_sandbox(args, items) if judged else nullcontext()
    with screen.notes():
        with output as folder, sandboxed as sandbox, StopRequest() as stop:
            state = processes.from_first(state)
            with memory.answer_for_memory(args, lambda: "loading"):
                run = Run(args, method, items, num_steps, token_budget, folder, sandbox, stop, critic, valid, screen)
            run.opened = started
            if state is not None:
                run.go_on(state)
            with run.open_log(), memory.answer_for_memory(args, lambda: run.phase):
                yield run
            if not args.dry_run:
                run.finish()
        if not args.dry_run and processes.processes().is_main_process:
            conclude(args.output_dir, method)


class Run:
    """What the loop of a script works with.

    model: the policy, dropout off, with the frozen adapter "reference" beside its own.
    critic: a linear head on the policy's last hidden state, zero at first; None if it was not asked for.
    step: the one that is being made. tokens: sampled so far. seconds: that runs before this one took, which it goes on.
    """

    def __init__(self, args, method, items, num_steps, token_budget, folder, sandbox, stop, critic, valid, screen):
        self.args, self.method, self.items, self.folder, self.screen = args, method, items, folder, screen
        self.num_steps, self.token_budget, self.sandbox, self.stop = num_steps, token_budget, sandbox, stop
        self.record = start_record(folder, args, **({"sandbox": sandbox.layers} if sandbox else {}))
        self.tokenizer = load_tokenizer(args.sft_model, args.trust_remote_code)
        self.validation = None
        if sandbox:
            longest, config = args.max_length - args.max_new_tokens, load_config(args.sft_model, args.trust_remote_code)
            self.variants = prompt_variants(items, args.prompt_level)
            self.prompts = encode_prompts(self.tokenizer, self.variants, longest)
            check_ids(config, args.train_path, self.prompts, args.max_new_tokens)
            if valid:
                prompts = encode_prompts(self.tokenizer, valid, longest)
                check_ids(config, args.valid_path, prompts, args.max_new_tokens)
                self.validation = Validation(valid, prompts, args.valid_every, args.patience)
            self.sampler = sample
            if args.engine == "vllm":  # it starts while the GPU is empty, and before the seeds are set: it sets its own
                self.sampler = VllmSampler(args.sft_model, self.tokenizer, args).sample
        set_seed(args.seed)
        self.device = pick_device()
        self.model = load_policy(args.sft_model, self.device, trainable=True, trust_remote_code=args.trust_remote_code,
                                 dtype=compute_dtype(self.device, args.dtype))  # fmt: skip
        load_reference(self.model, args.sft_model)
        self.model.eval()  # no dropout: what was sampled is what is trained on
        set_recomputing(self.model, args.gradient_checkpointing)
        self.critic = zero_head(self.model).to(self.device) if critic else None
        self.weights = trainable_parameters(self.model) + (list(self.critic.parameters()) if critic else [])
        self.optimizer = torch.optim.AdamW(self.weights, lr=args.learning_rate, weight_decay=0.0)
        self.scheduler = get_scheduler(args.lr_scheduler_type, self.optimizer, 0, num_steps)
        self.scaler = loss_scaler(self.model)
        self.scaler.scale(torch.zeros((), device=self.device))  # it is set up by its first use: a share may be empty
        self.parts = {"optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler}
        if critic:
            self.parts["critic"] = self.critic
        if self.validation:
            self.parts["validation"] = self.validation
        self.order = item_order(len(items), args.seed)
        self.finite, self.completions = FiniteGuard(folder), folder / "completions.jsonl"
        self.step = self.drawn = self.tokens = self.log_bytes = 0
        self.refused: dict[str, str] | None = {}  # task_id: why; None as soon as anything was judged
        self.seconds, self.opened = 0.0, time.perf_counter()
        self.parity_checked, self.fresh = False, True
        self.phase = "loading"  # for whoever runs out of memory: one of memory.REMEDIES

    def go_on(self, state: dict[str, Any]) -> None:
        """From the saved state."""
        self.fresh = False
        position = restore_state(state, self.model, self.parts)
        self.step, self.drawn, self.tokens = position["step"], position["drawn"], position["tokens"]
        self.log_bytes, self.finite.skipped = position["log_bytes"], position["skipped"]
        self.seconds, self.screen.share = position["seconds"], self.share
        self.finite.in_a_row = position["in_a_row"]
        self.refused = position["refused"]
        if self.completions.exists():
            os.truncate(self.completions, position["completions_bytes"])
        for _ in range(self.drawn):
            next(self.order)
        print(f"going on after step {self.step}")

    def save(self) -> None:
        save_state(self.folder, self.args, self.model, self.parts, step=self.step, drawn=self.drawn,
                   tokens=self.tokens, log_bytes=self.log_file.size, skipped=self.finite.skipped,
                   in_a_row=self.finite.in_a_row, refused=self.refused, completions_bytes=size_of(self.completions),
                   seconds=self.seconds + time.perf_counter() - self.opened)  # fmt: skip

    @contextlib.contextmanager
    def open_log(self) -> Iterator[None]:
        """Log and tracker, closed however the block ends."""
        self.log_file = RunLog(self.folder / f"{self.method}_train_log.jsonl", self.log_bytes)
        report_to = "none" if self.args.dry_run else self.args.report_to
        after = None if self.fresh else self.step
        self.tracker = Tracker(report_to, self.folder, asdict(self.args), run_name(self.args), after)
        budget = f" or {self.token_budget:,} sampled tokens" if self.token_budget else ""
        items = f"{len(self.items)} {'tasks' if self.sandbox else 'pairs'}"
        print(f"{self.method}: {items}, up to {self.num_steps} steps{budget}, on {self.device}")
        self.screen.began = time.perf_counter()
        try:
            yield
        finally:
            self.log_file.close()
            self.tracker.close()

    def steps(self) -> Iterator[int]:
        """Step numbers until the last, or until the token budget is spent; saves, and stops when asked."""
        if self.step == 0 and (found := self.validate()):
            self.write({"step": 0} | found)
        while not self.at_end and not (self.validation and self.validation.over):
            self.step += 1
            self.started, self.spent = time.perf_counter(), {"sample": 0.0, "score": 0.0}
            self.step_tokens = self.left_out = 0
            yield self.step
            self.scheduler.step()
            if self.args.dry_run:
                report_dry_run(self)
                return
            if self.falls_on(self.args.keep_every):
                save_adapter(self.model, self.tokenizer, self.folder / f"step_{self.step}")
            self.stop.asked = any(processes.gather([self.stop.asked]))
            if self.stop.asked or self.falls_on(self.args.save_every):
                self.save()
            if self.stop.asked:
                raise Preempted(f"stopped after step {self.step}; the same command goes on from there")

    @property
    def share(self) -> float:
        """Of the steps, or of the token budget, that is done."""
        return min(1.0, max(self.step / self.num_steps, self.tokens / self.token_budget if self.token_budget else 0))

    @property
    def at_end(self) -> bool:
        """Whether the last step has been made, or the token budget is spent."""
        return self.share == 1

    def draw(self, count: int) -> list[int]:
        """Indices of the next items: every one once in each pass, each pass in a new order."""
        self.drawn += count
        return [next(self.order) for _ in range(count)]

    def sample(self, num_tasks: int) -> list[Sample]:
        """`num_samples` completions of each of the next tasks; with several processes, of this one's share of them."""
        args, started, first = self.args, time.perf_counter(), self.drawn
        drawn = enumerate(self.draw(num_tasks), start=first)
        chosen = processes.share([(group, self.level(group) * len(self.items) + index) for group, index in drawn])
        drawn = complete(self, self.variants, self.prompts, chosen, num_samples=args.num_samples,
                         temperature=args.temperature, top_p=args.top_p)  # fmt: skip
        self.spent["sample"] += time.perf_counter() - started
        return drawn

    def level(self, number: int) -> int:
        """Of the prompt that the item drawn as this number is given: 0, or its place in the curriculum."""
        levels = len(self.variants) // len(self.items)
        return min(levels - 1, int(number / (len(self.items) * self.args.curriculum_epochs))) if levels > 1 else 0

    def validate(self) -> dict[str, float]:
        """What to log of a validation, if there is one after this step."""
        v = self.validation
        if not v or self.args.dry_run or not v.due(self.step, self.at_end):
            return {}
        chosen = processes.share([(index, index) for index in range(len(v.tasks))])
        drawn = complete(self, v.tasks, v.prompts, chosen, num_samples=1, temperature=0.0)
        found = processes.gather([(s.task["task_id"], v) for s, v in zip(drawn, verdicts(drawn), strict=True)])
        if self.step == 0:
            require_judged(found, self.args.valid_path)
        passed = [verdict.passed for _, verdict in found if verdict.judged]
        return v.note(self.step, passed, self.model, self.critic)

    def score(self, drawn: list[Sample]) -> list[Sample]:
        """The samples of all processes with their verdicts.

        Those that could not be judged are left out: they are no failures.

        Raises:
            InputError: no task of the run can be judged.
        """
        started = time.perf_counter()
        for s, verdict in zip(drawn, verdicts(drawn), strict=True):
            s.verdict, s.check = verdict, None
        samples = sorted(processes.gather(drawn), key=lambda s: s.group)
        self.step_tokens += sum(s.length for s in samples)
        self.tokens += sum(s.length for s in samples)
        judged = [s for s in samples if s.verdict.judged]
        self.left_out += len(samples) - len(judged)
        self.note_refused(samples)
        self.spent["score"] += time.perf_counter() - started
        return judged

    def note_refused(self, samples: list[Sample]) -> None:
        """As long as nothing was judged: which tasks are refused. The first time, whether all of the file are."""
        if self.refused is None or any(s.verdict.judged for s in samples):
            self.refused = None
            return
        first = not self.refused
        self.refused |= {s.task["task_id"]: s.verdict.reason for s in samples if s.verdict.status == "refused"}
        if first and self.refused:
            mine = processes.share(self.items)
            solved = self.sandbox.check_many((task, answer(task)) for task in mine)
            found = [(task["task_id"], verdict) for task, verdict in zip(mine, solved, strict=True)]
            require_judged(processes.gather(found), self.args.train_path)

    def check_parity(self, samples: list[Sample]) -> None:
        """The gate (`parity.check_parity`), once a process, before its first update."""
        if samples and not self.parity_checked:
            by_mean = dtype_of(self.model) != torch.float32 and not self.args.parity_bound
            least = MIN_TOKENS if by_mean else 0
            rollouts = enough_tokens(self, samples, least)
            check_ends(rollouts, eos_ids(self.model, self.tokenizer), self.args.stop_at_strings)
            check_parity(self.model, rollouts, self.args.temperature, self.args.parity_bound, self.args.sft_model,
                         self.fresh, more=lambda: enough_tokens(self, samples, 4 * least))  # fmt: skip
            self.parity_checked = True
            if self.args.top_p < 1:
                print(f"note: with top_p {self.args.top_p} the sampled distribution is not the one that is scored")

    def micro_batches(self, items: list, rows: list[int] | None = None) -> list[list[int]]:
        """This process's share of the passes over the items (of `rows`, by default all): indices of each one's."""
        self.phase = "training"
        shared = takes_shared_prompts(self.model)
        return processes.share(
            micro_batches(items, self.args.micro_batch_tokens, rows, shared, parts=processes.count())
        )

    def outputs(self, samples: list[Sample], **wanted: bool) -> TokenOutputs:
        """`logprobs.completion_outputs` of the samples under the policy; each (B, R)."""
        prompts, completions = [s.rollout.prompt_ids for s in samples], [s.rollout.token_ids for s in samples]
        self.phase = "training" if torch.is_grad_enabled() else "log-probabilities"
        return completion_outputs(self.model, prompts, completions, self.args.temperature, **wanted)

    def values(self, outputs: TokenOutputs) -> torch.Tensor:
        """The critic's value of the state that each token was drawn from, (B, R), 0 on padding."""
        return self.critic(outputs.hidden).squeeze(-1) * outputs.mask

    @torch.no_grad()
    def before_update(self, samples: list[Sample], single_pass: bool = False) -> BeforeUpdate:
        """What stays fixed while a batch is trained on.

        Args:
            single_pass: the batch makes one optimizer step: the log-probabilities of the policy that sampled are then
                those of the update itself, and not computed here.
        """
        known: list[tuple[int, dict[str, torch.Tensor]]] = []
        for part in self.micro_batches(samples):
            batch = [samples[i] for i in part]
            rows = {"reference": self.reference_logprobs(batch)}
            if not single_pass:
                out = self.outputs(batch, hidden=self.critic is not None)
                rows["logprobs"] = out.logprobs
                if self.critic:
                    rows["values"] = self.values(out)
            for at, i in enumerate(part):
                known.append((i, {name: rows[name][at, : samples[i].length].cpu() for name in rows}))
        everyones = [row for _, row in sorted(processes.gather(known), key=lambda pair: pair[0])]
        padded = {name: pad_sequence([row[name] for row in everyones], batch_first=True) for name in everyones[0]}
        mask = pad_sequence([torch.ones(s.length, device=self.device) for s in samples], batch_first=True)
        return BeforeUpdate(mask=mask, **{name: rows.to(self.device) for name, rows in padded.items()})

    def total(self, figures: dict[str, float], **maxima: list[float]) -> dict[str, float]:
        """Of all processes: the sum of each figure, and the largest of each of the maxima."""
        return processes.add_up(figures) | {name: largest(processes.gather(few)) for name, few in maxima.items()}

    @torch.no_grad()
    def reference_logprobs(self, samples: list[Sample]) -> torch.Tensor:
        """Of the samples' tokens under the reference; (B, R), no gradient."""
        with as_reference(self.model):
            return self.outputs(samples).logprobs

    def update(self, loss: float, batch: list) -> float:
        """Step the optimizer, unless loss or gradient is not finite, and clear the gradients. Returns their norm.

        Args:
            loss: of the whole batch.
            batch: what the loss was computed from; each has a `record()`.
        """
        self.phase = "optimizer step"
        processes.add_up_gradients(self.weights)
        self.scaler.unscale_(self.optimizer)
        limit = self.args.max_grad_norm or float("inf")
        grad_norm = torch.nn.utils.clip_grad_norm_(self.weights, limit).item()
        if self.finite.allows(loss, grad_norm, [one.record() for one in batch]):
            self.scaler.step(self.optimizer)
        self.scaler.update()  # smaller after a gradient that was not finite
        self.optimizer.zero_grad()
        return grad_norm

    figures = staticmethod(step_figures)

    def note_ratios(self, samples: list[Sample], ratios: dict[int, float]) -> None:
        """Keep the ratio of each sample, by its index, that this process's passes gave."""
        for i, ratio in processes.gather(list(ratios.items())):
            samples[i].ratio = ratio

    def log(
        self,
        record: dict[str, Any],
        samples: list[Sample] = (),
        advantage: list[float] = (),
        token_advantage: torch.Tensor | None = None,
    ) -> None:
        """One dict to the log, the screen and the tracker, with the step, the counts and the speeds added.

        Every so many steps with a table of the samples, each with its advantage; token_advantage: (B, R) of a critic.
        """
        now = time.perf_counter()
        training = now - self.started - sum(self.spent.values())
        record = {
            "step": self.step,
            "epoch": self.drawn / len(self.items),
            **record,
            "skipped_updates": self.finite.skipped,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if self.scaler.is_enabled():
            record["loss_scale"] = self.scaler.get_scale()
        if self.sandbox:
            record |= {"curriculum_level": self.level(self.drawn - 1)} if len(self.variants) > len(self.items) else {}
            record |= {
                "sampled_tokens": self.tokens,
                "sample_tokens_per_second": self.step_tokens / max(self.spent["sample"], 1e-9),
                "score_seconds": self.spent["score"],
                "left_out": self.left_out,
            }
        record["train_tokens_per_second"] = self.step_tokens / max(training, 1e-9)
        found = self.validate()
        self.write(record | found, show=bool(found) or self.step % self.args.log_every == 0)
        rows = completion_rows(samples, advantage, token_advantage) if samples else []
        if rows and self.falls_on(self.args.log_completions):
            with self.completions.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"step": self.step} | row) + "\n" for row in rows)
        if rows and self.falls_on(self.args.track_completions):
            self.tracker.log_completions(self.step, rows)

    def falls_on(self, every: int) -> bool:
        """Whether this step is one of every so many; of 0 none is."""
        return every > 0 and self.step % every == 0

    def write(self, record: dict[str, Any], show: bool = True) -> None:
        self.log_file.write(record)
        self.tracker.log(record)
        if show:
            self.screen.show(record, self.share)

    def finish(self) -> None:
        """The adapter that is kept, and its critic, and what the run took; the saved state is dropped.

        Raises:
            InputError: nothing that was sampled could be judged.
        """
        refused = (self.refused or {}).items()
        require_judged([(name, Verdict("refused", reason)) for name, reason in refused], self.args.train_path)
        v = self.validation
        if v and v.weights:
            print(f"kept: step {v.best_step}, which passes {v.best_rate:.1%} of the validation tasks; the last, "
                  f"step {self.step}, passes {v.last_rate:.1%}")  # fmt: skip
            if v.best_step != self.step:
                self.save_weights(self.folder / "last")
                v.restore_best(self.model, self.critic)
        self.save_weights(self.folder)
        drop_state(self.folder)
        seconds = self.seconds + time.perf_counter() - self.opened
        finish_record(self.folder, self.record, self.step, self.tokens, seconds)

    def save_weights(self, folder: Path) -> None:
        save_adapter(self.model, self.tokenizer, folder)
        if self.critic is not None:
            save_file(self.critic.state_dict(), folder / "critic.safetensors")


def verdicts(drawn: list[Sample]) -> list[Verdict]:
    """As soon as the sandbox has them."""
    return [s.check.result() for s in drawn]


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
