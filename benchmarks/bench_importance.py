"""Measure what importance weights repair: train with a sampler that is wrong on purpose, without and with them.

    python benchmarks/bench_importance.py --sft_model checkpoints/pocket_lora_sft --output_dir checkpoints/wrong

The sampler is right, or samples at another temperature (`--temperature`), or with the adapter of some optimizer steps
ago (`--lag`). It reports the log-probabilities that it sampled with, as another program would. Only what is trained on
comes from it: the learning curve is measured with the right sampler. All runs have the same tasks, seeds and budget;
the first sample of every run with the same seed differs in nothing but the sampler.

The first table has means over seeds, with the lowest and the highest: the area under the learning curve and its end
(sampled pass rate), the mean `kl_reference` of the last quarter of the steps, and the log's figures about the weights.
The second has differences from the right sampler without weights, paired by seed, with Student's 95% interval.

    python benchmarks/bench_importance.py --bias

computes instead, by taking all completions of random policies, how much of the bias the weights of tokens leave.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from common import require, require_at_least, run_script, write_text

METHODS = {  # script, and its settings in the profile `pocket`
    "rl": ("train_rl_lora", dict(batch_size=4, num_samples=4, baseline="rloo", learning_rate=1e-3)),
    "ppo": ("train_ppo_lora", dict(batch_size=4, num_samples=4, learning_rate=5e-4)),
    "grpo": ("train_grpo_lora", dict(batch_size=2, num_samples=8, learning_rate=1e-3)),
}
NO_BOUND = 1e9  # of the gate, which would refuse the wrong samplers
FIGURES = ("importance_mean", "importance_truncated", "importance_masked")


@dataclass
class Args:
    sft_model: str = "checkpoints/pocket_lora_sft"  # adapter to start from
    train_path: str = "data/pocket_train.jsonl"  # tasks to learn from
    curve_path: str = "data/pocket_valid.jsonl"  # tasks of the learning curve
    output_dir: str = "checkpoints/importance"  # gets a folder for each run, and importance.json
    methods: tuple[Literal["rl", "ppo", "grpo"], ...] = ("rl", "ppo", "grpo")  # what to train with
    seeds: tuple[int, ...] = (1, 2, 3)  # one run of each kind for each
    temperature: float = 0.9  # of the sampler that has the wrong one; the trainer's is 1
    lag: int = 4  # how many batches old the adapter of the sampler that lags is
    importance_cap: float = 2.0  # of the runs with weights
    importance_mask: float = 0.0  # of the runs with weights
    token_budget: int = 60_000  # sampled tokens of a run
    max_new_tokens: int = 128  # tokens of a completion, at most
    curve_every: int = 10_000  # sampled tokens between points of the learning curve
    curve_samples: int = 4  # completions a task for each point
    curve_tasks: int = 50  # first tasks of the file
    bias: bool = False  # train nothing: compute the bias of token weights on random policies
    config: str = ""  # YAML file with any of these; flags win over it


def bias_left(length: int, rng: Any, words: int = 3, distance: float = 0.3) -> float:
    """Return the bias of REINFORCE's gradient with token weights, as a share of that without weights.

    The policy has random logits (standard deviation 1) after each prefix, the sampler's differ by `distance` of that.
    Rewards are random, less their mean.

    Args:
        length: tokens of every completion. rng: numpy's generator.
    """
    import numpy as np

    prefixes = [prefix for n in range(length) for prefix in itertools.product(range(words), repeat=n)]
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    logits = rng.normal(size=(len(prefixes), words))
    moved = logits + distance * rng.normal(size=logits.shape)
    policy, sampler = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, moved))
    completions = np.array(list(itertools.product(range(words), repeat=length)))
    at = np.array([[number[tuple(y[:t])] for t in range(length)] for y in completions])  # (completions, length)
    p, mu = policy[at, completions], sampler[at, completions]
    reward = rng.normal(size=len(completions))
    reward -= p.prod(1) @ reward

    def gradient(weight: np.ndarray) -> np.ndarray:
        found = np.zeros_like(logits)  # sum of weight * reward * (one-hot - policy)
        np.add.at(found, (at, completions), weight * reward[:, None])
        np.add.at(found, at, -(weight * reward[:, None])[..., None] * policy[at])
        return found

    drawn = np.repeat(mu.prod(1, keepdims=True), length, 1)
    exact = gradient(np.repeat(p.prod(1, keepdims=True), length, 1))
    return float(np.linalg.norm(gradient(drawn * p / mu) - exact) / np.linalg.norm(gradient(drawn) - exact))


def print_bias(lengths: tuple[int, ...] = (1, 2, 3, 5, 7), policies: int = 300) -> None:
    import numpy as np

    print("| tokens | bias with token weights / without, median | policies where it is larger |\n|---|---|---|")
    for length in lengths:
        rng = np.random.default_rng(length)
        left = [bias_left(length, rng) for _ in range(policies)]
        print(f"| {length} | {median(left):.2f} | {sum(share > 1 for share in left) / policies:.0%} |")


def at_temperature(engine: Callable, temperature: float) -> Callable:
    """Return an engine that samples at another temperature than it is told."""

    def generate(*given: Any, **how: Any) -> Iterator:
        return engine(*given, **how | {"temperature": temperature})

    return generate


def lagging(engine: Callable, lag: int, past: list[dict]) -> Callable:
    """Return an engine that samples with the adapter of `lag` calls ago; at first, with the oldest there is.

    Args:
        past: gets a copy of the adapter at each call, the oldest first.
    """
    from peft import set_peft_model_state_dict

    from model.adapters import adapter_weights

    def generate(model: Any, *given: Any, **how: Any) -> Iterator:
        past.append({name: weight.clone() for name, weight in adapter_weights(model).items()})
        del past[: -lag - 1]
        set_peft_model_state_dict(model, past[0], adapter_name="default")
        try:
            yield from engine(model, *given, **how)
        finally:
            set_peft_model_state_dict(model, past[-1], adapter_name="default")

    return generate


@contextlib.contextmanager
def wrong_sampler(make_wrong: Callable[[Callable], Callable]) -> Iterator[None]:
    """Make the training samples of runs within the block come from `make_wrong(engine)`."""
    from training.sampler import Sampler

    real = Sampler.sample

    def sample(self: Any, *given: Any) -> list:
        right, self.engine = self.engine, make_wrong(self.engine)
        try:
            return real(self, *given)
        finally:
            self.engine = right

    Sampler.sample = sample
    try:
        yield
    finally:
        Sampler.sample = real


def samplers(args: Args) -> dict[str, Callable[[], Callable[[Callable], Callable]]]:
    """Return what makes each sampler of an engine, anew for each run; by name."""

    def old() -> Callable[[Callable], Callable]:
        past: list[dict] = []
        return lambda engine: lagging(engine, args.lag, past)

    return {
        "right": lambda: lambda engine: engine,
        f"temperature {args.temperature:g}": lambda: lambda engine: at_temperature(engine, args.temperature),
        f"lag {args.lag}": old,
    }


def train(args: Args, method: str, seed: int, weighted: bool, folder: Path) -> dict[str, Any]:
    """Make one run. Return its figures: area, end, kl_reference, steps, and those of the weights."""
    module, settings = METHODS[method]
    script = importlib.import_module(module)
    steps = "num_updates" if method == "ppo" else "num_steps"
    script.main(script.Args(
        train_path=args.train_path, sft_model=args.sft_model, output_dir=str(folder), seed=seed, max_length=384,
        max_new_tokens=args.max_new_tokens, token_budget=args.token_budget, curve_path=args.curve_path,
        curve_every=args.curve_every, curve_samples=args.curve_samples, curve_tasks=args.curve_tasks,
        importance="on" if weighted else "off", importance_cap=args.importance_cap,
        importance_mask=args.importance_mask, parity_bound=NO_BOUND, quiet=True, log_completions=0, **settings,
        **{steps: 1000},
    ))  # fmt: skip
    lines = (folder / f"{method}_train_log.jsonl").read_text(encoding="utf-8").splitlines()
    log = [line for line in map(json.loads, lines) if "kl_reference" in line]
    rates = [line["curve_pass_rate"] for line in map(json.loads, lines) if "curve_pass_rate" in line]
    late = log[-max(1, len(log) // 4) :]
    figures = {name: mean(line[name] for line in log) for name in FIGURES if name in log[0]}
    area = json.loads((folder / "run.json").read_text(encoding="utf-8"))["spent"]["area"]
    return {"area": area, "end": rates[-1], "kl_reference": mean(line["kl_reference"] for line in late),
            "steps": len(log), **figures}  # fmt: skip


def said(values: list[float]) -> str:
    return f"{mean(values):.3g} ({min(values):.3g} to {max(values):.3g})" if values else ""


def tables(runs: list[dict[str, Any]]) -> str:
    from judging.intervals import paired_t

    rows: dict[tuple, list[dict]] = {}
    for run in runs:
        rows.setdefault((run["method"], run["sampler"], run["weighted"]), []).append(run)
    names = ("area", "end", "kl_reference", *FIGURES)
    lines = [f"| method | sampler | weights | {' | '.join(names)} |", f"|---|---|---|{'---|' * len(names)}"]
    for (method, sampler, weighted), same in rows.items():
        cells = [said([run[figure] for run in same if figure in run]) for figure in names]
        lines.append(f"| {method} | {sampler} | {'on' if weighted else 'off'} | {' | '.join(cells)} |")
    lines += ["", "| method | sampler | weights | area | end | kl_reference |", "|---|---|---|---|---|---|"]
    for (method, sampler, weighted), same in rows.items():
        right = {run["seed"]: run for run in rows[method, "right", False]}
        if sampler != "right" and len(same) > 1:
            found = [paired_t([run[name] - right[run["seed"]][name] for run in same]) for name in names[:3]]
            cells = [f"{change:+.4f} ({low:+.4f} to {high:+.4f})" for change, (low, high), _ in found]
            lines.append(f"| {method} | {sampler} | {'on' if weighted else 'off'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(args: Args) -> None:
    if args.bias:
        return print_bias()
    require_at_least(1, args, "lag", "token_budget")
    require(args.temperature > 0, f"--temperature {args.temperature}: must be positive")
    runs = []
    for method in args.methods:
        for name, make in samplers(args).items():
            for weighted in (False, True):
                for seed in args.seeds:
                    kind = f"{method}_{name.replace(' ', '')}_{'on' if weighted else 'off'}_seed{seed}"
                    with wrong_sampler(make()):
                        found = train(args, method, seed, weighted, Path(args.output_dir) / kind)
                    runs.append({"method": method, "sampler": name, "weighted": weighted, "seed": seed, **found})
    write_text(
        Path(args.output_dir) / "importance.json", json.dumps({"args": vars(args), "runs": runs}, indent=1) + "\n"
    )
    print(tables(runs))


if __name__ == "__main__":
    run_script(main, Args, __doc__)
