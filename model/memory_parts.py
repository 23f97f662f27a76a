"""Count the bytes of each part of a training step from a model's config.

`memory` adds them up. Throughout, d is the bytes of a number outside the adapters: 2 on a GPU, 4 on a CPU.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from types import SimpleNamespace
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
    """The sizes of a model that memory depends on."""

    layers: int
    hidden: int
    inner: int  # width inside the MLP
    heads: int
    query: int  # heads times their size
    kv: int  # key/value heads times their size
    vocab: int
    rotary: int  # how much of a head's width is rotated
    gated: bool  # the MLP has a gate
    fused: bool  # one projection makes queries, keys and values
    rms: bool  # norms are RMSNorms in Python, which keep a float32 copy of their input
    steps: bool  # the activation is computed in steps, and each is kept
    eager: bool  # attention keeps its scores
    norms: list[int]  # widths of a block's norms
    linears: list[tuple[str, int, int]]  # name, in, out of every linear layer that is in 4 bits
    other: int  # weights that are not in 4 bits
    targets: list[str]  # names of the linear layers with an adapter

    @property
    def block(self) -> list[tuple[str, int, int]]:
        return self.linears[: len(self.linears) // self.layers]

    def adapter(self, rank: int) -> int:
        return rank * sum(i + o for name, i, o in self.linears if name in self.targets)


def read_shape(name: str, trust_remote_code: bool = False) -> Shape:
    """Return the shape of a model from its config.json, in a local folder or on the hub.

    Raises:
        InputError: it cannot be found or reached, or this project cannot train or count such a model.
    """
    return shape_of(without_weights(name, trust_remote_code), name)


def num_parameters(name: str, trust_remote_code: bool = False) -> int:
    """Return how many weights a model has, by its config; tied ones count once. Raises what `without_weights` does."""
    return sum(weight.numel() for weight in without_weights(name, trust_remote_code).parameters())


def without_weights(name: str, trust_remote_code: bool = False) -> nn.Module:
    """Return a model, or the base of an adapter, on the meta device.

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
    """Return the shape of a transformers model, on any device, before it is quantised."""
    config, adaptable = model.config.get_text_config(), linear_layers(model)
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    linears, norms, rms = [], [], False
    for path, module in model.named_modules():
        *above, last = path.split(".")
        if path in adaptable:
            wide = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
            linears.append((last, *wide))
        elif "0" in above and type(module).__name__.endswith("Norm") and getattr(module, "weight", None) is not None:
            times = {"q_norm": heads, "k_norm": kv_heads}.get(last, 1) if module.weight.numel() == head_dim else 1
            norms.append(module.weight.numel() * times)
            rms = not isinstance(module, nn.LayerNorm)
    require(bool(linears), f"{name}: has no linear layers that could be adapted")
    routed = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    require(not routed, f"{name}: a mixture of experts is not counted")
    names, rope = {name for name, *_ in linears}, getattr(config, "rope_parameters", None)
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
        norms=norms[:1] if getattr(config, "use_parallel_residual", False) else norms,  # both keep the same input
        linears=linears,
        other=sum(p.numel() for p in model.parameters()) - sum(i * o for _, i, o in linears),
        targets=lora_targets(model),
    )


def nf4_bytes(weights: int) -> int:
    """Return the bytes of a matrix in NF4 with double quantisation (arXiv 2305.14314).

    Half a byte a weight, an 8-bit scale for 64 weights, a float32 scale for 256 of those, and the code books.

    >>> nf4_bytes(2048 * 2048) * 8 / 2048**2  # bits a weight
    4.129...
    """
    scales = math.ceil(weights / 64)
    return math.ceil(weights / 2) + scales + 4 * math.ceil(scales / 256) + 4 * (16 + 256 + 1)


@dataclass(frozen=True)
class Pass:
    """A forward pass, perhaps with a backward pass: rows of `length` tokens; `replies` tokens are completions' in all.

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
        """The attention scores of one head."""
        return self.tokens * self.length


def passes(args: Any, prompt: int, shared: bool = True, training: bool = True) -> set[Pass]:
    """Return the passes of a step as `micro_batches` cuts them, if every prompt and completion is the longest.

    A minibatch of the update mixes tasks by chance: here it has few tasks, or many of which one has most samples.

    Args:
        shared: whether the model takes completions of a prompt in one row. training: of the update.

    >>> from model.memory import Args
    >>> passes(Args(batch_size=2, num_samples=8), 768)  # 2 x 2816 tokens would be too many
    {Pass(rows=1, length=2816, replies=2048, shared=True)}
    >>> passes(Args(method="sft", per_device_train_batch_size=2), 768)
    {Pass(rows=2, length=1024, replies=2048, shared=False)}
    """
    if args.method == "sft":
        rows = args.per_device_train_batch_size
        return {Pass(rows, args.max_length, rows * args.max_length)}
    pairs = args.method == "dpo"
    each, replies = (1, 2) if pairs else (args.num_samples, 1)

    def item(number: int, completions: int) -> SimpleNamespace:
        lengths = [args.max_new_tokens] * completions
        return SimpleNamespace(group=number // each, prompt_length=prompt, lengths=lengths)

    items = [item(i, replies) for i in range(args.batch_size * each)]
    size = training and args.method in ("ppo", "grpo", "rft") and args.minibatch_size or len(items)
    few, many = list(range(len(items))), sorted(range(len(items)), key=lambda i: (i % each > 0, i))
    cuts = []
    for order in (few, many):
        minibatch = [items[i] for i in sorted(order[:size])]
        cuts += [[minibatch[i] for i in cut] for cut in micro_batches(minibatch, args.micro_batch_tokens, shared)]
    if not training:  # the check before the first update takes 4 samples, or 16 pairs, in one pass
        cuts.append([item(i, 1) for i in range(16 if pairs else min(4, len(items)))])
    found = set()
    for cut in cuts:
        prompts, completions = len({item.group for item in cut}), sum(len(item.lengths) for item in cut)
        sharing = shared and completions > prompts
        rows = prompts if sharing else completions
        found.add(Pass(rows, padded_tokens(cut, sharing) // rows, completions * args.max_new_tokens, sharing))
    return found


def saved_by_a_block(shape: Shape, args: Any, dtype: int, repeated: bool) -> float:
    """Return the bytes a token that one block keeps for the backward pass; weights are not counted.

    With widths H, F (inner), q, kv, and d bytes a number, 4 for the adapters' float32:

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
        total += 4 * sum({sources.get(name, name): wide for name, wide in adapters if name != "o_proj"}.values())
    else:
        total += sum((dtype if args.method == "sft" else 4) * wide for _, wide in adapters)
    keys = shape.query if repeated and shape.kv * shape.heads > shape.query else shape.kv
    values = shape.query + 2 * shape.kv if shape.fused else keys  # a view of the projection's whole result
    total += dtype * (2 * shape.query + keys + values) + 4 * shape.heads
    return total + dtype * shape.inner * ((3 if shape.gated else 1) + 3 * shape.steps)


def training_bytes(shape: Shape, args: Any, one: Pass, dtype: int) -> dict[str, float]:
    """Return what a forward and backward pass needs beside weights, gradients and optimizer, by part."""
    tokens, checkpointed = one.tokens, args.gradient_checkpointing
    masked = one.shared or one.rows > 1
    block = tokens * saved_by_a_block(shape, args, dtype, repeated=masked)
    # sdpa's own copies of a mask: from bool, or to align a row
    block += one.scores * dtype * (masked and (dtype == 2 or not one.shared))
    block += shape.eager * one.scores * shape.heads * (4 if dtype == 4 else 4 + dtype)
    first_norm = tokens * (4 * shape.hidden + 4 if shape.rms else dtype * shape.hidden + 8)
    ends = first_norm + 2 * tokens * shape.rotary * dtype  # the last norm; cosines and sines
    ends += masked * one.scores * (dtype if one.shared else 1) + critic_bytes(shape, args, one)
    if args.method != "sft":  # the gradient of each token's state, and its place in the row
        ends += one.replies * (shape.hidden * 4 * (1 + (args.entropy_coef > 0)) + 40)
    # without checkpointing, the first norm keeps nothing: the embeddings need no gradient
    kept = ends + shape.layers * (tokens * shape.hidden * dtype if checkpointed else block)
    kept -= 0 if checkpointed else first_norm
    at_a_layer = tokens * shape.inner * (4 + dtype) + widest(shape) * dtype  # gradients, one weight in full
    logits = 4 * one.replies * shape.vocab * 4 if args.method == "sft" else head_bytes(shape, args, one, dtype)
    return {
        "activations kept for the backward pass": kept,
        "beside: " + ("a block recomputed, or logits" if checkpointed else "gradients, or logits"): max(
            logits, checkpointed * block + at_a_layer
        ),
    }


def widest(shape: Shape) -> int:
    return max(i * o for _, i, o in shape.linears)


def critic_bytes(shape: Shape, args: Any, one: Pass) -> float:
    """Return the bytes of the states that the critic sees, in float32: of this pass and of the last one."""
    return 2 * 4 * one.replies * shape.hidden * (args.value_coef > 0)


def head_bytes(shape: Shape, args: Any, one: Pass, dtype: int, training: bool = True) -> float:
    """Return what log-probabilities take beside what is kept.

    The states of all tokens, those of completions twice, and as many logits as `head_logprobs` has at once, in
    float32: themselves, divided, their log-softmax (and with an entropy bonus one more).
    """
    at_once = inspect.signature(head_logprobs).parameters["logits_at_once"].default
    logits = min(one.replies, max(1, at_once // shape.vocab)) * shape.vocab
    return (one.tokens + 2 * one.replies) * shape.hidden * dtype + logits * (
        16 if training and args.entropy_coef > 0 else 12
    )


def scoring_bytes(shape: Shape, args: Any, one: Pass, dtype: int) -> float:
    """Return what a forward pass without gradients takes: its widest moment, or the LM head's."""
    mask = one.scores * (dtype + 1) * (one.shared or one.rows > 1)
    wide = one.tokens * (shape.inner * (2 * dtype + 8) + shape.hidden * (3 * dtype + 4))  # adapters are in float32
    return mask + critic_bytes(shape, args, one) + max(wide, head_bytes(shape, args, one, dtype, training=False))


def sampling_bytes(shape: Shape, args: Any, prompt: int, dtype: int) -> dict[str, float]:
    """Return the bytes of the copy that samples, of all rows' keys and values as they are reserved, and the rest.

    The rest is the largest of: a layer's keys and values, copied when rows are repeated or dropped; the work on a
    step's logits (`sampling._draw`: float32, the cumulative sum and its operand float64, with top_p sorted too); the
    prefill, with the prompts' own keys and values where the rows have a fixed place (`StaticDecoder`).
    """
    static = args.cuda_graph and dtype == 2
    prompts = min(args.batch_size, max(1, args.sample_batch_size // args.num_samples))
    rows, a_token = prompts * args.num_samples, 2 * shape.layers * shape.kv * dtype
    room = prompt + args.max_new_tokens
    room = -(-room // ROOM_UNIT) * ROOM_UNIT if static else room
    cache = rows * room * a_token
    copy = widest(shape)  # one weight at a time; or all, with the adapter, which in float32 is merged into them
    if args.unpack_to_sample:
        copy = sum(i * o for _, i, o in shape.linears) + shape.adapter(args.lora_r) * (dtype == 2)
    # in 16 bits the adapter's own result comes on top
    prefill = prompts * prompt * dtype * ((4 if dtype == 2 else 3) * shape.inner + 5 * shape.hidden)
    if static:  # a layer's keys, or its values, are repeated beside those of all prompts
        prefill = prompts * prompt * a_token + max(prefill, cache / shape.layers / 2)
    else:  # the rows' take the prompts' place
        prefill += prompts * room * a_token - cache
    drawing = rows * shape.vocab * (41 if args.top_p < 1 else 24)
    return {
        f"weights unpacked to sample, {8 * dtype} bits": copy * dtype,
        f"keys and values of {rows} rows": cache,
        "a step's logits, a layer copied, or the prompts": max(
            cache / shape.layers + rows * shape.vocab * dtype, drawing, prefill
        ),
    }
