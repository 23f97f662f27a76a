"""Write the model card of a merged adapter from what its run and its evaluations left behind.

What is not known is left out. Scores are not in the metadata: they would be read as the merged weights', and what was
evaluated is the adapter over the base in 4 bits.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import InputError, require, sha256
from reporting.rows import hardware, make_row, suite
from reporting.table_formats import markdown

METHODS = {
    "sft": "supervised fine-tuning (SFT)",
    "rl": "REINFORCE",
    "ppo": "proximal policy optimisation (PPO)",
    "grpo": "group relative policy optimisation (GRPO)",
    "dpo": "direct preference optimisation (DPO)",
    "rft": "rejection-sampling fine-tuning (RFT)",
}


def read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    require(isinstance(record, dict), f"{path}: wants a JSON object")
    return record


@contextmanager
def written_by_a_run(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not what a run of this project writes ({type(error).__name__} {error})") from None


def training(adapter: str) -> str:
    """Return the card's words on the run that made the adapter, from its run.json.

    Raises:
        InputError: it cannot be read.
    """
    path = Path(adapter) / "run.json"
    if not path.is_file():
        return "Not recorded: the adapter came without its run.json."
    record = read(path)
    with written_by_a_run(path):
        args = record["args"]
        facts = {
            "method": ", ".join(METHODS.get(m, m) for m in methods_of(adapter)),
            "data": f"`{args['train_path']}`, SHA-256 `{record['train_sha256']}`",
            "started from": f"`{args.get('sft_model') or args.get('model_name')}`, in 4 bits (NF4)",
            "hardware": hardware(record),
            "commit": record["commit"] and f"`{record['commit']}`",
            "command": record.get("command") and f"`{record['command']}`",
            "settings": f"`{shlex.join(f'{name}={value}' for name, value in args.items())}`",
        }
    return "\n".join(f"- {label}: {' '.join(fact.split())}" for label, fact in facts.items() if fact)


def methods_of(adapter: str) -> list[str]:
    return sorted(log.name.removesuffix("_train_log.jsonl") for log in Path(adapter).glob("*_train_log.jsonl"))


def evaluation(results_dir: str, name: str, adapter: str) -> str:
    """Return the card's words on every evaluation of this adapter: those whose `model_path` and weights are its own.

    A note on the screen names an evaluation of an earlier adapter of the same name, which is left out.

    Raises:
        InputError: a metrics file that cannot be read.
    """
    weights, rows, precisions = Path(adapter) / "adapter_model.safetensors", [], set()
    for path in sorted(Path(results_dir).glob("*_metrics.json")):
        metrics = read(path)
        model = metrics.get("model_path") or ""
        if metrics.get("is_lora") is not True or (model != name and Path(model).resolve() != Path(adapter).resolve()):
            continue
        with written_by_a_run(path):
            row, precision = make_row(metrics["exp_name"], suite(metrics), [metrics]), metrics["precision"]
        known = metrics.get("adapter_sha256")  # older files have none
        if known == sha256(weights) if known else path.stat().st_mtime >= weights.stat().st_mtime:
            rows.append(row)
            precisions.add(precision)
        else:
            print(f"note: {path} is of an earlier adapter in {name}: left out of the model card")
    if not rows:
        return "Not evaluated."
    about = (f"Of the adapter over the base in {' / '.join(sorted(precisions))}, not of these merged weights on the "
             "unquantised base. Stopped: the same completions cut at their task's stop strings.")  # fmt: skip
    return f"{about}\n\n{markdown(rows, {row.suite: 'not checked here' for row in rows})}"


def card(name: str, merged: dict[str, Any], trained: str, evaluated: str) -> str:
    """Return the card's Markdown, with the hub's metadata in front.

    Args:
        name: hub name or folder to load the model by. merged: the merged folder's run.json.
        trained: what `training` says. evaluated: what `evaluation` says.
    """
    from huggingface_hub import ModelCardData

    base, check, adapter = merged["base_model"], merged["check"], merged["args"]["adapter_model_id"]
    on_hub = not Path(base).is_dir()
    data = ModelCardData(base_model=base if on_hub else None, library_name="transformers",
                         pipeline_tag="text-generation", tags=["code"])  # fmt: skip
    shown = f"`{base}`" if on_hub else f"`{Path(base).name}`"
    revision = f" (revision `{merged['base_revision']}`)" if merged["base_revision"] else ""
    origin = ""
    if gguf := merged.get("base_gguf"):
        origin = (f" The base weights are those of the GGUF file `{gguf['file']}`, SHA-256 `{gguf['sha256']}`, not of "
                  "the checkpoint that it was made from.")  # fmt: skip
    return f"""---
{data.to_yaml()}
---

# {name.split("/")[-1]}

{shown}{revision} with the LoRA adapter `{adapter}` (SHA-256 `{merged["adapter_sha256"]}`), merged into its unquantised
weights in {merged["args"]["dtype"]}. Made with RL-Code-Agent.{origin}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
```

It writes programs that nobody has read: run them in a sandbox.

## Training

{trained}

## Evaluation

{evaluated.strip()}

## Merge

Against base + adapter in float32 arithmetic, at {check["positions"]} positions, the log-probabilities of the saved
model differ by {check["mean"]:.2g} in the mean ({check["share_of_effect"]:.2%} of what the adapter changes them by)
and by {check["largest"]:.2g} at most. The likeliest token is the same at {check["same_argmax"]:.1%}. Made at commit
`{merged["commit"]}` on {hardware(merged)} by

```sh
{merged["command"]}
```

## Licence

That of {shown}, and of the data it was trained on, applies; this card states none.
"""
