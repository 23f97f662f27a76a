"""Log a run to tensorboard, wandb or trackio, through accelerate's trackers."""

from __future__ import annotations

import importlib
import importlib.util
import re
import uuid
from pathlib import Path
from typing import Any

from common import require, write_text

PROJECT = "rl-code-agent"
COLUMNS = ("task_id", "completion", "status", "reason", "reward", "advantage", "length")


def run_name(args: Any) -> str:
    """Return what the tracker calls the run: --run_name, or else the output folder's name."""
    return args.run_name or Path(args.output_dir).absolute().name


def check_tracker(args: Any) -> None:
    """Raise InputError if the tracker cannot be used: it would ask for a login, or log nothing."""
    name = args.report_to
    if name == "none":
        return
    require("/" not in args.run_name, f"--run_name {args.run_name}: want a plain name")
    installed = importlib.util.find_spec(name) is not None
    require(installed, f"--report_to {name}: is not installed; .venv/bin/pip install {name}")
    if name == "wandb":
        import wandb

        offline = wandb.setup().settings.mode in ("offline", "disabled")
        ready = offline or wandb.login(prompt=False, verify=False)
        require(ready, "--report_to wandb: not logged in; `wandb login`, or WANDB_MODE=offline")


class Tracker:
    """A run in a tracker; only the first process logs, and a library is imported only if its tracker is asked for.

    A file in the run's folder has the run's id and name, so a later start in the same folder resumes the run. The files
    of tensorboard and wandb are in the folder too; trackio has one store for all runs (TRACKIO_DIR, else the hub's
    cache).

    Args:
        report_to: tensorboard, wandb, trackio or none. folder: of the run. settings: for the tracker to show.
        name: what the tracker calls a new run.
        after: the step after which training resumes; None: it does not, and what is logged is no step of it. Later
            steps that the tracker already has are an interrupted run's: tensorboard drops them, the others keep them
            and are not given those steps again.
    """

    def __init__(
        self, report_to: str, folder: str | Path, settings: dict[str, Any], name: str, after: int | None = None
    ) -> None:
        self.kind, self.tracker, self.after, self.next_step = report_to, None, after, 0
        if report_to == "none":
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        from common.processes import processes

        if not processes().is_main_process:
            return
        file = Path(folder) / f"{report_to}_run_id.txt"
        resumes = file.is_file()
        if not resumes:
            write_text(file, f"{uuid.uuid4().hex[:8]} {name}")
        run_id, _, name = file.read_text(encoding="utf-8").partition(" ")
        purged = None if after is None else after + 1
        options = {
            "tensorboard": {"run_name": name, "logging_dir": Path(folder) / "tensorboard", "purge_step": purged},
            "wandb": {"run_name": PROJECT, "name": name, "id": run_id, "resume": "allow", "dir": str(folder)},
            "trackio": {"run_name": PROJECT, "name": name, "resume": "allow" if resumes else "never"},
        }
        self.tracker = LOGGER_TYPE_TO_CLASS[report_to](**options[report_to])
        self.tracker.start()
        if resumes and report_to != "tensorboard":
            attribute = "step" if report_to == "wandb" else "_next_step"
            self.next_step = getattr(self.tracker.tracker, attribute, 0)
        if report_to != "tensorboard" or not resumes:  # it would show the settings twice
            plain = {key: value if isinstance(value, bool | int | float | str) else str(value)
                     for key, value in settings.items()}  # fmt: skip
            self.tracker.store_init_configuration(plain)

    def log(self, record: dict[str, Any]) -> None:
        """Log the numbers of a record at its "step"."""
        self._log(record["step"], {key: value for key, value in record.items()
                                   if isinstance(value, int | float) and key != "step"})  # fmt: skip

    def log_completions(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Log a table of `COLUMNS`. What a model wrote is shown as text, whatever it is."""
        cells = [[_text(row[name]) for name in COLUMNS] for row in rows]
        if self.kind == "tensorboard":  # it has no tables; it reads Markdown
            self._log(step, {"completions": "\n\n".join(_markdown(*row) for row in cells)})
        elif self.tracker:
            table = importlib.import_module(self.kind).Table(columns=list(COLUMNS), data=cells)
            self._log(step, {"completions": table})

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if not self.tracker or (self.after is not None and self.after < step < self.next_step):
            return
        if self.kind == "wandb":  # it drops what is earlier
            step = max(step, self.tracker.tracker.step)
        self.tracker.log(values, step=step)

    def close(self) -> None:
        if self.tracker:
            self.tracker.finish()


def _text(value: Any) -> Any:
    """Replace halves of surrogate pairs, which no tracker can encode."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _markdown(task_id: str, completion: str, status: str, reason: str, *metrics: float) -> str:
    said = ", ".join(f"{name} {figure:.4g}" for name, figure in zip(COLUMNS[4:], metrics, strict=True))
    return f"{_fenced(f'{task_id} {status} {reason}')}\n\n{said}\n\n{_fenced(completion)}"


def _fenced(text: str) -> str:
    """Return a code block that the text cannot end.

    >>> print(_fenced("a ``` b"))
    ````
    a ``` b
    ````
    """
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"
