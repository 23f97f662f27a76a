"""Completions that are broken, and completions that are right in an unusual way."""

# ruff: noqa: E501 (a program is one string)

from . import FAIL, NO_ENTRY, PASS, SYNTAX, Attack

_RAW = """    return 2 * x


def triple(x):
    return 3 * x


class Number:
    def __init__(self, value):
        self.value = value

print(double(2), triple(2))

if __name__ == "__main__":
    import unittest
    unittest.main()
"""

BROKEN = [
    Attack("empty body", FAIL, ""),
    Attack("only a comment", FAIL, "    # twice x\n"),
    Attack("only pass", FAIL, "    pass\n"),
    Attack("wrong", FAIL, "    return 3 * x\n"),
    Attack("right for the first test only", FAIL, "    return 6\n"),
    Attack("an unfinished line", SYNTAX, "    return (2 *\n"),
    Attack("an unfinished function after the body", SYNTAX, "    return 2 * x\n\n\ndef triple(x):\n"),
    Attack("a Markdown fence", SYNTAX, "    return 2 * x\n```\n"),
    Attack("prose after the body", SYNTAX, "    return 2 * x\n\nThis function doubles its argument.\n"),
    Attack("no indentation", SYNTAX, "return 2 * x\n"),
    Attack("mixed indentation", SYNTAX, "    y = 2 * x\n\treturn y\n"),
    Attack("a NUL byte", SYNTAX, "    return 2 * x\0\n"),
    Attack("a lone surrogate", SYNTAX, "    return 2 * x  # \ud800\n"),
    Attack("5000 parentheses", SYNTAX, "    return " + "(" * 5000 + "x" + ")" * 5000 + "\n"),
    Attack("a sum of 50,000 terms", ("syntax", "crash", "fail"), "    return " + "+".join(["x"] * 50_000) + "\n"),
    Attack("5000 unary signs", ("syntax", "crash", "fail"), "    return " + "-" * 5000 + "x\n"),
    Attack("150 nested lists", ("syntax", "fail"), "    return " + "[" * 150 + "]" * 150 + "\n"),
    Attack("a future import in the middle", SYNTAX, "    return 2 * x\n\nfrom __future__ import annotations\n"),
    Attack("a coding line", FAIL, "    return x\n\n# -*- coding: rot13 -*-\n"),
    Attack("entry point deleted", NO_ENTRY, "    return 2 * x\n\ndel double\n"),
    Attack("entry point not callable", NO_ENTRY, "    return 2 * x\n\ndouble = 6\n"),
    Attack("entry point deleted from its module", NO_ENTRY, "    return 2 * x\n\nglobals().clear()\n"),
    Attack("entry point overwritten", FAIL, "    return 2 * x\n\ndef double(x): return 0\n"),
    Attack(
        "entry point a class", FAIL, "    return 2 * x\n\nclass double:\n    def __init__(self, x): self.x = 2 * x\n"
    ),
    Attack("an async entry point", FAIL, "    return 2 * x\n\nasync def double(x): return 2 * x\n"),
    Attack("input()", FAIL, "    return 2 * int(input())\n"),
    Attack("reads standard input at import", FAIL, "    return x\n\nimport sys\ndata = sys.stdin.read()\n"),
    Attack("an import that does not exist", FAIL, "    import no_such_module\n    return 2 * x\n"),
    Attack("raises at import", FAIL, "    return 2 * x\n\nraise RuntimeError('broken')\n"),
    Attack("an assertion of its own fails at import", FAIL, "    return 2 * x\n\nassert double(1) == 3\n"),
    Attack("returns Ellipsis", FAIL, "    return ...\n"),
    Attack("returns NotImplemented", FAIL, "    return NotImplemented\n"),
    Attack("returns a type", FAIL, "    return int\n"),
    Attack("returns itself", FAIL, "    return double\n"),
    Attack("returns text for a number", FAIL, "    return str(2 * x)\n"),
    Attack("returns a tuple for a list", FAIL, "    return tuple(sorted(x))\n", "untouched"),
    Attack("a surrogate in an error", FAIL, "    raise ValueError('\\ud800')\n"),
]

GOOD = [
    Attack("right", PASS, "    return 2 * x\n"),
    Attack("right, prints", PASS, "    print('x' * 5000)\n    return 2 * x\n"),
    Attack(
        "right, writes to standard error", PASS, "    import sys\n    sys.stderr.write('no\\n')\n    return 2 * x\n"
    ),
    Attack("right, as base models write", PASS, _RAW),
    Attack("right, defined again", PASS, "    pass\n\ndef double(x):\n    return x + x\n"),
    Attack("right, a lambda", PASS, "    pass\n\ndouble = lambda x: x + x\n"),
    Attack(
        "right, a callable object",
        PASS,
        "    pass\n\nclass D:\n    def __call__(self, x): return 2 * x\ndouble = D()\n",
    ),
    Attack("right, with helpers", PASS, "    return _twice(x)\n\ndef _twice(x):\n    return x + x\n"),
    Attack(
        "right, with a cache",
        PASS,
        "    return f(x)\n\nimport functools\n@functools.lru_cache\ndef f(x): return 2 * x\n",
    ),
    Attack("right, module state", PASS, "    global n\n    n += 1\n    return n\n\nn = 0\n", "counted"),
    Attack("right, closes standard output", PASS, "    import sys\n    sys.stdout.close()\n    return 2 * x\n"),
    Attack(
        "right, starts a sleeping thread",
        PASS,
        "    import threading, time\n    threading.Thread(target=time.sleep, args=(60,)).start()\n    return 2 * x\n",
        limit=3.0,
    ),
    Attack(
        "right, a thread",
        PASS,
        "    import threading\n    r = []\n    t = threading.Thread(target=lambda: r.append(2 * x))\n    t.start(); t.join()\n    return r[0]\n",
    ),
    Attack(
        "right, a thread pool",
        PASS,
        "    from concurrent.futures import ThreadPoolExecutor\n    with ThreadPoolExecutor(8) as pool:\n"
        "        return sum(pool.map(abs, [x, x])) * (1 if x > 0 else -1)\n",
    ),
    Attack(
        "right, a pool of multiprocessing's threads",
        PASS,
        "    from multiprocessing.pool import ThreadPool\n    with ThreadPool(2) as pool:\n"
        "        return sum(pool.map(abs, [x, x])) * (1 if x > 0 else -1)\n",
    ),
    Attack(
        "right, multiprocessing's locks",
        PASS,
        "    import multiprocessing as m\n    lock, two, queue = m.RLock(), m.Semaphore(2), m.SimpleQueue()\n"
        "    queue.put(x)\n    with lock, lock, two, two:\n"
        "        return 2 * queue.get() if not two.acquire(timeout=0.01) else 0\n",
    ),
    Attack(
        "right, many threads one after another",
        PASS,
        "    import threading\n    for _ in range(300):\n        thread = threading.Thread(target=abs, args=(x,))\n"
        "        thread.start()\n        thread.join()\n    return 2 * x\n",
    ),
    Attack(
        "right, asyncio",
        PASS,
        "    import asyncio\n    async def f():\n        await asyncio.sleep(0.01)\n        return 2 * x\n    return asyncio.run(f())\n",
    ),
    Attack("right, numpy", PASS, "    import numpy as np\n    return int(np.array([x, x]).sum())\n", needs="numpy"),
    Attack("right, a numpy number", PASS, "    import numpy as np\n    return np.int64(x) * 2\n", needs="numpy"),
    Attack(
        "right, a numpy bool",
        PASS,
        "    import numpy as np\n    return bool(np.bool_(x == 3))\n",
        "truth",
        needs="numpy",
    ),
    Attack(
        "right, linear algebra",
        PASS,
        "    import numpy as np\n    a = np.eye(64) * x\n    return round(float((a @ np.linalg.inv(a / 2))[0, 0] * x))\n",
        needs="numpy",
    ),
    Attack("right, a float for an int", PASS, "    return 2.0 * x\n"),
    Attack("right, an int subclass", PASS, "    class N(int): pass\n    return N(2 * x)\n"),
    Attack("right, an IntEnum", PASS, "    import enum\n    return enum.IntEnum('E', {'a': 2 * x}).a\n"),
    Attack(
        "right, a Fraction's value", PASS, "    from fractions import Fraction\n    return int(Fraction(x, 1) * 2)\n"
    ),
    Attack("right, decimals", PASS, "    from decimal import Decimal\n    return int(Decimal(x) * 2)\n"),
    Attack(
        "right, many imports",
        PASS,
        "    import collections, datetime, hashlib, heapq, itertools, json, logging, pathlib, re, string, uuid\n    return 2 * x\n",
    ),
    Attack("right, unittest and mock", PASS, "    import unittest, unittest.mock, doctest\n    return 2 * x\n"),
    Attack(
        "right, randomness",
        PASS,
        "    import os, random, secrets, uuid\n    os.urandom(8), random.random(), secrets.token_hex(), uuid.uuid4()\n    return 2 * x\n",
    ),
    Attack("right, reads /dev/urandom", PASS, "    open('/dev/urandom', 'rb').read(8)\n    return 2 * x\n"),
    Attack(
        "right, writes /dev/null", PASS, "    import os\n    print('x', file=open(os.devnull, 'w'))\n    return 2 * x\n"
    ),
    Attack(
        "right, time zones",
        PASS,
        "    import time, datetime\n    time.localtime(); datetime.datetime.now().astimezone()\n    return 2 * x\n",
    ),
    Attack("right, sleeps a little", PASS, "    import time\n    time.sleep(0.02)\n    return 2 * x\n"),
    Attack(
        "right, an alarm it handles",
        PASS,
        "    import signal\n    signal.signal(signal.SIGALRM, lambda *a: None)\n    signal.setitimer(0, 0.01)\n    signal.pause()\n    return 2 * x\n",
    ),
    Attack(
        "right, catches MemoryError",
        PASS,
        "    try: bytearray(1 << 40)\n    except MemoryError: pass\n    return 2 * x\n",
    ),
    Attack("right, 200 MiB for a moment", PASS, "    len(bytearray(200 << 20))\n    return 2 * x\n"),
    Attack(
        "right, catches RecursionError",
        PASS,
        "    def f(): return f()\n    try: f()\n    except RecursionError: pass\n    return 2 * x\n",
    ),
    Attack("right, recursion 900 deep", PASS, "    return 2 + double(x - 1) if x else 0\n", "deep"),
    Attack(
        "right, raises the expected error",
        PASS,
        "    if not isinstance(x, int): raise ValueError(x)\n    return 2 * x\n",
        "raises",
    ),
    Attack(
        "right, raises a subclass of it",
        PASS,
        "    if not isinstance(x, int): raise Mine(x)\n    return 2 * x\n\nclass Mine(ValueError): pass\n",
        "raises",
    ),
    Attack("right, changes its argument", PASS, "    x.sort()\n", "in_place"),
    Attack("right, leaves its argument alone", PASS, "    return sorted(x)\n", "untouched"),
    Attack("right, a generator", PASS, "    for i in range(x): yield 2 * i\n", "listed"),
    Attack("right, an iterator of its own", PASS, "    return iter([0, 2, 4])\n", "listed"),
    Attack("right, a range", PASS, "    return range(0, 6, 2)\n", "listed"),
    Attack("right, looks like the codec's tags", PASS, "    return {'t': [1]}\n", "same"),
    Attack("right, odd text", PASS, "    return 2 * x\n", "text"),
    Attack("right, a large int", PASS, "    return 2 * x\n", "huge"),
    Attack("right, by keyword", PASS, "    return 2 * x\n", "keyword"),
    Attack("right, in a loop", PASS, "    return 2 * x\n", "looped"),
    Attack("right, mapped", PASS, "    return 2 * x\n", "mapped"),
    Attack("right, swallowed", PASS, "    return 2 * x\n", "swallowing"),
    Attack("right, true and false", PASS, "    return x % 2 == 1\n", "truth"),
    Attack("right, non-ASCII names", PASS, "    größe = 2 * x\n    return größe\n"),
    Attack("right, Windows line ends", PASS, "    y = 2 * x\r\n    return y\r\n"),
    Attack("right, a form feed", PASS, "    return 2 * x\n\f\n"),
]

ATTACKS = BROKEN + GOOD
