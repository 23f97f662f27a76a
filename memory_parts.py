"""What of a model and a run takes memory: the shape of the model, and the bytes of each part of a phase.

`memory` puts them together. What an operation keeps for the backward pass is counted per layer and token
(`saved_by_a_block`). d stands for the bytes of a number outside the adapters: 2 on a GPU, 4 on a CPU.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import policy
from common import InputError, require
from logprobs import head_logprobs
from rollout import sample


@dataclass
class Shape:
    """What of a model counts. linears: (name, in, out, in 4 bits) of every linear layer; block: those of the first.

    query, kv: heads and key/value heads times their size. norms: widths of a block's norms, rms: whether they are
    RMSNorms in Python, which keep a float32 copy of their input. other: weights that are not in 4 bits.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    query: int
    kv: int
    vocab: int
    head_dim: int
    gated: bool
    fused: bool
    rms: bool
    eager: bool
    norms: list[int]
    linears: list[tuple[str, int, int]]
    block: list[tuple[str, int, int]]
    other: int
    targets: list[str]

    @property
    def adapted(self) -> list[tuple[int, int]]:
        return [(i, o) for name, i, o in self.linears if name in self.targets]


def read_shape(name: str, trust_remote_code: bool = False) -> Shape:
    """The shape of a model from its config.json: a local folder's, or the hub's.

    Raises:
        InputError: it cannot be found or reached, or is of a kind that this project cannot train or count.
    """
    base, _ = policy.base_and_adapter(name)
    policy.check_reachable(base)
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{base}: no causal language model: {policy.first_line(error)}") from None
    return shape_of(model, base, policy.LORA_TARGETS)


def shape_of(model: nn.Module, name: str, targets: list[str]) -> Shape:
    """The shape of a transformers model, on the meta device or any other, before it is quantised."""
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    linears, block, norms, rms = [], [], [], False
    for path, module in model.named_modules():
        parts = path.split(".")
        first = "0" in parts
        if isinstance(module, nn.Linear) and module is not head:
            linears.append((parts[-1], module.in_features, module.out_features))
            block += linears[-1:] if first else []
        elif first and type(module).__name__.endswith("Norm") and getattr(module, "weight", None) is not None:
            times = {"q_norm": heads, "k_norm": kv_heads}.get(parts[-1], 1)
            norms.append(module.weight.numel() * (times if module.weight.numel() == head_dim else 1))
            rms = not isinstance(module, nn.LayerNorm)
    if getattr(config, "use_parallel_residual", False):
        norms = norms[:1]  # both norms keep the same input
    names = {n for n, *_ in block}
    require(bool(names & set(targets)), f"{name}: has none of the layers that are adapted ({', '.join(targets)})")
    routed = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    require(not routed, f"{name}: a mixture of experts is not counted")
    quantised = sum(i * o for _, i, o in linears)
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        heads=heads,
        query=heads * head_dim,
        kv=kv_heads * head_dim,
        vocab=config.vocab_size,
        head_dim=head_dim,
        gated=bool(names & {"gate_proj", "gate_up_proj"}),
        fused=bool(names & {"query_key_value", "qkv_proj"}),
        rms=rms,
        eager=config._attn_implementation == "eager",
        norms=norms,
        linears=linears,
        block=block,
        other=sum(p.numel() for p in model.parameters()) - quantised,
        targets=list(targets),
    )


def nf4_bytes(weights: int) -> int:
    """Of a matrix in NF4 with double quantisation (arXiv 2305.14314): half a byte a weight, an 8-bit scale for 64
    weights, a float32 scale for 256 of those, and the two code books with their offset.

    >>> nf4_bytes(2048 * 2048) * 8 / 2048**2  # bits a weight
    4.129...
    """
    scales = math.ceil(weights / 64)
    return math.ceil(weights / 2) + scales + 4 * math.ceil(scales / 256) + 4 * (16 + 256 + 1)


def rows_and_tokens(args: Any, prompt: int) -> tuple[int, int, int]:
    """(N, T, M) of the largest micro-batch: rows, their tokens, and completion tokens, which go through the LM head.

    Completions of one prompt share a row of P + G R tokens. A minibatch mixes tasks as chance has it.

    >>> from memory import Args
    >>> rows_and_tokens(Args(batch_size=8, num_samples=8, micro_batch_size=4), 768)
    (1, 1792, 1024)
    >>> rows_and_tokens(Args(batch_size=8, num_samples=3, micro_batch_size=4), 768)
    (2, 1536, 1024)
    >>> rows_and_tokens(Args(batch_size=8, num_samples=8, micro_batch_size=4, minibatch_size=8), 768)
    (4, 1024, 1024)
    >>> rows_and_tokens(Args(method="sft", micro_batch_size=1), 768)
    (1, 1024, 1024)
    """
    reply, size = args.max_new_tokens, args.micro_batch_size
    if args.method == "sft":
        return size, args.max_length, size * args.max_length
    if args.method == "dpo":
        return size, prompt + 2 * reply, 2 * size * reply
    count = args.batch_size * args.num_samples
    size = min(size, args.minibatch_size or count, count)
    if args.minibatch_size and args.batch_size > 1:
        most = min(size, args.batch_size)
        mixes = {(n, min(args.num_samples, size - n + 1)) for n in range(math.ceil(size / args.num_samples), most + 1)}
    else:
        task = [i // args.num_samples for i in range(count)]
        cuts = [task[at : at + size] for at in range(0, count, size)]
        mixes = {(len(set(cut)), max(map(cut.count, cut))) for cut in cuts}
    rows, largest = max(mixes, key=lambda mix: mix[0] * (prompt + mix[1] * reply))
    return rows, prompt + largest * reply, size * reply


def saved_by_a_block(shape: Shape, args: Any, dtype: int, repeated: bool) -> float:
    """Bytes a token that one block keeps for the backward pass; weights are not counted.

    With widths H, F (inner), q, kv, and d bytes an element, 4 for the adapters' float32:

        norms      4 H + 4 each: the float32 copy of the input and the root (LayerNorm: d H + 8)
        adapters   4 in each: the input cast to float32, once for every adapter. In float32 there is no cast: q, k and v
                   share their input, gate and up theirs, o's is what attention gave, down's is new.  4 rank each
        attention  d (2 q + 2 kv) + 4 heads: queries, keys, values, result, the scores' log-sum
        MLP        d 3 F: gate, its activation, up; without a gate d F

    SFT's adapters have dropout before them, and inputs of their own under autocast: 16-bit copies and masks of a byte.

    Args:
        dtype: d. repeated: keys and values are expanded to all heads (where there is a mask).
    """
    total = sum(4 * width + 4 if shape.rms else dtype * width + 8 for width in shape.norms)
    adapters = [(name, wide) for name, wide, _ in shape.block if name in shape.targets]
    total += 4 * args.lora_r * len(adapters)
    if args.method == "sft" and args.lora_dropout:  # on a CPU, in float32, the mask is as wide as the input
        total += sum((8 if dtype == 4 else dtype + 1) * wide for _, wide in adapters)
    elif dtype == 4:
        sources = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "up", "up_proj": "up"}
        inputs = {sources.get(name, name): wide for name, wide in adapters if name != "o_proj"}
        total += 4 * sum(inputs.values())
    else:
        total += sum((dtype if args.method == "sft" else 4) * wide for _, wide in adapters)
    keys = shape.query if repeated or shape.kv == shape.query else shape.kv
    values = shape.query + 2 * shape.kv if shape.fused else keys  # a view of the projection's whole result
    total += dtype * (2 * shape.query + keys + values) + 4 * shape.heads
    return total + dtype * shape.inner * (3 if shape.gated else 1)


def training_bytes(shape: Shape, args: Any, prompt: int, dtype: int, padded: bool = True) -> dict[str, float]:
    """What a micro-batch's forward and backward pass needs beyond weights, gradients and optimizer, by part."""
    rows, length, replies = rows_and_tokens(args, prompt)
    tokens, checkpointed = rows * length, args.gradient_checkpointing
    shared = args.method == "dpo" or (args.method != "sft" and length > prompt + args.max_new_tokens)
    masked = shared or (padded and rows > 1)
    scores = rows * length * length  # of one head
    block = tokens * saved_by_a_block(shape, args, dtype, repeated=masked)
    copies = scores * dtype * (masked and (dtype == 2 or not shared))  # sdpa's own: of a bool mask, or to align a row
    block += copies + shape.eager * scores * shape.heads * (4 if dtype == 4 else 4 + dtype)
    first_norm = (4 * shape.hidden + 4) * tokens if shape.rms else (dtype * shape.hidden + 8) * tokens
    ends = first_norm + 2 * tokens * shape.head_dim * dtype  # the last norm; cosines and sines
    ends += masked * scores * (dtype if shared else 1)
    ends += (
        2 * 4 * replies * shape.hidden * (args.value_coef > 0)
    )  # what the critic sees, this micro-batch and the last
    kept = shape.layers * (tokens * shape.hidden * dtype if checkpointed else block) + ends
    kept -= 0 if checkpointed else first_norm  # the embeddings need no gradient, and so the first norm keeps nothing
    widest = max(i * o for _, i, o in shape.linears)
    at_a_layer = tokens * shape.inner * (4 + dtype) + widest * dtype  # gradients, one weight in full
    at_the_head = head_bytes(shape, replies, 5) if args.method != "sft" else 4 * replies * shape.vocab * 4
    return {
        "activations kept for the backward pass": kept,
        "backward pass: " + ("a block recomputed" if checkpointed else "gradients, or logits"): max(
            at_the_head, checkpointed * block + at_a_layer
        ),
    }


def head_bytes(shape: Shape, replies: int, copies: int) -> float:
    """Float32 logits: `copies` times as many as `head_logprobs` holds at once (2 going forward, 5 coming back)."""
    at_once = inspect.signature(head_logprobs).parameters["logits_at_once"].default
    return 4 * copies * min(replies * shape.vocab, max(at_once, shape.vocab))


def scoring_bytes(shape: Shape, args: Any, prompt: int, dtype: int) -> float:
    """The forward pass without gradients, of the policy or the reference: its widest moment, or the LM head's."""
    rows, length, replies = rows_and_tokens(args, prompt)
    tokens, shared = rows * length, length > prompt + args.max_new_tokens
    mask = rows * length**2 * (dtype + 1 if shared else 1 + dtype) * (shared or rows > 1)
    wide = tokens * (shape.inner * (2 * dtype + 8) + shape.hidden * (3 * dtype + 4))  # the adapter works in float32
    return mask + max(wide, 2 * tokens * shape.hidden * dtype + head_bytes(shape, replies, 2))


def sampling_bytes(shape: Shape, args: Any, prompt: int, dtype: int) -> dict[str, float]:
    """Keys and values of all rows when the longest is done, and what a step needs beside them, or the prefill."""
    rows = sampling_rows(args)
    a_token = 2 * shape.layers * shape.kv * dtype
    cache = rows * (prompt + args.max_new_tokens) * a_token
    one_layer = cache / shape.layers / 2  # torch.cat: the longer keys beside the old ones
    logits = (
        rows * shape.vocab * (dtype + (28 if args.top_p < 1 else 12))
    )  # float32, divided, log-softmax, probabilities
    tokens = rows // args.num_samples * prompt
    beside = 4 if dtype == 2 else 3  # in 16 bits the adapter's own result
    prefill = tokens * (a_token + dtype * (beside * shape.inner + 5 * shape.hidden))
    return {
        f"keys and values of {rows} rows": cache,
        "logits of a step, or the prefill": max(one_layer + rows * shape.vocab * dtype, logits, prefill - cache),
    }


def sampling_rows(args: Any) -> int:
    """Completions that `rollout.sample` decodes at a time."""
    at_once = inspect.signature(sample).parameters["batch_size"].default
    return min(args.batch_size, max(1, at_once // args.num_samples)) * args.num_samples
