"""The pocket Verilog world: what the circuits compute, that slips are caught, and that the splits share nothing."""

import hashlib
import itertools
import json
import random
import shutil
from pathlib import Path

import pytest
from make_pocket_verilog_coder import corpus
from make_pocket_verilog_tasks import LEVELS, SPLITS, behaviour, make_task, split_circuits
from pocket_verilog_code import STYLES, right_code, slipped_codes, write_body
from pocket_verilog_grammar import MODULE, circuits, next_value

from judging.tasks import read_tasks

DATA = Path(__file__).parents[1] / "data"
MISSING = [tool for tool in ("iverilog", "vvp", "yosys", "verilator") if shutil.which(tool) is None]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def world():
    return split_circuits()


@pytest.fixture(scope="module")
def box():
    from judging.verilog.pool import VerilogSandbox

    with VerilogSandbox() as box:
        yield box


def by_hand(circuit, inputs) -> dict:
    """The circuit's task with a testbench that holds the values which `next_value` gives."""
    width, out = circuit.width, circuit.out_width
    ports = [port.split()[-1] for port in circuit.ports.split(", ")]
    regs = "".join(f"    reg [{width - 1 if name in 'ab' else 0}:0] {name};\n" for name in ports[:-1])
    lines = []
    for a, b, s in inputs:
        given = {"a": f"{width}'d{a}", "b": f"{width}'d{b}", "s": s, "en": 1, "reset": 0, "areset": 0, "rst_n": 1}
        lines += [f"{name} = {given[name]};" for name in ports if name in given]
        lines += ["#1 clk = 0; #1 clk = 1; #1 clk = 0; #1;" if "clk" in ports else "#1;"]
        lines += [f"total = total + 1; if (y === {out}'d{next_value(circuit, a, b, s)}) passed = passed + 1;"]
    body = "\n        ".join(lines)
    connections = ", ".join(f".{name}({name})" for name in ports)
    test = f"""module tb;
{regs}    wire [{out - 1}:0] y;
    integer passed = 0, total = 0;
    {MODULE} dut ({connections});
    initial begin
        {body}
        $display("passed %0d of %0d", passed, total);
        $finish;
    end
endmodule
"""
    return make_task(circuit, "test", 0) | {"test": test}


def known(circuit) -> bool:
    return circuit.register.name in ("wire", "plain", "falling", "reset", "low_reset", "async_reset", "enable")


@needs_tools
def test_right_modules_compute_what_the_words_say(box):
    """In each style and each way to write a change, against values computed in Python."""
    rng = random.Random(0)
    chosen = rng.sample([circuit for circuit in circuits() if known(circuit)], 25)
    pairs = []
    for circuit in chosen:
        top = 2**circuit.width - 1
        inputs = [(rng.randint(0, top), rng.randint(0, top), rng.randint(0, 1)) for _ in range(30)]
        style, way = rng.choice(list(STYLES)), rng.randrange(2)
        pairs.append((by_hand(circuit, inputs), write_body(circuit, right_code(circuit, way), style, wordy=True)))
    for (task, body), verdict in zip(pairs, box.check_many(pairs), strict=True):
        assert verdict.passed, (task["circuit"], verdict.reason, body)
        assert verdict.parts["compilation"] == verdict.parts["synthesis"] == 1.0


@needs_tools
def test_every_operation_choice_and_change_is_computed_rightly_by_the_tasks_own_references(box):
    tasks = read_tasks(DATA / "pocket_verilog_valid.jsonl")[:20]
    assert all(verdict.passed for verdict in box.check_many((task, task["canonical_solution"]) for task in tasks))


@needs_tools
def test_slips_fail(box, world):
    """A slip that computes the same is none; few are."""
    rng = random.Random(1)
    pairs = []
    for number, circuit in enumerate(rng.sample(world[0]["test"], 12)):
        task = make_task(circuit, "test", number)
        pairs += [(task, write_body(circuit, code, "nets")) for code in rng.sample(slipped_codes(circuit), 2)]
    passed = [task["circuit"] for (task, _), v in zip(pairs, box.check_many(pairs), strict=True) if v.passed]
    assert len(passed) <= 1, passed


def test_the_task_files_are_what_the_tables_say(world):
    for split, members in world[0].items():
        text = "".join(json.dumps(make_task(circuit, split, number)) + "\n" for number, circuit in enumerate(members))
        kept = (DATA / f"pocket_verilog_{split}.jsonl").read_bytes()
        assert hashlib.sha256(text.encode()).digest() == hashlib.sha256(kept).digest(), (
            "python data/make_pocket_verilog_tasks.py"
        )


def test_splits_and_pretraining_share_nothing_that_computes_the_same(world):
    splits, pool = world
    assert {split: len(members) for split, members in splits.items()} == SPLITS
    keys = {split: {behaviour(circuit) for circuit in members} for split, members in splits.items()}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not keys[one] & keys[other]
    held_out = keys["valid"] | keys["test"]
    assert not held_out & {behaviour(circuit) for circuit in pool}
    tasks = [make_task(circuit, split, 0) for split in ("valid", "test") for circuit in splits[split]]
    prompts = {task[field] for task in tasks for field in LEVELS}
    assert not prompts & {prompt for prompt, _ in itertools.islice(corpus(pool, random.Random(3)), 3000)}


def test_a_task_has_three_prompts_with_one_header():
    for task in read_tasks(DATA / "pocket_verilog_train.jsonl")[:50]:
        headers = {task[field][task[field].index("module ") :] for field in LEVELS}
        assert len(headers) == 1 and headers.pop().endswith(");\n")
        assert task["prompt_terse"].count("//") == 1 and task["prompt_detailed"] != task["prompt"]
