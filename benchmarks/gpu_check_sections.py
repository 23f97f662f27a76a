"""Run one section of gpu_check.py in a separate process: python gpu_check_sections.py NAME FOLDER TINY."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch

from common import Preempted, parse_args

Note = Callable[..., None]
SMALL = dict(hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4)  # instead of the 1.3B


def card(note: Note, folder: Path, tiny: bool) -> None:
    """Report the hardware, and which attention kernels torch uses with the masks of training and of decoding."""
    import bitsandbytes

    from model.load import compute_dtype, pick_device
    from model.logprobs import sharing_mask

    device = pick_device()
    dtype = compute_dtype(device)
    library = getattr(getattr(bitsandbytes, "cextension", None), "lib", None)
    facts = {"dtype": str(dtype).removeprefix("torch."), "bitsandbytes": version("bitsandbytes"),
             "library": type(library).__name__}  # fmt: skip
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device)
        facts |= {"card": memory.name, "driver": driver(), "capability": f"{memory.major}.{memory.minor}",
                  "GiB": memory.total_memory / 2**30, "CUDA": torch.version.cuda}  # fmt: skip
    note(**facts)
    weight = torch.randn(256, 128, device=device, dtype=dtype)
    packed, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    error = (bitsandbytes.functional.dequantize_4bit(packed, state) - weight).abs().mean() / weight.abs().mean()
    note(what="NF4 there and back", relative_error=error.item())
    owner = torch.zeros(2, 75, dtype=torch.long, device=device)
    shared = sharing_mask(owner, torch.ones_like(owner), dtype)
    for what, queries, mask in (("training, prompts shared", 75, shared), ("decoding", 1, shared[:, :, :1, :64])):
        q = torch.randn(2, 4, queries, 64, device=device, dtype=dtype, requires_grad=queries > 1)
        k = torch.randn(2, 4, mask.shape[-1], 64, device=device, dtype=dtype)
        with torch.profiler.profile() as profiler:
            out = torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask)
            if q.requires_grad:
                out.sum().backward()
        ops = {e.key for e in profiler.key_averages() if "attention" in e.key and e.key.startswith("aten::_")}
        note(what=what, attention=", ".join(sorted(op.removeprefix("aten::") for op in ops)))


def driver() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
    return "unknown"


def methods(note: Note, folder: Path, tiny: bool) -> None:
    one_of_each(note, folder)
    repeated(note, folder, [])


def exact(note: Note, folder: Path, tiny: bool) -> None:
    start = folder / "sft"
    if not start.exists():
        stage("train_sft_lora", *sft_flags(folder))
    repeated(note, folder, ["--deterministic"])


def sft_flags(folder: Path) -> list[str]:
    return ["--train_path", "data/pocket_train.jsonl", "--model_name", "data/pocket_coder", "--output_dir",
            f"{folder}/sft", "--max_length", "384", "--max_steps", "4", "--learning_rate", "1e-3"]  # fmt: skip


def rl_flags(folder: Path, name: str) -> list[str]:
    return ["--train_path", "data/pocket_train.jsonl", "--sft_model", f"{folder}/sft", "--output_dir",
            f"{folder}/{name}", "--max_length", "384", "--max_new_tokens", "64", "--num_samples", "4",
            "--batch_size", "4", "--learning_rate", "1e-3"]  # fmt: skip


def one_of_each(note: Note, folder: Path) -> None:
    pairs = f"{folder}/pairs.jsonl"
    sampled = rl_flags(folder, "")
    steps = {
        "sft": ("train_sft_lora", sft_flags(folder)),
        "rl": ("train_rl_lora", [*rl_flags(folder, "rl"), "--num_steps", "1", "--baseline", "rloo"]),
        "ppo": ("train_ppo_lora", [*rl_flags(folder, "ppo"), "--num_updates", "1"]),
        "ppo, critic": ("train_ppo_lora", [*rl_flags(folder, "critic"), "--num_updates", "1", "--value_coef", "0.5",
                                           "--ratio_level", "token"]),
        "grpo": ("train_grpo_lora", [*rl_flags(folder, "grpo"), "--num_steps", "1"]),
        "rft": ("train_rft_lora", [*rl_flags(folder, "rft"), "--num_steps", "1"]),
        "pairs": ("generate_dpo_data", [*sampled[:4], "--output_path", pairs, *sampled[6:10], "--num_samples", "8",
                                        "--limit", "24", "--prefer_short"]),
        "dpo": ("train_dpo_lora", ["--train_path", pairs, "--sft_model", f"{folder}/sft", "--output_dir",
                                   f"{folder}/dpo", "--num_steps", "1"]),
        "evaluation": ("eval_humaneval", ["--data_path", "data/pocket_test.jsonl", "--model_path", f"{folder}/grpo",
                                          "--limit", "16", "--max_length", "384", "--max_new_tokens", "64",
                                          "--results_dir", f"{folder}/results"]),
    }  # fmt: skip
    for name, (script, flags) in steps.items():
        started = time.perf_counter()
        stage(script, *flags)
        note(what=name, s=time.perf_counter() - started)


def stage(script: str, *flags: str) -> None:
    module = importlib.import_module(script)
    module.main(parse_args(module.Args, list(flags)))


def repeated(note: Note, folder: Path, more: list[str]) -> None:
    """Run four steps of GRPO, twice, and once killed after two and resumed; report the largest difference of a weight.

    `more`: further flags of the script.
    """
    from safetensors.torch import load_file

    from training.run import Run

    def trained(name: str) -> dict[str, torch.Tensor]:
        stage("train_grpo_lora", *rl_flags(folder, name), "--num_steps", "4", *more)
        return load_file(folder / name / "adapter_model.safetensors")

    kind, clip = "deterministic " if more else "", Run.clip_gradients
    first, second = trained(f"{kind}first"), trained(f"{kind}second")

    def killed(run: Run) -> float:
        if run.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return clip(run)

    Run.clip_gradients = killed
    with contextlib.suppress(Preempted):
        trained(f"{kind}resumed")
    Run.clip_gradients = clip
    resumed = trained(f"{kind}resumed")
    for what, other in (("run twice", second), ("killed and resumed", resumed)):
        gap = max((first[name] - other[name]).abs().max().item() for name in first)
        note(what=kind + what, bits="equal" if gap == 0 else "differ", largest=gap)


def model_folder(folder: Path, tiny: bool) -> Path:
    """Make a random model of the 1.3B's shape with a fresh adapter, and tasks, once; return their folder."""
    import rl_workloads

    place = folder / "model"
    if not place.exists():
        place.mkdir()
        if tiny:
            rl_workloads.SHAPES["1.3b"], rl_workloads.NEEDS_GPU = SMALL, ()
        rl_workloads.build("1.3b", place)
    return place


def precision(note: Note, folder: Path, tiny: bool) -> None:
    import bench_precision as bench

    from judging.tasks import read_tasks
    from model import logprobs
    from model.load import load_tokenizer
    from model.merged_copy import drop_merged_copy
    from model.sampling import encode_prompts, generate, in_order

    base = str(model_folder(folder, tiny) / "base")
    for title, name in (("pocket", "data/pocket_coder"), ("1.3B", base)):
        tokenizer = load_tokenizer(name)
        prompts = encode_prompts(tokenizer, read_tasks("data/pocket_train.jsonl")[: 2 if tiny else 8], 384)

        def draw(model, tokenizer=tokenizer, prompts=prompts) -> list:
            return in_order(
                generate(
                    model,
                    tokenizer,
                    prompts,
                    max_new_tokens=16 if tiny else 64,
                    temperature=1.0,
                    num_samples=4,
                    seeds=[(0, i) for i in range(len(prompts))],
                )
            )

        model = bench.random_policy(name, torch.float32, 0.02, 0)
        rollouts = draw(model)
        drop_merged_copy(model)
        exact = bench.gradient(model, rollouts, 1 / 2048, scaled=False)[0].double() * 2048
        del model
        for dtype in (torch.bfloat16, torch.float16):
            model = bench.random_policy(name, dtype, 0.02, 0)
            [row] = bench.gradient_rows(model, exact, rollouts, (1 / 2048,))[-1:]
            head_logits = logprobs.head_logits
            for head in ("float32", "as the rest"):
                if head != "float32":
                    logprobs.head_logits = lambda head, states: head(states).float()
                found, why = bench.gate(model, draw(model), 1.0, bench.eos_ids(bench.base_of(model), tokenizer))
                drop_merged_copy(model)
                note(model=title, dtype=str(dtype).removeprefix("torch."), head=head,
                     **{key: found.get(key, "") for key in ("mean", "p99", "largest", "floor")},
                     gate=why or "passes", gradient_cosine=row["cosine"] if head == "float32" else "",
                     gradient_error=row["error"] if head == "float32" else "")  # fmt: skip
            logprobs.head_logits = head_logits
            del model
            free()


def free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def bandwidth() -> float:
    """Measure the GPU's memory bandwidth in bytes per second, from copies of 512 MiB, which read and write."""
    source = torch.empty(2**29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(6):
        torch.cuda.synchronize()
        started = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * source.nbytes / min(times)


def decoding(note: Note, folder: Path, tiny: bool) -> None:
    """Measure seconds per decoding step: the time of 64 tokens minus that of 8, so prefill and capture do not count."""
    from model.load import base_and_adapter, load_policy, pick_device
    from model.merged_copy import drop_merged_copy
    from model.sampling import generate, in_order

    adapter = str(model_folder(folder, tiny) / "adapter")
    assert base_and_adapter(adapter)[1]
    device = pick_device()
    gpu = device.type == "cuda"
    model = load_policy(adapter, device).eval()
    tokenizer = SimpleNamespace(eos_token_id=10**9, decode=lambda ids: "")
    model.generation_config.eos_token_id = None
    prompt_length, few, many = (16, 2, 6) if tiny else (256, 8, 64)
    config, item = model.config, 2 if gpu else 4
    speed = bandwidth() if gpu else 0.0
    if gpu:
        note(what="memory bandwidth, copying", GB_per_s=speed / 1e9)
    ways = [("unpacked, eager", True, False), ("4-bit, eager", False, False)]
    ways += [("unpacked, graph", True, True), ("4-bit, graph", False, True)] if gpu else []
    for rows in (1, 2) if tiny else (1, 8, 64):
        prompts = torch.randint(3, config.vocab_size, (1, prompt_length)).tolist()
        for name, unpack, graph in ways:

            def seconds(tokens: int, unpack=unpack, graph=graph, rows=rows, prompts=prompts) -> float:
                times = []
                for _ in range(2):
                    started = time.perf_counter()
                    in_order(
                        generate(
                            model,
                            tokenizer,
                            prompts,
                            max_new_tokens=tokens,
                            temperature=1.0,
                            num_samples=rows,
                            unpack=unpack,
                            graph=graph,
                            seeds=[(0,)],
                        )
                    )
                    times.append(time.perf_counter() - started)
                return min(times)

            whole = seconds(many)
            step = (whole - seconds(few)) / (many - few)
            weights = sum(p.numel() for p in plain_weights(model)) * item
            cache = 2 * config.num_hidden_layers * config.hidden_size * item * rows * (prompt_length + many / 2)
            limit = (weights + cache) / speed if gpu else 0.0  # with 16-bit weights, for the 4-bit ways too
            note(rows=rows, way=name, ms_a_step=1e3 * step, tokens_per_s=rows / step, with_prefill=rows * many / whole,
                 share_of_bandwidth=limit / step if gpu else "")  # fmt: skip
            drop_merged_copy(model)
            free()


def plain_weights(model) -> list[torch.nn.Parameter]:
    """Return the weights that a step reads, on the meta device: all except the embeddings."""
    from model.memory_parts import without_weights

    plain = without_weights(model.config.name_or_path)
    return [p for name, p in plain.named_parameters() if "embed_tokens" not in name]


def memory(note: Note, folder: Path, tiny: bool) -> None:
    import bench_memory

    from model import memory as prediction
    from model.load import load_policy, pick_device
    from model.reference import load_reference

    adapter, device = str(model_folder(folder, tiny) / "adapter"), pick_device()
    gpu, gib = device.type == "cuda", 2**30
    prompt, reply = (32, 16) if tiny else (256, 256)
    model = load_policy(adapter, device, trainable=True).eval()
    load_reference(model, adapter)
    model.generation_config.eos_token_id = None
    args = prediction.Args(batch_size=2 if tiny else 8, num_samples=4 if tiny else 8, max_new_tokens=reply,
                           max_length=prompt + reply, float32=not gpu)  # fmt: skip
    for phase, (predicted, measured) in bench_memory.compare(model, adapter, args, prompt).items():
        note(phase=phase, predicted_GiB=predicted / gib, allocated_GiB=measured / gib)
    if not gpu:
        return
    note(what="reserved at the peak", GiB=max(bench_memory.reserved) / gib)
    whole = torch.cuda.get_device_properties(device).total_memory
    for name, size in prediction.CARDS.items():
        if size * gib > whole:
            continue
        free()
        torch.cuda.set_per_process_memory_fraction((size - 0.5) * gib / whole)  # CUDA takes half a GiB
        bench_memory.reserved.clear()
        try:
            bench_memory.measure(model, args, prompt)
            fits = "yes"
        except torch.OutOfMemoryError as error:
            fits = str(error).partition(". ")[0]
        note(what=f"in a {name} card's share", fits=fits, reserved_GiB=max(bench_memory.reserved, default=0) / gib)
        torch.cuda.set_per_process_memory_fraction(1.0)


def step(note: Note, folder: Path, tiny: bool) -> None:
    """Run our side of bench_rl_step.py once, and TRL's if it is installed, on the model of the other sections."""
    import bench_rl_step as bench

    sides = ["ours"] + ["trl"] * (find_spec("trl") is not None and not tiny)
    args = bench.Args(batch_size=2, new_tokens=16 if tiny else 128, steps=1)
    settings = asdict(args) | {"folder": str(model_folder(folder, tiny))}
    note(what="TRL", version=version("trl") if find_spec("trl") else "not installed", used=str("trl" in sides))
    results = []
    for side in sides:
        out = folder / f"{side}.json"
        bench.call([str(bench.HERE / "rl_sides.py"), side, json.dumps(settings), str(out)])
        results.append({"round": 0, "side": side} | json.loads(out.read_text()))
        found = results[-1]
        note(side=side, s_a_step=found["seconds"], tokens_per_s=found["tokens"] / found["seconds"],
             sampling_s=found["sample_seconds"], peak_MiB=found["peak_mib"])  # fmt: skip
    bench.check_equal_work(results, "fixed")
    for peer, ratios in bench.ratios(results).items():
        note(what=f"ours / {peer}", **{name: values[0] for name, values in ratios.items()})


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:

        def note(**record: Any) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        globals()[name](note, folder, sys.argv[3] == "1")
