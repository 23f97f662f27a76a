"""Report what one step of a dry run took."""

from __future__ import annotations

import time
from typing import Any

from common import InputError, peak_memory
from model.logprobs import takes_shared_prompts
from model.memory import GIB, args_of, predict
from model.memory_parts import read_shape


def report_dry_run(run: Any) -> None:
    """Print the peak memory of the one step, and the time that all steps would take at its speed."""
    seconds, steps = time.perf_counter() - run.started, run.num_steps
    if run.token_budget:
        steps = min(steps, run.token_budget / max(run.step_tokens, 1))
    peak = peak_memory()
    gpu = "" if peak["gpu"] is None else f", {peak['gpu']:.2f} GiB on the GPU"
    print(f"dry run: peak memory {peak['ram']:.2f} GiB{gpu}; the whole run would take about "
          f"{seconds * steps / 60:.1f} minutes")  # fmt: skip
    if not run.optimizer.state:  # no sample passed, say, or all groups were tied
        print("no update was made in this step: a step that makes one takes longer, and may take more memory")
    print(prediction_for(run))


def prediction_for(run: Any) -> str:
    """Return one line beside what the dry run measured: the memory predicted for the longest prompt of its items."""
    args = args_of(run.args, run.method, run.args.sft_model)
    if run.method == "dpo":
        prompt, args.max_new_tokens = max(len(p.prompt_ids) for p in run.items), max(max(p.lengths) for p in run.items)
    else:
        prompt = max(map(len, run.sampler.prompts))
    try:
        shape = read_shape(run.args.sft_model, run.args.trust_remote_code)
    except InputError as error:
        return f"predicted: nothing ({error})"
    shared = takes_shared_prompts(run.model)
    found = predict(shape, args, prompt, dtype=2 if run.device.type == "cuda" else 4, shared=shared)
    if getattr(run.args, "engine", "local") != "local":
        del found.phases["sampling"]  # its size is set by --vllm_memory
    size = f"{found.tensors / GIB:.2f} GiB of tensors at most, in {found.largest}"
    return f"predicted: {size}; this leaves out the libraries' own memory"
