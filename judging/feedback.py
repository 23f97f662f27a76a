"""What a model is told about a failed answer before its second turn (docs/methods/turns.md).

A verdict's reason may hold values of hidden tests: it quotes the assert that failed, and an exception's message often
quotes what the function was called with. So the reason is passed on only if the user asks for it ("tests"). Otherwise
the model reads a kind of failure in words of this file, the type of one of Python's own exceptions, a line of its own
program, what the compiler says of it, or an example that its prompt shows. All of this is one printable line.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import doctest
import re

from common import one_line
from judging.instruct import wanted_form
from judging.pool import Verdict
from judging.tasks import Task, code_of, is_program, is_verilog

LONGEST = 300  # characters that a model is told

KINDS = {
    "fail": "a test fails",
    "timeout": "the program takes too long",
    "memory": "the program takes too much memory",
    "crash": "the program ends itself or crashes before the tests are done",
    "protocol": "the program closes or writes to a channel that is not its own",
    "syntax": "the program does not compile",
    "no_entry_point": "the function that was asked for is not defined",
}
_RAISED = re.compile(r"(?:input \d+ of \d+: )?([A-Za-z]\w*)(?:: .*)?\Z", re.DOTALL)
_DIFFERS = re.compile(r"input \d+ of \d+: (?:line|token) \d+ is ")
_PLACE = re.compile(r" \(line (\d+) of the (completion|prompt)\)\Z")


def told(task: Task, text: str, verdict: Verdict, feedback: str, shown: Verdict | None = None) -> str:
    """Return the line that the model is told about a failed answer; at most `LONGEST` characters, all printable.

    Args:
        text: the answer.
        feedback: "kind": only the kind of failure. "error": the exception, or the example, that failed. "tests": the
            judge's reason with all values.
        shown: the verdict on the answer by the examples of its prompt (`shown_examples`).

    >>> leak = Verdict("fail", "KeyError: 'hidden' (line 2 of the completion)")
    >>> [told({"prompt": ""}, "x = {}\\nx[y]", leak, feedback) for feedback in ("kind", "error")]
    ['a test fails', 'KeyError at the line: x[y]']
    """
    kind = KINDS.get(verdict.status, "a test fails")
    if feedback == "tests":
        return one_line(verdict.reason or kind, LONGEST)
    if feedback == "kind" or is_verilog(task):
        return kind
    if verdict.status == "fail" and shown is not None and shown.status == "fail":
        what, line = _placed(task, text, shown.reason)
        return one_line(f"an example of the prompt fails: {what}{line}", LONGEST)
    what, line = _placed(task, text, verdict.reason)
    if verdict.status == "syntax":  # the compiler has seen nothing but the program
        return one_line(f"{kind}: {what}{line}", LONGEST)
    raised = _RAISED.match(what)
    known = verdict.status in ("fail", "memory") and raised and getattr(builtins, raised[1], None)
    if isinstance(known, type) and issubclass(known, BaseException):  # the program may choose other names freely
        return one_line(f"{raised[1]}{line}", LONGEST)
    return "the output is wrong" if is_program(task) and _DIFFERS.match(verdict.reason) else kind


def _placed(task: Task, text: str, reason: str) -> tuple[str, str]:
    """Split a reason into what went wrong and " at the line: ..." with that line of the program; "" if none is named.

    What follows an exception's message is the judge's, so only the end of a reason is looked at.
    """
    place = _PLACE.search(reason)
    if place is None:
        return reason, ""
    lines = re.split("\r\n|\r|\n", code_of(task, text))  # as Python counts them
    number = int(place[1])
    own = lines[number - 1].strip() if place[2] == "completion" and 0 < number <= len(lines) else ""
    return reason[: place.start()], f" at the line: {own}" if own else ""


def shown_examples(task: Task) -> Task | None:
    """Return the task with the examples that its prompt shows as its only tests; None if it shows none.

    These are the doctest examples whose value is a literal, and the asserts of `test_list` that stand in the prompt, as
    MBPP's first does. The sandbox judges the answer by them as by any tests, and what it then says holds no value that
    the prompt does not show or the program did not make of one.

    >>> shown_examples({"task_id": "t", "prompt": "def f(x):\\n    '''>>> f(1)\\n    2\\n    '''\\n"})["test_list"]
    ['assert f(1) == 2']
    """
    if is_verilog(task) or is_program(task):
        return None
    asserts = [test for text in _docstrings(task["prompt"]) for test in _asserts(text)]
    if name := task.get("entry_point"):  # a helper of the prompt may have examples too
        asserts = [test for test in asserts if re.search(rf"\b{re.escape(name)}\b", test)]
    asserts += [test for test in task.get("test_list") or () if test.strip() and test in task["prompt"]]
    names = ("task_id", "prompt", "instruct", "entry_point", "test_setup_code")
    return {name: task[name] for name in names if name in task} | {"test_list": asserts} if asserts else None


def _docstrings(prompt: str) -> list[str]:
    """Return the docstrings of a prompt, or what is between triple quotes if it does not compile by itself."""
    try:
        tree = ast.parse(prompt)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return re.split("\"\"\"|'''", prompt)[1::2]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]


def _asserts(docstring: str) -> list[str]:
    """Return the examples of a docstring that are one expression with a literal as its value, as asserts."""
    found = []
    with contextlib.suppress(ValueError):  # an example without a blank behind >>>, or with another indentation
        for example in doctest.DocTestParser().get_examples(docstring):
            try:
                tree = ast.parse(example.source.strip(), mode="eval")
            except (SyntaxError, ValueError, MemoryError, RecursionError):
                break  # a statement: what follows may need it
            with contextlib.suppress(SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
                call = ast.unparse(tree)
                value = ast.literal_eval(example.want.strip())
                found.append(f"assert {call} is None" if value is None else f"assert {call} == {value!r}")
    return found


def request(task: Task, said: str) -> str:
    """Return what an `instruct` model is asked for after a failed answer."""
    return f"The tests say: {said}\nCorrect the program. {wanted_form(task)}"


def once_more(task: Task, text: str, said: str) -> str:
    r"""Return the prompt of a second turn for a task that is not `instruct`: the first answer, what was said, again.

    >>> once_more({"prompt": "def f():\n"}, "    retrun 1\n", "it fails")
    'def f():\n    retrun 1\n\n\n# The tests say: it fails\n# Corrected:\n\ndef f():\n'
    """
    mark = "//" if is_verilog(task) else "#"
    prompt = task["prompt"]
    return f"{prompt}{text.rstrip()}\n\n\n{mark} The tests say: {said}\n{mark} Corrected:\n\n{prompt}"
