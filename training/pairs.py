"""Preference pairs, as generate_dpo_data.py writes them: read, check, encode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common import InputError, read_jsonl, require


@dataclass
class Pair:
    """Two completions of one prompt; the ids are trained on as they are. `where` names the file and the line."""

    where: str
    task_id: str
    prompt: str | None
    chosen: str | None
    rejected: str | None
    prompt_ids: list[int] | None
    chosen_ids: list[int] | None
    rejected_ids: list[int] | None

    @property
    def prompt_length(self) -> int:
        return len(self.prompt_ids)

    @property
    def lengths(self) -> list[int]:
        """Token counts of the two completions."""
        return [len(self.chosen_ids), len(self.rejected_ids)]

    @property
    def group(self) -> str:
        return self.where

    def record(self) -> dict[str, Any]:
        return {"task_id": self.task_id, "where": self.where, "chosen": self.chosen, "rejected": self.rejected}


TEXTS, IDS = ("prompt", "chosen", "rejected"), ("prompt_ids", "chosen_ids", "rejected_ids")


def read_pairs(path: str) -> list[Pair]:
    """Read a JSONL file of pairs, each with the three fields of `IDS`, or only the three of `TEXTS`.

    Raises:
        InputError: the file is missing or empty, or a line is no pair; names the file and the line.
    """
    lines = read_jsonl(path, "file of pairs; generate_dpo_data.py makes one")
    pairs = [_pair(record, where) for where, record in lines]
    require(len(pairs) > 0, f"{path}: has no pairs")
    return pairs


def _pair(record: dict[str, Any], where: str) -> Pair:
    texts, ids = [record.get(name) for name in TEXTS], [record.get(name) for name in IDS]
    for name, text in zip(TEXTS, texts, strict=True):
        require(text is None or isinstance(text, str), f"{where}: {name} is not text")
    if any(value is not None for value in ids):
        for name, value in zip(IDS, ids, strict=True):
            right = isinstance(value, list) and value and all(type(token) is int and token >= 0 for token in value)
            require(right, f"{where}: {name} must be a list of token ids, as the other ids are given")
    else:
        lacking = [name for name, text in zip(TEXTS, texts, strict=True) if text is None]
        require(not lacking, f"{where}: a pair needs {', '.join(IDS)}, or else prompt, chosen and rejected as text")
    same = ids[1] == ids[2] if ids[1] else texts[1] == texts[2]
    require(not same, f"{where}: chosen and rejected are the same; there is nothing to prefer")
    return Pair(where, str(record.get("task_id", where)), *texts, *ids)


def encode_pairs(pairs: list[Pair], tokenizer, config: Any) -> None:
    """Encode the pairs that have only text, each completion as it follows its prompt, with an EOS; check the others.

    Args:
        config: of the model.

    Raises:
        InputError: the ids are another tokenizer's, or a pair is too long; names the file and the line.
    """
    from model.tokens import check_ids, completion_ids, prompt_ids

    for pair in pairs:
        found = prompt_ids(tokenizer, pair.prompt) if pair.prompt is not None else pair.prompt_ids
        if pair.prompt_ids is None:
            pair.prompt_ids = found
            require(len(found) > 0, f"{pair.where}: its prompt has no tokens; the model needs one to start from")
            try:
                pair.chosen_ids, pair.rejected_ids = (
                    completion_ids(tokenizer, found, text) + [tokenizer.eos_token_id]
                    for text in (pair.chosen, pair.rejected)
                )
            except InputError as error:
                raise InputError(f"{pair.where}: the tokenizer does not give its text back: {error}") from None
        require(
            pair.prompt_ids == found,
            f"{pair.where}: its ids are of another tokenizer than the model's; make the pairs with this --sft_model",
        )
        check_ids(config, pair.where, [pair.prompt_ids + ids for ids in (pair.chosen_ids, pair.rejected_ids)])
