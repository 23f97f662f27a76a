"""Split a task into what the judge runs (the prompt's helpers, the tests) and what it must ask the candidate for.

The tests are rewritten so that each of them is tried and counted, and a failing assert reports both its values.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from judging.tasks import test_source

BUILTINS = set(dir(builtins))
COMPARE, TRUTH, RECORD = "_sandbox_compare", "_sandbox_truth", "_sandbox_record"
IMPORTABLE = {"np": "numpy", "numpy": "numpy"}
CAPTURES_OUTPUT = {"stdout", "redirect_stdout", "capsys", "StringIO"}
# Tests that use these may execute what a program returns, inside the judge: builtins, attributes, and modules (those of
# EXECUTING also count where they are only mentioned by name).
EXECUTES = {"eval", "exec", "compile", "__import__"}
EXECUTE = {"eval", "exec", "system", "popen", "import_module", "run_module", "run_path", "__import__"}
EXECUTING = {"pickle", "marshal", "shelve", "subprocess", "runpy", "importlib", "ctypes"}
IMPORTED = EXECUTING | {"code", "codeop", "timeit", "pty", "dill", "cloudpickle"}
TAKES_THE_ALARM = {"alarm", "setitimer", "SIGALRM"}  # the judge's deadline
# these change settings of a process, so the change would not reach the process in which the function runs
SETTINGS = {"environ", "putenv", "chdir", "getcontext", "setcontext", "localcontext", "setlocale"}
# these ask about the interpreter in which the function runs, so such tests run there as well
SURROUNDINGS = {"mock", "patch", "setrecursionlimit", "process_time", "thread_time", "tracemalloc", "getrusage",
                "getrefcount", "settrace", "setprofile"}  # fmt: skip
# calling functions of these modules changes nothing that outlasts a check; `random` is seeded anew for every check
PURE = set("abc bisect cmath collections copy dataclasses datetime enum fractions functools heapq itertools json math "
           "numbers operator random re statistics string textwrap time typing".split())  # fmt: skip
CHANGING = {"setattr", "delattr", "globals", "vars", "__builtins__", "__dict__", "__globals__"}
UNCHANGING = (int, float, complex, str, bytes, type(None), types.FunctionType, types.BuiltinFunctionType, type)


class Unsplittable(ValueError):
    """The task's tests cannot run separately from the program that they test; the message says why."""


@dataclass
class Split:
    """A task, ready for the judge.

    Attributes:
        helpers: the prompt's own code, compiled.
        tests: the tests, rewritten and compiled; to be executed in the helpers' namespace.
        remote: names that must come from the candidate; the first is the entry point if the task names one.
        required: those of `remote` without which there is nothing to test.
        called: those of `required` that the tests call.
        imports: standard modules (and numpy) that the tests use without importing them: name -> module.
        total: the number of tests, None if they cannot be counted.
        lasting: whether prompt or tests may change the judge's interpreter for later tasks.
        modules: the modules that prompt and tests import.
        surroundings: whether the tests ask about the interpreter in which the function runs.
        settings: whether the tests change a setting that each process has for itself.
        classes: the prompt's own classes that are complete; their objects cross as plain data.
        seeds: whether the tests seed `random`; the function must then use the same state.
    """

    helpers: CodeType
    tests: CodeType
    remote: list[str]
    required: list[str]
    called: set[str] = field(default_factory=set)
    imports: dict[str, str] = field(default_factory=dict)
    total: int | None = None
    lasting: bool = False
    modules: list[str] = field(default_factory=list)
    surroundings: bool = False
    settings: bool = False
    classes: list[str] = field(default_factory=list)
    seeds: bool = False


def split(task: dict[str, Any]) -> Split:
    """Work out how to judge a task.

    Raises:
        Unsplittable: the prompt or the tests do not compile; the tests do not define `check`, read what the program
            prints, execute what it returns or use the judge's alarm; or the entry point is async.
    """
    prompt, entry_point = task["prompt"], task.get("entry_point")
    helpers = _parse_prompt(prompt, entry_point)
    source = test_source(task)
    try:
        tests = ast.parse(source, "<tests>")
    except (SyntaxError, ValueError) as error:
        raise Unsplittable(f"the task's tests do not compile: {error}") from None
    listed = bool(task.get("test_list"))
    nodes = list(ast.walk(tests))
    bound = _bound(nodes)
    if not listed and "check" not in bound:  # otherwise the completion could define it
        raise Unsplittable("the task's tests do not define check")
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    if captured := CAPTURES_OUTPUT & (used | attributes):
        raise Unsplittable(f"the tests look at what the program prints ({sorted(captured)[0]})")
    if executing := _executing(nodes) | (EXECUTES & bound) | (_executing_helpers(helpers) & used):
        raise Unsplittable(f"the tests execute what the program returns ({sorted(executing)[0]})")
    if alarming := TAKES_THE_ALARM & (used | attributes):
        raise Unsplittable(f"the tests take the judge's alarm ({sorted(alarming)[0]})")
    finished, unfinished = _definitions(helpers)
    if any(isinstance(node, ast.AsyncFunctionDef) and node.name == entry_point for node in helpers.body):
        raise Unsplittable(f"{entry_point} is async, and no loop runs across the border")
    wanted = used - bound - BUILTINS - finished
    wanted |= _shadowed(task, tests, (used & BUILTINS) - bound, bool(wanted))
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    modules = (wanted - called) & (sys.stdlib_module_names | set(IMPORTABLE))  # a module cannot be called
    imports = {name: IMPORTABLE.get(name, name) for name in modules}
    remote = sorted((wanted | unfinished) - set(imports) - {entry_point})
    required = [entry_point] if entry_point else sorted(set(remote) & wanted)
    around = list(ast.walk(helpers))
    imported = _imported(around), _imported(nodes)
    lasting = _lasting(around, imported[0]) or _lasting(nodes, imported[1])
    total = _rewrite(tests, listed, source)
    try:
        compiled_helpers = compile(helpers, "<prompt>", "exec", dont_inherit=True)
        compiled_tests = compile(tests, "<tests>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise Unsplittable(f"the task does not compile: {error}") from None
    return Split(
        helpers=compiled_helpers,
        tests=compiled_tests,
        remote=([entry_point] if entry_point else []) + remote,
        required=required,
        called=set(required) & (called | {entry_point}),
        imports=imports,
        total=total,
        lasting=lasting,
        modules=sorted(_modules_of(imported)),
        surroundings=bool(SURROUNDINGS & (used | attributes | bound)),
        settings=bool(SETTINGS & (used | attributes)),
        seeds=bool({"seed", "setstate"} & (used | attributes)) and "random" in _modules_of(imported),
        classes=sorted(_whole_classes(helpers) & finished - {entry_point}),
    )


def _modules_of(imported: Iterable[dict[str, str]]) -> set[str]:
    return {name.partition(":")[0] for names in imported for name in names.values()}


def _shadowed(task: dict[str, Any], tests: ast.Module, names: set[str], others: bool) -> set[str]:
    """Return those builtin names that the task wants the candidate to define.

    They come from the entry point, or else from the reference solution, or else from the calls in the asserts.
    """
    if task.get("entry_point"):
        return names & {task["entry_point"]}
    try:
        solution = ast.parse(task.get("canonical_solution") or "").body
    except (SyntaxError, ValueError):  # only a function's body
        solution = []
    defined = names & {node.name for node in solution if isinstance(node, ast.FunctionDef)}
    if defined or others:
        return defined
    asserts = [node.test for node in tests.body if isinstance(node, ast.Assert)]
    calls = [test.left if isinstance(test, ast.Compare) else test for test in asserts]
    return {call.func.id for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)} & names


def _imported(nodes: list[ast.AST]) -> dict[str, str]:
    """Map each name that an import binds to its module, or to `module:name` for a part of one."""
    bound = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound[alias.asname or alias.name.partition(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom):
            bound |= {alias.asname or alias.name: f"{node.module}:{alias.name}" for alias in node.names}
    return bound


def _lasting(nodes: list[ast.AST], imported: dict[str, str]) -> bool:
    """Return whether this code might change the judge's interpreter; such tests run in a fork of it.

    Code is safe if it imports only modules in `PURE` and uses nothing in them that can be changed.
    """
    if any(name.partition(":")[0].partition(".")[0] not in PURE for name in imported.values()):
        return True
    named = [name.split(":") for name in imported.values() if ":" in name]
    if any(module != "typing" and not isinstance(_find(module, name), UNCHANGING) for module, name in named):
        return True
    modules = {name: module for name, module in imported.items() if ":" not in module}
    inside = set()  # names of modules that are followed by an attribute
    for node in nodes:
        if not isinstance(node, ast.Attribute):
            continue
        if node.attr in CHANGING or (not isinstance(node.ctx, ast.Load) and _root(node) in imported):
            return True
        if isinstance(node.value, ast.Name) and node.value.id in modules:
            inside.add(id(node.value))
            if not isinstance(_find(modules[node.value.id], node.attr), UNCHANGING):
                return True
    return any(
        isinstance(node, ast.Name) and (node.id in CHANGING or (node.id in modules and id(node) not in inside))
        for node in nodes
    )  # a module used as a value


def _find(module: str, name: str) -> Any:
    try:
        found = importlib.import_module(module)
    except ImportError:
        return ...
    return getattr(found, name, ...)


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _parse_prompt(prompt: str, entry_point: str | None) -> ast.Module:
    """Parse the prompt as a module; it may end where the body of a function has to follow.

    If it does not compile, parse only what is above the last definition of the entry point; else raise Unsplittable.
    """
    for ending in ("", "\n    pass\n", "\n        pass\n"):
        try:
            return ast.parse(prompt + ending, "<prompt>")
        except (SyntaxError, ValueError) as error:
            problem = error
    headers = [found.start() for found in re.finditer(rf"\bdef\s+{re.escape(entry_point or '')}\b", prompt)]
    before = headers[-1] if entry_point and headers else -1
    if before >= 0:  # keep what is above the function to write
        try:
            return ast.parse(prompt[:before].rpartition("\n")[0] + "\n", "<prompt>")
        except (SyntaxError, ValueError):
            pass
    raise Unsplittable(f"the task's prompt does not compile: {problem}")


def _definitions(module: ast.Module) -> tuple[set[str], set[str]]:
    """Return the names that a prompt binds completely, and the functions that it leaves to be written."""
    finished, unfinished = set(), set()
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and all(map(_says_nothing, node.body)):
            unfinished.add(node.name)
        else:
            finished |= _bound(ast.walk(node))
    return finished - unfinished, unfinished


def _whole_classes(module: ast.Module) -> set[str]:
    """Return classes in which no method is left to be written and no code may execute text, or read files."""
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    methods = {kind.name: [node for node in kind.body if isinstance(node, ast.FunctionDef)] for kind in classes}
    if any(method.name == "__del__" for found in methods.values() for method in found):
        return set()  # __del__ would run in the judge, after a check
    reading = {node.name for node in classes for n in ast.walk(node)
               if isinstance(n, ast.Name) and n.id in ("open", "os", "io", "pathlib", "shutil", "socket")}  # fmt: skip
    written = {name for name, found in methods.items() if not any(map(_unwritten, found))}
    return written - _executing_helpers(module) - reading


def _executing(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the names by which this code may execute text or bytes that it is given."""
    nodes = list(nodes)
    names = {node.id for node in nodes if isinstance(node, ast.Name)} & (EXECUTES | EXECUTING)
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)} & EXECUTE
    parts = [name.replace(":", ".").split(".") for name in _imported(nodes).values()]
    return names | attributes | {found for words in parts for found in {*words} & (EXECUTE | IMPORTED)}


def _executing_helpers(module: ast.Module) -> set[str]:
    """Return the prompt's functions and classes that may execute text: in the judge they must see no returned value."""
    modules = _imported(list(ast.walk(module))).items()
    imported = {name for name, what in modules if {*what.replace(":", ".").split(".")} & (EXECUTE | IMPORTED)}
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        node.name
        for node in module.body
        if isinstance(node, definitions)
        and (_executing(ast.walk(node)) or imported & {n.id for n in ast.walk(node) if isinstance(n, ast.Name)})
    }


def _unwritten(method: ast.FunctionDef) -> bool:
    abstract = any(ast.unparse(decorator).endswith("abstractmethod") for decorator in method.decorator_list)
    return not abstract and all(map(_says_nothing, method.body))


def _says_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _bound(nodes: Iterable[ast.AST]) -> set[str]:
    """Return every name that one of these nodes binds, in any scope."""
    names = set()
    for node in nodes:
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


def _rewrite(tests: ast.Module, listed: bool, source: str) -> int | None:
    """Make asserts report their values, and make each counted test record its outcome instead of ending the run.

    Returns the number of counted tests, None if there is none.
    """
    explain, total = _Explain(source), 0
    for position, node in enumerate(tests.body):
        if listed:
            tests.body[position], total = _explained(explain, node, total)
        elif isinstance(node, ast.FunctionDef) and node.name == "check":
            for place, statement in enumerate(node.body):
                node.body[place], total = _explained(explain, statement, total)
        else:
            tests.body[position] = explain.visit(node)
    ast.fix_missing_locations(tests)
    return total or None


def _explained(explain: _Explain, statement: ast.stmt, total: int) -> tuple[ast.stmt, int]:
    """Make a statement's asserts report their values; count it as a test if it has any and is not a definition."""
    before = explain.made
    new = explain.visit(statement)
    if explain.made == before or isinstance(new, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return new, total
    return _counted(new, total), total + 1


def _counted(statement: ast.stmt, number: int) -> ast.Try:
    """Wrap `statement` so that its outcome is recorded under `number`."""
    template = ast.parse(
        f"try:\n    pass\nexcept Exception as _sandbox_error:\n    {RECORD}({number}, _sandbox_error)\n"
        f"else:\n    {RECORD}({number}, None)\n"
    ).body[0]
    assert isinstance(template, ast.Try)
    template.body = [statement]
    return template


class _Explain(ast.NodeTransformer):
    """A rewriter: `assert a == b` becomes `if not ((x := a) == (y := b)): raise compare(text, x, y)`."""

    def __init__(self, source: str) -> None:
        self.lines, self.made = source.split("\n"), 0

    def text(self, node: ast.expr) -> str:
        line = self.lines[node.lineno - 1] if node.lineno <= len(self.lines) else ""
        if node.lineno == node.end_lineno and line.isascii():
            return line[node.col_offset : node.end_col_offset]
        return ast.unparse(node)

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        test = node.test
        if isinstance(test, ast.Constant):
            return node
        self.made += 1
        text = ast.Constant(self.text(test))
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
