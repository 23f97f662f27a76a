"""Use a GGUF file as a model: convert it once, by transformers' own loader, into a folder under checkpoints/.

The weights are the file's, converted from its 4 (or 5, 6, 8) bits to bfloat16. They are not the weights that the file
was made from; results must say so. `run.json` in the folder has the file's SHA-256, and so do the runs that start from
it.
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
    """Return the GGUF file that a name means, or None: the file itself, or the only one in a folder without configs.

    Raises:
        InputError: the file does not exist or is one part of several, or the folder has several GGUF files.
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
    """Return the folder with the converted model of a GGUF file; convert it if that was not done yet.

    Raises:
        InputError: the package gguf is missing, or transformers cannot convert the file.
    """
    status = file.stat()
    mark = {"file": file.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    with open(CHECKPOINTS / f".{file.stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # only one of several processes converts
        found = sorted(CHECKPOINTS.glob(f"{file.stem}-gguf*"))
        for folder in found:  # same name, size and time: no need to read the whole file
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
    except Exception as error:  # the loader may raise anything on a file of another kind
        raise InputError(f"{file}: cannot be converted: {' '.join(str(error).split())[:200]}") from None
    # transformers marks it as quantised, which it no longer is
    for holder, names in ((model.config, ("quantization_config",)), (model, ("quantization_method", "hf_quantizer"))):
        for name in names:
            with contextlib.suppress(AttributeError):
                delattr(holder, name)
    model.is_quantized, model.config.dtype = False, "bfloat16"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def origin(name: str) -> dict[str, Any] | None:
    """Return a GGUF file's record (name, size, time, SHA-256), or None if `name` does not come from one.

    `name` may be the file, a folder converted from it, or an adapter over that.
    """
    if file := file_of(name):
        name = as_folder(file)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        config = Path(name) / "adapter_config.json"
        base = json.loads(config.read_text())["base_model_name_or_path"] if config.is_file() else name
        return json.loads((Path(base) / "run.json").read_text())["gguf"]
    return None
