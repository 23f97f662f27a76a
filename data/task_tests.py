"""Make tests that the judge can run from the tests of public data sets: pytest functions, or lists of calls.

The judge runs a task's tests outside the sandbox's locks, because the tests of this project's own tasks are trusted.
Those of a public data set are not. So `check_harmless` lets only plain computation through.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import keyword
import sys
import warnings
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from judging.python.split import PURE

MAX_TESTS = 1_000_000  # characters in the tests of a task; more takes too long to send and to split, for every check
USABLE = PURE | {"numpy", "__future__"}
# reach files, other modules, frames, or text that is run as code
BUILTINS = set("open eval exec compile breakpoint globals locals vars getattr setattr delattr".split())
ATTRIBUTES = set(
    "attrgetter methodcaller get_type_hints Formatter ForwardRef gi_frame cr_frame ag_frame tb_frame f_globals "
    "f_locals f_builtins f_back load save savez savez_compressed savetxt loadtxt genfromtxt fromregex fromfile tofile "
    "dump memmap DataSource load_library ctypeslib f2py lib testing singledispatch singledispatchmethod".split()
)
OF_SYS = {"getsizeof", "maxsize", "float_info", "version_info"}
KNOWN_DUNDERS = {"__init__", "__name__", "__doc__", "__len__", "__eq__", "__class__"}

PYTEST = '''class pytest:
    """What these tests use of pytest, which the judge need not have."""

    class raises:
        def __init__(self, kinds, function=None, *arguments, match=None, **keywords):
            self.kinds, self.match = kinds, match
            if function is not None:
                with self:
                    function(*arguments, **keywords)

        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            if kind is None:
                raise AssertionError("nothing was raised")
            self.value, self.type = error, kind
            if not issubclass(kind, self.kinds):
                return False
            if self.match is not None and not re.search(self.match, str(error)):
                raise AssertionError("the message does not match")
            return True

    class approx:
        def __init__(self, expected, rel=None, abs=None):
            self.expected, self.rel, self.abs = expected, rel, abs

        def __eq__(self, actual):
            wanted = self.expected
            if isinstance(wanted, dict):
                return len(wanted) == len(actual) and all(
                    key in actual and pytest.approx(wanted[key], self.rel, self.abs) == actual[key] for key in wanted)
            if isinstance(wanted, (list, tuple)):
                return len(wanted) == len(actual) and all(
                    pytest.approx(one, self.rel, self.abs) == other for one, other in zip(wanted, actual))
            if not isinstance(wanted, (int, float, complex)) or wanted == actual:
                return wanted == actual
            relative = 1e-6 if self.rel is None and self.abs is None else self.rel or 0.0
            bound = max(relative * abs(wanted), 1e-12 if self.abs is None else self.abs)
            return wanted not in (math.inf, -math.inf) and abs(actual - wanted) <= bound
'''
HOLDS = "def holds(test, *arguments):\n    test(*arguments)\n    return True\n"
LISTED = "def listed(value):\n    return list(value) if isinstance(value, tuple) else value\n\n\n"
LISTED_INSIDE = """def listed(value):
    if not isinstance(value, (list, tuple)):
        return value
    return [list(one) if isinstance(one, tuple) else one for one in value]


"""


class Unfit(Exception):
    """The record cannot be a task; the message is the reason, the same for all records with the same fault."""


def parse(source: str, what: str) -> ast.Module:
    """Return the syntax tree. Raise Unfit if this is not Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # invalid escapes
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Unfit(f"{what} not Python") from None


def check_harmless(source: str, defined: set[str] | frozenset[str] = frozenset()) -> None:
    """Raise Unfit if code for the judge imports, names or reaches anything but plain computation.

    This is a filter by names. It stops what a data set does in plain sight, by chance or by malice. An object may have
    an attribute of any name under which no usable module holds another module (`ways_out`).

    Args:
        defined: names that come from the program.

    >>> check_harmless("import math\\nassert math.gcd(4, 6) == 2")
    >>> check_harmless("import random; random._os.system('ls')")
    Traceback (most recent call last):
        ...
    task_tests.Unfit: its tests use more than plain computation
    """
    if len(source) > MAX_TESTS:
        raise Unfit("its tests are too long")
    nodes = list(ast.walk(parse(source, "its tests are")))
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)} | defined
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    # the judge imports modules that tests use without an import, but not if they bind or call the name
    bound |= {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    plain = {id(node.value) for node in nodes if isinstance(node, ast.Attribute) and node.attr in OF_SYS}
    for node in nodes:
        if isinstance(node, ast.Import):
            harmful = any(alias.name.partition(".")[0] not in USABLE or _reaches(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            usable = not node.level and (node.module or "").partition(".")[0] in USABLE
            harmful = not usable or any(_reaches(name) for name in (node.module, *(n.name for n in node.names)))
        elif isinstance(node, ast.Attribute):
            harmful = _reaches(node.attr)
        elif isinstance(node, ast.Name):
            if node.id == "sys" and id(node) in plain:
                continue
            dunder = node.id.startswith("__") and node.id.strip("_") != "" and node.id not in KNOWN_DUNDERS
            harmful = dunder or node.id in BUILTINS or node.id in sys.stdlib_module_names - USABLE - bound
        else:
            harmful = isinstance(node, ast.MatchClass)  # it reads attributes too
        if harmful:
            raise Unfit("its tests use more than plain computation")


def _reaches(path: str) -> bool:
    private = any(name.startswith("_") and name not in KNOWN_DUNDERS | {"__future__"} for name in path.split("."))
    return private or bool({*path.split(".")} & (ATTRIBUTES | ways_out()))


@functools.cache
def ways_out() -> frozenset[str]:
    """Return the names under which usable modules hold modules that are not usable, as `enum` holds `builtins`."""
    found, seen, modules = set(), set(), [importlib.import_module(name) for name in sorted(USABLE)]
    while modules:
        module = modules.pop()
        seen.add(module.__name__)
        with warnings.catch_warnings(action="ignore"):  # names that numpy gives up
            held = [(name, getattr(module, name, None)) for name in dir(module) if name not in ATTRIBUTES]
        for name, value in held:
            if isinstance(value, ModuleType) and not name.startswith("_"):
                if value.__name__.partition(".")[0] not in USABLE:
                    found.add(name)
                elif value.__name__ not in seen:
                    modules.append(value)
    return frozenset(found)


def check_of_pytest(source: str, module: str = "solution", defined: Iterable[str] = ()) -> tuple[str, list[str]]:
    """Turn a file of pytest functions into a task's `test`; each function (and each case of it) counts as one test.

    Functions may use `pytest.raises`, `pytest.approx` and `pytest.mark.parametrize`.

    Args:
        module: the name under which the file imports the program; these imports are left out, because the judge gives
            the tests the program's names.
        defined: what the program defines. A name of these that the file uses without binding it counts as imported.

    Returns:
        `test`, and the names that it takes from the program.

    Raises:
        Unfit: the tests need more of pytest, some are in classes or asynchronous, or there is none.
    """
    if len(source) > MAX_TESTS:
        raise Unfit("its tests are too long")
    tree, names, kept, calls = parse(source, "its tests are"), [], [], []
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" and not node.orelse:
            continue  # pytest does not run it
        if isinstance(node, ast.ImportFrom) and node.module == module:
            names += [alias.name for alias in node.names if alias.name != "*"]
            renamed = [f"{alias.asname} = {alias.name}" for alias in node.names if alias.asname]
            kept += ast.parse("\n".join(renamed)).body
        elif isinstance(node, ast.ImportFrom) and node.module == "pytest":
            if any(alias.name == "*" for alias in node.names):
                raise Unfit("its tests import pytest in a way that is not handled")
            kept += ast.parse("\n".join(f"{n.asname or n.name} = pytest.{n.name}" for n in node.names)).body
        elif isinstance(node, ast.Import) and [(n.name, n.asname) for n in node.names] == [("pytest", None)]:
            continue
        else:
            inside = node.body if isinstance(node, ast.ClassDef) else [node] * isinstance(node, ast.AsyncFunctionDef)
            if any(getattr(one, "name", "").startswith("test") for one in inside):
                raise Unfit("some of its tests are in classes or asynchronous")
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                calls += _calls(node)
            kept.append(node)
    nodes = [node for top in kept for node in ast.walk(top)]
    if any(isinstance(node, ast.ImportFrom) and node.module == module for node in nodes):
        raise Unfit("its tests import the program in a way that is not handled")
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pytest"}
    if used - {"raises", "approx"}:
        raise Unfit("its tests need more of pytest than raises, approx and parametrize")
    if not calls:
        raise Unfit("it has no test functions")
    body = ast.unparse(ast.Module(kept, []))
    check = "def check(candidate):\n" + "".join(f"    assert {call}\n" for call in calls)
    parts = ["import math\nimport re\n\n\n" + PYTEST] if used else []
    free = _free([*ast.walk(ast.parse(body + "\n" + check))])
    names += [name for name in defined if name in free and name not in names]
    return "\n\n".join([*parts, body + "\n", HOLDS, check]), names


def _free(nodes: list[ast.AST]) -> set[str]:
    """Return the names that this code uses and binds nowhere."""
    used, bound = set(), set()
    for node in nodes:
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.partition(".")[0])
    return used - bound


def _calls(test: ast.FunctionDef) -> list[str]:
    """Return the calls of a test function, one for each case that its decorator lists; remove the decorator."""
    arguments = [a.arg for a in (*test.args.posonlyargs, *test.args.args)]
    if len(test.decorator_list) == 1 and isinstance(mark := test.decorator_list[0], ast.Call):
        if ast.unparse(mark.func).endswith("mark.parametrize") and len(mark.args) == 2 and not mark.keywords:
            given, cases = mark.args
            names = _names_given(given)
            if names and sorted(names) == sorted(arguments) and isinstance(cases, ast.List | ast.Tuple):
                test.decorator_list = []
                one = len(names) == 1 and isinstance(given, ast.Constant)
                rows = [[case] if one else getattr(case, "elts", []) for case in cases.elts]
                if all(len(row) == len(names) and not any(isinstance(v, ast.Starred) for v in row) for row in rows):
                    places = [names.index(name) for name in arguments]
                    return [f"holds({', '.join([test.name, *(ast.unparse(row[p]) for p in places)])})" for row in rows]
    if test.decorator_list or arguments or test.args.kwonlyargs:
        raise Unfit("its tests need fixtures or decorators of pytest")
    return [f"holds({test.name})"]


def _names_given(given: ast.expr) -> list[str]:
    """Return the names that `parametrize` gets: a text with commas, or a list of texts. [] if they are neither."""
    if isinstance(given, ast.Constant) and isinstance(given.value, str):
        return [name.strip() for name in given.value.split(",")]
    names = given.elts if isinstance(given, ast.List | ast.Tuple) else []
    return [name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str)]


def check_of_calls(inputs: list[Any], outputs: list[Any], method: str = "", inside: bool = False) -> tuple[str, int]:
    """Return a `test` that calls the candidate with each list of arguments and compares what it returns.

    A tuple that is returned counts as a list, as in the data sets' own evaluations, whose values are from JSON.

    Args:
        method: the candidate is a class (LeetCode's `Solution`), and this is the method to call.
        inside: tuples directly inside of what is returned count as lists too.

    Returns:
        `test`, and the number of its calls: those from the first on that fit (`MAX_TESTS`).

    >>> print(check_of_calls([[1, "a"]], [None], "f")[0])
    def check(candidate):
        assert candidate().f(1, 'a') == None
    <BLANKLINE>

    Raises:
        Unfit: the inputs are not lists of arguments, a value has no literal, or not even the first call fits.
    """
    called, lines = f"candidate().{method}" if method else "candidate", []
    listed = LISTED_INSIDE if inside else LISTED
    left = MAX_TESTS - len(listed) - len("def check(candidate):\n")
    for arguments, expected in zip(inputs, outputs, strict=True):
        if not isinstance(arguments, list):
            raise Unfit("its inputs are not lists of arguments")
        call = f"{called}({', '.join(map(literal, arguments))})"
        call = f"listed({call})" if isinstance(expected, list) else call
        line = f"    assert {call} == {literal(expected)}\n"
        left -= len(line)
        if left < 0:
            break
        lines.append(line)
    if not lines:
        raise Unfit("its tests are too long")
    test = "def check(candidate):\n" + "".join(lines)
    return (listed + test if "listed(" in test else test), len(lines)


def literal(value: Any) -> str:
    """Return the literal of a value that came from JSON. Raise Unfit if it has none (NaN, infinities)."""
    try:
        json.dumps(value, allow_nan=False)
        return repr(value)
    except (ValueError, RecursionError):
        raise Unfit("a value in its tests has no literal") from None


def is_name(text: Any) -> bool:
    """Return whether this is a name that a function may have, and no private one."""
    return isinstance(text, str) and text.isidentifier() and not keyword.iskeyword(text) and text[0] != "_"
