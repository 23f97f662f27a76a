"""Choose what `train.py` trains a model with: a method's file in `configs/`, scaled for some models.

`configs/METHOD.yaml` has the settings of the script that this front door follows (LoRA r 64, clip 0.15 for PPO, groups
of 8 for GRPO), or choices of ours where it gave none. `configs/pocket/` is for the embedded models. `MODELS` are
factors for other models. What a user gives is never changed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from common import InputError, read_yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
SCALED = {"learning_rate": float, "batch_size": int, "max_new_tokens": int}
FOR_VERILOG = {"reward": "parts", "time_limit": 10.0}  # in place of the shaped reward's

# who, which models (by name, in lower case, and number of parameters: the config does not tell the family), factors
MODELS = [
    ("DeepSeek-Coder", lambda name, size: "deepseek" in name, {"learning_rate": 0.7, "batch_size": 0.5}),
    ("CodeLlama-13B", lambda name, size: "codellama" in name and size > 10e9, {"batch_size": 0.5}),
    ("Qwen2.5-Coder", lambda name, size: "qwen2.5-coder" in name, {"learning_rate": 1.2, "max_new_tokens": 1.5}),
    ("3B parameters or less", lambda name, size: size <= 3e9, {"learning_rate": 1.5, "batch_size": 2.0}),
]


def is_pocket(model: str) -> bool:
    """Return whether it is one of the two embedded models."""
    return Path(model).resolve() in (ROOT / "data/pocket_coder", ROOT / "data/pocket_verilog_coder")


def settings_for(
    method: str, model: str, num_parameters: int, given: set[str], language: str = "python"
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings for a method and a model, and a line to print for each source of them.

    Args:
        model: hub name or folder. given: names that the user set, which stay as they are. language: of the tasks.

    Raises:
        InputError: the file cannot be read, or one of `SCALED` is not a number.

    >>> settings, lines = settings_for("grpo", "deepseek-ai/deepseek-coder-6.7b-base", 6_740_000_000, set())
    >>> settings["learning_rate"], settings["batch_size"]
    (2.1e-06, 2)
    >>> lines
    ['configs/grpo.yaml', 'DeepSeek-Coder: learning_rate 3e-06 x 0.7 = 2.1e-06, batch_size 4 x 0.5 = 2']
    """
    path, pocket = CONFIGS / f"{method}.yaml", is_pocket(model)
    if pocket:
        own = CONFIGS / "pocket_verilog" / path.name
        path = own if language == "verilog" and own.is_file() else CONFIGS / "pocket" / path.name
    settings, lines = read_yaml(path), [str(path.relative_to(ROOT))]
    settings.pop("method", None)
    try:
        settings |= {name: kind(settings[name]) for name, kind in SCALED.items()}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: wants numbers for {', '.join(SCALED)} ({error})") from None
    if language == "verilog" and settings.get("reward") == "shaped":
        changes = {name: value for name, value in FOR_VERILOG.items() if name not in given}
        settings |= changes
        lines += [f"Verilog: {', '.join(f'{name} {value}' for name, value in changes.items())}"] if changes else []
    for who, matches, factors in MODELS:
        changes = []
        for name, factor in factors.items():
            if name not in given and not pocket and matches(Path(model).name.lower(), num_parameters):
                before, after = settings[name], settings[name] * factor
                settings[name] = max(1, math.floor(after)) if SCALED[name] is int else float(f"{after:.3g}")
                changes.append(f"{name} {before} x {factor:g} = {settings[name]}")
        lines += [f"{who}: {', '.join(changes)}"] if changes else []
    return settings, lines
