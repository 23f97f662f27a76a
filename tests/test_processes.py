"""Two gloo processes make the same update as one, with the same batch."""

import functools
import json
import os
import socket
import subprocess
import sys

import forked
import pytest
from conftest import ROOT
from safetensors.torch import load_file

from common import InputError, processes

COMMON = dict(max_length=384, max_new_tokens=48, sft_model="{start}", train_path="data/pocket_train.jsonl",
              micro_batch_tokens=600, learning_rate=1e-3)  # fmt: skip
RUNS = {
    "rl": dict(num_steps=2, batch_size=3, num_samples=3, baseline="rloo", importance="on", seed=5,
               prompt_selection="half"),
    "ppo": dict(num_updates=2, batch_size=3, num_samples=3, ppo_epochs=2, minibatch_size=5, value_coef=0.5,
                ratio_level="token", critic_warmup=1),
    "grpo": dict(num_steps=2, batch_size=3, num_samples=3, seed=5, dynamic_sampling=True,
                 prompt_selection="solved", solved_after=3, recheck=0.5),
    "rft": dict(num_steps=2, batch_size=3, num_samples=4, num_epochs=2, minibatch_size=2, max_kept=1,
                stop_at_strings=True),
    "dpo": dict(train_path="{pairs}", batch_size=3, num_steps=2, max_length=None, max_new_tokens=None),
}  # fmt: skip
SAME = ("step", "sampled_tokens", "gen_len", "base_reward", "left_out", "replaced_groups", "optimizer_steps",
        "kept", "kept_tasks", "set_aside", "estimated_pass_rate", "effective_tasks")  # fmt: skip


ONE_THREAD = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def accelerate_launch(*command: str) -> str:
    """In two processes, as on two GPUs, but on CPUs; their standard output."""
    before = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    before += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    before += ["--main_process_port", "0"]
    done = subprocess.run([*before, *command], cwd=ROOT, capture_output=True, text=True, env=os.environ | ONE_THREAD)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def launch(tmp_path_factory):
    """Run a command in one process or in two, without the seconds that a launcher and cold starts take."""

    def launch(count: int, *command: str) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        folder, running = tmp_path_factory.mktemp("said"), []
        for rank in range(count):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            settings = address | {name: str(value) for name, value in place.items()} if count > 1 else {}
            files = folder / f"out{rank}", folder / f"err{rank}"
            running.append(forked.start(command, *files, **ONE_THREAD, **settings))
        for rank, process in enumerate(running):
            process.join(120)
            if process.exitcode != 0:
                for other in running:
                    other.terminate()
                raise AssertionError(f"{process.exitcode}: {(folder / f'err{rank}').read_text()}")
        return "".join((folder / f"out{rank}").read_text() for rank in range(count))

    return launch


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> str:
    lines = [
        {"prompt": "def f(x):\n", "chosen": f"    return x + {n}\n", "rejected": "    return x\n" * (n + 1)}
        for n in range(5)
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("method", list(RUNS))
def test_two_processes_make_the_update_of_one(start, pairs, tmp_path, method, launch):
    flags = {name: value for name, value in (COMMON | RUNS[method]).items() if value is not None}
    words = [f"train_{method}_lora.py"]
    for name, value in flags.items():
        value = value.format(start=start, pairs=pairs) if isinstance(value, str) else value
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    logs, ends = [], []
    words += ["--output_dir"]
    launch(1, *words, str(tmp_path / "1"))
    two = accelerate_launch if method == "grpo" else functools.partial(launch, 2)
    said = two(*words, str(tmp_path / "2"))
    for count in (1, 2):
        out = tmp_path / str(count)
        logs.append([json.loads(line) for line in (out / f"{method}_train_log.jsonl").open()])
        ends.append(load_file(out / "adapter_model.safetensors"))
    for one, two in zip(*logs, strict=True):
        for name in one.keys() - {name for name in one if "second" in name}:
            wanted = one[name] if name in SAME else pytest.approx(one[name], rel=1e-3, abs=2e-5)
            assert two[name] == wanted, name
    if method != "dpo":  # each process has made the ratios of its share
        rows = [[json.loads(line) for line in (tmp_path / count / "completions.jsonl").open()] for count in "12"]
        assert len(rows[0]) > 0 and (method in ("rl", "rft")) == (rows[0][0]["ratio"] is None)
        for one, two in zip(*rows, strict=True):
            wanted = None if one["ratio"] is None else pytest.approx(one["ratio"], rel=1e-2)
            assert one["token_ids"] == two["token_ids"] and two["ratio"] == wanted
    begun = load_file(f"{start}/adapter_model.safetensors")
    moved = max((ends[0][name] - begun[name]).abs().max() for name in begun).item()
    assert moved > 0
    assert max((ends[1][name] - ends[0][name]).abs().max() for name in begun).item() < 0.02 * moved
    assert said.count("step 1 ") == said.count("saved ") == 1  # the second says nothing


@pytest.mark.slow
def test_sft_in_two_processes(pocket, tmp_path, launch):
    ends = []
    for count in (1, 2):
        launch(count, "train_sft_lora.py", "--train_path", "data/pocket_train.jsonl", "--model_name", pocket,
               "--output_dir", str(tmp_path / str(count)), "--max_length", "384", "--max_steps", "2",
               "--lora_dropout", "0", "--gradient_accumulation_steps", "1",
               "--per_device_train_batch_size", str(4 // count))  # fmt: skip
        ends.append(load_file(tmp_path / str(count) / "adapter_model.safetensors"))
    moved = max(weight.abs().max() for name, weight in ends[0].items() if "lora_B" in name).item()
    assert moved > 0
    assert max((ends[1][name] - ends[0][name]).abs().max() for name in ends[0]).item() < 0.02 * moved


def test_a_launch_that_cuts_the_model_up_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="launched with FSDP, .*docs/accelerate_ddp.yaml"):
        processes.processes.__wrapped__()


@pytest.mark.slow
def test_evaluation_in_two_processes(start, tmp_path, launch):
    found = []
    command = ("eval_humaneval.py", "--model_path", start, "--data_path", "data/pocket_test.jsonl", "--limit", "7",
               "--max_length", "384", "--max_new_tokens", "40", "--n_samples", "2", "--temperature", "0.8",
               "--exp_name", "e", "--results_dir")  # fmt: skip
    for count in (1, 2):
        launch(count, *command, str(tmp_path / str(count)))
        rows = [json.loads(line) for line in (tmp_path / str(count) / "e_per_task.jsonl").open()]
        metrics = json.loads((tmp_path / str(count) / "e_metrics.json").read_text())
        names = ("num_tasks", "num_samples", "num_pass", "avg_gen_len", "cut_off", "pass_at_2", "statuses")
        found.append(([(row["task_id"], row["completion"]) for row in rows], [metrics[name] for name in names]))
    assert found[0] == found[1] and len(found[0][0]) == 14
