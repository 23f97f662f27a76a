"""The processes of `accelerate launch`: each does a share of the work, and each knows the whole of it.

Without a launcher there is one process, and all of this gives back what it is given. With several, the samples of a
step are gathered and each process trains on a share; gradients are added up, since a loss is already divided by what
all have together. The frozen 4-bit base is whole in each process, so nothing else need be exchanged.
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
    """This process and its number among the others.

    Raises:
        InputError: a launch that cuts the model up (FSDP, DeepSpeed, Megatron): sampling needs it whole.
    """
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        require(
            os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() != "true",
            f"launched with {name}, which cuts the model up; the 4-bit base is kept whole on each GPU: "
            "accelerate launch --config_file docs/accelerate_ddp.yaml",
        )
    return PartialState(cpu=not torch.cuda.is_available())


@contextlib.contextmanager
def output_folder(path: str, keep: Callable[[Path], bool] = lambda partial: False) -> Iterator[Path]:
    """`common.replace_folder` in the first process, which alone prints.

    What the others write is dropped; an empty path drops all.
    """
    first = processes().is_main_process
    folder = replace_folder(path, keep) if path and first else TemporaryDirectory()
    with contextlib.nullcontext() if first else contextlib.redirect_stdout(None), folder as name:
        yield Path(name)
    if path and first:
        print(f"saved {path}")


def count() -> int:
    return processes().num_processes


def share(items: list) -> list:
    """What of it is this process's: every count()-th, by its number."""
    return items[processes().process_index :: count()]


def gather(items: list) -> list:
    """The lists of all processes one after the other; plain objects."""
    return gather_object(items) if count() > 1 else items


def from_first(thing: Any) -> Any:
    """What the first process has."""
    return broadcast_object_list([thing])[0] if count() > 1 else thing


def add_up(values: dict[str, float]) -> dict[str, float]:
    """Return each value's sum over the processes; a process that lacks a name counts 0."""
    everyones = gather([values])
    names = dict.fromkeys(name for one in everyones for name in one)
    return {name: sum(one.get(name, 0.0) for one in everyones) for name in names}


def add_up_gradients(weights: list[torch.nn.Parameter]) -> None:
    """The sum over the processes in each; one exchange, for adapters are small."""
    if count() == 1:
        return
    for weight in weights:
        if weight.grad is None:  # no sample of this share reached it
            weight.grad = torch.zeros_like(weight)
    together = reduce(torch.cat([weight.grad.flatten() for weight in weights]), reduction="sum")
    for weight, part in zip(weights, together.split([weight.numel() for weight in weights]), strict=True):
        weight.grad.copy_(part.view_as(weight))
