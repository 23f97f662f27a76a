"""Compare the greedy completions of another engine with the local one's, token by token, on the same weights.

    python eval_humaneval.py --server URL --model_path NAME --data_path data/pocket_test.jsonl --exp_name other
    python benchmarks/compare_engines.py --model_path data/pocket_coder --completions results/other_per_task.jsonl

The completions are those of per-task files of eval_humaneval.py, one for each engine, from `--server` or `--engine
vllm`, all of the same tasks and with the same --max_new_tokens. The model's own are made here, once, from unquantised
weights. Where the two part, the script prints at which token, and by how many nats the model prefers its own token
there to the other engine's: engines that round differently part at near ties only. Wrong weights, or a prompt that was
encoded in another way, part where the gap is large.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import torch

from common import InputError, read_jsonl, require, run_script
from judging.tasks import read_tasks
from model.load import compute_dtype, eos_ids, load_policy, load_tokenizer, pick_device
from model.logprobs import next_logits
from model.sampling import Rollout, encode_prompts, generate, in_order
from model.tokens import completion_text


@dataclass
class Args:
    model_path: str = "data/pocket_coder"  # hub name, model folder or adapter folder
    data_path: str = "data/pocket_test.jsonl"  # the tasks that were completed
    completions: tuple[str, ...] = ("results/sft_per_task.jsonl",)  # per-task files, one for each other engine, greedy
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    batch_size: int = 64  # completions at a time
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"  # compute dtype
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    config: str = ""  # YAML file with any of these; flags win over it


def parts_at(tokenizer, ours: Rollout, text: str, ends: set[int]) -> int | None:
    """Return how many of our tokens the other text begins with; None if the two are the same.

    Ours ends with its EOS, which the other text does not show, or at the limit.
    """
    if ours.text == text:
        return None
    shown = ours.token_ids[:-1] if ours.token_ids[-1] in ends else ours.token_ids
    for count in range(len(shown), 0, -1):
        if text.startswith(completion_text(tokenizer, ours.prompt_ids, shown[:count])):
            return count
    return 0


@torch.no_grad()
def parting(model, tokenizer, ours: Rollout, text: str, ends: set[int]) -> tuple[int, float] | None:
    """Return after how many of our tokens the other text parts, and by how many nats the model prefers ours there.

    The other's token is the likeliest that spells what the text goes on with, an EOS where it ends. It may begin with
    our token (`validate` and `valid`) and so hide where the two part: the token before is tried too, and the smaller
    gap counts. Where none of the 1,000 likeliest tokens fits, the gap is the one to the last of them.
    """
    count = parts_at(tokenizer, ours, text, ends)
    if count is None:
        return None
    found = []
    for at in {count, max(0, count - 1)}:
        ids = torch.tensor([ours.prompt_ids + ours.token_ids[:at]], device=model.device)
        values, likeliest = next_logits(model, input_ids=ids)[0].float().sort(descending=True)
        values, likeliest = values[:1000].tolist(), likeliest[:1000].tolist()
        begun = completion_text(tokenizer, ours.prompt_ids, ours.token_ids[:at])
        for value, token in zip(values, likeliest, strict=True):
            gap = values[0] - value
            if token in ours.token_ids[at : at + 1]:
                continue
            spelled = completion_text(tokenizer, ours.prompt_ids, [*ours.token_ids[:at], token])
            if text == begun if token in ends else len(spelled) > len(begun) and text.startswith(spelled):
                break
        found.append((gap, at))
    gap, at = min(found)
    return at, gap


def read_completions(path: str) -> dict[str, str]:
    found = {}
    for where, record in read_jsonl(path, "per-task file"):
        try:
            found[record["task_id"]] = record["completion"]
        except (KeyError, TypeError):
            raise InputError(f"{where}: wants a task_id and a completion") from None
    return found


def main(args: Args) -> None:
    engines = {path: read_completions(path) for path in args.completions}
    for path, theirs in engines.items():
        require(theirs.keys() == engines[args.completions[0]].keys(), f"{path}: has other tasks than the first file")
    tasks = [task for task in read_tasks(args.data_path, "normal") if task["task_id"] in theirs]
    require(len(tasks) == len(theirs), f"{path}: has completions of tasks that {args.data_path} has not")
    device, tokenizer = pick_device(args.device), load_tokenizer(args.model_path)
    prompts = encode_prompts(tokenizer, tasks, args.max_length - args.max_new_tokens)
    dtype = compute_dtype(device, args.dtype)
    model = load_policy(args.model_path, device, dtype=dtype, load_in_4bit=False).eval()
    rollouts = in_order(generate(model, tokenizer, prompts, max_new_tokens=args.max_new_tokens, temperature=0,
                                 batch_size=args.batch_size, unpack=False))  # fmt: skip
    ends, tokens = eos_ids(model, tokenizer), sum(len(r.token_ids) for r in rollouts)
    for path, theirs in engines.items():
        gaps = []
        for task, ours in zip(tasks, rollouts, strict=True):
            if found := parting(model, tokenizer, ours, theirs[task["task_id"]], ends):
                gaps.append(found[1])
                print(f"{task['task_id']}: part after {found[0]} of {len(ours.token_ids)} tokens, "
                      f"the two are {gaps[-1]:.2g} nats apart")  # fmt: skip
        said = f"; the largest gap there {max(gaps):.2g} nats" if gaps else ""
        print(f"{path}: {len(gaps)} of {len(tasks)} completions differ ({tokens} tokens){said}")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
