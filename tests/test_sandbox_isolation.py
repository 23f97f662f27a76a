"""No check changes what a later one gets, none gets out of a verdict, and none is judged by another's leftovers."""

from pathlib import Path

import pytest

from judging.pool import Sandbox

RIGHT = "    return 2 * x\n"
PROMPT = 'def double(x):\n    """Twice x."""\n'
DOUBLE = {"task_id": "double", "prompt": PROMPT, "canonical_solution": RIGHT, "entry_point": "double"}


def task(*lines: str, before: str = "") -> dict:
    """A task whose check has these lines."""
    body = "".join(f"    {line}\n" for line in lines)
    return DOUBLE | {"test": f"{before}\n\ndef check(candidate):\n{body}"}


SIMPLE = task("assert candidate(3) == 6")


@pytest.fixture
def box():
    with Sandbox(time_limit=1.0, num_workers=1) as pool:
        yield pool


def resident_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) // 1024


def test_the_judge_keeps_nothing_of_what_was_returned(box):
    hungry = task("assert list(candidate(3)) == [6]")
    for _ in range(4):
        assert box.check(hungry, "    return range(4 * 10**6)\n", time_limit=5.0).status == "fail"
    assert resident_mib(box._workers[0].process.pid) < 100


@pytest.mark.parametrize("before_the_limit", [0.02, 0.025, 0.03])
def test_a_deadline_inside_an_import_leaves_the_module_whole(box, before_the_limit):
    pytest.importorskip("numpy")
    late = f"{RIGHT}\nimport time\ntime.sleep({1 - before_the_limit})\n"
    arrays = task("import numpy as np", "assert np.all(np.array([candidate(3)]) == 6)")
    assert box.check(arrays, late).judged
    assert box.check(arrays, RIGHT, time_limit=5.0).passed


@pytest.mark.parametrize(
    ("lines", "before"),
    [
        (["import math", "math.floor = lambda x: 0"], ""),
        (["import builtins", "builtins.sorted = lambda x: []"], ""),
        (["import os", "os.chdir('/tmp')"], ""),
        (["decimal.getcontext().prec = 2"], "import decimal"),
        (["signal.signal(signal.SIGUSR1, print)"], "import signal"),
        (["keyword.kwlist.clear()"], "import keyword"),
        (["warnings.simplefilter('error')"], "import warnings"),
        (["np.seterr(all='raise')"], "import numpy as np"),
    ],
)
def test_what_a_task_changes_in_its_judge_ends_with_it(box, lines, before):
    looks = task(
        "import math, os, decimal",
        "assert math.floor(3.5) == 3 and sorted([2, 1]) == [1, 2]",
        "import keyword, warnings, numpy",
        "assert 'if' in keyword.kwlist and numpy.geterr()['over'] == 'warn'",
        "assert all(kind != 'error' for kind, *_ in warnings.filters)",
        "assert os.getcwd() == '/' and len(str(decimal.Decimal(1) / 3)) == 30",
        "assert candidate(3) == 6",
    )
    first = box._workers[0].process.pid
    assert box.check(task(*lines, "assert candidate(3) == 6", before=before), RIGHT).passed
    assert box.check(looks, RIGHT).passed
    assert box._workers[0].process.pid == first  # a fork of it ran the tests


def test_an_ordinary_task_keeps_its_judge(box):
    first = box._workers[0].process.pid
    classes = task("class Box:", "    def __init__(self): self.x = 3", "assert candidate(Box().x) == 6")
    assert box.check(classes, RIGHT).passed and box.check(SIMPLE, RIGHT).passed
    assert box._workers[0].process.pid == first


@pytest.mark.parametrize(
    ("lines", "completion"),
    [
        (["if candidate(3) != 6: raise KeyboardInterrupt"], "    return x\n"),
        (["if candidate(3) != 6: raise SystemExit(1)"], "    return x\n"),
        (["import argparse", "p = argparse.ArgumentParser()", "p.add_argument('--n', type=int)",
          "assert p.parse_args(candidate(3)).n == 6"], "    return ['--n', 'foo']\n"),
        (["assert candidate(list(candidate(3))) == [3]"], "    return range(9 * 10**6) if x == 3 else x\n"),
        (["assert candidate(iter(candidate(3))) == [3]"], "    return (i for i in [1]) if x == 3 else x\n"),
        (["with __import__('contextlib').suppress(ValueError): candidate(3)", "assert candidate(1) == 2"], RIGHT),
    ],
    ids=["KeyboardInterrupt", "SystemExit", "argparse", "too big", "iterator", "a test that imports by name"],
)  # fmt: skip
def test_a_wrong_completion_gets_no_way_out_of_a_verdict(box, lines, completion):
    verdict = box.check(task(*lines), completion, time_limit=5.0)
    if "__import__" in lines[0]:
        assert verdict.status == "refused" and "the tests execute" in verdict.reason  # the task's doing, for everyone
    else:
        assert verdict.status == "fail" and verdict.judged


def test_pytest_raises_is_judged(box):
    verdict = box.check(task("with pytest.raises(ValueError): candidate('a')", before="import pytest"), RIGHT, 10.0)
    assert verdict.status == "fail" and verdict.judged


@pytest.mark.parametrize(
    ("lines", "before", "reason"),
    [
        (["assert eval(candidate(3)) == 6"], "", "the tests execute what the program returns (eval)"),
        (["assert pickle.loads(candidate(3)) == 6"], "import pickle", "(pickle)"),
        (["signal.alarm(1)", "assert candidate(3) == 6"], "import signal", "the judge's alarm (alarm)"),
    ],
)
def test_tests_that_would_run_the_result_in_the_judge_are_refused(box, lines, before, reason):
    verdict = box.check(task(*lines, before=before), "    return 'print(1) or 6'\n")
    assert verdict.status == "refused" and reason in verdict.reason


@pytest.mark.parametrize(
    ("lines", "methods"),
    [
        (["assert len(r) == 3", "assert all(v % 2 == 0 for v in r)"],
         "def __len__(self): return 3\n    def __iter__(self): return iter(())"),
        (["assert len(r) == 3", "assert all(r[i] <= r[i + 1] for i in range(len(r) - 1))"],
         "sizes = [3, 0]\n    def __len__(self): return self.sizes.pop(0)\n    def __getitem__(self, i): return 9 - i"),
        (["assert len(r) == 3", "assert all(a == b for a, b in zip(reversed(r), [6, 4, 2]))"],
         "def __len__(self): return 3\n    def __getitem__(self, i): raise IndexError"),
    ],
    ids=["iteration", "length", "reversed"],
)  # fmt: skip
def test_objects_that_contradict_themselves_fail(box, lines, methods):
    completion = f"    return Liar()\n\nclass Liar:\n    {methods}\n"
    assert box.check(task("r = candidate(3)", *lines), completion).status == "fail"


@pytest.mark.parametrize(
    ("lines", "completion", "passes"),
    [
        (["xs = [1]", "assert candidate(xs) is xs"], "    x.append(2)\n    return x\n", True),
        (["xs = [1]", "assert candidate(xs) is not xs"], "    return x\n", False),
        (["xs = [1]", "assert candidate(xs) is not xs"], "    return list(x)\n", True),
        (["r = candidate(3)", "assert r == candidate(4)"],
         "    return shared\n\nclass C: pass\nshared = C()\n", True),
        (["r = candidate(3)", "assert r == candidate(4)"],
         "    return C()\n\nclass C: pass\n", False),
        (["assert candidate.__name__ == 'double' and candidate(3) == 6"], RIGHT, True),
    ],
)  # fmt: skip
def test_identity_crosses_the_border(box, lines, completion, passes):
    assert box.check(task(*lines), completion).passed is passes


def test_tests_may_call_from_several_threads(box):
    lines = [
        "with ThreadPoolExecutor(4) as pool:",
        "    assert list(pool.map(candidate, range(40))) == list(range(0, 80, 2))",
    ]
    verdict = box.check(task(*lines, before="from concurrent.futures import ThreadPoolExecutor"), RIGHT, 5.0)
    assert verdict.passed, verdict


def test_a_function_named_like_a_module_is_the_candidates(box):
    listed = {"task_id": "b", "prompt": "", "canonical_solution": "", "test_setup_code": "",
              "test_list": ["assert bisect([1, 2], 2) == 1"]}  # fmt: skip
    assert box.check(listed, "def bisect(xs, x):\n    return xs.index(x)\n").passed


def test_closing_settles_every_future():
    box = Sandbox(time_limit=5.0, num_workers=1)
    futures = [box.submit(SIMPLE, "    import time; time.sleep(1)\n") for _ in range(4)]
    futures[2].cancel()
    box.close()
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError):
        box.submit(SIMPLE, RIGHT)


def test_other_fields_of_a_task_do_not_matter(box):
    assert box.check(SIMPLE | {"extra": float("nan"), "more": {1, 2}}, RIGHT).passed
