"""The model card of a merged adapter, from what its run and its evaluations left behind; nothing is made up.

What is not known is left out; without evaluations the card says so.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import InputError, require, sha256
from judging.metrics import wilson_interval
from reporting.rows import hardware, suite

METHODS = {
    "sft": "supervised fine-tuning (SFT)",
    "rl": "REINFORCE",
    "ppo": "proximal policy optimisation (PPO)",
    "grpo": "group relative policy optimisation (GRPO)",
    "dpo": "direct preference optimisation (DPO)",
}


def training_record(adapter: str) -> dict[str, Any] | None:
    """The run.json of the run that made the adapter, with its "method" by the name of its log; None without one.

    Raises:
        InputError: it cannot be read.
    """
    path = Path(adapter) / "run.json"
    if not path.is_file():
        return None
    logs = sorted(log.name.removesuffix("_train_log.jsonl") for log in Path(adapter).glob("*_train_log.jsonl"))
    record = read(path) | {"method": METHODS.get(logs[0], logs[0]) if logs else None}
    try_to_show(path, training, record)
    return record


def evaluations(results_dir: str, name: str, adapter: str) -> list[dict[str, Any]]:
    """The metrics of every evaluation of this adapter, by name: `model_path` is its, and so were the weights.

    An evaluation of other weights, that stood under the same name before, is left out with a note.

    Raises:
        InputError: a metrics file that cannot be read.
    """
    weights, found = Path(adapter) / "adapter_model.safetensors", []
    for path in sorted(Path(results_dir).glob("*_metrics.json")):
        metrics = read(path)
        model = metrics.get("model_path") or ""
        if metrics.get("is_lora") is not True or (model != name and Path(model).resolve() != Path(adapter).resolve()):
            continue
        try_to_show(path, evaluation, [metrics])
        known = metrics.get("adapter_sha256")  # older files have none
        current = known == sha256(weights) if known else path.stat().st_mtime >= weights.stat().st_mtime
        if current:
            found.append(metrics)
        else:
            print(f"note: {path} is of an earlier adapter in {name}: left out of the model card")
    return found


def read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    require(isinstance(record, dict), f"{path}: wants a JSON object")
    return record


def try_to_show(path: Path, show: Callable[[Any], list[str]], record: Any) -> None:
    """Find out now what the card cannot show, and not after the merge."""
    try:
        show(record)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not what a run of this project writes ({type(error).__name__} {error})") from None


def card(name: str, adapter: str, merged: dict, trained: dict | None, rows: list[dict]) -> str:
    """The card's Markdown, with the hub's metadata in front.

    No scores in the metadata: they would stand for the merged weights, and what was evaluated is the adapter in 4 bits.

    Args:
        name: hub name or folder to load the model by. merged: the merged folder's run.json.
    """
    from huggingface_hub import ModelCardData

    base = merged["base_model"]
    on_hub = not Path(base).is_dir()
    data = ModelCardData(base_model=base if on_hub else None, library_name="transformers",
                         pipeline_tag="text-generation", tags=["code"])  # fmt: skip
    shown = f"`{base}`" if on_hub else f"`{Path(base).name}`"
    revision = f" (revision `{merged['base_revision']}`)" if merged["base_revision"] else ""
    method = (trained or {}).get("method")
    trained_by = f", trained by {method}" if method else ""
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name.split('/')[-1]}",
        f"{shown}{revision} with a LoRA adapter{trained_by}, merged into its weights in {merged['args']['dtype']}. "
        "Made with RL-Code-Agent.",
        *gguf_base(merged.get("base_gguf")),
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{name}")\n```',
        "It writes programs that nobody has read: run them in a sandbox.",
        "## Training",
        *training(trained),
        "## Evaluation",
        *evaluation(rows),
        "## Merge",
        *merge(merged, adapter),
        "## Licence",
        f"That of {shown}, and of the data it was trained on, applies; this card states none.",
    ]
    return "\n\n".join(parts) + "\n"


def gguf_base(origin: dict | None) -> list[str]:
    if not origin:
        return []
    return [f"The base weights are those of the GGUF file `{origin['file']}`, SHA-256 `{origin['sha256']}`, not of the "
            "checkpoint that it was made from."]  # fmt: skip


def training(trained: dict | None) -> list[str]:
    if trained is None:
        return ["Not recorded: the adapter came without its run.json."]
    args = trained["args"]
    facts = {
        "method": trained["method"],
        "data": f"`{args['train_path']}`, SHA-256 `{trained['train_sha256']}`",
        "started from": f"`{args.get('sft_model') or args.get('model_name')}`",
        "base in training": "4-bit NF4, double quantisation",
        "hardware": hardware(trained),
        "commit": f"`{trained['commit']}`" if trained["commit"] else None,
    }
    lines = [f"| {label} | {cell(fact)} |" for label, fact in facts.items() if fact]
    settings = shlex.join(f"{name}={value}" for name, value in args.items())
    return ["\n".join(["| | |", "|---|---|", *lines]), *code(trained.get("command")), f"Settings: `{settings}`"]


def evaluation(rows: list[dict]) -> list[str]:
    """A table, and of each row its command and machine."""
    if not rows:
        return ["Not evaluated."]
    lines = [
        "| name | tasks | pass@1 | 95% interval | passed | pass@1 stopped | 95% interval | avg length |",
        "|---|---|---|---|---|---|---|---|",
    ]
    below = []
    for m in rows:
        length = "" if m["avg_gen_len"] is None else f"{m['avg_gen_len']:.1f}"
        stopped = wilson_interval(m["pass_at_1_stopped"], m["num_tasks"])
        passed = f"{m['num_pass']}/{m['num_samples']}"
        figures = (m["exp_name"], suite(m), f"{m['pass_at_1']:.1%}", interval(m["pass_at_1_interval"]), passed,
                   f"{m['pass_at_1_stopped']:.1%}", interval(stopped), length)  # fmt: skip
        lines.append("| " + " | ".join(cell(str(figure)) for figure in figures) + " |")
        below.append(f"{m['exp_name']}: task file SHA-256 `{m['data_sha256']}`; commit `{m['commit']}`; {hardware(m)}.")
        below += code(m.get("command"))
    return [
        f"Of the adapter over the base in {rows[0]['precision']}, not of these merged weights on the unquantised base. "
        "Stopped: the same completions cut at their task's stop strings. Length in tokens, EOS included. The intervals "
        "are Wilson's on the number of tasks.",
        "\n".join(lines),
        *below,
    ]


def merge(merged: dict, adapter: str) -> list[str]:
    check, rounding = merged["check"], merged["rounding"]
    return [
        f"W' = round(W + s B A) of `{adapter}` (SHA-256 `{merged['adapter_sha256']}`), on unquantised weights. "
        f"Rounding changes the weights by {rounding['share']:.2%} of what the adapter adds to them. Loaded again, "
        f"against base + adapter in float32 arithmetic at {check['positions']} positions: log-probabilities differ by "
        f"{check['mean']:.2g} in the mean ({check['share_of_effect']:.2%} of what the adapter changes them by) and "
        f"{check['largest']:.2g} at most; the likeliest token is the same at {check['same_argmax']:.1%}.",
        *code(merged["command"]),
        f"Commit `{merged['commit']}`; {hardware(merged)}.",
    ]


def interval(bounds: list[float] | tuple[float, float]) -> str:
    return f"{bounds[0]:.1%} to {bounds[1]:.1%}"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def code(command: str | None) -> list[str]:
    return [f"```sh\n{command}\n```"] if command else []
