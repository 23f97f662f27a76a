"""Divide a step's work between the processes of `accelerate launch`.

Without a launcher there is one process, and these functions return what they are given. With several, the samples of a
step are gathered and each process trains on its share. The gradients are then summed, not averaged, because each loss
is already divided by the total over all processes. Each process holds the whole frozen 4-bit base, so its weights are
never exchanged.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce

from common.arguments import require
from common.files import replace_folder


@cache
def processes() -> PartialState:
    """Return the state that knows this process's number and the number of processes.

    Raises:
        InputError: the launcher splits the model (FSDP, DeepSpeed, Megatron); sampling needs the whole model.
    """
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        require(
            os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() != "true",
            f"launched with {name}, which splits the model; each GPU must hold the whole 4-bit base. Use "
            "accelerate launch --config_file docs/accelerate_ddp.yaml",
        )
    return PartialState(cpu=not torch.cuda.is_available())


@contextlib.contextmanager
def output_folder(path: str, keep: Callable[[Path], bool] = lambda partial: False) -> Iterator[Path]:
    """Yield a folder to write into; only the first process keeps its files and prints.

    The first process gets `common.replace_folder`; the others get a temporary folder that is deleted. With an empty
    path every process gets a temporary folder.
    """
    first = processes().is_main_process
    folder = replace_folder(path, keep) if path and first else TemporaryDirectory()
    with contextlib.nullcontext() if first else contextlib.redirect_stdout(None), folder as name:
        yield Path(name)
    if path and first:
        print(f"saved {path}")


def count() -> int:
    """Return the number of processes."""
    return processes().num_processes


def share(items: list) -> list:
    """Return this process's items: every count()-th one, starting at the process's number."""
    return items[processes().process_index :: count()]


def gather(items: list) -> list:
    """Join the lists of all processes, in the order of the processes; the items must be picklable."""
    return gather_object(items) if count() > 1 else items


def from_first(thing: Any) -> Any:
    """Return the first process's object in every process."""
    return broadcast_object_list([thing])[0] if count() > 1 else thing


def add_up(values: dict[str, float]) -> dict[str, float]:
    """Return each value's sum over the processes; a process that lacks a name counts 0."""
    everyones = gather([values])
    names = dict.fromkeys(name for one in everyones for name in one)
    return {name: sum(one.get(name, 0.0) for one in everyones) for name in names}


def add_up_gradients(weights: list[torch.nn.Parameter]) -> None:
    """Replace each weight's gradient by its sum over the processes, in one exchange (adapters are small).

    A weight that no process's loss reached keeps None, so that AdamW leaves it and its moments as they are.
    """
    if count() == 1:
        return
    reached = map(any, zip(*gather([[weight.grad is not None for weight in weights]]), strict=True))
    weights = [weight for weight, found in zip(weights, reached, strict=True) if found]
    for weight in weights:
        if weight.grad is None:  # no sample of this process's share reached the weight
            weight.grad = torch.zeros_like(weight)
    together = reduce(torch.cat([weight.grad.flatten() for weight in weights]), reduction="sum")
    for weight, part in zip(weights, together.split([weight.numel() for weight in weights]), strict=True):
        weight.grad.copy_(part.view_as(weight))
