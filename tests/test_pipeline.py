"""The whole story as a user runs it, short."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SHARED


def pipeline(tmp_path, script: str = "train_SFT_RL.sh", *arguments: str, **settings) -> str:
    """A shell script with its outputs in tmp_path; its standard output."""
    environment = {
        "RESULTS": str(tmp_path / "results"),
        "CHECKPOINTS": str(tmp_path / "checkpoints"),
        "README": "",
        "STEPS": "2",
        "LIMIT": "4",
    }
    done = subprocess.run(["sh", script, *arguments], cwd=ROOT, env=os.environ | environment | settings,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


needs_venv = pytest.mark.skipif(
    Path(sys.prefix).resolve() != (ROOT / ".venv").resolve(), reason="the shell scripts use .venv, this is another"
)


@needs_venv
@pytest.mark.slow
def test_pocket_from_base_to_table_and_a_second_run_skips(tmp_path):
    out = pipeline(tmp_path, PROFILE="pocket")
    assert "profile: pocket" in out and "complete: skipped" not in out
    names = ["base", "sft", "rl_alpha0.01"]
    for name in names:
        metrics = json.loads((tmp_path / "results" / f"pocket_{name}_metrics.json").read_text())
        assert metrics["num_tasks"] == 4 and metrics["is_lora"] is (name != "base")
        assert f"| pocket_{name} |" in out
    assert (tmp_path / "results" / "length_vs_pass.png").exists()

    again = pipeline(tmp_path, PROFILE="pocket")
    assert again.count("complete: skipped") == 5
    (tmp_path / "results" / "pocket_sft_metrics.json").unlink()
    assert pipeline(tmp_path, PROFILE="pocket").count("complete: skipped") == 4


@needs_venv
@pytest.mark.slow
def test_an_ablation_trains_its_choices_and_compares_them(tmp_path):
    short = {"SEEDS": "42", "STEPS": "1", "LIMIT": "4", "BUDGET": "300", "PAGE": ""}
    out = pipeline(tmp_path, "ablations.sh", "exit_code", **short)  # the others are parsed: test_documented_commands.py
    for name in ("sft_exit", "rl_by_exit_code", "rl_by_sandbox"):
        metrics = json.loads((tmp_path / "results" / "exit_code" / f"pocket_{name}_metrics.json").read_text())
        assert metrics["num_tasks"] == 4 and "pocket_valid.jsonl" in metrics["args"]["data_path"]
        assert f"| pocket_{name} |" in out
    runs = [json.loads((tmp_path / "checkpoints" / f"pocket_lora_rl_{name}" / "run.json").read_text())["args"]
            for name in ("by_exit_code", "by_sandbox")]  # fmt: skip
    assert [args["reward"] for args in runs] == ["docs/exit_code_reward.py:exit_code", "unit_test"]
    assert all(args["token_budget"] == 300 for args in runs)


@needs_venv
@pytest.mark.slow
def test_the_results_table_is_made_by_one_command(tmp_path):
    out = pipeline(tmp_path, "reproduce_table.sh", PROFILE="pocket", SEEDS="1", STEPS="1")
    ppo = ["ppo_alpha0.01", "ppo_alpha0.01_8"]
    rows = ["base", "sft", "all_solutions", "rl_alpha0.01", *ppo, "grpo_alpha0.01", "dpo", "rft"]
    table = out.rpartition("| method |")[2]
    assert [name for name in rows if f"| pocket_{name} |" not in table] == []
    assert "nothing to compare" in out  # four tasks are not the committed 250
    batches = [json.loads((tmp_path / "checkpoints" / f"pocket_lora_{name}_seed1" / "run.json").read_text())["args"]
               ["batch_size"] for name in ppo]  # fmt: skip
    assert batches == [4, 8]
    for path in ("curves.png", "length_vs_pass.png", "table.csv", "table.tex", "train_logs.tar.gz"):
        assert (tmp_path / "results" / path).stat().st_size > 0
    assert out.count("complete: skipped") >= 4  # PPO, GRPO, DPO and RFT find the SFT adapter made


@needs_venv
@pytest.mark.slow
def test_deepseek_runs_offline_on_humaneval(tmp_path, deepseek):
    source = SHARED / "HumanEval.jsonl.gz"
    prepare = ["data/prepare_humaneval.py", "--source", str(source), "--output_dir", str(tmp_path)]
    subprocess.run([sys.executable, *prepare], cwd=ROOT, check=True)
    split = json.loads((tmp_path / "humaneval_split.json").read_text())
    assert (split["train"]["tasks"], split["test"]["tasks"]) == (131, 33)
    train, test = (
        {json.loads(line)["task_id"] for line in open(tmp_path / f"humaneval_{part}.jsonl")}
        for part in ("train", "test")
    )
    assert not train & test and len(train | test) == 164
    files = {"TRAIN": str(tmp_path / "humaneval_train.jsonl"), "TEST": str(tmp_path / "humaneval_test.jsonl")}
    settings = dict(PROFILE="deepseek", MODEL=deepseek, PREFIX="deepseek_1_3b", STEPS="1", LIMIT="2", **files)
    out = pipeline(tmp_path, **settings)  # the other scripts differ in nothing but their loop, which runs on pocket
    made = sorted(path.name for path in (tmp_path / "checkpoints").glob("deepseek*"))
    assert made == [
        "deepseek_1_3b_lora_rl_alpha0.01_100",
        "deepseek_1_3b_lora_rl_alpha0.03",
        "deepseek_1_3b_lora_sft_v2",
    ]
    assert "humaneval_test.jsonl, 2 tasks" in out


SMOL = os.environ.get("SMOL_MODEL", "")  # a folder or a GGUF file


@needs_venv
@pytest.mark.slow
@pytest.mark.skipif(not Path(SMOL).exists() or not SMOL, reason="SMOL_MODEL names no copy of SmolLM2-135M-Instruct")
def test_a_real_model_from_base_to_table(tmp_path):
    tasks = {name: f"data/pocket_mbpp_{name.lower()}.jsonl" for name in ("TRAIN", "TEST")}
    out = pipeline(tmp_path, PROFILE="smol", MODEL=SMOL, PREFIX="smol_mbpp", STEPS="1", **tasks)
    for name in ("base", "sft", "rl_alpha0.01", "rl_alpha0.03"):
        assert f"| smol_mbpp_{name} |" in out
    metrics = json.loads((tmp_path / "results" / "smol_mbpp_rl_alpha0.01_metrics.json").read_text())
    assert metrics["training"]["spent"]["sampled_tokens"] > 0 and metrics["base_weights"]


needs_tools = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("iverilog", "yosys", "verilator")),
    reason="the Verilog tools are missing",
)


@needs_venv
@needs_tools
@pytest.mark.slow
def test_verilog_from_base_to_table_and_curves(tmp_path):
    out = pipeline(tmp_path, "train_VERILOG.sh", PROFILE="pocket")
    for name in ("base", "sft", "ppo", "grpo"):
        metrics = json.loads((tmp_path / "results" / f"pocket_verilog_{name}_metrics.json").read_text())
        assert list(metrics["parts"]) == ["compilation", "functional", "synthesis", "quality"]
        assert f"| pocket_verilog_{name} |" in out
    assert "| avg length | compilation | functional | synthesis | quality | adapters against SFT, 95% |" in out
    assert (tmp_path / "results" / "pocket_verilog_curves.png").stat().st_size > 10_000
    args = {method: json.loads((tmp_path / "checkpoints" / f"pocket_verilog_lora_{method}" / "run.json").read_text())
            ["args"] for method in ("ppo", "grpo")}  # fmt: skip
    assert all(one["reward"] == "parts" and one["prompt_level"] == "curriculum" for one in args.values())
    wanted = {"value_coef": 0.5, "entropy_coef": 0.01, "max_grad_norm": 0.5, "clip_range": 0.2}
    assert wanted.items() <= args["ppo"].items()
    again = pipeline(tmp_path, "train_VERILOG.sh", PROFILE="pocket")
    assert again.count("complete: skipped") == 7


@needs_venv
@needs_tools
@pytest.mark.slow
def test_verilog_in_prose_on_deepseek_offline(tmp_path, deepseek):
    settings = dict(
        PROFILE="deepseek", MODEL=deepseek, PREFIX="deepseek_7b_verilog", STEPS="1", LIMIT="1", NEW_TOKENS="48"
    )
    out = pipeline(tmp_path, "train_VERILOG.sh", **settings)
    assert "verilog_test.jsonl, 1 tasks" in out and "instruct" in out
    args = json.loads((tmp_path / "checkpoints" / "deepseek_7b_verilog_lora_grpo" / "run.json").read_text())["args"]
    assert args["instruct"] and not args["unpack_to_sample"]


HUB = "no such folder, and the hub cannot be reached"


@needs_venv
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"PROFILE": "huge"}, "PROFILE=huge: want pocket, smol, qwen or deepseek"),
        ({"PROFILE": "qwen", "TASKS": "verilog"}, "PROFILE=qwen TASKS=verilog: want pocket, smol, qwen or deepseek"),
        ({"PROFILE": "qwen", "DATASET": "apps"}, "DATASET=apps: want mbpp or humaneval"),
        ({"PROFILE": "qwen"}, f"Qwen/Qwen2.5-Coder-0.5B-Instruct: {HUB}"),
        pytest.param(
            {"PROFILE": "smol", "DATASET": "humaneval"},
            f"HuggingFaceTB/SmolLM2-135M-Instruct: {HUB}",
            marks=pytest.mark.slow,
        ),
        pytest.param({"PROFILE": "deepseek"}, f"deepseek-ai/deepseek-coder-1.3b-base: {HUB}", marks=pytest.mark.slow),
        ({"PROFILE": "smol", "MODEL": "/no/model"}, "/no/model: no model here"),
    ],
)
def test_a_profile_that_cannot_run_is_refused_in_one_line(settings, says):
    done = subprocess.run(
        ["sh", "train_SFT_RL.sh"], cwd=ROOT, env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1
    assert ("`hf download" in done.stderr and "MODEL=" in done.stderr) == (HUB in says)


@needs_venv
def test_the_locale_s_languages_are_no_profile():
    environment = os.environ | {"PROFILE": "pocket", "LANGUAGE": "en_US:en", "TRAIN": "none.jsonl"}
    done = subprocess.run(["sh", "train_SFT_RL.sh"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: none.jsonl: no such task file\n"
