"""A GGUF file as a model: converted once, its weights the file's, its checksum in what comes after."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

import eval_humaneval
import merge_adapter
import train_sft_lora
from common import InputError, sha256
from model import gguf_model
from model.load import base_and_adapter, load_tokenizer

gguf = pytest.importorskip("gguf")
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
ENDS = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight"}  # fmt: skip


def write_gguf(path: Path, model, tokenizer) -> None:
    """A tiny Qwen2 as llama.cpp's converter writes it, its matrices in 8 bits."""
    config, writer = model.config, gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    data = json.loads(tokenizer._tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in data["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(True)
    for name, weight in model.state_dict().items():
        if name not in ENDS:
            _, _, layer, *rest = name.split(".")
            rest, kind = ".".join(rest[:-1]), rest[-1]
        to = ENDS.get(name) or f"blk.{layer}.{NAMES[rest]}.{kind}"
        array = weight.float().numpy()
        if array.ndim == 2:
            eight = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(to, gguf.quantize(array, eight), raw_dtype=eight)
        else:
            writer.add_tensor(to, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def model(pocket):
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=1024, hidden_size=128, intermediate_size=192, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
                         tie_word_embeddings=False)  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def file(model, pocket, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "tiny-q8.gguf"
    write_gguf(path, model, AutoTokenizer.from_pretrained(pocket))
    return path


@pytest.fixture(autouse=True)
def checkpoints(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(gguf_model, "CHECKPOINTS", tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def test_its_weights_and_its_tokenizer_are_the_files(file, model, pocket, capsys):
    folder, adapter = base_and_adapter(str(file))
    assert adapter is None and "converting" in capsys.readouterr().out
    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, weight in model.state_dict().items():  # 8 bits, then bfloat16
        assert torch.allclose(converted.state_dict()[name], weight, rtol=0.01, atol=0.01 * weight.abs().max()), name
    text = "def f(x):\n    return 'ä'\n"
    tokenizer, source = load_tokenizer(str(file)), AutoTokenizer.from_pretrained(pocket)
    bos, *ids = tokenizer(text).input_ids  # cut into words as Qwen's are, so not by the very same tokens
    assert tokenizer.decode(ids) == text and (bos, tokenizer.eos_token_id) == (source.bos_token_id, source.eos_token_id)
    assert source.get_vocab().items() <= tokenizer.get_vocab().items()  # transformers adds an unknown token
    assert "quantization_config" not in json.loads((Path(folder) / "config.json").read_text())


def test_it_is_converted_once(file, checkpoints, monkeypatch, tmp_path):
    first = base_and_adapter(str(file))
    monkeypatch.setattr(gguf_model, "_convert", lambda *args: pytest.fail("again"))
    assert base_and_adapter(str(file)) == first == base_and_adapter(str(file.parent))  # a folder with one
    again = tmp_path / "elsewhere" / file.name
    again.parent.mkdir()
    shutil.copy(file, again)  # other times, the same bytes
    assert base_and_adapter(str(again)) == first
    assert gguf_model.origin(first[0])["sha256"] == sha256(file)


def test_another_file_of_the_name_gets_a_folder_of_its_own(file, model, pocket, tmp_path):
    first, _ = base_and_adapter(str(file))
    other = tmp_path / "elsewhere" / file.name
    other.parent.mkdir()
    model.state_dict()["model.norm.weight"][0] = 2.0
    write_gguf(other, model, AutoTokenizer.from_pretrained(pocket))
    model.state_dict()["model.norm.weight"][0] = 1.0
    second, _ = base_and_adapter(str(other))
    assert second != first and gguf_model.origin(second)["sha256"] == sha256(other) != sha256(file)


def test_from_the_file_over_sft_to_the_card(file, tasks_path, tmp_path, capsys):
    sft = str(tmp_path / "sft")
    train_sft_lora.main(train_sft_lora.Args(train_path=tasks_path, model_name=str(file), output_dir=sft, max_steps=1,
                                            max_length=384))  # fmt: skip
    assert json.loads((tmp_path / "sft" / "run.json").read_text())["gguf"]["sha256"] == sha256(file)
    eval_humaneval.main(eval_humaneval.Args(data_path=tasks_path, model_path=sft, exp_name="g", limit=1,
                                            results_dir=str(tmp_path), max_length=384, max_new_tokens=8))  # fmt: skip
    assert json.loads((tmp_path / "g_metrics.json").read_text())["gguf"]["file"] == file.name
    merge_adapter.main(merge_adapter.Args(adapter_model_id=sft, results_dir=str(tmp_path)))
    card = (tmp_path / "sft-merged" / "README.md").read_text()
    assert f"those of the GGUF file `{file.name}`, SHA-256 `{sha256(file)}`" in card


def test_what_is_no_gguf_file_is_one_line(file, tmp_path, monkeypatch):
    (tmp_path / "no.gguf").write_bytes(b"GGUF and nothing else")
    with pytest.raises(InputError, match="no.gguf: cannot be converted: "):
        base_and_adapter(str(tmp_path / "no.gguf"))
    assert not (gguf_model.CHECKPOINTS / "no-gguf").exists()
    with pytest.raises(InputError, match="gone.gguf: no such file"):
        base_and_adapter(str(tmp_path / "gone.gguf"))
    (tmp_path / "a-00001-of-00002.gguf").write_bytes(b"")
    with pytest.raises(InputError, match="is one part of several; join them"):
        base_and_adapter(str(tmp_path / "a-00001-of-00002.gguf"))
    with pytest.raises(InputError, match="has 2 GGUF files; name one"):
        base_and_adapter(str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(InputError, match="needs the package gguf; .venv/bin/pip install gguf"):
        base_and_adapter(str(file))
