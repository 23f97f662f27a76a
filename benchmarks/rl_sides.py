"""Run one of the three sides of bench_rl_step.py, which starts each in a separate process.

    ours  train_grpo_lora.main, unchanged: only the time of its parts is measured
    loop  one completion at a time, like the system from which this project started: `generate` for one completion on
          the 4-bit policy with its adapter not merged, a new python process for its check, and a forward and a backward
          pass over its sequence with the logits of every position
    trl   trl.GRPOTrainer on the same policy, sandbox and order of tasks

All three use temperature 1, top_p 1, no top_k, GRPO's loss, KL to the adapter that the run starts from, AdamW without
weight decay, gradients clipped to 1, no dropout, no gradient checkpointing, and on a CPU float32 throughout.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import torch

import train_grpo_lora
from common import machine, parse_args
from judging.tasks import candidate_source, read_tasks, test_source
from training.samples import item_order

TIME_LIMIT = 5.0  # seconds per check
WARM_UP = 1  # steps that do not count


class Meter:
    """The seconds by part and the work done in the measured steps, and the peak memory of all steps."""

    def __init__(self, profile: bool = False) -> None:
        self.profiler = torch.profiler.profile() if profile else None
        self.ended = 0
        self.clear()

    def clear(self) -> None:
        self.spent: dict[str, float] = {}
        self.steps, self.tasks, self.prompt_tokens, self.lengths = 0, [], 0, []
        self.started, self.cpu_started = now(), time.process_time()

    def begin(self) -> None:
        """Start measuring, once model and libraries are loaded: memory above this baseline belongs to the steps."""
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # free what loading no longer needs
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
        self.baseline = memory("VmRSS")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.baseline = torch.cuda.memory_allocated()
        self.clear()

    def end_step(self) -> None:
        """Note the end of a step; call it after every step, the warm-up's too."""
        self.ended += 1
        self.steps += 1
        self.seconds, self.cpu_seconds = now() - self.started, time.process_time() - self.cpu_started
        if self.ended == WARM_UP:
            self.clear()
            if self.profiler:
                self.profiler.start()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = now()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + now() - started

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Count the time that a method takes as that of a part."""
        inner = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return inner(*args, **kwargs)

        setattr(owner, method, watched)

    def count(self, task_id: str, prompt: int, length: int) -> None:
        """Count one completion of `length` tokens, whose task's prompt has `prompt` tokens."""
        self.tasks.append(task_id)
        self.prompt_tokens += prompt
        self.lengths.append(length)

    def report(self) -> dict[str, Any]:
        if self.profiler:
            self.profiler.stop()
            print(profile_table(self.profiler.key_averages()))
        cuda = torch.cuda.is_available()
        peak = torch.cuda.max_memory_allocated() if cuda else memory("VmHWM")
        return {
            "steps": self.steps,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,  # all threads of this process; other processes do not matter
            "sample_seconds": self.spent.pop("sample"),
            "score_seconds": self.spent.pop("score"),
            "parts": self.spent,  # seconds of the parts of training
            "samples": len(self.lengths),
            "tokens": sum(self.lengths),
            "prompt_tokens": self.prompt_tokens,
            "tasks": self.tasks,
            "peak_mib": peak / 2**20,
            "above_mib": (peak - self.baseline) / 2**20,
            "threads": torch.get_num_threads(),
            "machine": machine(),
        }


def profile_table(events: Any, rows: int = 25) -> str:
    """List the operations of the measured steps by the time that each took itself."""
    field = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    whole = sum(getattr(event, field) for event in events)
    lines = ["| operation | calls | ms | share |", "|---|---|---|---|"]
    for event in sorted(events, key=lambda event: -getattr(event, field))[:rows]:
        spent = getattr(event, field)
        lines.append(f"| {event.key} | {event.count} | {spent / 1e3:.1f} | {spent / whole:.1%} |")
    return "\n".join(lines)


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def memory(field: str) -> int:
    """Return the resident bytes of this process: VmRSS is the present value, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def order_of_tasks(s: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks of all steps, in the order in which a run of this project draws them."""
    tasks = read_tasks(f"{s['folder']}/tasks.jsonl")
    return [tasks[i] for i in islice(item_order(len(tasks), s["seed"]), s["batch_size"] * (WARM_UP + s["steps"]))]


def ours(s: dict[str, Any], meter: Meter) -> None:
    from training.run import Run

    flags = {
        "train_path": f"{s['folder']}/tasks.jsonl",
        "sft_model": f"{s['folder']}/adapter",
        "output_dir": f"{s['folder']}/ours",
        "max_length": 1024 + s["new_tokens"],
        "max_new_tokens": s["new_tokens"],
        "learning_rate": s["learning_rate"],
        "num_steps": WARM_UP + s["steps"],
        "batch_size": s["batch_size"],
        "num_samples": s["num_samples"],
        "kl_coef": s["kl_coef"],
        "length_penalty_alpha": 0.0,
        "micro_batch_tokens": s["micro_batch_tokens"],
        "time_limit": TIME_LIMIT,
        "save_every": 0,
        "seed": s["seed"],
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    args = parse_args(train_grpo_lora.Args, words + s["ours_flags"].split())
    steps, sample = Run.steps, Run.sample

    def counted_steps(run: Run) -> Iterator[int]:
        meter.begin()
        for step in steps(run):
            yield step
            meter.end_step()

    def counted_sample(run: Run, num_tasks: int) -> list:
        samples = sample(run, num_tasks)
        for one in samples:
            meter.count(one.task["task_id"], len(one.rollout.prompt_ids), one.length)
        return samples

    Run.steps, Run.sample = counted_steps, counted_sample
    meter.watch(Run, "sample", "sample")
    meter.watch(Run, "score", "score")
    for method in ("batch", "outputs", "backward", "clip_gradients"):
        meter.watch(Run, method, method)
    train_grpo_lora.main(args)


def loop(s: dict[str, Any], meter: Meter) -> None:
    from model.load import load_policy, load_tokenizer, pick_device, trainable_parameters
    from model.reference import as_reference, kl_estimate, load_reference

    device, adapter, size = pick_device(), f"{s['folder']}/adapter", s["num_samples"]
    torch.manual_seed(s["seed"])
    tokenizer = load_tokenizer(adapter)
    model = load_policy(adapter, device, trainable=True).eval()
    load_reference(model, adapter)
    weights = trainable_parameters(model)
    optimizer = torch.optim.AdamW(weights, lr=s["learning_rate"], weight_decay=0.0)
    tasks = order_of_tasks(s)

    def logprobs_of(ids: torch.Tensor, prompt: int) -> torch.Tensor:
        """Return the log-probabilities (R,) of the tokens after the prompt."""
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, prompt - 1 : -1].float()  # (R, V)
        return logits.log_softmax(-1).gather(1, ids[0, prompt:, None]).squeeze(1)

    meter.begin()
    for step in range(WARM_UP + s["steps"]):
        rows, rewards, groups = [], [], []
        for task in tasks[step * s["batch_size"] : (step + 1) * s["batch_size"]]:
            prompt = tokenizer(task["prompt"], return_tensors="pt").input_ids.to(device)  # (1, P)
            for _ in range(size):
                with meter.part("sample"), torch.no_grad():
                    ids = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=True,
                                         temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=s["new_tokens"],
                                         pad_token_id=tokenizer.pad_token_id)  # (1, P + R) # fmt: skip
                    text = tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)
                with meter.part("score"):
                    rewards.append(float(passes(task, text)))
                rows.append((ids, prompt.shape[1]))
                groups.append(task["task_id"])
                meter.count(task["task_id"], prompt.shape[1], ids.shape[1] - prompt.shape[1])
        advantage = train_grpo_lora.group_advantages(rewards, groups, divide=True)
        for (ids, prompt_length), a in zip(rows, advantage, strict=True):
            with torch.no_grad(), as_reference(model):
                reference = logprobs_of(ids, prompt_length)
            logprobs = logprobs_of(ids, prompt_length)
            ratio = (logprobs - logprobs.detach()).exp()  # 1: one update per batch
            objective = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
            loss = (s["kl_coef"] * kl_estimate(logprobs, reference, "k3") - objective).mean() / len(rows)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        meter.end_step()


def passes(task: dict[str, Any], completion: str) -> bool:
    """Return whether prompt, completion and tests pass as one program, in a new interpreter."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8", errors="replace") as file:
        file.write(candidate_source(task, completion) + "\n" + test_source(task))
        file.flush()
        try:
            return subprocess.run([sys.executable, file.name], capture_output=True, timeout=TIME_LIMIT).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def trl(s: dict[str, Any], meter: Meter) -> None:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from judging.pool import Sandbox
    from judging.rewards import base_reward
    from model.load import load_policy, load_tokenizer, pick_device, trainable_parameters

    device, adapter = pick_device(), f"{s['folder']}/adapter"
    tokenizer = load_tokenizer(adapter)
    tasks = order_of_tasks(s)
    batch = s["batch_size"] * s["num_samples"]
    size = min(s["trl_batch_size"], batch)
    settings = {
        "output_dir": f"{s['folder']}/trl",
        "use_cpu": device.type == "cpu",
        "bf16": device.type != "cpu",
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": batch // size,  # a whole generated batch: no second forward pass
        "num_generations": s["num_samples"],
        "max_completion_length": s["new_tokens"],
        "num_iterations": 1,
        "max_steps": WARM_UP + s["steps"],
        "shuffle_dataset": False,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "loss_type": "grpo",
        "scale_rewards": "group",
        "epsilon": 0.2,
        "beta": s["kl_coef"],
        "learning_rate": s["learning_rate"],
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "seed": s["seed"],
    } | json.loads(s["trl_settings"] or "{}")

    class Steps(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.end_step()

    with Sandbox(TIME_LIMIT) as sandbox:

        def reward(completions: list[str], completion_ids: list[list[int]], number: list[int], **rest: Any) -> list:
            given = [tasks[i] for i in number]
            for task, ids in zip(given, completion_ids, strict=True):
                meter.count(task["task_id"], len(tokenizer(task["prompt"]).input_ids), len(ids))
            return [base_reward(v) for v in sandbox.check_many(zip(given, completions, strict=True))]

        trainer = GRPOTrainer(
            model=load_policy(adapter, device, trainable=True),
            reward_funcs=reward,
            args=GRPOConfig(**settings),
            train_dataset=Dataset.from_list([{"prompt": t["prompt"], "number": i} for i, t in enumerate(tasks)]),
            processing_class=tokenizer,
            callbacks=[Steps()],
        )
        if device.type == "cpu":
            for weight in trainable_parameters(trainer.model):
                weight.data = weight.data.float()  # TRL casts adapters on 4-bit models to bfloat16; undo it
        meter.watch(trainer, "_generate", "sample")
        meter.watch(trainer, "_calculate_rewards", "score")
        meter.begin()
        trainer.train()


if __name__ == "__main__":
    side, settings, out = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    meter = Meter(settings["profile"])
    {"ours": ours, "loop": loop, "trl": trl}[side](settings, meter)
    out.write_text(json.dumps(meter.report()))
