"""What a model is told about a failure holds no value of a hidden test, unless it was asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judging.feedback import KINDS, LONGEST, once_more, shown_examples, told
from judging.pool import STATUSES, UNJUDGED, Verdict

SECRET = "S3cret"
TASK = {
    "task_id": "t",
    "prompt": 'def f(x):\n    """Double.\n\n    >>> f(1)\n    2\n    """\n',
    "canonical_solution": "    return 2 * x\n",
    "test": f"def check(f):\n    assert f(1) == 2\n    assert f('{SECRET}') == '{SECRET}' * 2\n",
    "entry_point": "f",
}
# right for what the prompt shows, so that the hidden test is the one that fails
LEAKS = {
    "a wrong value": ("    return 2 if x == 1 else x\n", "a test fails"),
    "a message": ("    if x != 1: raise KeyError(x)\n    return 2\n",
                  "KeyError at the line: if x != 1: raise KeyError(x)"),
    "a built-in message": ("    return 2 if x == 1 else int(x)\n",
                           "ValueError at the line: return 2 if x == 1 else int(x)"),
    "a name of a class": ("    if x != 1: raise type(x, (Exception,), {})()\n    return 2\n", "a test fails"),
    "a name like one of Python's": ("    if x != 1: raise type('len', (Exception,), {})(x)\n    return 2\n",
                                    "a test fails"),
    "a made-up place": ("    if x != 1: raise ValueError(x + ' (line 1 of the completion)')\n    return 2\n",
                        "ValueError at the line: if x != 1: raise ValueError(x + ' (line 1 of the completion)')"),
    "an exit": ("    if x != 1: raise SystemExit(x)\n    return 2\n", KINDS["crash"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_no_hidden_value_is_told(sandbox, name):
    body, says = LEAKS[name]
    verdict, shown = sandbox.check(TASK, body), sandbox.check(shown_examples(TASK), body)
    assert shown.passed and SECRET in verdict.reason  # there is something to hide
    assert told(TASK, body, verdict, "error", shown) == says
    assert told(TASK, body, verdict, "kind", shown) == KINDS[verdict.status]
    assert SECRET in told(TASK, body, verdict, "tests", shown)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("    return x\n", "an example of the prompt fails: assert f(1) == 2: left is 1, right is 2"),
        ("    y = None\n    return y[x]\n", "an example of the prompt fails: TypeError: 'NoneType' object is not "
         "subscriptable at the line: return y[x]"),
        ("    retrun x\n", "the program does not compile: SyntaxError: invalid syntax at the line: retrun x"),
        ("    while True: pass\n", "the program takes too long"),
    ],
)  # fmt: skip
def test_what_the_prompt_and_the_program_show_is_told(sandbox, body, says):
    verdicts = [sandbox.check(task, body, 0.5) for task in (TASK, shown_examples(TASK))]
    assert told(TASK, body, verdicts[0], "error", verdicts[1]) == says


def test_a_program_that_prints(sandbox):
    task = {"task_id": "p", "prompt": "Echo.", "inputs": ["1", SECRET], "outputs": ["1", SECRET * 2]}
    for program, says in (
        ("print(input())", "the output is wrong"),
        ("print(input())\nraise SystemExit(1)", "a test fails"),
        ("x = input()\nwhile True: print(x * 1000)", "a test fails"),
        ("x = input()\nprint(int(x))", "ValueError at the line: print(int(x))"),
        ("raise KeyError(input())", "KeyError at the line: raise KeyError(input())"),
        ("print(", "the program does not compile: SyntaxError: '(' was never closed at the line: print("),
    ):
        verdict = sandbox.check(task, program)
        assert told(task, program, verdict, "error") == says
        assert shown_examples(task) is None


def test_an_instruct_answer_is_quoted_from_its_block(sandbox):
    task = TASK | {"instruct": True}
    text = "Here.\n```python\ndef f(x):\n    return [][x]\n```\n"
    verdict, shown = sandbox.check(task, text), sandbox.check(shown_examples(task), text)
    assert told(task, text, verdict, "error", shown).endswith("IndexError: list index out of range at the line: "
                                                              "return [][x]")  # fmt: skip


@given(
    st.sampled_from([s for s in STATUSES if s not in ("pass", *UNJUDGED)]),
    st.text(),
    st.text(),
    st.sampled_from(["kind", "error", "tests"]),
    st.booleans(),
)
def test_it_is_one_short_printable_line_for_any_program(status, reason, text, feedback, placed):
    reason += " (line 1 of the completion)" * placed
    said = told(TASK, text, Verdict(status, reason), feedback, Verdict("fail", reason))
    assert said.isprintable() and 0 < len(said) <= LONGEST
    assert feedback != "kind" or said == KINDS[status]
    assert len(once_more(TASK, "", said).splitlines()) == len(once_more(TASK, "", "").splitlines())


@given(st.text(alphabet="abc:( \n", min_size=1))
def test_only_names_of_pythons_exceptions_are_told(reason):
    assert told({"prompt": ""}, "", Verdict("fail", reason), "error") == "a test fails"


def test_examples_are_those_that_the_prompt_shows():
    def shown(prompt, **more):
        return (shown_examples({"task_id": "t", "prompt": prompt} | more) or {}).get("test_list")

    assert shown("def f():\n    '''\n    >>> f()\n    None\n    >>> f() + 1\n    [1, 'a']\n    '''\n") == [
        "assert f() is None",
        "assert f() + 1 == [1, 'a']",
    ]
    assert shown("def f():\n    '''\n    >>> x = 1\n    >>> f()\n    <object at 0x1>\n    >>> f()\n    '''\n") is None
    assert shown("def f():\n    '''\n    >>>f()\n    1\n    '''\n") is None  # doctest calls this malformed
    listed = ["assert f(1) == 1", "assert f(2) == 2"]
    assert shown('"""\nCount.\nassert f(1) == 1\n"""\n', test_list=listed) == listed[:1]  # MBPP's first
    assert shown("module m();", language="verilog", top_module="m") is None
    # what a statement prepared is not known, and a helper's examples are not the function's
    steps = "def top(x):\n    '''\n    >>> top([1])\n    1\n    >>> xs = [3]\n    >>> top(xs)\n    3\n    '''\n"
    assert shown(steps, entry_point="top") == ["assert top([1]) == 1"]
    helper = "def double(x):\n    '''\n    >>> double(1)\n    2\n    '''\n    return 2 * x\n\n\ndef f(x):\n"
    assert shown(helper, entry_point="f") is None


def test_lines_are_counted_as_python_counts_them():
    text = "a = '\x0c\x1c'\nb = '\u2028'\nraise ValueError"
    at = Verdict("fail", "ValueError (line 3 of the completion)")
    assert told({"prompt": "", "test_list": [""]}, text, at, "error") == "ValueError at the line: raise ValueError"


def test_verilog_is_told_the_kind_only():
    task = {"prompt": "module m();", "language": "verilog", "top_module": "m"}
    assert told(task, "", Verdict("fail", f"check {SECRET}"), "error") == "a test fails"
    assert "// The tests say: x\n" in once_more(task, "", "x")


def test_the_references_pass_the_examples_of_humaneval(sandbox, humaneval):
    pairs = [(examples, task["canonical_solution"]) for task in humaneval if (examples := shown_examples(task))]
    wrong = {task["task_id"] for (task, _), v in zip(pairs, sandbox.check_many(pairs), strict=True) if not v.passed}
    assert (len(pairs), wrong) == (69, {"HumanEval/47"})  # whose example is known to be wrong
