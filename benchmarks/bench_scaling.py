"""Measure how training pass and sampling time grow with group size, prompt length, completion length and batch.

    python benchmarks/bench_scaling.py [--plot FILE.png]

Every point is measured twice in each of `--rounds`, with and without sharing the prompt between a task's completions,
on random tokens and by default a random model; medians are shown. A step has P + G R tokens per task if the prompt is
shared, else G (P + R). Two least-squares lines, seconds against each of these, show which of them the times follow.

A training pass is `logprobs.completion_outputs` and the backward pass. Sampling is `model.sampling.sample`; not shared
means that the prompt is given once per completion.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from rl_workloads import never_ends, random_llama

from common import machine, require, require_at_least, run_script, write_text

FACTORS = {
    "group": "completions a task, G",
    "prompt": "prompt, P [tokens]",
    "completion": "completion, R [tokens]",
    "batch": "tasks a batch, B",
}
WORK = {"train": "training pass", "sample": "sampling"}


@dataclass
class Args:
    model: str = ""  # folder of a model or adapter; "": a random one of --hidden_size and --layers
    hidden_size: int = 256  # hidden size of the random model
    layers: int = 6  # layers of the random model
    work: Literal["both", "train", "sample"] = "both"  # what to measure
    group: tuple[int, ...] = (2, 4, 8, 16)  # values of G; the other factors have their middle value
    prompt: tuple[int, ...] = (64, 128, 256, 512)  # values of P, tokens
    completion: tuple[int, ...] = (16, 32, 64, 128)  # values of R, tokens
    batch: tuple[int, ...] = (1, 2, 4)  # values of B, tasks
    middle: tuple[int, int, int, int] = (8, 256, 32, 1)  # G, P, R and B while another factor is varied
    clock: Literal["wall", "cpu"] = "wall"  # cpu: for one thread on a machine that does other work too
    rounds: int = 3  # how often each point is measured, after one time that does not count
    plot: str = ""  # PNG to write
    table: str = ""  # Markdown file to which the table is written too
    json: str = ""  # file for all measurements
    seed: int = 0  # seed of the model and the tokens
    config: str = ""  # YAML file with any of these; flags win over it


def points(args: Args) -> list[dict[str, int]]:
    """List the middle point and those with one factor varied, each point once."""
    middle = dict(zip(FACTORS, args.middle, strict=True))
    found = [middle]
    for name in FACTORS:
        found += [middle | {name: value} for value in getattr(args, name) if middle | {name: value} not in found]
    return found


def tokens(point: dict[str, int], shared: bool) -> int:
    """Return the tokens that go through the model in a step: B (P + G R) if shared, else B G (P + R).

    >>> point = {"group": 8, "prompt": 100, "completion": 10, "batch": 2}
    >>> tokens(point, shared=True), tokens(point, shared=False)
    (360, 1760)
    """
    group, prompt, completion, batch = (point[name] for name in FACTORS)
    return batch * (prompt + group * completion if shared else group * (prompt + completion))


def load(args: Args, folder: Path) -> tuple[Any, Any]:
    """Load the 4-bit policy with an adapter, and its tokenizer; a random model ends no completion early."""
    import torch
    from transformers import AutoTokenizer

    from model.load import add_lora, load_policy, load_tokenizer, pick_device

    torch.manual_seed(args.seed)
    if not args.model:
        tokenizer = AutoTokenizer.from_pretrained(ROOT / "data" / "pocket_coder")
        width = args.hidden_size
        model = random_llama(tokenizer, torch.float32, hidden_size=width, intermediate_size=width * 43 // 16,
                             num_hidden_layers=args.layers, num_attention_heads=max(1, width // 64))  # fmt: skip
        never_ends(model, tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    name = args.model or str(folder)
    model = load_policy(name, pick_device(), trainable=True)
    return (model if hasattr(model, "peft_config") else add_lora(model, 8, 16, 0.0)).eval(), load_tokenizer(name)


def training_pass(model, point: dict[str, int], shared: bool, rng: np.random.Generator) -> Callable[[], None]:
    """Return a function that computes log-probabilities of random completions and their gradient."""
    from model.logprobs import completion_outputs

    group, prompt, completion, batch = (point[name] for name in FACTORS)
    vocabulary = model.config.vocab_size
    prompts = [row for row in rng.integers(0, vocabulary, (batch, prompt)).tolist() for _ in range(group)]
    completions = rng.integers(0, vocabulary, (batch * group, completion)).tolist()

    def work() -> None:
        completion_outputs(model, prompts, completions, share_prompts=shared).logprobs.mean().backward()
        model.zero_grad()

    return work


def sampling(model, tokenizer, point: dict[str, int], shared: bool, rng: np.random.Generator) -> Callable[[], None]:
    """Return a function that samples `batch * group` completions at once, all of the given length."""
    from model.sampling import generate, in_order

    group, prompt, completion, batch = (point[name] for name in FACTORS)
    prompts = rng.integers(0, model.config.vocab_size, (batch, prompt)).tolist()
    if not shared:
        prompts = [row for row in prompts for _ in range(group)]

    def work() -> None:
        rollouts = in_order(
            generate(
                model,
                tokenizer,
                prompts,
                num_samples=group if shared else 1,
                max_new_tokens=completion,
                temperature=1.0,
                batch_size=batch * group,
            )
        )
        ended = sum(r.ended for r in rollouts)
        require(ended == 0, f"{ended} completions ended early: take a model that does not, such as the random one")

    return work


def measure(args: Args, model, tokenizer) -> list[dict[str, Any]]:
    """Measure the seconds at every point, shared and not in turn.

    Each round goes through all points, in alternating order; the first round does not count.
    """
    results, works = [], []
    for point in points(args):
        for kind in (kind for kind in WORK if args.work in ("both", kind)):
            for shared in (True, False):
                rng = np.random.default_rng(args.seed)
                works.append(training_pass(model, point, shared, rng) if kind == "train" else
                             sampling(model, tokenizer, point, shared, rng))  # fmt: skip
                results.append(point | {"work": kind, "shared": shared, "tokens": tokens(point, shared), "seconds": []})
    for turn in range(args.rounds + 1):
        for result, work in list(zip(results, works, strict=True))[:: -1 if turn % 2 else 1]:
            started = now(args.clock)
            work()
            if turn:
                result["seconds"].append(now(args.clock) - started)
        print(f"round {turn} of {args.rounds}", file=sys.stderr)
    return results


def now(clock: str) -> float:
    """Return the time in seconds, after a GPU has finished its work: wall time or CPU time."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() if clock == "wall" else time.process_time()


def fit(results: list[dict[str, Any]], shared_tokens: bool) -> dict[str, float]:
    """Fit seconds = constant + slope * tokens by least squares, with P + G R or G (P + R) as the tokens.

    Returns:
        slope, constant, r2, and relative: the median of |measured - fitted| / measured.
    """
    x = np.array([tokens(r, shared_tokens) for r in results], dtype=float)
    y = np.array([median(r["seconds"]) for r in results])
    slope, constant = np.polyfit(x, y, 1)
    fitted = constant + slope * x
    r2 = 1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return {"slope": slope, "constant": constant, "r2": r2, "relative": float(np.median(abs(y - fitted) / y))}


def fits(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit both lines for each kind of work, shared and not."""
    found = []
    for work in dict.fromkeys(r["work"] for r in results):
        for shared in (True, False):
            some = [r for r in results if r["work"] == work and r["shared"] == shared]
            for name, shared_tokens in (("P + G R", True), ("G (P + R)", False)):
                found.append({"work": work, "shared": shared, "line": name} | fit(some, shared_tokens))
    return found


def tables(results: list[dict[str, Any]]) -> str:
    """Write Markdown: a table with one line per point, then the fits."""
    kinds = list(dict.fromkeys(r["work"] for r in results))
    lines = ["| G | P | R | B | tokens, shared | not | " + " | ".join(
        f"{WORK[k]}: shared, s | not | faster" for k in kinds) + " |"]  # fmt: skip
    lines.append("|" + "---|" * (6 + 3 * len(kinds)))
    seconds = {(*key(r), r["work"], r["shared"]): median(r["seconds"]) for r in results}
    for at in dict.fromkeys(key(r) for r in results):
        point = dict(zip(FACTORS, at, strict=True))
        cells = [*at, tokens(point, True), tokens(point, False)]
        for kind in kinds:
            shared, apart = seconds[*at, kind, True], seconds[*at, kind, False]
            cells += [f"{shared:.3f}", f"{apart:.3f}", f"{apart / shared:.2f}x"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| work | prompt | seconds against | R² | relative error | ms a token | constant, ms |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    for f in fits(results):
        lines.append(f"| {WORK[f['work']]} | {'shared' if f['shared'] else 'not'} | {f['line']} | {f['r2']:.3f} | "
                     f"{f['relative']:.0%} | {f['slope'] * 1e3:.3f} | {f['constant'] * 1e3:.0f} |")  # fmt: skip
    return "\n".join(lines)


def key(result: dict[str, Any]) -> tuple[int, ...]:
    return tuple(result[name] for name in FACTORS)


def draw(results: list[dict[str, Any]], args: Args) -> None:
    """Draw a column of panels for each factor: tokens at the top, then the seconds of each kind of work."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    middle = dict(zip(FACTORS, args.middle, strict=True))
    rows = ["tokens", *dict.fromkeys(r["work"] for r in results)]
    figure, axes = plt.subplots(len(rows), len(FACTORS), figsize=(3.1 * len(FACTORS), 2.4 * len(rows)), sharey="row",
                                sharex="col", squeeze=False, layout="constrained")  # fmt: skip
    styles = {True: dict(color="#0072b2", marker="o"), False: dict(color="#d55e00", marker="s")}
    names = {True: "prompt shared: P + G R", False: "not: G (P + R)"}
    for row, kind in enumerate(rows):
        shown = [r for r in results if r["work"] == (kind if row else rows[1])]
        for column, (factor, label) in enumerate(FACTORS.items()):
            axis = axes[row][column]
            others = [name for name in FACTORS if name != factor]
            varied = sorted((r for r in shown if all(r[name] == middle[name] for name in others)),
                            key=lambda r, factor=factor: r[factor])  # fmt: skip
            for shared in (True, False):
                line = [r for r in varied if r["shared"] == shared]
                x = [r[factor] for r in line]
                y = [r["tokens"] if row == 0 else median(r["seconds"]) for r in line]
                axis.plot(x, y, **styles[shared], label=names[shared], markersize=4)
            axis.set_xticks(x, [str(value) for value in x])
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axis.set_ylabel("tokens a step" if row == 0 else f"{WORK[kind]} [{'CPU ' * (args.clock == 'cpu')}s]")
            if row == len(rows) - 1:
                axis.set_xlabel(label)
        shown = [r["seconds"] if row else [r["tokens"]] for r in shown]
        axes[row][0].set_ylim(0, 1.08 * max(map(median, shown)))  # the whole row shares this axis
        if row:
            r2 = {(f["shared"], f["line"]): f["r2"] for f in fits(results) if f["work"] == kind}
            axes[row][0].set_title(
                f"shared: R² {r2[True, 'P + G R']:.2f} against P + G R, {r2[True, 'G (P + R)']:.2f} against G (P + R)",
                fontsize=8, loc="left",
            )  # fmt: skip
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.suptitle("one factor varied, the others at " + ", ".join(
        f"{letter} {value}" for letter, value in zip("GPRB", args.middle, strict=True)), fontsize=10)  # fmt: skip
    Path(args.plot).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.plot, dpi=120)


def main(args: Args) -> None:
    require_at_least(1, args, "rounds", "layers", "hidden_size")
    import torch

    with tempfile.TemporaryDirectory() as folder:
        results = measure(args, *load(args, Path(folder)))
    here = machine()
    versions = ", ".join(f"{name} {number}" for name, number in here["versions"].items())
    text = tables(results)
    cores = f"{here['cores']} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    print(f"{here['gpu'] or here['cpu']}, {cores}, {args.clock} time; {versions}; commit {here['commit']}\n\n{text}")
    if args.table:
        write_text(args.table, text + "\n")
    if args.plot:
        draw(results, args)
    if args.json:
        record = {"args": asdict(args), "machine": here, "results": results, "fits": fits(results)}
        write_text(args.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
