"""Write pocket_verilog_train.jsonl, pocket_verilog_valid.jsonl and pocket_verilog_test.jsonl: small modules to write.

    python data/make_pocket_verilog_tasks.py

The three splits share no circuit, and no two circuits of different splits compute the same. Circuits in valid or test,
and all that compute the same, are also left out of the pretraining of pocket_verilog_coder.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from pocket_verilog_code import STYLES, right_code, write_body
from pocket_verilog_grammar import MODULE, Circuit, circuits, describe, next_value
from verilog_testbench import Problem, header, testbench

SEED = 42
SPLITS = {"train": 400, "valid": 100, "test": 200}
LEVELS = {"prompt_terse": "terse", "prompt": "normal", "prompt_detailed": "detailed"}
PROBES = 24  # random inputs by which circuits that compute different things are told apart


def split_circuits() -> tuple[dict[str, list[Circuit]], list[Circuit]]:
    """Return the splits, and all circuits that pretraining may use."""
    alike: dict[str, list[Circuit]] = {}
    for circuit in circuits():
        alike.setdefault(behaviour(circuit), []).append(circuit)
    rng = random.Random(SEED)  # a shuffle by weight: Efraimidis and Spirakis 2006, doi 10.1016/j.ipl.2005.11.003
    place = {key: rng.random() ** (1 / alike[key][0].weight) for key in sorted(alike)}
    keys = sorted(alike, key=place.get, reverse=True)
    splits, start = {}, 0
    for split, count in SPLITS.items():
        rng = random.Random(f"{SEED} {split}")
        splits[split] = [rng.choice(alike[key]) for key in keys[start : start + count]]
        start += count
    held_out = set(keys[SPLITS["train"] : start])
    return splits, [circuit for key in keys if key not in held_out for circuit in alike[key]]


def behaviour(circuit: Circuit) -> str:
    """Return a digest that two circuits share if they have the same ports and register and agree on probe inputs."""
    rng = random.Random(f"{SEED} {circuit.width}")
    top = 2**circuit.width - 1
    probes = [(0, 0, 0), (0, 0, 1), (top, top, 0), (top, top, 1)]
    probes += [(rng.randint(0, top), rng.randint(0, top), rng.randint(0, 1)) for _ in range(PROBES)]
    outputs = [next_value(circuit, *probe) for probe in probes]
    return hashlib.sha256(repr((circuit.ports, circuit.register.name, outputs)).encode()).hexdigest()


def problem_of(circuit: Circuit, body: str) -> Problem:
    levels = [describe(circuit, level).replace("// ", "") for level in ("terse", "normal", "detailed")]
    setup = circuit.register.setup
    return Problem(MODULE, circuit.register.name, circuit.ports, *levels, body.removesuffix("endmodule\n"),
                   "", setup=f"{setup}\nstep;" if setup else "", steps=60 if circuit.register.lines else 0)  # fmt: skip


def make_task(circuit: Circuit, split: str, number: int) -> dict[str, str]:
    rng = random.Random(f"{SEED} {circuit.key}")
    style = rng.choices(list(STYLES), list(STYLES.values()))[0]
    solution = write_body(circuit, right_code(circuit, rng.randrange(2)), style)
    problem = problem_of(circuit, solution)
    return {
        "task_id": f"pocket_verilog/{split}/{number}",
        "language": "verilog",
        **{name: describe(circuit, level) + header(problem) for name, level in LEVELS.items()},
        "canonical_solution": solution,
        "test": testbench(problem),
        "top_module": MODULE,
        "circuit": circuit.key,
    }


def main() -> None:
    here = Path(__file__).parent
    splits, _ = split_circuits()
    for split, members in splits.items():
        text = "".join(json.dumps(make_task(circuit, split, number)) + "\n" for number, circuit in enumerate(members))
        (here / f"pocket_verilog_{split}.jsonl").write_text(text, encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        print(f"data/pocket_verilog_{split}.jsonl  {len(members)} tasks  sha256 {digest}")


if __name__ == "__main__":
    main()
