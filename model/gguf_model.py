"""A GGUF file as a model: converted once, by transformers' own loader, into a folder beside the checkpoints.

The weights are the file's, taken out of its 4 (or 5, 6, 8) bits into bfloat16, and not those that the file was made
from; results must say so. `run.json` in the folder has the file's SHA-256, and so have the runs that start from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from pathlib import Path
from typing import Any

from common import InputError, machine, replace_folder, require, sha256

CHECKPOINTS = Path("checkpoints")


def file_of(name: str) -> Path | None:
    """The GGUF file that a name stands for: itself, or the only one in a folder without a config.json; else None.

    Raises:
        InputError: a folder with several, or one part of a model in parts.
    """
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        require(len(files) < 2, f"{name}: has {len(files)} GGUF files; name one of them, such as {files[:1]}")
        path = files[0] if files else path
    if path.suffix != ".gguf":
        return None
    require(path.is_file(), f"{name}: no such file")
    require("-of-" not in path.stem, f"{path}: is one part of several; join them with llama.cpp's gguf-split --merge")
    return path


def as_folder(file: Path) -> str:
    """The folder with the model of a GGUF file, converted if that has not been done.

    Raises:
        InputError: the package gguf is missing, or transformers does not know the file's kind.
    """
    status = file.stat()
    mark = {"file": file.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    with open(CHECKPOINTS / f".{file.stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes one converts
        found = sorted(CHECKPOINTS.glob(f"{file.stem}-gguf*"))
        for folder in found:  # the same file, untouched: no need to read all of it
            if mark.items() <= (origin(str(folder)) or {}).items():
                return str(folder)
        digest = sha256(file)
        for folder in found:
            if (origin(str(folder)) or {}).get("sha256") == digest:
                return str(folder)
        folder = CHECKPOINTS / f"{file.stem}-gguf"
        folder = folder.with_name(f"{folder.name}-{digest[:8]}") if folder.exists() else folder
        print(f"converting {file} into {folder}, once", flush=True)
        with replace_folder(folder) as partial:
            _convert(file, partial)
            record = {"gguf": mark | {"sha256": digest}, **machine()}
            (partial / "run.json").write_text(json.dumps(record, indent=1) + "\n")
    return str(folder)


def _convert(file: Path, folder: Path) -> None:
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise InputError(f"{file}: to read it needs the package gguf; .venv/bin/pip install gguf") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).to(torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except Exception as error:  # whatever the loader makes of a file of another kind
        raise InputError(f"{file}: cannot be converted: {' '.join(str(error).split())[:200]}") from None
    # it is loaded as quantised, and is not any more
    for holder, names in ((model.config, ("quantization_config",)), (model, ("quantization_method", "hf_quantizer"))):
        for name in names:
            with contextlib.suppress(AttributeError):
                delattr(holder, name)
    model.is_quantized, model.config.dtype = False, "bfloat16"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def origin(name: str) -> dict[str, Any] | None:
    """A GGUF file's name and SHA-256: of one, of a folder made from one, or of an adapter over that; else None."""
    if file := file_of(name):
        name = as_folder(file)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        config = Path(name) / "adapter_config.json"
        base = json.loads(config.read_text())["base_model_name_or_path"] if config.is_file() else name
        return json.loads((Path(base) / "run.json").read_text())["gguf"]
    return None
