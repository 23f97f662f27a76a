"""Importing tasks from the formats of public data sets; all records here were written for these tests."""

import ast
import base64
import doctest
import gzip
import json
import pickle
import sys
import types
import zlib

import pytest
from conftest import ROOT, SHARED

sys.path.insert(0, str(ROOT / "data"))

import prepare_tasks
import task_formats
import task_tests
from prepare_tasks import Args
from task_formats import FORMATS, KEY, private_tests
from task_tests import MAX_TESTS, Unfit, check_harmless, check_of_calls, check_of_pytest

from common import InputError, parse_args, sha256
from judging.tasks import begins, check_task, read_tasks, stop_strings, truncate_at_stop
from overlap import asked_again

PLAIN = "its tests use more than plain computation"
STDIN = {"task_id": "a", "prompt": "", "canonical_solution": "print(1)", "entry_point": "", "inputs": [""],
         "outputs": ["1\n"]}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_held_out(monkeypatch):
    """Whether data/ has HumanEval must not matter."""
    monkeypatch.setattr(prepare_tasks, "HELD_OUT", ())


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def imported(tmp_path, form, records, **settings):
    """Import the records; return the tasks and the reasons with their counts."""
    source, output = write(tmp_path / "source.jsonl", records), tmp_path / "out.jsonl"
    prepare_tasks.main(Args(format=form, source=source, output=str(output), quiet=True, **settings))
    report = json.loads((tmp_path / "out_import.json").read_text())
    assert report["sha256"] == sha256(output) and report["taken"] == len(read_tasks(output))
    assert report["taken"] + sum(entry["count"] for entry in report["dropped"].values()) == len(records)
    assert report["read"] == len(records)
    return read_tasks(output), {reason: entry["count"] for reason, entry in report["dropped"].items()}


def why(form, record):
    """The reason for which the format drops this record."""
    with pytest.raises(Unfit) as error:
        FORMATS[form].read(record, "f.jsonl:1")
    return str(error.value)


# KodCode


def kod(number, name, solution, test, **more):
    info = {"function_name": name, "function_declaration": f"def {name}(n):", "parameter_list": "(n)", "docstring": ""}
    return {"style": "instruct", "subset": "Own", "question_id": f"Own_{number}_I", "question": f"Write {name}.",
            "solution": solution, "test": test, "test_info": [info], "gpt_pass_percentage": 1.0} | more  # fmt: skip


TWICE = "def twice(n):\n    return helper(n) * 2\n\ndef helper(n):\n    return n\n"
TWICE_TEST = """from solution import twice

def test_one():
    assert twice(1) == 2

def test_two():
    assert twice('a') == 'aa'
"""
ROOT_OF = """class Negative(ValueError):
    pass

def root_of(n):
    if n < 0:
        raise Negative('below zero')
    return n ** 0.5
"""
ROOT_OF_TEST = """import pytest
from math import sqrt
from pytest import approx as near
from solution import root_of as under_test, Negative

@pytest.mark.parametrize("number,root", [(4, 2), (9, 3), (2, pytest.approx(1.41421356))])
def test_cases(root, number):
    assert under_test(number) == root

def test_negative():
    with pytest.raises(ValueError, match="below"):
        under_test(-1)

def test_near():
    assert [under_test(2), 1] == near([sqrt(2), 1])
"""


def test_kodcode(tmp_path, sandbox):
    tasks, reasons = imported(tmp_path, "kodcode", [
        kod(1, "twice", TWICE, TWICE_TEST),
        kod(2, "root_of", ROOT_OF, ROOT_OF_TEST),
        kod(3, "twice", "def twice(n):\n    return n\n", TWICE_TEST),
        kod(4, "twice", TWICE, "from solution import twice\ndef test_it(tmp_path):\n    assert twice(1) == 2\n"),
        kod(5, "twice", TWICE, TWICE_TEST + "\ndef test_os():\n    import os\n    os.remove('x')\n"),
        kod(6, "twice", TWICE, "from solution import twice\ndef test_nothing():\n    pass\n"),
        kod(7, "twice", "def twice(n:\n", TWICE_TEST),
        kod(1, "twice", TWICE, TWICE_TEST),
    ])  # fmt: skip
    assert [task["task_id"] for task in tasks] == ["kodcode/Own_1_I", "kodcode/Own_2_I"]
    assert tasks[0]["prompt"] == '"""\nWrite twice.\n\ndef twice(n):\n"""\n' and tasks[0][KEY] == TWICE
    assert reasons == {
        "its solution ends in fail": 2,  # and a test that asks nothing
        "its tests need fixtures or decorators of pytest": 1,
        PLAIN: 1,
        "none of its solutions is Python 3": 1,
        "its task_id was already used": 1,
    }
    right = [sandbox.check(task, task[KEY]) for task in tasks]
    assert [(v.status, v.tests_passed, v.tests_total) for v in right] == [("pass", 2, 2), ("pass", 5, 5)]
    half = sandbox.check(tasks[0], "def twice(n):\n    return 2 if n == 1 else n\n")
    assert (half.status, half.tests_passed, half.tests_total) == ("fail", 1, 2)
    silent = sandbox.check(tasks[1], ROOT_OF.replace("raise Negative('below zero')", "return -1"))
    assert (silent.status, silent.tests_passed) == ("fail", 4) and "nothing was raised" in silent.reason
    other = sandbox.check(tasks[1], ROOT_OF.replace("below zero", "no"))
    assert (other.status, other.tests_passed) == ("fail", 4)
    for task in tasks:  # helpers follow the function
        assert truncate_at_stop(TWICE, stop_strings(task)) == TWICE


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("def test_it():\n    assert True\n", "its tests use nothing that the program defines"),
        ("def f():\n    return 1\ndef test_it():\n    assert f()\n", "its tests use nothing that the program defines"),
        ("from pytest import *\nfrom solution import f\ndef test_it():\n    assert f()\n", "a way that is not handled"),
        ("def test_it():\n    from solution import f\n    assert f()\n", "a way that is not handled"),
        ("from solution import f\nclass TestIt:\n    def test_it(self):\n        assert f()\n", "classes or async"),
        (TWICE_TEST + "class More:\n    def test_it(self):\n        assert twice(2) == 4\n", "classes or async"),
        (TWICE_TEST + "async def test_it():\n    assert twice(2) == 4\n", "classes or async"),
        ("from solution import f\nimport pytest\ndef test_it():\n    pytest.skip()\n", "need more of pytest"),
        ("from solution import f\ndef test_it(:\n", "its tests are not Python"),
        (
            "import pytest\n@pytest.mark.parametrize(5, [(1, 2)])\ndef test_it(a, b):\n    assert f()\n",
            "fixtures or deco",
        ),
        (
            "import pytest\n@pytest.mark.parametrize({[]: 1}, [1])\ndef test_it(a):\n    assert f()\n",
            "fixtures or deco",
        ),
        ("(" * 5000, "its tests are not Python"),
    ],
)
def test_kodcode_tests_that_are_no_use(tests, reason):
    assert reason in why("kodcode", kod(1, "other", "def f(): return 1\n", tests))


LISTS = """class Node:
    def __init__(self, value):
        self.value, self.next = value, None

class Chain:
    def __init__(self):
        self.head = None

    def push(self, value):
        node = Node(value)
        node.next, self.head = self.head, node

def has_circle(chain):
    return walk(chain, set())

def walk(chain, seen):
    node = chain.head
    while node and id(node) not in seen:
        seen.add(id(node))
        node = node.next
    return node is not None
"""
LISTS_TEST = """def circle():
    chain = Chain()
    chain.push(1)
    chain.push(2)
    chain.head.next.next = chain.head
    return chain

def test_a_circle():
    assert has_circle(circle()) == True

def test_none():
    assert has_circle(Chain()) == False

if __name__ == "__main__":
    import pytest
    pytest.main()
"""


@pytest.mark.parametrize("start", ["", "from solution import Node, Chain, has_circle\n", "from solution import *\n"])
@pytest.mark.parametrize("info", [None, "missing", []])
def test_kodcode_tests_were_run_where_the_program_s_names_are_known(start, info):
    record = kod(1, "has_circle", LISTS, start + LISTS_TEST, test_info=info)
    if info == "missing":
        del record["test_info"]
    (task,) = FORMATS["kodcode"].read(record, "f.jsonl:1")
    named = "class Node\nclass Chain\ndef has_circle" if "Node" in start else "class Chain\ndef has_circle"
    assert (task["entry_point"], task[KEY]) == ("has_circle", LISTS)
    assert task["prompt"] == f'"""\nWrite has_circle.\n\n{named}\n"""\n'
    assert "__main__" not in task["test"]


def test_kodcode_names_that_only_a_case_uses_and_names_that_tests_bind():
    tests = (
        "import pytest\n@pytest.mark.parametrize('n', [twice(1)])\n"
        "def test_it(n):\n    helper = n\n    assert helper == 2\n"
    )
    (task,) = FORMATS["kodcode"].read(kod(1, "other", TWICE, tests), "f.jsonl:1")
    assert task["entry_point"] == "twice" and "def helper" not in task["prompt"]
    both = "def test_it():\n    assert twice(1) == 2 * helper(1)\n"
    (task,) = FORMATS["kodcode"].read(kod(1, "twice", TWICE, both), "f.jsonl:1")
    assert task["entry_point"] == "twice"  # test_info says so; else it would be the last that is defined


def test_kodcode_programs_with_classes(tmp_path, sandbox):
    (task,), _ = imported(tmp_path, "kodcode", [kod(1, "has_circle", LISTS, LISTS_TEST, test_info=None)])
    assert sandbox.check(task, LISTS.replace("is not None", "is None")).tests_passed == 0


def test_raises_may_be_given_the_call(tmp_path, sandbox):
    source = (
        "import pytest\nfrom solution import root_of\ndef test_it():\n"
        "    pytest.raises(ValueError, root_of, -1)\n    pytest.raises(ValueError, lambda: root_of(-1))\n"
    )
    (task,), _ = imported(tmp_path, "kodcode", [kod(1, "root_of", ROOT_OF, source)])
    verdict = sandbox.check(task, ROOT_OF.replace("raise Negative('below zero')", "return -1"))
    assert verdict.status == "fail" and "nothing was raised" in verdict.reason


def test_a_parametrized_test_is_one_test_a_case():
    source = "import pytest\n@pytest.mark.parametrize('n', [1, 2])\ndef test_it(n):\n    assert f(n)\n"
    test, names = check_of_pytest(source)
    assert test.endswith("def check(candidate):\n    assert holds(test_it, 1)\n    assert holds(test_it, 2)\n")
    assert names == [] and "parametrize" not in test
    with pytest.raises(Unfit, match="fixtures or decorators"):
        check_of_pytest(source.replace("[1, 2]", "range(2)"))


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "import numpy.lib.format",
        "from collections import abc, _sys",
        "from dataclasses import sys",
        "from . import x",
        "os.remove('x')",
        "random._os.system('x')",
        "typing.sys.modules",
        "sys.modules",
        "().__class__.__base__.__subclasses__()",
        "open('x', 'w')",
        "run = eval",
        "__builtins__",
        "getattr(f, 'x')",
        "operator.attrgetter('x')",
        "(x for x in ()).gi_frame",
        "match f:\n    case object(gi_frame=x):\n        pass",
        "np.load('x')",
        "typing.get_type_hints(f)",
        "import enum\nenum.bltns.open('x', 'w')",
        "from enum import bltns as names",
        "np.zeros(1).dump('x')",
        "@functools.singledispatch\ndef g(x):\n    pass\n@g.register\ndef _(x: 'run me'):\n    pass",
    ],
)
def test_tests_that_reach_out_are_dropped(source):
    with pytest.raises(Unfit, match=PLAIN):
        check_harmless(source)


def test_plain_tests_are_kept():
    check_harmless("import math, numpy as np\nfrom collections import Counter\ncode, token = 1, {'os': 2}\n"
                   "assert calendar(3) == code and f(_x) == sys.maxsize and np.allclose(f(1), math.pi)\n"
                   "assert np.array([1, 2]).sum() == 3 and User('a').email and line.queue and math.e\n"
                   "class A:\n    def __init__(self, x):\n        super().__init__()\n        self.x = x")  # fmt: skip


# AceCode


def ace(number, tests, *samples):
    inferences = [{"model_name": "own", "completion_id": str(n), "completion": text, "pass_rate": rate,
                   "test_results": []} for n, (text, rate) in enumerate(samples)]  # fmt: skip
    return {"id": f"own_{number}", "source": "own", "question": "Sum the list.", "test_cases": tests,
            "inferences": inferences, "context_messages": [[{"content": "Sum the list.", "role": "user"}]]}  # fmt: skip


def test_acecode(tmp_path, sandbox):
    tests = ["assert total([1, 2]) == 3", "assert total([]) == 0"]
    good, bad = (f"```python\ndef total(x):\n    return {body}\n```" for body in ("sum(x)", "3"))
    tasks, reasons = imported(tmp_path, "acecode", [
        ace(1, tests, (bad, 0.5), (f"Here:\n{good}\nDone.", 1.0)),
        ace(2, tests, (bad, 0.9), (good, 0.7)),  # the rate was wrong
        ace(3, tests, (bad, 0.5)),
        ace(4, tests, ("I cannot.", 0.0)),
        ace(5, tests),
        ace(6, [], (good, 1.0)),
        ace(7, ["assert total([]) == 0; x = 1"], (good, 1.0)),
        ace(8, ["__import__('os').system('x')"], (good, 1.0)),
        ace(9, ["assert open('x', 'w')"], (good, 1.0)),
        ace(10, ["assert True"], (good, 1.0)),
    ])  # fmt: skip
    assert [task["task_id"] for task in tasks] == ["acecode/own_1", "acecode/own_2"]
    assert tasks[0]["prompt"] == '"""\nSum the list.\n\nassert total([1, 2]) == 3\n"""\n'
    assert {task[KEY] for task in tasks} == {"def total(x):\n    return sum(x)\n"}
    assert sandbox.check(tasks[0], "def total(x):\n    return 3\n").tests_passed == 1
    assert reasons == {
        "its tests are not a list of asserts": 2,
        "its solution ends in fail": 1,
        "none of its solutions is Python 3": 1,
        "it has no solution": 1,
        "it has no tests": 1,
        PLAIN: 1,
        "an empty program passes its tests": 1,
    }


# TACO and APPS


def contest(number, solutions, tests, starter="", **more):
    packed = tests if isinstance(tests, str) else json.dumps(tests)
    solutions = solutions if isinstance(solutions, str) else json.dumps(solutions)
    return {"problem_id": number, "question": "Double it.", "solutions": solutions, "input_output": packed,
            "difficulty": "EASY", "url": "", "starter_code": starter} | more  # fmt: skip


DOUBLE = "def double(a, b):\n    return [2 * a, b]\n"
CALLS = {"fn_name": "double", "inputs": [[1, "x"], [2, None]], "outputs": [[[2, "x"]], [[4, None]]]}
LEET = "class Solution:\n    def pairs(self, nums: List[int]) -> List[int]:\n        return (*nums, len(nums))\n"
PAIRS = {"fn_name": "pairs", "inputs": [[[1, 2]]], "outputs": [[[[1, 2]]]]}
LEET_CALLS = {"fn_name": "pairs", "inputs": [[[1, 2]], [[]]], "outputs": [[1, 2, 2], [0]]}


RELYING = {
    "heappush and inf": "    heap = [inf]\n    heappush(heap, a)\n    return [2 * heappop(heap), b]\n",
    "gcd, reduce, product": "    return [2 * reduce(gcd, [a]), [x for x, in product([b])][0]]\n",
    "pow of three": "    return [2 * pow(a, 1, 1000), b]\n",  # math's takes two
    "modules": "    random.seed(1), re.match('', ''), bisect.bisect([], 1), copy.copy([])\n    return [a + a, b]\n",
    "compile": "    return [2 * eval(compile(str(a), '', 'eval')), b]\n",  # re has one too
    "types": "    x: Optional[List[int]] = [2 * a, b]\n    return x\n",
    "deep": "    def down(n):\n        return n and down(n - 1)\n    down(20_000)\n    return [2 * a, b]\n",
    "APPS' own": "    return [2 * fractions.Fraction(a).numerator, b]\n",
    "mean": "    return [2 * round(mean([a])), b]\n",
}


def test_functions_may_rely_on_what_the_official_evaluations_import(sandbox):
    task, *_ = FORMATS["taco"].read(contest(1, [DOUBLE], CALLS), "f.jsonl:1")
    starter = "class Solution:\n    def double(self, a, b):\n        "
    method = "class Solution:\n    def double(self, a, b):\n        return [2 * heapq.nlargest(1, [a])[0], b]\n"
    tests = [{"input": '2\n"x"', "output": '[4, "x"]', "testtype": "functional"}]
    (of_class,) = FORMATS["livecodebench"].read(live("q", tests, "[]", starter, '{"func_name": "double"}'), "f.jsonl:1")
    verdicts = {name: sandbox.check(task, "def double(a, b):\n" + body).reason for name, body in RELYING.items()}
    verdicts["class"] = sandbox.check(of_class, method).reason
    assert not any(verdicts.values()), verdicts
    assert sandbox.check(task, "").status == "no_entry_point"


def test_tuples_in_what_is_returned():
    """As the data sets' own evaluations have it: APPS and TACO also look inside of a list, LiveCodeBench does not."""
    task, *_ = FORMATS["apps"].read(contest(7, ["def pairs(x):\n    pass\n"], PAIRS), "f.jsonl:1")
    tests = [{"input": "[1, 2]", "output": "[[1, 2]]", "testtype": "functional"}]
    outer = FORMATS["livecodebench"].read(live("q", tests, "[]", "", '{"func_name": "pairs"}'), "f.jsonl:1")[0]
    for test, value, right in (
        (task["test"], [(1, 2)], True),
        (task["test"], ((1, 2),), True),
        (task["test"], [[1, 2]], True),
        (task["test"], [((1, 2),)], False),
        (task["test"], 5, False),
        (outer["test"], [(1, 2)], False),
        (outer["test"], ([1, 2],), True),
    ):
        names = {}
        exec(test, names)
        try:
            names["check"](lambda _, value=value: value)
        except AssertionError:
            assert not right, value
        else:
            assert right, value


@pytest.mark.parametrize("form", ["taco", "apps"])
def test_function_calls_of_taco_and_apps(tmp_path, sandbox, form):
    records = [
        contest(1, ["print 2", "def double(a, b):\n    return a\n", DOUBLE], CALLS, "def double(a, b):\n\t"),
        contest(2, [LEET], LEET_CALLS, "class Solution:\n    def pairs(self, nums: List[int]) -> List[int]:\n        "),
        contest(3, ["def double(a, b):\n    return 1\n"], CALLS),
        contest(4, "", CALLS),
        contest(5, [DOUBLE], CALLS | {"outputs": [[2]]}),
        contest(6, [DOUBLE], CALLS | {"inputs": [1, 2]}),
        contest(7, [DOUBLE], CALLS | {"fn_name": "double(1) or exit"}),
        contest(8, [DOUBLE], {"inputs": [], "outputs": []}),
        contest(9, [DOUBLE], ""),
        contest(10, [DOUBLE], "print('code in place of data')"),
        contest(11, "print('code in place of data')", CALLS),
        contest(12, [DOUBLE], '{"inputs": [[' + "9" * 5000 + ']], "outputs": [1], "fn_name": "double"}'),
        contest(13, [DOUBLE], '{"inputs": [[NaN, 1]], "outputs": [1], "fn_name": "double"}'),
        contest(14, [DOUBLE], CALLS | {"inputs": [["x" * 10_000_000, 1]] * 2}),
        contest(15, [DOUBLE], CALLS, question="x" * 10_000_000),
        contest(16, ["#" + "x" * 10_000_000], CALLS),
        contest(17, [DOUBLE], "[" * 100_000),
    ]  # fmt: skip
    tasks, reasons = imported(tmp_path, form, records if form == "taco" else records[:3])
    assert [task["task_id"] for task in tasks] == [f"{form}/1", f"{form}/2"]
    assert tasks[0][KEY] == DOUBLE and tasks[0]["entry_point"] == "double"
    assert "assert listed(candidate(2, None)) == [4, None]\n" in tasks[0]["test"]
    assert tasks[1]["entry_point"] == "Solution" and "candidate().pairs([1, 2])" in tasks[1]["test"]
    assert tasks[1]["prompt"].startswith('"""\nDouble it.\n\nclass Solution:\n')
    whole = "class Node:\n    pass\n\n\n" + LEET  # the model may write classes
    assert truncate_at_stop("\n" + whole, stop_strings(tasks[1])) == "\n" + whole
    first = sandbox.check(tasks[0], "def double(a, b):\n    return 2, b\n")  # a tuple counts as a list
    assert (first.status, first.tests_passed, first.tests_total) == ("fail", 1, 2)
    assert sandbox.check(tasks[1], LEET.replace("(*nums, len(nums))", "[0]")).tests_passed == 1
    assert sandbox.check(tasks[1], LEET.replace("pairs", "other")).status == "fail"
    assert form == "apps" or reasons == {
        "its solution ends in fail": 1,
        "it has no solution": 1,
        "it has not as many inputs as outputs": 1,
        "its inputs are not lists of arguments": 1,
        "its function has no usable name": 1,
        "it has no tests": 2,
        "its input_output is not JSON": 3,
        "its solutions is not JSON": 1,
        "a value in its tests has no literal": 1,
        "its tests are too long": 1,
        "its question is too long": 1,
        "none of its solutions is Python 3": 1,
    }


ECHO = "print(int(input()) * 2)\n"


def test_programs_of_taco(tmp_path):
    tasks, reasons = imported(tmp_path, "taco", [
        contest(1, [ECHO], {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "4\n"]}),
        contest(2, ["print(2)\n", ECHO], {"inputs": [["1"], ["5"]], "outputs": [["2"], ["10"]]}),
        contest(3, ["print(2)\n"], {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "4\n"]}),
        contest(4, [ECHO], {"inputs": ["1\n"], "outputs": [2]}),
        contest(5, [ECHO], {"inputs": ["1\n"], "outputs": [" \n"]}),
    ])  # fmt: skip
    assert [task["task_id"] for task in tasks] == ["taco/1", "taco/2"]
    assert (tasks[1]["inputs"], tasks[1]["outputs"], tasks[1][KEY]) == (["1\n", "5\n"], ["2\n", "10\n"], ECHO)
    assert tasks[0]["prompt"] == '"""\nDouble it.\n"""\n' and "test" not in tasks[0]
    assert reasons == {
        "its solution ends in fail": 1,
        "its inputs or outputs are not text": 1,
        "it is no task that can be judged": 1,
    }


def test_what_a_program_reads_and_prints():
    """As `test_programs_of_taco`, without the judge."""
    tests = {"inputs": [["1", "2"], "3"], "outputs": ["4\n", "5\n"]}
    (task,) = FORMATS["apps"].read(contest(7, [ECHO], tests), "f.jsonl:1")
    assert task == {"task_id": "apps/7", "prompt": '"""\nDouble it.\n"""\n', "entry_point": "", KEY: ECHO,
                    "inputs": ["1\n2\n", "3"], "outputs": ["4\n", "5\n"]}  # fmt: skip
    assert why("apps", contest(7, [ECHO], tests | {"inputs": ["1"]})) == "it has not as many inputs as outputs"
    long = {"inputs": ["x" * 10_000_000] * 5, "outputs": ["1"] * 5}  # the judge takes 48 MiB
    assert why("apps", contest(7, [ECHO], tests | {"inputs": ["x" * 30_000_000] * 2})) == "its tests are too long"
    (task,) = FORMATS["apps"].read(contest(7, [ECHO], long), "f.jsonl:1")
    check_task(task, "")


def test_calls_are_kept_from_the_first_on_while_they_fit():
    some = {"fn_name": "size", "inputs": [["x" * 300_000]] * 5, "outputs": [300_000] * 5}
    (task,) = FORMATS["apps"].read(contest(7, ["def size(x):\n    return len(x)\n"], some), "f.jsonl:1")
    assert (task["test"].count("assert"), task["tests_left_out"]) == (3, 2) and len(task["test"]) <= MAX_TESTS
    first = some | {"inputs": [["x"], *some["inputs"][1:]]}
    (task,) = FORMATS["apps"].read(contest(7, ["def size(x):\n    return len(x)\n"], first), "f.jsonl:1")
    assert (task["test"].count("assert"), task["tests_left_out"]) == (4, 1)
    task, *_ = FORMATS["apps"].read(contest(7, [DOUBLE], CALLS), "f.jsonl:1")
    assert "tests_left_out" not in task


def test_the_import_says_which_tasks_lost_tests(tmp_path, capsys):
    many = {"fn_name": "size", "inputs": [["x" * 600_000]] * 2, "outputs": [600_000] * 2}
    right = "def size(x):\n    return len(x)\n"
    imported(tmp_path, "taco", [contest(1, [right], many), contest(2, [DOUBLE], CALLS)])
    assert "       1  of them with the first of their tests only" in capsys.readouterr().out
    assert json.loads((tmp_path / "out_import.json").read_text())["tests_left_out"] == {"tasks": 1, "tests": 1}


# LiveCodeBench


def live(number, public, private, starter="", metadata="{}", **more):
    return {"question_title": "Own", "question_content": "Double it.", "platform": "own", "question_id": number,
            "contest_id": "1", "contest_date": "2026-01-01T00:00:00", "starter_code": starter, "difficulty": "easy",
            "public_test_cases": json.dumps(public), "private_test_cases": private,
            "metadata": metadata} | more  # fmt: skip


def packed(value, protocol=4):
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


class Bomb:
    def __reduce__(self):
        return (open, ("bomb.txt", "w"))


FUNCTIONAL = [{"input": '[1, 2]\n"a"', "output": '[1, 2, "a"]', "testtype": "functional"}]
PRINTED = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]
STARTER = "class Solution:\n    def join(self, nums: List[int], more: str) -> list:\n        "


def test_livecodebench(tmp_path, sandbox, capsys, monkeypatch):
    source = [
        live("q1", FUNCTIONAL, packed(json.dumps(FUNCTIONAL)), STARTER, '{"func_name": "join"}'),
        live("q2", FUNCTIONAL, json.dumps(FUNCTIONAL), STARTER, '{"func_name": "join"}'),
        live("q3", FUNCTIONAL, "[]", STARTER),
        live("q4", FUNCTIONAL, json.dumps(PRINTED), STARTER, '{"func_name": "join"}'),
        live("q5", FUNCTIONAL, packed(Bomb()), STARTER, '{"func_name": "join"}'),
        live(
            "q6", [{"input": "open(1)", "output": "1", "testtype": "functional"}], "[]", STARTER, '{"func_name": "f"}'
        ),
        live("q7", [{"input": 1, "output": "1", "testtype": "functional"}], "[]"),
    ]
    tasks, reasons = imported(tmp_path, "livecodebench", source)
    assert [task["task_id"] for task in tasks] == ["livecodebench/q1", "livecodebench/q2"]
    assert tasks[0]["test"] == tasks[1]["test"] and tasks[0]["test"].count("candidate().join([1, 2], 'a')") == 2
    assert tasks[0][KEY] == "" and "this format has no solutions to run" in capsys.readouterr().out
    right = "class Solution:\n    def join(self, nums: List[int], more: str):\n        return (*nums, more)\n"
    assert [sandbox.check(tasks[0], code).status for code in (right, right.replace("more)\n", "1)\n"))] == [
        "pass",
        "fail",
    ]
    assert reasons == {
        "its function has no usable name": 1,
        "its tests are of several kinds": 1,
        "its private tests are a pickle of more than text": 1,
        "its tests are not JSON": 1,
        "its tests have no text input and output": 1,
    }
    assert not (ROOT / "bomb.txt").exists()


@pytest.mark.parametrize("protocol", range(1, 6))
def test_private_tests_are_read_without_unpickling(protocol, monkeypatch):
    monkeypatch.setattr(pickle, "loads", None)
    assert private_tests(packed(json.dumps(PRINTED), protocol)) == PRINTED
    assert private_tests(json.dumps(PRINTED)) == PRINTED


@pytest.mark.parametrize(
    "private",
    [
        packed(Bomb()),
        packed([json.dumps(PRINTED)]),
        packed(json.dumps(PRINTED).encode()),
        packed("no JSON"),
        packed("{}"),
        packed(json.dumps(PRINTED))[:40],
        base64.b64encode(b"no zlib").decode(),
        base64.b64encode(zlib.compress(b"no pickle")).decode(),
        base64.b64encode(zlib.compress(b"\x80\x04]\x94(h\x00e.")).decode(),
        base64.b64encode(zlib.compress(b"c" + b"os\nsystem\n(S'x'\ntR.")).decode(),
        base64.b64encode(zlib.compress(b"\x80\x04\x8d" + b"\xff" * 7 + b"\x00x.")).decode(),
        "not base64!",
        "\ud800",
        "",
        "[",
    ],
)
def test_hostile_private_tests(private):
    with pytest.raises(Unfit):
        private_tests(private)


def test_a_zlib_bomb_is_not_inflated():
    bomb = zlib.compressobj(9)
    raw = b"".join(bomb.compress(b"\0" * 2**20) for _ in range(128)) + bomb.flush()
    with pytest.raises(Unfit, match="too long"):
        private_tests(base64.b64encode(raw).decode())


def test_private_tests_may_be_as_long_as_the_judge_accepts():
    tests = [{"input": "1" * 10_000_000, "output": "2", "testtype": "stdin"}] * 4
    (task,) = FORMATS["livecodebench"].read(live("q1", [], packed(json.dumps(tests))), "f.jsonl:1")
    check_task(task, "")
    assert len(task["inputs"]) == 4


def test_programs_of_livecodebench(tmp_path):
    tasks, _ = imported(tmp_path, "livecodebench", [live("q1", PRINTED, packed(json.dumps(PRINTED)))])
    assert (tasks[0]["inputs"], tasks[0]["outputs"]) == (["1\n"] * 2, ["2\n"] * 2)


# the importer


@pytest.mark.parametrize(
    ("form", "record", "lacks"),
    [
        ("kodcode", kod(1, "twice", TWICE, TWICE_TEST), ("question", "solution", "test", "question_id")),
        ("acecode", ace(1, ["assert f()"]), ("id", "question", "test_cases", "inferences")),
        ("taco", contest(1, [DOUBLE], CALLS), ("question", "solutions", "input_output")),
        ("apps", contest(1, [DOUBLE], CALLS), ("problem_id", "question", "solutions", "input_output")),
        ("livecodebench", live("q", FUNCTIONAL, "[]"), ("question_content", "question_id", "starter_code",
                                                       "public_test_cases", "private_test_cases")),
        ("humaneval", dict.fromkeys(("task_id", "prompt", KEY, "test"), "f") | {"entry_point": "f"},
         ("task_id", "prompt", KEY, "test", "entry_point")),
        ("mbpp", {"task_id": 11, "text": "", "code": "", "test_list": ["assert f()"]}, ("task_id", "text", "code")),
    ],
)  # fmt: skip
def test_a_missing_field_names_its_line(tmp_path, form, record, lacks):
    for name in lacks:
        short = {key: value for key, value in record.items() if key != name}
        with pytest.raises(InputError) as error:
            FORMATS[form].read(short, "f.jsonl:3")
        assert str(error.value).startswith("f.jsonl:3:") and name in str(error.value)


def test_apps_files_name_a_number_id():
    record = contest(7, [DOUBLE], CALLS)
    record = {"id": record.pop("problem_id")} | record
    assert FORMATS["apps"].read(record, "f.jsonl:1")[0]["task_id"] == "apps/7"


GOOD = kod(1, "twice", TWICE, TWICE_TEST)


def test_bad_records_end_the_import_unless_they_may_be_dropped(tmp_path):
    lines = [json.dumps(GOOD).encode(), b'{"question": 1}', b"\xff\xfe", b"{", b"[1]", b""]
    (tmp_path / "s.jsonl").write_bytes(b"\n".join(lines))
    args = {"format": "kodcode", "source": str(tmp_path / "s.jsonl"), "output": str(tmp_path / "o.jsonl")}
    for number, says in ((2, "no text 'question'"), (3, "is not UTF-8 text"), (4, "not JSON"), (5, "not list")):
        (tmp_path / "s.jsonl").write_bytes(b"\n".join([*[b""] * (number - 1), lines[number - 1]]))
        with pytest.raises(InputError) as error:
            prepare_tasks.main(Args(**args))
        assert f"s.jsonl:{number}: " in str(error.value) and says in str(error.value)
        assert "--skip_bad" in str(error.value) and not (tmp_path / "o.jsonl").exists()
    (tmp_path / "s.jsonl").write_bytes(b"\n".join(lines))
    prepare_tasks.main(Args(**args, skip_bad=True, quiet=True))
    assert len(read_tasks(tmp_path / "o.jsonl")) == 1
    dropped = json.loads((tmp_path / "o_import.json").read_text())["dropped"]["it is not a record of this format"]
    assert dropped["count"] == 4 and "s.jsonl:2: record has no text 'question'" in dropped["first"][0]


def test_a_record_that_python_cannot_read_does_not_end_the_import(tmp_path):
    endless = "from solution import twice\ndef test_it():\n    assert twice(1) == " + " + ".join(["1"] * 2000) + "\n"
    nowhere = TWICE_TEST + "return\n"
    records = [GOOD, *(kod(n, "twice", TWICE, test) for n, test in enumerate((endless, nowhere), start=2))]
    tasks, reasons = imported(tmp_path, "kodcode", records)
    assert len(tasks) == 1 and reasons.pop("its tests are not handled") == 1 and sum(reasons.values()) == 1
    entry = json.loads((tmp_path / "out_import.json").read_text())["dropped"]["its tests are not handled"]
    assert entry["first"][0].startswith(f"{tmp_path}/source.jsonl:2: RecursionError: ")


def test_our_own_errors_are_not_taken_for_odd_tests(tmp_path, monkeypatch):
    def broken(record, where):
        raise KeyError("ours")

    monkeypatch.setitem(FORMATS, "kodcode", FORMATS["kodcode"]._replace(read=broken))
    with pytest.raises(KeyError, match="ours"):
        imported(tmp_path, "kodcode", [GOOD])


def test_files_of_every_kind(tmp_path):
    records = [kod(n, "twice", TWICE, TWICE_TEST) for n in range(3)]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "s.jsonl").write_text("\ufeff" + text)
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "s.json").write_text(json.dumps(records))
    for name in ("s.jsonl", "s.jsonl.gz", "s.json"):
        assert first_two(tmp_path / name) == ["kodcode/Own_0_I", "kodcode/Own_1_I"], name


def first_two(path):
    args = Args(format="kodcode", source=str(path), output="o.jsonl", limit=2)
    return [tasks[0]["task_id"] for tasks in prepare_tasks.candidates(args, prepare_tasks.Dropped())]


@pytest.mark.slow  # to import datasets takes seconds
def test_parquet(tmp_path):
    import datasets

    records = [kod(n, "twice", TWICE, TWICE_TEST) for n in range(3)]
    datasets.Dataset.from_list(records).to_parquet(str(tmp_path / "s.parquet"))
    assert first_two(tmp_path / "s.parquet") == ["kodcode/Own_0_I", "kodcode/Own_1_I"]
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    (tmp_path / "s.parquet").rename(tmp_path / "train-0[1].parquet")
    datasets.Dataset.from_list(records[:1]).to_parquet(str(tmp_path / "train-00.parquet"))
    assert first_two(tmp_path / "train-0[1].parquet") == ["kodcode/Own_0_I", "kodcode/Own_1_I"]
    assert len(list(prepare_tasks.records(str(tmp_path / "train-*.parquet"), "", None, ""))) == 4
    with pytest.raises(InputError, match="bad.parquet: cannot be read as Parquet"):
        first_two(tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("no.jsonl", None, "No such file"),
        ("no.json", None, "No such file"),
        ("no.parquet", None, "no such file"),
        ("bad.jsonl.gz", b"no gzip", "gzip"),
        ("bad.csv", b"a,b", "want a .jsonl, .json or .parquet file"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path, name, content, says):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        prepare_tasks.main(Args(format="taco", source=str(tmp_path / name), output=str(tmp_path / "o.jsonl")))


def test_a_data_set_on_the_hub(tmp_path, monkeypatch):
    asked = []

    def load_dataset(*name):
        asked.append(name)
        return {"train": [GOOD], "use_with_caution": [kod(2, "twice", TWICE, TWICE_TEST)]}

    def found(**settings):
        args = Args(format="kodcode", output="o.jsonl", **settings)
        return [tasks[0]["task_id"][-3] for tasks in prepare_tasks.candidates(args, prepare_tasks.Dropped())]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert (found(), found(split="train"), found(source="own/copy")) == (["1", "2"], ["1"], ["1", "2"])
    assert asked == [("KodCode/KodCode-V1", None)] * 2 + [("own/copy", None)]
    with pytest.raises(InputError, match="--split x: KodCode/KodCode-V1 has train, use_with_caution"):
        found(split="x")
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=None))
    with pytest.raises(InputError, match="own/copy cannot be loaded from the hub .*; give a local copy with --source"):
        found(source="own/copy")


def test_tasks_that_overlap_with_held_out_ones(tmp_path, monkeypatch, capsys):
    held = {"task_id": "HumanEval/0", "prompt": "def other(n):\n", KEY: "    return 1\n", "test": "def check(f): pass",
            "entry_point": "other"}  # fmt: skip
    asked = {"task_id": "Mbpp/12", "prompt": '"""\nWrite a function to count the even digits of n.\nassert g(1)\n"""\n',
             KEY: "def g(n):\n    return n\n", "test_list": ["assert g(1)"], "test_setup_code": ""}  # fmt: skip
    twin = {"task_id": "Mbpp/11", "prompt": '"""\nWrite.\nassert f(1)\n"""\n', KEY: TWICE.replace("twice", "f"),
            "test_list": ["assert f(1)"], "test_setup_code": ""}  # fmt: skip
    for name, tasks in (("humaneval_all.jsonl", [held]), ("mbpp_test.jsonl", [twin, asked])):
        write(tmp_path / name, tasks)
    monkeypatch.setattr(prepare_tasks, "HELD_OUT", ("humaneval_all.jsonl", "humaneval_test.jsonl", "mbpp_test.jsonl"))
    monkeypatch.setattr(prepare_tasks, "__file__", str(tmp_path / "prepare_tasks.py"))
    records = [
        kod(1, "f", TWICE.replace("twice", "f"), TWICE_TEST.replace("twice", "f")),
        kod(2, "root_of", ROOT_OF, ROOT_OF_TEST),
        kod(3, "root_of", ROOT_OF, ROOT_OF_TEST, question="Given n, write a function to count the even digits of N!"),
        kod(4, "root_of", ROOT_OF, ROOT_OF_TEST, question="Write a function to count the odd digits of n."),
    ]
    tasks, reasons = imported(tmp_path, "kodcode", records)
    assert [task["task_id"] for task in tasks] == ["kodcode/Own_2_I", "kodcode/Own_4_I"]
    assert reasons == {"it overlaps with a held-out task": 2}
    said = "not compared with humaneval_test.jsonl, which data/ does not have"
    assert f"overlap: {said}\n" in capsys.readouterr().out
    report = json.loads((tmp_path / "out_import.json").read_text())
    assert (report["overlap"], report["keep_overlap"]) == (said, False)
    assert report["held_out"] == {name: sha256(tmp_path / name) for name in ("humaneval_all.jsonl", "mbpp_test.jsonl")}
    tasks, reasons = imported(tmp_path, "kodcode", records, keep_overlap=True)
    assert (len(tasks), reasons) == (4, {})
    report = json.loads((tmp_path / "out_import.json").read_text())
    assert (report["overlap"], report["keep_overlap"]) == ("not checked, because of --keep_overlap", True)
    assert report["held_out"] == {}


def test_an_import_that_compared_with_nothing_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare_tasks, "HELD_OUT", ("humaneval_all.jsonl", "mbpp_test.jsonl"))
    monkeypatch.setattr(prepare_tasks, "__file__", str(tmp_path / "prepare_tasks.py"))
    imported(tmp_path, "kodcode", [GOOD], time_limit=4.0)
    report = json.loads((tmp_path / "out_import.json").read_text())
    assert report["overlap"].startswith("NOT CHECKED, because data/ has none of humaneval_all.jsonl, mbpp_test.jsonl")
    assert f"overlap: {report['overlap']}\n" in capsys.readouterr().out
    judge = {"time_limit": 4.0, "total_limit": 30.0, "compare": "lines", "tolerance": 0.0, "packages": "numpy"}
    assert report["held_out"] == {} and judge.items() <= report["judge"].items()


def test_an_import_that_leaves_nothing_replaces_nothing(tmp_path):
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(InputError, match="no task is left"):
        imported(tmp_path, "kodcode", [kod(1, "twice", "x = 1\n", TWICE_TEST)])
    assert (tmp_path / "out.jsonl").read_text() == "precious" and not (tmp_path / "out_import.json").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"output": "o.json"}, "must end in .jsonl"),
        ({"source": "o.jsonl"}, "is the source itself"),
        ({"limit": -1}, "--limit -1"),
        ({"time_limit": 0.0}, "--time_limit 0.0"),
    ],
)
def test_bad_arguments(settings, says):
    with pytest.raises(InputError, match=says):
        prepare_tasks.main(Args(**{"format": "taco", "output": "o.jsonl"} | settings))


def test_lone_surrogates_do_not_stop_an_import(tmp_path):
    records = [GOOD, kod(2, "twice", "def twice(n):\n    return '\ud800'\n", TWICE_TEST)]
    tasks, reasons = imported(tmp_path, "kodcode", records)
    assert len(tasks) == 1 and len(reasons) == 1


def test_the_judge_s_own_words_are_kept(tmp_path):
    imported(tmp_path, "kodcode", [GOOD, kod(2, "twice", "def twice(n):\n    return n\n", TWICE_TEST)])
    (entry,) = json.loads((tmp_path / "out_import.json").read_text())["dropped"].values()
    assert entry["first"][0].startswith("kodcode/Own_2_I: ") and "twice(1) == 2" in entry["first"][0]


def test_a_prompt_is_one_docstring_whatever_the_question_has_in_it():
    for question in ('a """quote"""', "\\alpha \\", 'ends in "', "nul\0l", "def f():\n    '''x'''", "\r\n\rx"):
        prompt = task_formats.docstring(question, "def f():")
        (node,) = ast.parse(prompt).body
        assert prompt.startswith(('"""\n', 'r"""\n')) and node.value.value.strip().endswith("def f():")
        assert not begins({"prompt": prompt, "entry_point": "f"})
        assert ast.parse(prompt + "def f():\n    return 1\n").body[1].name == "f"


def test_the_examples_in_the_docstrings():
    assert [doctest.testmod(module).failed for module in (task_formats, task_tests)] == [0, 0]


def test_calls_with_one_name_for_all():
    assert "listed" not in check_of_calls([[1]], [1])[0]
    with pytest.raises(ValueError):
        check_of_calls([[1]], [])


# the benchmarks, through the importer


def test_humaneval_s_references_all_pass(tmp_path, humaneval):
    tasks, reasons = imported(tmp_path, "humaneval", humaneval, keep_overlap=True, time_limit=30.0)
    assert (tasks, reasons) == (humaneval, {})


@pytest.mark.slow
def test_mbpp_s_references_pass_but_for_a_slow_one(tmp_path):
    path = SHARED / "mbpp.jsonl.gz"
    if not path.is_file():
        pytest.skip("MBPP is not at hand (../shared/data/mbpp.jsonl.gz)")
    records = [json.loads(line) for line in gzip.open(path, "rt")]
    tasks, reasons = imported(tmp_path, "mbpp", records, keep_overlap=True, time_limit=20.0)
    lost = {f"Mbpp/{record['task_id']}" for record in records} - {task["task_id"] for task in tasks}
    assert lost <= {"Mbpp/123"} and reasons.keys() <= {"its solution ends in timeout"}  # it searches for seconds


def test_every_question_of_humaneval_is_known_again(humaneval):
    copies = []
    for task in humaneval:  # the words before the first example, in a question of another form
        said = task["prompt"].replace("'''", '"""').split('"""')[-2].partition(">>>")[0]
        copies.append({"task_id": f"copy of {task['task_id']}", "prompt": task_formats.docstring(said, "def g(a):")})
    assert [name for name, _ in asked_again(humaneval, copies)] == [copy["task_id"] for copy in copies]
    assert asked_again(humaneval, read_tasks("data/pocket_train.jsonl")) == []


def test_the_help_says_what_a_source_is(capsys):
    with pytest.raises(SystemExit):
        parse_args(Args, ["--help"])
    assert "or a hub name" in capsys.readouterr().out
