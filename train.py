"""One front door: train a model by a method on a data set, merge the adapter, evaluate it.

    python train.py <sft|rl|ppo|grpo|dpo> [GPU] [MODEL] [options]
    python train.py CONFIG.yaml [options]

It makes no step itself. It puts the settings together (the scripts' defaults < training/defaults.py < the YAML file <
options), prints them as a YAML file that makes the same run, and calls the stages one after another: train_*_lora.py,
merge_adapter.py, eval_humaneval.py. Any option of a stage is passed on to it (`python train_grpo_lora.py --help`); one
that no stage of the run takes is an error. rl, ppo, grpo and dpo start from a fresh adapter, that is from the model as
it is, unless --sft_model names one. Hyphens and underscores are the same: --batch-size, --batch_size.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import yaml

from common import InputError, answer_for, as_flags, field_names, parse_args, read_yaml, require, unknown_name
from judging.data_sets import data_of, evaluated_on, language
from judging.tasks import read_tasks
from training.defaults import is_pocket, settings_for
from training.final_evaluation import conclude, evaluations
from training.tracking import check_tracker

ROOT = Path(__file__).parent
METHODS = ("sft", "rl", "ppo", "grpo", "dpo")


@dataclass
class Args:
    method: Literal["sft", "rl", "ppo", "grpo", "dpo"] = "sft"  # how to train
    gpu: int = -1  # number of the GPU; -1: the first, or the CPU where there is none
    model: str = ""  # hub name or folder; "": deepseek-coder-1.3b-base, or on a CPU the embedded pocket_coder
    dataset: str = ""  # mbpp, humaneval, verilog, pocket, pocket_mbpp, pocket_verilog or a task file; "": the model's
    epochs: float = 1.0  # passes over the tasks
    batch_size: int = 0  # tasks a step (sft: examples at a time; dpo: pairs); 0: as training/defaults.py has it
    early_stopping: bool = True  # rl, ppo, grpo: keep the adapter that passes most validation tasks, end when past it
    merge: bool = True  # make a plain model of the trained adapter
    save_merged_epochs: bool = False  # and of the adapter after each epoch
    auto_eval: bool = False  # evaluate at the end: pass@1, 5, 10 of samples at temperature 0.2, and greedily
    eval_on: str = (
        ""  # data sets or task files of that, commas between; "": mbpp,humaneval, pocket,pocket_mbpp, verilog
    )
    wandb: bool = False  # the same as --report_to wandb
    debug: bool = False  # a short run of the whole: 2 steps, 4 tasks an evaluation, no tracker, names end in -debug
    checkpoints: str = "checkpoints"  # folder of everything that is trained
    config: str = ""  # YAML file with any of these and of the stages'; options win over it


# what follows from the front door's arguments, and is not said again in the settings that are printed
DERIVED = {"train_path", "model_name", "sft_model", "output_dir", "run_name", "num_steps", "num_updates", "max_steps",
           "num_train_epochs", "per_device_train_batch_size", "valid_path", "valid_every", "patience", "keep_every",
           "config"}  # fmt: skip

# of an evaluation: what has another meaning in training (a check's time limit: the same for every method), and what
# would make it one of something else than the adapter
NOT_OF_TRAINING = ("temperature", "top_p", "batch_size", "time_limit")
NOT_OF_TRAINING += ("data_path", "model_path", "exp_name", "samples", "server")


@dataclass
class Stage:
    """A script and the settings it is given."""

    script: str
    settings: dict[str, Any]


def arguments_of(script: str) -> type:
    return importlib.import_module(Path(script).stem).Args


def theirs(script: str, settings: dict[str, Any], *others: str) -> dict[str, Any]:
    """Those of the settings that the script takes, but for `others`, which mean something else there."""
    names = set(field_names(arguments_of(script))) - {"config", *others}
    return {name: value for name, value in settings.items() if name in names}


def read_command(argv: list[str]) -> dict[str, Any]:
    """Everything that the user set, by name: the YAML file's, then the command line's.

    >>> read_command(["dpo", "0", "some/model", "--batch-size", "4", "--no-merge", "--beta=0.1"])
    {'method': 'dpo', 'gpu': '0', 'model': 'some/model', 'batch_size': '4', 'merge': False, 'beta': '0.1'}

    Raises:
        InputError: the first word is neither a method nor a YAML file, or a word is in nobody's place.
    """
    words, said = list(argv), {}
    while words and not words[0].startswith("--"):
        word = words.pop(0)
        if not said:
            is_file = word.endswith((".yaml", ".yml"))
            require(is_file or word in METHODS, f"{word!r}: the first word is {', '.join(METHODS)} or a YAML file")
            said["config" if is_file else "method"] = word
        else:
            name = "gpu" if word.isdigit() and "gpu" not in said else "model"
            require(name not in said, f"{word!r}: want METHOD [GPU] [MODEL], then options")
            said[name] = word
    while words:
        name, equals, value = words.pop(0).partition("=")
        require(name.startswith("--"), f"{name!r}: belongs to no option; GPU and MODEL come before the options")
        name = name[2:].replace("-", "_")
        if equals or (words and not words[0].startswith("--")):
            said[name] = value if equals else words.pop(0)
        else:
            said[name.removeprefix("no_")] = not name.startswith("no_")
    written = read_yaml(Path(said["config"])) if "config" in said else {}
    if "report_to" in said:
        written.pop("wandb", None)  # which says the same
    return written | said


def find_gpu(gpu: int) -> bool:
    """Whether there is a GPU for the run; it is then the only one that the stages see (SFT's Trainer would take all).

    Raises:
        InputError: there are GPUs, but not so many.
    """
    import torch

    count = torch.cuda.device_count()  # which leaves CUDA as it is: what starts it must not see the other GPUs
    require(not count or gpu < count, f"GPU {gpu}: torch sees {count} here, numbered from 0")
    if not count:
        print(f"{f'GPU {gpu}: ' if gpu >= 0 else ''}torch sees no CUDA GPU here; this runs on the CPU")
    else:
        visible, gpu = os.environ.get("CUDA_VISIBLE_DEVICES", ""), max(gpu, 0)
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    return count > 0


def plan(args: Args, table: dict[str, Any], given: dict[str, Any]) -> list[Stage]:
    """The stages up to the trained adapter; the last one trains it.

    Args:
        table: settings for this method and model (`models.settings_for`).
        given: what the user set beside the front door's own arguments; it wins.
    """
    name, data, script = name_of(args), data_of(args.dataset), f"train_{args.method}_lora.py"
    settings, batch = table | given, args.batch_size or table["batch_size"]
    start, pairs = f"{args.checkpoints}/{name}-start", f"{args.checkpoints}/{name}-pairs.jsonl"
    typed = read(Stage(script, theirs(script, settings, "batch_size")))
    an_update = batch * getattr(typed, "gradient_accumulation_steps", 1)
    per_epoch = math.ceil(len(read_tasks(data.train)) / an_update)
    steps = 2 if args.debug else math.ceil(args.epochs * per_epoch)
    steps = next(
        (getattr(typed, name) for name in ("num_steps", "num_updates") if name in theirs(script, given)), steps
    )
    own = {
        "sft_model": start,
        "output_dir": f"{args.checkpoints}/{name}-qlora",
        "num_updates": steps,
    }
    if args.method in ("sft", "dpo"):  # passes: how many pairs there will be is not known yet
        own |= {"num_train_epochs": args.epochs} | ({"max_steps": steps, "num_steps": steps} if args.debug else {})
    else:
        own["num_steps"] = steps
    if args.early_stopping and (valid := given.get("valid_path", data.valid)):
        own |= {"valid_path": valid, "valid_every": max(1, math.ceil(steps / 10)), "patience": 3}
    if args.save_merged_epochs:
        own["keep_every"] = 1 if args.debug else per_epoch
    fixed = {"train_path": pairs if args.method == "dpo" else data.train, "model_name": args.model}
    fixed |= {"batch_size": batch, "per_device_train_batch_size": batch}
    train = Stage(script, theirs(script, own | settings | fixed))
    if args.early_stopping and not hasattr(typed, "valid_path"):
        print(f"early stopping: off, {script} does not validate")
    elif args.early_stopping and "valid_path" not in train.settings:
        print(f"early stopping: off, {args.dataset} has no validation tasks; --valid_path FILE names some")

    stages = []
    if args.method != "sft" and "sft_model" not in given:
        fresh = {n: v for n, v in settings.items() if n in ("max_length", "seed", "trust_remote_code") or "lora_" in n}
        fresh |= {"model_name": args.model, "train_path": data.train, "output_dir": start, "max_steps": 0}
        stages.append(Stage("train_sft_lora.py", fresh))
    if args.method == "dpo":
        sampling = {"sft_model": start} | ({"limit": 16} if args.debug else {}) | settings
        sampling = theirs("generate_dpo_data.py", sampling, "batch_size")
        stages.append(Stage("generate_dpo_data.py", sampling | {"train_path": data.train, "output_path": pairs}))
    return [*stages, train]


def name_of(args: Args) -> str:
    return f"{Path(args.model).name}-{Path(args.dataset).stem}-{args.method}{'-debug' if args.debug else ''}"


def merge(adapter: str, output: str, given: dict[str, Any]) -> Stage:
    unsaid = ["dtype"] if given.get("dtype") == "auto" else []  # merged weights are written in some dtype
    return Stage("merge_adapter.py", theirs("merge_adapter.py", given, "output_dir", *unsaid)
                 | {"adapter_model_id": adapter, "output_dir": output})  # fmt: skip


def read(stage: Stage) -> Any:
    """Its settings as the script itself will have them. Raises InputError where a value does not fit."""
    return parse_args(arguments_of(stage.script), as_flags(stage.settings))


def check(stages: list[Stage], given: dict[str, Any]) -> None:
    """What the stages would say of their settings, before the first of them runs.

    Raises:
        InputError: an option that no stage of the run takes, or a value that does not fit.
    """
    for name, value in given.items():
        if not any(name in stage.settings and str(stage.settings[name]) == str(value) for stage in stages):
            known = [known for stage in stages for known in field_names(arguments_of(stage.script))]
            require(name not in known, f"--{name}: is of no use in this run, or another option says it")
            raise InputError(unknown_name("option", f"--{name}", field_names(Args) + known))
    for stage in stages:
        args, module = read(stage), importlib.import_module(Path(stage.script).stem)
        if hasattr(args, "report_to"):
            check_tracker(args)
        if hasattr(module, "check"):
            module.check(args)


def run_stage(stage: Stage) -> None:
    """Run a script to its end, and leave with its exit code if that is not 0."""
    command = ["python", stage.script, *as_flags(stage.settings)]
    print("\n" + shlex.join(command), flush=True)
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen([sys.executable, str(ROOT / stage.script), *command[2:]], env=environment)
    before = {  # the stage's to answer: it saves its state and ends
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),  # the terminal sends it to the stage too
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number)),
    }
    code = process.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def effective(args: Args, stages: list[Stage], named: set[str]) -> dict[str, Any]:
    """The settings of a run as a YAML file that makes the same run has them; what follows from others is left out.

    Args:
        stages: the one that trains first. named: settings of any stage, by the user or in training/defaults.py.
    """
    parsed = [vars(read(stage)) for stage in stages]
    train = parsed[0]
    chosen = {name: value for name, value in asdict(args).items() if name not in ("config", "wandb")}
    for settings in reversed(parsed):  # what another stage has of the same name is not the one that trains
        chosen |= {name: settings[name] for name in sorted(named) if name in settings}
    chosen["batch_size"] = train.get("per_device_train_batch_size") or train["batch_size"]
    return chosen | {name: value for name, value in train.items() if name not in chosen and name not in DERIVED}


def has_pairs(pairs: Stage, train: Stage) -> bool:
    """Whether this very stage has made pairs that an interrupted training goes on with."""
    stats = Path(pairs.settings["output_path"].removesuffix(".jsonl") + "_stats.json")
    interrupted = Path(train.settings["output_dir"] + ".partial", "resume.pt").is_file() and read(train).resume
    return interrupted and stats.is_file() and json.loads(stats.read_text())["args"] == asdict(read(pairs))


def merged_name(output: str) -> str:
    return output.removesuffix("-qlora") + "-merged"


def main(argv: list[str]) -> None:
    if {"-h", "--help"} & set(argv):
        parse_args(Args, ["--help"], __doc__)
    said = read_command(argv)
    require(bool(said), "want METHOD [GPU] [MODEL] or a YAML file, then options; --help says which")
    require("method" in said, f"{said.get('config', argv[0])}: no method is named; want one of {', '.join(METHODS)}")
    own = {name: said.pop(name) for name in field_names(Args) if name in said}
    args, given = parse_args(Args, as_flags({n: v for n, v in own.items() if n != "config"})), said
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

    verilog = args.dataset != "" and language(args.dataset) == "verilog"
    embedded = "data/pocket_verilog_coder" if verilog else "data/pocket_coder"
    args.model = args.model or ("deepseek-ai/deepseek-coder-1.3b-base" if on_gpu else embedded)
    pocket = "pocket_verilog" if "verilog" in Path(args.model).name else "pocket"
    args.dataset = args.dataset or (pocket if is_pocket(args.model) else "mbpp")
    print(f"{args.method}: {args.model} on {args.dataset}")
    size = num_parameters(args.model, given.get("trust_remote_code") in (True, "True"))
    table, lines = settings_for(args.method, args.model, size, {*given, *own}, language(args.dataset))
    for line in lines:
        print(f"settings: {line}")

    # the stages
    name, moment = name_of(args), time.strftime("%m%d-%H%M")
    run_name = f"{name}-{f'gpu{max(args.gpu, 0)}' if on_gpu else 'cpu'}-{moment}"
    stages = plan(args, table, {"run_name": run_name} | given)
    train = stages[-1]
    if getattr(read(train), "dry_run", False):  # it leaves no adapter
        args.merge = args.auto_eval = args.save_merged_epochs = False
    output = train.settings["output_dir"]
    tests = evaluated_on(args.eval_on, args.dataset, is_pocket(args.model)) if args.auto_eval else {}
    settings = theirs("eval_humaneval.py", table | given, *NOT_OF_TRAINING)
    if settings.get("prompt_level") in ("curriculum", "all"):  # of training alone
        del settings["prompt_level"]
    if args.debug:
        settings = {"limit": 4} | settings
    stages += [Stage("eval_humaneval.py", one) for one in evaluations(tests, name, output, settings)]
    merges = [merge(output, merged_name(output), given)] if args.merge else []
    check([*stages, *merges], given)
    settings = effective(args, [train, *stages, *merges], {*table, *given})
    print("\n" + yaml.safe_dump(settings, sort_keys=False), flush=True)
    lengths = {name: int((table | given)[name]) for name in ("lora_r", "max_length", "max_new_tokens")}
    check_fits(SimpleNamespace(**lengths | vars(read(train))), args.method, given.get("sft_model", args.model))

    for stage in stages:
        if stage.script == "generate_dpo_data.py" and has_pairs(stage, train):
            print(f"\n{stage.settings['output_path']}: the pairs that the interrupted training goes on with")
            continue
        if stage is train and args.method == "dpo" and args.save_merged_epochs and "keep_every" not in given:
            pairs = len(Path(train.settings["train_path"]).read_text().splitlines())  # not known before
            train.settings["keep_every"] = math.ceil(pairs / train.settings["batch_size"])
        run_stage(stage)
    if tests:  # before the merges: what they lack, a place on the disk say, loses no figure
        record = {"run_name": train.settings["run_name"], "adapter": output, "settings": settings}
        path = f"evaluation_results_{Path(args.model).name}_{args.method}_{moment}.json"
        conclude(tests, name, Path(given.get("results_dir", "results")) / path, record, train.settings)
    for stage in merges:
        run_stage(stage)
    if args.save_merged_epochs:
        unpushed = {n: v for n, v in given.items() if n not in ("push_to_hub", "hub_model_id", "public")}
        kept = sorted(Path(output).glob("step_*"), key=lambda folder: int(folder.name.removeprefix("step_")))
        for epoch, folder in enumerate(kept, start=1):
            run_stage(merge(str(folder), f"{merged_name(output)}-epoch{epoch}", unpushed))


if __name__ == "__main__":
    answer_for(lambda: main(sys.argv[1:]))
