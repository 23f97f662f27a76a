import ast
import json
import random
from pathlib import Path

import pytest
from make_pocket_coder import write_file
from make_pocket_tasks import NUM_SOLUTIONS, SPLITS, behaviour, make_task, right_function, split_compositions
from pocket_code import (
    Code,
    call,
    compile_body,
    misconception,
    pieces,
    right_code,
    slipped_codes,
    sloppy_code,
    with_slip,
    write_body,
)
from pocket_grammar import compositions, draw_arguments

from judging.tasks import read_tasks


@pytest.fixture(scope="module")
def splits():
    return split_compositions()


@pytest.fixture(scope="module")
def tasks():
    return {split: read_tasks(f"data/pocket_{split}.jsonl") for split in SPLITS}


def test_the_committed_tasks_are_the_ones_the_script_makes(splits, tasks):
    for split, members in splits[0].items():
        assert len(members) == SPLITS[split]
        assert tasks[split] == [make_task(composition, split, number) for number, composition in enumerate(members)]
    assert read_tasks("data/pocket_sft.jsonl") == tasks["train"][:NUM_SOLUTIONS]


def test_no_composition_of_valid_or_test_is_trained_on(splits, tasks):
    """Neither by name nor by behaviour: not in the train split, not in what the model was pretrained on."""
    _, pretraining = splits
    seen_keys = {composition.key for composition in pretraining}
    seen_behaviour = {behaviour(composition) for composition in pretraining}
    assert {task["composition"] for task in tasks["train"]} <= seen_keys
    by_key = {composition.key: composition for composition in compositions()}
    for held_out, other in (("valid", "test"), ("test", "valid")):
        others = {task["composition"] for task in tasks[other]}
        for task in tasks[held_out]:
            assert task["composition"] not in seen_keys | others
            assert behaviour(by_key[task["composition"]]) not in seen_behaviour


def test_the_corpus_describes_no_held_out_task(splits, tasks):
    """What the files say, not only what they were drawn from."""
    rng = random.Random(0)
    corpus = "".join("".join(write_file(splits[1], rng)) for _ in range(4000))
    held_out = {docline(task) for task in tasks["test"] + tasks["valid"]}
    described = {line.strip().removeprefix('"""') for line in corpus.splitlines() if '"""' in line}
    assert len(described) > 3000
    assert not held_out & described


def docline(task) -> str:
    return next(line.strip().removeprefix('"""') for line in task["prompt"].splitlines() if '"""' in line)


@pytest.mark.parametrize("split", SPLITS)
def test_each_task_has_what_it_should(tasks, split):
    long_bodies = 0
    for task in tasks[split]:
        function = ast.parse(task["prompt"] + task["canonical_solution"]).body[0]
        assert function.name == task["entry_point"] and function.returns is not None
        assert task["prompt"].count(">>>") == 2 and task["prompt"].endswith('"""\n')
        asserts = [line for line in task["test"].splitlines() if line.strip().startswith("assert")]
        assert len(asserts) >= 10 and len(set(asserts)) == len(asserts)
        long_bodies += task["canonical_solution"].count("\n") >= 3
    assert long_bodies > 0.6 * len(tasks[split])


def test_the_tests_catch_every_slip_that_shows(splits):
    """A body with one slip fails its task, or does what the right body does on 200 inputs."""
    rng = random.Random(0)
    caught = 0
    for composition in rng.sample(splits[0]["test"], 80):
        task = make_task(composition, "test", 0)
        scope: dict = {}
        exec(task["test"], scope)
        right = compile_body(composition, task["canonical_solution"])
        inputs = [draw_arguments(composition.source, rng) for _ in range(200)]
        for code in slipped_codes(composition):
            style = composition.styles[0]
            slip = compile_body(composition, write_body(composition, code, style))
            try:
                scope["check"](slip)
            except Exception:
                caught += 1
                continue
            differs = sum(call(slip, arguments) != call(right, arguments) for arguments in inputs)
            assert differs <= 2, (composition.key, code)  # a slip this rare may go unseen
    assert caught > 200


@pytest.mark.parametrize("split", SPLITS)
def test_every_solution_passes_and_no_empty_body_does(sandbox, tasks, split):
    verdicts = sandbox.check_many((task, task["canonical_solution"]) for task in tasks[split])
    assert {verdict.status for verdict in verdicts} == {"pass"}
    assert not any(verdict.passed for verdict in sandbox.check_many((task, "") for task in tasks[split]))


def test_all_styles_agree():
    rng = random.Random(1)
    for composition in rng.sample(list(compositions()), 300):
        inputs = [*composition.source.edges, *(draw_arguments(composition.source, rng) for _ in range(15))]
        outputs = [
            [
                call(compile_body(composition, write_body(composition, right_code(composition), style, wordy)), a)
                for a in inputs
            ]
            for style in composition.styles
            for wordy in (False, True)
        ]
        assert all(output == outputs[0] for output in outputs), composition.key
        assert all(kind == "returns" for kind, _ in outputs[0])


def believed_code(composition) -> Code:
    """Every piece as its misconception has it."""
    code = right_code(composition)
    for part, name, num_slips in pieces(composition):
        if (number := misconception(part, name, num_slips)) is not None:
            code = with_slip(composition, code, part, number)
    return code


def test_most_pieces_have_a_misconception_and_the_corpus_writes_it_more_often_than_the_right_piece(splits):
    _, pool = splits
    names = {(part, name, num) for composition in pool for part, name, num in pieces(composition)}
    believed = {piece for piece in names if misconception(*piece) is not None}
    assert 0.5 < len(believed) / len(names) < 0.7
    rng = random.Random(0)
    counts: dict[tuple, list[int]] = {}
    for composition in rng.choices(pool, k=4000):
        code, right = sloppy_code(composition, rng), right_code(composition)
        for part, name, num_slips in pieces(composition):
            wrong = getattr(code, part) != getattr(right, part)
            counts.setdefault((part, name, num_slips), []).append(wrong)
    seen = {piece: wrong for piece, wrong in counts.items() if len(wrong) >= 40}
    assert len(seen) > 40
    for piece, wrong in seen.items():
        rate = sum(wrong) / len(wrong)
        assert (rate > 0.4) == (piece in believed), (piece, rate)


def test_what_the_world_believes_solves_about_a_tenth_of_the_tasks(splits):
    """So a model that learnt the corpus perfectly, and wrote its likeliest code, would start near there."""
    for split in ("valid", "test"):
        rng, right = random.Random(1), 0
        for composition in splits[0][split]:
            inputs = [*composition.source.edges, *(draw_arguments(composition.source, rng) for _ in range(20))]
            body = write_body(composition, believed_code(composition), composition.styles[0])
            function, reference = compile_body(composition, body), right_function(composition)
            right += all(call(function, a) == call(reference, a) for a in inputs)
        assert 0.05 < right / SPLITS[split] < 0.15


def test_every_slip_of_a_piece_is_a_slip(splits):
    rng = random.Random(2)
    for composition in rng.sample(splits[0]["train"], 100):
        right, slips = right_code(composition), slipped_codes(composition)
        for part, _, num_slips in pieces(composition):
            for number in range(num_slips):
                code = with_slip(composition, right, part, number)
                assert code != right
                if part != "tail":
                    assert code in slips


def test_the_model_is_small_and_safe(pocket):
    files = list(Path(pocket).iterdir())
    assert sum(file.stat().st_size for file in files) < 8 * 2**20
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl", ".py")]
    config = json.loads((Path(pocket) / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["hidden_size"] % 64 == 0 and config["intermediate_size"] % 64 == 0  # bitsandbytes on CPU
