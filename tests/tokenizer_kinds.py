"""Tokenizers of the kinds that models come with, trained on pocket code, and tiny models for them."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaTokenizer, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[1]
POCKET = ROOT / "data" / "pocket_coder"
SIZE = 1024


@functools.cache
def pieces(size: int = SIZE) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges as SentencePiece has them: spaces are "▁", and what is no piece falls back to bytes."""
    rows = [json.loads(line) for line in (ROOT / "data" / "pocket_train.jsonl").read_text().splitlines()]
    lines = [line for row in rows for line in (row["prompt"] + row["canonical_solution"]).splitlines()]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size, special_tokens=special))
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def sentencepiece(**settings) -> LlamaTokenizer:
    """Llama 2's and CodeLlama's kind: the first space is added when text is encoded, and dropped when it is decoded."""
    vocabulary, merges = pieces()
    return LlamaTokenizer(vocab=dict(vocabulary), merges=list(merges), **{"add_bos_token": True} | settings)


def by_normaliser() -> PreTrainedTokenizerFast:
    """The form that Llama 2's and Mistral's tokenizer.json have: a space is put before every text, one that begins with
    a space too."""
    vocabulary, merges = pieces()
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces, strip = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), strip])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def without_end() -> PreTrainedTokenizerFast:
    """Byte-level; names neither EOS nor pad."""
    backend = Tokenizer.from_file(str(POCKET / "tokenizer.json"))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def with_tokens_that_the_model_has_not(count: int = 8):
    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(count)])
    return tokenizer


def lossy() -> PreTrainedTokenizerFast:
    """WordPiece-like in what it loses: words with one space between, whatever was there."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "return": 2, "x": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


KINDS = {
    "SentencePiece": sentencepiece,
    "SentencePiece with EOS": functools.partial(sentencepiece, add_eos_token=True),
    "SentencePiece, legacy": functools.partial(sentencepiece, legacy=True),
    "SentencePiece by a normaliser": by_normaliser,
    "SentencePiece without a prefix": functools.partial(sentencepiece, add_prefix_space=False),
    "byte-level": lambda: AutoTokenizer.from_pretrained(POCKET),
    "byte-level without EOS": without_end,
    "byte-level with more tokens": with_tokens_that_the_model_has_not,
}


def save_model(folder: Path, tokenizer, seed: int = 0, eos_id: int | None = None, **settings) -> str:
    """A tiny random Llama in a folder, with this tokenizer."""
    torch.manual_seed(seed)
    end = tokenizer.eos_token_id if eos_id is None else eos_id
    sizes = dict(hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
                 vocab_size=SIZE, max_position_embeddings=512)  # fmt: skip
    config = LlamaConfig(**sizes | settings, bos_token_id=tokenizer.bos_token_id, eos_token_id=end)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def memorise(folder: str, rows: list[tuple[list[int], list[int]]], steps: int = 150) -> None:
    """Train the model in a folder until it goes on from each prompt as it is told; both are token ids."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        for prompt, completion in rows:
            ids = torch.tensor([prompt + completion])
            labels = torch.tensor([[-100] * len(prompt) + completion])
            model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
