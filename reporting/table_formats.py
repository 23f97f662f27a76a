"""Write the rows of a results table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common import InputError, duration

if TYPE_CHECKING:
    from judging.intervals import Compared
    from reporting.rows import Difference, Row


ADAPTERS = ", these adapters"  # marks a difference over tasks in a column of differences over seeds


def markdown(rows: list[Row], overlaps: dict[str, str], link: str = "", warnings: Sequence[str] = ()) -> str:
    """Write one Markdown table per suite, with its hardware and overlap below, then its commits and commands.

    Args:
        link: a file that has the commits and commands; they are then left out, and the link takes their place.
        warnings: what to say below all tables.
    """
    tables = []
    for where, members in by_suite(rows):
        judged = parts_of(members)
        area, memory = any(row.area for row in members), any(any(row.memory) for row in members)
        several = any(row.num_seeds > 1 for row in members)
        columns = ["method", "pass@1", over(members), *["over seeds"] * several, *["area, 95% over seeds"] * area]
        columns += ["passed/tasks", "stopped", "avg length", *judged, *against_columns(members)]
        columns += ["sampled tokens", "training", "evaluation", *["GiB"] * memory]
        lines = [f"**{where}**", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for row in members:
            cells = [row.name, share(row.rate), optional_interval(row.tasks_and_seeds)]
            cells += [optional_interval(row.seeds)] * several + [area_cell(row)] * area
            cells += [f"{row.num_pass}/{row.num_samples}", share(row.stopped)]
            cells += ["" if row.length is None else f"{row.length:.1f}"]
            cells += [share(row.parts[name]) if name in row.parts else "" for name in judged]
            cells += [*against(row.against_sft, has_methods(members)), *spent(row)]
            cells += [" / ".join("" if peak is None else f"{peak:.1f}" for peak in row.memory)] * memory
            lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
        lines += ["", f"Seeds: {seeds(members)}. {statements(members)}Length in tokens, EOS included. "
                  "Sampled tokens and training time: what came after SFT (in a row of SFT: SFT's). "
                  + "Area: mean pass rate of samples on validation tasks, over the sampled tokens. " * area
                  + "GiB: peak memory of training / evaluation. " * memory
                  + f"Train/test overlap: {overlaps.get(where, 'unknown files')}. "
                  + "".join(f"Weights: {one}. " for one in sorted({row.weights for row in members} - {""}))
                  + "".join(f"{row.name}: {one}. " for row in members for one in doubts(row))
                  + f"Measured on: {machines(members)}."]  # fmt: skip
        commands = [f"{row.name} ({row.commits}):\n  " + "\n  ".join(row.commands) for row in members if row.commands]
        if commands and link:
            lines += ["", f"Commits and commands: [{link.removeprefix('../')}]({link})."]
        elif commands:
            lines += ["", "<details><summary>commits and commands (of each row's first seed)</summary>", "", "```text",
                      *commands, "```", "", "</details>"]  # fmt: skip
        tables.append("\n".join(lines))
    return "\n\n".join(tables + [f"Warning: {line}." for line in warnings]) + "\n"


def doubts(row: Row) -> list[str]:
    """Say how many completions of a row have no verdict, or a verdict that the program could have forged."""
    said = [f"{row.unjudged} completions could not be judged and count as failed"] * bool(row.unjudged)
    return said + [f"{row.weak} completions were judged in their own process (--allow_weak_tests)"] * bool(row.weak)


def machines(members: list[Row]) -> str:
    return " / ".join(sorted({one for row in members for one in row.machines}))


def statements(members: list[Row]) -> str:
    """Say which sentence each interval of a table makes."""
    said = "Over tasks: for other tasks of this kind, not for other seeds. "
    if any(row.num_seeds > 1 for row in members):
        said = ("Over tasks and seeds: for other tasks of this kind and other seeds"
                + " (a row of one seed: other tasks only)" * any(row.num_seeds == 1 for row in members)
                + ". Over seeds: for other seeds on these tasks. ")  # fmt: skip
    found = [row.against_sft for row in members if row.against_sft]
    if any(one.methods for one in found):
        said += ("Against SFT: the difference of the methods on these tasks, paired by seed (Student's t)"
                 + f'; with "{ADAPTERS[2:]}", the difference of these runs, over tasks (bootstrap, randomisation test)'
                 * any(not one.methods for one in found) + ". ")  # fmt: skip
    elif found:
        said += ("Against SFT: the difference of these adapters, over tasks (bootstrap, randomisation test); "
                 "fewer than 3 seeds are too few to test methods. ")  # fmt: skip
    return said + f"p: corrected for {len(found)} row{'s' * (len(found) > 1)} (Holm). " * bool(found)


def over(members: list[Row]) -> str:
    return "95% over tasks" + " and seeds" * any(row.num_seeds > 1 for row in members)


def has_methods(members: list[Row]) -> bool:
    return any(row.against_sft and row.against_sft.methods for row in members)


def against_columns(members: list[Row]) -> list[str]:
    return [f"{'methods' if has_methods(members) else 'adapters'} against SFT, 95%", "p (Holm)"]


def spreadsheet(rows: list[Row]) -> str:
    """Write everything that is known about each row as CSV, shares as numbers from 0 to 1.

    `tasks_` is Wilson's interval, over tasks alone. `against_` with `p_value` is about these adapters, `methods_` about
    methods, and `p_value_holm` corrects the statement that the Markdown table makes.
    """
    parts = parts_of(rows)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    compared = [f"{kind}against_{start}{bound}" if bound != "p" else f"{kind}p_value{short}"
                for start, short in (("base", "_base"), ("sft", ""))
                for kind in ("", "methods_") for bound in ("", "_low", "_high", "p")]  # fmt: skip
    writer.writerow(["table", "method", "seeds", "tasks", "passed", "samples", "pass_at_1", "tasks_low", "tasks_high",
                     "tasks_and_seeds_low", "tasks_and_seeds_high", "seeds_low", "seeds_high", "seed_min", "seed_max",
                     "area", "area_low", "area_high", "pass_at_1_stopped", "avg_gen_len", *parts, *compared,
                     "p_value_base_holm", "p_value_holm", "sampled_tokens", "training_seconds", "evaluation_seconds",
                     "training_gib", "evaluation_gib", "weights", "hardware", "commits", "commands"])  # fmt: skip
    none = (None, None)
    for row in rows:
        starts = [row.against_base, row.against_sft]
        found = [one for start in starts for one in ((start.adapters, start.methods) if start else none)]
        differences = [one or (None, none, None) for one in found]
        area, bounds = row.area or (None, None)
        writer.writerow([row.suite, row.name, row.num_seeds, row.num_tasks, row.num_pass, row.num_samples, row.rate,
                         *row.interval, *(row.tasks_and_seeds or none), *(row.seeds or none), *row.spread,
                         area, *(bounds or none), row.stopped, row.length, *(row.parts.get(name) for name in parts),
                         *(value for difference, bounds, p in differences for value in (difference, *bounds, p)),
                         *(start and start.holm for start in starts), row.sampled_tokens, row.training_seconds,
                         row.seconds, *row.memory, row.weights, machines([row]), row.commits,
                         "; ".join(row.commands)])  # fmt: skip
    return file.getvalue()


def latex(rows: list[Row]) -> str:
    """Write one LaTeX booktabs table per suite, with the columns that a paper has room for."""
    tables = []
    for where, members in by_suite(rows):
        header = ["method", "pass@1", over(members), "avg length", *against_columns(members)]
        lines = [f"% {where}", f"% {statements(members)}".rstrip(), r"\begin{tabular}{lrrrrr}", r"\toprule",
                 " & ".join(escaped(cell) for cell in header) + r" \\", r"\midrule"]  # fmt: skip
        for row in members:
            cells = [row.name, share(row.rate), optional_interval(row.tasks_and_seeds)]
            cells += ["" if row.length is None else f"{row.length:.1f}"]
            cells += against(row.against_sft, has_methods(members))
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
    """Write an interval of shares in per cent.

    >>> interval((0.5, 0.976))
    '50.0 to 97.6%'
    """
    low, high = bounds
    return f"{100 * low:.1f} to {100 * high:.1f}%"


def optional_interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else interval(bounds)


def area_cell(row: Row) -> str:
    if row.area is None:
        return ""
    mean, bounds = row.area
    return share(mean) + (f" ({interval(bounds)})" if bounds else "")


def against(found: Difference | None, has_methods: bool) -> list[str]:
    """Write the difference that a table shows, and its corrected p-value.

    Args:
        has_methods: the column is about methods, so a difference of adapters is marked.
    """
    if found is None or found.shown is None:
        return ["", ""]
    return [points(found.shown) + ADAPTERS * (has_methods and not found.methods), p_value(found.holm)]


def points(compared: Compared) -> str:
    """Write a difference of shares with its interval, in points.

    >>> points((0.05, (0.01, 0.09), 0.0204))
    '+5.0 (+1.0 to +9.0)'
    """
    difference, (low, high), _ = compared
    return f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


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
