"""Read VerilogEval v2's spec-to-rtl problems (arXiv 2408.11053) from a copy of NVIDIA's folder.

    python data/prepare_verilogeval.py --source verilog-eval/dataset_spec-to-rtl

The folder has ProbNNN_name_prompt.txt, ProbNNN_name_ref.sv and ProbNNN_name_test.sv. The script writes
data/verilogeval.jsonl, for evaluation only. A prompt is the specification as a comment, followed by the header of
TopModule with the reference's ports, so that a model completes it like any other task here. With --instruct the model
is asked for the whole module, as in the benchmark.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import InputError, require, run_script, sha256, write_jsonl
from judging.tasks import Task, check_task

COUNT = 156
HEADER = re.compile(r"\s*module\s+RefModule\s*(\((?:[^()]|\([^()]*\))*\)\s*;[ \t]*\n)")


@dataclass
class Args:
    source: str = ""  # the folder dataset_spec-to-rtl of the benchmark
    output_path: str = str(Path(__file__).parent / "verilogeval.jsonl")  # file to write the tasks to
    allow_missing: bool = False  # accept a folder that does not have all 156 problems
    config: str = ""  # YAML file with any of these; flags win over it


def make_task(folder: Path, name: str) -> Task:
    """Make a task from the three files of a problem.

    Raises:
        InputError: a file is missing or differs from the benchmark's form; the message names it.
    """
    parts = {}
    for part in ("prompt.txt", "ref.sv", "test.sv"):
        path = folder / f"{name}_{part}"
        try:
            parts[part] = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from None
    header = HEADER.match(parts["ref.sv"])
    require(header is not None, f"{folder / name}_ref.sv: does not begin with module RefModule (...);")
    lines = parts["prompt.txt"].strip().splitlines()
    comment = "".join(f"// {line}".rstrip() + "\n" for line in lines)
    task = {
        "task_id": f"VerilogEval/{name}",
        "language": "verilog",
        "prompt": f"{comment}module TopModule {header.group(1)}",
        "canonical_solution": parts["ref.sv"][header.end() :].strip("\n") + "\n",
        "test": parts["ref.sv"].rstrip() + "\n\n" + parts["test.sv"],
        "top_module": "TopModule",
    }
    check_task(task, str(folder / name))
    return task


def main(args: Args) -> None:
    require(args.source != "", "--source: want the benchmark's folder dataset_spec-to-rtl; it is not downloaded")
    folder = Path(args.source)
    require(folder.is_dir(), f"--source {folder}: no such folder")
    names = sorted(path.name.removesuffix("_prompt.txt") for path in folder.glob("Prob[0-9][0-9][0-9]_*_prompt.txt"))
    require(bool(names), f"--source {folder}: has no ProbNNN_name_prompt.txt")
    require(
        args.allow_missing or len(names) == COUNT,
        f"--source {folder}: has {len(names)} problems, not {COUNT}; --allow_missing accepts them anyway",
    )
    tasks = [make_task(folder, name) for name in names]
    write_jsonl(args.output_path, tasks)
    print(f"{args.output_path}: {len(tasks)} tasks, sha256 {sha256(args.output_path)}")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
