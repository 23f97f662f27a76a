"""What `train.py` takes a method and a model to want: one visible table, printed as it is applied.

`METHODS` are the settings of the script that this front door follows (LoRA r 64, clip 0.15 for PPO, groups of 8 for
GRPO), or choices of ours where it gave none. `MODELS` are factors on them. `POCKET` is for the embedded models,
chosen on their validation tasks. What is given on the command line or in a YAML file is never changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LORA = {"lora_r": 64, "lora_alpha": 16, "lora_dropout": 0.1}
LENGTHS = {"max_length": 1024, "max_new_tokens": 256}
SHAPED = {"reward": "shaped", "time_limit": 3.0}
VERILOG = {"reward": "parts", "time_limit": 10.0}  # in place of these

METHODS: dict[str, dict[str, Any]] = {
    "sft": {"learning_rate": 5e-5, "batch_size": 4, "gradient_accumulation_steps": 2},
    "rl": {"learning_rate": 3e-6, "batch_size": 8, "num_samples": 4, "baseline": "rloo", "max_grad_norm": 1.0} | SHAPED,
    "ppo": {
        "learning_rate": 3e-6,
        "batch_size": 8,
        "num_samples": 2,
        "ppo_epochs": 2,
        "clip_range": 0.15,
        "target_kl": 0.3,
        "ratio_level": "token",
        "value_coef": 0.5,
    }
    | SHAPED,
    "grpo": {"learning_rate": 3e-6, "batch_size": 4, "num_samples": 8, "kl_coef": 0.02, "clip_range": 0.2} | SHAPED,
    "dpo": {"learning_rate": 2e-6, "batch_size": 4, "num_samples": 8, "beta": 0.05, "time_limit": 3.0},
}

POCKET_LORA = {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05}
POCKET_LENGTHS = {"max_length": 384, "max_new_tokens": 128}
POCKET: dict[str, dict[str, Any]] = {
    "sft": {"learning_rate": 5e-4, "batch_size": 1, "gradient_accumulation_steps": 8},
    "rl": {"learning_rate": 1e-3, "batch_size": 4, "num_samples": 4, "baseline": "rloo"},
    "ppo": {"learning_rate": 5e-4, "batch_size": 4, "num_samples": 4},
    "grpo": {"learning_rate": 1e-3, "batch_size": 2, "num_samples": 8},
    "dpo": {"learning_rate": 5e-4, "batch_size": 2, "num_samples": 4, "beta": 0.2, "rejected": "random"},
}
POCKET_VERILOG: dict[str, dict[str, Any]] = {  # instead, on its Verilog twin: profile.sh's but for the curriculum
    "rl": {"reward": "parts"},
    "ppo": {"reward": "parts", "learning_rate": 3e-4, "batch_size": 8, "ratio_level": "token", "value_coef": 0.5,
            "entropy_coef": 0.01, "max_grad_norm": 0.5, "gae_lambda": 1.0},
    "grpo": {"reward": "parts", "learning_rate": 3e-4, "batch_size": 4, "num_iterations": 4, "loss_type": "dr_grpo"},
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model as the table sees it. name: the last part of its hub name or folder."""

    name: str
    num_parameters: int


@dataclass(frozen=True)
class Row:
    """Factors for the models that match."""

    who: str
    matches: Callable[[Model], bool]
    learning_rate: float = 1.0
    batch_size: float = 1.0
    max_new_tokens: float = 1.0


# a family is known by its name, having no other mark (DeepSeek-Coder and CodeLlama are Llamas by their config); a size
# by counting
MODELS = [
    Row("DeepSeek-Coder", lambda m: "deepseek" in m.name.lower(), learning_rate=0.7, batch_size=0.5),
    Row("CodeLlama-13B", lambda m: "codellama" in m.name.lower() and m.num_parameters > 10e9, batch_size=0.5),
    Row("Qwen2.5-Coder", lambda m: "qwen2.5-coder" in m.name.lower(), learning_rate=1.2, max_new_tokens=1.5),
    Row("3B parameters or less", lambda m: m.num_parameters <= 3e9, learning_rate=1.5, batch_size=2.0),
]


def is_pocket(model: str) -> bool:
    """Whether it is one of the two embedded models."""
    folder = Path(__file__).resolve().parents[1] / "data"
    return Path(model).resolve() in (folder / "pocket_coder", folder / "pocket_verilog_coder")


def settings_for(
    method: str, model: str, num_parameters: int, given: set[str], language: str = "python"
) -> tuple[dict[str, Any], list[str]]:
    """Settings for a method and a model, and a line for each row of the table that changed one.

    Args:
        model: hub name or folder. given: names that the user set, which stay as they are. language: of the tasks.

    >>> settings, lines = settings_for("grpo", "deepseek-ai/deepseek-coder-6.7b-base", 6_740_000_000, set())
    >>> settings["learning_rate"], settings["batch_size"]
    (2.1e-06, 2)
    >>> lines
    ['DeepSeek-Coder: learning_rate 3e-06 x 0.7 = 2.1e-06, batch_size 4 x 0.5 = 2']
    """
    if is_pocket(model):
        own = POCKET[method] | (POCKET_VERILOG.get(method, {}) if language == "verilog" else {})
        return POCKET_LORA | POCKET_LENGTHS | own, ["the embedded model: settings of its own (training/defaults.py)"]
    settings, lines = LORA | LENGTHS | METHODS[method], []
    if language == "verilog" and settings.get("reward") == "shaped":
        changes = {name: value for name, value in VERILOG.items() if name not in given}
        settings |= changes
        lines += [f"Verilog: {', '.join(f'{name} {value}' for name, value in changes.items())}"] if changes else []
    seen = Model(Path(model).name, num_parameters)
    for row in MODELS:
        if row.matches(seen):
            changes = []
            for name in ("learning_rate", "batch_size", "max_new_tokens"):
                factor, before = getattr(row, name), settings[name]
                if factor != 1 and name not in given:
                    after = before * factor
                    settings[name] = max(1, math.floor(after)) if isinstance(before, int) else float(f"{after:.3g}")
                    changes.append(f"{name} {before} x {factor:g} = {settings[name]}")
            lines += [f"{row.who}: {', '.join(changes)}"] if changes else []
    return settings, lines
