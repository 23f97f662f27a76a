"""A LoRA adapter into the unquantised weights of its base model, with one rounding, and what that rounding costs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear, LoraLayer
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from common import InputError, require
from model.adapters import adapter_weights
from model.load import check_reachable, first_line

TEXTS = (  # what two models are compared on
    "def is_prime(n):\n    if n < 2:\n        return False\n    for i in range(2, int(n**0.5) + 1):\n"
    "        if n % i == 0:\n            return False\n    return True\n",
    'import math\n\n\ndef area(radius: float) -> float:\n    """Area of a circle.\n\n    >>> area(1)\n'
    '    3.141592653589793\n    """\n    return math.pi * radius**2\n',
    "def count_words(text):\n    counts = {}\n    for word in text.lower().split():\n"
    "        counts[word] = counts.get(word, 0) + 1\n    return sorted(counts, key=counts.get)\n",
)


@dataclass
class Rounding:
    """What writing W + D in the dtype changes, as a share of the adapter's D (Frobenius norms): 0 nothing, 1 all of D.

    share: ||round(W + D) - (W + D)|| / ||D|| over all adapted weights. worst: of a single one, `worst_name`.
    """

    share: float
    worst: float
    worst_name: str


@dataclass
class Difference:
    """Of two models' log-probabilities of each token of the vocabulary, at every position of some texts."""

    positions: int
    largest: float
    mean: float
    same_argmax: float  # share of the positions at which both have the same likeliest token


def check_adapter(adapter: str) -> set[str]:
    """The names of the adapter's tensors.

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
    return names


def load_plain(name: str, device: torch.device, dtype: torch.dtype | str, trust_remote_code: bool = False):
    """A model as transformers loads it: its weights as they are, cast to the dtype ("auto": as stored).

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
            dtype=dtype if dtype == "auto" else wide_enough(config, dtype),
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be loaded: {first_line(error)}") from None
    return model.eval()


def wide_enough(config, dtype: torch.dtype) -> torch.dtype:
    """Where both the stored weights and the dtype fit, so that nothing is rounded before the adapter is added."""
    return torch.promote_types(config.dtype or torch.float32, dtype)


def add_adapter(model, adapter: str) -> PeftModel:
    """The model with the adapter beside its weights, in float32.

    Raises:
        InputError: the adapter is one of another base.
    """
    names = check_adapter(adapter)
    try:
        model = PeftModel.from_pretrained(model, adapter).eval()
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{adapter}: does not fit its base model: {first_line(error)}") from None
    others = sorted(names ^ adapter_weights(model).keys())
    require(not others, f"{adapter}: does not fit its base model: {len(others)} weights have no counterpart, "
            f"the first {others[:1]}")  # fmt: skip
    return model


@torch.no_grad()
def merge(model: PeftModel, dtype: torch.dtype) -> tuple[torch.nn.Module, Rounding]:
    """The base model with W + D for W, in the dtype; in place, one layer at a time in float64, rounded once.

    Raises:
        InputError: a layer that is adapted in some other way than by B A s, or a weight that the dtype cannot hold.
    """
    lost, added, worst, worst_name = 0.0, 0.0, 0.0, ""
    base = model.get_base_model()
    for name, layer in base.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        tied = layer.base_layer.weight is base.get_input_embeddings().weight
        require(not tied, f"{name}: is adapted, and its weights are the embeddings' too, which are not")
        plain = type(layer) is Linear and not layer.lora_variant
        require(plain, f"{name}: is adapted in a way that is not merged here")
        delta = layer.get_delta_weight("default").double()  # (out, in)
        exact = layer.base_layer.weight.double() + delta
        rounded = exact.to(dtype)
        require(bool(rounded.isfinite().all()), f"{name}: its merged weight has numbers that {dtype} cannot hold")
        layer.base_layer.weight.data = rounded
        error, size = exact.sub_(rounded).norm().item(), delta.norm().item()
        lost, added = lost + error**2, added + size**2
        if size and error / size > worst:
            worst, worst_name = error / size, name
    merged = model.unload()
    for parameter in merged.parameters():  # not `merged.to`: that would cast what is computed in float32 always
        parameter.data = parameter.data.to(dtype)
    return merged, Rounding((lost / added) ** 0.5 if added else 0.0, worst, worst_name)


@contextlib.contextmanager
def in_float32(model) -> Iterator[None]:
    """Within the block the model computes in float32 on its weights as they are.

    Each module's own weights are widened while it runs, so the memory is that of the stored ones and a layer. In 16
    bits the arithmetic itself would blur two models by more than a small adapter adds.
    """
    stored: dict[torch.nn.Parameter, torch.Tensor] = {}

    def widen(module, inputs) -> None:
        for parameter in module.parameters(recurse=False):
            stored[parameter] = parameter.data
            parameter.data = parameter.data.to(torch.float32, copy=True)  # a copy is aligned, wherever the file lies

    def restore(module, inputs, output) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = stored.pop(parameter)

    hooks = []
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            hooks.append(module.register_forward_pre_hook(widen))
            hooks.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def text_logprobs(model, tokenizer) -> torch.Tensor:
    """Log-probabilities of the next token at every position of TEXTS; (positions, V), float32, on the CPU."""
    with in_float32(model):
        rows = []
        for text in TEXTS:
            ids = torch.tensor([tokenizer(text).input_ids], device=model.device)
            rows.append(model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1).cpu())
    return torch.cat(rows)


def difference(one: torch.Tensor, other: torch.Tensor) -> Difference:
    """Of two results of `text_logprobs`.

    >>> a, b = torch.tensor([[0.0, -4.0], [-1.0, -2.0]]), torch.tensor([[0.0, -4.0], [-2.0, -1.0]])
    >>> difference(a, b)
    Difference(positions=2, largest=1.0, mean=0.5, same_argmax=0.5)
    """
    gap = (one - other).abs()
    same = (one.argmax(-1) == other.argmax(-1)).float().mean().item()
    return Difference(len(one), gap.max().item(), gap.mean().item(), same)
