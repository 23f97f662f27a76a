"""Keep run.json: a run's settings, where it ran and, at its end, what it took. Then draw its curves and sum it up."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from common import command, machine, peak_memory, settings_of, sha256, write_text
from model import gguf_model


def start_record(folder: Path, args: Any, **more: Any) -> dict[str, Any]:
    """Write run.json with what is known at the beginning."""
    record = {
        "args": settings_of(args),
        "train_sha256": sha256(args.train_path),
        "command": command(),
        **machine(),
        **more,
    }
    if found := gguf_model.origin(getattr(args, "sft_model", None) or args.model_name):
        record["gguf"] = found
    if stats := pairs_stats(record["args"]):
        record["pairs_command"] = stats.get("command")
    record["task_files"] = task_files(record)
    write_text(folder / "run.json", json.dumps(record, indent=1) + "\n")
    return record


def task_files(record: dict[str, Any]) -> dict[str, str]:
    """Return the task files that a run learnt from, with checksums: its own (or its pairs'), and those of its start."""
    args, stats = record["args"], pairs_stats(record["args"])
    start = read_record(args.get("sft_model")) or {}
    of_pairs = {stats["args"]["train_path"]: stats["train_sha256"]} if stats else {}
    return start.get("task_files", {}) | (of_pairs or {args["train_path"]: record["train_sha256"]})


def pairs_stats(args: dict[str, Any]) -> dict[str, Any] | None:
    """Return the stats file beside the pairs; None for tasks, or if its checksum is not the pairs file's."""
    pairs = Path(args["train_path"])
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        stats = json.loads(Path(f"{str(pairs).removesuffix('.jsonl')}_stats.json").read_text())
        if stats["pairs_sha256"] == sha256(pairs) and stats["args"]["train_path"] and stats["train_sha256"]:
            return stats
    return None


def finish_record(
    folder: Path, record: dict[str, Any], steps: int, tokens: int, seconds: float, **more: float | None
) -> None:
    """Add what the run took: steps, sampled tokens, seconds (model loading and validation included) and memory (GiB).

    The memory of a resumed run is that of its last process.

    `..._since_sft` adds what went before: making its pairs, and the runs that made its starting adapter, back to SFT,
    which samples nothing. It is null where one of these left no record. `more` is what else to say of the run.
    """
    before = spent_before(record["args"])
    since = {name: None if None in counts else sum(counts) for name, counts in before.items()}
    own = {"sampled_tokens": tokens, "seconds": round(seconds, 1)}
    record["spent"] = {"steps": steps, **own, "peak_memory": peak_memory()} | {
        f"{name}_since_sft": None if since[name] is None else round(since[name] + own[name], 1) for name in own
    }
    record["spent"] |= more
    write_text(folder / "run.json", json.dumps(record, indent=1) + "\n")


def spent_before(args: dict[str, Any]) -> dict[str, list[int | float | None]]:
    """Return what went before a run, by kind: for its adapter, unless SFT made it, and for its pairs."""
    spent: dict[str, list[int | float | None]] = {"sampled_tokens": [], "seconds": []}
    start = read_record(args.get("sft_model"))
    if "sft_model" in args and (start is None or "sft_model" in start["args"]):
        for name, counts in spent.items():
            counts.append((start or {}).get("spent", {}).get(f"{name}_since_sft"))
    if stats := pairs_stats(args):
        for name, counts in spent.items():
            counts.append(stats.get(name))
    return spent


def read_record(folder: str | None) -> dict[str, Any] | None:
    """Read the run.json of an adapter's folder; None if no run of ours wrote one there."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        record = json.loads((Path(folder) / "run.json").read_text())
        return record if isinstance(record, dict) and isinstance(record.get("args"), dict) else None
    return None


def training_of(folder: str) -> dict[str, Any] | None:
    """Return what a metrics file says about the training of an adapter: command, commit, hardware, and what it took."""
    record = read_record(folder)
    names = ("pairs_command", "command", "commit", "gpu", "cpu", "cores", "spent", "task_files")
    return {name: record.get(name) for name in names} | {"start": record["args"].get("sft_model")} if record else None


def conclude(output_dir: str, method: str) -> None:
    """Draw the curves of a finished run into its folder, and print a summary.

    If drawing fails, it only prints a note: the run is saved by then.
    """
    from reporting.plots import draw_run
    from training.screen import summary

    folder = Path(output_dir)
    records = [json.loads(line) for line in (folder / f"{method}_train_log.jsonl").read_text().splitlines()]
    run = read_record(output_dir)
    print("\n" + "\n".join(summary(records, method, run["spent"]["seconds"], run["args"].get("num_samples", 1))))
    try:
        drawn = draw_run(folder)
    except Exception as error:
        drawn = ""
        print(f"note: no curves were drawn ({error!r})")
    print(f"curves: {output_dir}/{drawn}; " * bool(drawn) + f"rollouts and settings: python report.py {output_dir}")


class RunLog:
    """Write one dict a step to a JSONL file."""

    def __init__(self, path: Path, keep_bytes: int = 0):
        self.file = path.open("a", encoding="utf-8")
        self.file.truncate(keep_bytes)  # a resumed run drops what came after its saved state

    def write(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self.file.tell()

    def close(self) -> None:
        self.file.close()
