"""Load, adapt and save the QLoRA policy.

The base is always loaded in 4-bit NF4 with double quantisation (arXiv 2305.14314); adapters are in float32.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import warnings
from pathlib import Path

import huggingface_hub
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from common import InputError, require, sha256
from model import adapters, gguf_model

transformers_logging.disable_progress_bar()
warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing(_enable)?` is deprecated")  # new in 5.23

CPU = torch.device("cpu")
# transformers' names of settings that change the LM head's product: capped (Gemma 2), scaled (Granite, Cohere)
LOGIT_SETTINGS = (
    "final_logit_softcapping", "output_logit_soft_cap", "logits_soft_cap",
    "logits_scaling", "logit_scale", "logits_mup_width_multiplier",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]


def pick_device(device: str = "auto") -> torch.device:
    """Return the device of this name; "auto" is this process's GPU if there is one, else the CPU.

    Raises:
        InputError: a CUDA device was asked for and there is none, or the name is not a device.
    """
    if device == "auto":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else CPU
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch sees no CUDA GPU here; use --device cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InputError(f"--device {device}: want auto, cpu, cuda or cuda:N") from None
    if found.index:
        torch.cuda.set_device(found)  # streams and graphs belong to the current device
    return found


def base_and_adapter(name: str) -> tuple[str, str | None]:
    """Return the base model's name or folder, and the adapter's folder, or None if `name` is not an adapter.

    A GGUF file is converted first.

    Raises:
        InputError: the folder holds neither a model nor an adapter, or the adapter's base cannot be found.
    """
    if file := gguf_model.file_of(name):
        return gguf_model.as_folder(file), None
    folder = Path(name)
    if (folder / "adapter_config.json").is_file():
        base = adapters.read_config(name).get("base_model_name_or_path")
        require(isinstance(base, str), f"{folder / 'adapter_config.json'}: names no base_model_name_or_path")
        for place in (Path(base), ROOT / base):
            if (place / "config.json").is_file():
                return str(place), name
        if _is_hub_name(base):
            return base, name
        raise InputError(f"{name}: its base model {base!r} cannot be found; put it there or edit adapter_config.json")
    if (folder / "config.json").is_file():
        return name, None
    if folder.exists() or not _is_hub_name(name):
        raise InputError(f"{name}: no model here (no config.json and no adapter_config.json)")
    return name, None


def _is_hub_name(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~", "checkpoints/", "data/"))


def load_tokenizer(name: str, trust_remote_code: bool = False):
    """Load the tokenizer of a model or of an adapter's base, with a pad token (masks never depend on which one).

    The adapter folder's chat template is used if it has one; the attribute `template_of` names the template's owner.

    Raises:
        InputError: the name cannot be resolved, the hub cannot be reached, `load_config` refuses the model, or neither
            tokenizer nor configs name a token that ends a text.
    """
    base, adapter = base_and_adapter(name)
    config = load_config(name, trust_remote_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(f"{base}: its tokenizer cannot be loaded: {first_line(error)}") from None
    tokenizer.clean_up_tokenization_spaces = False  # else decoding turns "[1 , 2]" into "[1, 2]"
    if tokenizer.eos_token is None:
        tokenizer.eos_token = _ending_token(base, config, tokenizer)
    if tokenizer.eos_token_id >= (size := config.get_text_config().vocab_size):
        print(f"note: EOS is token {tokenizer.eos_token_id}, and the model has {size}: no completion ends by itself")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    own = chat_template_in(adapter) if adapter else None
    tokenizer.chat_template = own or tokenizer.chat_template
    tokenizer.template_of = (adapter if own else base) if tokenizer.chat_template else ""
    return tokenizer


def _ending_token(base: str, config: PretrainedConfig, tokenizer) -> str:
    """Return the token that ends a text, by the generation config or else the model's config."""
    try:
        named = GenerationConfig.from_pretrained(base).eos_token_id
    except OSError:  # there is no generation config
        named = None
    named = named if named is not None else config.get_text_config().eos_token_id
    first = named[0] if isinstance(named, list) and named else named
    require(
        isinstance(first, int),
        f"{base}: no EOS: neither its tokenizer nor its generation config names a token that ends a text, so nothing "
        "would end a completion; name one as eos_token in its tokenizer_config.json",
    )
    return tokenizer.convert_ids_to_tokens(first)


def chat_template_in(folder: str) -> str | None:
    """Return a folder's own chat template, None if it has none."""
    with contextlib.suppress(OSError):
        return (Path(folder) / "chat_template.jinja").read_text(encoding="utf-8")
    with contextlib.suppress(OSError, ValueError, AttributeError):
        template = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
        return template if isinstance(template, str) else None
    return None


def check_reachable(base: str) -> None:
    """Ask the hub once for a model that is neither a folder nor in the cache; loading would retry for a minute.

    Raises:
        InputError: the hub does not have it, or cannot be reached.
    """
    if Path(base).is_dir() or isinstance(huggingface_hub.try_to_load_from_cache(base, "config.json"), str):
        return
    try:
        huggingface_hub.HfApi().model_info(base, timeout=10)
    except huggingface_hub.errors.RepositoryNotFoundError:
        raise InputError(f"{base}: no such folder, and the hub has no such model for this login") from None
    except Exception as error:  # no network, a proxy, offline mode: the client raises what its transport raises
        raise InputError(
            f"{base}: no such folder, and the hub cannot be reached ({type(error).__name__}); give a local folder: "
            f"with a network, `hf download {base} --local-dir FOLDER` makes one (shell scripts take it as MODEL=)"
        ) from None


def weights_of(base: str) -> dict[str, str]:
    """Return which weights a loaded base model has: the SHA-256 of each file in its folder, or the hub's commit."""
    if not Path(base).is_dir():
        cached = huggingface_hub.try_to_load_from_cache(base, "config.json")  # in a folder named by the commit
        return {"commit": Path(cached).parent.name} if isinstance(cached, str) else {}
    return {path.name: sha256(path) for path in sorted(Path(base).glob("*.safetensors"))}


def load_config(name: str, trust_remote_code: bool = False, trainable: bool = False) -> PretrainedConfig:
    """Load the config of a model or of an adapter's base, and nothing else.

    Args:
        trainable: whether the model will be trained; `logprobs` then takes log-probabilities from its LM head.

    Raises:
        InputError: the config cannot be found or read, the model is not a decoder that continues a text, or it will be
            trained and changes its LM head's logits (scales or caps them).
    """
    base, adapter = base_and_adapter(name)
    if adapter:
        adapters.read_config(adapter, trainable)
    check_reachable(base)
    try:
        written, _ = PretrainedConfig.get_config_dict(base)
        paired = written.get("is_encoder_decoder")
        config = PretrainedConfig() if paired else AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    except Exception as error:  # a wrong value or the model's own code may raise anything
        hint = "; --trust_remote_code runs it" if "custom code" in str(error) else ""
        raise InputError(f"{base}: its config cannot be read: {first_line(error)}{hint}") from None
    kind = written.get("model_type", "of no named type")
    paired = paired or config.is_encoder_decoder
    require(not paired, f"{base}: is an encoder-decoder model ({kind}); these scripts train decoder-only models")
    encodes = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    own = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    require(
        own or (type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not encodes),
        f"{base}: is no causal language model ({kind}); these scripts train decoder-only models",
    )
    for setting, value in logit_settings(config).items():
        require(
            not trainable,
            f"{base}: it changes the logits of its LM head ({setting} {value}); such a model can be evaluated here, "
            "not trained",
        )
    return config


def logit_settings(config: PretrainedConfig) -> dict[str, float]:
    """Return the settings by which a model changes its LM head's product; most models have none."""
    settings = {setting: getattr(config.get_text_config(), setting, None) for setting in LOGIT_SETTINGS}
    return {setting: value for setting, value in settings.items() if value not in (None, 1)}


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


NO_SAFETENSORS = (
    "its weights are no *.safetensors, and other files may run code; where you trust them, "
    "AutoModelForCausalLM.from_pretrained(...).save_pretrained(FOLDER) converts them"
)


def return_freed_memory() -> None:
    """Make glibc return freed tensors of 4 MiB and more to the system: its own, rising limit keeps gigabytes."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(-3, 4 * 2**20)  # M_MMAP_THRESHOLD


def load_policy(
    name: str,
    device: torch.device,
    trainable: bool = False,
    trust_remote_code: bool = False,
    dtype: torch.dtype | None = None,
    load_in_4bit: bool = True,
):
    """Load a base model or an adapter folder as a 4-bit model.

    Args:
        trainable: whether the adapter's weights require gradients.
        dtype: the dtype of computation; None lets `compute_dtype` choose for the device. Adapters are in float32.
        load_in_4bit: False loads the weights unquantised, in `dtype`: to evaluate, not to train.

    Raises:
        InputError: the model cannot be found or downloaded, `load_config` refuses it, or its weights are incomplete or
            not safetensors.
    """
    base, adapter = base_and_adapter(name)
    load_config(name, trust_remote_code, trainable)
    if device.type == "cpu":
        return_freed_memory()
    dtype = dtype or compute_dtype(device)
    require(
        not Path(base).is_dir() or any(Path(base).glob("*.safetensors")), f"{base}: cannot be loaded: {NO_SAFETENSORS}"
    )
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            base,
            output_loading_info=True,
            quantization_config=quantization if load_in_4bit else None,
            dtype=dtype,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        why = NO_SAFETENSORS if "use_safetensors" in str(error) else first_line(error)
        raise InputError(f"{base}: cannot be loaded: {why}") from None
    missing = sorted(found["missing_keys"])
    require(not missing, f"{base}: cannot be loaded: its files lack {len(missing)} weights, such as {missing[:1]}")
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On a CPU with AVX512-BF16, the first forward pass without gradients would repack the weight for ever:
            # products would be in bfloat16, and no gradient could pass the layer.
            module.support_avx512bf16_for_cpu = False
    return adapters.add_adapter(model, adapter, trainable) if adapter else model


def compute_dtype(device: torch.device, dtype: str = "auto") -> torch.dtype:
    """Return the dtype in which 4-bit weights are multiplied.

    "auto" means bfloat16 on a GPU that has it, float16 on other GPUs, and float32 on a CPU.

    Raises:
        InputError: the device does not support the dtype.
    """
    gpu = device.type == "cuda"
    has_bfloat16 = not gpu or torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype == "auto":
        return torch.float32 if not gpu else torch.bfloat16 if has_bfloat16 else torch.float16
    require(gpu or dtype != "float16", "--dtype float16: is for a GPU; on a CPU leave --dtype out, or give bfloat16")
    require(
        has_bfloat16 or dtype != "bfloat16",
        f"--dtype bfloat16: {torch.cuda.get_device_name(device) if gpu else device} has none; "
        "leave --dtype out, or give float16",
    )
    return getattr(torch, dtype)


def dtype_of(model) -> torch.dtype:
    """Return the dtype in which a loaded policy computes; its adapter is in float32."""
    return model.get_input_embeddings().weight.dtype


def set_deterministic(on: bool) -> None:
    """Switch on or off that the same run on the same GPU gives the same bits; on a CPU it always does.

    The fused attention kernels sum gradients in varying order, so `on` computes attention by plain operations.
    """
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(on, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # no code reads uninitialised memory
    for fused in ("flash", "mem_efficient", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{fused}_sdp")(not on)


def linear_layers(model) -> dict[str, torch.nn.Module]:
    """Return, by name, the layers that are in 4 bits, or will be once loaded: all linear ones except the LM head."""
    kinds = (Linear4bit,) if getattr(model, "is_loaded_in_4bit", False) else (torch.nn.Linear, Conv1D)
    head = model.get_output_embeddings()
    return {name: module for name, module in model.named_modules() if type(module) in kinds and module is not head}


def lora_targets(model) -> list[str]:
    """List the layers that an adapter is put on: the names of `linear_layers` without their path, sorted."""
    return sorted({name.rpartition(".")[2] for name in linear_layers(model)})


def add_lora(model, rank: int, alpha: int, dropout: float) -> PeftModel:
    """Add a new adapter to every linear layer of the blocks; at first it changes nothing.

    Raises:
        InputError: the model has no 4-bit linear layers, peft cannot adapt it, or it has an adapter already.
    """
    targets, name = lora_targets(model), type(model).__name__
    require(not isinstance(model, PeftModel), f"{name}: has an adapter already; start from its base model")
    require(bool(targets), f"{name}: has no linear layers in 4 bits, so there is nothing to adapt")
    for parameter in model.parameters():
        parameter.requires_grad = False
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"{name}: cannot be adapted: {first_line(error)}") from None


def trainable_parameters(model) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def zero_head(model) -> torch.nn.Linear:
    """Return a new value head, which gives 0 for every state."""
    head = torch.nn.Linear(model.get_output_embeddings().in_features, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


def set_recomputing(model, on: bool) -> None:
    """Switch gradient checkpointing on or off: keep only each layer's input, and compute the rest in the backward pass.

    transformers does this only in training mode, in which there is no cache to sample with. So only the layer modules
    themselves are put into training mode; they have no dropout at their own level.
    """
    if on and not model.is_gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = on


def save_adapter(model: PeftModel, tokenizer, folder: Path) -> None:
    """Save adapter and tokenizer."""
    adapters.save(model, folder)
    tokenizer.save_pretrained(folder)


def eos_ids(model, tokenizer) -> set[int]:
    """Return every token id that ends a completion; the generation config may name several."""
    named = model.generation_config.eos_token_id
    ids = set(named) if isinstance(named, list) else {named}
    return {i for i in ids | {tokenizer.eos_token_id} if i is not None}
