"""Predicted memory against measured bytes, on a CPU in float32 and in bfloat16 (but for the kernels, as on a GPU)."""

import functools
import json
import math
import os
import re
import textwrap

import pytest
import torch
from conftest import ROOT
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Starcoder2Config,
)
from transformers.modeling_layers import GradientCheckpointingLayer

import eval_humaneval
import train_grpo_lora
import train_rl_lora
import train_sft_lora
from benchmarks.bench_memory import compare, random_policy
from common import InputError, run_script
from model import load as policy
from model import memory
from model.load import set_recomputing
from model.logprobs import completion_outputs, takes_shared_prompts
from model.memory_parts import num_parameters, passes, shape_of, training_bytes

SMALL = dict(vocab_size=256, hidden_size=128, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=512)  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SMALL, num_key_value_heads=4),
    "qwen2": Qwen2Config(**SMALL, num_key_value_heads=2),
    "starcoder2": Starcoder2Config(**SMALL, num_key_value_heads=2),
    "gpt_neox": GPTNeoXConfig(**SMALL),
    "gemma": GemmaConfig(**SMALL, num_key_value_heads=1, head_dim=64),
    "phi": PhiConfig(**SMALL),
    "phi3": Phi3Config(**SMALL, num_key_value_heads=2, pad_token_id=2),
    "gpt2": GPT2Config(**SMALL, n_inner=320),
}
PROMPT, REPLY = 32, 16


def saved_bytes(model, prompts, completions) -> int:
    """Of distinct storages kept for the backward pass; weights and constants are not counted.

    What layers that are recomputed are given beside their input (mask, cosines, sines) is held, but not by the graph.
    """
    weights = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage  # held: its address must not be given to another
        return tensor

    def given(layer, inputs, others):
        for value in others.values() if model.is_gradient_checkpointing else ():
            for tensor in value if isinstance(value, tuple) else [value]:
                if isinstance(tensor, torch.Tensor) and tensor.shape[-1] > 1:
                    pack(tensor)

    first = next(module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
    watch = first.register_forward_pre_hook(given, with_kwargs=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        completion_outputs(model, prompts, completions)
    watch.remove()
    return sum(storage.nbytes() for storage in saved.values())


def largest_pass(args):
    return max(passes(args, PROMPT), key=lambda one: one.tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_kept_for_the_backward_pass(kind, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(policy, "compute_dtype", lambda device: dtype)
    model, _ = random_policy(CONFIGS[kind], tmp_path, torch.device("cpu"))
    with torch.device("meta"):
        shape = shape_of(AutoModelForCausalLM.from_config(CONFIGS[kind]), kind)
    assert takes_shared_prompts(model)
    for checkpointing in (False, True):
        if checkpointing:
            set_recomputing(model, True)
        for samples, lengths in ((4, [PROMPT] * 4), (1, [PROMPT, PROMPT, PROMPT - 9, PROMPT])):
            args = memory.Args(batch_size=4 // samples, num_samples=samples, max_new_tokens=REPLY,
                               gradient_checkpointing=checkpointing)  # fmt: skip
            one = largest_pass(args)
            assert (one.rows, one.length) == (4 // samples, PROMPT + samples * REPLY)
            prompts = [[7 + (row if samples == 1 else 0)] * length for row, length in enumerate(lengths)]
            measured = saved_bytes(model, prompts, [[9] * REPLY] * 4)
            kept = training_bytes(shape, args, one, dtype.itemsize)["activations kept for the backward pass"]
            if dtype == torch.bfloat16 and samples > 1 and not checkpointing:  # copies of the mask for a GPU's kernel
                kept -= 2 * shape.layers * one.scores
            assert kept == pytest.approx(measured, rel=0.05), (kind, samples, checkpointing)


@pytest.mark.parametrize(("dtype", "checkpointing"), [(torch.float32, False), (torch.bfloat16, True)])
def test_the_peak_of_a_grpo_step(dtype, checkpointing, tmp_path, monkeypatch):
    monkeypatch.setattr(policy, "compute_dtype", lambda device: dtype)
    config = LlamaConfig(hidden_size=384, intermediate_size=1024, num_hidden_layers=4, vocab_size=4096,
                         num_attention_heads=8, num_key_value_heads=4)  # fmt: skip
    model, adapter = random_policy(config, tmp_path, torch.device("cpu"))
    args = memory.Args(batch_size=2, num_samples=4, max_new_tokens=24, max_length=152, micro_batch_tokens=448,
                       gradient_checkpointing=checkpointing)  # fmt: skip
    found = compare(model, adapter, args, prompt=128)
    for name, (predicted, measured) in found.items():
        bound = {"always": 0.01, "optimizer step": 1.0}.get(name, 0.15)
        assert predicted == pytest.approx(measured, rel=bound), name
    assert memory.args_of(memory.Args(lora_r=4), "grpo", adapter).lora_r == 8


def test_what_fits_is_what_is_proposed(tmp_path):
    config = LlamaConfig(hidden_size=2048, intermediate_size=5504, num_hidden_layers=24, num_attention_heads=16,
                         vocab_size=32256)  # fmt: skip
    config.save_pretrained(tmp_path)
    shape, args, room = memory.read_shape(str(tmp_path)), memory.Args(), 14.7 * memory.GIB
    parts = memory.predict(shape, args)
    assert parts.always["weights in 4 bits"] * 8 / sum(i * o for _, i, o in shape.linears) == pytest.approx(4.13, 1e-3)
    assert shape.other == 2 * 32256 * 2048 + 49 * 2048  # embeddings, LM head, norms
    assert (
        "does not fit; micro_batch_tokens up to 5376, any with gradient checkpointing; sample_batch_size up to 40"
        in memory.advice(shape, args, "16 GB", room)
    )
    args = memory.Args(batch_size=16, num_samples=16, sample_batch_size=256)
    for name, phase, step in (("micro_batch_tokens", "training", 256), ("sample_batch_size", "sampling", 16)):
        best, any_does = memory.largest_fitting(shape, args, room, name)
        peaks = []
        for size in (best, best + max(step, best // step // 8 * step)):
            found = memory.predict(shape, memory.replace(args, **{name: size}))
            found.phases = {phase: found.phases[phase]}
            peaks.append(found.peak)
        assert peaks[0] <= room < peaks[1] and not any_does
    for method in ("sft", "rl", "ppo", "rft", "dpo"):
        other = memory.predict(shape, memory.replace(args, method=method, value_coef=0.5 * (method == "ppo")))
        assert math.isfinite(other.peak) and ("sampling" in other.phases) is (method in ("rl", "ppo", "rft"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "--preflight predicts"),
        ("--preflight --model_name nobody/nothing", "the hub cannot be reached"),
        ("--preflight --model_name data", "data: no model here"),
        ("--preflight --batch_size 0", "--batch_size 0: must be at least 1"),
        ("--preflight --max_length 10", "--max_length must be more"),
        ("--preflight --micro_batch_token 3", "did you mean --micro_batch_tokens?"),
    ],
)
def test_bad_input_is_one_line(flags, says, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["policy.py", *flags.split()])
    with pytest.raises(SystemExit) as stop:
        run_script(memory.preflight, memory.Args, None)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and error.count("\n") == 1


@pytest.mark.slow
def test_the_command_line(run_cli, pocket):
    code, out, errors = run_cli("policy.py", "--preflight", "--model_name", pocket, "--num_samples", "4")
    assert code == 0 and "16 GB" in out and "any sample_batch_size" in out and "the largest phase" in out
    assert not errors, errors


SHAPES = {  # hidden size, feed-forward size, layers, heads, vocabulary of the models that the pages predict for
    "1.3B": (2048, 5504, 24, 16, 32256),
    "6.7B": (4096, 11008, 32, 32, 32256),
    "7B": (4096, 11008, 30, 32, 102400),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    def folder(name: str) -> str:
        hidden, inner, layers, heads, vocabulary = SHAPES[name]
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=16384,
        )
        path = tmp_path_factory.mktemp(name)
        config.save_pretrained(path)
        return str(path)

    return functools.cache(folder)


def said_by_preflight(folder: str, flags: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr("sys.argv", ["policy.py", "--preflight", "--model_name", folder, *flags.split()])
    run_script(memory.preflight, memory.Args, None)
    return capsys.readouterr().out


VERILOG = "--max_new_tokens 768 --max_length 1536 --lora_r 16 --gradient_checkpointing --no_unpack_to_sample"
VERILOG_PPO = f"--method ppo --value_coef 0.5 --entropy_coef 0.01 --num_samples 1 {VERILOG}"


@pytest.mark.parametrize(
    ("page", "says", "model", "flags"),
    [
        ("hardware", "the predicted peak is {} GiB", "1.3B", "--max_length 768"),
        ("hardware", "With `--no_cuda_graph` it is {} GiB", "1.3B", "--max_length 768 --no_cuda_graph"),
        ("hardware", "Both need {} GiB", "1.3B", "--max_length 512"),
        ("hardware", "Both need {} GiB", "1.3B", "--max_length 512 --method ppo --value_coef 0.5"),
        ("hardware", "`--sample_batch_size 32` they need {} GiB", "1.3B", "--max_length 512 --sample_batch_size 32"),
        ("hardware", "({} GiB). The weights unpacked", "6.7B",
         "--max_length 512 --no_unpack_to_sample --gradient_checkpointing --sample_batch_size 16"),
        ("hardware", "({} GiB), even with the weights unpacked", "6.7B",
         "--max_length 512 --method ppo --value_coef 0.5 --sample_batch_size 8 --gradient_checkpointing"),
        ("verilog", "PPO needs {} GiB", "7B", f"{VERILOG_PPO} --sample_batch_size 4"),
        ("verilog", "`--sample_batch_size 8` it would need {} GiB", "7B", f"{VERILOG_PPO} --sample_batch_size 8"),
        ("verilog", "the two coefficients) needs {} GiB", "7B", f"--batch_size 1 {VERILOG} --sample_batch_size 8"),
    ],
)  # fmt: skip
def test_the_pages_say_what_is_predicted_today(page, says, model, flags, folder_of, monkeypatch, capsys):
    peak = re.search(r"peak: .* (\S+)\n", said_by_preflight(folder_of(model), flags, monkeypatch, capsys))[1]
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert says.format(f"{float(peak):.1f}") in " ".join(text.split())


def test_the_page_shows_a_prediction_as_it_is_printed(folder_of, monkeypatch, capsys):
    page = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    printed = said_by_preflight(folder_of("1.3B"), "--max_length 1024", monkeypatch, capsys)
    assert textwrap.indent(printed.replace(folder_of("1.3B"), "deepseek-ai/deepseek-coder-1.3b-base"), "    ") in page


HUGE = {"model_type": "llama", "hidden_size": 2**17, "intermediate_size": 2**19, "num_hidden_layers": 4,
        "num_attention_heads": 128}  # fmt: skip


def test_a_run_that_does_not_fit_is_refused_before_anything_is_loaded(tmp_path, pocket, start, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(HUGE))
    assert num_parameters(str(tmp_path)) > 2**40
    with pytest.raises(InputError) as refused:
        memory.check_fits(train_grpo_lora.Args(), "grpo", str(tmp_path))
    said = str(refused.value)
    assert said.startswith(f"{tmp_path}: grpo is predicted to take ") and "\n" not in said
    assert "does not fit" in said and said.endswith("a smaller model might")
    for method, script in (("grpo", train_grpo_lora), ("sft", train_sft_lora)):
        memory.check_fits(script.Args(max_length=512), method, pocket)
    memory.check_fits(train_grpo_lora.Args(), "grpo", start)

    args = train_grpo_lora.Args(batch_size=16)  # what would make it fit is named; so is no more than it needs
    needed = memory.predict(memory.read_shape(start), memory.args_of(args, "grpo", start), dtype=4).peak
    monkeypatch.setattr(memory, "memory_here", lambda: needed * 0.6)
    with pytest.raises(InputError, match="; (micro_batch_tokens|sample_batch_size) up to"):
        memory.check_fits(args, "grpo", start)
    args.max_length = 64 + args.max_new_tokens
    memory.check_fits(args, "grpo", start)


def test_the_memory_of_this_machine_is_some_of_it():
    assert 2**26 < memory.memory_here() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def out_of_memory(args, phase: str, error: Exception | None = None) -> str:
    with pytest.raises(InputError) as caught, memory.answer_for_memory(args, lambda: phase):
        raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total ...")
    return str(caught.value)


def test_out_of_memory_is_one_line_with_the_flags_that_help():
    args = train_grpo_lora.Args(sample_batch_size=48)
    said = out_of_memory(args, "sampling")
    assert (
        "out of memory in sampling: 2.00 GiB more were asked for, " in said and "GiB are free on this machine" in said
    )
    assert said.endswith("a lower --sample_batch_size (now 48), a lower --max_new_tokens (now 256), "
                         "--no_unpack_to_sample")  # fmt: skip
    said = out_of_memory(train_grpo_lora.Args(gradient_checkpointing=True), "training")
    assert said.endswith("what helps: a lower --micro_batch_tokens (now 4096)")
    said = out_of_memory(train_sft_lora.Args(), "training")
    assert said.endswith("a lower --per_device_train_batch_size (now 1), --gradient_checkpointing")
    assert "a lower --batch_size (now 64)" in out_of_memory(eval_humaneval.Args(), "sampling")
    on_a_cpu = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")
    assert "out of memory in log-probabilities: 99 bytes more" in out_of_memory(args, "log-probabilities", on_a_cpu)
    of_cublas = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert "out of memory in training: some more were asked for" in out_of_memory(args, "training", of_cublas)
    with pytest.raises(RuntimeError, match="another"), memory.answer_for_memory(args, lambda: "training"):
        raise RuntimeError("another")


def test_a_run_that_asks_for_too_much_ends_in_one_line(start, tmp_path, monkeypatch):
    def greedy(*args, **kwargs):
        return torch.empty(2**60) if torch.is_grad_enabled() else completion_outputs(*args, **kwargs)

    args = train_rl_lora.Args(train_path="data/pocket_train.jsonl", sft_model=start, output_dir=str(tmp_path / "rl"),
                              max_length=384, max_new_tokens=8, num_steps=1, batch_size=2)  # fmt: skip
    monkeypatch.setattr("training.learner.completion_outputs", greedy)
    with pytest.raises(InputError, match="out of memory in training: .* bytes more .* --gradient_checkpointing"):
        train_rl_lora.main(args)
    assert not (tmp_path / "rl").exists()


def test_a_gpus_free_memory_counts_not_all_of_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * 2**30, 24 * 2**30))
    assert memory.memory_here() == 5 * 2**30
