"""Programs judged by what they print: the comparison, the limits, the share of inputs, bad task files, and the rows of
tests/attacks/printing.py without a sandbox (with one: tests/test_sandbox_attacks.py)."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from attacks import SECRET, TASKS, corpus
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from common import InputError, check_judge_args
from common.run_args import JudgeArgs
from judging import tasks as task_files
from judging.by_language import open_sandbox
from judging.instruct import answer, instruction
from judging.pool import Sandbox, Verdict
from judging.python.stdio import MOST, SPARE, difference, most_bytes, near
from judging.rewards import partial_reward
from judging.tasks import (
    PROGRAM_STOP_STRINGS,
    before,
    candidate_source,
    code_of,
    has_whole_program,
    read_tasks,
    stop_strings,
    truncate_at_stop,
)

ADD = "print(sum(map(int, input().split())))\n"
TASK = {"task_id": "add", "prompt": "Print the sum of the two numbers.", "canonical_solution": ADD,
        "inputs": ["1 2\n", "3 4\n", "5 6\n", "7 8\n"], "outputs": ["3\n", "7\n", "11\n", "15\n"]}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(num_workers=1) as box:
        yield box


# comparison


@pytest.mark.parametrize(
    ("printed", "expected", "lines", "tokens"),
    [
        ("1\n", "1", True, True),
        ("1", "1\n\n\n", True, True),
        ("1 \t\n2\r\n \n\n", "1\n2", True, True),
        ("", "", True, True),
        ("\n \n", "", True, True),
        ("\n1", "1", False, True),
        (" 1", "1", False, True),
        ("1\n\n2", "1\n2", False, True),
        ("1  2", "1 2", False, True),
        ("1 2", "1\n2", False, True),
        ("1", "2", False, False),
        ("1\n2", "1", False, False),
        ("1", "1\n2", False, False),
        ("12", "1 2", False, False),
        ("", "1", False, False),
        ("1", "", False, False),
        ("YES", "Yes", False, False),
        ("1.0", "1", False, False),
        ("é", "e\u0301", False, False),
        ("1\u00a0", "1", False, False),  # a blank that is not ASCII's is text
        ("1\u2028 2", "1\n 2", False, False),
        ("1\0", "1", False, False),
    ],
)
def test_known_comparisons(printed, expected, lines, tokens):
    ours, theirs = printed.encode(), expected.encode()
    assert (difference(ours, theirs) == "") is lines
    assert (difference(ours, theirs, "tokens") == "") is tokens


@pytest.mark.parametrize(
    ("printed", "expected", "tolerance", "right"),
    [
        ("0.1", "0.1000001", 1e-6, True),
        ("0.1", "0.100002", 1e-6, False),
        ("1000000.5", "1000000", 1e-6, True),  # relative
        ("1000002.5", "1000000", 1e-6, False),
        ("1e3", "1000.0", 1e-9, True),
        ("-0.0", "0", 1e-9, True),
        (".5", "0.5", 1e-9, True),
        ("5.", "5", 1e-9, True),
        ("1001", "1000", 0.5, False),  # whole numbers are counts
        ("+5", "5", 0.5, False),
        ("nan", "nan", 1e-6, True),  # the same text
        ("nan", "0.0", 0.9, False),
        ("inf", "1e999", 0.9, False),
        ("1e999", "1e998", 0.9, False),
        ("1e999", "1.0", 0.9, False),
        ("0x1p0", "1.0", 0.9, False),
        ("1_0.0", "10.0", 0.9, False),
        ("1,0", "1.0", 0.9, False),
        ("１.0", "1.0", 0.9, False),
        ("1.0.0", "1.0", 0.9, False),
        ("--1.0", "-1.0", 0.9, False),
        ("0." + "3" * 1000, "0." + "3" * 999, 0.9, False),  # longer than any number that one prints
        ("x 1.0001", "x 1.0", 1e-3, True),
        ("y 1.0001", "x 1.0", 1e-3, False),
        ("1.0001  2", "1.0 2", 1e-3, False),  # lines: the blanks between still count
        ("1.0001 2", "1.0", 1e-3, False),
    ],
)
def test_known_tolerances(printed, expected, tolerance, right):
    assert (difference(printed.encode(), expected.encode(), tolerance=tolerance) == "") is right
    assert difference(printed.encode(), expected.encode()) == "" or printed != expected


text = st.text(st.sampled_from("12. \t\n\r-e"), max_size=30).map(str.encode)


@given(text, text)
def test_comparison_is_what_lists_say(printed, expected):
    def lines(text):
        found = [line.rstrip() for line in text.split(b"\n")]
        while found and not found[-1]:
            found.pop()
        return found

    assert (difference(printed, expected) == "") is (lines(printed) == lines(expected))
    assert (difference(printed, expected, "tokens") == "") is (printed.split() == expected.split())


@given(text, st.sampled_from(["lines", "tokens"]), st.sampled_from([0.0, 1e-6, 0.5]))
def test_an_output_is_right_by_itself(expected, compare, tolerance):
    assert difference(expected, expected, compare, tolerance) == ""
    assert difference(expected + b" \n \n", expected, compare, tolerance) == ""
    assert difference(expected + b"\nx", expected, compare, tolerance) != ""


@given(text, text, st.sampled_from(["lines", "tokens"]))
def test_a_tolerance_never_makes_a_right_output_wrong(printed, expected, compare):
    if difference(printed, expected, compare) == "":
        assert difference(printed, expected, compare, 1e-6) == ""


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.floats(1e-9, 0.9))
def test_near_is_the_formula(one, other, tolerance):
    printed, expected = f"{one:.9f}", f"{other:.9f}"
    one, other = float(printed), float(expected)
    right = abs(one - other) <= tolerance or abs(one - other) <= tolerance * abs(other)
    assert near(printed.encode(), expected.encode(), tolerance) is right


def test_a_difference_says_where():
    assert difference(b"1\n2\n", b"1\n3\n") == "line 2 is '2', expected '3'"
    assert difference(b"1 2", b"1 2 3", "tokens") == "token 3 is missing, expected '3'"
    assert difference(b"1\n2", b"1") == "line 2 is '2', expected the end"
    assert len(difference(b"\xff" * 10**6, b"x" * 10**6)) < 600


def test_how_much_may_be_printed():
    assert most_bytes(b"") == SPARE and most_bytes(b"x" * 1000) == SPARE + 4000
    assert most_bytes(bytes(task_files.MAX_TEXT)) == MOST > task_files.MAX_TEXT


# verdicts


def test_right_and_wrong(sandbox):
    verdict = sandbox.check(TASK, ADD)
    assert (verdict.status, verdict.reason, verdict.tests_passed, verdict.tests_total) == ("pass", "", 4, 4)
    assert verdict.cpu_seconds > 0 and verdict.peak_mib > 1 and not verdict.weak


@pytest.mark.parametrize(
    ("program", "status", "says", "passed"),
    [
        ("print(3)", "fail", "input 2 of 4: line 1 is '3', expected '7'", 1),
        ("print(3)\nexit(2)", "fail", "input 1 of 4: exit code 2", 0),
        ("import sys\n\nprint(int('x'))", "fail", "input 1 of 4: ValueError: invalid literal for int() with base 10: "
         "'x' (line 3 of the completion)", 0),
        ("raise MemoryError", "memory", "input 1 of 4: MemoryError (line 1 of the completion)", 0),
        ("print(", "syntax", "SyntaxError: '(' was never closed (line 1 of the completion)", 0),
        ("import ctypes\nctypes.string_at(0)", "crash", "input 1 of 4: the program died of SIGSEGV", 0),
        ("while True: print('x' * 99)", "fail", "input 1 of 4: it prints too much: more than 65544 bytes", 0),
        ("import os, time\nos.closerange(0, 9)\ntime.sleep(9)", "fail",
         "input 1 of 4: the program closed its output and did not end", 0),
    ],
)  # fmt: skip
def test_reasons(sandbox, program, status, says, passed):
    verdict = sandbox.check(TASK, program)
    assert (verdict.status, verdict.reason, verdict.tests_passed, verdict.tests_total) == (status, says, passed, 4)


def test_the_limit_is_for_one_input(sandbox):
    verdict = sandbox.check(TASK, "import time\ntime.sleep(0.35)\n" + ADD, time_limit=1.2)
    assert verdict.passed and verdict.wall_seconds > 1.4
    verdict = sandbox.check(TASK, "n = sum(map(int, input().split()))\nwhile n > 3: pass\nprint(n)", time_limit=0.6)
    assert verdict.status == "timeout" and verdict.tests_passed == 1 and verdict.wall_seconds < 2.5
    assert verdict.reason == "input 2 of 4: it did not end within 0.6 s"


def test_the_total_limit_is_for_all_inputs():
    slow = "import time\ntime.sleep(0.5)\n" + ADD
    for count_all in (False, True):
        with Sandbox(num_workers=1, total_limit=1.3, count_all=count_all) as box:
            verdict = box.check(TASK | {"inputs": TASK["inputs"] * 9, "outputs": TASK["outputs"] * 9}, slow)
            assert verdict.status == "timeout" and verdict.reason.endswith("all inputs together took longer than 1.3 s")
            assert 1 <= verdict.tests_passed <= 2 and verdict.tests_total == 36 and verdict.wall_seconds < 2.3
            assert box.check(TASK, ADD, time_limit=1.0).passed  # the worker goes on


def test_the_share_of_inputs_is_counted_if_a_reward_asks():
    odd = "n = sum(map(int, input().split()))\nif n in (7, 11): raise ValueError\nprint(n)"
    counted = {}
    for reward in ("unit_test", "shaped", "partial", "mine.py:reward"):
        args = SimpleNamespace(**vars(JudgeArgs()), reward=reward)
        with open_sandbox(args, [TASK], tested=False) as box:
            verdict = box.check(TASK, odd)
        assert verdict.status == "fail" and verdict.reason.startswith("input 2 of 4: ValueError")
        counted[reward] = verdict.tests_passed
    assert counted == {"unit_test": 1, "shaped": 1, "partial": 2, "mine.py:reward": 2}
    assert partial_reward(Verdict("fail", "", tests_passed=2, tests_total=4), 0.5) == 0.25


def test_comparison_flags_reach_the_judge():
    task = TASK | {"inputs": [""], "outputs": ["0.5 1\n"]}
    for compare, tolerance, program, passed in [
        ("lines", 0.0, "print(0.5)\nprint(1)", False),
        ("tokens", 0.0, "print(0.5)\nprint(1)", True),
        ("tokens", 0.0, "print(0.5000001)\nprint(1)", False),
        ("tokens", 1e-6, "print(0.5000001)\nprint(1)", True),
        ("lines", 1e-6, "print(0.5000001, 1)", True),
    ]:
        args = SimpleNamespace(**vars(JudgeArgs(compare=compare, tolerance=tolerance)))
        with open_sandbox(args, [task], tested=False) as box:
            assert box.check(task, program).passed is passed


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"time_limit": 0.0}, "--time_limit 0.0: must be positive"),
        ({"total_limit": -1.0}, "--total_limit -1.0: must be positive"),
        ({"tolerance": -1e-6}, "--tolerance -1e-06: must be in"),
        ({"tolerance": float("nan")}, "--tolerance nan: must be in"),
        ({"tolerance": 1.0}, "--tolerance 1.0: must be in"),
    ],
)
def test_flags_are_checked(changes, says):
    with pytest.raises(InputError, match="--") as error:
        check_judge_args(JudgeArgs(**changes))
    assert str(error.value).startswith(says)


def test_both_kinds_of_tasks_in_one_sandbox(sandbox):
    plain = TASKS["double"]
    pairs = [(TASK, ADD), (plain, "    return 2 * x\n"), (TASK, "print(1)"), (plain, "    return x\n"), (TASK, ADD)]
    assert [verdict.status for verdict in sandbox.check_many(pairs)] == ["pass", "pass", "fail", "fail", "pass"]


def test_large_texts(sandbox):
    long = "x" * 2_000_000
    task = TASK | {"inputs": [long] * 8, "outputs": [long] * 8}  # more than one request to a program may have
    assert sandbox.check(task, "print(input())").passed
    assert sandbox.check(task, "print(input()[:-1])").status == "fail"


def test_a_program_sees_what_a_script_sees(sandbox):
    program = (
        "import sys\nassert __name__ == '__main__' and sys.modules['__main__'].__dict__ is globals()\n"
        "assert len(sys.argv) == 1 and not sys.stdin.isatty()\n"
        "assert sys.stdin.fileno() == 0 and sys.stdout.fileno() == 1\n"
        "assert sys.stdin.encoding == sys.stdout.encoding == 'utf-8'\n"
        "class A: pass\nassert A.__module__ == '__main__'\n"
    )
    verdict = sandbox.check(TASK, program + ADD)
    assert verdict.passed, verdict.reason


def test_the_worker_holds_nothing_back(sandbox):
    """Descriptors of the judge do not grow with programs."""
    judge = sandbox._workers[0].process.pid

    def count():
        return int(subprocess.run(f"ls /proc/{judge}/fd | wc -l", shell=True, capture_output=True).stdout)

    sandbox.check(TASK, ADD)
    first = count()
    for program in (ADD, "print(", "while True: print(1)", "import os\nos.abort()", "import os\nos.close(1)"):
        sandbox.check(TASK, program)
    assert count() == first


# tasks


def test_parts_of_a_task():
    asked = TASK | {"instruct": True}
    assert candidate_source(TASK, ADD) == candidate_source(asked, ADD) == ADD
    assert before(TASK, ADD) == ""
    assert answer(TASK) == ADD and answer(asked) == f"```python\n{ADD.rstrip()}\n```"
    assert TASK["prompt"] in instruction(asked) and "standard input" in instruction(asked)
    assert code_of(asked, answer(asked)) == ADD
    assert stop_strings(TASK) == PROGRAM_STOP_STRINGS and stop_strings(asked) == ()
    explained = asked | {"explanation": "It adds."}
    assert instruction(explained).count("explain") == 1 and answer(explained).startswith("It adds.\n\n```python")


def test_the_block_that_prints_is_the_program():
    asked = TASK | {"instruct": True}
    text = f"```python\n{ADD}```\nFor example\n```\n1 2\n```\ngives\n```\n3\n```\n"
    assert code_of(asked, text) == ADD
    assert code_of(asked, text.replace("```python", "```")) == ADD
    assert code_of(asked, f"```python\n{ADD}```\nor\n```python\nimport sys\nsys.stdout.write('')\n```").startswith(
        "import"
    )
    assert code_of(asked, "no block") == ""


def test_stop_strings_leave_programs_whole():
    program = "import sys\n\n\ndef f():\n    # x\n    print(1)\n\n\nif True:\n    f()\n\n@f\nclass A: pass\n"
    assert truncate_at_stop(program, PROGRAM_STOP_STRINGS) == program
    assert truncate_at_stop(program + "\n\n\n\nProblem 2", PROGRAM_STOP_STRINGS) == program.rstrip("\n")
    assert has_whole_program(TASK, program + "\n\n\n\nx") and not has_whole_program(TASK, program)


def test_reads_a_task(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(TASK) + "\n" + json.dumps(TASK | {"task_id": "b", "entry_point": "", "test": ""}) + "\n")
    assert [task["task_id"] for task in read_tasks(path)] == ["add", "b"]


NONE = object()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"inputs": NONE, "outputs": NONE}, "task has no text field 'test', nor lists 'inputs' and 'outputs'"),
        ({"inputs": NONE}, "task has no list of texts 'inputs'"),
        ({"outputs": NONE}, "task has no list of texts 'outputs'"),
        ({"outputs": "3\n"}, "task has no list of texts 'outputs'"),
        ({"outputs": ["3", "7", "11"]}, "4 inputs and 3 outputs; want one for each"),
        ({"outputs": ["3", "7", 11, "15"]}, "outputs[2] is not text"),
        ({"inputs": [["1"], "", "", ""]}, "inputs[0] is not text"),
        ({"inputs": ["\ud800", "", "", ""]}, "inputs[0] has a lone surrogate, which no tokenizer"),
        ({"inputs": [], "outputs": []}, "every output is empty; a program that prints nothing would pass"),
        ({"outputs": ["", " \n", "", "\n"]}, "every output is empty; a program that prints nothing would pass"),
        ({"outputs": ["", "", "", "x" * 50_000_000]}, "outputs[3] has 50000000 bytes; at most 10000000 are allowed"),
        ({"inputs": ["é" * 5_000_001, "", "", ""]}, "inputs[0] has 10000002 bytes; at most 10000000 are allowed"),
        ({"inputs": ["\0" * 9_000_000, "", "", ""]}, "inputs and outputs have 540000"),
        ({"prompt": NONE}, "task has no text field 'prompt'"),
        ({"canonical_solution": NONE}, "task has no text field 'canonical_solution'"),
    ],
)  # fmt: skip
def test_bad_tasks_are_one_line(tmp_path, changes, says):
    bad = {name: value for name, value in (TASK | changes).items() if value is not NONE}
    (tmp_path / "t.jsonl").write_text(json.dumps(TASK | {"task_id": "good"}) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(InputError) as error:
        read_tasks(tmp_path / "t.jsonl")
    assert f"t.jsonl:2: {says}" in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_a_task_without_outputs_is_refused_by_the_sandbox(sandbox):
    with pytest.raises(InputError, match="has no list 'outputs'"):
        sandbox.submit({name: value for name, value in TASK.items() if name != "outputs"}, ADD)


# attacks


NAIVE = """
import contextlib, io, json, os, sys
sys.path[:0] = [sys.argv[1]]
import judging.python.runner
program, inputs, outputs = json.loads(sys.stdin.read())
os.environ["EXPECTED"] = json.dumps(outputs)
right = 0
for given, expected in zip(inputs, outputs):
    sys.stdin, printed = io.StringIO(given), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        exec(program, {"__name__": "__main__", "__file__": __file__ if "__file__" in globals() else ""})
    right += printed.getvalue().strip() == expected.strip()
sys.__stdout__.write(str(right == len(inputs)))
"""

BITING = [
    "keeps its input: an environment variable",
    "keeps its input: a module's attribute",
    "keeps its input: a patched print",
    "keeps its input: a patched builtin",
    "keeps its input: the runner's functions",
    "keeps its input: the zygote's state",
    "keeps its input: the seed of random",
    "keeps its input: its priority",
    "keeps its input: a resource limit",
    "keeps its input: the flags of a stream",
    "looks for the output: every object",
    "looks for the output: the frames above",
    "looks for the output: its arguments",
    "looks for the output: its command line",
    "looks for the output: its environment",
    "looks for the output: the main module",
    "program: counts its runs",
]


@pytest.mark.parametrize("name", BITING)
def test_rows_bite(name):
    """In one interpreter for all inputs, which also holds the outputs, these rows pass."""
    row = next(row for row in corpus() if row.name == name)
    task = TASKS[row.task]
    job = json.dumps([row.completion, task["inputs"], task["outputs"]])
    command = [sys.executable, "-c", NAIVE, str(ROOT), *task["outputs"]]
    done = subprocess.run(command, input=job, capture_output=True, text=True)
    assert done.stdout == "True", done.stderr[-400:]


def test_the_benchmark_runs():
    command = [sys.executable, "benchmarks/bench_stdio.py", *"--inputs 2 --rounds 1 --limit 1 --workers 1".split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert [line.split(" | ")[:3] for line in done.stdout.splitlines()[-2:]] == [
        ["| sandbox", "2", "1"],
        ["| python", "2", "1"],
    ]


def test_there_are_enough_rows():
    rows = [row for row in corpus() if "inputs" in TASKS[row.task]]
    assert sum("pass" not in row.expected for row in rows) >= 120 and len(rows) >= 180
    assert TASKS["hidden"]["outputs"] == [SECRET]
    assert not any(SECRET in row.completion for row in rows)
