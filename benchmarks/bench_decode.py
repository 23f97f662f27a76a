"""Measure a decoding step on a CPU with weights stored by rows, as files have them, and by columns, as in sampling.

    python benchmarks/bench_decode.py --model_path data/pocket_coder

The two layouts take turns, in an order that changes from round to round; ratios are computed within a round. A step is
one token for each row of the batch, after `--context` tokens, in float32. The sampler stores the weights anew in each
training step, once in an evaluation.

It also prints how many prompt tokens are read in the time of a step of one row: `model.sampling.STEP` is such a number.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from common import machine, run_script


@dataclass
class Args:
    model_path: str = "data/pocket_coder"  # folder of a model
    rows: tuple[int, ...] = (1, 8, 16, 32, 64)  # sizes of the batch
    context: int = 200  # tokens before the step
    steps: int = 8  # steps of which a median is taken
    rounds: int = 3  # how often each layout has its turn
    threads: int = 0  # of torch; 0: as torch chooses
    config: str = ""  # YAML file with any of these; flags win over it


def step_seconds(model, rows: int, context: int, steps: int) -> tuple[float, float]:
    """Return the median time of a decoding step, and the time of reading `context` tokens in each row before it."""
    import torch

    from model.sampling import roomy_cache

    cache, times = roomy_cache(model.config, context + steps + 1), []
    ids = torch.randint(model.config.vocab_size, (rows, context))
    for _ in range(steps + 1):  # the first is the prompt
        begun = time.perf_counter()
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        times.append(time.perf_counter() - begun)
        ids = ids[:, -1:]
    return median(times[1:]), times[0]


def main(args: Args) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from model.merged_copy import by_columns

    torch.set_num_threads(args.threads or torch.get_num_threads())
    model = AutoModelForCausalLM.from_pretrained(args.model_path, dtype=torch.float32).eval()
    linears = [module for module in model.modules() if type(module) is torch.nn.Linear]
    seconds: dict[tuple[str, int], list[float]] = {}
    storing, read_meanwhile = [], []
    with torch.inference_mode():
        for number in range(args.rounds):
            for layout in ("rows", "columns")[:: 1 if number % 2 == 0 else -1]:
                begun = time.perf_counter()
                for linear in linears:
                    weight = linear.weight.data.contiguous()
                    linear.weight.data = by_columns(weight) if layout == "columns" else weight
                storing += [time.perf_counter() - begun] * (layout == "columns")
                for rows in args.rows:
                    step, prompt = step_seconds(model, rows, args.context, args.steps)
                    seconds.setdefault((layout, rows), []).append(step)
                    if rows == 1 and layout == "columns":
                        read_meanwhile.append(step * args.context / prompt)
    print(f"{Path(args.model_path).name}, {torch.get_num_threads()} threads, {machine()['cpu']}\n")
    print(f"storing all weights by columns: {median(storing):.2f} s")
    if read_meanwhile:
        print(f"prompt tokens read in the time of a step of one row: {median(read_meanwhile):.0f}")
    print("\n| rows | by rows, tokens/s | by columns, tokens/s | ratio (range) |\n|---|---|---|---|")
    for rows in args.rows:
        plain, columns = seconds["rows", rows], seconds["columns", rows]
        ratios = [before / after for before, after in zip(plain, columns, strict=True)]
        print(f"| {rows} | {rows / median(plain):.0f} | {rows / median(columns):.0f} | {median(ratios):.2f} "
              f"({min(ratios):.2f}-{max(ratios):.2f}) |")  # fmt: skip


if __name__ == "__main__":
    run_script(main, Args, __doc__)
