"""Merge an adapter into its base model: a folder that plain transformers loads, and on request a push to the hub.

    W' = round(W + s B A)    of every adapted layer, added in float64 and rounded once, to --dtype

W are the unquantised weights. The policy was trained, and is evaluated by eval_humaneval.py, over the base in 4 bits:
the merged model is close to that policy and not the same, and a table's row of the adapter is not its score.
(eval_humaneval.py loads the merged folder in 4 bits again, so what it measures then is a third model.)

The folder is written only if it holds: the model, loaded again, must give the log-probabilities of base + adapter up to
a bound (`BOUNDS`), in float32 arithmetic. The share of the adapter's effect that is lost to rounding is printed; in 16
bits most of a small adapter can be less than the weights' last bit.

A push makes a private repository unless --public is given, and never writes into a public one without it.
"""

from __future__ import annotations

import gc
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from common import InputError, command, machine, replace_folder, require, run_script, sha256
from model import gguf_model
from reporting.model_card import card, evaluation, training

# most that the log-probs may differ from base + adapter, in the mean over positions and vocabulary; three times what
# the largest adapter tried gave (pocket, ||D|| half of ||W||), for float32 more: large models sum longer
BOUNDS = {"float32": 1e-3, "float16": 0.01, "bfloat16": 0.05}
NOTABLE = 0.1  # warn where rounding moves the log-probs by more than this share of what the adapter does


@dataclass
class Args:
    adapter_model_id: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter folder or hub name
    output_dir: str = ""  # where the merged model goes; "": beside the adapter, its name and -merged
    base_model_name: str = ""  # hub name or folder of the base model; "": the one that the adapter names
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"  # of the merged weights
    device: str = "auto"  # auto, cpu, cuda or cuda:N; it must hold the model in 16 bits (float32: in 32)
    results_dir: str = "results"  # where evaluations of the adapter are looked for, for the model card
    push_to_hub: bool = False  # upload the merged model
    hub_model_id: str = ""  # OWNER/NAME of the repository to push to
    public: bool = False  # make the pushed repository public
    trust_remote_code: bool = False  # run code that comes with the model
    config: str = ""  # YAML file with any of these; flags win over it


def find(args: Args) -> tuple[str, str]:
    """Return the base model and the adapter's folder; an adapter of the hub is downloaded, with its safetensors only.

    Raises:
        InputError: there is no such adapter, or no such base.
    """
    from model.load import base_and_adapter

    name = args.adapter_model_id
    folder = name if Path(name).exists() else fetch(name)
    if not args.base_model_name:
        base, adapter = base_and_adapter(folder)
        require(adapter is not None, f"--adapter_model_id {name}: is no adapter; there is nothing to merge")
        return base, folder
    require((Path(folder) / "adapter_config.json").is_file(), f"--adapter_model_id {name}: is no adapter")
    base, adapter = base_and_adapter(args.base_model_name)
    require(adapter is None, f"--base_model_name {args.base_model_name}: is an adapter, not a base model")
    return base, folder


def fetch(name: str) -> str:
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    from model.load import base_and_adapter

    base_and_adapter(name)  # raises its own error if this is not the form of a hub name
    wanted = ["adapter_config.json", "adapter_model.safetensors", "run.json", "*_train_log.jsonl"]
    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=wanted)
    except RepositoryNotFoundError:
        raise InputError(f"{name}: no such folder, and the hub has no such adapter for this login") from None
    except Exception as error:  # as load.check_reachable
        raise InputError(
            f"{name}: no such folder, and the hub cannot be reached ({type(error).__name__}); give a local folder"
        ) from None


def check(args: Args) -> None:
    """Check what a push needs before the work: a repository's name, a valid token, no public repository unasked."""
    name = f"--hub_model_id {args.hub_model_id}"
    if not args.push_to_hub:
        require(not args.hub_model_id, f"{name}: add --push_to_hub")
        require(not args.public, "--public: add --push_to_hub")
        return
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    require(args.hub_model_id != "", "--push_to_hub: name the repository with --hub_model_id OWNER/NAME")
    try:
        validate_repo_id(args.hub_model_id)
    except HFValidationError:
        raise InputError(f"{name}: is no repository's name; want OWNER/NAME") from None
    require("/" in args.hub_model_id, f"{name}: want OWNER/NAME")
    try:
        token = huggingface_hub.get_token()
        require(token is not None, "--push_to_hub: no token; run `hf auth login` or set HF_TOKEN, or leave it out")
        api = huggingface_hub.HfApi()
        api.whoami()
        is_private(api, args)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"--push_to_hub: the hub refuses the token or cannot be reached ({said(error)}); leave it out to merge only"
        ) from None


def is_private(api, args: Args) -> bool | None:
    """Return whether the repository is private; None if there is none yet.

    Raises:
        InputError: it is public, and --public was not given.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = api.model_info(args.hub_model_id).private
    except RepositoryNotFoundError:
        return None
    require(private or args.public, f"--hub_model_id {args.hub_model_id}: is public already; make it private, name "
            "another, or give --public")  # fmt: skip
    return private


def push(args: Args, folder: Path) -> None:
    """Upload the merged folder.

    Raises:
        InputError: it did not work; the folder stays as it is.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        api.create_repo(args.hub_model_id, private=not args.public, exist_ok=True)
        private = is_private(api, args)
        api.upload_folder(repo_id=args.hub_model_id, folder_path=folder, commit_message="Merged model")
    except InputError as error:
        raise InputError(f"{error}; the merged model is in {folder}") from None
    except Exception as error:
        raise InputError(
            f"{args.hub_model_id}: not pushed ({said(error)}); the merged model is in {folder}, to upload later: "
            f"hf upload {'' if args.public else '--private '}{args.hub_model_id} {folder}"
        ) from None
    print(f"pushed to {args.hub_model_id}, {'public' if private is False else 'private'}")


def said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def revision(base: str) -> str | None:
    """Return the commit of a base model that came from the hub."""
    import huggingface_hub

    path = None if Path(base).is_dir() else huggingface_hub.try_to_load_from_cache(base, "config.json")
    return Path(path).parent.name if isinstance(path, str) else None


def output_folder(args: Args, base: str) -> Path:
    """Return where the merged model goes.

    Raises:
        InputError: an adapter or the base model is in there: it would be lost.
    """
    adapter = Path(args.adapter_model_id)
    beside = adapter.parent if adapter.exists() else Path("checkpoints")
    folder = Path(args.output_dir or beside / f"{adapter.name}-merged")
    lost = (folder / "adapter_config.json").exists()
    lost = lost or any(path.resolve().is_relative_to(folder.resolve()) for path in (Path(base), adapter))
    require(not lost, f"--output_dir {folder}: holds an adapter, or the base model; choose another folder")
    return folder


def main(args: Args) -> None:
    check(args)
    from model.load import pick_device

    device = pick_device(args.device)
    base, adapter = find(args)
    target = output_folder(args, base)
    trained, evaluated = training(adapter), evaluation(args.results_dir, args.adapter_model_id, adapter)
    import torch

    with replace_folder(target) as folder:
        try:
            checked = merge_into(folder, args, base, adapter, device)
        except torch.OutOfMemoryError:
            raise InputError(f"--device {args.device}: too little memory; --device cpu takes the machine's") from None
        record = {
            "args": asdict(args),
            "base_model": base,
            "base_gguf": gguf_model.origin(base),
            "base_revision": revision(base),
            "adapter_sha256": sha256(Path(adapter) / "adapter_model.safetensors"),
            "check": checked,
            "command": command(),
            **machine(),
        }
        (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n")
        text = card(args.hub_model_id or str(target), record, trained, evaluated)
        (folder / "README.md").write_text(text, encoding="utf-8")
    print(f"saved {target}")
    if args.push_to_hub:
        push(args, target)


def merge_into(folder: Path, args: Args, base: str, adapter: str, device) -> dict[str, Any]:
    """Save model and tokenizer in the folder, load them again, and return how far they are from base + adapter.

    Raises:
        InputError: what was saved is not what was merged, or not base + adapter.
    """
    import torch

    from model.adapters import add_adapter
    from model.load import load_tokenizer
    from model.merging import check_adapter, difference, load_plain, merge, text_logprobs

    dtype, bound = getattr(torch, args.dtype), BOUNDS[args.dtype]
    check_adapter(adapter)
    tokenizer = load_tokenizer(base, args.trust_remote_code)
    model = add_adapter(load_plain(base, device, dtype, args.trust_remote_code), adapter, trainable=False).eval()
    print(f"merging {args.adapter_model_id} into {base}, {args.dtype}, on {device}")
    wanted = text_logprobs(model, tokenizer)
    with model.disable_adapter():
        effect = difference(text_logprobs(model, tokenizer), wanted)["mean"]
    model = merge(model, dtype)
    merged = text_logprobs(model, tokenizer)
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: the model cannot be saved: {said(error)}") from None
    del model
    gc.collect()  # one model at a time

    model = load_plain(str(folder), device, None, args.trust_remote_code)
    saved = text_logprobs(model, load_tokenizer(str(folder), args.trust_remote_code))
    require(torch.equal(saved, merged) and model.dtype == dtype,
            f"the saved model ({model.dtype}), loaded again, is not the merged one: log-probs differ by up to "
            f"{difference(saved, merged)['largest']:.2g}; nothing was replaced")  # fmt: skip
    off = difference(saved, wanted)
    share = off["mean"] / effect if effect else 0.0
    print(f"loaded again, against base + adapter, {off['positions']} positions: log-probs differ by "
          f"{off['largest']:.2g} at most, {off['mean']:.2g} in the mean ({share:.2%} of what the adapter does); same "
          f"likeliest token {off['same_argmax']:.1%}")  # fmt: skip
    require(off["mean"] <= bound, f"the merged model is not base + adapter: log-probs differ by {off['mean']:.2g} in "
            f"the mean, more than {bound}; nothing was replaced")  # fmt: skip
    if share > NOTABLE and args.dtype != "float32":
        print(f"warning: {args.dtype} is too coarse for an adapter this small: {share:.0%} of its effect is rounding; "
              "--dtype float32 keeps it")  # fmt: skip
    return off | {"bound": bound, "adapter_effect": effect, "share_of_effect": share}


if __name__ == "__main__":
    run_script(main, Args, __doc__)
