"""Splits a task: what the judge executes (the prompt's helpers, the tests) and what it must ask the candidate for.

The tests are rewritten so that every one of them is tried and counted, and a failing assert tells both its values.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from tasks import test_source

COMPARE, TRUTH, RECORD = "_sandbox_compare", "_sandbox_truth", "_sandbox_record"
IMPORTABLE = {"np": "numpy", "numpy": "numpy"}
CAPTURES_OUTPUT = {"stdout", "redirect_stdout", "capsys", "StringIO"}
EXECUTES = {"eval", "exec", "compile", "__import__", "pickle", "marshal", "shelve", "subprocess"}  # what is returned
TAKES_THE_ALARM = {"alarm", "setitimer", "SIGALRM"}  # the judge's deadline
LASTING = {"chdir", "getcontext", "setcontext", "setattr", "signal", "setrecursionlimit", "environ", "patch"}


class Unsplittable(ValueError):
    """The task's tests cannot run apart from the program they test; the message says why."""


@dataclass
class Split:
    """A task, ready for the judge.

    Attributes:
        helpers: the prompt's own code, compiled.
        tests: the tests, rewritten and compiled; execute it in the helpers' namespace.
        remote: names that must come from the candidate; the first one is the entry point if the task names it.
        required: those of them without which there is nothing to test.
        imports: standard modules that the tests use without importing them: name -> module.
        total: how many tests there are, None if they cannot be counted.
        lasting: whether prompt or tests may change the judge's interpreter for the tasks after this one.
    """

    helpers: CodeType
    tests: CodeType
    remote: list[str]
    required: list[str]
    imports: dict[str, str] = field(default_factory=dict)
    total: int | None = None
    lasting: bool = False


def split(task: dict[str, Any]) -> Split:
    """Work out how to judge a task.

    Raises:
        Unsplittable: the prompt or the tests do not compile, or the tests read what the program prints.
    """
    prompt, entry_point = task["prompt"], task.get("entry_point")
    helpers = _parse_prompt(prompt, entry_point)
    try:
        tests = ast.parse(test_source(task), "<tests>")
    except (SyntaxError, ValueError) as error:
        raise Unsplittable(f"the task's tests do not compile: {error}") from None
    listed = bool(task.get("test_list"))
    if not listed and "check" not in _bound(tests):  # else the completion could define it
        raise Unsplittable("the task's tests do not define check")
    used = {node.id for node in ast.walk(tests) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    attributes = {node.attr for node in ast.walk(tests) if isinstance(node, ast.Attribute)}
    if captured := CAPTURES_OUTPUT & (used | attributes):
        raise Unsplittable(f"the tests look at what the program prints ({sorted(captured)[0]})")
    if executing := EXECUTES & (used | _bound(tests)):
        raise Unsplittable(f"the tests execute what the program returns ({sorted(executing)[0]})")
    if alarming := TAKES_THE_ALARM & (used | attributes):
        raise Unsplittable(f"the tests take the judge's alarm ({sorted(alarming)[0]})")
    finished, unfinished = _definitions(helpers)
    wanted = used - _bound(tests) - set(dir(builtins)) - finished
    called = {
        node.func.id for node in ast.walk(tests) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    modules = (wanted - called) & (sys.stdlib_module_names | set(IMPORTABLE))  # a module cannot be called
    imports = {name: IMPORTABLE.get(name, name) for name in modules}
    remote = sorted((wanted | unfinished) - set(imports) - {entry_point})
    total = _rewrite(tests, listed)
    try:
        compiled_helpers = compile(helpers, "<prompt>", "exec", dont_inherit=True)
        compiled_tests = compile(tests, "<tests>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise Unsplittable(f"the task does not compile: {error}") from None
    return Split(
        helpers=compiled_helpers,
        tests=compiled_tests,
        remote=([entry_point] if entry_point else []) + remote,
        required=[entry_point] if entry_point else sorted(set(remote) & wanted),
        imports=imports,
        total=total,
        lasting=_lasting(helpers) or _lasting(tests),
    )


def _lasting(tree: ast.Module) -> bool:
    """Whether this code assigns to attributes of what it imports, or calls what changes the whole process."""
    imported = {"builtins"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    if LASTING & (names | {node.attr for node in attributes}):
        return True
    return any(not isinstance(node.ctx, ast.Load) and _root(node) in imported for node in attributes)


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _parse_prompt(prompt: str, entry_point: str | None) -> ast.Module:
    """The prompt as a module; it may stop where a body has to follow."""
    for ending in ("", "\n    pass\n", "\n        pass\n"):
        try:
            return ast.parse(prompt + ending, "<prompt>")
        except (SyntaxError, ValueError) as error:
            problem = error
    before = prompt.rfind(f"def {entry_point}")
    if before > 0:  # whatever stands above the function to write
        try:
            return ast.parse(prompt[:before].rpartition("\n")[0] + "\n", "<prompt>")
        except (SyntaxError, ValueError):
            pass
    raise Unsplittable(f"the task's prompt does not compile: {problem}")


def _definitions(module: ast.Module) -> tuple[set[str], set[str]]:
    """Names that a prompt binds: those it is done with, and functions that it leaves to be written."""
    finished, unfinished = set(), set()
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and all(map(_says_nothing, node.body)):
            unfinished.add(node.name)
        else:
            finished |= _bound(node)
    return finished - unfinished, unfinished


def _says_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _bound(tree: ast.AST) -> set[str]:
    """Every name that some statement below here binds, in whatever scope."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def _rewrite(tests: ast.Module, listed: bool) -> int | None:
    """Make the asserts explain themselves, and each counted test report instead of ending the run."""
    bodies = (
        [tests.body]
        if listed
        else [node.body for node in tests.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    )
    _Explain().visit(tests)
    total = 0
    for body in bodies:
        for position, statement in enumerate(body):
            if _is_test(statement):
                body[position] = _counted(statement, total)
                total += 1
    ast.fix_missing_locations(tests)
    return total or None


def _is_test(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    # what was an assert is by now `raise helper(...)` below an `if`; `assert True` stayed what it was
    return any(isinstance(node, ast.Name) and node.id in (COMPARE, TRUTH) for node in ast.walk(statement))


def _counted(statement: ast.stmt, number: int) -> ast.Try:
    """`statement`, with its outcome recorded under `number`."""
    template = ast.parse(
        f"try:\n    pass\nexcept Exception as _sandbox_error:\n    {RECORD}({number}, _sandbox_error)\n"
        f"else:\n    {RECORD}({number}, None)\n"
    ).body[0]
    assert isinstance(template, ast.Try)
    template.body = [statement]
    return template


class _Explain(ast.NodeTransformer):
    """`assert a == b` becomes `if not ((x := a) == (y := b)): raise compare(text, x, y)`."""

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        test = node.test
        if isinstance(test, ast.Constant):
            return node
        text = ast.Constant(ast.unparse(test))
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            left, right = ast.Name("_sandbox_left", ast.Store()), ast.Name("_sandbox_right", ast.Store())
            test.left = ast.NamedExpr(left, test.left)
            test.comparators = [ast.NamedExpr(right, test.comparators[0])]
            failure = _call(COMPARE, [text, *_load(left, right)])
        else:
            value = ast.Name("_sandbox_left", ast.Store())
            test = ast.NamedExpr(value, test)
            failure = _call(TRUTH, [text, *_load(value)])
        new = ast.If(ast.UnaryOp(ast.Not(), test), [ast.Raise(failure)], [])
        return ast.copy_location(new, node)


def _load(*names: ast.Name) -> Iterable[ast.expr]:
    return [ast.Name(name.id, ast.Load()) for name in names]


def _call(name: str, arguments: list[ast.expr]) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), arguments, [])
