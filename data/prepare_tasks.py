"""Import tasks from public data sets: KodCode, AceCode, TACO, APPS, LiveCodeBench, HumanEval, MBPP.

    python data/prepare_tasks.py --format kodcode --output data/kodcode.jsonl                  # from the hub
    python data/prepare_tasks.py --format taco --source train.parquet --output data/taco.jsonl

A task is kept if its own solution passes in the sandbox, an empty program does not, and it does not overlap with
HumanEval or MBPP's test tasks (`overlap.py`; where their files are in data/). Beside OUTPUT.jsonl, OUTPUT_import.json
has the counts, the reasons for what was dropped with the first records of each, the judge's settings, the held-out
files that were compared with, and the SHA-256.
"""

from __future__ import annotations

import glob
import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prepare_humaneval import load_hub, read_source
from task_formats import FORMATS, KEY
from task_tests import Unfit

from common import (
    InputError,
    check_judge_args,
    one_line,
    require,
    require_at_least,
    run_script,
    sha256,
    write_jsonl,
    write_text,
)
from common.run_args import JudgeArgs
from judging.by_language import open_sandbox
from judging.pool import Sandbox
from judging.tasks import Task, check_task, read_tasks
from overlap import asked_again, overlap

HELD_OUT = ("humaneval_all.jsonl", "humaneval_test.jsonl", "mbpp_test.jsonl")  # in data/
EXAMPLES = 5  # dropped records to name for each reason
UNREADABLE = (RecursionError, SyntaxError, TypeError, ValueError, MemoryError)  # what Python raises for odd tests


@dataclass(kw_only=True)
class Args(JudgeArgs):
    format: Literal["kodcode", "acecode", "taco", "apps", "livecodebench", "humaneval", "mbpp"]  # of the records
    output: str  # task file to write, .jsonl
    source: str = ""  # .jsonl, .json (or .gz of one) or .parquet (or a pattern for several), or a hub name; "": the hub
    split: str = ""  # of a data set on the hub; "" takes all
    limit: int = 0  # read only the first N records; 0 reads all
    skip_bad: bool = False  # drop records that lack a field or cannot be read, instead of ending with an error
    keep_overlap: bool = False  # keep tasks that overlap with HumanEval or with MBPP's test tasks
    quiet: bool = False  # show no progress
    config: str = ""  # YAML file with any of these; flags win over it


def check(args: Args) -> None:
    require(args.output.endswith(".jsonl"), f"--output {args.output}: must end in .jsonl")
    require(Path(args.output).resolve() != Path(args.source).resolve(), f"--output {args.output}: is the source itself")
    check_judge_args(args)
    require_at_least(0, args, "limit")


def records(source: str, hub: str, subset: str | None, split: str) -> Iterator[tuple[str, Any]]:
    """Yield where a record stands ("FILE:LINE", or "FILE, record N") and the record: bytes of a line, or an object.

    Raises:
        InputError: the file or the data set cannot be read.
    """
    ends = source.removesuffix(".gz")
    if ends.endswith(".jsonl"):
        try:
            with (gzip.open if source.endswith(".gz") else open)(source, "rb") as file:
                yield from ((f"{source}:{n}", line) for n, line in enumerate(file, start=1) if line.strip())
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"--source {source}: {getattr(error, 'strerror', None) or error}") from None
        return
    if ends.endswith(".json"):
        found = read_source(source)
    elif source.endswith(".parquet"):
        files = sorted(glob.glob(source)) or [source] * Path(source).is_file()  # a name may hold a bracket
        require(bool(files), f"--source {source}: no such file")
        found = parquet(source, files)
    else:
        source = source or hub
        named = re.fullmatch(r"[\w.-]+/[\w.-]+", source)
        require(bool(named) and not Path(source).exists(), f"--source {source}: want a .jsonl, .json or .parquet file, "
                "or the name of a data set on the hub")  # fmt: skip
        splits = load_hub(source, subset if source == hub else None)
        require(not split or split in splits, f"--split {split}: {source} has {', '.join(splits)}")
        found = (record for name, part in splits.items() if split in ("", name) for record in part)
    yield from ((f"{source}, record {n}", record) for n, record in enumerate(found, start=1))


def parquet(source: str, files: list[str]) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    try:
        yield from load_dataset(
            "parquet", data_files=[glob.escape(file) for file in files], split="train", streaming=True
        )
    except Exception as error:  # datasets and pyarrow raise many kinds of exceptions
        raise InputError(f"--source {source}: cannot be read as Parquet ({one_line(error)})") from None


def opened(record: Any, where: str) -> dict[str, Any]:
    """Return a record as an object. Raise InputError if it is none."""
    if isinstance(record, bytes):
        try:
            record = json.loads(record.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise InputError(f"{where}: is not UTF-8 text") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({one_line(error)})") from None
    require(isinstance(record, dict), f"{where}: wants a JSON object, not {type(record).__name__}")
    return record


class Dropped:
    """The reasons for which records were dropped, with their counts and the first records of each."""

    def __init__(self) -> None:
        self.reasons: dict[str, dict[str, Any]] = {}

    def add(self, reason: str, what: str) -> None:
        entry = self.reasons.setdefault(reason, {"count": 0, "first": []})
        entry["count"] += 1
        if entry["count"] <= EXAMPLES:
            entry["first"].append(what)

    def sorted(self) -> dict[str, dict[str, Any]]:
        return dict(sorted(self.reasons.items(), key=lambda item: -item[1]["count"]))


def candidates(args: Args, dropped: Dropped) -> Iterator[list[Task]]:
    """Yield the readings of each record that can be a task; see task_formats."""
    form, seen = FORMATS[args.format], set()
    for count, (where, record) in enumerate(records(args.source, form.hub, form.subset, args.split), start=1):
        if 0 < args.limit < count:
            return
        try:
            tasks = form.read(opened(record, where), where)
        except Unfit as unfit:
            dropped.add(str(unfit), where)
            continue
        except InputError as error:
            if not args.skip_bad:
                raise InputError(f"{error}; --skip_bad drops such records") from None
            dropped.add("it is not a record of this format", one_line(error))
            continue
        except UNREADABLE as error:  # named in the record, in case that the fault is ours
            dropped.add("its tests are not handled", one_line(f"{where}: {type(error).__name__}: {error}"))
            continue
        if tasks[0]["task_id"] in seen:
            dropped.add("its task_id was already used", where)
            continue
        seen.add(tasks[0]["task_id"])
        yield tasks


def verified(sandbox: Sandbox, solved: bool, readings: list[Task]) -> tuple[Task | None, str, str]:
    """Return the first reading whose solution passes and whose empty program does not; else the reason and its detail.

    Args:
        solved: whether the format has solutions; else only the empty program is run.
    """
    said: list[tuple[str, str]] = []
    for task in readings:
        try:
            check_task(task, "")
        except InputError as error:
            said.append(("it is no task that can be judged", str(error)))
            continue
        verdict = sandbox.check(task, task[KEY]) if solved else None
        if verdict and not verdict.passed:
            fault = "the judge cannot run its tests" if not verdict.judged else f"its solution ends in {verdict.status}"
            said.append((fault, verdict.reason))
        elif (empty := sandbox.check(task, "")).passed:
            said.append(("an empty program passes its tests", ""))
        elif not empty.judged:
            said.append(("the judge cannot run its tests", empty.reason))
        else:
            return task, "", ""
    return None, *said[0]


def held_out_files(keep_overlap: bool) -> tuple[list[Path], str]:
    """Return the files of held-out tasks to compare with, and a sentence that says what is not compared."""
    paths = [Path(__file__).parent / name for name in HELD_OUT]
    there = [path for path in paths if path.is_file()]
    missing = ", ".join(path.name for path in paths if path not in there)
    if keep_overlap:
        return [], "not checked, because of --keep_overlap"
    if not there:
        makers = "prepare_humaneval.py and prepare_mbpp.py make them"
        return [], f"NOT CHECKED, because data/ has none of {missing} ({makers})"
    return there, f"not compared with {missing}, which data/ does not have" if missing else "checked"


def without_overlap(tasks: list[Task], files: list[Path], dropped: Dropped) -> list[Task]:
    """Return the tasks that do not overlap with a task in one of these files."""
    held_out = [task for path in files for task in read_tasks(path)]
    found = overlap(held_out, tasks)
    pairs = dict(asked_again(held_out, tasks) + found.exact) | {name: other for name, other, _ in found.near}
    for name, other in pairs.items():
        dropped.add("it overlaps with a held-out task", f"{name} with {other}")
    return [task for task in tasks if task["task_id"] not in pairs]


def main(args: Args) -> None:
    check(args)
    from tqdm import tqdm

    dropped, tasks, solved = Dropped(), [], FORMATS[args.format].solved
    readings = list(candidates(args, dropped))
    with (
        open_sandbox(args, [{}], tested=False) as sandbox,  # for Python
        ThreadPoolExecutor(sandbox.num_workers) as pool,
    ):
        results = pool.map(partial(verified, sandbox, solved), readings)
        bar = tqdm(results, desc=args.format, total=len(readings), unit="task", disable=args.quiet)
        for first, (task, reason, detail) in zip(readings, bar, strict=True):
            if task:
                tasks.append(task)
            else:
                dropped.add(reason, one_line(f"{first[0]['task_id']}: {detail}" if detail else first[0]["task_id"]))
    held_out, compared = held_out_files(args.keep_overlap)
    tasks = without_overlap(tasks, held_out, dropped) if held_out else tasks
    reasons, cut = dropped.sorted(), [task["tests_left_out"] for task in tasks if "tests_left_out" in task]
    print(f"overlap: {compared}")
    print(f"{len(tasks):>8}  taken" + ("" if solved else " (this format has no solutions to run)"))
    if cut:
        print(f"{len(cut):>8}  of them with the first of their tests only ({sum(cut)} tests were left out)")
    for reason, entry in reasons.items():
        print(f"{entry['count']:>8}  dropped: {reason} ({one_line(entry['first'][0], 90)})")
    require(bool(tasks), f"--format {args.format}: no task is left")
    write_jsonl(args.output, tasks)
    record = {"format": args.format, "source": Path(args.source).name or FORMATS[args.format].hub, "split": args.split,
              "limit": args.limit, "read": len(tasks) + sum(entry["count"] for entry in reasons.values()),
              "taken": len(tasks), "tests_left_out": {"tasks": len(cut), "tests": sum(cut)}, "solutions_run": solved,
              "judge": {one.name: getattr(args, one.name) for one in fields(JudgeArgs)},
              "keep_overlap": args.keep_overlap, "overlap": compared,
              "held_out": {path.name: sha256(path) for path in held_out}, "dropped": reasons,
              "sha256": sha256(args.output)}  # fmt: skip
    write_text(args.output.removesuffix(".jsonl") + "_import.json", json.dumps(record, indent=1) + "\n")
    print(f"{args.output}: {len(tasks)} tasks, sha256 {record['sha256']}")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
