"""Find the task files of the data sets that `train.py` knows by name, and make those that are missing."""

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
    """Task files of a data set ("": it has none), and the script and options that make them."""

    train: str
    valid: str
    test: str
    prepare: tuple[str, ...] = ()


def usual(name: str, valid: str, *prepare: str) -> Dataset:
    return Dataset(*(f"data/{name}_{part}.jsonl" if part else "" for part in ("train", valid, "test")), prepare)


MBPP, HUMANEVAL, POCKET = "data/prepare_mbpp.py", "data/prepare_humaneval.py", str(ROOT / "data/pocket_mbpp.jsonl")
DATASETS = {
    "mbpp": usual("mbpp", "validation", MBPP),
    "humaneval": usual("humaneval", "", HUMANEVAL),
    "verilog": usual("verilog", ""),
    "pocket": usual("pocket", "valid"),
    "pocket_mbpp": usual("pocket_mbpp", "validation", MBPP, "--source", POCKET, "--name", "pocket_mbpp"),
    "pocket_verilog": usual("pocket_verilog", "valid"),
}
# HumanEval as a whole, to evaluate what was trained on other tasks
ALL_OF_HUMANEVAL = Dataset("", "", "data/humaneval_all.jsonl", (HUMANEVAL,))


def data_of(name: str, trained_on: str = "") -> Dataset:
    """Return a data set by its name, or a task file as one; make its files if they are missing.

    Args:
        trained_on: the training set, if this data set is to evaluate on.

    Raises:
        InputError: there is no such file, or the data set cannot be made.
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
    """Return the task files to evaluate on, by the names of their data sets.

    Args:
        names: data sets or files, commas between; "": the default sets for this training set.
        pocket: whether a training set that is a file is for the pocket model.

    Raises:
        InputError: one has tasks that the model trains on, or two have the same name.
    """
    default = "mbpp,humaneval"
    if language(trained_on) == "verilog":
        default = trained_on if trained_on in DATASETS else "verilog"
    elif trained_on.startswith("pocket") or (pocket and trained_on not in DATASETS):
        default = "pocket,pocket_mbpp"
    wanted = (names or default).split(",")
    tests = {Path(name).stem: data_of(name, trained_on).test for name in wanted}
    require(len(tests) == len(wanted), f"--eval_on {names}: two of these have the same name")
    trained = identities(data_of(trained_on).train)
    for path in tests.values():
        said = f"--eval_on {path}: these are the tasks that it trains on, or some of them are; --eval_on names others"
        require(trained.isdisjoint(identities(path)), said)
    return tests


def identities(path: str) -> set[tuple[str, str]]:
    return {(task["task_id"], task["prompt"]) for task in read_tasks(path)}


def language(name: str) -> str:
    """Return the language of the tasks of a data set or a task file."""
    return language_of(read_tasks(data_of(name).train), name)
