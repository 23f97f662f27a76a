"""Split MBPP as its paper does (arXiv 2108.07732, by task_id): train 374, test 500, validation 90, prompt 10 tasks.

    python data/prepare_mbpp.py                                # from the hub
    python data/prepare_mbpp.py --source mbpp.jsonl            # from a local file
    python data/prepare_mbpp.py --source data/pocket_mbpp.jsonl --name pocket_mbpp

Writes data/<name>_{train,test,validation,prompt}.jsonl, and counts and checksums to data/<name>_split.json. A prompt is
one docstring with the description and the first assert, as in InCoder (arXiv 2204.05999) and the bigcode evaluation
harness; the model writes everything after it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prepare_humaneval import read_source

from common import InputError, require, run_script, sha256, write_jsonl, write_text
from judging.tasks import Task, check_task

HUB = "google-research-datasets/mbpp"
SPLITS = {"train": range(601, 975), "test": range(11, 511), "validation": range(511, 601), "prompt": range(1, 11)}


@dataclass
class Args:
    source: str = ""  # mbpp.jsonl, sanitized-mbpp.json or .gz of one; by default google-research-datasets/mbpp, full
    name: str = "mbpp"  # name of files and task ids (ids: Mbpp if it begins with mbpp); mbpp needs all 974 tasks
    output_dir: str = str(Path(__file__).parent)  # folder to write the files to
    config: str = ""  # YAML file with any of these; flags win over it


def make_task(record: Any, prefix: str, where: str) -> Task:
    """Make a task from a line of mbpp.jsonl or of the sanitized form (`prompt` for `text`, and `test_imports`).

    Args:
        prefix: the start of the task id.
        where: the record, for the error message.

    Raises:
        InputError: a field is missing or of the wrong kind.
    """
    require(isinstance(record, dict), f"{where}: wants a JSON object, not {type(record).__name__}")
    number, text, code = record.get("task_id"), record.get("text", record.get("prompt")), record.get("code")
    require(type(number) is int and any(number in ids for ids in SPLITS.values()),
            f"{where}: task_id {number!r} is not a number from 1 to 974")  # fmt: skip
    require(isinstance(text, str), f"{where}: task {number} has no text field 'text' (or 'prompt')")
    require(isinstance(code, str), f"{where}: task {number} has no text field 'code'")
    imports, setup = record.get("test_imports") or [], record.get("test_setup_code") or ""
    require(isinstance(imports, list) and all(isinstance(line, str) for line in [*imports, setup]),
            f"{where}: task {number}: test_imports must be a list of lines and test_setup_code text")  # fmt: skip
    task = {
        "task_id": f"{prefix}/{number}",
        "prompt": "",
        "canonical_solution": unix_lines(code).rstrip("\n") + "\n",
        "test_list": record.get("test_list"),
        "test_setup_code": unix_lines("\n".join([*imports, setup])).strip("\n"),
    }
    check_task(task, f"{where}: task {number}")
    task["test_list"] = [unix_lines(test) for test in task["test_list"]]
    task["prompt"] = f'"""\n{unix_lines(text)}\n{task["test_list"][0]}\n"""\n'
    return task


def unix_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def main(args: Args) -> None:
    require(args.name != "" and "/" not in args.name, f"--name {args.name!r}: want a plain name")
    source = f"--source {args.source}" if args.source else HUB
    prefix = "Mbpp" if args.name.startswith("mbpp") else args.name  # EvalPlus's spelling
    tasks: dict[int, Task] = {}
    for place, record in enumerate(read_source(args.source, HUB, "full"), start=1):
        task = make_task(record, prefix, f"{source}, record {place}")
        require(record["task_id"] not in tasks, f"{source}, record {place}: task_id {record['task_id']} comes twice")
        tasks[record["task_id"]] = task
    parts = {name: [tasks[number] for number in ids if number in tasks] for name, ids in SPLITS.items()}
    require(bool(tasks), f"{source}: has no tasks")
    if args.name == "mbpp" and len(tasks) < 974:
        raise InputError(f"{source}: has {len(tasks)} of MBPP's 974 tasks; give the files another name with --name")
    folder = Path(args.output_dir)
    files = {name: folder / f"{args.name}_{name}.jsonl" for name, part in parts.items() if part}
    record = {"source": Path(args.source).name or HUB}
    for name, path in files.items():
        write_jsonl(path, parts[name])
        record[name] = {"tasks": len(parts[name]), "sha256": sha256(path)}
        print(f"{path.name}: {len(parts[name])} tasks, sha256 {record[name]['sha256']}")
    write_text(folder / f"{args.name}_split.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
