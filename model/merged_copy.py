"""Copy the policy for sampling: 4-bit weights unpacked, the adapter merged in."""

from __future__ import annotations

import weakref
from copy import deepcopy as copy_of

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from transformers.pytorch_utils import Conv1D

from common import InputError
from model import adapters
from model.load import dtype_of


@torch.no_grad()
def merged_copy(model):
    """Return a plain copy of the policy to sample from: 4-bit weights unpacked, the adapter merged in, no dropout.

    The copy decodes faster than the policy; log-probabilities for training still come from the policy. Unpacked weights
    are made anew at every call, in the compute dtype; all other weights are shared with the policy.

    In 16 bits the adapter is not added to the weights but computed beside them. Most of what an adapter adds to a
    weight is less than half of the weight's last bit and would be rounded away. If an adapter cannot be merged exactly
    (see `adapters.is_plain`), the policy's own base is returned.

    Raises:
        InputError: some weights of the model's class are not found in the policy.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not adapters.is_plain(base):
        return base
    copy = _copies.get(base)
    if copy is None:
        copy = _copies[base] = _plain_copy(base)
    for name, module in base.named_modules():
        if isinstance(module, Linear4bit):
            plain = name.removesuffix(".base_layer")
            linear = copy.get_submodule(plain)
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            lora = base.get_submodule(plain) if plain != name else None  # a layer that an adapter wraps
            if lora is not None and weight.dtype == torch.float32:
                weight = weight + sum(lora.get_delta_weight(adapter) for adapter in lora.active_adapters)
            elif lora is not None:
                (adapter,) = lora.active_adapters
                linear.lora_down = lora.lora_A[adapter].weight.to(weight.dtype)  # (r, in)
                linear.lora_up = (lora.lora_B[adapter].weight * lora.scaling[adapter]).to(weight.dtype)  # (out, r)
            weight = by_columns(weight)
            linear.weight = frozen(weight.T if isinstance(linear, Conv1D) else weight)
    return copy


def drop_merged_copy(model) -> None:
    """Free the memory of the copy's unpacked weights, so that training can use it."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    for name, module in base.named_modules() if base in _copies else ():
        if isinstance(module, Linear4bit):
            linear = _copies[base].get_submodule(name.removesuffix(".base_layer"))
            linear.weight, linear.lora_down, linear.lora_up = frozen(torch.empty(0)), None, None


def by_columns(weight: torch.Tensor) -> torch.Tensor:
    """Return the same matrix, stored by columns if it is float32 on a CPU: it decodes faster (benchmarks/README.md)."""
    return weight.t().contiguous().t() if weight.device.type == "cpu" and weight.dtype == torch.float32 else weight


def frozen(weight: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight, requires_grad=False)


def _beside(module, inputs, output):
    """Add an adapter's output to that of its linear layer, as a forward hook: + s (x A^T) B^T."""
    small = F.linear(inputs[0], module.lora_down).flatten(0, -2)
    return torch.addmm(output.flatten(0, -2), small, module.lora_up.t()).view_as(output)


_copies: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _plain_copy(base):
    """Return the model without its 4-bit weights; the other weights are shared with the policy."""
    config = copy_of(base.config)
    del config.quantization_config
    device = base.get_input_embeddings().weight.device
    here = [device] if device.type == "cuda" else []
    with device, torch.random.fork_rng(devices=here), init_empty_weights(include_buffers=False):
        plain = type(base)._from_config(config, dtype=dtype_of(base)).eval()  # this class: no new code is loaded
    plain.generation_config = base.generation_config
    if dtype_of(base) != torch.float32:
        for name, module in base.named_modules():
            if isinstance(module, Linear4bit) and name.endswith(".base_layer"):
                plain.get_submodule(name.removesuffix(".base_layer")).register_forward_hook(_beside)
    unpacked = {
        name.removesuffix(".base_layer") + ".weight"
        for name, module in base.named_modules()
        if isinstance(module, Linear4bit)
    }
    head = base.get_output_embeddings()
    if type(head) is torch.nn.Linear:
        head.weight.data = by_columns(head.weight.data)  # in the policy, so that the two still share it
    shared = {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in base.named_parameters(remove_duplicate=False)
    }
    names = [name for name, _ in plain.named_parameters(remove_duplicate=False)]
    missing = [name for name in names if name not in unpacked and name not in shared]
    if missing:
        raise InputError(f"{type(base).__name__} cannot be copied for sampling: {', '.join(missing[:3])} not found")
    for name in names:
        if name not in unpacked:
            place, _, leaf = name.rpartition(".")
            setattr(plain.get_submodule(place), leaf, frozen(shared[name].data))
    return plain
