import json

import pytest
import torch

import train_rl_lora
from common import InputError
from model import load as policy
from model.load import compute_dtype, load_policy, set_deterministic, trainable_parameters
from training import learner
from training import run as training
from training.metrics import tied_groups
from training.resume import loss_scaler
from training.samples import item_order


def test_every_item_comes_once_in_a_pass():
    order = item_order(5, seed=1)
    passes = [[next(order) for _ in range(5)] for _ in range(3)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes) and passes[0] != passes[1]


def test_tied_groups_go_by_the_tests_alone():
    assert tied_groups([1.0, 1.0, 0.0, 0.0, 0.0, 1.0], [0, 0, 1, 1, 2, 2]) == pytest.approx(2 / 3)
    assert tied_groups([], []) == 0


def test_a_format_that_the_device_has_not_is_one_line(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert compute_dtype(cpu) == torch.float32 and compute_dtype(cpu, "bfloat16") == torch.bfloat16
    with pytest.raises(InputError, match="--dtype float16: is for a GPU; on a CPU leave --dtype out"):
        compute_dtype(cpu, "float16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert compute_dtype(gpu) == torch.float16 and compute_dtype(gpu, "float32") == torch.float32
    with pytest.raises(InputError, match="--dtype bfloat16: Tesla T4 has none; leave --dtype out, or give float16"):
        compute_dtype(gpu, "bfloat16")


@pytest.mark.parametrize("script", ["train_sft_lora", "train_rl_lora"])
def test_it_is_said_before_anything_is_loaded_or_left(run_cli, tmp_path, start, script):
    start = ["--model_name", "data/pocket_coder"] if "sft" in script else ["--sft_model", start]
    flags = [*start, "--train_path", "data/pocket_train.jsonl", "--output_dir", str(tmp_path / "out")]
    code, said, error = run_cli(f"{script}.py", *flags, "--dtype", "float16")
    assert (code, error) == (2, "error: --dtype float16: is for a GPU; on a CPU leave --dtype out, or give bfloat16\n")
    assert not list(tmp_path.glob("out*/*"))


@pytest.mark.slow
def test_a_run_in_float16_scales_its_loss_and_learns(start, tmp_path, monkeypatch):
    """The scale falls until the gradient is finite; such updates are skipped."""
    for module in (training, learner):
        monkeypatch.setattr(module, "compute_dtype", lambda device, dtype="auto": torch.float16)
    real = loss_scaler

    def too_large(model):
        scaler = real(model)
        assert scaler.get_scale() == 2**16
        scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**28})  # more than float16 holds
        return scaler

    monkeypatch.setattr(learner, "loss_scaler", too_large)
    args = train_rl_lora.Args(
        train_path="data/pocket_train.jsonl", sft_model=start, output_dir=str(tmp_path / "run"), max_length=384,
        max_new_tokens=8, num_steps=5, batch_size=2, learning_rate=1e-3, length_penalty_alpha=1.0,
    )  # fmt: skip
    train_rl_lora.main(args)
    log = [json.loads(line) for line in (tmp_path / "run" / "rl_train_log.jsonl").read_text().splitlines()]
    scales, skipped = [line["loss_scale"] for line in log], [line["skipped_updates"] for line in log]
    assert skipped[0] == 1 and skipped[-1] < 5 and scales[0] == 2.0**24 and scales[-1] == 2.0 ** (28 - 4 * skipped[-1])
    assert log[-1]["kl_reference"] > 0  # updates were made


def test_scaled_gradients_are_the_unscaled_ones(pocket):
    model = policy.add_lora(load_policy(pocket, torch.device("cpu"), dtype=torch.float16), 4, 8, 0.0)
    weights = trainable_parameters(model)
    optimizer, scaler = torch.optim.SGD(weights, lr=1.0), loss_scaler(model)
    scaler.scale(sum(w.sum() for w in weights)).backward()
    scaler.unscale_(optimizer)
    assert all(w.dtype == torch.float32 and (w.grad == 1).all() for w in weights)
    assert not loss_scaler(load_policy(pocket, torch.device("cpu"))).is_enabled()


def test_deterministic_is_set_and_unset():
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cuda.mem_efficient_sdp_enabled()
    set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()


PRINTS = "import io\n\n\ndef check(candidate):\n    assert io.StringIO() and candidate() == 1\n"
SAYS = "the tests look at what the program prints (StringIO)"


def task_file(path, refused: int, others: int = 0) -> str:
    tasks = [json.loads(line) for line in open("data/pocket_train.jsonl")][: refused + others]
    tasks = [task | {"test": PRINTS} if n >= others else task for n, task in enumerate(tasks)]
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return str(path)


def files_in(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("script", ["train_rl_lora", "train_ppo_lora", "train_grpo_lora", "train_rft_lora",
                                    "generate_dpo_data", "eval_humaneval"])  # fmt: skip
def test_if_the_tests_of_all_tasks_are_refused_it_is_said_and_nothing_lost(run_cli, tmp_path, start, script):
    path, out = task_file(tmp_path / "t.jsonl", refused=5), tmp_path / "out"
    out.mkdir()
    for name in ("run.json", "x.jsonl", "x_metrics.json"):
        (out / name).write_text("precious")
    before = files_in(out)
    flags = ["--max_length", "384", "--max_new_tokens", "8", "--quiet"]
    if script == "eval_humaneval":
        flags += ["--data_path", path, "--model_path", start, "--exp_name", "x", "--results_dir", str(out)]
    elif script == "generate_dpo_data":
        flags += ["--train_path", path, "--sft_model", start, "--output_path", str(out / "x.jsonl")]
    else:  # at the first step, for all tasks of the file, and not after a pass over them
        flags += ["--train_path", path, "--sft_model", start, "--output_dir", str(out), "--batch_size", "2"]
    code, _, error = run_cli(f"{script}.py", *flags)
    ids = [json.loads(line)["task_id"] for line in open(path)]
    told = "; ".join(f"{name} ({SAYS})" for name in ids[:3])
    if script == "generate_dpo_data":  # in the order of drawing
        assert error.count(SAYS) == 3 and "; and 2 more; docs/sandbox.md says" in error
    else:
        assert f"the tests of all 5 tasks tried are refused: {told}; and 2 more; docs/sandbox.md says" in error
    assert code == 2 and error.count("\n") == 1 and error.startswith(f"error: {path}: ")
    assert files_in(out) == before


def test_a_run_that_met_refused_tasks_alone_ends_so_too(run_cli, tmp_path, start):
    """The file has another task, which is not drawn yet; what it leaves would be the adapter that it began with."""
    out = tmp_path / "out"
    path = task_file(tmp_path / "t.jsonl", refused=20, others=1)
    flags = ["--train_path", path, "--sft_model", start, "--output_dir", str(out), "--num_steps", "2"]
    code, said, error = run_cli("train_rl_lora.py", *flags, "--max_length", "384", "--max_new_tokens", "8")
    assert code == 2 and "the tests of all 2 tasks tried are refused: pocket/train/" in error, error
    assert error.count(SAYS) == 2 and "error" not in said and not out.exists()


def test_some_refused_tasks_end_nothing(tmp_path, start):
    args = train_rl_lora.Args(
        train_path=task_file(tmp_path / "t.jsonl", refused=2, others=1), sft_model=start, max_length=384,
        max_new_tokens=8, num_steps=3, output_dir=str(tmp_path / "run"),
        valid_path=task_file(tmp_path / "v.jsonl", refused=1, others=1),
    )  # fmt: skip
    train_rl_lora.main(args)
    log = [json.loads(line) for line in (tmp_path / "run" / "rl_train_log.jsonl").read_text().splitlines()]
    assert sorted(record.get("left_out", 0) for record in log) == [0, 0, 1, 1]  # the first is of a validation


def test_validation_tasks_that_are_all_refused_are_said_at_once(tmp_path, start, tasks_path):
    args = train_rl_lora.Args(
        train_path=tasks_path, sft_model=start, max_length=384, max_new_tokens=8, num_steps=1,
        output_dir=str(tmp_path / "run"), valid_path=task_file(tmp_path / "v.jsonl", refused=2),
    )  # fmt: skip
    with pytest.raises(InputError, match="v.jsonl: the tests of all 2 tasks tried are refused: pocket/train/0"):
        train_rl_lora.main(args)
    assert not (tmp_path / "run").exists()
