"""The rollouts that a run recorded, for report.py: read, thinned, cut into tokens, and packed for the page."""

from __future__ import annotations

import contextlib
import functools
import io
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import read_jsonl, require

NUMBER, NUMBERS = (int, float), "a list of numbers"
REQUIRED = {"step": int, "task_id": str, "completion": str, "status": str}
OPTIONAL = {"prompt": str, "reason": str, "reward": NUMBER, "advantage": NUMBER, "ratio": NUMBER, "length": int,
            "parts": dict, "token_ids": list, "logprobs": list, "token_advantages": list}  # fmt: skip
CALLED = {int: "a whole number", str: "text", NUMBER: "a number", list: "a list of numbers", dict: "an object"}

Decode = Callable[[tuple[int, ...]], str]


def figure(value: Any) -> float | int | None:
    """A number in six digits; None for what is no finite number, which JSON has no name for.

    >>> figure(1 / 3), figure(7), figure(float("nan")), figure(10**400)
    (0.333333, 7, None, None)
    """
    try:
        if not math.isfinite(value):
            return None
    except (TypeError, OverflowError):
        return None
    if isinstance(value, int) and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.6g}")


def is_a(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def read_rollouts(path: Path, unfinished: bool) -> list[dict[str, Any]]:
    """The rows of completions.jsonl, without the fields that are null.

    Raises:
        InputError: a line is not a rollout's; says which and why.
    """
    rows = []
    for place, row in read_jsonl(path, "rollouts", unfinished=unfinished):
        row = {name: value for name, value in row.items() if value is not None}
        for name, kind in (REQUIRED | OPTIONAL).items():
            require(name in row or name in OPTIONAL, f"{place}: has no {name}")
            require(name not in row or is_a(row[name], kind), f"{place}: {name} must be {CALLED[kind]}")
        require(0 <= row["step"] < 2**53, f"{place}: step must be a whole number")
        for name in ("token_ids", "logprobs", "token_advantages"):
            kind = int if name == "token_ids" else NUMBER
            fits = all(is_a(item, kind) for item in row.get(name, ()))
            require(fits, f"{place}: {name} must be a list of {'whole ' * (kind is int)}numbers")
        ids = row.get("token_ids")
        require(all(0 <= token < 2**31 for token in ids or ()), f"{place}: token_ids has what is no token's number")
        for name in ("logprobs", "token_advantages"):
            require(ids is None or name not in row or len(row[name]) == len(ids),
                    f"{place}: {name} has {len(row.get(name, ()))} numbers for {len(ids or ())} tokens")  # fmt: skip
        rows.append(row)
    return rows


def thinned(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many of the rows: those of as many steps as fit, evenly spaced from the first to the last.

    Steps stay whole, for a rollout is judged against those it was sampled with. Only where a single step has too many
    is that cut, evenly too.

    >>> [row["step"] for row in thinned([{"step": n // 2} for n in range(10)], 6)]
    [0, 0, 2, 2, 4, 4]
    """
    if len(rows) <= most:
        return rows
    counts = Counter(row["step"] for row in rows)
    steps = sorted(counts)
    for many in range(min(len(steps), most), 0, -1):
        chosen = {steps[round(i * (len(steps) - 1) / max(1, many - 1))] for i in range(many)}
        if sum(counts[step] for step in chosen) <= most:
            return [row for row in rows if row["step"] in chosen]
    rows = [row for row in rows if row["step"] == steps[0]]
    return [rows[i * len(rows) // most] for i in range(most)]


def tokenizer_of(folder: Path, sft_model: str) -> tuple[Any, str]:
    """The tokenizer that the run saved, or else of the model it started from; or None, and why. Never downloads."""
    places = [str(folder)] if (folder / "tokenizer_config.json").is_file() else []
    for place in [*places, *[sft_model] * bool(sft_model)]:
        with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):  # its files may hold anything
            from transformers import AutoTokenizer, logging

            logging.set_verbosity_error()
            return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False), ""
    tried = f" and {sft_model} does not load" if sft_model else ""
    return None, f"The run's folder has no tokenizer that loads{tried}: completions are shown as text alone."


def pieces(decode: Decode, ids: list[int]) -> list[str]:
    """What each token adds to the text of all of them; joined they are that text.

    A token alone often decodes to something else: bytes of a character that others complete, a word whose space is
    dropped because it stands first. So a token's piece is the difference between two texts, with and without it, of a
    few tokens up to it. A token that completes a character has all of it, those before it are empty.
    """
    ids = tuple(ids)
    whole = decode(ids)
    if "\ufffd" in whole:  # broken characters: which token is to blame shows in the whole text alone
        return pieces_by_prefix(decode, ids, whole)
    found, start, end = [], 0, 0  # decode(ids[start:end]) is whole characters
    for n in range(1, len(ids) + 1):
        text = decode(ids[start:n])
        if text.endswith("\ufffd"):  # may be half of a character
            found.append("")
        else:
            found.append(text[len(decode(ids[start:end])) :])
            start, end = end, n
    return found if "".join(found) == whole else pieces_by_prefix(decode, ids, whole)


def pieces_by_prefix(decode: Decode, ids: tuple[int, ...], whole: str) -> list[str]:
    """The same for any decoder, if slower: a token ends where all up to it agrees with the whole text."""
    found, end = [], 0
    for n in range(1, len(ids)):
        text, at = decode(ids[:n]), end
        while at < min(len(text), len(whole)) and text[at] == whole[at]:
            at += 1
        found.append(whole[end:at])
        end = at
    return found + [whole[end:]] if ids else []


def decoder(tokenizer: Any) -> Decode:
    """Its `decode`, which remembers short texts: the same few tokens stand together again and again."""
    known = functools.lru_cache(2**17)(lambda ids: tokenizer.decode(list(ids)))
    return lambda ids: known(ids) if len(ids) <= 8 else tokenizer.decode(list(ids))


class Table:
    """Numbers the different things that it is asked for, from 0."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}

    def number(self, thing: Any) -> int:
        return self.known.setdefault(thing, len(self.known))

    def __iter__(self):
        return iter(self.known)


def pack_rollouts(rows: list[dict[str, Any]], tokenizer: Any) -> tuple[dict[str, Any], int]:
    """The rollouts as the page's script reads them, and how many have tokens that are not of their text.

    Args:
        tokenizer: None: without tokens.

    Returns:
        "tasks", "prompts": texts; "tokens": [id, piece, 1 if it is special]; "rollouts": in each, "task", "prompt" and
        "tokens" are places in those; "logprobs" are ten-thousandths; "completion" is there where it is not what all
        tokens but a special one at the end spell.
    """
    tasks, prompts, tokens = Table(), Table(), Table()
    decode, special = (decoder(tokenizer), set(tokenizer.all_special_ids)) if tokenizer else (None, set())
    # a first token may spell less when nothing stands before it
    behind = functools.lru_cache(None)(lambda prompt: tokenizer(prompt, add_special_tokens=False).input_ids[-8:])
    packed, strangers = [], 0
    for row in sorted(rows, key=lambda row: row["step"]):
        one: dict[str, Any] = {"step": row["step"], "task": tasks.number(row["task_id"]), "status": row["status"]}
        one |= {name: row[name] for name in ("reason",) if row.get(name)}
        one |= {name: figure(row[name]) for name in ("reward", "advantage", "ratio", "length") if name in row}
        if "prompt" in row:
            one["prompt"] = prompts.number(row["prompt"])
        if "parts" in row:
            one["parts"] = {name: figure(value) for name, value in row["parts"].items()}
        ids, spelt = row.get("token_ids"), None
        if decode and ids:
            context = behind(row.get("prompt") or "\n")
            found = pieces(decode, [*context, *ids])[len(context) :]
            spelt = "".join(found[:-1] if ids[-1] in special else found)
            if spelt.startswith(row["completion"]):  # cut at a stop string it is shorter
                one["tokens"] = [tokens.number((i, piece, int(i in special)))
                                 for i, piece in zip(ids, found, strict=True)]  # fmt: skip
                if "logprobs" in row:
                    one["logprobs"] = [None if (x := figure(p)) is None else round(10_000 * x) for p in row["logprobs"]]
                if "token_advantages" in row:
                    one["token_advantages"] = [figure(value) for value in row["token_advantages"]]
            else:
                strangers += 1
        if "tokens" not in one or spelt != row["completion"]:
            one["completion"] = row["completion"]
        packed.append(one)
    return {"tasks": list(tasks), "prompts": list(prompts), "tokens": list(tokens), "rollouts": packed}, strangers
