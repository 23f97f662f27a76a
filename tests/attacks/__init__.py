"""What the sandbox has to survive: completions of small tasks, each with the verdict it must get.

A completion continues its task's prompt, as a model's would. `@HOST@` in a completion or a test becomes a folder with a
file `victim` that must not change, `@PORT@` a TCP and UDP port where nobody may call. In the groups about the host, a
body returns the right answer only if the attack worked, so an attack that gets through is a pass, and a pass is wrong.
"""

# ruff: noqa: E501 (a program is one string)

from __future__ import annotations

from typing import NamedTuple

DOUBLE = 'def double(x):\n    """Twice x."""\n'
CHECK_DOUBLE = "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(-4) == -8\n"


def _task(name: str, test: str, prompt: str = DOUBLE, entry_point: str = "double") -> dict[str, str]:
    return {"task_id": name, "prompt": prompt, "canonical_solution": "", "test": test, "entry_point": entry_point}


SECRET = "S3CRET-" + "5d1f0c"  # two pieces, so that this file is not where a search finds it

TASKS = {
    "double": _task("double", CHECK_DOUBLE),
    "bounds": _task("bounds", "def check(candidate):\n    assert candidate(3) >= 6 and candidate(3) <= 6\n"),
    "near": _task("near", "def check(candidate):\n    assert abs(candidate(3) - 6) < 1e-6\n"),
    "member": _task("member", "def check(candidate):\n    assert candidate(3) in {6, 60}\n"),
    "not_equal": _task("not_equal", "def check(candidate):\n    assert not (candidate(3) != 6)\n"),
    "truth": _task(
        "truth", "def check(candidate):\n    assert candidate(3) is True\n    assert candidate(4) is False\n"
    ),
    "mapped": _task(
        "mapped",
        "def check(candidate):\n    xs = [1, 2, 3]\n"
        "    assert all(2 * x == y for x, y in zip(xs, map(candidate, xs)))\n",
    ),
    "looped": _task("looped", "def check(candidate):\n    for x in range(5):\n        assert candidate(x) == 2 * x\n"),
    "swallowing": _task(
        "swallowing",
        "def check(candidate):\n    try:\n        assert candidate(3) == 6\n    except:\n        pass\n"
        "    try:\n        candidate(4)\n    except:\n        pass\n",
    ),
    "never_called": _task("never_called", "def check(candidate):\n    assert candidate is not None\n"),
    "secret": _task("secret", f"def check(candidate):\n    assert candidate(3) == {SECRET!r}\n"),
    "listed": _task("listed", "def check(candidate):\n    assert list(candidate(3)) == [0, 2, 4]\n"),
    "untouched": _task(
        "untouched",
        "def check(candidate):\n    xs = [3, 1, 2]\n    assert candidate(xs) == [1, 2, 3]\n    assert xs == [3, 1, 2]\n",
    ),
    "in_place": _task(
        "in_place",
        "def check(candidate):\n    xs = [3, 1, 2]\n    alias = xs\n    assert candidate(xs) is None\n"
        "    assert alias == [1, 2, 3]\n",
    ),
    "raises": _task(
        "raises",
        "def check(candidate):\n    try:\n        candidate('a')\n    except ValueError:\n        pass\n"
        "    else:\n        assert False\n    assert candidate(3) == 6\n",
    ),
    "same": _task("same", "def check(candidate):\n    assert candidate({'t': [1]}) == {'t': [1]}\n"),
    "text": _task("text", "def check(candidate):\n    assert candidate('\\ud800é') == '\\ud800é' * 2\n"),
    "huge": _task("huge", "def check(candidate):\n    assert candidate(1 << 5000) == 1 << 5001\n"),
    "keyword": _task("keyword", "def check(candidate):\n    assert candidate(x=3) == 6\n"),
    "deep": _task("deep", "def check(candidate):\n    assert candidate(900) == 1800\n"),
    "counted": _task("counted", "def check(candidate):\n    assert [candidate(0) for _ in range(3)] == [1, 2, 3]\n"),
    "multiplied": _task("multiplied", "def check(candidate):\n    assert len([0] * candidate(3)) == 6\n"),
    "powered": _task("powered", "def check(candidate):\n    assert 3 ** candidate(3) == 729\n"),
}


def _program(name: str, inputs: list[str], outputs: list[str]) -> dict[str, object]:
    return {"task_id": name, "prompt": "", "canonical_solution": "", "inputs": inputs, "outputs": outputs}


_LONG = "".join(f"{n:09}\n" for n in range(300_000))  # 3,000,000 characters

TASKS |= {
    "add": _program("add", ["1 2\n", "3 4\n"], ["3\n", "7"]),
    "hidden": _program("hidden", ["x\n"], [SECRET]),
    "kept": _program("kept", ["41\n", "later\n"], ["ok", "41"]),
    "large": _program("large", [_LONG], ["3000000\n"]),
    "echo": _program("echo", [_LONG], [_LONG]),
    "counts": _program("counts", ["\n"] * 4, ["1", "2", "3", "4"]),
    "scripts": _program("scripts", ["żółw 亀 🐢\n"], ["🐢 亀 włóż\n"]),
    "empty": _program("empty", ["", "a"], ["", "a"]),
}

FAIL, TIMEOUT, MEMORY, CRASH, PROTOCOL = ("fail",), ("timeout",), ("memory",), ("crash",), ("protocol",)
PASS, SYNTAX, NO_ENTRY = ("pass",), ("syntax",), ("no_entry_point",)


class Attack(NamedTuple):
    """One row of the corpus.

    Attributes:
        expected: the statuses that are right.
        limit: seconds; short for what has to run into it.
        needs: a module or a machine without which the row says nothing.
    """

    name: str
    expected: tuple[str, ...]
    completion: str
    task: str = "double"
    limit: float = 5.0
    needs: str = ""


def corpus() -> list[Attack]:
    """Every row of every group; their names are unique."""
    from . import exits, forging, host, printing, programs, resources

    rows = [row for group in (exits, forging, resources, host, programs, printing) for row in group.ATTACKS]
    assert len({row.name for row in rows}) == len(rows)
    return rows
