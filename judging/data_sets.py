"""The data sets that `train.py` knows by name: their task files, and the commands that make them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common import require
from judging.tasks import language_of, read_tasks

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Dataset:
    """Task files of a data set, and the command that makes them. valid: "" where it has none."""

    train: str
    valid: str
    test: str
    prepare: tuple[str, ...] = ()


def of_mbpp(name: str, *source: str) -> Dataset:
    files = (f"data/{name}_{part}.jsonl" for part in ("train", "validation", "test"))
    return Dataset(*files, prepare=("data/prepare_mbpp.py", *source))


HUMANEVAL = ("data/prepare_humaneval.py",)
DATASETS = {
    "mbpp": of_mbpp("mbpp"),
    "humaneval": Dataset("data/humaneval_train.jsonl", "", "data/humaneval_test.jsonl", HUMANEVAL),
    "pocket": Dataset("data/pocket_train.jsonl", "data/pocket_valid.jsonl", "data/pocket_test.jsonl"),
    "verilog": Dataset("data/verilog_train.jsonl", "", "data/verilog_test.jsonl"),
    "pocket_verilog": Dataset(*(f"data/pocket_verilog_{part}.jsonl" for part in ("train", "valid", "test"))),
    "pocket_mbpp": of_mbpp("pocket_mbpp", "--source", str(ROOT / "data/pocket_mbpp.jsonl"), "--name", "pocket_mbpp"),
}
ALL_OF_HUMANEVAL = Dataset("", "", "data/humaneval_all.jsonl", HUMANEVAL)  # for what was trained on something else


def data_of(name: str, trained_on: str = "") -> Dataset:
    """A data set by its name, or a task file; its files are made if they are missing.

    Args:
        trained_on: given where it is to be evaluated on; what was trained on something else has all of HumanEval.

    Raises:
        InputError: there is no such file, or the data set cannot be had.
    """
    if name not in DATASETS:
        require(Path(name).is_file(), f"{name}: is neither a task file nor one of {', '.join(DATASETS)}")
        return Dataset(name, "", name)
    found = DATASETS[name] if name != "humaneval" or trained_on in ("", "humaneval") else ALL_OF_HUMANEVAL
    missing = [path for path in (found.train, found.valid, found.test) if path and not Path(path).is_file()]
    require(not missing or bool(found.prepare), f"{', '.join(missing)}: not here; run this in the project's folder")
    if missing:
        command = [sys.executable, str(ROOT / found.prepare[0]), *found.prepare[1:], "--output_dir", "data"]
        done = subprocess.run(command, capture_output=True, text=True)
        why = done.stderr.strip().removeprefix("error: ")
        require(done.returncode == 0, f"{name}: python {found.prepare[0]}: {why}; then this command again")
        print(done.stdout, end="")
    return found


def evaluated_on(names: str, trained_on: str, pocket: bool) -> dict[str, str]:
    """The task files to evaluate on, by the names of their data sets.

    Args:
        names: data sets or files, commas between; "": both that the training set is at home with.
        pocket: whether a training set that is a file is for the pocket model.

    Raises:
        InputError: one has tasks that the model trains on, or two have one name.
    """
    pocket = trained_on.startswith("pocket") or (pocket and trained_on not in DATASETS)
    usual = "pocket,pocket_mbpp" if pocket else "mbpp,humaneval"
    if language(trained_on) == "verilog":
        usual = trained_on if trained_on in DATASETS else "verilog"
    wanted = (names or usual).split(",")
    tests = {Path(name).stem: data_of(name, trained_on).test for name in wanted}
    require(len(tests) == len(wanted), f"--eval_on {names}: two of these have the same name")
    trained = identities(data_of(trained_on).train)
    for path in tests.values():
        require(
            trained.isdisjoint(identities(path)),
            f"--eval_on {path}: these are the tasks that it trains on, or some of them are; --eval_on names others",
        )
    return tests


def language(name: str) -> str:
    """Of the tasks of a data set or a task file."""
    return language_of(read_tasks(data_of(name).train), name)


def identities(path: str) -> set[tuple[str, str]]:
    """What tells the tasks of a file from those of another."""
    return {(task["task_id"], task["prompt"]) for task in read_tasks(path)}
