"""Convert between text and token ids for any tokenizer: completions are encoded and decoded after their prompt.

A tokenizer like SentencePiece (Llama 2, CodeLlama, Mistral) removes the first space when it decodes and adds one when
it encodes. A completion decoded without its prompt would then be indented by three spaces instead of four.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common import InputError, require
from judging.instruct import answer
from judging.tasks import Task

CONTEXT = 8  # a completion is decoded after this many last tokens of its prompt


def prompt_ids(tokenizer, text: str, add_special_tokens: bool = True) -> list[int]:
    """Return a prompt's token ids, with special tokens before it (BOS), but without those after it (EOS)."""
    plain = tokenizer(text, add_special_tokens=False).input_ids
    if not add_special_tokens:
        return plain
    ids = tokenizer(text).input_ids
    for start in range(len(ids) - len(plain) + 1):
        if ids[start : start + len(plain)] == plain:
            return ids[: start + len(plain)]
    return ids


def completion_text(tokenizer, prompt: list[int], ids: list[int]) -> str:
    """Decode the token ids of a completion that follows a prompt."""
    for context in (prompt[-CONTEXT:], prompt) if prompt else ():
        before, text = tokenizer.decode(context), tokenizer.decode(context + ids)
        if text.startswith(before):
            return text[len(before) :]
    return tokenizer.decode(ids)


def completion_ids(tokenizer, prompt: list[int], text: str) -> list[int]:
    """Encode a completion so that it decodes to the text after the prompt; no EOS.

    Raises:
        InputError: the tokenizer gives no such ids; the message shows the first difference.
    """
    found = tokenizer(text, add_special_tokens=False).input_ids
    for ids in (found, *_behind_others(tokenizer, text)):
        if completion_text(tokenizer, prompt, ids) == text:
            return ids
    raise InputError(first_difference(text, completion_text(tokenizer, prompt, found)))


def without_special(tokenizer, text: str) -> str:
    """Put a blank into every special token that a text spells, so that the tokenizer reads it as plain text.

    For text that a program or a model wrote: "<|im_end|>" in it must not end a turn. Tokens that were added without
    being called special (<tool_call>) count too; those of one character, or of blanks beside it, do no harm.
    """
    added = tokenizer.get_added_vocab().keys() | set(tokenizer.all_special_tokens)
    added = sorted(token for token in added if len(token.strip()) > 1)
    while any(token in text for token in added):  # a blank may complete another token
        for token in added:
            first = token.strip()[0]
            text = text.replace(token, token.replace(first, f"{first} ", 1))
    return text


def _behind_others(tokenizer, text: str) -> Iterable[list[int]]:
    for before in ("\n", ":", "0"):
        start, ids = (tokenizer(t, add_special_tokens=False).input_ids for t in (before, before + text))
        if ids[: len(start)] == start:
            yield ids[len(start) :]


def first_difference(text: str, other: str) -> str:
    r"""Describe the first place where a text differs from what encoding and decoding made of it.

    >>> first_difference("    return 1\n", "   return 1\n")
    "it is written '    return 1\\n' and read '   return 1\\n'"
    """
    at = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    here = slice(max(0, at - 20), at + 20)
    return f"it is written {text[here]!r} and read {other[here]!r}"


def check_round_trip(tokenizer, tasks: list[Task], prompts: list[list[int]]) -> None:
    """Check that encoding and decoding gives back the solutions of these tasks, after their prompts.

    Raises:
        InputError: one of them changes; the message names the task and shows the first difference.
    """
    for task, prompt in zip(tasks, prompts, strict=True):
        if not task.get("canonical_solution"):
            continue
        try:
            completion_ids(tokenizer, prompt, answer(task))
        except InputError as error:
            raise InputError(
                f"{task['task_id']}: encoding and decoding changes its solution: {error}; use the tokenizer that the "
                "model was trained with (its tokenizer.json and tokenizer_config.json)"
            ) from None


def check_ids(config: Any, where: str, sequences: Iterable[list[int]], room: int = 0) -> None:
    """Check that the model has embeddings for these token ids, and enough positions for the sequences.

    Args:
        config: the model's config.
        where: what the sequences are, for the message.
        room: number of tokens that will follow each sequence.

    Raises:
        InputError: it does not; the message names the id, or the lengths.
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
