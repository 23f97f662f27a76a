"""The Verilog tasks: references pass, mutants fail, and no test problem is a train problem under another name."""

import itertools
import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from make_verilog_tasks import PROBLEMS, make_task, split_problems
from verilog_testbench import mutants, parse_ports, solution

from judging.verilog.pool import VerilogSandbox

DATA = Path(__file__).parents[1] / "data"
TASKS = {problem.name: make_task(problem) for problem in PROBLEMS}
TOOLS = ("iverilog", "vvp", "yosys")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian packages)")


def judge(task, completions, folder):
    """(passed, total) of each completion as a netlist, or what a tool says against it.

    One yosys run for all of them: starting it costs more than a small module does. It ends at the first refusal.
    """
    folder.mkdir()
    (folder / "tb.v").write_text(task["test"])
    latches = "" if task.get("latches") else "select -assert-none t:*dlatch* t:*DLATCH* t:$sr t:$_SR_*; "
    script = ""
    for number, completion in enumerate(completions):
        (folder / f"{number}.v").write_text(task["prompt"] + "\n\n" + completion)
        script += (
            f"design -reset; read_verilog -sv -noblackbox {number}.v; hierarchy -check -top {task['top_module']}; "
            f"proc; opt; fsm; opt; memory; opt; techmap; opt; {latches}write_verilog -noattr net{number}.v; "
        )
    log = run(["yosys", "-p", script], folder)
    verdicts = []
    for number in range(len(completions)):
        if not (folder / f"net{number}.v").exists():
            return verdicts + ["yosys: " + log[log.find("ERROR") :].strip()] * (len(completions) - number)
        errors = run(["iverilog", "-g2012", "-s", "tb", "-o", f"{number}.vvp", f"net{number}.v", "tb.v"], folder)
        shown = errors or run(["vvp", "-n", f"{number}.vvp"], folder)
        counts = re.findall(r"^passed (\d+) of (\d+)$", shown, re.M)
        verdicts.append(tuple(map(int, counts[0])) if len(counts) == 1 else shown)
    return verdicts


def run(command, folder):
    """What the command prints, errors too."""
    return subprocess.run(command, cwd=folder, stdout=-1, stderr=subprocess.STDOUT, text=True, timeout=60).stdout


def in_threads(function, items):
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))


def check_verdicts(problems, folder):
    """The reference passes all checks; each mutant is a valid module and fails; so does an empty body."""

    def verdicts(problem):
        task = TASKS[problem.name]
        completions = [task["canonical_solution"], *mutants(problem), "endmodule\n"]
        return judge(task, completions, folder / problem.name)

    wrong = []
    for problem, (reference, *others, empty) in zip(problems, in_threads(verdicts, problems), strict=True):
        if reference != (reference[1], reference[1]) or reference[1] < 8:
            wrong.append((problem.name, "reference", reference))
        wrong += [
            (problem.name, "mutant", number, verdict)
            for number, verdict in enumerate(others)
            if isinstance(verdict, str) or not verdict[0] < verdict[1] == reference[1]
        ]
        if empty != (0, reference[1]):
            wrong.append((problem.name, "empty", empty))
    assert not wrong


@needs_tools
def test_references_pass_and_mutants_fail_on_a_sample(tmp_path):
    check_verdicts(PROBLEMS[::15], tmp_path)


@pytest.mark.slow
@needs_tools
def test_references_pass_and_mutants_fail(tmp_path):
    check_verdicts(PROBLEMS, tmp_path)


@pytest.mark.slow
@needs_tools
def test_the_judge_passes_references_and_no_mutant():
    """verilog.py itself, which takes another way through yosys than the check above."""
    if not shutil.which("verilator"):
        pytest.skip("not installed: verilator (Debian package)")
    with VerilogSandbox(time_limit=30.0) as box:
        pairs = [(TASKS[problem.name], body) for problem in PROBLEMS for body in (solution(problem), *mutants(problem))]
        verdicts = box.check_many(pairs)
    right = [body == task["canonical_solution"] for task, body in pairs]
    assert sum(right) == len(PROBLEMS) and len(right) - sum(right) > 400
    assert [
        task["task_id"] for (task, _), good, v in zip(pairs, right, verdicts, strict=True) if v.passed != good
    ] == []
    assert all(v.parts[part] == 1.0 for v, good in zip(verdicts, right, strict=True) if good
               for part in ("compilation", "functional", "synthesis"))  # fmt: skip


@needs_tools
def test_a_latch_that_was_not_asked_for_is_refused(tmp_path):
    task = TASKS["first_valid"]
    latch = task["canonical_solution"].replace("        else {source, y} = 10'd0;\n", "")
    (verdict,) = judge(task, [latch], tmp_path / "latch")
    assert "ERROR" in verdict


@needs_tools
def test_no_train_solution_passes_a_test_problem(tmp_path):
    """A train problem with the ports of a test problem (widths and directions, in order), its module renamed."""
    splits = split_problems()
    pairs = [
        (test, train)
        for test, train in itertools.product(splits["test"], splits["train"])
        if shape(test) == shape(train) and test.latches == train.latches
    ]
    assert len(pairs) >= 3

    def verdict(pair):
        test, train = pair
        inner = make_task(train)["prompt"] + make_task(train)["canonical_solution"]
        wires = ", ".join(port.name for port in parse_ports(test.ports))
        # the outputs of the wrapper are nets, whatever the header of the test problem says
        wrapper = TASKS[test.name]["prompt"].replace("output reg", "output")
        task = TASKS[test.name] | {"prompt": inner + wrapper}
        completion = f"    {train.name} same ({wires});\nendmodule\n"
        return judge(task, [completion], tmp_path / f"{test.name}-{train.name}")[0]

    for pair, (passed, total) in zip(pairs, in_threads(verdict, pairs), strict=True):
        assert passed < total, f"{pair[0].name} is {pair[1].name} under another name"


def shape(problem):
    return [(port.direction, port.width) for port in parse_ports(problem.ports)]


LINTERS = {"iverilog": ["iverilog", "-g2012", "-Wall", "-tnull"], "verilator": ["verilator", "--lint-only", "-Wall"]}


@pytest.mark.slow
@pytest.mark.parametrize("tool", LINTERS)
def test_linters_have_nothing_against_the_references(tool, tmp_path):
    if not shutil.which(tool):
        pytest.skip(f"not installed: {tool} (Debian package)")

    def lint(task):
        path = tmp_path / f"{task['top_module']}.v"
        path.write_text(task["prompt"] + "\n\n" + task["canonical_solution"])
        return run([*LINTERS[tool], path.name], tmp_path)

    assert [said for said in in_threads(lint, TASKS.values()) if said] == []


def test_the_task_files_are_what_the_tables_say():
    for split, problems in split_problems().items():
        text = "".join(json.dumps(make_task(problem)) + "\n" for problem in problems)
        assert (DATA / f"verilog_{split}.jsonl").read_text(encoding="utf-8") == text, (
            "python data/make_verilog_tasks.py"
        )


def test_splits_share_nothing_and_cover_every_category():
    splits = split_problems()
    names = [problem.name for problems in splits.values() for problem in problems]
    assert len(names) == len(set(names)) == len(PROBLEMS) >= 64
    categories = {split: {problem.category for problem in problems} for split, problems in splits.items()}
    assert categories["train"] == categories["test"]
    bodies = ["".join(problem.body.split()) for problem in PROBLEMS]
    assert len(set(bodies)) == len(bodies)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_tasks_have_three_prompts_with_one_header_and_one_summary(task):
    prompts = [task["prompt_terse"], task["prompt"], task["prompt_detailed"]]
    headers = {text[text.index("\nmodule ") :] for text in prompts}
    assert len(headers) == 1 and headers.pop().endswith("\n);\n")
    comments = [text[: text.index("\nmodule ")] for text in prompts]
    assert all(line.startswith("// ") for text in comments for line in text.splitlines())
    assert len(comments[0].splitlines()) == 1 and len(set(comments)) == 3
    assert task["test"].count('$display("passed %0d of %0d", passed, total);\n        $finish;') == 1
    assert task["test"].count("$display") == task["test"].count("$finish") == 1
    assert task["canonical_solution"].endswith("\nendmodule\n")


def test_every_problem_has_three_mutants_or_more():
    for problem in PROBLEMS:
        assert len(set(mutants(problem))) >= 3, problem.name
