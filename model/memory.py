"""Predict the peak memory of a run from the model's config; no weights are loaded.

    peak = always + the largest phase + allowance

A phase is what sampling, log-probabilities without gradients, training or the optimizer step add to what stays. What an
operation keeps for the backward pass is counted per layer and token (`memory_parts.saved_by_a_block`) and checked
against measured bytes on a CPU (tests/test_memory.py); the allowance for CUDA itself is not measured. Prompts and
completions are assumed to be as long as the arguments allow, so real runs need less. Attention is sdpa's
memory-efficient kernel, which keeps no T x T scores; for a model that has only eager attention they are counted.
"""

from __future__ import annotations

import bisect
import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from common import InputError, require, require_at_least
from model.adapters import check_plain, read_config
from model.load import base_and_adapter, load_config, pick_device
from model.memory_parts import Shape, nf4_bytes, passes, read_shape, sampling_bytes, scoring_bytes, training_bytes

GIB = 2**30
RL, SCORED = ("rl", "ppo", "grpo", "rft"), ("training", "log-probabilities")
CARDS = {"16 GB": 14.7, "24 GB": 22.0}  # GiB that the smallest cards of that name show (T4, A10G and L4)
CONTEXT, SLACK = 0.75 * GIB, 0.10  # CUDA and its libraries; blocks the allocator cannot hand out, of a phase's bytes


@dataclass
class Args:
    preflight: bool = False  # print the predicted peak memory; all that this script does
    model_name: str = "deepseek-ai/deepseek-coder-1.3b-base"  # hub name or folder of a model, or of an adapter
    method: Literal["sft", "rl", "ppo", "grpo", "dpo", "rft"] = "grpo"  # what it is trained with
    batch_size: int = 8  # tasks a step (dpo: pairs)
    num_samples: int = 8  # completions a task
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    sample_batch_size: int = 64  # completions sampled at a time
    unpack_to_sample: bool = True  # sample from an unpacked copy, not from the 4-bit policy
    cuda_graph: bool = True  # decode under a CUDA graph, as a GPU does
    micro_batch_tokens: int = 4096  # tokens of one forward and backward pass
    per_device_train_batch_size: int = 1  # sft: examples in one forward and backward pass
    minibatch_size: int = 0  # completions an optimizer step; 0: the whole batch
    gradient_checkpointing: bool = False  # compute each layer again in the backward pass
    value_coef: float = 0.0  # above 0: with a critic
    entropy_coef: float = 0.0  # above 0: entropies have gradients too
    top_p: float = 1.0  # below 1, sampling sorts the vocabulary
    lora_r: int = 8  # rank of the adapter; that of --model_name if it is one
    lora_dropout: float = 0.05  # counts in SFT alone
    float32: bool = False  # as on a CPU; otherwise in 16 bits, as on a GPU
    trust_remote_code: bool = False  # run code that comes with the model
    config: str = ""  # YAML file with any of these; flags win over it


@dataclass
class Prediction:
    """Bytes by part: what stays throughout, and what each phase adds. gpu: whether CUDA needs an allowance."""

    always: dict[str, float]
    phases: dict[str, dict[str, float]]
    gpu: bool

    @property
    def largest(self) -> str:
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def tensors(self) -> float:
        """The peak without the allowance, as torch.cuda.max_memory_allocated counts."""
        return sum(self.always.values()) + sum(self.phases[self.largest].values())

    @property
    def allowance(self) -> float:
        return self.gpu * (CONTEXT + SLACK * sum(self.phases[self.largest].values()))

    @property
    def peak(self) -> float:
        return self.tensors + self.allowance


def predict(
    shape: Shape, args: Args, prompt: int | None = None, dtype: int | None = None, shared: bool = True
) -> Prediction:
    """Return the peak of a run.

    Args:
        prompt: tokens of the longest prompt; None: as many as max_length leaves.
        dtype: bytes of a number outside the adapters; None: 4 with --float32, otherwise 2.
        shared: whether completions of a prompt share its row.
    """
    prompt = args.max_length - args.max_new_tokens if prompt is None else prompt
    dtype = dtype or (4 if args.float32 else 2)
    adapter = 4 * shape.adapter(args.lora_r)  # float32: peft's default for 16-bit weights
    trained = adapter + 4 * (shape.hidden + 1) * (args.value_coef > 0)
    always = {
        "weights in 4 bits": sum(nf4_bytes(i * o) for _, i, o in shape.linears),
        f"embeddings, norms, LM head in {8 * dtype} bits": shape.other * dtype,
        "adapter, float32": trained,
        "AdamW's two moments": 2 * trained,
    }
    trainings = [training_bytes(shape, args, one, dtype) for one in passes(args, prompt, shared)]
    phases = {
        "training": {"gradients": trained} | max(trainings, key=lambda parts: sum(parts.values())),
        # torch works on all weights at once on a GPU, and one after another on a CPU
        "optimizer step": {"gradients": trained, "AdamW's roots": trained * (dtype == 2)},
    }
    if args.method != "sft":
        always["frozen reference, float32"] = adapter
        scorings = [scoring_bytes(shape, args, one, dtype) for one in passes(args, prompt, shared, training=False)]
        phases["log-probabilities"] = {"activations and logits": max(scorings)}
    if args.method in RL:
        phases["sampling"] = sampling_bytes(shape, args, prompt, dtype)
    return Prediction(always, phases, gpu=dtype == 2)


def largest_fitting(shape: Shape, args: Args, room: float, name: str) -> tuple[int, bool]:
    """Return the largest value of an argument whose phases fit in `room` bytes (0: none), and whether any value fits.

    A value beyond what a step has changes nothing.
    """
    count, replies = (1, 2) if args.method == "dpo" else (args.num_samples, 1)
    prompt, row = args.max_length - args.max_new_tokens, args.max_new_tokens * replies
    step, first, last, phases = {
        "micro_batch_tokens": (256, prompt + row, args.batch_size * (prompt + count * row), SCORED),
        "sample_batch_size": (count, count, args.batch_size * count, ("sampling",)),
        "per_device_train_batch_size": (1, 1, 64, ("training",)),
    }[name]

    def too_much(value: int) -> bool:
        found = predict(shape, replace(args, **{name: value}))
        found.phases = {phase: parts for phase, parts in found.phases.items() if phase in phases}
        return found.peak > room

    values = range(-(-first // step) * step, last + step, step)
    fitting = bisect.bisect_left(values, True, key=too_much)
    return values[fitting - 1] if fitting else 0, fitting == len(values)


def advice(shape: Shape, args: Args, name: str, room: float) -> str:
    """Return one line: does it fit this GPU, and the largest settings that do."""
    said = f"{name} ({room / GIB:.1f} GiB usable): {'fits' if predict(shape, args).peak <= room else 'does not fit'}"
    size = "per_device_train_batch_size" if args.method == "sft" else "micro_batch_tokens"
    plain, checkpointed = (
        largest_fitting(shape, replace(args, gradient_checkpointing=on), room, size) for on in (False, True)
    )
    rows = largest_fitting(shape, args, room, "sample_batch_size") if args.method in RL else (1, True)
    if not rows[0] and args.unpack_to_sample:
        other = advice(shape, replace(args, unpack_to_sample=False), name, room).partition("usable): ")[2]
        return f"{said} unpacked; with --no_unpack_to_sample: {other}"
    if not checkpointed[0] or not rows[0]:
        single = replace(args, num_samples=1)
        fewer = checkpointed[0] and largest_fitting(shape, single, room, "sample_batch_size")[0]
        return f"{said}, in no batch; " + ("fewer samples a task would" if fewer else "a smaller model might")
    if plain[1]:
        said += f"; any {size}"
    else:
        said += f"; {size} up to {plain[0]}" if plain[0] else f"; {size} none without gradient checkpointing"
        said += f", {'any' if checkpointed[1] else checkpointed[0]} with{' gradient checkpointing' if plain[0] else ''}"
    if args.method in RL:
        said += "; any sample_batch_size" if rows[1] else f"; sample_batch_size up to {rows[0]}"
    return said


def report(shape: Shape, args: Args) -> str:
    """Return the prediction by part, and a line for each GPU."""
    found = predict(shape, args)
    one = max(passes(args, args.max_length - args.max_new_tokens), key=lambda one: one.tokens)
    lines = [
        f"{args.model_name}, {args.method}: passes of up to {one.rows} x {one.length} tokens"
        f"{', gradient checkpointing' if args.gradient_checkpointing else ''}; GiB"
    ]
    for title, parts in [("always", found.always), *found.phases.items()]:
        note = " (the largest phase)" if title == found.largest else ""
        rows = [(f"  {title}{note}", sum(parts.values())), *((f"    {part}", size) for part, size in parts.items())]
        lines += [f"{text:<56}{size / GIB:7.2f}" for text, size in rows]
    if found.gpu:
        lines.append(f"{'  allowance: CUDA, and blocks that cannot be reused':<56}{found.allowance / GIB:7.2f}")
    lines.append(f"{f'  peak: always + {found.largest}' + ' + allowance' * found.gpu:<56}{found.peak / GIB:7.2f}")
    cards = {name: size * GIB for name, size in CARDS.items()}
    if torch.cuda.is_available():
        cards[torch.cuda.get_device_name() + ", what is free of it"] = memory_here()
    return "\n".join(lines + [advice(shape, args, name, room) for name, room in cards.items()])


def preflight(args: Args) -> None:
    """Print what `python policy.py --preflight` asks for.

    Raises:
        InputError: settings that make no sense, or a model that cannot be reached or counted.
    """
    require(args.preflight, "policy.py: --preflight predicts a run's peak memory; there is nothing else to run here")
    require_at_least(1, args, "batch_size", "num_samples", "max_new_tokens", "lora_r", "sample_batch_size")
    require_at_least(1, args, "micro_batch_tokens", "per_device_train_batch_size")
    require_at_least(0, args, "minibatch_size", "value_coef", "entropy_coef")
    require(args.max_length > args.max_new_tokens, "--max_length must be more than --max_new_tokens")
    if adapter := base_and_adapter(args.model_name)[1]:
        check_plain(adapter, "--preflight")
    shape = read_shape(args.model_name, args.trust_remote_code)
    print(report(shape, args_of(args, args.method, args.model_name)))


def args_of(args: Any, method: str, name: str) -> Args:
    """Return a training script's arguments as an `Args`, for a run that starts from the model or adapter `name`."""
    given = {field: value for field, value in vars(args).items() if field in Args.__dataclass_fields__}
    if adapter := base_and_adapter(name)[1]:
        given["lora_r"] = read_config(adapter)["r"]
    return Args(**given | {"method": method, "model_name": name})


def check_fits(args: Any, method: str, name: str) -> None:
    """Check before a run that this machine has the memory that it is predicted to take.

    A run that samples with vLLM, or a mixture of experts, is not checked: it cannot be predicted.

    Args:
        args: of the training script, or with fields of the same names. name: the model or adapter that it starts from.

    Raises:
        InputError: it does not fit (the line says with which settings it would), or `load_config` refuses the model.
    """
    load_config(name, args.trust_remote_code)
    try:
        said = shortfall(args, method, name)
    except InputError as error:
        return print(f"note: its memory is not predicted ({error})")
    require(not said, said)


def warn_if_large(args: Any, method: str, name: str) -> None:
    """Without a GPU, print what `check_fits` would refuse: the kernel kills a run that is too large without a word."""
    with contextlib.suppress(InputError):  # not predicted, or loading it says why it is refused
        if not torch.cuda.is_available() and (said := shortfall(args, method, name)):
            print(f"warning: {said}")


def shortfall(args: Any, method: str, name: str) -> str:
    """Return what a run lacks, with the settings that would fit; "" if it fits. Raises InputError as `read_shape`."""
    if getattr(args, "engine", "local") != "local":
        return ""
    shape = read_shape(name, args.trust_remote_code)
    gpu, room = torch.cuda.is_available(), memory_here()
    args = replace(args_of(args, method, name), float32=not gpu)
    found = predict(shape, args)
    if found.peak <= room:
        return ""
    where = torch.cuda.get_device_name() if gpu else "this machine's memory"
    return (f"{name}: {method} is predicted to take {found.peak / GIB:.1f} GiB at its peak, in {found.largest}; "
            f"{advice(shape, args, where, room)}")  # fmt: skip


def memory_here() -> float:
    """Return how many bytes are free on the GPU, or available on the machine if there is none."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info(pick_device())[0]
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


REMEDIES = {  # the arguments that make a phase take less: lower numbers, switches turned
    "loading": (),
    "sampling": ("sample_batch_size", "batch_size", "max_new_tokens", "unpack_to_sample"),
    "log-probabilities": ("micro_batch_tokens",),
    "training": ("micro_batch_tokens", "per_device_train_batch_size", "gradient_checkpointing"),
    "optimizer step": ("micro_batch_tokens", "gradient_checkpointing"),
}


@contextlib.contextmanager
def answer_for_memory(args: Any, phase: Callable[[], str]) -> Iterator[None]:
    """Make one line of running out of memory within the block: the phase, what was asked for, what is free, what helps.

    Raises:
        InputError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        if not asked and not re.search("CUBLAS_STATUS_ALLOC_FAILED|CUDA error: out of memory", str(error)):
            raise
        gpu, free = torch.cuda.is_available(), memory_here()
        if gpu:
            free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        raise InputError(
            f"out of memory in {phase()}: {asked[1] if asked else 'some'} more were asked for, {free / GIB:.2f} GiB "
            f"are free on {torch.cuda.get_device_name() if gpu else 'this machine'}; "
            f"what helps: {', '.join(remedies(args, phase())) or 'a smaller model'}"
        ) from None


def remedies(args: Any, phase: str) -> Iterator[str]:
    for name in REMEDIES[phase]:
        value = getattr(args, name, None)
        if value is (name == "unpack_to_sample"):  # a switch that can still be turned
            yield f"--{'no_' * value}{name}"
        elif not isinstance(value, bool | None) and not (name == "batch_size" and hasattr(args, "sample_batch_size")):
            yield f"a lower --{name} (now {value})"  # where both are there, --batch_size counts tasks
