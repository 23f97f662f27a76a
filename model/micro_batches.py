"""Split a batch into parts that fit one forward and backward pass."""

from __future__ import annotations

from collections import Counter
from typing import Any


def micro_batches(items: list, num_tokens: int, shared: bool = True, at_least: int = 1) -> list[list[int]]:
    """Return the indices of the items in each forward and backward pass.

    Items of one group are placed side by side, because they share their prompt. So are groups of similar length,
    which keeps padding small.

    Args:
        items: samples, or anything else with `group`, `prompt_length` and the `lengths` of its completions. If it has
            `later`, these are further prompts (token ids) and the lengths of their completions.
        num_tokens: the most that a pass computes, padding included; a single item may have more.
        shared: whether completions of a prompt share its row.
        at_least: how many passes to make at least, if there are enough items.
    """
    total = Counter()
    for item in items:
        later = getattr(item, "later", ())
        total[item.group] += sum(item.lengths) + sum(len(prompt) + length for prompt, length in later)
    order = sorted(range(len(items)), key=lambda i: (items[i].prompt_length + total[items[i].group], items[i].group,
                                                     items[i].lengths, i))  # fmt: skip
    batches: list[list[int]] = []
    for i in order:
        if batches and padded_tokens([items[j] for j in [*batches[-1], i]], shared) <= num_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    while len(batches) < min(at_least, len(items)):
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
    >>> items[0].later = items[1].later = [((1,) * 20, 4)]
    >>> padded_tokens(items, shared=True), padded_tokens(items, shared=False)
    (84, 125)
    """
    completions: dict[Any, list[int]] = {}
    longest = max(item.prompt_length for item in items)
    for item in items:
        completions.setdefault(item.group, []).extend(item.lengths)
        for prompt, length in getattr(item, "later", ()):
            completions.setdefault(prompt, []).append(length)
            longest = max(longest, len(prompt))
    rows = [sum(lengths) for lengths in completions.values()]
    if not shared:
        rows = [length for lengths in completions.values() for length in lengths]
    return len(rows) * (longest + max(rows))
