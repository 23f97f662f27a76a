"""docs/extend.md: its files, taken out of the page, give known answers; its commands run, in short forms."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from judging.pool import Verdict
from judging.rewards import chosen_reward
from judging.tasks import read_tasks
from model.load import load_policy
from model.sampling import Rollout
from train_grpo_lora import Args as GrpoArgs
from train_ppo_lora import Args as PpoArgs
from train_rl_lora import Args
from training.samples import Sample

PAGE = (ROOT / "docs" / "extend.md").read_text()
FILES = dict(re.findall(r"```python\n(?=# (\S+\.py)\n)(.*?)```", PAGE, re.DOTALL))
COMMANDS = [  # of each block
    [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
]
SHORT = {  # what is added to a command
    "eval_humaneval.py": "--limit 1 --max_new_tokens 16",
    "train_grpo_lora.py": "--num_steps 2 --num_samples 2 --max_new_tokens 16",
    "my_objective.py": "--num_steps 2 --batch_size 2 --max_new_tokens 24 --train_path my_train.jsonl "
    "--valid_path my_test.jsonl",
}
STAND_IN = """
import importlib, json, pathlib, sys

from common import parse_args
from judging.tasks import read_tasks

script, flags = sys.argv[1], sys.argv[2:]
module = importlib.import_module(script.removesuffix(".py"))
args = parse_args(module.Args, flags)
getattr(module, "check", lambda args: None)(args)
paths = [getattr(args, name) for name in ("train_path", "data_path") if hasattr(args, name)]
tasks = [task["task_id"] for path in paths for task in read_tasks(path)]
with open("stages.jsonl", "a") as file:
    file.write(json.dumps([script, getattr(args, "exp_name", getattr(args, "output_dir", "")), tasks]) + "\\n")
if hasattr(args, "train_path"):
    pathlib.Path(args.output_dir).mkdir(parents=True)
if hasattr(args, "data_path"):
    pathlib.Path(args.results_dir, args.exp_name + "_metrics.json").write_text("{}")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory, start) -> Path:
    """The project as a user has it, the page's files beside the scripts, an SFT adapter; links to what is here."""
    folder = tmp_path_factory.mktemp("project")
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("checkpoints", "results"):
            (folder / path.name).symlink_to(path)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "sft").symlink_to(start)
    (folder / "stand_in.py").write_text(STAND_IN)
    for place, first in (("bin", ""), (".venv/bin", "stand_in.py")):  # of the page's commands, and of the shell scripts
        (folder / place).mkdir(parents=True)
        (folder / place / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {first} "$@"\n')
        (folder / place / "python").chmod(0o755)
    (folder / ".venv" / "requirements.txt").write_bytes((ROOT / "requirements.txt").read_bytes())
    return folder


def run_block(project: Path, number: int) -> str:
    """Run the commands of a block of the page, made short; their standard output."""
    said = ""
    for words in COMMANDS[number]:
        environment = os.environ | {"PATH": f"{project}/bin:{os.environ['PATH']}", "PROFILE": "pocket"}
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        if "--samples" not in words:
            words = words + SHORT.get(words[1], "").split()
        done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
        said += done.stdout
    return said


def load(name: str, folder: Path):
    """One of the page's files as a module."""
    (folder / name).write_text(FILES[name])
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), folder / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def log_of(folder: Path) -> list[dict]:
    [path] = folder.glob("*_train_log.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_page_has_three_files_and_four_blocks_of_commands():
    assert list(FILES) == ["my_tasks.py", "my_reward.py", "my_objective.py"]
    assert [len(block) for block in COMMANDS] == [3, 2, 2, 2]
    assert all(len(line) <= 120 for line in PAGE.splitlines() if not line.startswith("|"))


def test_solutions_of_ones_own_tasks_pass_and_empty_bodies_fail(project):
    said = run_block(project, 0)
    assert "my_solutions: pass@1 100.0% (3 of 3)" in said and "my_empty: pass@1 0.0% (0 of 3)" in said
    everything, train, test = (read_tasks(project / f"my_{name}.jsonl") for name in ("tasks", "train", "test"))
    assert [task["entry_point"] for task in train] == ["initials", "gaps"]
    assert [task["entry_point"] for task in test] == ["clamp"] and len(everything) == 3
    rows = [json.loads(line) for line in open(project / "results" / "checks" / "my_solutions_per_task.jsonl")]
    assert [row["tests_total"] for row in rows] == [3, 2, 3]


def test_the_reward_of_known_completions(tmp_path):
    (tmp_path / "my_reward.py").write_text(FILES["my_reward.py"])
    task = {"task_id": "t", "prompt": 'def clamp(x, low, high):\n    """Between."""\n'}
    if_twice = "    if x < low:\n        return low\n    return high if x > high else x\n"
    known = [
        ("    return max(low, min(x, high))\n", "pass", 1.0),
        (if_twice, "pass", 0.96),
        ("    return [v for v in (x,) if low < v and v < high or v][0]\n", "pass", 0.92),  # for, if, and, or
        ("    return eval('max(low, min(x, high))')\n", "pass", 0.8),
        ("    return " + "if x:\n".join(" " * 8 for _ in range(3)), "pass", 0.8),  # does not parse
        ("    return " + "-" * 50_000 + "1", "pass", 0.8),  # too deep to be read
        ("    x\n" + "    if x: x\n" * 30, "pass", 0.8),  # no more than that is lost
        ("    return max(low, min(x, high))\n", "fail", 0.0),
        ("    return (\n", "syntax", 0.0),
    ]
    samples = [Sample(task, 0, Rollout(0, [1], [2, 3], [0.0, 0.0], True, text), Verdict(status, ""))
               for text, status, _ in known]  # fmt: skip
    earned = chosen_reward(Args(reward=f"{tmp_path}/my_reward.py:simple"))(samples)
    assert earned == pytest.approx([reward for *_, reward in known])

    answer = f"It is between.\n```python\n{task['prompt']}{if_twice}```\n"  # prose and a block, the program in it
    samples[0].task, samples[0].rollout.text = task | {"instruct": True}, answer
    assert chosen_reward(Args(reward=f"{tmp_path}/my_reward.py:simple"))(samples[:1]) == pytest.approx([0.96])


def test_the_objective_keeps_the_best_of_what_passes(tmp_path):
    verdicts = {True: Verdict("pass", ""), False: Verdict("fail", "")}
    known = [(0, False, 0.9), (0, True, 0.5), (0, True, 0.7), (1, False, 0.0), (2, True, 0.6), (2, True, 0.6)]
    samples = [Sample({}, group, None, verdicts[passed], reward) for group, passed, reward in known]
    objective = load("my_objective.py", tmp_path)
    assert objective.best(samples) == [2, 4] and objective.best(samples[:1]) == []


def test_the_gradient_of_the_objective_is_the_hand_computed_one(start, tasks_path, tmp_path, known_run):
    sampled = known_run(lambda call, i: i in (1, 2, 3))  # of two tasks with three samples each
    args = Args(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / "raft"), max_length=384, num_steps=1,
                max_new_tokens=24, batch_size=2, num_samples=3, learning_rate=1.0)  # fmt: skip
    load("my_objective.py", tmp_path).main(args)

    # the same in plain float64: one sequence at a time, no batching, no helper of the project's
    first, second, alone = (sampled[0][i] for i in (1, 2, 3))
    kept = [second if len(second.token_ids) < len(first.token_ids) else first, alone]  # the shorter earns more
    num_tokens = sum(len(r.token_ids) for r in kept)
    model = load_policy(start, torch.device("cpu"), trainable=True).eval()
    for r in kept:
        logits = model(torch.tensor([r.prompt_ids + r.token_ids])).logits[0].double()
        logp = sum(logits[len(r.prompt_ids) + t - 1].log_softmax(0)[token] for t, token in enumerate(r.token_ids))
        (-logp / num_tokens).backward()
    before = load_file(f"{start}/adapter_model.safetensors")
    after = load_file(f"{args.output_dir}/adapter_model.safetensors")
    gradients = {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == before.keys()
    largest = max(gradient.abs().max() for gradient in gradients.values())
    assert largest > 0
    for name, gradient in gradients.items():
        assert torch.allclose(before[name] - after[name], gradient, rtol=1e-3, atol=float(largest) * 1e-4), name
    [record] = log_of(tmp_path / "raft")
    assert record["kept"] == 2 and record["advantage_mean"] == pytest.approx(2 / 6)


def test_the_objective_s_edges(start, tasks_path, tmp_path, known_run, capsys):
    """Nothing passes: nothing is learnt, every step is logged. And a dry run leaves nothing."""
    known_run(lambda call, i: False)
    args = Args(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / "raft"), max_length=384, num_steps=2,
                max_new_tokens=8, batch_size=2, num_samples=2, learning_rate=1.0)  # fmt: skip
    objective = load("my_objective.py", tmp_path)
    objective.main(args)
    before, after = (load_file(f"{folder}/adapter_model.safetensors") for folder in (start, args.output_dir))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [(record["step"], record["kept"]) for record in log_of(tmp_path / "raft")] == [(1, 0), (2, 0)]
    assert all(record["base_reward"] == 0 and "loss" not in record for record in log_of(tmp_path / "raft"))
    args.dry_run, args.output_dir = True, str(tmp_path / "none")
    objective.main(args)
    assert not (tmp_path / "none").exists()
    assert "no update was made in this step: a step that makes one takes longer" in capsys.readouterr().out


def test_the_frame_reads_no_field_that_rl_ppo_and_grpo_do_not_share():
    files = (
        "training/run.py",
        "training/learner.py",
        "training/sampler.py",
        "judging/by_language.py",
        "training/validation.py",
        "training/tracking.py",
        "training/resume.py",
        "judging/rewards.py",
    )
    nodes = (node for file in files for node in ast.walk(ast.parse((ROOT / file).read_text())))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("args")}
    shared = set.intersection(*(set(one.__dataclass_fields__) for one in (Args, PpoArgs, GrpoArgs)))
    assert len(read) > 30 and read <= shared
    table = "".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", table)) <= set(Args.__dataclass_fields__)


@pytest.mark.slow
def test_the_shell_scripts_hand_ones_own_tasks_to_their_stages(project):
    """The stages stand in here: each reads its arguments and its tasks. Their own tests run them."""
    run_block(project, 0)
    said = run_block(project, 1)
    train, test, sft = ["mine/initials", "mine/gaps"], ["mine/clamp"], "checkpoints/mine_lora_sft"
    wanted = [["eval_humaneval.py", "mine_base", test], ["train_sft_lora.py", sft, train]]
    wanted += [["eval_humaneval.py", "mine_sft", test]]
    for method in ("rl", "grpo"):
        name = f"{method}_alpha0.01"
        wanted.append([f"train_{method}_lora.py", f"checkpoints/mine_lora_{name}", train])
        wanted.append(["eval_humaneval.py", f"mine_{name}", test])
        wanted.append(["results_table.py", "", []])
    assert [json.loads(line) for line in open(project / "stages.jsonl")] == wanted
    assert f"{sft} is complete: skipped" in said  # by the second script


@pytest.mark.slow
def test_the_commands_of_the_reward_and_the_objective(project):
    run_block(project, 0)  # whose test tasks are few enough to validate on
    run_block(project, 2)
    simple, raft = project / "checkpoints" / "simple", project / "checkpoints" / "raft"
    assert len(log_of(simple)) == 2
    assert json.loads((simple / "run.json").read_text())["args"]["reward"] == "my_reward.py:simple"
    assert json.loads((project / "results" / "simple_metrics.json").read_text())["num_tasks"] == 1
    said = run_block(project, 3)
    assert "raft: 2 tasks, up to 2 steps" in said and "parity: sampler and trainer differ" in said
    assert [record["step"] for record in log_of(raft)] == [0, 1, 2]  # 0: the validation before
    assert (project / "curves.png").stat().st_size > 10_000
