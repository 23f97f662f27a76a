"""Every command that a page shows is right: it parses, and it is run, here in a short form or by a test named here.

`RUN` are the scripts whose commands are run here, `ELSEWHERE` what is run by another test or cannot be run at all,
`PAGES_ELSEWHERE` whole pages. A command that is in none of them fails, and so does an entry that nothing needs.
"""

import glob
import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from documented import Command, commands_of

import train
from common import InputError, as_flags, field_names, parse_args, require
from model import load as policy

PAGES_ELSEWHERE = {"docs/extend.md": "tests/test_extend.py"}
GENERATED = {"docs/flags.md"}  # from the scripts; it has a test of its own

# script: what makes its commands short (words at the end win), or complete (in front of the command's own)
TRAINING = "--batch_size 1 --max_new_tokens 12"
RUN = {
    "train.py": "--debug --max_new_tokens 12",
    "train_sft_lora.py": "--max_steps 1",
    "train_rl_lora.py": f"--num_steps 1 {TRAINING}",
    "train_ppo_lora.py": f"--num_updates 1 --ppo_epochs 2 {TRAINING}",
    "train_grpo_lora.py": f"--num_steps 1 {TRAINING} --num_samples 2",
    "train_dpo_lora.py": "--num_steps 1",
    "train_rft_lora.py": f"--num_steps 1 {TRAINING} --num_samples 2",
    "generate_dpo_data.py": "--limit 8 --num_samples 4 --max_new_tokens 64 --stop_at_strings",
    "eval_humaneval.py": "--limit 2 --max_new_tokens 8",
    "merge_adapter.py": "",
    "policy.py": "",
    "results_table.py": "",
    "curves.py": "",
    "report.py": "",
    "overlap.py": "",
    "sandbox.py": "",
    "verilog.py": "",
    "data/prepare_mbpp.py": "--output_dir made",
    "benchmarks/bench_sandbox.py": f"--rounds 1 --limit 2 --workers 1 --heap-mib 1 --against {ROOT}",
    "benchmarks/bench_stdio.py": "--rounds 1 --limit 2 --workers 1 --inputs 2",
    "benchmarks/adapter_gap.py": "--num_tasks 1 --max_new_tokens 2",
    "benchmarks/bench_memory.py": "--prompt 16 --max_new_tokens 4",
    "benchmarks/bench_verilog.py": "",
    "benchmarks/bench_decode.py": "--model_path data/pocket_coder --rounds 1 --rows 1 --steps 1",
    "benchmarks/bench_report.py": "--rollouts 40 --loads 1",
    "benchmarks/bench_importance.py": "",
}
SFT = "--sft_model checkpoints/sft --train_path data/pocket_train.jsonl"
COMPLETED = {
    "train_grpo_lora.py": f"{SFT} --output_dir checkpoints/completed",
    "eval_humaneval.py": "--model_path checkpoints/sft --data_path data/pocket_test.jsonl --exp_name completed",
    "policy.py": "--model_name data/pocket_coder",
}

# what is not run here: who does (a file, and what in it says so), or why nobody can
ELSEWHERE: dict[str, tuple[str, str] | str] = {
    r"sh train_SFT_RL\.sh": (".ci/run", "sh train_SFT_RL.sh"),
    r"STEPS=2 LIMIT=20 .*sh train_SFT_RL\.sh": (".ci/run", "STEPS=2 LIMIT=20 RESULTS="),
    r"MODEL=\S+ TRAIN=\S+ TEST=\S+ PROFILE=deepseek sh train_SFT_RL\.sh": (
        "tests/test_pipeline.py", 'PROFILE="deepseek", MODEL=deepseek'),
    r"PROFILE=smol MODEL=FOLDER SOURCE=mbpp\.jsonl sh train_SFT_RL\.sh": (
        "tests/test_pipeline.py", 'PROFILE="smol", MODEL=SMOL'),
    r"sh train_(PPO|GRPO|DPO|RFT)\.sh": (  # see below
        "reproduce_table.sh", 'for method in SFT_RL PPO GRPO DPO RFT'),
    r"(PROFILE=pocket )?sh train_VERILOG\.sh": ("tests/test_pipeline.py", '"train_VERILOG.sh", PROFILE="pocket"'),
    r"sh run_tests\.sh.*": (".ci/run", "sh run_tests.sh --slow"),
    r"(.* )?sh ablations\.sh \w+": ("tests/test_pipeline.py", "ablations.sh"),
    r"(.* )?sh reproduce_table\.sh": ("tests/test_pipeline.py", '"reproduce_table.sh"'),
    r"python3 -m venv \.venv": ("profile.sh", '-m venv .venv'),
    r"\.venv/bin/pip install torch==2\.13\.0\+cpu --index-url .*": ("requirements.txt", "torch==2.13.0"),
    r"\. \.venv/bin/activate": ("profile.sh", "PATH=$PWD/.venv/bin:$PATH"),  # which is what it does
    r"\.venv/bin/ruff check \.": (".ci/run", "ruff check ."),
    r"\.venv/bin/ruff format --check \.": (".ci/run", "ruff format --check ."),
    r"apt-get install iverilog yosys verilator": (".ci/run", "iverilog yosys verilator"),
    r"apt-get install chromium chromium-driver": (".ci/run", "chromium chromium-driver"),
    r"(\S+=\S+ )*accelerate launch .*": ("tests/test_processes.py", "accelerate.commands.launch"),
    r"python train_grpo_lora\.py --engine vllm .*": ("tests/test_vllm_real.py", '"train_grpo_lora.py"'),
    r"vllm serve .*": "a server; tests/test_server.py plays one",
    r"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve .*": "a server; tests/fleet_stand_in.py plays one",
    r"python train_grpo_lora\.py .*--engine server .*": ("tests/test_sampling_server.py", 'engine="server"'),
    r"python benchmarks/bench_fleet\.py .*": ("tests/test_benchmarks.py", "bench_fleet.run"),
    r"python benchmarks/bench_importance\.py --methods .*": ("tests/test_benchmarks.py", "bench_importance.tables"),
    r"python benchmarks/compare_engines\.py .*": ("tests/test_benchmarks.py", "compare_engines.main"),
    r"python eval_humaneval\.py .*--server .*": ("tests/test_server.py", '"--server", address'),
    r"python data/prepare_humaneval\.py --source .*": (
        "tests/test_pipeline.py", '"data/prepare_humaneval.py", "--source"'),
    r"python data/prepare_(humaneval|mbpp)\.py": ("tests/test_mbpp.py", "test_the_full_set_comes_from_the_hub"),
    r"python data/prepare_mbpp\.py --source (FILE|mbpp\.jsonl)": (  # all 974 tasks; other sources are run here
        "tests/test_mbpp.py", "test_the_full_set_comes_from_the_hub"),
    r"python curves\.py .* --reach .*": ("tests/test_curves.py", "reach="),
    r"python curves\.py --pass_at_k .*": ("tests/test_curves.py", "pass_at_k=tuple(files)"),
    r"python data/prepare_tasks\.py .*": ("tests/test_prepare_tasks.py", "prepare_tasks.main"),
    r"python task_difficulty\.py .*": ("tests/test_task_difficulty.py", "task_difficulty.main"),
    r"python data/prepare_verilogeval\.py .*": (
        "tests/test_verilogeval.py", '"data/prepare_verilogeval.py", "--source"'),
    r"python data/make_pocket_tasks\.py": (
        "tests/test_pocket.py", "test_the_committed_tasks_are_the_ones_the_script_makes"),
    r"python data/make_(pocket_)?verilog_tasks\.py": (
        "tests/test_pocket_verilog.py", "test_the_task_files_are_what_the_tables_say"),
    r"python data/make_pocket_(verilog_)?coder\.py( --slips)?": "trains the embedded model: minutes",
    r"(\S+=\S+ )*python benchmarks/bench_rl_step\.py .*": ("tests/test_benchmarks.py", "benchmarks/bench_rl_step.py"),
    r"(\S+=\S+ )*python benchmarks/bench_scaling\.py .*": ("tests/test_benchmarks.py", "benchmarks/bench_scaling.py"),
    r"python eval_humaneval\.py --samples FILE --data_path data/humaneval_all\.jsonl .*": (
        "tests/test_benchmarks.py", "eval_humaneval.main"),
    r"python benchmarks/published_prompt\.py .*": ("tests/test_benchmarks.py", "published_prompt.main"),
    r"python benchmarks/gpu_check\.py": (".ci/run", "python benchmarks/gpu_check.py"),
    r"python benchmarks/bench_precision\.py .*": ("tests/test_parity.py", "bench_precision.gate_rows"),
    r"python tests/pretended_gpu\.py .*count_kernels\.py": ("tests/test_pretended_gpu.py", "count_kernels.py"),
    r"python benchmarks/bench_memory\.py --shape deepseek-coder-1\.3b .*": "for a GPU; the small shape is run here",
}  # fmt: skip

# what stands for something of the reader's own
PLACEHOLDERS = {
    "RUN_DIR": "checkpoints/run",
    "OUTPUT_DIR": "checkpoints/run",
    "FILE": "completions.jsonl",
    "FOLDER": "data/pocket_coder",
    "ROW": "pocket_sft",
    "TASKS.jsonl": "data/verilog_train.jsonl",
    "sanitized-mbpp.json": "data/pocket_mbpp.jsonl",
}
NOT_COMMITTED = re.compile(
    r"data/(mbpp|humaneval|verilogeval|pocket_mbpp|kodcode|acecode|taco|apps|livecodebench)_?\w*\.jsonl"
)


def pages() -> list[str]:
    found = [*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md",
                                                                    "benchmarks/README.md"))]  # fmt: skip
    return sorted(str(path.relative_to(ROOT)) for path in found)


def commands(page: str) -> list[Command]:
    return commands_of(ROOT / page, page)


def listed(one: Command) -> str:
    """The pattern in ELSEWHERE that is about this command; "" if there is none."""
    return next((pattern for pattern in ELSEWHERE if re.fullmatch(pattern, one.text)), "")


QUESTIONS = ["alpha", "baseline", "ratio", "critic", "grpo", "batch", "rounds", "exit_code", "selection"]
QUESTIONS += ["difficulty", "turns"]

ALL = [one for page in pages() if page not in PAGES_ELSEWHERE and page not in GENERATED for one in commands(page)]


# fast: what they say is there


def arguments(script: str) -> type:
    """The dataclass of a script's arguments."""
    if script == "policy.py":
        return importlib.import_module("model.memory").Args
    name = script.removesuffix(".py").replace("benchmarks/", "benchmarks.").replace("data/", "")
    return importlib.import_module(name).Args


# scripts that do not read a dataclass
WITHOUT_FLAGS = ("data/make_pocket_tasks.py", "data/make_verilog_tasks.py", "data/make_pocket_verilog_tasks.py",
                 "data/make_exit_tasks.py", "benchmarks/bench_verilog.py", "tests/pretended_gpu.py")  # fmt: skip
FLAGS_IN = {
    "sandbox.py": "judging/self_test.py",
    "verilog.py": "judging/self_test.py",
    "benchmarks/bench_sandbox.py": "benchmarks/bench_sandbox.py",
    "benchmarks/bench_stdio.py": "benchmarks/bench_stdio.py",
    "data/make_pocket_coder.py": "data/make_pocket_coder.py",
    "data/make_pocket_verilog_coder.py": "data/make_pocket_coder.py",
}


def check_front_door(words: list[str]) -> None:
    """The options of `python train.py`: its own, and those of a stage."""
    said = train.read_command(words)
    own = {name: said.pop(name) for name in field_names(train.Args) if name in said}
    parse_args(train.Args, as_flags({name: value for name, value in own.items() if name != "config"}))
    stages = [f"train_{own['method']}_lora.py", "train_sft_lora.py", "generate_dpo_data.py", "eval_humaneval.py"]
    known = {name for stage in [*stages, "merge_adapter.py"] for name in field_names(arguments(stage))}
    require(said.keys() <= known, f"unknown: {', '.join(said.keys() - known)}")


def check_python(one: Command) -> None:
    """Its flags and their values are the script's.

    Raises:
        InputError: they are not.
    """
    script, words = one.script, list(one.words[2:])
    if words == ["--help"]:
        return
    if script == "train.py":
        check_front_door(words)
    elif script in WITHOUT_FLAGS:
        require(not [word for word in words if word.startswith("--")], f"{script} takes no flags")
    elif script in FLAGS_IN:
        there = re.findall(r'add_argument\(\s*"(--\w[\w-]*)"', (ROOT / FLAGS_IN[script]).read_text(encoding="utf-8"))
        for word in words:
            require(not word.startswith("--") or word in there, f"{script} has no {word}")
    else:
        args = parse_args(arguments(script), words)
        if script.startswith("train_"):  # what a run refuses before it loads anything
            module = importlib.import_module(script.removesuffix(".py"))
            getattr(module, "check", lambda args: None)(args)


def problem(one: Command) -> str:
    """What is wrong with a command, in a line; "" if it could be run."""
    script = one.script
    if not script:
        inner = [n for n, word in enumerate(one.words) if word.endswith(".py")]
        return problem(replace(one, words=("python", *one.words[inner[0] :]))) if inner else ""
    if not (ROOT / script).is_file():
        return f"there is no {script}"
    for word in one.words:
        if re.match(r"(data|docs|configs|benchmarks)/", word) and not NOT_COMMITTED.fullmatch(word):
            if not (ROOT / word.partition(":")[0]).exists():  # FILE.py:FUNCTION
                return f"there is no {word}"
    if one.words[:2] == ("sh", "ablations.sh") and one.words[2] not in (*QUESTIONS, "QUESTION"):
        return f"ablations.sh knows no {one.words[2]}"
    if one.words[0] == "sh":
        known = "".join((ROOT / name).read_text(encoding="utf-8") for name in (script, "profile.sh"))
        for setting in one.settings:
            name = setting.partition("=")[0]
            if not re.search(rf"\$\{{{name}[:+=?-]|^#.*\b{name}=", known, re.M):
                return f"{script} reads no {name}"
        return ""
    try:
        check_python(one)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", sorted({one.where.partition(":")[0] for one in ALL}))
def test_commands_are_right(page):
    wrong = [f"{one.where}: {one.text}: {said}" for one in ALL
             if one.where.startswith(page + ":") and (said := problem(one))]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_every_command_is_run_somewhere():
    lost = [f"{one.where}: {one.text}" for one in ALL if not listed(one) and one.script not in RUN]
    assert not lost, "in neither RUN nor ELSEWHERE:\n" + "\n".join(lost)
    for pattern, where in ELSEWHERE.items():
        if isinstance(where, tuple):
            assert where[1] in (ROOT / where[0]).read_text(encoding="utf-8"), f"{pattern}: not in {where[0]}"
    for page, test in PAGES_ELSEWHERE.items():
        assert not (ROOT / page).exists() or page in (ROOT / test).read_text(encoding="utf-8")


def test_nothing_is_listed_in_vain():
    """Of RUN and ELSEWHERE."""
    used = {listed(one) or one.script for one in ALL}
    assert [name for name in (*RUN, *ELSEWHERE) if name not in used] == []


PIPELINES = [*(f"train_{name}.sh" for name in ("SFT_RL", "PPO", "GRPO", "DPO", "RFT", "VERILOG")), "reproduce_table.sh"]


@pytest.mark.parametrize(
    ("line", "profile"),
    [(line, "pocket") for line in PIPELINES if line.startswith("train")]
    + [pytest.param(line, "deepseek", marks=pytest.mark.slow) for line in PIPELINES]
    + [pytest.param(line, "smol", marks=pytest.mark.slow) for line in PIPELINES if "VERILOG" not in line]
    + [pytest.param("reproduce_table.sh", "pocket", marks=pytest.mark.slow)]
    + [pytest.param(f"ablations.sh {question}", "pocket", marks=pytest.mark.slow) for question in QUESTIONS],
)
def test_what_a_shell_script_runs_is_right(tmp_path, line, profile):
    """Its commands, in full length, noted by a python that does nothing else."""
    packages = ("common", "judging", "model", "reporting", "training")
    folders = [ROOT / name for name in ("data", "docs", "results", *packages)]
    for path in (*ROOT.glob("*.py"), *ROOT.glob("*.sh"), *folders):
        (tmp_path / path.name).symlink_to(path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for name in ("requirements.txt", ".venv/requirements.txt"):
        (tmp_path / name).write_text("")
    python.write_text("#!/bin/sh\nfor word; do printf '%s\\t' \"$word\"; done >> said\necho >> said\n")
    python.chmod(0o755)
    for name in ("checkpoints", "made"):
        (tmp_path / name / "pocket_lora_x").mkdir(parents=True)
    (tmp_path / "checkpoints" / "pocket_lora_x" / "x_train_log.jsonl").write_text("")
    for prefix in ("deepseek_1_3b", "smol_mbpp"):
        (tmp_path / "checkpoints" / f"{prefix}_lora_x").symlink_to("pocket_lora_x")
    (tmp_path / "checkpoints" / "exit_train.jsonl").write_text("")
    tasks = {} if "VERILOG" in line else {"TRAIN": "data/pocket_train.jsonl", "TEST": "data/pocket_test.jsonl"}
    environment = {"PATH": os.environ["PATH"], "PROFILE": profile, "RESULTS": "made", "CHECKPOINTS": "checkpoints"}
    done = subprocess.run(["sh", *line.split()], cwd=tmp_path, env=environment | tasks, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [("python", *words.split("\t")[:-1]) for words in (tmp_path / "said").read_text().splitlines()]
    said = [words for words in said if words[1] not in ("common/dependencies.py", "-W")]  # asked by `stage`, `fetch`
    assert len(said) >= 5 and said[-1][1] in ("results_table.py", "curves.py")
    wrong = [" ".join(words) + ": " + why for words in said if (why := problem(Command(line, words)))]
    assert not wrong, "\n".join(wrong)


# slow: they run


def key(one: Command) -> tuple:
    """Commands with the same one are alike: one of them is run."""
    method = one.words[2:3] if one.script == "train.py" else ()
    return one.script, method, tuple(sorted({word for word in one.words if word.startswith("--")}))


DISTINCT = list({key(one): one for one in reversed(ALL) if one.script in RUN and not listed(one)}.values())[::-1]


@pytest.fixture(scope="module")
def project(tmp_path_factory, start) -> Path:
    """The project as these commands need it: short task files, results of its own, and an adapter that was trained.

    `checkpoints/run` is that adapter, with a log and completions.
    """
    folder = tmp_path_factory.mktemp("project")
    for name in ("docs", "configs", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "README.md", folder)
    (folder / "data").mkdir()
    for path in (ROOT / "data").iterdir():
        if (
            path.suffix == ".jsonl"
            and path.name != "pocket_mbpp.jsonl"
            and not NOT_COMMITTED.fullmatch(f"data/{path.name}")
        ):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: 16 if "train" in path.name else 4]
            (folder / "data" / path.name).write_text("".join(lines), encoding="utf-8")
        elif not path.name.startswith(("mbpp_", "humaneval_", "pocket_mbpp_", "verilogeval", "__")):
            (folder / "data" / path.name).symlink_to(path)
    make_other_data_sets(folder / "data")
    shutil.copytree(ROOT / "results", folder / "results")
    of_table = ROOT / "results" / "published"
    for new, old in {"pocket_sft": "pocket_sft", "my_rl": "pocket_rl_alpha0.01"}.items():
        for end in ("metrics.json", "per_task.jsonl"):
            text = (of_table / f"{old}_{end}").read_text(encoding="utf-8").replace(f'"{old}"', f'"{new}"')
            (folder / "results" / f"{new}_{end}").write_text(text, encoding="utf-8")
    (folder / "checkpoints").mkdir()
    shutil.copytree(start, folder / "checkpoints" / "start")
    return folder


def make_other_data_sets(data: Path) -> None:
    """A few tasks under the names of data sets that are not committed."""
    prepare = importlib.import_module("prepare_mbpp")
    prepare.main(prepare.Args(source=str(ROOT / "data/pocket_mbpp.jsonl"), name="pocket_mbpp", output_dir=str(data)))
    for part, count in (("train", 4), ("validation", 2), ("test", 2)):
        lines = (data / f"pocket_mbpp_{part}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        for name in ("mbpp", "pocket_mbpp"):
            (data / f"{name}_{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    lines = (data / "pocket_train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, few in {"train": lines[:12], "test": lines[12:14], "all": lines[12:16]}.items():
        (data / f"humaneval_{name}.jsonl").write_text("".join(few), encoding="utf-8")
    shutil.copy(data / "verilog_test.jsonl", data / "verilogeval.jsonl")


@pytest.fixture
def execute(project, monkeypatch, capsys):
    """Run a Python script as its user does, but in this process, whose imports are paid; its output."""

    def stage(one):
        module = importlib.import_module(Path(one.script).stem)
        module.main(parse_args(module.Args, as_flags(one.settings)))

    def call(script: str, *words: str) -> str:
        monkeypatch.chdir(project)
        monkeypatch.setattr(train, "run_stage", stage)
        monkeypatch.setattr(policy, "compute_dtype", policy.compute_dtype)  # bench_memory.py sets another
        monkeypatch.setattr(sys, "argv", [script, *words])
        monkeypatch.syspath_prepend(str((ROOT / script).parent))
        try:
            if script == "train.py":
                train.main(list(words))
            else:
                runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            assert not end.code, capsys.readouterr().err
        return capsys.readouterr().out

    return call


def ready(one: Command, execute) -> list[str]:
    """The words after the script's name: completed, made short, placeholders replaced; and what they read is there."""
    words = list(one.words[2:])
    if words == ["--help"]:
        return words
    words = [PLACEHOLDERS.get(word, word) for word in words]
    short = RUN[one.script].split() if "--max_steps" not in words else []  # of SFT: 0 is the untrained adapter
    if "--auto-eval" in words:
        short += ["--n_samples", "1", "--num_samples", "2", "--limit", "1"]
    if one.script == "train.py" and words[0] == "dpo":  # some completions must pass, or there is no pair
        short += ["--max_new_tokens", "64", "--stop_at_strings"]
    if "--overlong_buffer" in words:  # it must be less than the completions
        short += ["--overlong_buffer", "4"]
    words = [*COMPLETED.get(one.script, "").split(), *words, *short]
    words = [local_model(word) if before in ("--model_name", "--model_path") or one.script == "train.py" else word
             for before, word in zip(["", *words], words, strict=False)]  # fmt: skip
    for before, word in zip(["", *words], words, strict=False):
        if before in ("--sft_model", "--model_path", "--adapter_model_id") or one.script in ("curves.py", "report.py"):
            fill(word.replace("*", ""), execute)
        elif before == "--train_path" and word.startswith("checkpoints/") and not Path(word).exists():
            fill("checkpoints/sft", execute)
            execute("generate_dpo_data.py", *SFT.split(), "--output_path", word, *RUN["generate_dpo_data.py"].split())
        elif before == "--samples":
            tasks = [json.loads(line) for line in open("data/pocket_test.jsonl")]
            records = [{"task_id": task["task_id"], "completion": task["canonical_solution"]} for task in tasks]
            Path(word).write_text("".join(json.dumps(record) + "\n" for record in records))
    return [path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word])]


def local_model(word: str) -> str:
    """In place of a model on the hub a folder of its name, which holds the embedded one."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", word) or Path(word).exists() or word.startswith("checkpoints/"):
        return word
    folder = Path("models") / word.partition("/")[2]
    if not folder.exists():
        shutil.copytree(ROOT / "data" / "pocket_coder", folder)
    return str(folder)


def fill(folder: str, execute) -> None:
    """Put a trained adapter where a command reads one."""
    if not folder.startswith("checkpoints/") or Path(folder).exists():
        return
    run = Path("checkpoints/run")
    if not run.exists():
        flags = f"{SFT} --sft_model checkpoints/start --output_dir {run} --num_steps 2 --num_samples 2 {TRAINING}"
        execute("train_rl_lora.py", *flags.split())
    if folder != str(run):
        shutil.copytree(run, folder)


def missing(*programs: str) -> bool:
    return any(shutil.which(program) is None for program in programs)


needs_tools = pytest.mark.skipif(missing("iverilog", "yosys", "verilator"), reason="the Verilog tools are missing")
needs_browser = pytest.mark.skipif(missing("chromium", "chromedriver"), reason="chromium is missing")


def needs(one: Command) -> list:
    """Marks that skip a command where its programs are not installed."""
    if one.script == "benchmarks/bench_report.py":
        return [needs_browser]
    judges = one.script not in ("results_table.py", "curves.py", "train_sft_lora.py", "overlap.py", "policy.py")
    return [needs_tools] if judges and "verilog" in one.text else []


@pytest.mark.slow
@pytest.mark.parametrize(
    "one", [pytest.param(one, id=f"{one.where}-{one.script}", marks=needs(one)) for one in DISTINCT]
)
def test_a_command_runs(one, project, execute, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv("CHECKS", "4")  # of bench_verilog.py
    assert execute(one.script, *ready(one, execute)), one.text
