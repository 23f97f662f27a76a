"""CUDA cards that are not there: what they would refuse, and where the host would wait for them.

    python tests/pretended_gpu.py [--float16] [--two] train_grpo_lora.py FLAGS

runs a script of the project as it is (one from elsewhere finds what is counted as `counts`). A tensor on a card is a
CUDA tensor to Python and to torch's C++, and has a CPU tensor that computes for it; what mixes two devices is refused.
The script's exit code is kept, and the last line printed is JSON:
    kernels  operations that compute; views and memory that is not filled are none
    syncs    for which the host waits: copies to it, and results whose size depends on the data
    copies   to the card
    sites    how many of the syncs are where, as in {"model/sampling.py:150 nonzero": 32}

The card has bfloat16 (capability 8.6) or, with --float16, has not (7.5); --two are two of them. Not pretended: speed,
memory, CUDA's own kernels and their rounding. Attention counts as the several kernels of torch's plain implementation.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGES = ("common", "judging", "model", "reporting", "training")


def in_project(file: str) -> bool:
    """Whether it is a script of the root or a file of one of its packages."""
    folder = Path(file).parent
    return folder == ROOT or (ROOT in folder.parents and folder.relative_to(ROOT).parts[0] in PACKAGES)


MEMORY = 24 * 2**30


def guard_library(torch_folder: Path) -> Path:
    """Where the compiled `pretended_guard.cpp` is kept for one installed torch: it looks for its libraries there."""
    key = (HERE / "pretended_guard.cpp").read_bytes() + f"{version('torch')} {torch_folder}".encode()
    return Path(tempfile.gettempdir()) / f"pretended_guard_{os.getuid()}_{hashlib.sha256(key).hexdigest()[:16]}.so"


def load_guard() -> ctypes.CDLL:
    """`pretended_guard.cpp`, compiled at its first use."""
    torch_folder = Path(find_spec("torch").origin).resolve().parent
    library, lib = guard_library(torch_folder), torch_folder / "lib"
    if not library.exists():
        new = library.with_suffix(f".{os.getpid()}")
        command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{torch_folder / 'include'}"]
        command += [str(HERE / "pretended_guard.cpp"), f"-L{lib}", f"-Wl,-rpath,{lib}"]
        subprocess.run([*command, "-lc10", "-ltorch_cpu", "-o", str(new)], check=True)
        new.replace(library)  # others may be compiling it too
    return ctypes.CDLL(str(library))


if __name__ == "__main__":  # torch asks once, when it is imported; who imports this file alone has no card
    guard = load_guard()

import torch
import torch._dynamo  # lists torch's functions when it is imported, and must not find ours
from torch.optim.optimizer import _foreach_supported_types as adamw_takes
from torch.utils._foreach_utils import _foreach_supported_types as clipping_takes
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

CPU = torch.device("cpu")
NO_KERNEL = {
    "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "permute", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view", "_reshape_alias",
    "_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
}  # fmt: skip
WAITS = {"_local_scalar_dense", "equal", "masked_select", "nonzero", "unique_dim", "unique_consecutive", "_unique2"}
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_"}
NOTHING_TO_DO = ("_lazy_init", "empty_cache", "ipc_collect", "manual_seed", "manual_seed_all",
                 "reset_peak_memory_stats", "set_rng_state")  # fmt: skip


@dataclass
class Counts:
    kernels: int = 0
    syncs: int = 0
    copies: int = 0
    sites: Counter = field(default_factory=Counter)

    def wait(self, what: str) -> None:
        """Another sync, in the innermost line of the project that is being run; a backward pass's thread has none."""
        frame = sys._getframe(1)
        while frame and not in_project(frame.f_code.co_filename):
            frame = frame.f_back
        line = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "elsewhere"
        self.syncs += 1
        self.sites[f"{line} {what}"] += 1


counts = Counts()


class CardTensor(torch.Tensor):
    """A tensor on a card; `held`, on the CPU, has its numbers."""

    @staticmethod
    def __new__(cls, numbers: torch.Tensor, device=None, requires_grad=False, **_: Any) -> torch.Tensor:
        if numbers.is_meta:  # accelerate's init_empty_weights asks the class of a parameter for another one
            return torch.nn.Parameter(numbers, requires_grad)
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset(), "layout": numbers.layout}
        tensor = torch.Tensor._make_wrapper_subclass(cls, numbers.size(), dtype=numbers.dtype, device=device, **layout)
        tensor.held = numbers
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # results are wrapped below, once

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, new: CardTensor) -> None:
        torch.Tensor.data.__set__(self, new)
        self.held = new.held

    def tolist(self) -> Any:  # torch has none for subclasses, nor a storage
        return self.cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:  # peft and safetensors ask who shares one
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __reduce_ex__(self, protocol: int) -> Any:  # for torch.save: read again, it is on the CPU
        counts.wait("save")
        return self.held.__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {self.device}"


class Cards(TorchDispatchMode):
    """While it is on, what is made on a CUDA device is a `CardTensor`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def compute(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The result of an operation of torch, counted if it is one of a card.

    Raises:
        RuntimeError: it mixes devices.
    """
    flat, form = tree_flatten((args, kwargs))
    on_card = [x for x in flat if isinstance(x, CardTensor)]
    on_host = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, CardTensor)]
    device = kwargs.get("device") or (on_card[0].device if on_card else CPU)  # where the result will be
    if not on_card and device.type != "cuda":
        return function(*args, **kwargs)
    name = function._schema.name.removeprefix("aten::")
    refuse_mixture(name, args, on_card, on_host)
    count(name, args, kwargs, device)

    args, kwargs = tree_unflatten([held(x) for x in flat], form)
    if name in ("mm", "bmm") and function._overloadname == "dtype":  # half by half to float: CUDA alone has it
        result = function.overloadpacket(args[0].to(args[2]), args[1].to(args[2]))
    else:
        result = function(*args, **kwargs)
    known = {id(x.held): x for x in on_card} | {id(x): x for x in on_host}  # what an operation in place returns

    def onto_card(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or id(x) in known:
            return known.get(id(x), x)
        to_card = device.type == "cuda" and x.device.type == "cpu"
        return CardTensor(x, torch.device("cuda", device.index or 0)) if to_card else x

    return tree_map(onto_card, result)


def held(x: Any) -> Any:
    """An argument as the CPU computes with it."""
    if isinstance(x, CardTensor):
        return x.held
    return CPU if isinstance(x, torch.device) and x.type == "cuda" else x


def refuse_mixture(name: str, args: tuple, on_card: list, on_host: list) -> None:
    """As CUDA does; it takes numbers (0-d) from the CPU, and for a tensor of its own an index."""
    if name in ("copy_", "_to_copy") or not on_card:
        return
    if name in INDEXES and isinstance(args[0], CardTensor):
        on_host = [x for x in args[2:3] if not isinstance(x, CardTensor)]
    foreign = [x for x in on_host if x.dim() > 0] + [x for x in on_card if x.device != on_card[0].device]
    if foreign:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {on_card[0].device} and "
            f"{foreign[0].device}! ({name}, shapes {tuple(on_card[0].shape)} and {tuple(foreign[0].shape)})"
        )


def count(name: str, args: tuple, kwargs: dict[str, Any], device: torch.device) -> None:
    """Add an operation to `counts`."""
    if name in ("copy_", "_to_copy"):
        source, target = (args[1], args[0].device) if name == "copy_" else (args[0], device)
        counts.copies += not source.is_cuda
        if source.is_cuda and target.type == "cpu":
            counts.wait(name)
        counts.kernels += source.is_cuda and target.type == "cuda"
        return
    waits = name in WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None)
    if name in INDEXES:
        indices, value = [x for x in args[1] if x is not None], args[2] if len(args) > 2 else None
        number = value is not None and value.numel() == 1 and not value.is_cuda
        fills = number and len(indices) == 1 and indices[0].dtype == torch.bool  # then it is masked_fill
        waits = not fills and any(x.is_cuda and x.dtype in (torch.bool, torch.uint8) for x in indices)
        counts.copies += sum(not x.is_cuda for x in indices) + (number and not fills)
    if waits:
        counts.wait(name)
    counts.kernels += name not in NO_KERNEL and name != "_local_scalar_dense"


def start(capability: tuple[int, int], cards: int) -> None:
    """From here on this process has cards. Nothing of it can be undone."""
    ctypes.c_int.in_dll(guard, "pretended_cards").value = cards
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") makes one on the CPU and moves it
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # module.to: a tensor cannot become another class
    for taken in (adamw_takes, clipping_takes):  # many tensors in one kernel
        taken.append(CardTensor)

    card = SimpleNamespace(name="Pretended", major=capability[0], minor=capability[1], total_memory=MEMORY)
    answers: dict[str, Callable] = {
        "_exchange_device": torch._C._accelerator_exchangeDevice,
        "_maybe_exchange_device": torch._C._accelerator_maybeExchangeDevice,
        "current_device": torch._C._accelerator_getDeviceIndex,
        "set_device": lambda device: torch._C._accelerator_setDeviceIndex(torch.device(device).index or 0),
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: cards,
        "get_device_properties": lambda *_: card,
        "get_device_capability": lambda *_: capability,
        "get_device_name": lambda *_: card.name,
        "synchronize": lambda *_: counts.wait("synchronize"),
        "mem_get_info": lambda *_: (MEMORY, MEMORY),
        "memory_stats": lambda *_, **__: {},
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),  # random numbers are the CPU's
        "graph_pool_handle": lambda: (0, 0),
    }
    answers |= dict.fromkeys(NOTHING_TO_DO, lambda *_: None)
    for name, answer in answers.items():
        for module in (torch.cuda, torch.cuda.memory, torch.cuda.random):
            if hasattr(module, name):
                setattr(module, name, answer)
    Cards().__enter__()


def put_on_card(model: torch.nn.Module, device: torch.device) -> None:
    """Move a model's tensors, with what bitsandbytes needs to unpack those in 4 bits."""
    moved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # tied weights stay tied

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in moved:
            new = tensor.data.to(device)
            if isinstance(tensor, torch.nn.Parameter):
                new = torch.nn.Parameter(new, requires_grad=tensor.requires_grad)
                vars(new).update(vars(tensor))  # of 4-bit weights the block size and the rest
            if getattr(new, "quant_state", None) is not None:
                new.quant_state.to(device)
            moved[id(tensor)] = tensor, new
        return moved[id(tensor)][1]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers, vars(module)):
            tensors.update({name: move(x) for name, x in tensors.items() if isinstance(x, torch.Tensor)})
    model.hf_device_map = {"": device}


def prepare(policy: Any, rollout_graph: Any) -> None:
    """Change what of the project only a real card can do."""
    load, capture = policy.load_policy, rollout_graph.capture

    def load_policy(*args: Any, **kwargs: Any) -> torch.nn.Module:
        """Quantised on the CPU, then moved: bitsandbytes writes into tensors of its own class."""
        given = inspect.signature(load).bind(*args, **kwargs)
        device = given.arguments["device"]
        if device.type == "cpu":
            return load(*args, **kwargs)
        given.arguments["dtype"] = given.arguments.get("dtype") or policy.compute_dtype(device)
        given.arguments["device"] = CPU
        with mock.patch.object(torch.cuda, "is_available", lambda: False), _disable_current_modes():
            model = load(*given.args, **given.kwargs)
        put_on_card(model, device)
        return model

    policy.load_policy = load_policy
    rollout_graph.capture = lambda step, pool, model: capture(
        step, None, model
    )  # as without a card: each step runs, and is counted


def main(argv: list[str]) -> None:
    options = set(takewhile(lambda word: word in ("--float16", "--two"), argv))
    script, *flags = argv[len(options) :]
    path = Path(script).resolve()
    sys.path[0], sys.argv = str(path.parent), [script, *flags]
    torch.set_num_threads(1)
    capability, cards = (7, 5) if "--float16" in options else (8, 6), 2 if "--two" in options else 1
    if ROOT in path.parents:
        sys.path.insert(0, str(ROOT))
        from model import load as policy  # with bitsandbytes, which looks for CUDA's libraries once there is a card
        from model import sampling_graph as rollout_graph

        prepare(policy, rollout_graph)
    start(capability, cards)
    try:
        runpy.run_path(str(path), {"counts": counts}, "__main__")
    finally:
        print(json.dumps(vars(counts)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
