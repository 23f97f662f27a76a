"""Prepare the rollouts that a run recorded for report.py: read, thin, cut into tokens, and pack them for the page."""

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
    """Round a number to six digits; return None for anything that is not a finite number, which JSON cannot hold.

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
    """Read the rows of completions.jsonl, without fields that are null.

    Args:
        unfinished: the file is still being written, so skip an incomplete last line.

    Raises:
        InputError: a line is not a rollout; the message says which line and why.
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
        require(all(0 <= token < 2**31 for token in ids or ()), f"{place}: token_ids has a number that is no token id")
        for name in ("logprobs", "token_advantages"):
            require(ids is None or name not in row or len(row[name]) == len(ids),
                    f"{place}: {name} has {len(row.get(name, ()))} numbers for {len(ids or ())} tokens")  # fmt: skip
        rows.append(row)
    return rows


def thinned(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Keep at most `most` rows: those of as many steps as fit, evenly spaced from the first to the last.

    Steps stay whole, because a rollout is judged against those sampled with it. Only if a single step has too many rows
    are they thinned within it, evenly too.

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
    """Load the tokenizer that the run saved, or else that of the model it started from; never download.

    Returns:
        the tokenizer and "", or None and a note that says why there is none.
    """
    places = [str(folder)] if (folder / "tokenizer_config.json").is_file() else []
    for place in [*places, *[sft_model] * bool(sft_model)]:
        with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):  # its files may hold anything
            from transformers import AutoTokenizer, logging

            logging.set_verbosity_error()
            return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False), ""
    tried = f" and {sft_model} does not load" if sft_model else ""
    return None, f"The run's folder has no tokenizer that loads{tried}: completions are shown as text only."


def pieces(decode: Decode, ids: list[int]) -> list[str]:
    """Return the text that each token adds; joined, these are the decoded text of all tokens.

    A token decoded by itself often gives something else: part of a character's bytes, or a word whose leading space is
    dropped. So a token's piece is the difference between two texts: a few tokens decoded with it and without it. The
    token that completes a character gets the whole character; those before it get "".
    """
    ids = tuple(ids)
    whole = decode(ids)
    if "\ufffd" in whole:  # broken characters: only the whole text shows which token they belong to
        return pieces_by_prefix(decode, ids, whole)
    found, start, end = [], 0, 0  # decode(ids[start:end]) is whole characters
    for n in range(1, len(ids) + 1):
        text = decode(ids[start:n])
        if text.endswith("\ufffd"):  # perhaps part of a character
            found.append("")
        else:
            found.append(text[len(decode(ids[start:end])) :])
            start, end = end, n
    return found if "".join(found) == whole else pieces_by_prefix(decode, ids, whole)


def pieces_by_prefix(decode: Decode, ids: tuple[int, ...], whole: str) -> list[str]:
    """Do the same for any decoder, more slowly: a token ends where the text up to it agrees with the whole text."""
    found, end = [], 0
    for n in range(1, len(ids)):
        text, at = decode(ids[:n]), end
        while at < min(len(text), len(whole)) and text[at] == whole[at]:
            at += 1
        found.append(whole[end:at])
        end = at
    return found + [whole[end:]] if ids else []


def decoder(tokenizer: Any) -> Decode:
    """Return the tokenizer's `decode` with a cache for short texts, because the same few tokens recur often."""
    known = functools.lru_cache(2**17)(lambda ids: tokenizer.decode(list(ids)))
    return lambda ids: known(ids) if len(ids) <= 8 else tokenizer.decode(list(ids))


class Table:
    """A numbering of different things, from 0, in the order in which they are first asked for."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}

    def number(self, thing: Any) -> int:
        return self.known.setdefault(thing, len(self.known))

    def __iter__(self):
        return iter(self.known)


def pack_rollouts(rows: list[dict[str, Any]], tokenizer: Any) -> tuple[dict[str, Any], int]:
    """Pack the rollouts as the page's script reads them, and count those whose tokens do not match their text.

    Args:
        tokenizer: None packs no tokens.

    Returns:
        a dict and the count. In the dict, "tasks" and "prompts" are lists of texts, and "tokens" is a list of
        [id, piece, 1 if it is special]. "rollouts" refer to these by place in "task", "prompt" and "tokens"; their
        "logprobs" are in ten-thousandths. "completion" is left out if the tokens, without a special one at the end,
        spell it.
    """
    tasks, prompts, tokens = Table(), Table(), Table()
    decode, special = (decoder(tokenizer), set(tokenizer.all_special_ids)) if tokenizer else (None, set())
    # decode after the prompt's last tokens: some tokenizers drop the space of a first token
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
            if spelt.startswith(row["completion"]):  # it is shorter if cut at a stop string
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
