"""Read adapters, decide which kinds are supported where, and check that all weights of one were loaded.

Plain LoRA on the 4-bit linear layers is merged into the copy that samples. Every other kind of LoRA (on the LM head or
the embeddings, DoRA, weights trained beside it) is sampled with peft's own forward pass, which is slower, and exact.
Adapters that are not LoRA are refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import SafetensorError, safe_open

from common import InputError, require

NOT_TAKEN = ("target_parameters", "layer_replication", "alora_invocation_tokens")
MORE_THAN_PLAIN = ("use_dora", "modules_to_save", "trainable_token_indices", "lora_bias")
EMBEDDINGS = {"lm_head", "embed_tokens", "embed_out", "embed_in", "wte"}  # names in different families


def read_config(adapter: str, trainable: bool = False) -> dict[str, Any]:
    """Read an adapter's configuration.

    Args:
        trainable: whether the adapter will be trained.

    Raises:
        InputError: the file cannot be read, the adapter is not LoRA or of an unsupported kind, or it will be trained
            but cannot be.
    """
    path = Path(adapter) / "adapter_config.json"
    try:
        config = json.loads(path.read_text())
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    require(kind == "LORA", f"{adapter}: is an adapter of type {kind}; these scripts support only LoRA adapters")
    require(isinstance(config.get("r"), int), f"{path}: has no rank r")
    for name in NOT_TAKEN:
        require(not config.get(name), f"{adapter}: has {name}, which these scripts do not support")
    require(
        not trainable or config.get("bias", "none") == "none",
        f"{adapter}: trains biases of the model itself (bias {config.get('bias')}), and peft keeps no second copy of "
        "these for the frozen reference; it can be evaluated here, not trained",
    )
    return config


def beyond_plain(adapter: str) -> list[str]:
    """List what an adapter's configuration has beyond LoRA on linear layers of the blocks; [] for most adapters.

    Raises:
        InputError: as `read_config`.
    """
    config = read_config(adapter)
    found = [name if config[name] is True else f"{name} {config[name]}" for name in MORE_THAN_PLAIN if config.get(name)]
    if config.get("bias", "none") != "none":
        found.append(f"bias {config['bias']}")
    targets = config.get("target_modules") or []
    if not isinstance(targets, str):
        found += [f"LoRA on {name}" for name in sorted(EMBEDDINGS & set(targets))]
    return found


def check_plain(adapter: str, where: str) -> None:
    """Raise InputError if an adapter is more than plain LoRA, which is all that `where` supports."""
    found = beyond_plain(adapter)
    require(not found, f"{where}: takes plain LoRA on linear layers; {adapter} has {', '.join(found)}")


def add_adapter(model, adapter: str, trainable: bool) -> PeftModel:
    """Return the model with an adapter added, after checking that all of the adapter's weights were loaded.

    Raises:
        InputError: the adapter belongs to another base, its file is missing, or it has weights that the model ignores.
    """
    read_config(adapter)
    path = Path(adapter) / "adapter_model.safetensors"
    require(path.is_file(), f"{adapter}: no adapter_model.safetensors; weights in other formats are not read")
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
        model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{adapter}: does not fit its base model: {' '.join(str(error).split())[:200]}") from None
    loaded = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False).keys()
    # with LoRA on the embeddings or the LM head, peft also saves these layers' own weights, which the model has
    others = sorted((names - loaded - model.state_dict().keys()) | (loaded - names))
    require(
        not others,
        f"{adapter}: does not fit its base model: {len(others)} weights have no counterpart, the first {others[:1]}",
    )
    return model


def is_plain(base) -> bool:
    """Return whether a policy's transformers model has LoRA only on its 4-bit layers, so it can be merged exactly."""
    for module in base.modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            return False
        if isinstance(module, BaseTunerLayer):
            if not isinstance(module, LoraLayer) or not isinstance(module.get_base_layer(), Linear4bit):
                return False
            if module.lora_variant or any(module.lora_bias.values()):
                return False
    return True


def save(model: PeftModel, folder: Path) -> None:
    """Save the policy's own adapter as safetensors and JSON, without the reference's."""
    config = model.peft_config["default"]
    for name in ("target_modules", "exclude_modules"):  # text, such as a regular expression, stays unchanged
        if isinstance(value := getattr(config, name, None), set):  # a set would be written in a new order each time
            setattr(config, name, sorted(value))
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    adapted = any(isinstance(module, LoraLayer) for module in ends)
    model.save_pretrained(folder, safe_serialization=True, selected_adapters=["default"], save_embedding_layers=adapted)


def adapter_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the weights of the policy's own adapter, without asking the hub about the embeddings, as peft would."""
    return get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
