"""Compare predicted with measured memory, phase by phase, for models with random weights.

    python benchmarks/bench_memory.py                                  # small shapes; on a CPU too
    python benchmarks/bench_memory.py --shape deepseek-coder-1.3b      # on a GPU; needs 3 GB of disk for a while

On a CPU the allocations are summed (torch.profiler); on a GPU torch.cuda.max_memory_allocated is read. Both count the
bytes of tensors, those inside kernels included. Neither counts CUDA's context or memory that the allocator cannot use.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig

from common import run_script
from model import load as policy
from model import memory
from model.load import set_recomputing
from model.logprobs import completion_outputs, takes_shared_prompts
from model.memory_parts import passes, read_shape
from model.merged_copy import drop_merged_copy, merged_copy
from model.micro_batches import micro_batches, padded_tokens
from model.reference import as_reference, kl_estimate, load_reference
from model.sampling import generate
from train_grpo_lora import policy_objective

SHAPES = {  # hidden, inner, layers, heads, key/value heads, vocabulary
    "small": (512, 1408, 4, 8, 8, 8192),
    "small-grouped": (512, 1408, 4, 8, 2, 8192),
    "deepseek-coder-1.3b": (2048, 5504, 24, 16, 16, 32256),
    "deepseek-coder-6.7b": (4096, 11008, 32, 32, 32, 32256),
}


@dataclass
class Args:
    shape: Literal["small", "small-grouped", "deepseek-coder-1.3b", "deepseek-coder-6.7b"] = "small"  # random weights
    bfloat16: bool = False  # compute in 16 bits on a CPU too; a GPU always does
    prompt: int = 192  # tokens of a prompt
    max_new_tokens: int = 64  # tokens of a completion
    batch_size: int = 2  # tasks per step
    num_samples: int = 4  # completions per task
    top_p: float = 1.0  # below 1, sampling sorts the vocabulary
    micro_batch_tokens: int = 4096  # tokens of one forward and backward pass
    gradient_checkpointing: bool = False  # compute each layer again in the backward pass
    config: str = ""  # YAML file with any of these; flags win over it


reserved: list[int] = []  # on a GPU: the most bytes that the allocator held in each measured block


@contextlib.contextmanager
def peak_bytes(device: torch.device) -> Iterator[list[int]]:
    """Measure by how many bytes the memory of tensors rises at most within the block.

    The number is appended to the yielded list when the block ends.
    """
    found: list[int] = []
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        torch.cuda.synchronize()
        found.append(torch.cuda.max_memory_allocated() - before)
        reserved.append(torch.cuda.max_memory_reserved())
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield found
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    at = top = 0
    for _, change in sorted(((e.start_ns(), e.nbytes()) for e in events), key=lambda event: event[0]):
        at += change
        top = max(top, at)
    found.append(top)


def random_policy(config, folder: Path, device: torch.device, rank: int = 8):
    """Return a policy of a model with random weights, with its reference, as in a run; and the adapter's folder."""
    torch.manual_seed(0)
    name, adapter = str(folder / "model"), str(folder / "adapter")
    with device:
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(name)
    policy.add_lora(policy.load_policy(name, device), rank, 16, 0.0).save_pretrained(adapter)
    model = policy.load_policy(adapter, device, trainable=True)
    load_reference(model, adapter)
    model.generation_config.eos_token_id = None  # no completion ends early
    return model.eval(), adapter


def weight_bytes(model) -> int:
    """Return the bytes of all weights, buffers and quantisation constants."""
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            tensors += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def measure(model, args: memory.Args, prompt: int) -> dict[str, int]:
    """Measure the bytes that are always held, and those that each phase of a GRPO step adds.

    The keys are those of `memory.predict`. `prompt`: tokens of a prompt.
    """
    device, vocab = model.get_input_embeddings().weight.device, model.config.vocab_size
    prompts = torch.randint(3, vocab, (args.batch_size, prompt)).tolist()
    if args.batch_size > 1:
        prompts[-1] = prompts[-1][: prompt // 2]  # so that there is some padding
    tokenizer = SimpleNamespace(eos_token_id=10**9, decode=lambda ids: "")
    trained = policy.trainable_parameters(model)
    optimizer = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.0)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # the first step creates the moments
    optimizer.zero_grad()
    moments = sum(p.numel() * p.element_size() for p in trained) * 2
    copy = merged_copy(model)
    drop_merged_copy(model)
    found = {"always": weight_bytes(model) + moments}

    # the last tokens' states are strided; in bfloat16 a CPU would copy the head for each of them
    copy.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))

    with peak_bytes(device) as sampling:
        list(generate(model, tokenizer, prompts, max_new_tokens=args.max_new_tokens, temperature=1.0,
                      num_samples=args.num_samples, top_p=args.top_p, batch_size=args.sample_batch_size))  # fmt: skip
        drop_merged_copy(model)
    every = [p for p in prompts for _ in range(args.num_samples)]
    items = [SimpleNamespace(group=i // args.num_samples, prompt_length=len(p), lengths=[args.max_new_tokens])
             for i, p in enumerate(every)]  # fmt: skip
    shared = takes_shared_prompts(model)
    cut = micro_batches(items, args.micro_batch_tokens, shared=shared)
    largest = max(cut, key=lambda part: padded_tokens([items[i] for i in part], shared))
    chosen = [every[i] for i in largest]
    replies = torch.randint(3, vocab, (len(chosen), args.max_new_tokens)).tolist()
    with peak_bytes(device) as scoring, torch.no_grad(), as_reference(model):
        reference = completion_outputs(model, chosen, replies).logprobs
    if args.gradient_checkpointing:
        set_recomputing(model, True)
    advantage = torch.randn(len(chosen), 1, device=device)
    with peak_bytes(device) as training:
        out = completion_outputs(model, chosen, replies)
        old = out.logprobs.detach()
        objective, _ = policy_objective(out.logprobs, old, advantage, out.mask, "grpo", 0.2, 0.2)
        loss = -(out.mask * objective).sum() + 0.02 * (out.mask * kl_estimate(out.logprobs, reference, "k3")).sum()
        loss.backward()
    model.eval()
    gradients = sum(p.grad.nbytes for p in trained)
    with peak_bytes(device) as step:
        optimizer.step()
    phases = {"training": training[0], "optimizer step": step[0] + gradients, "log-probabilities": scoring[0],
              "sampling": sampling[0]}  # fmt: skip
    return found | phases


def compare(model, adapter: str, args: memory.Args, prompt: int) -> dict[str, tuple[float, int]]:
    """Return predicted and measured bytes: always held, of each phase, and the peak without the allowance."""
    if model.device.type == "cpu":
        args = replace(args, cuda_graph=False)
    dtype = 4 if policy.compute_dtype(model.get_input_embeddings().weight.device) == torch.float32 else 2
    predicted, measured = memory.predict(read_shape(adapter), args, prompt, dtype), measure(model, args, prompt)
    found = {"always": (sum(predicted.always.values()), measured.pop("always"))}
    peak = found["always"][1] + max(measured.values())
    found |= {name: (sum(predicted.phases[name].values()), size) for name, size in measured.items()}
    return found | {"peak": (predicted.tensors, peak)}


def main(args: Args) -> None:
    device = policy.pick_device()
    if args.bfloat16 and device.type == "cpu":
        policy.compute_dtype = lambda device: torch.bfloat16
    hidden, inner, layers, heads, kv, vocab = SHAPES[args.shape]
    config = LlamaConfig(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, vocab_size=vocab,
                         num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=4096)  # fmt: skip
    settings = memory.Args(batch_size=args.batch_size, num_samples=args.num_samples, max_new_tokens=args.max_new_tokens,
                           max_length=args.prompt + args.max_new_tokens, top_p=args.top_p,
                           micro_batch_tokens=args.micro_batch_tokens,
                           gradient_checkpointing=args.gradient_checkpointing)  # fmt: skip
    with TemporaryDirectory() as folder:
        model, adapter = random_policy(config, Path(folder), device)
        found = compare(model, adapter, replace(settings), args.prompt)
    one = max(passes(settings, args.prompt), key=lambda one: one.tokens)
    place = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{args.shape}, {policy.compute_dtype(device)}, {place}; passes of up to {one.rows} x {one.length} tokens")
    print("| | predicted MiB | measured MiB | error |\n|---|---|---|---|")
    for name, (predicted, measured) in found.items():
        print(f"| {name} | {predicted / 2**20:.1f} | {measured / 2**20:.1f} | {predicted / measured - 1:+.1%} |")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
