"""SFT, GRPO and evaluation of tiny models of several architectures, in process; what is refused, and how."""

import json
import shutil

import pytest
import torch
from families import FAMILIES, save_family

import eval_humaneval
import train_grpo_lora
import train_sft_lora
from common import InputError
from memory_parts import num_parameters, without_weights
from policy import add_lora, linear_layers, load_config, load_policy, load_tokenizer, lora_targets, save_adapter

LLAMA = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
TARGETS = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "starcoder2": ["c_fc", "c_proj", "k_proj", "o_proj", "q_proj", "v_proj"],
    "gpt_neox": ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"],
    "gemma": LLAMA,
    "phi": ["dense", "fc1", "fc2", "k_proj", "q_proj", "v_proj"],
    "phi3": ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"],
    "gpt2": ["c_attn", "c_fc", "c_proj"],
}
CPU = torch.device("cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_from_sft_over_grpo_to_the_evaluation(family, tmp_path, tasks_path, known_run, capsys):
    name = save_family(family, tmp_path / family)
    sft, grpo, sizes = str(tmp_path / "sft"), str(tmp_path / "grpo"), dict(max_length=384, max_new_tokens=8)
    train_sft_lora.main(
        train_sft_lora.Args(train_path=tasks_path, model_name=name, output_dir=sft, max_length=384, max_steps=2,
                            gradient_accumulation_steps=1, learning_rate=1e-2)
    )  # fmt: skip
    known_run()  # 2 of 3 pass: there is something to learn
    train_grpo_lora.main(
        train_grpo_lora.Args(train_path=tasks_path, sft_model=sft, output_dir=grpo, **sizes, num_steps=1, batch_size=2,
                             num_samples=3, gradient_checkpointing=True, learning_rate=1.0)
    )  # fmt: skip
    eval_humaneval.main(
        eval_humaneval.Args(data_path=tasks_path, model_path=grpo, exp_name=family, **sizes, limit=2,
                            results_dir=str(tmp_path))
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "sampler and trainer differ by" in said and "one row each" not in said
    trained = [load_policy(folder, CPU) for folder in (sft, grpo)]
    before, after = ({n: p for n, p in m.named_parameters() if "lora_" in n} for m in trained)
    assert {n.split(".")[-4] for n in before} == set(TARGETS[family])
    assert all((before[n] != after[n]).any() for n in before), "a layer that GRPO does not train"
    assert json.loads((tmp_path / "grpo" / "adapter_config.json").read_text())["target_modules"] == TARGETS[family]
    metrics = json.loads((tmp_path / f"{family}_metrics.json").read_text())
    assert metrics["num_samples"] == 2 and metrics["is_lora"] and 1 <= metrics["avg_gen_len"] <= 8
