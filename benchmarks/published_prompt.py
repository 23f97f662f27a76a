"""Put tasks to a chat model in the words of Qwen2.5-Coder's report, and store its greedy completions for scoring.

    python benchmarks/published_prompt.py --model_path MODEL --output report.jsonl
    python eval_humaneval.py --samples report.jsonl --data_path data/humaneval_all.jsonl --exp_name report

The words are those of the report's own evaluation (QwenLM/Qwen2.5-Coder, qwencoder-eval/instruct/eval_plus/model.py).
It begins the answer for the model with an open code fence; the answer ends at an EOS or where the fence is closed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from common import require, run_script, write_jsonl
from eval_humaneval import stored_sample
from judging.tasks import read_tasks
from model.load import compute_dtype, load_policy, load_tokenizer, pick_device
from model.sampling import generate, in_order

SYSTEM = "You are an intelligent programming assistant to produce Python algorithmic solutions"
QUESTION = "Can you complete the following Python function?\n```python\n{}\n```\n"
START = "```python\n"


@dataclass
class Args:
    model_path: str = "Qwen/Qwen2.5-Coder-0.5B-Instruct"  # hub name or folder of a model with a chat template
    data_path: str = "data/humaneval_all.jsonl"  # Python tasks
    output: str = "samples.jsonl"  # file for the completions
    load_in_4bit: bool = True  # no_: unquantised weights
    limit: int = 0  # only the first N tasks; 0 takes all
    max_new_tokens: int = 768  # tokens of an answer, at most
    batch_size: int = 64  # answers at a time
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"  # compute dtype
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    config: str = ""  # YAML file with any of these; flags win over it


def main(args: Args) -> None:
    tasks = read_tasks(args.data_path, "normal", instruct=True)
    tasks = tasks[: args.limit] if args.limit else tasks
    device, tokenizer = pick_device(args.device), load_tokenizer(args.model_path)
    require(bool(tokenizer.chat_template), f"--model_path {args.model_path}: has no chat template to ask in")
    model = load_policy(
        args.model_path, device, dtype=compute_dtype(device, args.dtype), load_in_4bit=args.load_in_4bit
    ).eval()
    prompts = []
    for task in tasks:
        asked = [{"role": "system", "content": SYSTEM},
                 {"role": "user", "content": QUESTION.format(task["prompt"].strip())}]  # fmt: skip
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) + START
        prompts.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    stops = [("\n```",)] * len(tasks)
    rollouts = in_order(generate(model, tokenizer, prompts, max_new_tokens=args.max_new_tokens, temperature=0,
                                 batch_size=args.batch_size, stops=stops, unpack=args.load_in_4bit))  # fmt: skip
    rows = [
        stored_sample(task, START + rollout.text) | {"ended": rollout.ended, "gen_len": len(rollout.token_ids)}
        for task, rollout in zip(tasks, rollouts, strict=True)
    ]  # fmt: skip
    write_jsonl(Path(args.output), rows)
    print(f"{args.output}: {len(rows)} completions, {sum(not row['ended'] for row in rows)} cut off")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
