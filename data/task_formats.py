"""Read the records of public data sets as tasks: one function for each format.

A function takes a record and where it stands ("FILE:LINE"). It returns a task once or more, with different reference
solutions or readings of the tests, the likeliest first; the importer keeps the first whose solution passes. It raises
Unfit if the record cannot be a task, and InputError if it lacks a field, that is, if the file has another format.

The model writes the whole program. A prompt is one docstring with the question, as for MBPP. The names of the fields
are those of the data sets' cards on the hub and of the code that evaluates them.
"""

from __future__ import annotations

import ast
import base64
import json
import pickletools
import re
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from prepare_humaneval import HUB as HUMANEVAL_HUB
from prepare_mbpp import HUB as MBPP_HUB
from prepare_mbpp import make_task, unix_lines
from task_tests import Unfit, check_harmless, check_of_calls, check_of_pytest, is_name, parse

from common import require
from judging.tasks import FIELDS, MAX_TEXTS, Task, check_task, code_of, compiles

KEY = "canonical_solution"
TRIES = 3  # solutions of a record to try
MAX_PROGRAM = 100_000  # characters in a question or a solution
MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json "
    "typing"
).split()
# What a function for LeetCode need not import: what LiveCodeBench's evaluation puts before it, in that order, which
# decides between equal names; `fractions` and `time` are from APPS' and TACO's. Those also give numpy, too slow to load
# for every check. Of `builtins`, only what these modules replace is restored: the judge takes a `type` that the prompt
# binds for a class of the prompt.
PRELUDE = (
    "".join(f"from {module} import *\n" for module in MODULES)
    + "from builtins import abs, compile, pow\n"
    + f"import {', '.join(MODULES)}, fractions, time\n"
    + "sys.setrecursionlimit(50000)\n"
)
TEXT_OPCODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
OTHER_OPCODES = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}


class Format(NamedTuple):
    """A published format: its data set on the hub with the subset to load, its reader, whether it has solutions."""

    hub: str
    subset: str | None
    read: Callable[[dict[str, Any], str], list[Task]]
    solved: bool = True


def kodcode(record: dict[str, Any], where: str) -> list[Task]:
    """KodCode/KodCode-V1 (arXiv 2503.02951): question, solution, test, test_info, question_id.

    `test` is a file of pytest functions. It may begin with `from solution import NAME`, but was run after
    `from solution import *`, so most that a model wrote import nothing. `test_info` describes the functions of the
    solution that are tested; it is null for all that have a class.
    """
    question, solution, test, number = (text(record, name, where) for name in
                                        ("question", "solution", "test", "question_id"))  # fmt: skip
    info = record.get("test_info") or []
    require(isinstance(info, list), f"{where}: record has a 'test_info' that is no list")
    (task,) = solved({"task_id": f"kodcode/{number}"}, [solution])
    kinds = {node.name: "class" if isinstance(node, ast.ClassDef) else "def" for node in parse(task[KEY], "").body
             if isinstance(node, ast.ClassDef | ast.FunctionDef) and is_name(node.name)}  # fmt: skip
    check, names = check_of_pytest(test, defined=kinds)
    told = {one["function_name"]: one.get("function_declaration") for one in info
            if isinstance(one, dict) and one.get("function_name") in names}  # fmt: skip
    order = [*kinds]
    names = sorted(dict.fromkeys(names), key=lambda name: order.index(name) if name in kinds else -1)
    entry_point = next(iter(told), names[-1] if names else "")  # helpers and classes stand before what uses them
    if not is_name(entry_point):
        raise Unfit("its tests use nothing that the program defines")
    check_harmless(check, {*names})
    headers = [told.get(name) or f"{kinds.get(name, 'def')} {name}" for name in names]
    prompt = docstring(question, "\n".join(header for header in headers if isinstance(header, str)))
    return [task | {"prompt": prompt, "test": check, "entry_point": entry_point}]


def acecode(record: dict[str, Any], where: str) -> list[Task]:
    """TIGER-Lab/AceCode-87K (arXiv 2502.01718): id, question, test_cases, inferences.

    It has no reference solutions, but samples of a model with their pass rates; the best are tried.
    """
    question, number = text(record, "question", where), text(record, "id", where)
    tests, samples = field(record, "test_cases", list, where), field(record, "inferences", list, where)
    if not tests or not all(isinstance(test, str) for test in tests):
        raise Unfit("it has no tests" if not tests else "its tests are not a list of asserts")
    for test in tests:
        body = parse(test, "its tests are").body
        if len(body) != 1 or not isinstance(body[0], ast.Assert):
            raise Unfit("its tests are not a list of asserts")
    check_harmless("\n".join(tests))
    task = {"task_id": f"acecode/{number}", "prompt": docstring(question, tests[0]), "test_list": tests,
            "test_setup_code": ""}  # fmt: skip
    samples = [one for one in samples if isinstance(one, dict) and isinstance(one.get("completion"), str)
               and isinstance(one.get("pass_rate"), int | float)]  # fmt: skip
    samples.sort(key=lambda one: -one["pass_rate"])
    found = (one["completion"] for one in samples[:TRIES] if len(one["completion"]) <= MAX_PROGRAM)
    return solved(task, [code_of(task | {"instruct": True}, completion) for completion in found])


def taco(record: dict[str, Any], where: str, name: str = "") -> list[Task]:
    """BAAI/TACO (arXiv 2312.14852): question, solutions, starter_code, input_output.

    `solutions` and `input_output` are JSON: a list of programs, and `inputs`, `outputs` and perhaps `fn_name`.
    """
    question, packed, tests = (text(record, one, where) for one in ("question", "solutions", "input_output"))
    starter = record.get("starter_code") or ""
    if not tests.strip():
        raise Unfit("it has no tests")
    tests, solutions = unpacked(tests, dict, "input_output"), unpacked(packed or "[]", list, "solutions")
    inputs, outputs, method = tests.get("inputs"), tests.get("outputs"), tests.get("fn_name")
    tasks = [task | {"task_id": name or f"taco/{where.rpartition(':')[2].rpartition(' ')[2]}"}
             for task in from_examples(question, str(starter), inputs, outputs, method, inside=True)]  # fmt: skip
    return [one for solution in solved({}, solutions) for task in tasks for one in solved(task, [solution[KEY]])]


def apps(record: dict[str, Any], where: str) -> list[Task]:
    """codeparrot/apps (arXiv 2105.09938): like TACO, with a number: `problem_id` on its card, `id` in its files."""
    number = field(record, "id" if "problem_id" not in record and "id" in record else "problem_id", int, where)
    return taco(record, where, f"apps/{number}")


def livecodebench(record: dict[str, Any], where: str) -> list[Task]:
    """livecodebench/code_generation_lite (arXiv 2403.07974): question_content, question_id, starter_code,
    public_test_cases, private_test_cases, metadata.

    It has no solutions. It is a benchmark: evaluate on it, do not train. Tests are JSON lists of objects with `input`,
    `output` and `testtype`; the private ones may be packed, see `private_tests`. A functional test has one argument, as
    JSON, on each line of its input.
    """
    question, number, public, private = (text(record, name, where) for name in (
        "question_content", "question_id", "public_test_cases", "private_test_cases"))  # fmt: skip
    starter, about = text(record, "starter_code", where), record.get("metadata") or "{}"
    method = (unpacked(about, dict, "metadata") if isinstance(about, str) else {}).get("func_name")
    tests = [*unpacked(public, list, "public_test_cases"), *private_tests(private)]
    if not all(isinstance(t, dict) and all(isinstance(t.get(n), str) for n in ("input", "output")) for t in tests):
        raise Unfit("its tests have no text input and output")
    kinds = {test.get("testtype") for test in tests}
    if len(kinds) > 1:
        raise Unfit("its tests are of several kinds")
    inputs, outputs = [test["input"] for test in tests], [test["output"] for test in tests]
    if kinds == {"functional"}:
        try:
            inputs = [[json.loads(line) for line in one.split("\n") if line.strip()] for one in inputs]
            outputs = [json.loads(one) for one in outputs]
        except (ValueError, RecursionError):
            raise Unfit("its tests are not JSON") from None
        method = method or ""
    else:
        method = None
    task = from_examples(question, starter, inputs, outputs, method)[-1]
    return [{"task_id": f"livecodebench/{number}", KEY: "", **task}]


def humaneval(record: dict[str, Any], where: str) -> list[Task]:
    """openai/openai_humaneval (arXiv 2107.03374): its fields are those of this project's tasks."""
    check_task(record, where)
    prompt = record["prompt"]
    check_harmless(
        "\n".join([prompt if compiles(prompt) else prompt + " pass", record["test"]]), {record["entry_point"]}
    )
    return [{name: record[name] for name in FIELDS}]


def mbpp(record: dict[str, Any], where: str) -> list[Task]:
    """google-research-datasets/mbpp (arXiv 2108.07732), full or sanitized."""
    task = make_task(record, "Mbpp", where)
    check_harmless("\n".join([task["test_setup_code"], *task["test_list"]]))
    return [task]


FORMATS = {
    "kodcode": Format("KodCode/KodCode-V1", None, kodcode),
    "acecode": Format("TIGER-Lab/AceCode-87K", None, acecode),
    "taco": Format("BAAI/TACO", None, taco),
    "apps": Format("codeparrot/apps", None, apps),
    "livecodebench": Format("livecodebench/code_generation_lite", None, livecodebench, solved=False),
    "humaneval": Format(HUMANEVAL_HUB, None, humaneval),
    "mbpp": Format(MBPP_HUB, "full", mbpp),
}


def field(record: dict[str, Any], name: str, kind: type, where: str) -> Any:
    """Return a field. Raise InputError if it is missing or of another kind: then the file has another format."""
    words = {str: "text", list: "list", int: "whole number"}
    value = record.get(name)
    require(isinstance(value, kind) and not isinstance(value, bool), f"{where}: record has no {words[kind]} {name!r}")
    return value


def text(record: dict[str, Any], name: str, where: str) -> str:
    return field(record, name, str, where)


def docstring(question: str, more: str = "") -> str:
    """Return a prompt that is one docstring, whatever the question has in it.

    >>> print(docstring("Add.", "def f():"), end="")
    \"""
    Add.
    <BLANKLINE>
    def f():
    \"""
    """
    said = unix_lines("\n\n".join(part.strip() for part in (question, more) if part.strip()))
    if not question.strip() or len(said) > MAX_PROGRAM:
        raise Unfit("it has no question" if not question.strip() else "its question is too long")
    said = said.replace('"""', "'''").replace("\0", "")
    return f'{"r" if chr(92) in said else ""}"""\n{said}\n"""\n'


def solved(task: Task, solutions: list[Any]) -> list[Task]:
    """Return the task with each of the first solutions that are Python 3. Raise Unfit if none is."""
    good: list[Task] = []
    for solution in solutions:
        if isinstance(solution, str) and solution.strip() and len(solution) <= MAX_PROGRAM and len(good) < TRIES:
            try:
                parse(solution, "")
            except Unfit:
                continue
            good.append(task | {KEY: unix_lines(solution).strip("\n") + "\n"})
    if not good:
        raise Unfit("none of its solutions is Python 3" if solutions else "it has no solution")
    return good


def unpacked(packed: str, kind: type, name: str) -> Any:
    """Return the value of a field that holds JSON."""
    try:
        value = json.loads(packed)
    except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits
        raise Unfit(f"its {name} is not JSON") from None
    if not isinstance(value, kind):
        raise Unfit(f"its {name} is not a {'list' if kind is list else 'JSON object'}")
    return value


def from_examples(
    question: str, starter: str, inputs: Any, outputs: Any, method: str | None, inside: bool = False
) -> list[Task]:
    """Return tasks, still without id and solution, whose tests are these inputs and outputs.

    Calls that do not fit into a task's tests are left out; `tests_left_out` then has their number.

    Args:
        method: the function to call with each input; None if programs read inputs from stdin.
        inside: tuples inside of a returned list count as lists too.
    """
    if not (isinstance(inputs, list) and isinstance(outputs, list) and inputs and outputs):
        raise Unfit("it has no tests")
    if len(inputs) != len(outputs):
        raise Unfit("it has not as many inputs as outputs")
    if method is None:
        inputs, outputs = map(lines, inputs), map(lines, outputs)
        task = {"prompt": docstring(question, starter), "entry_point": "", "inputs": [*inputs], "outputs": [*outputs]}
        if sum(map(len, [*task["inputs"], *task["outputs"]])) > MAX_TEXTS:
            raise Unfit("its tests are too long")
        return [task]
    if not is_name(method):
        raise Unfit("its function has no usable name")
    of_class = bool(re.search(r"^class Solution\b", starter, re.MULTILINE))
    task = {
        "prompt": docstring(question, starter or f"def {method}") + PRELUDE,
        "entry_point": "Solution" if of_class else method,
    }
    readings = [outputs]
    if all(isinstance(output, list) and len(output) == 1 for output in outputs):  # APPS packs most values in a list
        readings = [[output[0] for output in outputs], outputs]
    tests = [check_of_calls(inputs, reading, method if of_class else "", inside) for reading in readings]
    return [task | {"test": test} | ({"tests_left_out": len(inputs) - fit} if fit < len(inputs) else {})
            for test, fit in tests]  # fmt: skip


def lines(example: Any) -> str:
    """Return the text of an example for stdin or stdout, which may be given as a list of lines."""
    if isinstance(example, list) and all(isinstance(line, str) for line in example):
        return "".join(line.rstrip("\n") + "\n" for line in example)
    if not isinstance(example, str):
        raise Unfit("its inputs or outputs are not text")
    return example


def private_tests(packed: str) -> list[Any]:
    """Return LiveCodeBench's private tests: JSON, or base64 of zlib of a pickle of that text.

    Nothing is unpickled. The pickle's opcodes are read, and only those that make one text are allowed. This text may be
    as long as the tests that the judge accepts, and as long again for the names of their fields.

    Raises:
        Unfit: this is neither, it is a bomb, or the pickle holds more than text.
    """
    if packed.lstrip().startswith("["):
        return unpacked(packed, list, "private_test_cases")
    try:
        unpacking = zlib.decompressobj()
        raw = unpacking.decompress(base64.b64decode(packed, validate=True), 2 * MAX_TEXTS)
        if not unpacking.eof:
            raise Unfit("its private tests are too long, or cut off")
        opcodes = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(raw)]
    except (ValueError, zlib.error, IndexError, OverflowError):
        raise Unfit("its private tests cannot be unpacked") from None
    texts = [argument for name, argument in opcodes if name in TEXT_OPCODES]
    if len(texts) != 1 or not {name for name, _ in opcodes} <= TEXT_OPCODES | OTHER_OPCODES:
        raise Unfit("its private tests are a pickle of more than text")
    return unpacked(texts[0], list, "private_test_cases")
