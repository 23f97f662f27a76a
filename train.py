"""Train a model by a method on a data set, evaluate the adapter and merge it, with one command.

    python train.py <sft|rl|ppo|grpo|dpo|rft> [GPU] [MODEL] [options]
    python train.py FILE.yaml [options]

It trains nothing itself. It collects the settings (the scripts' defaults < configs/METHOD.yaml, scaled for the model <
FILE.yaml < options), prints them as a YAML file that makes the same run, and calls the stages one after another:
train_*_lora.py, eval_humaneval.py, merge_adapter.py. Every option of a stage is passed on to it (`python
train_grpo_lora.py --help`); one that no stage of the run takes is an error. All but sft start from a fresh adapter,
that is from the model as it is, unless --sft_model names one. --batch-size and --batch_size are the same.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import yaml

from common import answer_for, as_flags, field_names, parse_args, read_yaml, require, unknown_name
from judging.data_sets import data_of, evaluated_on, language
from judging.tasks import read_tasks
from training.defaults import CONFIGS, is_pocket, settings_for
from training.final_evaluation import evaluations, finish_evaluation
from training.stages import Stage, check, find_gpu, has_pairs, run_stage, stage

METHODS = ("sft", "rl", "ppo", "grpo", "dpo", "rft")


@dataclass
class Args:
    method: Literal["sft", "rl", "ppo", "grpo", "dpo", "rft"] = "sft"  # how to train
    gpu: int = -1  # number of the GPU; -1: the first, or the CPU where there is none
    model: str = ""  # hub name or folder; "": deepseek-coder-1.3b-base, or on a CPU the embedded pocket_coder
    dataset: str = ""  # mbpp, humaneval, verilog, pocket, pocket_mbpp, pocket_verilog or a task file; "": the model's
    epochs: float = 1.0  # passes over the tasks
    batch_size: int = 0  # tasks a step (sft: examples at a time; dpo: pairs); 0: what configs/METHOD.yaml gives
    early_stopping: bool = True  # rl, ppo, grpo, rft: keep the adapter that passes most validation tasks, end past it
    merge: bool = True  # make a plain model of the trained adapter
    save_merged_epochs: bool = False  # and of the adapter after each epoch
    auto_eval: bool = False  # evaluate at the end: pass@1, 5, 10 of samples at temperature 0.2, and greedily
    eval_on: str = ""  # data sets or task files for it, commas between; "": mbpp,humaneval, pocket,pocket_mbpp, verilog
    wandb: bool = False  # the same as --report_to wandb
    debug: bool = False  # a short run of the whole: 2 steps, 4 tasks an evaluation, no tracker, names end in -debug
    checkpoints: str = "checkpoints"  # folder of everything that is trained
    config: str = ""  # YAML file with any of these and of the stages'; options win over it


# The front door's arguments decide these, so the printed settings leave them out.
DERIVED = {"train_path", "model_name", "sft_model", "output_dir", "run_name", "num_steps", "num_updates", "max_steps",
           "num_train_epochs", "per_device_train_batch_size", "valid_path", "valid_every", "patience", "keep_every",
           "config"}  # fmt: skip
# Never copied from the training settings: these mean something else in evaluation, or choose what is evaluated.
NOT_OF_TRAINING = ("temperature", "top_p", "batch_size", "time_limit")
NOT_OF_TRAINING += ("data_path", "model_path", "exp_name", "samples", "server")


def read_command(argv: list[str]) -> dict[str, Any]:
    """Return everything that the user set, by name: the YAML file's settings, then the command line's.

    A file in `configs/` stands for its method: `settings_for` reads it.

    >>> read_command(["dpo", "0", "some/model", "--batch-size", "4", "--no-merge", "--beta=0.1"])
    {'method': 'dpo', 'gpu': '0', 'model': 'some/model', 'batch_size': '4', 'merge': False, 'beta': '0.1'}

    Raises:
        InputError: the first word is neither a method nor a YAML file, or a word is in the wrong place.
    """
    place, said = list(takewhile(lambda word: not word.startswith("--"), argv)), {}
    for word in place:
        name = "gpu" if word.isdigit() and "gpu" not in said else "model"
        if not said:
            name = "config" if word.endswith((".yaml", ".yml")) else "method"
            first = f"{word!r}: the first word is {', '.join(METHODS)} or a YAML file"
            require(name == "config" or word in METHODS, first)
        require(name not in said, f"{word!r}: want METHOD [GPU] [MODEL], then options")
        said[name] = word
    words = argv[len(place) :]
    while words:
        name, equals, value = words.pop(0).partition("=")
        require(name.startswith("--"), f"{name!r}: belongs to no option; GPU and MODEL come before the options")
        name = name[2:].replace("-", "_")
        if equals or (words and not words[0].startswith("--")):
            said[name] = value if equals else words.pop(0)
        else:
            said[name.removeprefix("no_")] = not name.startswith("no_")
    require(bool(said), "want METHOD [GPU] [MODEL] or a YAML file, then options; --help says which")
    written = read_yaml(Path(said["config"])) if "config" in said else {}
    if Path(said.get("config", "")).resolve().parent == CONFIGS:
        written = {"method": written.get("method")}
    if "report_to" in said:
        written.pop("wandb", None)  # it means the same
    said = written | said
    require("method" in said, f"{said.get('config', argv[0])}: no method is named; want one of {', '.join(METHODS)}")
    return said


def name_of(args: Args) -> str:
    return f"{Path(args.model).name}-{Path(args.dataset).stem}-{args.method}{'-debug' if args.debug else ''}"


def plan(args: Args, table: dict[str, Any], given: dict[str, Any]) -> list[Stage]:
    """Return the stages up to the trained adapter; the last one trains it.

    Args:
        table: the settings of `settings_for`. given: what the user set beside the front door's own arguments; it wins.
    """
    name, data, script = f"{args.checkpoints}/{name_of(args)}", data_of(args.dataset), f"train_{args.method}_lora.py"
    settings, batch, pairs = table | given, args.batch_size or table["batch_size"], f"{name}-pairs.jsonl"
    typed = stage(script, settings, "batch_size").args()
    drawn = read_tasks(data.train, pass_rates=(getattr(typed, "min_pass", 0.0), getattr(typed, "max_pass", 1.0)))
    per_epoch = math.ceil(len(drawn) / (batch * getattr(typed, "gradient_accumulation_steps", 1)))
    steps = 2 if args.debug else math.ceil(args.epochs * per_epoch)
    steps = next((getattr(typed, n) for n in ("num_steps", "num_updates") if n in given and hasattr(typed, n)), steps)

    own = {"sft_model": f"{name}-start", "output_dir": f"{name}-qlora"}
    if args.method not in ("sft", "dpo"):
        own |= {"num_steps": steps, "num_updates": steps}
    else:  # passes: the number of pairs is not known yet
        own |= {"num_train_epochs": args.epochs} | ({"max_steps": steps, "num_steps": steps} if args.debug else {})
    if args.early_stopping and (valid := given.get("valid_path", data.valid)):
        own |= {"valid_path": valid, "valid_every": max(1, math.ceil(steps / 10)), "patience": 3}
    if args.save_merged_epochs:
        own["keep_every"] = 1 if args.debug else per_epoch
    fixed = {"train_path": pairs if args.method == "dpo" else data.train, "model_name": args.model}
    fixed |= {"batch_size": batch, "per_device_train_batch_size": batch}
    train = stage(script, own | settings | fixed)
    if args.early_stopping and "valid_path" not in train.settings:
        why = f"{args.dataset} has no validation tasks; --valid_path FILE names some"
        print(f"early stopping: off, {why if hasattr(typed, 'valid_path') else f'{script} does not validate'}")

    stages = []
    if args.method != "sft" and "sft_model" not in given:
        fresh = {n: v for n, v in settings.items() if n in ("max_length", "seed", "trust_remote_code") or "lora_" in n}
        stages.append(stage("train_sft_lora.py", fresh, model_name=args.model, train_path=data.train,
                            output_dir=own["sft_model"], max_steps=0))  # fmt: skip
    if args.method == "dpo":
        sampling = {"sft_model": own["sft_model"]} | ({"limit": 16} if args.debug else {}) | settings
        stages.append(stage("generate_dpo_data.py", sampling, "batch_size", train_path=data.train, output_path=pairs))
    return [*stages, train]


def merge(adapter: str, output: str, given: dict[str, Any]) -> Stage:
    """Return the stage that merges an adapter. Merged weights need a dtype: `auto` is for the other stages."""
    others = ["output_dir"] + ["dtype"] * (given.get("dtype") == "auto")
    return stage("merge_adapter.py", given, *others, adapter_model_id=adapter, output_dir=output)


def effective(args: Args, named: set[str], stages: list[Stage]) -> dict[str, Any]:
    """Return the settings of a run for a YAML file that makes the same run.

    Args:
        named: what `configs/` and the user set. stages: the one that trains first.
    """
    settings, train = asdict(args), vars(stages[0].args())
    for one in reversed(stages):  # where stages share a name, the one that trains wins
        settings |= {name: value for name, value in vars(one.args()).items() if name in named}
    settings |= {name: value for name, value in train.items() if name not in DERIVED and name not in settings}
    settings["batch_size"] = train.get("per_device_train_batch_size") or train["batch_size"]
    return {name: value for name, value in settings.items() if name not in ("config", "wandb")}


def main(argv: list[str]) -> None:
    if {"-h", "--help"} & set(argv):
        parse_args(Args, ["--help"], __doc__)
    given = read_command(argv)
    own = {name: given.pop(name) for name in field_names(Args) if name in given}
    args = parse_args(Args, as_flags({name: value for name, value in own.items() if name != "config"}))
    tracker = given.get("report_to", "none")
    require(not args.wandb or tracker in ("none", "wandb"), f"--wandb: and --report_to {tracker}? one tracker a run")
    if args.debug or (tracker == "wandb" and own.get("wandb") is False):
        given["report_to"] = "none"
    elif args.wandb:
        given["report_to"] = "wandb"

    # what to train, and how
    on_gpu = find_gpu(args.gpu)
    from model.memory import check_fits  # not at the top: bitsandbytes starts CUDA
    from model.memory_parts import num_parameters

    verilog = "verilog" in Path(args.model).name or (args.dataset != "" and language(args.dataset) == "verilog")
    pocket = "pocket_verilog" if verilog else "pocket"
    args.model = args.model or ("deepseek-ai/deepseek-coder-1.3b-base" if on_gpu else f"data/{pocket}_coder")
    args.dataset = args.dataset or (pocket if is_pocket(args.model) else "mbpp")
    print(f"{args.method}: {args.model} on {args.dataset}")
    size = num_parameters(args.model, given.get("trust_remote_code") in (True, "True"))
    table, lines = settings_for(args.method, args.model, size, {*given, *own}, language(args.dataset))
    print("\n".join(f"settings: {line}" for line in lines))

    # the stages
    name, moment = name_of(args), time.strftime("%m%d-%H%M")
    run_name = f"{name}-{f'gpu{max(args.gpu, 0)}' if on_gpu else 'cpu'}-{moment}"
    stages = plan(args, table, {"run_name": run_name} | given)
    train = stages[-1]
    if getattr(train.args(), "dry_run", False):  # it leaves no adapter
        args.merge = args.auto_eval = args.save_merged_epochs = False
    output = train.settings["output_dir"]
    merged = output.removesuffix("-qlora") + "-merged"
    tests = evaluated_on(args.eval_on, args.dataset, is_pocket(args.model)) if args.auto_eval else {}
    evaluation = stage("eval_humaneval.py", table | given, *NOT_OF_TRAINING).settings
    if evaluation.get("prompt_level") in ("curriculum", "all"):  # only in training
        del evaluation["prompt_level"]
    if evaluation.get("engine") == "server":  # only in training; evaluation loads the adapter
        del evaluation["engine"]
    if args.debug:
        evaluation = {"limit": 4} | evaluation
    stages += [Stage("eval_humaneval.py", one) for one in evaluations(tests, name, output, evaluation)]
    merges = [merge(output, merged, given)] if args.merge else []
    known = {name for one in [*stages, Stage("eval_humaneval.py", {})] for name in field_names(one.module.Args)}
    for key in table:
        require(key in known, f"{lines[0]}: {unknown_name('key', key, sorted(known))}")
    check([*stages, *merges], given, field_names(Args))
    settings = effective(args, {*table, *given}, [train, *stages, *merges])
    print("\n" + yaml.safe_dump(settings, sort_keys=False), flush=True)
    lengths = {name: int((table | given)[name]) for name in ("lora_r", "max_length", "max_new_tokens")}
    check_fits(SimpleNamespace(**lengths | vars(train.args())), args.method, given.get("sft_model", args.model))

    for one in stages:
        if one.script == "generate_dpo_data.py" and has_pairs(one, train):
            print(f"\n{one.settings['output_path']}: the interrupted training resumes with these pairs")
            continue
        if one is train and args.method == "dpo" and args.save_merged_epochs and "keep_every" not in given:
            pairs = len(Path(train.settings["train_path"]).read_text().splitlines())  # not known before
            train.settings["keep_every"] = math.ceil(pairs / train.settings["batch_size"])
        run_stage(one)
    if tests:  # before the merges: if one of these fails, for lack of disk space perhaps, no result is lost
        record = {"run_name": train.settings["run_name"], "adapter": output, "settings": settings}
        path = f"evaluation_results_{Path(args.model).name}_{args.method}_{moment}.json"
        finish_evaluation(tests, name, Path(given.get("results_dir", "results")) / path, record, train.settings)
    if args.save_merged_epochs:
        unpushed = {n: v for n, v in given.items() if n not in ("push_to_hub", "hub_model_id", "public")}
        kept = sorted(Path(output).glob("step_*"), key=lambda folder: int(folder.name.removeprefix("step_")))
        for epoch, folder in enumerate(kept, start=1):
            merges.append(merge(str(folder), f"{merged}-epoch{epoch}", unpushed))
    for one in merges:
        run_stage(one)


if __name__ == "__main__":
    answer_for(lambda: main(sys.argv[1:]))
