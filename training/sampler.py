"""Sample completions during training, have them judged, and run the parity gate before the first update."""

from __future__ import annotations

from typing import Any

import torch

from common import processes
from judging.by_language import require_judged
from judging.instruct import answer
from judging.pool import Sandbox, Verdict
from judging.tasks import Task, prompt_variants, stop_strings
from model.load import dtype_of, eos_ids, load_config, set_recomputing
from model.merged_copy import drop_merged_copy
from model.parity import MIN_TOKENS, check_ends, check_parity
from model.sampling import Rollout, encode_prompts, generate, in_order
from model.sampling_server import ServerSampler
from model.sampling_vllm import VllmSampler
from model.tokens import check_ids
from training.ahead import Ahead
from training.importance import is_on
from training.learning_curve import LearningCurve
from training.samples import Sample
from training.turns import answer_again
from training.validation import Validation


class Sampler:
    """The prompts of the tasks, the engine that completes them, and the sandbox that judges.

    variants: the tasks; in a curriculum, all tasks at its first level, then all at the next, and so on.
    prompts: the prompt's token ids for each variant. fresh: whether the policy has not been trained yet.
    """

    def __init__(self, args: Any, tasks: list[Task], tokenizer, sandbox: Sandbox) -> None:
        self.args, self.tasks, self.tokenizer, self.sandbox = args, tasks, tokenizer, sandbox
        self.variants = prompt_variants(tasks, args.prompt_level)
        self.prompts = self.encode(self.variants, args.train_path)
        self.engine, self.fleet, self.ahead = generate, None, None
        self.parity_checked, self.fresh = False, True
        self.refused: dict[str, str] | None = {}  # the reason by task_id; None once a sample was judged

    def start_engine(self) -> None:
        """Start vLLM if it is the engine, or see whether the servers are there and take adapters.

        Call this while the GPU is empty, and before setting the seeds, because vLLM sets its own.
        """
        if self.args.engine == "vllm":
            self.engine = VllmSampler(self.args.sft_model, self.tokenizer, self.args).generate
        elif self.args.engine == "server":
            self.fleet = ServerSampler(self.args.sft_model, self.tokenizer, self.args)
            self.engine = self.fleet.generate
            self.ahead = Ahead(self) if getattr(self.args, "async_steps", 0) else None

    def close(self) -> None:
        """Take the adapter back from the servers, if they are the engine."""
        if self.ahead:
            self.ahead.close()
        if self.fleet:
            self.fleet.close()

    def encode(self, tasks: list[Task], path: str) -> list[list[int]]:
        """Return the prompts' token ids. Raise InputError if a prompt is too long or has ids that the model lacks."""
        args = self.args
        prompts = encode_prompts(self.tokenizer, tasks, args.max_length - args.max_new_tokens)
        check_ids(load_config(args.sft_model, args.trust_remote_code), path, prompts, args.max_new_tokens)
        return prompts

    def level(self, number: int) -> int:
        """Return the curriculum level (from 0) of the draw with this number; 0 without a curriculum."""
        levels = len(self.variants) // len(self.tasks)
        return min(levels - 1, int(number / (len(self.tasks) * self.args.curriculum_epochs))) if levels > 1 else 0

    def sample(self, model, drawn: list[tuple[int, int]]) -> list[Sample]:
        """Sample completions of the drawn tasks; `drawn` holds pairs (number of the draw in the run, task index).

        With --turns 2, answer again where they fail.
        """
        args = self.args
        chosen = [(number, self.level(number) * len(self.tasks) + index) for number, index in drawn]
        samples = self.complete(model, self.variants, self.prompts, chosen, num_samples=args.num_samples,
                                temperature=args.temperature, top_p=args.top_p)  # fmt: skip
        if getattr(args, "turns", 1) > 1:
            answer_again(self, model, samples, verdicts(samples))
        return samples

    def complete(self, model, tasks: list[Task], prompts: list[list[int]], chosen: list[tuple[int, int]],
                 stream: tuple[int, ...] = (), **how: Any) -> list[Sample]:  # fmt: skip
        """Sample completions of the chosen tasks; each goes to the sandbox as soon as it ends.

        Args:
            chosen: pairs (group, index of the task). The run's seed, the group and `stream` determine the random
                numbers.
            how: num_samples, temperature, top_p.
        """
        rollouts = self.generate(model, [tasks[index] for _, index in chosen], [prompts[index] for _, index in chosen],
                                 [(self.args.seed, group, *stream) for group, _ in chosen], **how)  # fmt: skip
        samples = []
        for r in rollouts:
            group, index = chosen[r.prompt_index]
            samples.append(Sample(tasks[index], group, r, check=self.sandbox.submit(tasks[index], r.text)))
        return sorted(samples, key=lambda s: (s.rollout.prompt_index, s.rollout.number))

    def passed(self, model, measured: Validation | LearningCurve, must_judge: bool, **how: Any
               ) -> tuple[list[bool], int]:  # fmt: skip
        """Complete and judge the tasks of a measurement; each process does its share.

        Args:
            must_judge: whether it is an error that the tests of all tasks are refused.
            how: as in `complete`.

        Returns:
            for each judged sample of all processes whether it passed, and how many tokens all samples have.

        Raises:
            InputError: they are, and `must_judge`.
        """
        if self.ahead:
            self.ahead.wait()
        chosen = processes.share([(index, index) for index in range(len(measured.tasks))])
        samples = self.complete(model, measured.tasks, measured.prompts, chosen, **how)
        pairs = zip(samples, verdicts(samples), strict=True)
        found = processes.gather([(s.task["task_id"], verdict, s.length) for s, verdict in pairs])
        if must_judge:
            require_judged([(name, verdict) for name, verdict, _ in found], measured.path)
        return [v.passed for _, v, _ in found if v.judged], sum(length for *_, length in found)

    def generate(self, model, tasks: list[Task], prompts: list[list[int]], seeds: list[tuple[int, ...]], **how: Any):
        """Yield completions of each prompt under the current policy; `how` has more arguments for the engine.

        model: None: under the policy that the servers have; the model may be in training.
        """
        args = self.args
        if model is not None:
            set_recomputing(model, False)
        try:
            yield from self.engine(
                model,
                self.tokenizer,
                prompts,
                max_new_tokens=args.max_new_tokens,
                stops=[stop_strings(task) for task in tasks] if args.stop_at_strings else None,
                batch_size=args.sample_batch_size,
                unpack=args.unpack_to_sample,
                graph=args.cuda_graph,
                seeds=seeds,
                **how,
            )
        finally:
            if model is not None:
                drop_merged_copy(model)
                set_recomputing(model, args.gradient_checkpointing)

    def check_parity(self, model, samples: list[Sample]) -> None:
        """Run the gate (`parity.check_parity`) once per process, before its first update."""
        if self.parity_checked or not samples:
            return
        args = self.args
        by_mean = dtype_of(model) != torch.float32 and not args.parity_bound
        least = MIN_TOKENS if by_mean else 0
        rollouts = self.enough_tokens(model, samples, least)
        check_ends(rollouts, eos_ids(model, self.tokenizer), args.stop_at_strings)
        check_parity(model, rollouts, args.temperature, args.parity_bound, args.sft_model, self.fresh,
                     more=lambda: self.enough_tokens(model, samples, 4 * least), corrected=is_on(args))  # fmt: skip
        self.parity_checked = True
        if args.top_p < 1:
            print(f"note: with top_p {args.top_p} the sampled distribution is not the one that is scored")

    def enough_tokens(self, model, samples: list[Sample], least: int) -> list[Rollout]:
        """Return the samples' completions, with more of the same prompts until there are `least` tokens.

        The additional completions are not trained on.
        """
        args, rollouts, again = self.args, [r for s in samples for r in s.answers], 0
        prompts = {s.group: (s.task, s.rollout.prompt_ids) for s in samples}
        tasks, ids = zip(*prompts.values(), strict=True)
        while sum(len(r.token_ids) for r in rollouts) < least:
            again += 1
            seeds = [(args.seed, group, again) for group in prompts]
            rollouts += in_order(self.generate(model, list(tasks), list(ids), seeds, num_samples=8,
                                               temperature=args.temperature, top_p=args.top_p))  # fmt: skip
        return rollouts

    def judge(self, samples: list[Sample]) -> list[Sample]:
        """Wait for the verdicts. Return the samples of all processes, including those that could not be judged.

        Raises:
            InputError: no task of the run can be judged.
        """
        for s, verdict in zip(samples, verdicts(samples), strict=True):
            s.verdict, s.check = verdict, None
        samples = sorted(processes.gather(samples), key=lambda s: s.group)
        self.note_refused(samples)
        return samples

    def note_refused(self, samples: list[Sample]) -> None:
        """Remember the refused tasks until a sample is judged.

        At the first refusal, judge all reference solutions, and raise InputError if none of them can be judged.
        """
        if self.refused is None or any(s.verdict.judged for s in samples):
            self.refused = None
            return
        first = not self.refused
        self.refused |= {s.task["task_id"]: s.verdict.reason for s in samples if s.verdict.status == "refused"}
        if first and self.refused:
            mine = processes.share(self.tasks)
            solved = self.sandbox.check_many((task, answer(task)) for task in mine)
            found = [(task["task_id"], verdict) for task, verdict in zip(mine, solved, strict=True)]
            require_judged(processes.gather(found), self.args.train_path)

    def require_judged(self) -> None:
        """Raise InputError if tasks were refused and no sample could be judged."""
        refused = (self.refused or {}).items()
        require_judged([(name, Verdict("refused", reason)) for name, reason in refused], self.args.train_path)


def verdicts(samples: list[Sample]) -> list[Verdict]:
    """Wait for the samples' verdicts and return them."""
    return [s.check.result() for s in samples]
