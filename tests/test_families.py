"""SFT, GRPO and evaluation of tiny models of several architectures, in process; what is refused, and how."""

import json
import shutil

import pytest
import torch
from families import save_family
from peft import LoraConfig, get_peft_model

import eval_humaneval
import train_grpo_lora
import train_sft_lora
from common import InputError
from model.load import add_lora, linear_layers, load_config, load_policy, load_tokenizer, lora_targets, save_adapter
from model.memory_parts import num_parameters, without_weights

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


SLOW = [
    pytest.param(family, marks=pytest.mark.slow) for family in ("llama", "qwen2", "phi3", "gpt2", "gpt_neox", "phi")
]


@pytest.mark.parametrize("family", ["starcoder2", "gemma", *SLOW])
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
    assert "sampler and trainer differ by" in said and "each completion gets its own row" not in said
    trained = [load_policy(folder, CPU) for folder in (sft, grpo)]
    before, after = ({n: p for n, p in m.named_parameters() if "lora_" in n} for m in trained)
    assert {n.split(".")[-4] for n in before} == set(TARGETS[family])
    assert all((before[n] != after[n]).any() for n in before), "a layer that GRPO does not train"
    assert json.loads((tmp_path / "grpo" / "adapter_config.json").read_text())["target_modules"] == TARGETS[family]
    metrics = json.loads((tmp_path / f"{family}_metrics.json").read_text())
    assert metrics["num_samples"] == 2 and metrics["is_lora"] and 1 <= metrics["avg_gen_len"] <= 8


def refusal(load, name: str) -> str:
    with pytest.raises(InputError) as refused:
        load(name)
    assert "\n" not in str(refused.value) and name in str(refused.value)
    return str(refused.value)


LOADERS = [load_tokenizer, load_config, num_parameters, lambda name: load_policy(name, CPU)]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "t5"}, "is an encoder-decoder model (t5); these scripts train decoder-only models"),
        ({"model_type": "codet5p", "is_encoder_decoder": True}, "is an encoder-decoder model (codet5p)"),
        ({"model_type": "bert"}, "is no causal language model (bert)"),
        ({"model_type": "vit"}, "is no causal language model (vit)"),
        ({"model_type": "no-such-model"}, "its config cannot be read: The checkpoint you are trying to load has"),
        ({}, "its config cannot be read: Unrecognized model"),
        ({"model_type": "llama", "hidden_size": "wide"}, "its config cannot be read: "),
    ],
)
def test_other_than_decoders_are_refused_by_their_config_alone(config, says, load, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert says in refusal(load, str(tmp_path))


def test_code_of_the_model_is_run_only_if_asked_for(tmp_path):
    code = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": code}))
    (tmp_path / "code.py").write_text("raise SystemExit('it was run')\n")
    assert "--trust_remote_code runs it" in refusal(load_config, str(tmp_path))


@pytest.mark.parametrize(
    ("family", "setting"),
    [("gemma2", {}), ("granite", {"logits_scaling": 8.0}), ("cohere", {"logit_scale": 0.0625})],
)
def test_logits_that_the_head_alone_does_not_give_are_not_trained(family, setting, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **setting}))
    load_config(str(tmp_path))  # to be evaluated
    says = refusal(lambda name: load_policy(name, CPU, trainable=True), str(tmp_path))
    assert "it changes the logits of its LM head" in says


def test_a_scale_of_one_is_trained(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "granite", "logits_scaling": 1.0}))
    assert load_config(str(tmp_path), trainable=True).model_type == "granite"


def test_weights_that_are_missing_or_no_safetensors_are_refused(tmp_path, capsys):
    name = save_family("llama", tmp_path / "model")
    model = without_weights(name)
    shutil.copytree(name, tmp_path / "bin")
    (tmp_path / "bin" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "bin" / "pytorch_model.bin")
    says = refusal(lambda name: load_policy(name, CPU), str(tmp_path / "bin"))
    assert "its weights are no *.safetensors" in says and "save_pretrained(FOLDER) converts them" in says
    model.to_empty(device="cpu").model.save_pretrained(tmp_path / "headless")
    says = refusal(lambda name: load_policy(name, CPU), str(tmp_path / "headless"))
    assert "its files lack 1 weights, such as ['lm_head.weight']" in says


def test_the_adapted_layers_are_known_before_the_weights(tmp_path):
    """And their number of parameters, tied ones counted once."""
    for family in ("gemma", "gpt2", "phi"):
        name = save_family(family, tmp_path / family)
        loaded = load_policy(name, CPU)
        assert lora_targets(loaded) == lora_targets(without_weights(name)) == TARGETS[family]
        assert linear_layers(loaded).keys() == linear_layers(without_weights(name)).keys()
        quantised = sum(layer.in_features * layer.out_features for layer in linear_layers(loaded).values())
        others = sum(p.numel() for p in loaded.parameters() if p.dtype != torch.uint8)
        assert num_parameters(name) == quantised + others


def test_what_cannot_be_adapted_is_said_in_a_line(tmp_path, pocket_policy):
    model = without_weights(save_family("llama", tmp_path / "model")).model
    model.layers, model.get_output_embeddings = torch.nn.ModuleList(), lambda: None  # norms and embeddings are left
    with pytest.raises(InputError, match="has no linear layers"):
        add_lora(model, 8, 16, 0.0)
    with pytest.raises(InputError, match="has an adapter already"):
        add_lora(pocket_policy[0], 8, 16, 0.0)


def test_llama_gets_the_adapter_that_it_always_had(tmp_path):
    """The same seed, the same weights as when the layers were a list; and they are written in one order."""
    name, listed = save_family("llama", tmp_path / "model"), ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"]
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=[*listed, "up_proj", "down_proj"])
    torch.manual_seed(42)
    model = add_lora(load_policy(name, CPU), 8, 16, 0.05)
    torch.manual_seed(42)
    before = dict(get_peft_model(load_policy(name, CPU), config).named_parameters())
    now = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(now) == 2 * 2 * 7 and all(torch.equal(weight, before[name]) for name, weight in now.items())
    save_adapter(model, load_tokenizer(name), tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"] == LLAMA
