"""Merge a LoRA adapter into the unquantised weights of its base, and compare models by their log-probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear, LoraLayer
from safetensors import SafetensorError, safe_open
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from transformers import AutoConfig, AutoModelForCausalLM

from common import InputError, require
from model.load import check_reachable, first_line

TEXTS = (  # what two models are compared on
    "def is_prime(n):\n    if n < 2:\n        return False\n    for i in range(2, int(n**0.5) + 1):\n"
    "        if n % i == 0:\n            return False\n    return True\n",
    'import math\n\n\ndef area(radius: float) -> float:\n    """Area of a circle.\n\n    >>> area(1)\n'
    '    3.141592653589793\n    """\n    return math.pi * radius**2\n',
    "def count_words(text):\n    counts = {}\n    for word in text.lower().split():\n"
    "        counts[word] = counts.get(word, 0) + 1\n    return sorted(counts, key=counts.get)\n",
)


def check_adapter(adapter: str) -> None:
    """Check before loading that an adapter can be merged.

    Raises:
        InputError: no safetensors file, or it holds something else than LoRA's A and B of linear layers.
    """
    path = Path(adapter) / "adapter_model.safetensors"
    require(path.is_file(), f"{adapter}: no adapter_model.safetensors; weights in other formats are not read")
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
    except SafetensorError as error:
        raise InputError(f"{path}: is no safetensors file ({first_line(error)})") from None
    others = sorted(name for name in names if not name.endswith((".lora_A.weight", ".lora_B.weight")))
    require(len(names) > 0 and not others, f"{adapter}: only plain LoRA adapters of linear layers can be merged; "
            f"this one holds {others[0] if others else 'nothing'}")  # fmt: skip


def load_plain(name: str, device: torch.device, dtype: torch.dtype | None, trust_remote_code: bool = False):
    """Return a model as transformers loads it, for weights in `dtype` (None: as stored).

    The weights are in the narrowest format that holds both the stored ones and `dtype`, so that nothing is rounded
    before the adapter is added.

    Raises:
        InputError: it cannot be loaded, or its stored weights are themselves quantised.
    """
    check_reachable(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        quantised = getattr(config, "quantization_config", None)
        require(quantised is None, f"{name}: its weights are quantised, which loses more than an adapter adds; "
                "name the unquantised model with --base_model_name")  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=torch.promote_types(config.dtype or torch.float32, dtype) if dtype else "auto",
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be loaded: {first_line(error)}") from None
    return model.eval()


@torch.no_grad()
def merge(model: PeftModel, dtype: torch.dtype) -> torch.nn.Module:
    """Return the base model with W + D for W, in the dtype; in place, one layer at a time in float64, rounded once.

    Raises:
        InputError: a layer that is adapted in some other way than by D = s B A, or a weight that the dtype cannot hold.
    """
    base = model.get_base_model()
    for name, layer in base.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        tied = layer.base_layer.weight is base.get_input_embeddings().weight
        require(not tied, f"{name}: is adapted, and its weights are the embeddings' too, which are not")
        plain = type(layer) is Linear and not layer.lora_variant
        require(plain, f"{name}: is adapted in a way that is not merged here")
        total = layer.base_layer.weight.double() + layer.get_delta_weight("default").double()  # (out, in)
        layer.base_layer.weight.data = total.to(dtype)
        finite = layer.base_layer.weight.isfinite().all()
        require(bool(finite), f"{name}: its merged weight has numbers that {dtype} cannot hold")
    merged = model.unload()
    for parameter in merged.parameters():  # not `merged.to`: that would cast what is computed in float32 always
        parameter.data = parameter.data.to(dtype)
    return merged


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Within the block every module computes in float32 on its weights as they are.

    A module's own weights are widened while it runs, so the memory is that of the stored ones and a layer. In 16 bits
    the arithmetic itself would blur two models by more than a small adapter adds.
    """
    stored: dict[torch.nn.Parameter, torch.Tensor] = {}

    def widen(module, inputs) -> None:
        for parameter in module.parameters(recurse=False):
            stored[parameter] = parameter.data
            parameter.data = parameter.data.to(torch.float32, copy=True)  # a copy is aligned, wherever the file lies

    def restore(module, inputs, output) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = stored.pop(parameter)

    with register_module_forward_pre_hook(widen), register_module_forward_hook(restore, always_call=True):
        yield


@torch.no_grad()
def text_logprobs(model, tokenizer) -> torch.Tensor:
    """Return the log-probabilities at every position of TEXTS; (positions, V), float32, on the CPU."""
    rows = []
    with in_float32():
        for text in TEXTS:
            ids = torch.tensor([tokenizer(text).input_ids], device=model.device)
            rows.append(model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1).cpu())
    return torch.cat(rows)


def difference(one: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """Return how far two results of `text_logprobs` are apart, over positions and vocabulary.

    >>> a, b = torch.tensor([[0.0, -4.0], [-1.0, -2.0]]), torch.tensor([[0.0, -4.0], [-2.0, -1.0]])
    >>> difference(a, b)
    {'positions': 2, 'largest': 1.0, 'mean': 0.5, 'same_argmax': 0.5}
    """
    gap, same = (one - other).abs(), one.argmax(-1) == other.argmax(-1)
    return {"positions": len(one), "largest": gap.max().item(), "mean": gap.mean().item(),
            "same_argmax": same.float().mean().item()}  # fmt: skip
