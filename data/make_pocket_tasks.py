"""Write pocket_train.jsonl, pocket_valid.jsonl and pocket_test.jsonl: our own tasks with HumanEval's fields.

SFT learns from the solutions of pocket_sft.jsonl, the first tasks of the train split; reinforcement learning has the
tests of all train tasks. As with real tasks, solutions are few and tests are many.

    python data/make_pocket_tasks.py

The three splits share no composition, and no two compositions of different splits behave alike on probe inputs.
Compositions in valid or test, and all that behave like them, are also left out of the pocket model's pretraining;
`held_in` holds the rest.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from pocket_code import call, compile_body, right_code, slipped_codes, write_body
from pocket_grammar import Composition, compositions, describe, draw_arguments, signature

SEED = 42
SPLITS = {"train": 800, "valid": 200, "test": 250}
NUM_SOLUTIONS = 40  # train tasks whose solutions SFT may see
NUM_TESTS = 12  # hidden tests per task, edge cases first
STYLE_WEIGHTS = {"short": 3, "loop": 4, "collect": 2, "steps": 1}  # relative frequency in the reference solutions


def split_compositions() -> tuple[dict[str, list[Composition]], list[Composition]]:
    """Return the compositions of each split, and all that pretraining may use (those of train included).

    Of compositions that behave alike, only one can be in a split. So no split holds a twin of another's task under a
    new name.
    """
    by_behaviour: dict[str, list[Composition]] = {}
    for composition in compositions():
        by_behaviour.setdefault(behaviour(composition), []).append(composition)
    groups = list(by_behaviour.values())
    random.Random(SEED).shuffle(groups)
    splits, start = {}, 0
    for name, count in SPLITS.items():
        splits[name] = [group[0] for group in groups[start : start + count]]
        start += count
    held_out = SPLITS["valid"] + SPLITS["test"]
    held_in = [*groups[: SPLITS["train"]], *groups[SPLITS["train"] + held_out :]]
    return splits, [composition for group in held_in for composition in group]


def behaviour(composition: Composition) -> str:
    """Return a digest of the right solution's results on 40 probe inputs, which are the same for one source."""
    source = composition.source
    rng = random.Random(f"{SEED} {source.name}")
    probes = [*source.edges, *(draw_arguments(source, rng) for _ in range(40 - len(source.edges)))]
    function = right_function(composition)
    outputs = [call(function, probe) for probe in probes]
    return hashlib.sha256(repr((source.parameters, outputs)).encode()).hexdigest()


def right_function(composition: Composition):
    return compile_body(composition, write_body(composition, right_code(composition), composition.styles[0]))


def make_task(composition: Composition, split: str, number: int) -> dict[str, str]:
    rng = random.Random(f"{SEED} {composition.key}")
    styles = composition.styles
    style = rng.choices(styles, [STYLE_WEIGHTS[style] for style in styles])[0]
    solution = write_body(composition, right_code(composition), style)
    return {
        "task_id": f"pocket/{split}/{number}",
        "prompt": write_prompt(composition, rng),
        "canonical_solution": solution,
        "test": write_test(composition, rng),
        "entry_point": composition.function_name,
        "composition": composition.key,
    }


def write_prompt(composition: Composition, rng: random.Random) -> str:
    """Write signature and docstring with two examples: a usual call, and another usual call or an edge case."""
    function = right_function(composition)
    source = composition.source
    calls = [draw_arguments(source, rng)]
    calls.append(rng.choice(source.edges) if rng.random() < 0.5 else draw_arguments(source, rng))
    examples = ""
    for arguments in calls:
        shown = ", ".join(map(repr, arguments))
        result = call(function, arguments)[1]
        examples += f"    >>> {composition.function_name}({shown})\n    {result!r}\n"
    return f'{signature(composition)}\n    """{describe(composition, rng.randrange(2))}\n\n{examples}    """\n'


def write_test(composition: Composition, rng: random.Random) -> str:
    """Write `check` with at least `NUM_TESTS` asserts: up to five edge cases, inputs that expose slips, random ones."""
    source, right = composition.source, right_function(composition)
    chosen = list(source.edges[:5])
    drawn = {repr(arguments): arguments for arguments in (draw_arguments(source, rng) for _ in range(60))}
    pool = [arguments for arguments in drawn.values() if arguments not in chosen]
    for code in slipped_codes(composition):
        for style in composition.styles:
            slip = compile_body(composition, write_body(composition, code, style))
            if all(call(slip, arguments) == call(right, arguments) for arguments in chosen):
                chosen += [arguments for arguments in pool if call(slip, arguments) != call(right, arguments)][:1]
    chosen += [arguments for arguments in pool if arguments not in chosen][: max(0, NUM_TESTS - len(chosen))]
    lines = ["def check(candidate):"]
    for arguments in chosen:
        expected = call(right, arguments)[1]
        comparison = "is None" if expected is None else f"== {expected!r}"
        lines.append(f"    assert candidate({', '.join(map(repr, arguments))}) {comparison}")
    return "\n".join(lines) + "\n"


def main() -> None:
    here = Path(__file__).parent
    splits, _ = split_compositions()
    for split, members in splits.items():
        tasks = [make_task(composition, split, number) for number, composition in enumerate(members)]
        write_tasks(here / f"pocket_{split}.jsonl", tasks)
        if split == "train":
            write_tasks(here / "pocket_sft.jsonl", tasks[:NUM_SOLUTIONS])


def write_tasks(path: Path, tasks: list[dict[str, str]]) -> None:
    text = "".join(json.dumps(task) + "\n" for task in tasks)
    path.write_text(text, encoding="utf-8")
    print(f"data/{path.name}  {len(tasks)} tasks  sha256 {hashlib.sha256(text.encode()).hexdigest()}")


if __name__ == "__main__":
    main()
