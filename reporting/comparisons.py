"""Compare rows in words: two rows, all pairs of a table, and rows with the committed ones that they reproduce."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from statistics import median

from common import require
from judging.intervals import holm, predicted_mean, task_correlation, wilson_difference
from reporting.rows import FEWEST_SEEDS, Row, by_seed, difference, load_rows, paired_means, start_row, step, task_means
from reporting.table_formats import by_suite, p_value, points

OUTCOMES = {"rates": "pass@1", "areas": "area"}  # the figures of a row that are compared by seed


def compare(folder: Path, first: str, second: str) -> str:
    """Describe how the second row differs from the first: these adapters, these methods, and tasks won and lost.

    Raises:
        InputError: there is no such row, one of its per-task files is missing, or the two were evaluated differently.
    """
    rows, found = load_rows(folder), []
    for name in (first, second):
        named = [row for row in rows if row.name == name]
        require(bool(named), f"--compare {name}: {folder} has no row of that name")
        require(all(row.scores for row in named),
                f"--compare {name}: a per-task file of its runs is missing in {folder}")  # fmt: skip
        found.append(named)
    (one, *_), (two, *_) = found
    before, after = paired_means(one, two)
    suites = {row.suite for named in found for row in named}
    require(len(suites) == 1 and before.keys() == after.keys(),
            f"--compare: cannot be compared: {'; '.join(sorted(suites))}")  # fmt: skip
    compared = difference(one, two)
    lines = [f"{second} less {first}, points with 95%",
             f"these adapters differ: {points(compared.adapters)}, p = {compared.adapters[2]:.2g} "
             f"({len(before)} tasks, randomisation test; other seeds not covered)"]  # fmt: skip
    for figure, name in OUTCOMES.items():
        methods, num_seeds = by_seed(one, two, figure)
        if methods:
            lines.append(f"these methods differ, {name}: {points(methods)}, p = {methods[2]:.2g} "
                         f"({num_seeds} seeds, paired t)")  # fmt: skip
        elif figure == "rates":
            lines.append(f"these methods differ: {too_few(num_seeds)}")
    for word, sign in (("won", 1), ("lost", -1)):
        some = sorted((t for t in before if sign * (after[t] - before[t]) > 0),
                      key=lambda t: (-abs(after[t] - before[t]), t))  # fmt: skip
        lines.append(f"{word} {len(some)}: " + ", ".join(f"{t} {before[t]:.0%} to {after[t]:.0%}" for t in some))
    return "\n".join(lines)


def too_few(num_seeds: int) -> str:
    """Say why methods are not tested.

    >>> too_few(1), too_few(2)
    ('one seed: no test of methods', '2 common seeds: no test of methods')
    """
    return f"{'one seed' if num_seeds == 1 else f'{num_seeds} common seeds'}: no test of methods"


def pairs(rows: list[Row]) -> str:
    """Describe every pair of methods of each table: paired by seed, with Holm's correction over the table's pairs.

    Each outcome has its own correction. The starts (base and SFT rows) are no methods of the table; their differences
    are in it already.
    """
    said = []
    for where, members in by_suite(rows):
        names = [row.name for row in members]
        starts = {start for name in names for word in ("base", "sft") if (start := start_row(name, names, word))}
        methods = [row for row in members if row.name not in starts and not row.untrained]
        said.append(f"**{where}**")
        for figure, outcome in OUTCOMES.items():
            if figure == "rates" or any(getattr(row, figure) for row in methods):
                said.append(pairs_of(methods, figure, outcome))
    return "\n\n".join(said)


def pairs_of(methods: list[Row], figure: str, outcome: str) -> str:
    compared = [(one, two, *by_seed(one, two, figure)) for one, two in combinations(methods, 2)]
    if not compared:
        return f"{outcome}: fewer than two methods, no pairs"
    tested = [(one, two, found, num_seeds) for one, two, found, num_seeds in compared if found]
    untested = len(compared) - len(tested)
    left = f"; {untested} with fewer than {FEWEST_SEEDS} common seeds: no test of methods" * bool(untested)
    if not tested:
        return f"{outcome}: 0 of 0 pairs of methods told apart{left}"
    lines = [f"| {outcome}: the first less the second | seeds | points, 95% | p | p (Holm) |", "|---" * 5 + "|"]
    corrected = holm([found[2] for _, _, found, _ in tested])
    for (one, two, found, num_seeds), p in zip(tested, corrected, strict=True):
        difference, (low, high), raw = found
        flipped = points((-difference, (-high, -low), raw))
        lines.append(f"| {one.name}, {two.name} | {num_seeds} | {flipped} | {p_value(raw)} | {p_value(p)} |")
    raw = sum(found[2] < 0.05 for _, _, found, _ in tested)
    return "\n".join([*lines, "", f"{outcome}: {sum(p < 0.05 for p in corrected)} of {len(tested)} pairs told apart at "
                      f"5% after Holm's correction ({raw} before it){left}"])  # fmt: skip


def reproduced(rows: list[Row], committed: list[Row]) -> str:
    """Say which committed rows are reproduced: those whose new mean lies where it would if only chance had changed.

    Chance is the seed's. The committed mean is known no better than the new one, so the new mean of S seeds lies with
    95% in Student's prediction interval for S seeds on the same tasks, with the variance of both rows pooled
    (`intervals.predicted_mean`). The tasks are the same and add nothing. If both rows have one seed, the spread of
    seeds is unknown; then the adapters are compared, by Wilson's interval of their difference on the same tasks
    (`intervals.wilson_difference`), which refuses more than it should if seeds differ.

    A row is "reproduced" as long as nothing contradicts it: the last line says how far it would have had to move. 5% of
    unchanged rows fall outside.
    """
    ours, lines, held, reach = {(row.suite, row.name): row for row in rows}, [], 0, []
    shared = [row for row in committed if (row.suite, row.name) in ours]
    missing = [row.name for row in committed if (row.suite, row.name) not in ours]
    if not shared:
        return "nothing to compare: no committed row was evaluated on these tasks in this way"
    for row in shared:
        new = ours[row.suite, row.name]
        (low, high), how = predicted(row, new)
        inside = low - 1e-9 <= new.rate <= high + 1e-9  # rounding does not make a row differ from itself
        held += inside
        reach.append(100 * (high - low) / 2)
        lines.append(f"{row.name}: {new.rate:.1%}, committed {row.rate:.1%}, predicted {low:.1%} to {high:.1%} "
                     f"({how}): {'within' if inside else 'OUTSIDE'}")  # fmt: skip
    lines += [f"not among these runs: {', '.join(missing)}"] if missing else []
    lines.append(f"{held} of {len(shared)} rows reproduced ({0.05 * len(shared):.1f} outside by chance alone); to be "
                 f"seen, a row had to move by {median(reach):.1f} points in the median ({min(reach):.1f} to "
                 f"{max(reach):.1f})")  # fmt: skip
    return "\n".join(lines)


def predicted(committed: Row, new: Row) -> tuple[tuple[float, float], str]:
    """Return where the new row's mean is expected with 95%, and how that was computed."""
    if committed.num_seeds + new.num_seeds > 2:
        values = list(committed.rates.values()), list(new.rates.values())
        return predicted_mean(*values, step(committed, new, "rates")), f"{len(values[0])} and {len(values[1])} seeds"
    before, after, alike = task_means(committed), task_means(new), 0.0  # as if other tasks, without per-task files
    if before and before.keys() == after.keys():
        alike = task_correlation([before[task] for task in sorted(before)], [after[task] for task in sorted(before)])
    low, high = wilson_difference(committed.rate, new.rate, committed.num_tasks, alike)
    shift = new.rate - committed.rate  # 0 is in (low, high) where the new rate is in these bounds
    return (committed.rate - (high - shift), committed.rate + (shift - low)), "one seed, over tasks"
