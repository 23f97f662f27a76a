"""Between text and token ids, for any tokenizer: what a model writes is encoded and decoded behind its prompt.

A tokenizer of SentencePiece's kind (Llama 2, CodeLlama, Mistral) takes the first space from what it decodes and puts
one before what it encodes. A completion that is decoded alone would then be indented by three.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common import InputError, require
from judging.tasks import Task, answer

CONTEXT = 8  # tokens of a prompt that its completion is decoded behind


def prompt_ids(tokenizer, text: str, add_special_tokens: bool = True) -> list[int]:
    """A prompt's token ids: with what the tokenizer puts in front (BOS), without what it puts behind (EOS)."""
    plain = tokenizer(text, add_special_tokens=False).input_ids
    if not add_special_tokens:
        return plain
    ids = tokenizer(text).input_ids
    for start in range(len(ids) - len(plain) + 1):
        if ids[start : start + len(plain)] == plain:
            return ids[: start + len(plain)]
    return ids


def completion_text(tokenizer, prompt: list[int], ids: list[int]) -> str:
    """What token ids say behind a prompt's."""
    for context in (prompt[-CONTEXT:], prompt) if prompt else ():
        before, text = tokenizer.decode(context), tokenizer.decode(context + ids)
        if text.startswith(before):
            return text[len(before) :]
    return tokenizer.decode(ids)


def completion_ids(tokenizer, prompt: list[int], text: str) -> list[int]:
    """Token ids that say the text behind a prompt; no EOS.

    Raises:
        InputError: none that the tokenizer makes do; shows where the first difference is.
    """
    found = tokenizer(text, add_special_tokens=False).input_ids
    for ids in (found, *_behind_others(tokenizer, text)):
        if completion_text(tokenizer, prompt, ids) == text:
            return ids
    raise InputError(first_difference(text, completion_text(tokenizer, prompt, found)))


def _behind_others(tokenizer, text: str) -> Iterable[list[int]]:
    for before in ("\n", ":", "0"):
        start, ids = (tokenizer(t, add_special_tokens=False).input_ids for t in (before, before + text))
        if ids[: len(start)] == start:
            yield ids[len(start) :]


def first_difference(text: str, other: str) -> str:
    r"""Where a text and what became of it part.

    >>> first_difference("    return 1\n", "   return 1\n")
    "it is written '    return 1\\n' and read '   return 1\\n'"
    """
    at = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    here = slice(max(0, at - 20), at + 20)
    return f"it is written {text[here]!r} and read {other[here]!r}"


def check_round_trip(tokenizer, tasks: list[Task], prompts: list[list[int]]) -> None:
    """Can the tokenizer say the solutions of these tasks behind their prompts?

    Raises:
        InputError: not one of them; shows the first difference.
    """
    for task, prompt in zip(tasks, prompts, strict=True):
        if not task.get("canonical_solution"):
            continue
        try:
            completion_ids(tokenizer, prompt, answer(task))
        except InputError as error:
            raise InputError(
                f"{task['task_id']}: the tokenizer does not give its solution back: {error}; take the tokenizer that "
                "the model was trained with (its tokenizer.json and tokenizer_config.json)"
            ) from None


def check_ids(config: Any, where: str, sequences: Iterable[list[int]], room: int = 0) -> None:
    """Has the model these token ids, and positions for that many of them?

    Args:
        config: of the model. where: what the sequences are, for the message. room: tokens to come after each.

    Raises:
        InputError: no; names the id, or the lengths.
    """
    config = config.get_text_config()
    vocabulary, positions = config.vocab_size, getattr(config, "max_position_embeddings", None)
    largest = longest = 0
    for ids in sequences:
        largest, longest = max(largest, *ids), max(longest, len(ids))
    require(
        largest < vocabulary,
        f"{where}: token id {largest}, and the model has {vocabulary} embeddings: its tokenizer is another model's, or "
        "has tokens that the model was never given",
    )
    require(
        not positions or longest + room <= positions,
        f"{where}: {longest + room} tokens, and the model has {positions} positions; lower --max_length or "
        "--max_new_tokens, or leave out the longest",
    )
