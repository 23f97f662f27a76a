"""Bad input as a user meets it: one line on standard error, exit code 2, and nothing destroyed."""

import importlib
from pathlib import Path

import pytest

from common import InputError, parse_args

TASKS = "data/pocket_test.jsonl"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("eval_humaneval.py --data_path none.jsonl", "none.jsonl: no such task file"),
        (f"eval_humaneval.py --data_path {TASKS} --modelpath x", "did you mean --model_path?"),
        (f"eval_humaneval.py --data_path {TASKS} --samples none.jsonl", "none.jsonl: no such file of samples"),
        ("train_rl_lora.py --length_penalty_alpha -1", "must not be negative"),
        ("train_rl_lora.py --baseline critic", "baseline"),
        ("train_rl_lora.py --train_path none.jsonl", "none.jsonl: no such task file"),
        ("train_ppo_lora.py --value_coef 0.5", "add --ratio_level token"),
        ("train_ppo_lora.py --batch_size 1", "one completion has no z-score"),
        ("train_ppo_lora.py --clip_rnage 0.1", "did you mean --clip_range?"),
        ("train_grpo_lora.py --num_samples 1", "--num_samples 1: must be at least 2"),
        ("train_grpo_lora.py --loss_type grop", "loss_type"),
        ("train_grpo_lora.py --overlong_buffer 256", "--overlong_buffer must be less"),
        ("train_sft_lora.py --train_path README.md", "README.md:1: not JSON"),
        ("train_sft_lora.py --config pyproject.toml", "--config pyproject.toml"),
        ("results_table.py --results_dir none", "none: no *_metrics.json here"),
        ("data/prepare_verilogeval.py", "--source: want the benchmark's folder"),
        (f"eval_humaneval.py --data_path {TASKS} --instruct --server http://x/v1", "has no chat template"),
        (
            f"eval_humaneval.py --data_path {TASKS} --prompt_level terse",
            "jsonl:1: task has no text field 'prompt_terse'",
        ),
        ("data/prepare_humaneval.py --source none.gz", "--source none.gz: No such file"),
        ("data/prepare_mbpp.py --source data/pocket_mbpp.jsonl", "has 47 of MBPP's 974 tasks"),
        ("data/prepare_tasks.py --format taco --source none.jsonl --output o.jsonl", "none.jsonl: No such file"),
        ("data/prepare_tasks.py --output x.jsonl", "--format"),
        ("task_difficulty.py --train_path none.jsonl", "none.jsonl: no such task file"),
    ],
)
def test_bad_input_is_one_line(run_cli, command, says):
    code, out, err = run_cli(*command.split())
    assert code == 2 and says in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"eval_humaneval.py --data_path {TASKS} --model_path nobody/nothing", "the hub cannot be reached"),
        (f"eval_humaneval.py --data_path {TASKS} --model_path data", "data: no model here"),
        (f"eval_humaneval.py --data_path {TASKS} --model_path data/pocket_coder --max_length 300", "prompt has"),
        ("train_sft_lora.py --train_path {tasks} --model_name data/pocket_coder --output_dir README.md/x", "cannot be"),
        ("train_sft_lora.py --train_path {tasks} --model_name data/pocket_coder --output_dir {out}", "other files"),
        ("train_rl_lora.py --train_path {tasks} --sft_model data/pocket_coder --output_dir {out}/rl", "is no adapter"),
    ],
)
def test_bad_input_that_takes_the_libraries_to_see(tmp_path, command, says):
    """In this process: what makes one line of an InputError is the same for all, and tested above."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    script, *flags = command.format(tasks=TASKS, out=tmp_path / "out").split()
    module = importlib.import_module(Path(script).stem)
    with pytest.raises(InputError) as error:
        module.main(parse_args(module.Args, flags))
    assert says in str(error.value)
    assert (tmp_path / "out" / "precious").exists()


@pytest.mark.parametrize(
    "script",
    ["train_sft_lora.py", "train_rl_lora.py", "train_ppo_lora.py", "train_grpo_lora.py", "eval_humaneval.py",
     "results_table.py", "curves.py"],
)  # fmt: skip
def test_help_lists_every_option_with_its_comment(run_cold, script):
    code, out, err = run_cold(script, "--help")
    assert code == 0 and err == ""
    assert "--seed" in out or script in ("results_table.py", "curves.py")
    assert "YAML file with any of these" in " ".join(out.replace("│", " ").split())
