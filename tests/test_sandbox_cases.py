"""What a second red team found: each case stands for a kind, and gets the verdict that one interpreter would give."""

import json

import pytest
from conftest import ROOT

from judging.pool import Sandbox

RIGHT = "    return 2 * x\n"
PROMPT = 'def f(x):\n    """Does it."""\n'


@pytest.fixture(scope="module")
def box():
    with Sandbox(time_limit=5.0, num_workers=1) as pool:
        yield pool


def check(box, test, completion, prompt=PROMPT, solution=""):
    lines = "".join(f"    {line}\n" for line in test.split("\n"))
    task = {"task_id": "case", "prompt": prompt, "entry_point": "f", "canonical_solution": solution,
            "test": f"def check(candidate):\n{lines}"}  # fmt: skip
    return box.check(task, "".join(f"{line}\n" for line in completion.split("\n")))


def listed(box, asserts, completion, solution=""):
    task = {"task_id": "listed", "prompt": '"""Do it."""\n', "test_list": asserts, "test_setup_code": "",
            "canonical_solution": solution}  # fmt: skip
    return box.check(task, completion)


KEEPS = """    return S({})
class S:
    def __init__(s, x): s.x = x
    def size(s): return len(s.x)
    def push(s, v): s.x.append(v)"""
# test; the body that passes in one interpreter; the body that does not
SHARING = {
    "rows": ("m = candidate(2)\nm[0][0] = 1\nassert m == [[1, 0], [0, 0]]",
             "    return [[0] * x for _ in range(x)]", "    return [[0] * x] * x"),
    "shallow copy": ("a = [[1]]\nb = candidate(a)\nb[0].append(2)\nassert a == [[1]]",
                     "    return [list(row) for row in x]", "    return list(x)"),
    "a buffer": ("a, b = candidate(1), candidate(2)\nassert a == [0] and b == [0, 1]",
                 "    return list(range(x))", "    B[:] = range(x)\n    return B\nB = []"),
    "not the same": ("assert candidate(1) is not candidate(1)", "    return [x]", "    return ONE\nONE = [1]"),
    "the same": ("assert candidate(1) is candidate(2)", "    return ONE\nclass K: pass\nONE = K()", "    return [x]"),
    "what is kept": ("xs = [1]\ns = candidate(xs)\nxs.append(5)\nassert s.size() == 1",
                     KEEPS.format("list(x)"), KEEPS.format("x")),
    "a change later": ("xs = [1]\ns = candidate(xs)\ns.push(5)\nassert xs == [1]",
                       KEEPS.format("list(x)"), KEEPS.format("x")),
    "a keyword argument": ("xs = [2, 1]\ncandidate(x=xs)\nassert xs == [1, 2]", "    x.sort()", "    return sorted(x)"),
    "before an exception": ("xs = [1]\ntry:\n    candidate(xs)\nexcept ValueError:\n    pass\nassert xs == []",
                            "    x.clear()\n    raise ValueError", "    raise ValueError"),
    "int to float": ("xs = [1, 2]\ncandidate(xs)\nassert all(type(v) is float for v in xs)",
                     "    x[:] = map(float, x)", "    x[:] = list(x)"),
    "a tuple": ("t = (1, 2)\nassert candidate(t) is t", "    return x", "    return tuple(list(x))"),
    "a nan": ("assert len(set(candidate(0))) == 2",
              "    return [float('nan'), float('nan')]", "    return [float('nan')] * 2"),
    "a cycle": ("r = candidate(1)\nassert r[0] is r", "    r = []\n    r.append(r)\n    return r", "    return [[x]]"),
    "many results": ("rs = [candidate(n) for n in range(3000)]\nassert all(r == [n] for n, r in enumerate(rs))",
                     "    return [x]", "    return [0]"),
}  # fmt: skip
VALUES = {
    "surrogates": ("assert candidate(0) == '\\ud83d\\ude00'",
                   "    return '\\ud83d' + '\\ude00'", "    return '\\U0001f600'"),
    "np.bool_": ("assert candidate(0) is True", "    return True", "    import numpy\n    return numpy.bool_(True)"),
    "a plain dict": ("assert type(candidate('ab')) is dict",
                     "    return {c: 1 for c in x}", "    import collections\n    return collections.Counter(x)"),
    "a counter": ("assert candidate('aab').most_common(1) == [('a', 2)] and candidate('a')['z'] == 0",
                  "    import collections\n    return collections.Counter(x)", "    return {c: x.count(c) for c in x}"),
    "a default": ("d = candidate(0)\nd['new'].append(1)\nassert d == {'new': [1]}",
                  "    import collections\n    return collections.defaultdict(list)", "    return {}"),
    "an order": ("from collections import OrderedDict\nassert candidate(0) == OrderedDict(b=1, a=2)",
                 "    from collections import OrderedDict\n    return OrderedDict(b=1, a=2)",
                 "    from collections import OrderedDict\n    return OrderedDict(a=2, b=1)"),
    "names": ("p = candidate(3)\nassert p.x == 3 and p == (3, 4)",
              "    return P(x, 4)\nimport collections\nP = collections.namedtuple('P', 'x y')", "    return (x, 4)"),
    "a fraction": ("from fractions import Fraction\nassert candidate(3) == Fraction(1, 3)",
                   "    from fractions import Fraction\n    return Fraction(1, x)", "    return 1 / x"),
    "a set's order": ("assert candidate({12, 13, 14, 15, 16}) == (16, 12, 13, 14, 15)",
                      "    return tuple(x)", "    return tuple(sorted(x))"),
    "a library's exception": ("import json\ntry:\n    candidate('{')\nexcept json.JSONDecodeError as e:\n"
                              "    assert e.pos == 1 and e.doc == '{'\nelse:\n    assert False",
                              "    import json\n    return json.loads(x)", "    raise ValueError('no')"),
    "errno": ("try:\n    candidate(5)\nexcept OSError as e:\n    assert e.errno == 2\nelse:\n    assert False",
              "    raise OSError(2, 'no')", "    raise OSError('no')"),
    "a cause": ("try:\n    candidate(0)\nexcept ValueError as e:\n    assert type(e.__cause__) is ZeroDivisionError\n"
                "else:\n    assert False",
                "    try:\n        return 1 / x\n    except ZeroDivisionError as e:\n        raise ValueError from e",
                "    raise ValueError"),
    "a class by name only": ("try:\n    candidate('a')\nexcept ValueError:\n    pass\nelse:\n    assert False",
                             "    raise ValueError", "    raise type('ValueError', (Exception,), {})()"),
    "callable": ("assert callable(candidate(3))", "    return lambda: x", "    return {}.keys()"),
    "an iterator": ("from collections.abc import Iterator\nassert isinstance(candidate([1]), Iterator)",
                    "    return iter(x)", "    return {}.values()"),
    "a length": ("assert not hasattr(candidate([1]), '__len__')", "    return iter(x)", "    return {1: 2}.keys()"),
    "an attribute of any name": ("assert candidate(3)._length == 3 and candidate(3)._ask == 4",
                                 "    return type('D', (), {'_length': x, '_ask': 4})()",
                                 "    return type('D', (), {'_length': 0, '_ask': 4})()"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*SHARING, *VALUES])
def test_it_decides_as_in_one_interpreter(box, case):
    test, right, wrong = (SHARING | VALUES)[case]
    verdict = check(box, test, right)
    assert verdict.passed, verdict
    verdict = check(box, test, wrong)
    assert verdict.status == "fail", verdict


def test_types_and_functions_of_python_are_arguments(box):
    asserts = ["assert remove((4, 5, 'a', 7.7), int) == ['a', 7.7]", "assert remove([1, 'b'], str) == [1]",
               "assert best(['a', 'bcd', 'ef'], len) == 'bcd'"]  # fmt: skip
    right = ("def remove(xs, kind):\n    return [x for x in xs if type(x) is not kind]\n"
             "def best(xs, key):\n    return max(xs, key=key)\n")  # fmt: skip
    assert listed(box, asserts, right).passed
    assert listed(box, asserts, right.replace("is not", "is")).status == "fail"


# Names and sizes


@pytest.mark.parametrize("name", ["op", "self", "function", "args", "value", "name", "fn", "remote", "session"])
def test_a_keyword_may_have_any_name(box, name):
    prompt = f'def f(x, {name}=0):\n    """Does it."""\n'
    assert check(box, f"assert candidate(1, {name}=2) == 3", f"    return x + {name}", prompt=prompt).passed


@pytest.mark.parametrize("solution", ["", "def sum(a, b):\n    return a + b\n"])
def test_a_function_may_be_named_like_a_builtin(box, solution):
    asserts = ["assert sum(10, 15) == 25", "assert sum(1, 2) == 3"]
    assert listed(box, asserts, "def sum(a, b):\n    return a + b\n", solution).passed
    assert listed(box, asserts, "def sum(a, b):\n    return a\n", solution).status == "fail"
    assert listed(box, asserts, "def add(a, b):\n    return a + b\n", solution).status == "no_entry_point"


def test_a_builtin_that_tests_use_is_not_the_completions(box):
    forged = "def f(x):\n    return 0\ndef all(x):\n    return True\ndef isinstance(*a):\n    return True\n"
    assert listed(box, ["assert all([f(3) == 6])", "assert isinstance(f(3), str)"], forged).status == "fail"


@pytest.mark.parametrize(
    "argument, right",
    [("list(range(140000))", "    return len(x)"), ("[[0] * 400 for _ in range(400)]", "    return sum(map(len, x))"),
     ("b'a' * 200000", "    return len(x)"), ("'a' * 10**6", "    return len(x)"),
     ("[str(n) for n in range(10**5)]", "    return len(x)"), ("{n: [n] for n in range(10**4)}", "    return len(x)")],
)  # fmt: skip
def test_large_arguments_cross(box, argument, right):
    size = {"[[0": "160000"}.get(argument[:3], f"len({argument})")
    assert check(box, f"assert candidate({argument}) == {size}", right).passed


def test_a_large_argument_comes_back_where_it_was_changed(box):
    test = "xs = list(range(100000))\ncandidate(xs)\nassert xs == list(range(99999, -1, -1))"
    assert check(box, test, "    x.reverse()").passed
    assert check(box, test, "    pass").status == "fail"


def test_messages_are_not_the_candidates_time(box):
    lines = ["for k in range(12):", "    xs = [str(n) for n in range(100000)]", "    assert candidate(xs) == 100000"]
    task = {"task_id": "late", "prompt": PROMPT, "entry_point": "f",
            "test": "def check(candidate):\n" + "".join(f"    {line}\n" for line in lines)}  # fmt: skip
    assert box.check(task, "    return len(x)\n", time_limit=1.0).passed
    slow = "    import time\n    time.sleep(2)\n    return len(x)\n"
    assert box.check(task, slow, time_limit=1.0).status == "timeout"


def test_a_large_test_file_is_split_outside_the_limit(box):
    asserts = "\n".join(f"assert candidate({n}) == {2 * n}, 'a message of some length, {n}'" for n in range(4000))
    task = {"task_id": "large", "prompt": PROMPT, "entry_point": "f",
            "test": "def check(candidate):\n" + "".join(f"    {line}\n" for line in asserts.split("\n"))}  # fmt: skip
    verdict = box.check(task, RIGHT, time_limit=2.0)
    assert verdict.passed and verdict.tests_total == 4000


# No verdict that judges nothing can be provoked


@pytest.mark.parametrize(
    "test, completion",
    [
        ("r = candidate(3)\nif r != 6:\n    raise AssertionError(r)",
         "    return W()\nclass W:\n    def __str__(s): raise ValueError('no')"),
        ("r = candidate(3)\nif r != 6:\n    raise AssertionError(r)",
         "    return W()\nclass W:\n    def __str__(s): return 3"),
        ("p = candidate(3)\nq = candidate(p.count)\nassert q.count == 3", "    return [x]"),
        ("assert candidate(candidate(3).keys()) == 1", "    return {x: 1}"),
        ("assert candidate(type(candidate(3))) == 1", "    return x"),
        ("assert len(candidate(3)) == 3", "    return None"),
        ("assert candidate(3)[0] == 6", "    return x"),
        ("open(candidate(3))", "    return '/nowhere'"),
        ("__builtin__ = candidate(3)\nassert __builtin__.x.y.z == 1", "    return x"),
        ("assert sorted(candidate(3)) == [1]", "    return [1, 'a']"),
        ("assert {candidate(3): 1}[6] == 1", "    return [6]"),
        ("raise candidate(3)", "    return 5"),
        ("assert candidate(3) == 6", "    x = []\n    for _ in range(10**5): x = [x]\n    return x"),
        ("assert repr(candidate(3)) == '6'", "    x = []\n    for _ in range(190): x = [x]\n    return x"),
        ("assert candidate(3) == 6", "    x = [1]\n    for _ in range(60): x = [x, x]\n    return x"),
        ("assert candidate(3) == 6", "    class E(Exception):\n        args = property(lambda s: 1 / 0)\n    raise E"),
        ("assert candidate(3) == 6", "    e = ValueError()\n    e.__cause__ = e\n    raise e"),
        ("assert candidate(3) == 6", "    return type('x.y', (list,), {})()"),
        ("assert candidate(3) == 6", "    raise ExceptionGroup('a', [ValueError()])"),
        ("assert candidate(3) == 6", "    raise type('é' * 500, (OSError,), {})(2, 'x' * 10**6)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("solution", ["", RIGHT])
def test_what_the_completion_makes_fail_is_judged(box, test, completion, solution):
    verdict = check(box, test, completion, solution=solution)
    if solution and verdict.status == "refused":  # then for every completion that gets there: the reference fails alike
        assert check(box, test, solution.rstrip("\n")).status == "fail"
    else:
        assert verdict.judged and not verdict.passed, verdict


@pytest.mark.parametrize("name", ["list", "dict", "ExceptionGroup"])
def test_a_class_in_place_of_the_function_is_judged(box, name):
    verdict = check(box, "assert candidate(3)[0] == 6", f"    return 0\nf = {name}", solution="    return [2 * x]\n")
    assert verdict.judged and not verdict.passed, verdict


@pytest.mark.parametrize("value", ["list", "tuple", "set", "dict", "iter", "range", "str", "reversed", "enumerate"])
def test_what_python_makes_of_a_result_can_be_passed_on(box, value):
    source = {"range": "range(2)", "str": "'01'", "dict": "{0: 1, 1: 2}"}.get(value, "[0, 1]")
    wrap = value if value in ("iter", "reversed", "enumerate", "tuple", "set") else "iter"
    test = f"made = {wrap}({source})\nassert list(candidate(made)) == list({wrap}({source}))"
    assert check(box, test, "    return list(x)").passed


# Broken tests are refused, whatever the completion is

BROKEN = {
    "a missing module": "import not_installed_here\nassert candidate(2) == 4",
    "the solution's module": "from solution import f\nassert f(2) == 4",
    "a missing file": "open('/data/in.txt')\nassert candidate(2) == 4",
    "a missing file, later": "assert candidate(2) == 4\nassert candidate(3) == int(open('/data/in.txt').read())",
    "a function as argument": "assert candidate(2) == 4\nassert candidate(lambda: 2) == 4",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_test_is_refused(box, case):
    verdicts = [check(box, BROKEN[case], body, solution=RIGHT) for body in ("    return 2 * x", "    return x + x")]
    assert [verdict.status for verdict in verdicts] == ["refused"] * 2
    if "later" not in case and "argument" not in case:
        assert check(box, BROKEN[case], "    return x", solution=RIGHT).status == "refused"
        assert check(box, BROKEN[case], "    return 2 * x").status == "refused"  # without a reference, too


def test_a_check_without_argument_and_an_async_function_are_refused(box):
    task = {"task_id": "x", "prompt": PROMPT, "entry_point": "f", "test": "def check():\n    assert f(2) == 4\n"}
    assert box.check(task, RIGHT).status == "refused"
    task |= {"prompt": 'async def f(x):\n    """Does it."""\n',
             "test": "import asyncio\ndef check(candidate):\n    assert asyncio.run(candidate(2)) == 4\n"}  # fmt: skip
    verdict = box.check(task, RIGHT)
    assert verdict.status == "refused" and "async" in verdict.reason


# What tests ask about the interpreter around the function

SURROUNDINGS = {
    "mock.patch": ("from unittest import mock\nwith mock.patch('builtins.sorted', side_effect=AssertionError):\n"
                   "    assert candidate([2, 1]) == [1, 2]", "    x.sort()\n    return x", "    return sorted(x)"),
    "recursion limit": ("import sys\nold = sys.getrecursionlimit()\nsys.setrecursionlimit(120)\ntry:\n"
                        "    assert candidate(200) == 200\nfinally:\n    sys.setrecursionlimit(old)",
                        "    return sum(1 for _ in range(x))", "    return 0 if x == 0 else 1 + f(x - 1)"),
    "process_time": ("import time\nt = time.process_time()\nassert candidate(3) == 6\n"
                     "assert time.process_time() - t < 0.3", "    return 2 * x",
                     "    import time\n    t = time.process_time()\n    while time.process_time() - t < 0.6: pass\n"
                     "    return 2 * x"),
    "tracemalloc": ("import tracemalloc\ntracemalloc.start()\nassert candidate(10**5) == 4999950000\n"
                    "assert tracemalloc.get_traced_memory()[1] < 10**6", "    return sum(range(x))",
                    "    return sum(list(range(x)))"),
}  # fmt: skip


@pytest.mark.parametrize("case", SURROUNDINGS)
def test_what_a_test_does_to_its_interpreter_reaches_the_function(box, case):
    test, right, wrong = SURROUNDINGS[case]
    verdict = check(box, test, right)
    assert verdict.passed and verdict.weak, verdict
    assert check(box, test, wrong).status == "fail"


# The cases as they came, where they are at hand


@pytest.mark.parametrize("name", ["judge_python", "reports", "state_atime", "state_flags", "state_poison"])
def test_the_cases_of_the_red_team(box, name):
    folder = ROOT.parent / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip("the cases are not at hand (../shared/cases)")
    tasks, samples = (
        [json.loads(line) for line in (folder / f"{name}_{part}.jsonl").read_text().splitlines()]
        for part in ("tasks", "samples")
    )
    by_name, wrong = {task["task_id"]: task for task in tasks}, []
    for sample in samples:
        verdict = box.check(by_name[sample["task_id"]], sample["completion"])
        wanted = sample.get("expected", "pass" if name == "state_poison" else "fail")
        if verdict.status != wanted and not (wanted == "fail" and verdict.judged and not verdict.passed):
            wrong.append((sample["task_id"], wanted, verdict))
    assert wrong == []
