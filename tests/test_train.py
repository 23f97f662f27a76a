"""The front door: what it reads, what it makes of it, and the whole of it on a tiny model."""

import importlib
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import train
from common import InputError, as_flags, parse_args, sha256
from training import defaults
from training.defaults import settings_for


@pytest.fixture
def stages(monkeypatch) -> list:
    """What would have been run: (script, settings), nothing is."""
    ran = []
    monkeypatch.setattr(train, "run_stage", lambda stage: ran.append((stage.script, stage.settings)))
    monkeypatch.setattr(train, "finish_evaluation", lambda *what: None)
    return ran


@pytest.fixture
def in_process(monkeypatch):
    """The stages for real, in this process: their imports are paid once."""

    def run(stage):
        module = importlib.import_module(Path(stage.script).stem)
        module.main(parse_args(module.Args, as_flags(stage.settings)))

    monkeypatch.setattr(train, "run_stage", run)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, pocket) -> Path:
    """A folder with data sets of the usual names, each of a few tasks, to run unchanged commands in."""
    import prepare_mbpp

    data = tmp_path / "data"
    data.mkdir()
    source = str(ROOT / "data" / "pocket_mbpp.jsonl")
    prepare_mbpp.main(prepare_mbpp.Args(source=source, name="pocket_mbpp", output_dir=str(data)))
    for part, count in (("train", 4), ("validation", 2), ("test", 2)):
        lines = (data / f"pocket_mbpp_{part}.jsonl").read_text().splitlines()[:count]
        (data / f"mbpp_{part}.jsonl").write_text("\n".join(lines) + "\n")
    lines = (ROOT / "data" / "pocket_train.jsonl").read_text().splitlines()
    for name, few in {"humaneval_train": lines[:4], "humaneval_test": lines[4:6], "humaneval_all": lines[:6]}.items():
        (data / f"{name}.jsonl").write_text("\n".join(few) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(command: str) -> None:
    train.main(shlex.split(command))


def test_options_reach_the_stages_that_take_them(stages, pocket):
    call(f"grpo 0 {pocket} --batch-size 3 --epochs 2 --no-early-stopping --loss-type dapo --n_samples=5 --auto-eval")
    scripts = [script for script, _ in stages]
    assert scripts == ["train_sft_lora.py", "train_grpo_lora.py", *["eval_humaneval.py"] * 4, "merge_adapter.py"]
    start, grpo, sampled, greedy = (settings for _, settings in stages[:4])
    assert (
        start["max_steps"] == 0
        and start["output_dir"] == grpo["sft_model"] == "checkpoints/pocket_coder-pocket-grpo-start"
    )
    assert (grpo["batch_size"], grpo["loss_type"], grpo["num_steps"]) == (3, "dapo", 534)  # 2 passes over 800 tasks
    assert "valid_path" not in grpo and grpo["output_dir"] == "checkpoints/pocket_coder-pocket-grpo-qlora"
    assert grpo["run_name"].startswith("pocket_coder-pocket-grpo-cpu-")
    assert (sampled["n_samples"], sampled["temperature"]) == ("5", 0.2)
    assert "temperature" not in greedy and greedy["data_path"] == "data/pocket_test.jsonl"
    assert stages[-1][1]["output_dir"] == "checkpoints/pocket_coder-pocket-grpo-merged"


def test_validation_follows_the_steps_and_a_rehearsal_ends_with_them(stages, pocket, tasks_path):
    call(f"rl {pocket} --num_steps 50 --dry_run --auto-eval")
    assert [script for script, _ in stages] == ["train_sft_lora.py", "train_rl_lora.py"]
    assert (stages[1][1]["valid_path"], stages[1][1]["valid_every"]) == ("data/pocket_valid.jsonl", 5)
    call(f"ppo {pocket} --dataset {tasks_path} --valid_path data/pocket_valid.jsonl --num_updates 7 --no-merge")
    ppo = stages[-1][1]
    assert (ppo["num_updates"], ppo["valid_every"], ppo["patience"]) == ("7", 1, 3)
    call(f"grpo {pocket} --dataset {tasks_path} --no-merge")
    assert "patience" not in stages[-1][1]


def test_every_method_has_its_stages(stages, pocket):
    made = {}
    for method in train.METHODS:
        call(f"{method} {pocket} --debug")
        made[method] = [script for script, _ in stages]
        assert stages[-2][1]["output_dir"] == f"checkpoints/pocket_coder-pocket-{method}-debug-qlora"
        stages.clear()
    last = "merge_adapter.py"
    assert made == {
        "sft": ["train_sft_lora.py", last],
        "rl": ["train_sft_lora.py", "train_rl_lora.py", last],
        "ppo": ["train_sft_lora.py", "train_ppo_lora.py", last],
        "grpo": ["train_sft_lora.py", "train_grpo_lora.py", last],
        "dpo": ["train_sft_lora.py", "generate_dpo_data.py", "train_dpo_lora.py", last],
        "rft": ["train_sft_lora.py", "train_rft_lora.py", last],
    }


@pytest.fixture
def plain_model(tmp_path) -> Path:
    """The config of a model that is not embedded; nothing more of it is read before a stage runs."""
    (tmp_path / "plain").mkdir()
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
              "num_attention_heads": 4, "vocab_size": 512}  # fmt: skip
    (tmp_path / "plain" / "config.json").write_text(json.dumps(config))
    return tmp_path / "plain"


@pytest.mark.parametrize(
    "method", [name if name == "grpo" else pytest.param(name, marks=pytest.mark.slow) for name in train.METHODS]
)
def test_the_settings_that_are_printed_make_the_same_run(stages, capsys, tmp_path, plain_model, method):
    """What a method of configs/ prints, read again; and a method's file is the method."""

    def parsed(command: str) -> list[dict]:
        call(command)
        for _, settings in stages:
            settings.pop("run_name", None)  # it has the minute
        made = [vars(train.Stage(*one).args()) for one in stages]
        stages.clear()
        return made

    options = f"0 {plain_model} --dataset pocket --seed 7 --max_length 384"
    first = parsed(f"{method} {options} --auto-eval")
    printed = "method: " + capsys.readouterr().out.partition("\nmethod: ")[2]
    (tmp_path / "again.yaml").write_text(printed)
    assert parsed(str(tmp_path / "again.yaml")) == parsed(f"configs/{method}.yaml {options} --auto-eval") == first
    ours, printed = yaml.safe_load((ROOT / "configs" / f"{method}.yaml").read_text()), yaml.safe_load(printed)
    scaled = {"max_length": 384, "learning_rate": pytest.approx(1.5 * ours["learning_rate"])}
    assert {name: printed[name] for name in ours} == ours | scaled | {"batch_size": 2 * ours["batch_size"]}


def test_a_file_in_configs_is_checked_too(stages, monkeypatch, tmp_path, plain_model):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.setattr(defaults, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(defaults, "ROOT", tmp_path)
    for line, says in (("clip_rnage: 0.1", "configs/grpo.yaml: unknown key 'clip_rnage'; did you mean clip_range?"),
                       ("learning_rate: high", "grpo.yaml: wants numbers for learning_rate")):  # fmt: skip
        text = (ROOT / "configs" / "grpo.yaml").read_text()
        (tmp_path / "configs" / "grpo.yaml").write_text(f"{text}{line}\n")
        with pytest.raises(InputError, match=re.escape(says)):
            call(f"grpo {plain_model} --dataset pocket --max_length 384")
    assert stages == []


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "want METHOD [GPU] [MODEL] or a YAML file"),
        ("--debug", "no method is named"),
        ("grop 0", "'grop': the first word is sft, rl, ppo, grpo, dpo, rft or a YAML file"),
        ("grpo 0 a b", "'b': want METHOD [GPU] [MODEL], then options"),
        ("grpo --debug yes no", "'no': belongs to no option"),
        ("grpo data/pocket_coder --learning-rat 1", "did you mean --learning_rate?"),
        ("grpo data/pocket_coder --beta 1", "unknown option '--beta'"),
        ("grpo data/pocket_coder --n_samples 3", "unknown option '--n_samples'"),  # nothing is evaluated
        ("grpo data/pocket_coder --epochs many", "epochs"),
        ("sft data/pocket_coder --per_device_train_batch_size 3", "another option says it"),  # --batch-size does
        ("sft data/pocket_coder --model_name other", "another option says it"),
        ("grpo data/pocket_coder --max_steps 3", "is of no use in this run"),  # of the fresh adapter, which is 0
        ("grpo data/pocket_coder --auto-eval --data_path data/pocket_valid.jsonl", "another option says it"),
        ("grpo data/pocket_coder --auto-eval --exp_name x", "another option says it"),
        ("grpo data/pocket_coder --wandb --report_to trackio", "one tracker a run"),
        ("dpo data/pocket_coder --report_to tensorboard --run_name a/b", "want a plain name"),
        ("grpo data/pocket_coder --dataset ./data/pocket_test.jsonl --auto-eval", "the tasks that it trains on"),
        ("grpo data/pocket_coder --num_samples 1", "--num_samples 1: must be at least 2"),
        ("grpo data/pocket_coder --dataset nothing", "is neither a task file nor one of mbpp, humaneval"),
        ("grpo data/pocket_coder --dataset data/pocket_train.jsonl --auto-eval --eval_on data/pocket_train.jsonl",
         "these are the tasks that it trains on"),
        ("none.yaml", "none.yaml: No such file"),
        ("sft data/pocket_coder --push_to_hub --hub_model_id me/model", "no token; run `hf auth login`"),
        ("sft data/pocket_coder --no-merge --push_to_hub", "unknown option '--push_to_hub'"),
        ("sft data/pocket_coder --auto-eval --results_dir README.md/x", "cannot be written"),
        ("sft nobody/nothing --dataset pocket", "the hub cannot be reached"),
        ("sft data/pocket_coder --dataset mbpp", "mbpp: python data/prepare_mbpp.py"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_anything_runs(stages, command, says):
    with pytest.raises(InputError, match=".") as error:
        call(command)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert stages == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "is an encoder-decoder"),
        ({"model_type": "llama", "hidden_size": 65536, "intermediate_size": 262144, "num_hidden_layers": 400,
          "num_attention_heads": 64, "vocab_size": 32000}, "is predicted to take"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_trained_here_is_refused_by_its_config(stages, tmp_path, config, says):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as error:
        call(f"grpo {tmp_path} --dataset data/pocket_train.jsonl --max_new_tokens 16 --max_length 64")
    assert says in str(error.value) and "\n" not in str(error.value) and stages == []


def test_what_is_given_again_on_the_command_line_wins(stages, tmp_path):
    (tmp_path / "c.yaml").write_text("method: grpo\nmodel: data/pocket_coder\nreport_to: wandb\n")
    call(f"{tmp_path}/c.yaml --no-wandb --dry_run --auto-eval")
    assert [script for script, _ in stages] == ["train_sft_lora.py", "train_grpo_lora.py"]  # it leaves no adapter
    assert stages[1][1]["report_to"] == "none"
    for wandb in ("true", "false"):
        (tmp_path / "c.yaml").write_text(f"method: grpo\nmodel: data/pocket_coder\nwandb: {wandb}\n")
        call(f"{tmp_path}/c.yaml --report_to tensorboard")
        assert stages[-2][1]["report_to"] == "tensorboard"
    (tmp_path / "c.yaml").write_text("method: grpo\nmodel: data/pocket_coder\nreport_to: none\nvalid_path:\n")
    with pytest.raises(InputError, match="valid_path: has no value"):
        call(f"{tmp_path}/c.yaml")


def test_validation_tasks_of_ones_own_end_a_run_early_too(stages):
    call("rl data/pocket_coder --dataset data/pocket_train.jsonl --valid_path data/pocket_valid.jsonl")
    assert (stages[1][1]["valid_path"], stages[1][1]["patience"]) == ("data/pocket_valid.jsonl", 3)


def test_every_method_is_evaluated_with_one_time_limit(stages):
    call("rl data/pocket_coder --auto-eval --time_limit 2")
    assert stages[1][1]["time_limit"] == "2" and "time_limit" not in stages[2][1]


def test_servers_sample_in_training_and_not_in_its_evaluation(stages):
    call("rl data/pocket_coder --auto-eval --engine server --server http://a")
    assert (stages[1][1]["engine"], stages[1][1]["server"]) == ("server", "http://a")
    assert not {"engine", "server"} & stages[2][1].keys()


def test_a_password_in_an_address_is_not_repeated(stages, capfd):
    with pytest.raises(InputError, match="leave out user, password") as error:
        call("grpo data/pocket_coder --engine server --server http://me:s3cret@host")
    with pytest.raises(InputError, match="needs --server URL"):
        call("grpo data/pocket_coder --engine server")
    assert not stages and "s3cret" not in str(error.value) + "".join(capfd.readouterr())


def test_epochs_are_merged_as_the_end_is_and_after_the_summary(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "finish_evaluation", lambda *what: stages.append(("summary", {})))
    (tmp_path / "pocket_coder-pocket-rl-qlora" / "step_200").mkdir(parents=True)
    call(f"rl data/pocket_coder --checkpoints {tmp_path} --auto-eval --save-merged-epochs --dtype float32")
    assert [script for script, _ in stages[-3:]] == ["summary", "merge_adapter.py", "merge_adapter.py"]
    assert stages[-2][1]["dtype"] == stages[-1][1]["dtype"] == "float32"
    assert stages[-1][1]["output_dir"] == f"{tmp_path}/pocket_coder-pocket-rl-merged-epoch1"


def test_settings_of_every_stage_are_printed(stages, capsys):
    call("dpo data/pocket_coder")
    printed = yaml.safe_load("method: " + capsys.readouterr().out.partition("\nmethod: ")[2])
    assert [printed[name] for name in ("num_samples", "rejected", "lora_r", "batch_size")] == [4, "random", 8, 2]


def test_a_gpu_is_chosen_for_the_stages(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(InputError, match="GPU 2: torch sees 2 here"):
        train.find_gpu(2)
    assert train.find_gpu(1) and os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert train.find_gpu(-1) and os.environ["CUDA_VISIBLE_DEVICES"] == "4"  # or SFT's Trainer would take both


def test_an_interrupted_dpo_goes_on_with_its_pairs(stages, tmp_path, pocket):
    call(f"dpo {pocket} --checkpoints {tmp_path}")
    _, (script, pairs), (_, dpo), _ = stages
    partial = Path(dpo["output_dir"] + ".partial")
    partial.mkdir()
    (partial / "resume.pt").touch()
    stats = Path(pairs["output_path"].replace(".jsonl", "_stats.json"))
    stats.write_text(json.dumps({"args": vars(train.Stage(script, pairs).args())}))
    for option, sampled_again in (("", False), ("--num_samples 5", True), ("--no-resume", True)):
        stages.clear()
        call(f"dpo {pocket} --checkpoints {tmp_path} {option}")
        assert ("generate_dpo_data.py" in [script for script, _ in stages]) is sampled_again


def test_a_yaml_file_with_an_unknown_name_is_refused(stages, tmp_path):
    (tmp_path / "c.yaml").write_text("method: grpo\nmodel: data/pocket_coder\nclip_rnage: 0.1\n")
    with pytest.raises(InputError, match="did you mean --clip_range"):
        call(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_text("model: data/pocket_coder\n")
    with pytest.raises(InputError, match="no method is named"):
        call(str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("model", "parameters", "rate", "batch", "tokens"),
    [
        ("codellama/CodeLlama-7b-hf", 6.7e9, 3e-6, 4, 256),
        ("codellama/CodeLlama-13b-hf", 13e9, 3e-6, 2, 256),
        ("deepseek-ai/deepseek-coder-6.7b-base", 6.7e9, 2.1e-6, 2, 256),
        ("deepseek-ai/deepseek-coder-1.3b-base", 1.3e9, 3.15e-6, 4, 256),  # x 0.7 x 1.5, half and double
        ("Qwen/Qwen2.5-Coder-7B", 7.6e9, 3.6e-6, 4, 384),
        ("bigcode/starcoder2-3b", 3.03e9, 3e-6, 4, 256),  # a name that says 3b and more than 3B to count
        ("me/deeply-small", 0.5e9, 4.5e-6, 8, 256),
    ],
)
def test_the_table_of_models(model, parameters, rate, batch, tokens):
    settings, lines = settings_for("grpo", model, int(parameters), set())
    assert settings["learning_rate"] == pytest.approx(rate)
    assert (settings["batch_size"], settings["max_new_tokens"]) == (batch, tokens)
    assert len(lines) > 1 or (rate, batch, tokens) == (3e-6, 4, 256)
    kept, said = settings_for("grpo", model, int(parameters), {"learning_rate", "batch_size", "max_new_tokens"})
    assert (kept["learning_rate"], kept["batch_size"], kept["max_new_tokens"], said) == (
        3e-6,
        4,
        256,
        ["configs/grpo.yaml"],
    )


@pytest.mark.slow
def test_all_options_of_the_original_on_a_tiny_model(in_process, elsewhere, pocket):
    """Trained on MBPP's format, each epoch and the end merged, evaluated on both data sets, logged."""
    options = "--batch-size 2 --dataset mbpp --epochs 1 --save-merged-epochs --no-early-stopping --no-wandb --auto-eval"
    call(f"grpo 0 {pocket} {options} --num_samples 2 --max_new_tokens 16 --max_length 400 --report_to tensorboard")
    made = sorted(path.name for path in (elsewhere / "checkpoints").iterdir())
    name = "pocket_coder-mbpp-grpo"
    assert made == [f"{name}-merged", f"{name}-merged-epoch1", f"{name}-qlora", f"{name}-start"]
    (path,) = (elsewhere / "results").glob("evaluation_results_pocket_coder_grpo_*.json")
    found = json.loads(path.read_text())["final_eval"]
    assert {task: (f["num_tasks"], f["num_samples"]) for task, f in found.items()} == {
        "mbpp": (2, 30),
        "humaneval": (6, 90),
    }
    for task, figures in found.items():
        rows = [json.loads(line) for line in (elsewhere / "results" / f"{name}_{task}_sampled_per_task.jsonl").open()]
        assert figures["pass@1"] == pytest.approx(sum(row["passed_stopped"] for row in rows) / len(rows))
        assert figures["pass@1"] <= figures["pass@5"] <= figures["pass@10"] <= figures["success_rate"] + 1e-9
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged = {}
    for folder in {path.parent for path in (elsewhere / "checkpoints" / f"{name}-qlora").rglob("events.*")}:
        events = EventAccumulator(str(folder)).Reload()
        logged |= {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    assert logged["final_eval/mbpp_pass@1"] == pytest.approx(found["mbpp"]["pass@1"])


@pytest.mark.slow
@pytest.mark.parametrize("method", train.METHODS)
def test_the_examples_run(in_process, elsewhere, pocket, method):
    """Each file of configs/, on pocket tasks under HumanEval's names, and the short run that --debug makes of it."""
    call(f"{ROOT}/configs/{method}.yaml --model {pocket} --dataset humaneval --auto-eval --n_samples 2 --debug")
    name = f"pocket_coder-humaneval-{method}-debug"
    log = elsewhere / "checkpoints" / f"{name}-qlora" / f"{method}_train_log.jsonl"
    assert max(json.loads(line)["step"] for line in log.open()) == 2
    assert (elsewhere / "checkpoints" / f"{name}-merged" / "model.safetensors").is_file()
    (path,) = (elsewhere / "results").glob("evaluation_results_*.json")
    found = json.loads(path.read_text())["final_eval"]
    assert found["humaneval"]["pass@1"] is not None and found["mbpp"]["pass@5"] is None  # two samples have none


@pytest.mark.slow
def test_early_stopping_keeps_the_best_adapter_and_merges_it(in_process, elsewhere, pocket):
    """None of the validation tasks is ever solved: the first of equal rates is kept, and the third ends the run."""
    settings = {"method": "rl", "model": pocket, "dataset": "humaneval", "max_length": 400, "num_steps": 9}
    (elsewhere / "c.yaml").write_text(yaml.safe_dump(settings))
    call("c.yaml --valid_path data/mbpp_validation.jsonl --valid-every 1")
    name = "checkpoints/pocket_coder-humaneval-rl"
    records = [json.loads(line) for line in open(f"{name}-qlora/rl_train_log.jsonl")]
    assert [record["valid_pass_rate"] for record in records] == [0.0] * 4  # of steps 0 to 3
    start, kept, last = (
        sha256(f"{name}-{part}/adapter_model.safetensors") for part in ("start", "qlora", "qlora/last")
    )
    assert start == kept != last
    assert json.loads(Path(f"{name}-merged/run.json").read_text())["adapter_sha256"] == kept


@pytest.mark.slow
def test_as_a_user_calls_it(run_cli, tmp_path, pocket):
    """Two processes deep; a failing stage's exit code and line are the front door's."""
    folder = str(tmp_path / "c")
    code, out, err = run_cli("train.py", "sft", "0", pocket, "--debug", "--checkpoints", folder, "--max_length", "384")
    assert code == 0, err
    assert "GPU 0: torch sees no CUDA GPU here; this runs on the CPU" in out
    assert (tmp_path / "c" / "pocket_coder-pocket-sft-debug-merged" / "config.json").is_file()
    code, out, err = run_cli("train.py", "sft", pocket, "--debug", "--checkpoints", "README.md", "--max_length", "384")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "README.md" in err
