"""--engine vllm against a stand-in of its classes; tests/test_vllm_real.py runs vLLM itself where it is installed."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import vllm_stand_in
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM

import eval_humaneval
import generate_dpo_data
import train_grpo_lora
import train_ppo_lora
import train_rl_lora
from common import InputError
from judging.tasks import read_tasks
from model.load import load_policy, load_tokenizer, trainable_parameters
from model.logprobs import completion_logprobs
from model.sampling import encode_prompts
from model.sampling_vllm import VllmSampler, check_engine, save_unpacked

SETTINGS = dict(max_length=384, vllm_memory=0.3, seed=1, trust_remote_code=False, temperature=0.8, dtype="auto")


@pytest.fixture
def engines(monkeypatch):
    return vllm_stand_in.install(monkeypatch)


@pytest.fixture
def policy(start):
    return load_policy(start, torch.device("cpu"), trainable=True).eval(), load_tokenizer(start)


@pytest.fixture
def prompts(policy):
    return encode_prompts(policy[1], read_tasks("data/pocket_train.jsonl")[:3], 256)


def draw(sampler, policy, prompts, seed=0, **settings):
    base = dict(max_new_tokens=24, temperature=0.8, num_samples=2, seeds=[(seed, i) for i in range(len(prompts))])
    return list(sampler.generate(*policy, prompts, **base | settings))


@pytest.mark.parametrize("temperature", [0.8, 1.0])
def test_rollouts_are_those_of_the_policy(engines, start, policy, prompts, temperature):
    sampler = VllmSampler(start, policy[1], SimpleNamespace(**SETTINGS | {"temperature": temperature}))
    rollouts = draw(sampler, policy, prompts, temperature=temperature, batch_size=4)
    assert [r.prompt_index for r in rollouts] == [0, 0, 1, 1, 2, 2]
    assert [r.number for r in rollouts] == [0, 1] * 3
    assert all(r.prompt_ids == prompts[r.prompt_index] for r in rollouts)
    with torch.no_grad():
        ids = [r.prompt_ids for r in rollouts], [r.token_ids for r in rollouts]
        logprobs, mask = completion_logprobs(policy[0], *ids, temperature)
    for row, r in enumerate(rollouts):
        assert r.logprobs == pytest.approx(logprobs[row][mask[row] == 1].tolist(), abs=1e-3)
        assert r.ended == (r.token_ids[-1] == 1) and len(r.token_ids) <= 24
        assert r.text == policy[1].decode([token for token in r.token_ids if token != 1])
    seeds = [params.seed for params in engines[0].params]
    assert len(set(seeds)) == 3 and rollouts[0].token_ids != rollouts[1].token_ids
    again = draw(sampler, policy, prompts, temperature=temperature)
    assert [r.token_ids for r in again] == [r.token_ids for r in rollouts]
    assert [r.token_ids for r in draw(sampler, policy, prompts, seed=1)] != [r.token_ids for r in rollouts]


def test_an_adapter_is_handed_over_when_it_has_changed_and_only_then(engines, start, policy, prompts):
    sampler = VllmSampler(start, policy[1], SimpleNamespace(**SETTINGS))
    first = draw(sampler, policy, prompts)
    draw(sampler, policy, prompts)
    with torch.no_grad():
        for parameter in trainable_parameters(policy[0]):
            torch.nn.init.normal_(parameter, std=0.2)
    changed = draw(sampler, policy, prompts)
    (engine,) = engines
    assert [request.lora_int_id for request in engine.calls] == [1, 1, 2]
    assert engine.calls[0].lora_name != engine.calls[2].lora_name
    assert engine.adapters[1] != engine.adapters[2] and engine.llm_engine.removed == [1]
    assert [r.token_ids for r in first] != [r.token_ids for r in changed]
    with torch.no_grad():
        r = changed[0]
        logprobs = completion_logprobs(policy[0], [r.prompt_ids], [r.token_ids], 0.8)[0][0]
    assert r.logprobs == pytest.approx(logprobs.tolist(), abs=1e-3)
    folders = list(Path(sampler.folder.name).iterdir())
    assert [folder.name for folder in folders] == ["2"]  # the old one is gone
    assert (engine.memory, engine.max_model_len, engine.max_lora_rank) == (0.3, 384, 8)


def test_an_adapter_that_is_not_ours_is_left_where_it_is(engines, start, policy, prompts):
    sampler = VllmSampler(start, policy[1], SimpleNamespace(**SETTINGS))
    first = draw(sampler, (None, policy[1]), prompts)
    second = draw(sampler, policy, prompts)
    third = draw(sampler, (None, policy[1]), prompts)
    paths = [request.lora_path for request in engines[0].calls]
    assert paths[0] == paths[2] == start != paths[1] and (Path(start) / "adapter_model.safetensors").is_file()
    assert [r.token_ids for r in first] == [r.token_ids for r in second] == [r.token_ids for r in third]


def test_stop_strings_are_trained_on_and_not_in_the_text(engines, pocket, prompts):
    tokenizer = load_tokenizer(pocket)
    sampler = VllmSampler(pocket, tokenizer, SimpleNamespace(**SETTINGS | {"temperature": 0.0}))
    settings = dict(max_new_tokens=100, temperature=0.0, num_samples=1)
    free = draw(sampler, (None, tokenizer), prompts, **settings)
    kinds = [("\n    return", "\n    result"), ("\n    for ",), ("\n    return", "\n    result")]
    held = draw(sampler, (None, tokenizer), prompts, stops=kinds, batch_size=2, **settings)
    assert engines[0].calls == [None] * 3 and not engines[0].enable_lora
    assert [params.stop for params in engines[0].params] == [None] * 3 + [list(stops) for stops in kinds]
    ends = []
    for whole, r, stops in zip(free, held, kinds, strict=True):
        ends.append(any(stop in whole.text for stop in stops))
        assert whole.token_ids[: len(r.token_ids)] == r.token_ids and not any(stop in r.text for stop in stops)
        assert r.ended == (ends[-1] or whole.ended)
        assert any(stop in tokenizer.decode(r.token_ids) for stop in stops) == ends[-1]
    assert any(ends)


def test_every_eos_of_the_generation_config_counts(engines, pocket, prompts, tmp_path):
    shutil.copytree(pocket, tmp_path / "two")
    for name in ("config.json", "generation_config.json"):
        path = tmp_path / "two" / name
        settings = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(settings | {"eos_token_id": [1, 7]}))
    tokenizer = load_tokenizer(pocket)
    sampler = VllmSampler(str(tmp_path / "two"), tokenizer, SimpleNamespace(**SETTINGS))
    assert sampler.ends == [1, 7]
    (tmp_path / "two" / "generation_config.json").unlink()
    assert VllmSampler(str(tmp_path / "two"), tokenizer, SimpleNamespace(**SETTINGS)).ends == [1, 7]
    draw(sampler, (None, tokenizer), prompts[:1])
    assert engines[0].params[0].stop_token_ids == [1, 7]


SCRIPTS = {
    "rl": (train_rl_lora, dict(num_steps=3, num_samples=2, baseline="rloo", temperature=0.9)),
    "ppo": (train_ppo_lora, dict(num_updates=2, num_samples=2, ppo_epochs=2)),
    "grpo": (train_grpo_lora, dict(num_steps=2, num_samples=2, stop_at_strings=True)),
}


@pytest.mark.parametrize("method", SCRIPTS)
def test_a_run_passes_the_gate_and_hands_over_every_update(
    engines, start, tasks_path, tmp_path, known_run, method, capsys
):
    known_run(lambda call, i: i % 2 == 0)  # samples of a task differ: every update changes the weights
    script, settings = SCRIPTS[method]
    args = script.Args(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / "out"), max_length=384,
                       max_new_tokens=24, batch_size=2, learning_rate=0.5, engine="vllm", vllm_memory=0.25,
                       **settings)  # fmt: skip
    script.main(args)
    assert "parity: sampler and trainer differ by" in capsys.readouterr().out
    log = [json.loads(line) for line in open(tmp_path / "out" / f"{method}_train_log.jsonl")]
    assert all(record["sampler_mismatch"] < 1e-3 for record in log)
    assert all(record["importance_mean"] == pytest.approx(1, abs=1e-2) for record in log)  # on, as vLLM samples
    (engine,) = engines
    numbers = [request.lora_int_id for request in engine.calls]
    assert numbers == list(range(1, len(log) + 1)) and engine.llm_engine.removed == numbers[:-1]
    assert len(set(engine.adapters.values())) == len(log)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["args"]["engine"] == "vllm"


def test_the_gate_stops_a_sampler_that_is_another_policy(engines, start, tasks_path, tmp_path, monkeypatch):
    monkeypatch.setattr(VllmSampler, "hand_over", lambda self, model, tokenizer: None)  # the base model samples
    args = train_rl_lora.Args(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / "out"), max_length=384,
                              max_new_tokens=24, num_steps=1, engine="vllm", importance="off")  # fmt: skip
    with pytest.raises(InputError, match="the sampler's log-probabilities differ from the trainer's"):
        train_rl_lora.main(args)


def test_with_importance_weights_the_gate_still_stops_shifted_log_probs(
    engines, start, tasks_path, tmp_path, monkeypatch
):
    real = VllmSampler._rollout

    def shifted(*given):
        rollout = real(*given)
        return replace(rollout, logprobs=[*rollout.logprobs[1:], 0.0])

    monkeypatch.setattr(VllmSampler, "_rollout", shifted)
    args = train_rl_lora.Args(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / "out"), max_length=384,
                              max_new_tokens=24, num_steps=1, batch_size=4, num_samples=2, engine="vllm")  # fmt: skip
    with pytest.raises(InputError, match="bound 0.2, with importance weights"):
        train_rl_lora.main(args)


def test_pairs_and_evaluation_take_the_adapter_as_it_is(engines, start, tasks_path, tmp_path):
    args = generate_dpo_data.Args(train_path=tasks_path, sft_model=start, output_path=str(tmp_path / "p.jsonl"),
                                  max_length=384, max_new_tokens=16, num_samples=8, batch_size=16, limit=4,
                                  engine="vllm")  # fmt: skip
    try:
        generate_dpo_data.main(args)
    except InputError as error:  # so small a model may pass nothing
        assert "no pair" in str(error)
    assert {request.lora_path for request in engines[0].calls} == {start} and len(engines[0].calls) == 2

    settings = dict(data_path="data/pocket_test.jsonl", model_path=start, results_dir=str(tmp_path), limit=3,
                    max_length=384, max_new_tokens=32)  # fmt: skip
    for engine in ("vllm", "local"):
        eval_humaneval.main(eval_humaneval.Args(exp_name=engine, engine=engine, **settings))
    rows = [(tmp_path / f"{engine}_per_task.jsonl").read_text() for engine in ("vllm", "local")]
    metrics = json.loads((tmp_path / "vllm_metrics.json").read_text())
    assert rows[0] == rows[1]
    assert (metrics["engine"], metrics["is_lora"]) == ("vllm", True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"vllm_memory": 1.5}, "--vllm_memory 1.5: must be in"),
        ({"top_p": 0.9}, "--engine vllm: its log-probabilities are either"),
    ],
)
def test_what_vllm_cannot_do_is_said_at_once(engines, settings, says):
    base = {"engine": "vllm", "top_p": 1.0} | SETTINGS
    check_engine(SimpleNamespace(**base))
    check_engine(SimpleNamespace(**base | {"top_p": 0.9, "temperature": 1.0}))
    with pytest.raises(InputError, match=says):
        check_engine(SimpleNamespace(**base | settings))


def test_several_processes_and_another_device_are_said_at_once(engines, monkeypatch):
    args = SimpleNamespace(engine="vllm", top_p=1.0, **SETTINGS)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="samples in one process, not in 2"):
        check_engine(args)
    monkeypatch.delenv("WORLD_SIZE")
    for device, name in (("cuda", "cuda"), ("", "no device")):
        monkeypatch.setattr(vllm_stand_in.platform, "device_type", device)
        with pytest.raises(InputError, match=f"the installed vLLM runs on {name}, and the policy on cpu; install"):
            check_engine(args)


def test_on_a_gpu_vllm_quantises_the_base_itself(engines, start, policy, prompts, monkeypatch):
    monkeypatch.setattr(vllm_stand_in.platform, "device_type", "cuda")
    monkeypatch.setattr("model.sampling_vllm.pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr("model.sampling_vllm.compute_dtype", lambda device, dtype: torch.float32)
    sampler = VllmSampler(start, policy[1], SimpleNamespace(**SETTINGS))
    assert engines[0].model.endswith("data/pocket_coder") and engines[0].chunked
    assert len(draw(sampler, policy, prompts)) == 6


def test_on_a_cpu_vllm_gets_what_the_4_bit_weights_stand_for(engines, start, policy, prompts):
    sampler = VllmSampler(start, policy[1], SimpleNamespace(**SETTINGS))
    (engine,) = engines
    layers = {name: m for name, m in policy[0].get_base_model().named_modules() if isinstance(m, Linear4bit)}
    assert len(layers) == 28
    for name, layer in layers.items():
        weight = engine.base.get_submodule(name.removesuffix(".base_layer")).weight
        assert torch.equal(weight, dequantize_4bit(layer.weight.data, layer.weight.quant_state))
    head, embedding = engine.base.get_output_embeddings().weight, policy[0].get_input_embeddings().weight
    assert torch.equal(head, embedding)
    assert list(Path(sampler.folder.name).iterdir()) == []  # once loaded, the files are gone


def test_a_server_can_be_given_what_the_4_bit_weights_stand_for(start, policy, tmp_path):
    folder = save_unpacked(start, tmp_path / "base")
    plain, ids = AutoModelForCausalLM.from_pretrained(folder), torch.arange(20)[None]
    with torch.no_grad(), policy[0].disable_adapter():
        torch.testing.assert_close(plain(ids).logits, policy[0](ids).logits, atol=1e-4, rtol=0)
    assert load_tokenizer(folder).get_vocab() == policy[1].get_vocab()


def test_too_little_memory_is_a_line(engines, start, policy):
    with pytest.raises(InputError, match="does not start: Available memory .*--vllm_memory is 0.99"):
        VllmSampler(start, policy[1], SimpleNamespace(**SETTINGS | {"vllm_memory": 0.99}))


def test_a_missing_vllm_is_said_before_anything_is_touched(start, tasks_path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    (tmp_path / "out").mkdir()
    for script, settings in [
        (train_grpo_lora, dict(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / "out"))),
        (
            generate_dpo_data,
            dict(train_path=tasks_path, sft_model=start, output_path=str(tmp_path / "out" / "p.jsonl")),
        ),
        (eval_humaneval, dict(data_path=tasks_path, model_path=start, results_dir=str(tmp_path / "out"))),
    ]:
        with pytest.raises(InputError, match="--engine vllm: vLLM cannot be imported .*; docs/engines.md makes"):
            script.main(script.Args(engine="vllm", **settings))
    assert not list((tmp_path / "out").iterdir()) and not (tmp_path / "out.partial").exists()
    with pytest.raises(InputError, match="--engine vllm: needs a model that is loaded here"):
        eval_humaneval.main(eval_humaneval.Args(data_path=tasks_path, engine="vllm", server="http://127.0.0.1:9"))
    with pytest.raises(InputError, match="--device cpu: vLLM takes the first GPU"):
        eval_humaneval.main(eval_humaneval.Args(data_path=tasks_path, engine="vllm", device="cpu"))
