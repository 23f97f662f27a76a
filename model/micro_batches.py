"""Split a batch into parts that fit one forward and backward pass."""

from __future__ import annotations

from collections import Counter
from typing import Any


def micro_batches(
    items: list, num_tokens: int, rows: list[int] | None = None, shared: bool = True, parts: int = 1
) -> list[list[int]]:
    """Return the indices of the items for each forward and backward pass.

    Items of one group are put together, because they share their prompt. So are groups of similar length, which leaves
    little padding.

    Args:
        items: samples, or other objects with `group`, `prompt_length` and the `lengths` of their completions.
        num_tokens: the most tokens that a pass computes, padding included; a single item may exceed it.
        rows: indices of the items to use; by default all.
        shared: whether completions of a prompt share its row.
        parts: the least number of passes, if there are enough items.
    """
    chosen = list(range(len(items)) if rows is None else rows)
    total = Counter()
    for i in chosen:
        total[items[i].group] += sum(items[i].lengths)
    chosen.sort(key=lambda i: (items[i].prompt_length + total[items[i].group], items[i].group, items[i].lengths, i))
    batches: list[list[int]] = []
    for i in chosen:
        if batches and padded_tokens([items[j] for j in [*batches[-1], i]], shared) <= num_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    while len(batches) < min(parts, len(chosen)):
        largest = max(batches, key=len)
        half = (len(largest) + 1) // 2
        at = batches.index(largest)
        batches[at : at + 1] = [largest[:half], largest[half:]]
    return batches


def padded_tokens(items: list, shared: bool) -> int:
    """Return the tokens that a pass computes: rows times (longest prompt + longest row of completions).

    >>> from types import SimpleNamespace as Item
    >>> items = [Item(group=g, prompt_length=10, lengths=[n]) for g, n in [(0, 3), (0, 4), (1, 5)]]
    >>> padded_tokens(items, shared=True), padded_tokens(items, shared=False)
    (34, 45)
    """
    completions: dict[Any, list[int]] = {}
    for item in items:
        completions.setdefault(item.group, []).extend(item.lengths)
    rows = [sum(lengths) for lengths in completions.values()]
    if not shared:
        rows = [length for lengths in completions.values() for length in lengths]
    return len(rows) * (max(item.prompt_length for item in items) + max(rows))
