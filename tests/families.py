"""Tiny random models of several architectures, in folders as the hub has them, with the kind of tokenizer they have."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from tokenizer_kinds import by_normaliser, sentencepiece
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

POCKET = Path(__file__).parents[1] / "data" / "pocket_coder"
SMALL = dict(vocab_size=1024, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512,
             tie_word_embeddings=False)  # fmt: skip
FAMILIES = {  # what differs
    "llama": {},
    "qwen2": {},
    "starcoder2": {"tie_word_embeddings": True},
    "gpt_neox": {},  # queries, keys and values in one layer; the head is called embed_out
    "gemma": {"tie_word_embeddings": True, "num_key_value_heads": 1, "head_dim": 64},  # embeddings are scaled
    "phi": {"num_key_value_heads": 4},  # the head has a bias; half of a query is rotated
    "phi3": {},
    "gpt2": {"tie_word_embeddings": True, "n_inner": 192},  # weights are stored transposed
}
PIECES = {"llama": by_normaliser, "phi3": sentencepiece, "gemma": partial(sentencepiece, add_prefix_space=False)}


def save_family(family: str, folder: Path) -> str:
    """Its weights are random, biases too, and far from zero: greedy choices are then no ties."""
    torch.manual_seed(0)
    tokenizer = PIECES[family]() if family in PIECES else AutoTokenizer.from_pretrained(POCKET)  # else byte-level
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL | FAMILIES[family] | ids))
    for parameter in model.parameters():
        noise = 0.1 * torch.randn(parameter.shape)
        parameter.data = noise if parameter.dim() > 1 else parameter.data + noise
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
