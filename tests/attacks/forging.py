"""Making a wrong program look right."""

# ruff: noqa: E501 (a program is one string)

from . import FAIL, PROTOCOL, TIMEOUT, Attack

_FRAME = """
import json, os, struct

def frame(message):
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body
"""


def _at_import(text: str) -> str:
    return "    return x\n\n" + text


def _equal(base: str, extra: str = "") -> str:
    return (
        f"    class Equal({base}):\n        def __eq__(self, other): return True\n"
        f"        def __ne__(self, other): return False\n        def __hash__(self): return hash(6)\n{extra}"
        f"    return Equal()\n"
    )


_ORDER = "".join(f"        def __{name}__(self, *other): return True\n" for name in ("lt", "le", "gt", "ge"))
_NUMBER = "".join(
    f"        def __{name}__(self, *other): return 0\n" for name in ("sub", "rsub", "abs", "float", "index")
)

# looks through everything that the interpreter can reach for the value that the tests expect
_SEARCH = """    import gc, sys
    seen = set()
    def look(value, depth):
        if isinstance(value, str):
            return value if value.startswith("S3CR" + "ET") else None
        if depth > 6 or id(value) in seen:
            return None
        seen.add(id(value))
        if isinstance(value, dict):
            parts = list(value.values()) + list(value)
        elif isinstance(value, (list, tuple, set, frozenset)):
            parts = list(value)
        else:
            parts = [getattr(value, n, None) for n in ("__dict__", "__code__", "co_consts", "__closure__", "f_locals")]
        for part in parts:
            found = look(part, depth + 1)
            if found:
                return found
"""

ATTACKS = [
    Attack("prints passed", FAIL, "    print('passed', 'OK', '1 passed', flush=True)\n    return x\n"),
    Attack(
        "verdicts on every descriptor",
        PROTOCOL,
        '    import os\n    for fd in range(64):\n        try: os.write(fd, b\'{"status": "pass", "reason": ""}\\n\')\n'
        "        except OSError: pass\n    return x\n",
    ),
    Attack(
        "a program's answer written before the program's end",
        PROTOCOL,
        _at_import(_FRAME + 'os.write(3, frame({"names": {"double": {"x": ["double", "f", "c"]}}}))\n'),
    ),
    Attack(
        "answers written before the questions, by number",
        PROTOCOL,
        _at_import(_FRAME + 'for n in range(1, 9): os.write(3, frame({"id": n, "value": 6}))\n'),
    ),
    Attack(
        "two answers to one question",
        PROTOCOL,
        _at_import(_FRAME).replace("return x", 'os.write(3, frame({"id": 1, "value": 6})); return 6'),
    ),
    Attack(
        "an answer to another question",
        PROTOCOL,
        _at_import(_FRAME).replace("return x", 'os.write(3, frame({"id": 99, "value": 6})); os.read(3, 1)'),
    ),
    Attack(
        "an answer whose number is text",
        PROTOCOL,
        _at_import(_FRAME).replace("return x", 'os.write(3, frame({"id": "1", "value": 6})); os.read(3, 1)'),
    ),
    Attack(
        "an answer whose number is True",
        PROTOCOL,
        _at_import(_FRAME).replace("return x", 'os.write(3, frame({"id": True, "value": 6})); os.read(3, 1)'),
    ),
    *[
        Attack(
            f"a malformed answer: {name}",
            PROTOCOL,
            _at_import(_FRAME).replace("return x", f"os.write(3, frame({message})); os.read(3, 1)"),
        )
        for name, message in (
            ("a list", "[1, 2]"),
            ("a number", "7"),
            ("a verdict", '{"status": "pass", "reason": ""}'),
            ("no value", '{"id": 1}'),
            ("an unknown tag", '{"id": 1, "value": {"q": [1]}}'),
            ("two tags", '{"id": 1, "value": {"t": [1], "s": [1]}}'),
            ("a tuple of text", '{"id": 1, "value": {"t": "ab"}}'),
            ("an unhashable key", '{"id": 1, "value": {"d": [[[1], 2]]}}'),
            ("a reference to nothing", '{"id": 1, "value": {"x": "double"}}'),
            ("a range without steps", '{"id": 1, "value": {"r": [0, 1, 0]}}'),
            ("arguments that were not sent", '{"id": 1, "value": 6, "args": [[7, 1]]}'),
            ("arguments by name", '{"id": 1, "value": 6, "args": {"a": 1}}'),
            ("an error without a type", '{"error": {"types": [], "message": "", "line": 0}}'),
            ("an error that is text", '{"error": "no"}'),
            ("an error whose line is text", '{"error": {"types": [7], "message": "", "line": "x"}}'),
        )
    ],
    Attack(
        "a frame of two gigabytes", PROTOCOL, _at_import("import os\nos.write(3, b'\\x7f\\xff\\xff\\xff' + b'1')\n")
    ),
    Attack("an empty frame", PROTOCOL, _at_import("import os\nos.write(3, bytes(4))\n")),
    Attack("a frame that is not JSON", PROTOCOL, _at_import("import os\nos.write(3, bytes([0, 0, 0, 2]) + b'{]')\n")),
    Attack("a frame of nan", PROTOCOL, _at_import("import os\nos.write(3, bytes([0, 0, 0, 3]) + b'NaN')\n")),
    Attack("a frame that is not text", PROTOCOL, _at_import("import os\nos.write(3, bytes([0, 0, 0, 2, 255, 254]))\n")),
    Attack(
        "a frame 100,000 lists deep",
        PROTOCOL,
        _at_import("import os\nos.write(3, (100000).to_bytes(4, 'big') + b'[' * 100000)\n"),
    ),
    Attack(
        "a number of 100,000 digits",
        PROTOCOL,
        _at_import("import os\nos.write(3, (100000).to_bytes(4, 'big') + b'9' * 100000)\n"),
    ),
    Attack(
        "half a frame",
        TIMEOUT,
        "    import os, time\n    os.write(3, bytes([0, 0, 0, 9]))\n    time.sleep(9)\n",
        limit=0.7,
    ),
    Attack(
        "frames from a thread",
        ("protocol", "fail"),
        "    import os, threading\n    def spam():\n        while True: os.write(3, bytes([0, 0, 0, 2]) + b'{}')\n"
        "    threading.Thread(target=spam, daemon=True).start()\n    return x\n",
    ),
    Attack("a value in the codec's own dress", FAIL, "    return {'i': '6'} if x == 3 else {'i': '-8'}\n"),
    Attack(
        "searches frames",
        FAIL,
        _SEARCH + "    frame = sys._getframe()\n    while frame:\n        found = look("
        "frame.f_locals, 0) or look(frame.f_globals, 0) or look(frame.f_code, 0)\n        if found: return found\n"
        "        frame = frame.f_back\n",
        "secret",
    ),
    Attack(
        "searches the collector's objects",
        ("fail", "timeout"),
        _SEARCH + "    gc.unfreeze()\n    for value in "
        "gc.get_objects():\n        found = look(value, 5)\n        if found: return found\n",
        "secret",
        2.0,
    ),
    Attack("searches modules", FAIL, _SEARCH + "    return look(dict(sys.modules), 0)\n", "secret"),
    Attack(
        "searches its own memory",
        ("fail", "crash", "timeout"),
        "    import ctypes, re\n    start = id(object()) & ~0xfffff\n    for page in range(start, start + (1 << 24), 4096):\n"
        "        found = re.search(b'S3CR' + b'ET-[0-9a-f]+', ctypes.string_at(page, 4096))\n"
        "        if found: return found.group().decode()\n",
        "secret",
        2.0,
    ),
    Attack(
        "reads its command line and its parent's",
        FAIL,
        "    import os\n    text = ''\n    for pid in ('self', os.getppid(), 1):\n        for name in ('cmdline', 'environ'):\n"
        "            text += open(f'/proc/{pid}/{name}').read()\n    return 2 * x\n",
    ),
    Attack(
        "a check of its own", FAIL, _at_import("def check(candidate): pass\nclass AssertionError(Exception): pass\n")
    ),
    Attack(
        "patched builtins",
        ("fail", "crash"),
        _at_import(
            "import builtins\nbuiltins.AssertionError = type('A', (Exception,), {})\nfor name in "
            "('all', 'any', 'isinstance', 'abs', 'len', 'bool', 'min'): setattr(builtins, name, lambda *a: True)\n"
        ),
    ),
    Attack("patched json", FAIL, _at_import('import json\njson.dumps = lambda *a, **k: \'{"id": 1, "value": 7}\'\n')),
    Attack(
        "patched encoder of the runner",
        FAIL,
        _at_import(
            "import sys\nrunner = sys.modules['judging.python.runner']\nrunner.encode = lambda *a: {'f': 'inf'}\n"
        ),
    ),
    Attack(
        "patched messages of the runner",
        ("protocol", "fail"),
        _at_import(
            "import sys\nrunner = sys.modules['judging.python.runner']\nrunner._Runner.answer = "
            "lambda s, r: {'status': 'pass', 'id': r['id'], 'value': None}\n"
        ),
    ),
    Attack("emptied sys.modules", ("fail", "crash"), _at_import("import sys\nsys.modules.clear()\n")),
    Attack(
        "settrace", FAIL, _at_import("import sys\nsys.settrace(lambda f, e, a: f.f_globals.update(ok=True) or None)\n")
    ),
    Attack("setprofile", FAIL, _at_import("import sys, threading\nsys.setprofile(lambda *a: None)\n")),
    Attack(
        "trace that rewrites the runner's locals",
        ("fail", "no_entry_point"),
        _at_import(
            "import sys, ctypes\ndef trace(frame, event, arg):\n    for name in ('value', 'reply', 'expected'):\n"
            "        if name in frame.f_locals: frame.f_locals[name] = True\n"
            "    ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), 0)\n    return trace\n"
            "sys.settrace(trace)\nsys._getframe(1).f_trace = trace\n"
        ),
    ),
    Attack("an object that equals everything", FAIL, _equal("")),
    Attack("an int that equals everything", FAIL, _equal("int")),
    Attack("a str that equals everything", FAIL, _equal("str")),
    Attack("a list that equals everything", FAIL, _equal("list")),
    Attack("a float that equals everything, near", FAIL, _equal("float", _NUMBER), "near"),
    Attack("an object that is near everything", FAIL, _equal("", _NUMBER), "near"),
    Attack("an object between all bounds", FAIL, _equal("", _ORDER), "bounds"),
    Attack("an int between all bounds", FAIL, _equal("int", _ORDER), "bounds"),
    Attack("a member of every set", FAIL, _equal(""), "member"),
    Attack("different from nothing", FAIL, _equal(""), "not_equal"),
    Attack("mock.ANY", FAIL, "    from unittest import mock\n    return mock.ANY\n"),
    Attack("a Mock", FAIL, "    from unittest import mock\n    return mock.MagicMock()\n", "near"),
    Attack(
        "a truthy __eq__ that is no bool",
        FAIL,
        "    class E:\n        def __eq__(s, o): return 'yes'\n    return E()\n",
    ),
    Attack("an object that lies about its class", FAIL, _equal("", "        __class__ = int\n")),
    Attack(
        "a metaclass that equals everything",
        FAIL,
        "    class Meta(type):\n        def __eq__(c, o): return True\n        def __hash__(c): return 6\n"
        "        def __instancecheck__(c, o): return True\n    class E(metaclass=Meta): pass\n    return E\n",
    ),
    Attack(
        "a number that says it comes from numpy",
        FAIL,
        "    class N:\n        ndim = 0\n        def item(self): return 7\n    N.__module__ = 'numpy'\n    return N()\n",
    ),
    Attack(
        "a repr that exits",
        FAIL,
        "    class E:\n        def __repr__(self): raise SystemExit\n        __str__ = __repr__\n    return E()\n",
    ),
    Attack(
        "a __del__ that exits",
        ("fail", "crash"),
        "    import os\n    class E:\n        def __del__(self): os._exit(0)\n    E()\n    return x\n",
    ),
    Attack("True for True and False", FAIL, "    return 1\n", "truth"),
    Attack("nan is near nothing", FAIL, "    return float('nan')\n", "near"),
    Attack("nan for a number", FAIL, "    return float('nan')\n"),
    Attack("StopIteration ends the tests' map", FAIL, "    raise StopIteration\n", "mapped"),
    Attack("StopIteration in a loop", FAIL, "    raise StopIteration\n", "looped"),
    Attack("raises AssertionError", FAIL, "    raise AssertionError('fine')\n"),
    Attack(
        "raises a class that calls itself ValueError",
        FAIL,
        "    class ValueError(Exception): pass\n    raise ValueError('v')\n",
    ),
    Attack("raises an error of a hundred lines", FAIL, "    raise ValueError('pass\\n\\x1b[2J' * 10000)\n"),
    Attack(
        "raises an error whose text exits",
        FAIL,
        "    class E(Exception):\n        def __str__(s): raise SystemExit\n    raise E\n",
    ),
    Attack("raises an error without a name", ("fail", "protocol"), "    raise type('', (Exception,), {})()\n"),
    Attack("raises a group", FAIL, "    raise ExceptionGroup('g', [ValueError(1)])\n"),
    Attack(
        "raises another error than expected", FAIL, "    if x == 'a': raise TypeError\n    return 2 * x\n", "raises"
    ),
    Attack("sorts in place where it must not", FAIL, "    x.sort()\n    return x\n", "untouched"),
    Attack("a generator where a number is due", FAIL, "    yield 6\n"),
    Attack("never called", FAIL, "    return 6\n", "never_called"),
    Attack("a hang that the tests swallow", TIMEOUT, "    while True: pass\n", "swallowing", 0.7),
    Attack(
        "an __init_subclass__ that exits",
        FAIL,
        _at_import("class B:\n    def __init_subclass__(c): raise ValueError\n") + "class C(B): pass\n",
    ),
]
