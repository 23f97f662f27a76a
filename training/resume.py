"""Survive a kill by exact resume, stop when asked, and skip updates that are not finite."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import inspect
import math
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict

from common import InputError, require, sha256, write_jsonl
from common.dependencies import files_of
from common.text import one_line
from judging.rewards import reward_file
from model.adapters import adapter_weights
from model.load import compute_dtype, dtype_of, pick_device

STATE = "resume.pt"
# may differ between a run and its resumption
FREE = ("log_every", "quiet", "json_lines", "save_every", "keep_every", "resume", "report_to", "run_name",
        "log_completions", "track_completions", "parity_bound", "vllm_memory", "config", "server", "adapter_dir",
        "server_timeout", "server_wait")  # fmt: skip


def save_state(folder: Path, args: Any, model, stateful: dict[str, Any], **position: Any) -> None:
    """Save all that an exact resume needs: adapter, random states, position, and what has a state_dict.

    The file is written whole or not at all, under one name, so the last good state is there whenever the process dies.
    """
    state = {
        "args": _fixed(args),
        "adapter": adapter_weights(model),
        "stateful": {name: one.state_dict() for name, one in stateful.items()},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "position": position,
    }
    temporary = folder / f".{STATE}.tmp"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / STATE)


def read_state(folder: Path, args: Any) -> dict[str, Any] | None:
    """Return the state that a run with the same arguments left in the folder, else None. Tensors and plain data only.

    The folder of an interrupted run with other arguments, tasks or code is renamed to NAME.interrupted (or, if there is
    one, to NAME.interrupted2 and so on). It is renamed back when that run's own command is given again.

    Raises:
        InputError: the saved state is damaged.
    """
    if not args.resume:
        return None
    now, path = _fixed(args), folder / STATE
    if path.is_file():
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch raises many kinds, by what is damaged
            raise InputError(
                f"{path}: cannot be read ({one_line(error)}); --no_resume starts anew, without it"
            ) from None
        if state["args"] == now:
            return state
        names = sorted(state["args"].keys() | now.keys())
        others = ", ".join(name for name in names if state["args"].get(name) != now.get(name))
        free = (folder.with_suffix(f".interrupted{number}") for number in ("", *range(2, 10**6)))
        aside = next(path for path in free if not path.exists())
        folder.rename(aside)
        print(f"{folder} is of a run with other {others}: set aside as {aside.name}; its own command goes on with it")
    for path in sorted(folder.parent.glob(f"{glob.escape(folder.stem)}.interrupted*/{STATE}")):
        with contextlib.suppress(Exception):  # a damaged one
            state = torch.load(path, weights_only=True, map_location="cpu")
            if state["args"] == now:
                shutil.rmtree(folder, ignore_errors=True)  # it holds no state
                path.parent.rename(folder)
                return state
    return None


def restore_state(state: dict[str, Any], model, stateful: dict[str, Any]) -> dict[str, Any]:
    """Put adapter, random states and what has a state_dict back. Return the position.

    Raises:
        InputError: the adapter did not take the saved weights.
    """
    set_peft_model_state_dict(model, state["adapter"], adapter_name="default")
    for name, weight in adapter_weights(model).items():
        require(torch.equal(weight.cpu(), state["adapter"][name]), f"resume: {name} could not be restored; --no_resume")
    for name, one in stateful.items():
        one.load_state_dict(state["stateful"][name])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
    return state["position"]


def drop_state(folder: Path) -> None:
    """Delete the saved state of a finished run."""
    (folder / STATE).unlink(missing_ok=True)


def _fixed(args: Any) -> dict[str, Any]:
    """Return what must be the same for a resume: arguments, tasks, starting adapter, and the code it depends on."""
    files = [Path(args.train_path), Path(args.sft_model) / "adapter_model.safetensors"]
    files += files_of(inspect.getsourcefile(type(args)))  # of the script
    settings = {name: value for name, value in dataclasses.asdict(args).items() if name not in FREE}
    hashes = {f"sha256 of {path.name}": sha256(path) for path in files if path.is_file()}
    if (own := reward_file(getattr(args, "reward", ""))).is_file():
        hashes["sha256 of --reward"] = sha256(own)
    hashes |= {f"sha256 of {name}": sha256(path) for name in ("valid_path", "curve_path")
               if (path := getattr(args, name, ""))}  # fmt: skip
    here = {"number of GPUs": torch.cuda.device_count(), "precision": str(compute_dtype(pick_device(), args.dtype))}
    return settings | hashes | here


class StopRequest:
    """SIGTERM and SIGINT ask for a stop after the step (`asked`); a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopRequest:
        self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        print("stopping after this step", file=sys.stderr)


def loss_scaler(model) -> torch.amp.GradScaler:
    """Return what scales losses up and gradients down where a model computes in float16; elsewhere it does nothing.

    A gradient below 6e-8 is 0 in float16, and a token's share of a batch may be that small. After an update that is not
    finite the scale falls by a factor of 16, from 65536. Five in a row reach 1, and end the run (`FiniteGuard`).
    """
    float16 = dtype_of(model) == torch.float16
    return torch.amp.GradScaler(model.device.type, init_scale=2.0**16, backoff_factor=1 / 16, growth_interval=50,
                                enabled=float16)  # fmt: skip


class FiniteGuard:
    """Let an update through if its loss and gradient are finite; five in a row that are not end the run."""

    LIMIT = 5

    def __init__(self, folder: Path) -> None:
        self.folder, self.skipped, self.in_a_row = folder, 0, 0

    def allows(self, loss: float, grad_norm: float, batch: list[dict]) -> bool:
        """Return whether to make this update; `batch` holds the records that it was computed from.

        Raises:
            InputError: the fifth in a row that is not finite; the batch is then in nonfinite_batch.jsonl.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.in_a_row = 0
            return True
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.in_a_row == self.LIMIT:
            write_jsonl(self.folder / "nonfinite_batch.jsonl", batch)
            raise InputError(
                f"loss or gradient was not finite in {self.LIMIT} updates in a row; the last batch is in "
                f"{self.folder}/nonfinite_batch.jsonl; lower --learning_rate or set --max_grad_norm"
            )
        return False
