"""What of a model and a run takes memory: the shape of the model, and the bytes of each part of a phase.

`memory` puts them together. What an operation keeps for the backward pass is counted per layer and token
(`saved_by_a_block`). d stands for the bytes of a number outside the adapters: 2 on a GPU, 4 on a CPU.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from common import InputError, require
from model.load import first_line, linear_layers, load_config, lora_targets
from model.logprobs import head_logprobs
from model.micro_batches import micro_batches, padded_tokens
from model.sampling_graph import ROOM_UNIT


@dataclass
class Shape:
    """What of a model counts. linears: (name, in, out, in 4 bits) of every linear layer; block: those of the first.

    query, kv: heads and key/value heads times their size. norms: widths of a block's norms, rms: whether they are
    RMSNorms in Python, which keep a float32 copy of their input. rotary: what of a head's width is rotated. steps:
    whether the activation is computed step by step, each kept. other: weights that are not in 4 bits.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    query: int
    kv: int
    vocab: int
    rotary: int
    gated: bool
    fused: bool
    rms: bool
    steps: bool
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
    return shape_of(without_weights(name, trust_remote_code), name)


def num_parameters(name: str, trust_remote_code: bool = False) -> int:
    """Weights of a model, from its config.json alone; tied ones count once. Errors as those of `without_weights`."""
    return sum(weight.numel() for weight in without_weights(name, trust_remote_code).parameters())


def without_weights(name: str, trust_remote_code: bool = False) -> nn.Module:
    """The model of a name or folder, or the base of an adapter, on the meta device.

    Raises:
        InputError: `load.load_config` refuses it, or no model can be made of its config.
    """
    config = load_config(name, trust_remote_code)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever settings that do not go together raise
        raise InputError(f"{name}: no model can be made of its config: {first_line(error)}") from None


def shape_of(model: nn.Module, name: str) -> Shape:
    """The shape of a transformers model, on the meta device or any other, before it is quantised."""
    config, adaptable = model.config.get_text_config(), linear_layers(model)
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    linears, block, norms, rms = [], [], [], False
    for path, module in model.named_modules():
        parts = path.split(".")
        first = "0" in parts
        if path in adaptable:
            wide = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
            linears.append((parts[-1], *wide))
            block += linears[-1:] if first else []
        elif first and type(module).__name__.endswith("Norm") and getattr(module, "weight", None) is not None:
            times = {"q_norm": heads, "k_norm": kv_heads}.get(parts[-1], 1)
            norms.append(module.weight.numel() * (times if module.weight.numel() == head_dim else 1))
            rms = not isinstance(module, nn.LayerNorm)
    if getattr(config, "use_parallel_residual", False):
        norms = norms[:1]  # both norms keep the same input
    names = {n for n, *_ in block}
    require(bool(names), f"{name}: has no linear layers that could be adapted")
    routed = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    require(not routed, f"{name}: a mixture of experts is not counted")
    quantised = sum(i * o for _, i, o in linears)
    rope = getattr(config, "rope_parameters", None)
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        heads=heads,
        query=heads * head_dim,
        kv=kv_heads * head_dim,
        vocab=config.vocab_size,
        rotary=int(head_dim * (rope.get("partial_rotary_factor") or 1)) if rope else 0,
        gated=bool(names & {"gate_proj", "gate_up_proj"}),
        fused=bool(names & {"query_key_value", "qkv_proj"}),
        rms=rms,
        steps=any(isinstance(module, NewGELUActivation) for module in model.modules()),
        eager=config._attn_implementation == "eager",
        norms=norms,
        linears=linears,
        block=block,
        other=sum(p.numel() for p in model.parameters()) - quantised,
        targets=lora_targets(model),
    )


def nf4_bytes(weights: int) -> int:
    """Of a matrix in NF4 with double quantisation (arXiv 2305.14314): half a byte a weight, an 8-bit scale for 64
    weights, a float32 scale for 256 of those, and the two code books with their offset.

    >>> nf4_bytes(2048 * 2048) * 8 / 2048**2  # bits a weight
    4.129...
    """
    scales = math.ceil(weights / 64)
    return math.ceil(weights / 2) + scales + 4 * math.ceil(scales / 256) + 4 * (16 + 256 + 1)


@dataclass(frozen=True)
class Pass:
    """A forward pass, and perhaps a backward pass: rows of `length` tokens, of which `replies` in all are completions'.

    shared: completions of one prompt share a row, under a mask of (rows, 1, length, length).
    """

    rows: int
    length: int
    replies: int
    shared: bool = False

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def scores(self) -> int:
        """Of one attention head."""
        return self.tokens * self.length


def passes(args: Any, prompt: int, shared: bool = True, training: bool = True) -> set[Pass]:
    """The passes of a step as `micro_batches` cuts them, all prompts and completions being the longest.

    Args:
        shared: whether the model takes completions of a prompt in one row.
        training: those of the update, whose minibatches mix tasks as chance has it; else those of the whole batch.

    >>> from model.memory import Args
    >>> grpo = Args(batch_size=2, num_samples=8)
    >>> passes(grpo, 768)  # 2 x 2816 tokens would be too many
    {Pass(rows=1, length=2816, replies=2048, shared=True)}
    >>> grpo.micro_batch_tokens = 1792
    >>> passes(grpo, 768)
    {Pass(rows=1, length=1792, replies=1024, shared=True)}
    >>> passes(Args(method="sft", per_device_train_batch_size=2), 768)
    {Pass(rows=2, length=1024, replies=2048, shared=False)}
    """
    if args.method == "sft":
        rows = args.per_device_train_batch_size
        return {Pass(rows, args.max_length, rows * args.max_length)}
    each, replies = (1, 2) if args.method == "dpo" else (args.num_samples, 1)
    size = args.minibatch_size if training and args.method in ("ppo", "grpo") else 0
    found = _passes(args.batch_size, each, replies, prompt, args.max_new_tokens, size, args.micro_batch_tokens, shared)
    if training:
        return found
    # the check before the first update: completions of 4 samples, or of 16 pairs
    beside = [args.max_new_tokens] * (16 if args.method == "dpo" else min(4, args.batch_size * each))
    return found | {_pass([_Item(i // each, prompt, [reply]) for i, reply in enumerate(beside)], shared)}


@dataclass
class _Item:
    """What `micro_batches` wants to know of a sample or a pair."""

    group: int
    prompt_length: int
    lengths: list[int]


def _pass(items: list[_Item], shared: bool) -> Pass:
    replies = sum(sum(item.lengths) for item in items)
    completions = sum(len(item.lengths) for item in items)
    sharing = shared and completions > len({item.group for item in items})
    rows = len({item.group for item in items}) if sharing else completions
    return Pass(rows, padded_tokens(items, sharing) // rows, replies, sharing)


@cache
def _passes(tasks: int, each: int, replies: int, prompt: int, reply: int, size: int, num_tokens: int, shared: bool):
    items = [_Item(i // each, prompt, [reply] * replies) for i in range(tasks * each)]
    chosen = [list(range(len(items)))]
    if 0 < size < len(items):
        chosen = [
            [task * each + i for task, count in enumerate(counts) for i in range(count)]
            for counts in mixes(size, tasks, each)
        ]
    return {
        _pass([items[i] for i in part], shared)
        for rows in chosen
        for part in micro_batches(items, num_tokens, rows, shared)
    }


def mixes(size: int, tasks: int, each: int) -> Iterator[list[int]]:
    """Of how many tasks a minibatch may be, and how many samples of each: as evenly as can be, and as unevenly.

    >>> list(mixes(3, 2, 8))
    [[3], [3], [2, 1], [2, 1]]
    >>> list(mixes(6, 3, 4))
    [[3, 3], [4, 2], [2, 2, 2], [4, 1, 1]]
    """
    for count in range(math.ceil(size / each), min(size, tasks) + 1):
        yield [size // count + (task < size % count) for task in range(count)]
        uneven, left = [1] * count, size - count
        for task in range(count):
            uneven[task] += min(left, each - 1)
            left -= uneven[task] - 1
        yield uneven


def saved_by_a_block(shape: Shape, args: Any, dtype: int, repeated: bool) -> float:
    """Bytes a token that one block keeps for the backward pass; weights are not counted.

    With widths H, F (inner), q, kv, and d bytes an element, 4 for the adapters' float32:

        norms      4 H + 4 each: the float32 copy of the input and the root (LayerNorm: d H + 8)
        adapters   4 in each: the input cast to float32, once for every adapter. In float32 there is no cast: q, k and v
                   share their input, gate and up theirs, o's is what attention gave, down's is new.  4 rank each
        attention  d (2 q + 2 kv) + 4 heads: queries, keys, values, result, the scores' log-sum
        MLP        d 3 F: gate, its activation, up; without a gate d F; 3 more where the activation is done in steps

    SFT's adapters have dropout before them, and inputs of their own under autocast: 16-bit copies and masks of a byte.

    Args:
        dtype: d. repeated: keys and values are expanded to all heads (where there is a mask); a single one is a view.
    """
    total = sum(4 * width + 4 if shape.rms else dtype * width + 8 for width in shape.norms)
    adapters = [(name, wide) for name, wide, _ in shape.block if name in shape.targets]
    total += 4 * args.lora_r * len(adapters)
    if args.method == "sft" and args.lora_dropout:  # on a CPU, in float32, the mask is as wide as the input
        total += sum((8 if dtype == 4 else dtype + 1) * wide for _, wide in adapters)
    elif dtype == 4:
        sources = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "up", "up_proj": "up"}
        if len(shape.norms) == 1:  # Phi: attention and MLP have the same input
            sources["fc1"] = "qkv"
        inputs = {sources.get(name, name): wide for name, wide in adapters if name != "o_proj"}
        total += 4 * sum(inputs.values())
    else:
        total += sum((dtype if args.method == "sft" else 4) * wide for _, wide in adapters)
    keys = shape.query if repeated and shape.kv * shape.heads > shape.query else shape.kv
    values = shape.query + 2 * shape.kv if shape.fused else keys  # a view of the projection's whole result
    total += dtype * (2 * shape.query + keys + values) + 4 * shape.heads
    return total + dtype * shape.inner * ((3 if shape.gated else 1) + 3 * shape.steps)


def training_bytes(shape: Shape, args: Any, one: Pass, dtype: int, padded: bool = True) -> dict[str, float]:
    """What a forward and backward pass needs beyond weights, gradients and optimizer, by part.

    Args:
        padded: whether prompts differ in length; a mask is needed then.
    """
    tokens, checkpointed = one.tokens, args.gradient_checkpointing
    masked = one.shared or (padded and one.rows > 1)
    block = tokens * saved_by_a_block(shape, args, dtype, repeated=masked)
    # sdpa's own copies of a mask: from bool, or to align a row
    block += one.scores * dtype * (masked and (dtype == 2 or not one.shared))
    block += shape.eager * one.scores * shape.heads * (4 if dtype == 4 else 4 + dtype)
    first_norm = (4 * shape.hidden + 4) * tokens if shape.rms else (dtype * shape.hidden + 8) * tokens
    ends = first_norm + 2 * tokens * shape.rotary * dtype  # the last norm; cosines and sines
    ends += masked * one.scores * (dtype if one.shared else 1)
    if args.method != "sft":  # of each token the gradient with respect to its state, and places in the row
        ends += one.replies * (shape.hidden * 4 * (1 + (args.entropy_coef > 0)) + 40)
    ends += critic_bytes(shape, args, one)
    kept = shape.layers * (tokens * shape.hidden * dtype if checkpointed else block) + ends
    kept -= 0 if checkpointed else first_norm  # the embeddings need no gradient, and so the first norm keeps nothing
    widest = max(i * o for _, i, o in shape.linears)
    at_a_layer = tokens * shape.inner * (4 + dtype) + widest * dtype  # gradients, one weight in full
    if args.method == "sft":
        at_the_head = 4 * one.replies * shape.vocab * 4
    else:
        at_the_head = head_bytes(shape, one, dtype, entropy=args.entropy_coef > 0)
    return {
        "activations kept for the backward pass": kept,
        "beside: " + ("a block recomputed, or logits" if checkpointed else "gradients, or logits"): max(
            at_the_head, checkpointed * block + at_a_layer
        ),
    }


def critic_bytes(shape: Shape, args: Any, one: Pass) -> float:
    """The states that the critic sees, in float32: of this pass and of the last one."""
    return 2 * 4 * one.replies * shape.hidden * (args.value_coef > 0)


def head_bytes(shape: Shape, one: Pass, dtype: int, entropy: bool = False) -> float:
    """Beside what is kept, when log-probabilities are taken: the states of all tokens, those of completions twice, and
    the work on as many logits as `head_logprobs` has at once, in float32: themselves, divided, their log-softmax."""
    at_once = inspect.signature(head_logprobs).parameters["logits_at_once"].default
    logits = min(one.replies, max(1, at_once // shape.vocab)) * shape.vocab
    states = (one.tokens + 2 * one.replies) * shape.hidden * dtype
    return states + logits * max(12, 16 * entropy)


def scoring_bytes(shape: Shape, args: Any, one: Pass, dtype: int) -> float:
    """The forward pass without gradients, of the policy or the reference: its widest moment, or the LM head's."""
    mask = one.scores * (dtype + 1) * (one.shared or one.rows > 1)
    wide = one.tokens * (shape.inner * (2 * dtype + 8) + shape.hidden * (3 * dtype + 4))  # adapters are in float32
    return mask + critic_bytes(shape, args, one) + max(wide, head_bytes(shape, one, dtype))


def sampling_bytes(shape: Shape, args: Any, prompt: int, dtype: int) -> dict[str, float]:
    """The copy that samples, keys and values of all rows as they are reserved, and what a step has beside.

    Beside them stand the keys and values of the layer that is copied when rows are repeated or dropped, or the work
    on a step's logits (`rollout._draw`: float32, the cumulative sum and its operand float64), or the prefill: its
    activations and, where the rows have a fixed place (`StaticDecoder`), the prompts' own keys and values.
    """
    rows, static = sampling_rows(args), args.cuda_graph and dtype == 2
    a_token = 2 * shape.layers * shape.kv * dtype
    room = prompt + args.max_new_tokens
    room = -(-room // ROOM_UNIT) * ROOM_UNIT if static else room
    cache = rows * room * a_token
    # in float32, probabilities, cumulative sum and operand; with top_p the sorted ones (4), where they were (8), which
    # are left out (1), the rest (4)
    a_logit = 24 + (17 if args.top_p < 1 else 0)
    weights = [i * o for _, i, o in shape.linears]
    adapter = sum(i + o for i, o in shape.adapted) * args.lora_r * (dtype == 2)  # in float32 it is merged
    copy = sum(weights) + adapter if args.unpack_to_sample else max(weights)  # else one weight at a time
    prompts = rows // args.num_samples
    beside = 4 if dtype == 2 else 3  # in 16 bits the adapter's own result
    prefill = prompts * prompt * dtype * (beside * shape.inner + 5 * shape.hidden)
    if static:  # a layer's keys, or its values, are repeated beside those of all prompts
        prefill = prompts * prompt * a_token + max(prefill, cache / shape.layers / 2)
    else:  # the rows' take the prompts' place
        prefill += prompts * room * a_token - cache
    return {
        f"weights unpacked to sample, {8 * dtype} bits": copy * dtype,
        f"keys and values of {rows} rows": cache,
        "a step's logits, a layer copied, or the prompts": max(
            cache / shape.layers + rows * shape.vocab * dtype, rows * shape.vocab * a_logit, prefill
        ),
    }


def sampling_rows(args: Any) -> int:
    """Completions that `rollout.sample` decodes at a time."""
    return min(args.batch_size, max(1, args.sample_batch_size // args.num_samples)) * args.num_samples
