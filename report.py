"""Write one HTML page about a run: its settings, its curves, and a browser of the rollouts that it recorded.

    python report.py checkpoints/my_grpo                # writes checkpoints/my_grpo/report.html

The page is a single file that opens from the file system, without network or other files. It shows everything that a
model wrote as text, and its Content-Security-Policy lets only the page's own script run. A run that has not finished
is in RUN_DIR.partial, which is used if RUN_DIR does not exist. docs/report.md says what is on the page.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import importlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from common import printable, read_jsonl, require, require_at_least, run_script, write_text
from reporting.model_card import METHODS, read
from reporting.plots import chosen_figures, smoothed
from reporting.rollouts import figure, pack_rollouts, read_rollouts, thinned, tokenizer_of

PARTS = Path(__file__).parent / "reporting" / "page"
SCRIPTS = ("text.js", "curves.js", "diff.js", "detail.js", "list.js")  # one script, in this order
BESIDE = ("cut_off", "grad_norm", "tied_groups")  # shown first, after the figures of curves.py, if there is room


@dataclass
class Args:
    run_dir: Annotated[str, tyro.conf.Positional]  # folder that training wrote, or is writing
    output: str = ""  # the page to write; "": report.html in that folder
    max_rollouts: int = 5000  # with more rollouts, leave out whole steps, evenly
    smooth: int = 9  # number of steps that each point of a line averages; 1 draws the steps themselves
    config: str = ""  # YAML file with any of these; flags win over it


def find_run(run_dir: str) -> tuple[Path, str]:
    """Return the run's folder, and its method by the name of its log.

    Raises:
        InputError: there is no such folder, or it is not the folder of a run.
    """
    folder = Path(run_dir)
    partial = folder.with_name(folder.name + ".partial") if folder.name else folder
    if not folder.is_dir() and partial.is_dir():
        folder = partial
    require(folder.is_dir(), f"{run_dir}: no such folder, nor {partial.name} beside it")
    methods = [method for method in METHODS if (folder / log_name(method)).is_file()]
    require(len(methods) == 1, f"{folder}: want one training log (METHOD_train_log.jsonl) in it, has {len(methods)}")
    require((folder / "run.json").is_file(), f"{folder}: has no run.json; is it the folder of a run?")
    return folder, methods[0]


def log_name(method: str) -> str:
    return f"{method}_train_log.jsonl"


def is_going(folder: Path) -> bool:
    """Return whether training has not finished, or was killed; the last line of a file may then be incomplete."""
    return folder.name.endswith(".partial")


def settings(record: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """Return the run's arguments, those that differ from the script's present defaults first.

    Each has "name", "value", "default" (None if the script has no such argument) and "differs"; values are texts.
    """
    script = importlib.import_module(f"train_{method}_lora")
    defaults = {field.name: field.default for field in dataclasses.fields(script.Args)}
    rows = []
    for name, value in record["args"].items():
        default = json.loads(json.dumps(defaults.get(name), default=str))  # as run.json would store it
        differs = name in defaults and value != default
        rows.append({"name": name, "value": as_text(value), "differs": differs,
                     "default": as_text(default) if name in defaults else None})  # fmt: skip
    return sorted(rows, key=lambda row: not row["differs"])


def as_text(value: Any) -> str:
    """Write a JSON value as text for a table.

    >>> [as_text(value) for value in (0.001, "a b", "", None, ["x", 1], {"torch": "2.13", "landlock": 7})]
    ['0.001', 'a b', '""', 'none', 'x, 1', 'torch 2.13, landlock 7']
    """
    if isinstance(value, dict):
        return ", ".join(f"{key} {as_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    if value is None:
        return "none"
    return value if isinstance(value, str) and value else json.dumps(value)


def machine_rows(record: dict[str, Any]) -> list[list[str]]:
    """Return everything else in run.json, as pairs of a name and a text."""
    return [[name.replace("_", " "), as_text(value)] for name, value in record.items() if name != "args"]


def figures(log: dict[int, dict[str, Any]], width: int) -> dict[str, dict[str, Any]]:
    """Collect every number in the log: its points, a smoothed line, and its means at both ends.

    Args:
        log: step -> record, in the order of the steps.
        width: number of steps that each point of the line averages; a figure with few points is smoothed less.

    Returns:
        {name: {"x": steps, "y": values, "line": smoothed values, "first": the mean of the first tenth of the points, at
        least one, "last": the mean of the last tenth}}.
    """
    points: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for step, record in log.items():
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and (value := figure(value)) is not None:
                points[name].append((step, value))
    found = {}
    for name, pairs in points.items():
        steps, values = zip(*pairs, strict=True)
        line = smoothed(np.array(values, dtype=float), max(1, min(width, len(values) // 3)))
        tenth = math.ceil(len(values) / 10)
        found[name] = {
            "x": steps,
            "y": values,
            "line": [figure(value) for value in line.tolist()],
            "first": figure(float(np.mean(values[:tenth]))),
            "last": figure(float(np.mean(values[-tenth:]))),
        }
    return found


def read_log(folder: Path, method: str) -> dict[int, dict[str, Any]]:
    """Read a run's log: step -> record, in the order of the steps."""
    log: dict[int, dict[str, Any]] = {}
    for place, record in read_jsonl(folder / log_name(method), "training log", unfinished=is_going(folder)):
        step = record.get("step")
        require(type(step) is int and 0 <= step < 2**53, f"{place}: step must be a whole number")
        log[step] = log.get(step, {}) | record  # SFT ends with a second line of its last step
    return dict(sorted(log.items()))


def content(folder: Path, method: str, max_rollouts: int, smooth: int) -> dict[str, Any]:
    """Return all data that the page's script gets."""
    record = read(folder / "run.json")
    require(isinstance(record.get("args"), dict), f"{folder / 'run.json'}: has no args; is it the folder of a run?")
    log = read_log(folder, method)
    names = figures(log, smooth)
    main = (chosen_figures(set(names)) + [name for name in BESIDE if name in names])[:8]
    page = {
        "name": str(record["args"].get("run_name") or folder.resolve().name.removesuffix(".partial")),
        "method": METHODS[method],
        "going": is_going(folder),
        "steps": max(log, default=0),
        "sampled": next((r["sampled_tokens"] for r in reversed(log.values()) if "sampled_tokens" in r), None),
        "seconds": figure((record.get("spent") or {}).get("seconds")),
        "settings": settings(record, method),
        "machine": machine_rows(record),
        "figures": names,
        "main": main,
        "smooth": smooth,
        "notes": list(notes_without_rollouts(folder, method, bool(log))),
    }
    path = folder / "completions.jsonl"
    if not path.is_file():
        return page
    rows = read_rollouts(path, is_going(folder))
    kept = thinned(rows, max_rollouts)
    if len(kept) < len(rows):
        steps = [len({row["step"] for row in some}) for some in (kept, rows)]
        page["notes"].append(f"Shown are {len(kept):,} of {len(rows):,} recorded rollouts, those of {steps[0]:,} of "
                             f"{steps[1]:,} steps, evenly spaced; --max_rollouts shows more.")  # fmt: skip
    tokenizer, trouble = None, ""
    if any("token_ids" in row for row in kept):
        tokenizer, trouble = tokenizer_of(folder, str(record["args"].get("sft_model", "")))
    elif kept:
        trouble = "This run recorded no tokens (an older version did not): completions are shown as text only."
    packed, strangers = pack_rollouts(kept, tokenizer)
    if strangers:
        page["notes"].append(f"The tokens of {strangers:,} rollouts decode to other text than was recorded: the "
                             "tokenizer is not the run's. These are shown as text only.")  # fmt: skip
    page["notes"] += [trouble] if trouble else []
    return page | packed


def notes_without_rollouts(folder: Path, method: str, logged: bool) -> Iterator[str]:
    if is_going(folder):
        yield "This run has not finished: the page shows it as it was when the page was made."
    if not logged:
        yield "Nothing is logged yet."
    if not (folder / "completions.jsonl").is_file() and method not in ("sft", "dpo"):
        yield "No rollouts were recorded. Training with --log_completions 1 records those of every step."


def as_json(data: Any) -> str:
    r"""Write ASCII JSON that is safe inside a script element: without `<`, no tag or comment can begin or end in it.

    >>> as_json(["</script><!--", "\u2028"])
    '["\\u003c/script\\u003e\\u003c!--","\\u2028"]'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def sha256_source(text: str) -> str:
    """Return the source by which a Content-Security-Policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render(page: dict[str, Any]) -> str:
    """Return the page's HTML. It holds the data only as JSON, except for the title, which is escaped."""
    style = (PARTS / "page.css").read_text(encoding="utf-8")
    code = "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'(function () {{\n"use strict";\n{code}\n}})();'
    policy = (f"default-src 'none'; style-src {sha256_source(style)}; script-src {sha256_source(script)}; "
              "img-src data:; base-uri 'none'; form-action 'none'")  # fmt: skip
    fill = {"policy": policy, "style": style, "script": script, "data": as_json(page),
            "title": html.escape(printable(page["name"]))}  # fmt: skip
    template = (PARTS / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fill[match[1]], template)


def main(args: Args) -> None:
    require_at_least(1, args, "max_rollouts", "smooth")
    folder, method = find_run(args.run_dir)
    output = Path(args.output) if args.output else folder / "report.html"
    require(not output.is_dir(), f"--output {output}: is a folder")
    page = content(folder, method, args.max_rollouts, args.smooth)
    text = render(page)
    write_text(output, text)
    for note in page["notes"]:
        print(f"note: {printable(note)}")
    print(f"wrote {printable(str(output))}: {page['steps']} steps, {len(page.get('rollouts', []))} rollouts, "
          f"{len(text) / 2**20:.1f} MiB")  # fmt: skip


if __name__ == "__main__":
    run_script(main, Args, __doc__)
