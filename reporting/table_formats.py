"""Write the rows of a results table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from common import InputError, duration

if TYPE_CHECKING:
    from reporting.rows import Row


def markdown(rows: list[Row], overlaps: dict[str, str], link: str = "") -> str:
    """Write one Markdown table per suite, with its hardware and overlap below, then its commits and commands.

    Args:
        link: a file that has the commits and commands; they are then left out, and the link takes their place.
    """
    tables = []
    for where, members in by_suite(rows):
        judged = parts_of(members)
        columns = ["method", "pass@1", "95% over tasks", "over seeds", "passed/tasks", "stopped", "avg length"]
        base, memory = any(row.against_base for row in members), any(any(row.memory) for row in members)
        columns += [*judged, *["against base, 95%"] * base, "against SFT, 95%", "p"]
        columns += ["sampled tokens", "training", "evaluation", *["GiB"] * memory]
        lines = [f"**{where}**", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for row in members:
            cells = [row.name, share(row.rate), interval(row.interval), over_seeds(row)]
            cells += [f"{row.num_pass}/{row.num_samples}", share(row.stopped)]
            cells += ["" if row.length is None else f"{row.length:.1f}"]
            cells += [share(row.parts[name]) if name in row.parts else "" for name in judged]
            cells += [*against(row.against_base)[:1] * base, *against(row.against_sft), *spent(row)]
            cells += [" / ".join("" if peak is None else f"{peak:.1f}" for peak in row.memory)] * memory
            lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
        lines += ["", f"Seeds: {seeds(members)}. Length in tokens, EOS included. Differences: of these adapters, "
                  "over tasks; p is of the one to SFT. Sampled tokens and training: after SFT (SFT's own: its own). "
                  + "GiB: peak memory of training / evaluation. " * memory
                  + f"Train/test overlap: {overlaps.get(where, 'unknown files')}. "
                  + "".join(f"Weights: {one}. " for one in sorted({row.weights for row in members} - {""}))
                  + f"Measured on: {' / '.join(sorted({row.machine for row in members}))}."]  # fmt: skip
        commands = [f"{row.name} ({row.commits}):\n  " + "\n  ".join(row.commands) for row in members if row.commands]
        if commands and link:
            lines += ["", f"Commits and commands: [{link.removeprefix('../')}]({link})."]
        elif commands:
            lines += ["", "<details><summary>commits and commands (of each row's first seed)</summary>", "", "```text",
                      *commands, "```", "", "</details>"]  # fmt: skip
        tables.append("\n".join(lines))
    return "\n\n".join(tables) + "\n"


def spreadsheet(rows: list[Row]) -> str:
    """Write everything that is known about each row as CSV, shares as numbers from 0 to 1."""
    parts = parts_of(rows)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "method", "seeds", "tasks", "passed", "samples", "pass_at_1", "tasks_low", "tasks_high",
                     "seeds_low", "seeds_high", "seed_min", "seed_max", "pass_at_1_stopped", "avg_gen_len", *parts,
                     "against_base", "against_base_low", "against_base_high", "p_value_base",
                     "against_sft", "against_sft_low", "against_sft_high", "p_value", "sampled_tokens",
                     "training_seconds", "evaluation_seconds", "training_gib", "evaluation_gib", "weights", "hardware",
                     "commits", "commands"])  # fmt: skip
    for row in rows:
        differences = [row.against_base or (None, (None, None), None), row.against_sft or (None, (None, None), None)]
        writer.writerow([row.suite, row.name, row.num_seeds, row.num_tasks, row.num_pass, row.num_samples, row.rate,
                         *row.interval, *(row.seeds or (None, None)), *row.spread, row.stopped, row.length,
                         *(row.parts.get(name) for name in parts),
                         *(value for difference, bounds, p in differences for value in (difference, *bounds, p)),
                         row.sampled_tokens, row.training_seconds, row.seconds, *row.memory, row.weights, row.machine,
                         row.commits,
                         "; ".join(row.commands)])  # fmt: skip
    return file.getvalue()


def latex(rows: list[Row]) -> str:
    """Write one LaTeX booktabs table per suite, with the columns that a paper has room for."""
    tables = []
    for where, members in by_suite(rows):
        lines = [f"% {where}", r"\begin{tabular}{lrrrrr}", r"\toprule",
                 r"method & pass@1 & 95\% over tasks & avg length & against SFT & $p$ \\", r"\midrule"]  # fmt: skip
        for row in members:
            cells = [row.name, share(row.rate), interval(row.interval)]
            cells += ["" if row.length is None else f"{row.length:.1f}", *against(row.against_sft)]
            lines.append(" & ".join(escaped(cell) for cell in cells) + r" \\")
        tables.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(tables) + "\n"


def escaped(text: str) -> str:
    r"""Escape a text for LaTeX.

    >>> print(escaped("pocket_sft 50% <0.001"))
    pocket\_sft 50\% $<$0.001
    """
    special = {"\\": r"\textbackslash{}", "<": "$<$", "^": r"\^{}", "~": r"\~{}"} | {c: "\\" + c for c in "_%&#${}"}
    return "".join(special.get(character, character) for character in text)


def by_suite(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    return [(where, [row for row in rows if row.suite == where]) for where in sorted({row.suite for row in rows})]


def parts_of(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.parts))


def share(rate: float) -> str:
    return f"{rate:.1%}"


def interval(bounds: tuple[float, float]) -> str:
    """Write an interval of shares in per cent, cut to 0 and 100.

    >>> interval((0.5, 1.02))
    '50.0 to 100.0%'
    """
    low, high = (100 * min(1, max(0, bound)) for bound in bounds)
    return f"{low:.1f} to {high:.1f}%"


def over_seeds(row: Row) -> str:
    return "" if row.seeds is None else interval(row.seeds)


def against(found: tuple[float, tuple[float, float], float] | None) -> list[str]:
    """Write a difference with its interval, in points, and its p-value.

    >>> against((0.05, (0.01, 0.09), 0.0204))
    ['+5.0 (+1.0 to +9.0)', '0.020']
    """
    if found is None:
        return ["", ""]
    difference, (low, high), p = found
    return [f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})", "<0.001" if p < 0.001 else f"{p:.3f}"]


def spent(row: Row) -> list[str]:
    tokens = "" if row.sampled_tokens is None else f"{row.sampled_tokens:,.0f}"
    return [tokens, "" if row.training_seconds is None else duration(row.training_seconds), duration(row.seconds)]


def seeds(rows: list[Row]) -> str:
    """Say how many seeds each row has.

    >>> from types import SimpleNamespace as Row
    >>> seeds([Row(name="base", num_seeds=1), Row(name="a", num_seeds=3), Row(name="b", num_seeds=3)])
    '1 (base), 3 (the rest)'
    """
    counts = [row.num_seeds for row in rows]
    usual = max(counts, key=lambda count: (counts.count(count), count))
    others = [f"{row.num_seeds} ({row.name})" for row in rows if row.num_seeds != usual]
    return ", ".join([*others, f"{usual} (the rest)" if others else f"{usual} each"])


def insert(readme: str, section: str, text: str) -> str:
    """Return the README with the text between the section's markers replaced. Raises InputError if it has none.

    >>> insert("a <!-- x:begin -->old<!-- x:end --> b", "x", "new")
    'a <!-- x:begin -->\\nnew\\n<!-- x:end --> b'
    """
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    before, found, rest = readme.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise InputError(f"the README has no {begin} ... {end}; put them where the table should be")
    return f"{before}{begin}\n{text}\n{end}{after}"
