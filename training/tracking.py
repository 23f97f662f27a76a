"""What a tracker gets of a run: tensorboard, wandb or trackio, through accelerate's classes for them."""

from __future__ import annotations

import importlib.util
import uuid
from pathlib import Path
from typing import Any

from common import require, write_text

PROJECT = "rl-code-agent"
COLUMNS = ("task_id", "completion", "status", "reason", "reward", "advantage", "length")


def run_name(args: Any) -> str:
    """What the tracker calls the run: --run_name, or else the output folder's name."""
    return args.run_name or Path(args.output_dir).absolute().name


def check_tracker(args: Any) -> None:
    """Raises InputError where the tracker could not be used; it would ask, or log nothing and say little."""
    report_to = args.report_to
    if report_to == "none":
        return
    require("/" not in args.run_name, f"--run_name {args.run_name}: want a plain name")
    require(
        importlib.util.find_spec(report_to) is not None,
        f"--report_to {report_to}: is not installed; .venv/bin/pip install {report_to}",
    )
    if report_to == "wandb":
        import wandb

        require(
            wandb.setup().settings.mode in ("offline", "disabled") or wandb.login(prompt=False, verify=False),
            "--report_to wandb: not logged in; `wandb login`, or WANDB_MODE=offline",
        )


class Tracker:
    """A run in a tracker, of the first process alone. The libraries are imported only if asked for.

    A folder that a run has been tracked in before goes on with it: a file there has the run's id and name. Files of
    tensorboard and wandb are in the folder too; trackio has one store for all runs (TRACKIO_DIR, else in the hub's
    cache).

    Args:
        report_to: tensorboard, wandb, trackio or none.
        folder: of the run.
        settings: of the run, for the tracker to show.
        name: what the tracker calls a run that is new.
        after: the step after which training goes on; None: it does not, and what is logged is beside the steps. What
            the tracker has of later steps is of an interrupted run: tensorboard drops it, the others keep it, and are
            not told those steps again.
    """

    def __init__(
        self, report_to: str, folder: str | Path, settings: dict[str, Any], name: str, after: int | None = None
    ) -> None:
        self.kind, self.tracker, self.after = report_to, None, after
        if report_to == "none":
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        from common.processes import processes

        if not processes().is_main_process:
            return
        file = Path(folder) / f"{report_to}_run_id.txt"
        goes_on = file.is_file()
        if not goes_on:
            write_text(file, f"{uuid.uuid4().hex[:8]} {name}")
        run_id, _, name = file.read_text(encoding="utf-8").partition(" ")
        options = {
            "tensorboard": {
                "run_name": name,
                "logging_dir": Path(folder) / "tensorboard",
                "purge_step": None if after is None else after + 1,
            },
            "wandb": {
                "run_name": PROJECT,
                "name": name,
                "id": run_id,
                "resume": "allow",
                "dir": str(folder),
            },
            "trackio": {"run_name": PROJECT, "name": name, "resume": "allow" if goes_on else "never"},
        }
        self.tracker = LOGGER_TYPE_TO_CLASS[report_to](**options[report_to])
        self.tracker.start()
        run = self.tracker.tracker
        known = {"wandb": lambda: run.step, "trackio": lambda: getattr(run, "_next_step", 0)}
        self.next_step = known[report_to]() if goes_on and report_to in known else 0
        if report_to != "tensorboard" or not goes_on:  # which would show a second set of them
            plain = (bool, int, float, str)
            self.tracker.store_init_configuration(
                {key: value if isinstance(value, plain) else str(value) for key, value in settings.items()}
            )

    def place(self, step: int) -> int | None:
        """Where the tracker is to put what belongs to a step; None: it has it."""
        if self.after is not None and self.after < step < self.next_step:
            return None
        return max(step, self.tracker.tracker.step) if self.kind == "wandb" else step  # wandb drops what is earlier

    def log(self, record: dict[str, Any]) -> None:
        """The figures of a record, at its "step"."""
        if self.tracker and (step := self.place(record["step"])) is not None:
            figures = {
                name: value for name, value in record.items() if isinstance(value, (int, float)) and name != "step"
            }
            self.tracker.log(figures, step=step)

    def log_completions(self, step: int, rows: list[dict[str, Any]]) -> None:
        """A table of `COLUMNS`, for the eye. What a model wrote is shown as text, whatever it is."""
        if not self.tracker or (step := self.place(step)) is None:
            return
        rows = [{name: _text(row[name]) for name in COLUMNS} for row in rows]
        if self.kind == "tensorboard":  # has no tables; it reads Markdown
            self.tracker.tracker.add_text("completions", "\n\n".join(map(_markdown, rows)), global_step=step)
            self.tracker.tracker.flush()
            return
        cells = [list(row.values()) for row in rows]
        if self.kind == "wandb":
            self.tracker.log_table("completions", columns=list(COLUMNS), data=cells, step=step)
        else:
            import trackio

            self.tracker.log({"completions": trackio.Table(columns=list(COLUMNS), data=cells)}, step=step)

    def close(self) -> None:
        if self.tracker:
            self.tracker.finish()


def _text(value: Any) -> Any:
    """Half of a surrogate pair is no text that a tracker could encode."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _markdown(row: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {row[name]:.4g}" for name in ("reward", "advantage", "length"))
    said = " ".join([row["task_id"], row["status"], row["reason"]])
    return f"{_fenced(said)}\n\n{figures}\n\n{_fenced(row['completion'])}"


def _fenced(text: str) -> str:
    """A code block that the text cannot end.

    >>> print(_fenced("a ``` b"))
    ````
    a ``` b
    ````
    """
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
