"""Compare the sampler's log-probabilities with peft's base + adapter, for each way to make a LoRA adapter.

Each kind of adapter gets random weights, is saved by peft's own `save_pretrained`, and is loaded like a user's adapter.
The table shows the mean and the largest difference of a token's log-probability, in nats: between the model with and
without the adapter, between `model.sampling.sample` and peft's forward pass over the same 4-bit base, and between
trainer and sampler.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from common import InputError, machine, run_script
from judging.tasks import read_tasks
from model.load import load_policy, load_tokenizer
from model.logprobs import completion_logprobs
from model.sampling import encode_prompts, generate, in_order

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]  # Llama's and Qwen's names
KINDS: dict[str, dict[str, Any]] = {
    "a list of names": {"target_modules": LINEAR},
    "a regular expression": {"target_modules": r".*\.(q|v)_proj"},
    "an expression that is a name": {"target_modules": ".*down_proj"},
    "all-linear": {"target_modules": "all-linear"},
    "all-linear without some": {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
    "some layers": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
    "rank and alpha patterns": {
        "target_modules": LINEAR,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"v_proj": 4},
    },
    "rsLoRA": {"target_modules": LINEAR, "use_rslora": True},
    "bias": {"target_modules": LINEAR, "bias": "all"},
    "DoRA": {"target_modules": LINEAR, "use_dora": True},
    "lora_bias": {"target_modules": LINEAR, "lora_bias": True},
    "LM head": {"target_modules": [*LINEAR, "lm_head"]},
    "embeddings": {"target_modules": [*LINEAR, "embed_tokens"]},
    "LM head saved whole": {"target_modules": LINEAR, "modules_to_save": ["lm_head"]},
    "embeddings saved whole": {"target_modules": LINEAR, "modules_to_save": ["embed_tokens"]},
    "some tokens": {"target_modules": LINEAR, "trainable_token_indices": [10, 11, 12, 40]},
}


@dataclass
class Args:
    model_name: str = "data/pocket_coder"  # hub name or folder
    data: str = "data/pocket_valid.jsonl"  # tasks whose prompts are completed
    num_tasks: int = 4  # number of prompts
    max_new_tokens: int = 32  # tokens of each completion
    std: float = 0.1  # standard deviation of the adapters' weights
    config: str = ""  # YAML file with any of these; flags win over it


def make_adapter(base: str, kind: str, folder: Path, std: float = 0.1, rank: int = 4) -> str:
    """Save an adapter of a kind with random weights, as peft does, and return its folder."""
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=8, lora_dropout=0.1, **KINDS[kind])
    model = get_peft_model(load_policy(base, torch.device("cpu")), config)
    model.peft_config["default"].base_model_name_or_path = str(Path(base).resolve()) if Path(base).exists() else base
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 1.0 if "lora_" in name and "magnitude" not in name else 0.3
            parameter.data = parameter.data.float() + torch.randn(parameter.shape) * std * scale
    model.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def gaps(adapter: str, base: str, prompts: list[list[int]], max_new_tokens: int) -> dict[str, float]:
    """Return mean and largest difference in nats: with and without adapter, sampler and peft, trainer and sampler."""
    model = load_policy(adapter, torch.device("cpu")).eval()
    tokenizer = load_tokenizer(adapter)
    rollouts = in_order(
        generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=1.0,
            seeds=[(0, i) for i in range(len(prompts))],
        )
    )
    exact = PeftModel.from_pretrained(load_policy(base, torch.device("cpu")), adapter).eval()
    plain = load_policy(base, torch.device("cpu")).eval()
    found = {"adapter": [], "sampler": []}
    for r in rollouts:
        ids = torch.tensor([r.prompt_ids + r.token_ids])
        at = torch.arange(len(r.prompt_ids) - 1, ids.shape[1] - 1)
        told = [
            m(ids).logits[0, at].float().log_softmax(-1).gather(1, torch.tensor(r.token_ids)[:, None])[:, 0]
            for m in (exact, plain)
        ]
        found["adapter"].append(told[0] - told[1])
        found["sampler"].append(told[0] - torch.tensor(r.logprobs))
    joined = {name: torch.cat(parts).abs() for name, parts in found.items()}
    trainer, mask = completion_logprobs(model, [r.prompt_ids for r in rollouts], [r.token_ids for r in rollouts])
    joined["trainer"] = (trainer[mask > 0] - torch.tensor([x for r in rollouts for x in r.logprobs])).abs()
    return {f"{name}_{what}": getattr(gap, what)().item() for name, gap in joined.items() for what in ("mean", "max")}


def main(args: Args) -> None:
    tokenizer = load_tokenizer(args.model_name)
    prompts = encode_prompts(tokenizer, read_tasks(args.data)[: args.num_tasks], 1024)
    print(f"{args.model_name}, {len(prompts)} prompts, {args.max_new_tokens} tokens each; {machine()['cpu']}\n")
    print(
        "| adapter | what it does: mean, largest | sampler - peft: mean, largest | trainer - sampler: mean, largest |"
    )
    print("|---|---|---|---|")
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                g = gaps(
                    make_adapter(args.model_name, kind, Path(folder), args.std),
                    args.model_name,
                    prompts,
                    args.max_new_tokens,
                )
            except (InputError, ValueError) as error:
                print(f"| {kind} | refused: {' '.join(str(error).split())[:120]} | | |", flush=True)
                continue
        cells = [f"{g[f'{n}_mean']:.2g}, {g[f'{n}_max']:.2g}" for n in ("adapter", "sampler", "trainer")]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run_script(main, Args, __doc__)
