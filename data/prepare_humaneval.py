"""Split HumanEval into data/humaneval_train.jsonl and data/humaneval_test.jsonl: seed 42, 80/20, 131/33 tasks.

data/humaneval_all.jsonl has all 164 in their own order, for models that were not trained on HumanEval.

    python data/prepare_humaneval.py                                  # from the hub
    python data/prepare_humaneval.py --source HumanEval.jsonl.gz      # from a local file

Counts and checksums go to data/humaneval_split.json.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import huggingface_hub

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import InputError, require, run_script, sha256, write_jsonl, write_text
from judging.tasks import FIELDS, read_tasks

HUB = "openai/openai_humaneval"


@dataclass
class Args:
    source: str = ""  # HumanEval.jsonl or .jsonl.gz; by default openai/openai_humaneval from the hub
    output_dir: str = str(Path(__file__).parent)  # folder to write the files to
    seed: int = 42  # seed of the split
    train_share: float = 0.8  # share of the tasks in the train split
    config: str = ""  # YAML file with any of these; flags win over it


def read_source(source: str, hub: str = HUB, subset: str | None = None) -> list[dict]:
    """Read all tasks, from a local file or from all splits of a data set (and its subset) on the hub.

    Raises:
        InputError: the file is missing or unreadable, or the hub cannot be reached.
    """
    if source:
        try:
            raw = Path(source).read_bytes()
            text = (gzip.decompress(raw) if source.endswith(".gz") else raw).decode("utf-8-sig")
            if text.startswith("["):
                return json.loads(text)
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"--source {source}: {getattr(error, 'strerror', None) or error}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"--source {source}: not JSON lines ({error})") from None
    return [task for part in load_hub(hub, subset).values() for task in part]


def load_hub(hub: str, subset: str | None = None) -> dict[str, Any]:
    """Return the splits of a data set (and its subset) on the hub, by name, as `datasets` loads them.

    Raises:
        InputError: the hub cannot be reached, or the data set cannot be loaded.
    """
    try:
        huggingface_hub.HfApi().dataset_info(hub, timeout=10)
    except Exception:  # the client raises what its transport raises
        huggingface_hub.constants.HF_HUB_OFFLINE = True  # only the cache: load_dataset would try for half a minute
    try:
        from datasets import load_dataset  # reads the constant

        return load_dataset(hub, subset)
    except Exception as error:  # the hub's client raises many kinds of exceptions
        raise InputError(
            f"{hub} cannot be loaded from the hub ({type(error).__name__}); give a local copy with --source FILE "
            "(SOURCE=FILE for the shell scripts)"
        ) from None


def main(args: Args) -> None:
    require(0 < args.train_share < 1, f"--train_share {args.train_share}: must be between 0 and 1")
    tasks, source = read_source(args.source), args.source or HUB
    with TemporaryDirectory() as scratch:  # check that these are tasks before any file is replaced
        path = Path(scratch) / "source.jsonl"
        write_jsonl(path, tasks)
        try:
            tasks = read_tasks(path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), source)) from None
    for number, task in enumerate(tasks, start=1):
        missing = ", ".join(field for field in FIELDS if field not in task)
        require(not missing, f"{source}:{number}: has no {missing}, which HumanEval's tasks have")
    tasks = [{field: task[field] for field in FIELDS} for task in tasks]
    shuffled = list(tasks)
    random.Random(args.seed).shuffle(shuffled)
    cut = int(args.train_share * len(tasks))
    require(0 < cut < len(tasks), f"{len(tasks)} tasks are too few to split")
    folder = Path(args.output_dir)
    record = {"source": Path(args.source).name or HUB, "seed": args.seed}
    for name, part in (("train", shuffled[:cut]), ("test", shuffled[cut:]), ("all", tasks)):
        path = folder / f"humaneval_{name}.jsonl"
        write_jsonl(path, part)
        record[name] = {"tasks": len(part), "sha256": sha256(path)}
        print(f"{path.name}: {len(part)} tasks, sha256 {record[name]['sha256']}")
    write_text(folder / "humaneval_split.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
