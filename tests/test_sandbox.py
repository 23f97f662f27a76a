"""The sandbox's verdicts, its refusals, and what it does when something of it is killed."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from attack_runner import judges_of, processes  # noqa: E402

from common import InputError  # noqa: E402
from judging import pool as sandbox_module  # noqa: E402
from judging.pool import Sandbox, Verdict  # noqa: E402
from judging.worker import ENVIRONMENT  # noqa: E402
from sandbox import self_test  # noqa: E402

HUMANEVAL = ROOT.parent / "shared" / "data" / "HumanEval.jsonl.gz"

DOUBLE = {
    "task_id": "double",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(0) == 0\n"
    "    assert candidate(-4) == -8\n    assert True, 'not a test'\n",
    "entry_point": "double",
}
RIGHT = DOUBLE["canonical_solution"]


def listed(*tests, setup="", entry_point=None):
    """An MBPP-style task: asserts that call functions by name."""
    task = {"task_id": "listed", "prompt": '"""Write it."""\n', "canonical_solution": "", "test_list": list(tests)}
    task["test_setup_code"] = setup
    return {**task, "entry_point": entry_point} if entry_point else task


@pytest.fixture(scope="module")
def box():
    with Sandbox(time_limit=5.0, num_workers=2) as pool:
        yield pool


# what a verdict says


@pytest.mark.parametrize(
    "completion, status, reason",
    [
        (RIGHT, "pass", ""),
        ("    return x + 3\n", "fail", "assert candidate(0) == 0: left is 3, right is 0"),
        (
            "    y = 2 * x\n    return y if x > 0 else y / 0\n",
            "fail",
            "ZeroDivisionError: division by zero (line 2 of the completion)",
        ),
        ("    return 2 *\n", "syntax", "SyntaxError: invalid syntax (line 1 of the completion)"),
        ("    return 2 * x\n\ndel double\n", "no_entry_point", "double is not defined"),
        ("    return 2 * x\n\ndouble = 1\n", "no_entry_point", "double is not callable"),
        ("    raise SystemExit(0)\n", "crash", "the program tried to end itself: SystemExit(0)"),
        ("    import os; os._exit(3)\n", "crash", "the program ended itself (exit code 3) before the tests were done"),
        ("    import os; os.abort()\n", "crash", "the program died of SIG"),
        ("    return [x] * 10**6\n", "fail", "the result cannot be sent: it is larger than 2048 KiB"),
        ("    return bytearray(1 << 40)\n", "memory", "MemoryError (line 1 of the completion)"),
        ("    return object()\n", "fail", "left is <object object in the sandbox>, right is 6"),
        ("    import os; os.write(3, b'pass')\n", "protocol", "a frame of"),
        ("    raise ValueError('\\x1b[2J\\n' * 999)\n", "fail", "ValueError: \\x1b[2J \\x1b[2J"),
    ],
)
def test_reason(box, completion, status, reason):
    verdict = box.check(DOUBLE, completion)
    assert verdict.status == status
    assert reason in verdict.reason
    assert "\n" not in verdict.reason and len(verdict.reason) < 500


def test_measurements(box):
    verdict = box.check(DOUBLE, "    sum(range(3 * 10**6))\n    len(bytearray(64 << 20))\n" + RIGHT)
    assert verdict.passed and 0 < verdict.cpu_seconds < 5
    assert verdict.wall_seconds >= verdict.cpu_seconds * 0.5
    assert 64 < verdict.peak_mib < 300


def test_timeout_is_kept(box):
    started = time.monotonic()
    verdict = box.check(
        DOUBLE, "    while True:\n        try: pass\n        except BaseException: pass\n", time_limit=0.4
    )
    assert verdict.status == "timeout" and verdict.reason.startswith("no result within 0.4 s")
    assert 0.4 <= verdict.wall_seconds < 1.4
    assert time.monotonic() - started < 2.4


def test_judge_is_under_the_limit_too(box):
    """A hostile result must not let the tests themselves run on."""
    task = {**DOUBLE, "test": "def check(candidate):\n    assert sum(range(candidate(3))) > 0\n"}
    started = time.monotonic()
    verdict = box.check(task, "    return 10**11\n", time_limit=0.4)
    assert verdict.status == "timeout" and "a test hangs" in verdict.reason
    assert time.monotonic() - started < 1.4
    assert box.check(DOUBLE, RIGHT).passed


# one verdict for each test


@pytest.mark.parametrize(
    "completion, passed",
    [(RIGHT, 3), ("    return 6\n", 1), ("    return 0\n", 1), ("", 0), ("    return abs(2 * x)\n", 2)],
)
def test_asserts_are_counted(box, completion, passed):
    verdict = box.check(DOUBLE, completion)
    assert (verdict.tests_passed, verdict.tests_total) == (passed, 3)
    assert verdict.passed == (passed == 3)


def test_tests_before_a_death_count(box):
    verdict = box.check(DOUBLE, "    if x < 0: import os; os._exit(0)\n    return 2 * x\n")
    assert (verdict.status, verdict.tests_passed, verdict.tests_total) == ("crash", 2, 3)


def test_loops_and_statements_between_asserts(box):
    test = (
        "def check(candidate):\n    xs = [1, 2]\n    for x in xs:\n        assert candidate(x) == 2 * x\n"
        "    y = candidate(5)\n    assert y == 10\n    assert y != 3 and candidate(y) == 20\n"
    )
    verdict = box.check({**DOUBLE, "test": test}, RIGHT)
    assert (verdict.status, verdict.tests_passed, verdict.tests_total) == ("pass", 3, 3)
    verdict = box.check({**DOUBLE, "test": test}, "    return 2 * x if x < 2 else 10\n")
    assert (verdict.status, verdict.tests_passed) == ("fail", 1)


# tasks as MBPP writes them

CLASSES = """
import re

class Point:
    def __init__(self, x, y=0): self.x, self.y = x, y
    def moved(self, dx): return Point(self.x + dx, self.y)
    def pair(self): return (self.x, self.y)
    def __len__(self): return 2
    def __str__(self): return f"({self.x}, {self.y})"

def origin(): return Point(0)
def adder(n): return lambda x: x + n
def find(text): return re.search(r"b(c)", text)
def count(n): yield from range(n)
def norm(p): return abs(p.x) + abs(p.y)
def twice(f_name): return [f_name, f_name]
def remember(store, value): store.append(value)
class Own(KeyError): pass
def fails(): raise Own("k")
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert Point(1, 2).pair() == (1, 2)",
        "assert Point(1, y=2).moved(3).x == 4",
        "assert str(origin().moved(1)) == '(1, 0)'",
        "assert len(origin()) == 2",
        "assert norm(Point(-1, 2)) == 3",
        "assert adder(2)(3) == 5",
        "assert find('abc').group(1) == 'c'",
        "assert find('abc').span() == (1, 3)",
        "assert find('abd') is None",
        "assert not find('abd')",
        "assert find('abc')",
        "assert list(count(3)) == [0, 1, 2]",
        "assert sum(count(4)) == 6",
        "assert next(iter(count(1))) == 0",
        "assert {*count(2)} == {0, 1}",
        "p = origin()\np.x = 7\nassert p.pair() == (7, 0)",
        "xs = []\nremember(xs, 1)\nremember(xs, 2)\nassert xs == [1, 2]",
        "try:\n    fails()\nexcept KeyError as e:\n    assert e.args == ('k',)\nelse:\n    assert False",
        "assert math.isclose(norm(Point(1.5)), 1.5)",
        "p = origin()\nassert p == p and p != origin()",
    ],
)
def test_listed(box, test):
    verdict = box.check(listed(test), CLASSES)
    assert verdict.status == "pass", verdict.reason
    assert not verdict.weak


def test_listed_tests_are_counted(box):
    task = listed("assert adder(1)(1) == 2", "assert adder(1)(1) == 3", "assert missing(1) == 1")
    verdict = box.check(task, CLASSES)
    assert verdict.status == "no_entry_point" and verdict.reason == "missing is not defined"
    task["test_list"].pop()
    verdict = box.check(task, CLASSES)
    assert (verdict.status, verdict.tests_passed, verdict.tests_total) == ("fail", 1, 2)


@pytest.mark.parametrize(
    "test, completion",
    [
        ("assert f(1)[0:2] == [1, 2]", "def f(x):\n    class A: pass\n    return A()\n"),
        ("assert f(1).count(lambda: 0) == 0", "def f(x):\n    class A:\n        count = print\n    return A()\n"),
        ("assert f([f(1)]) == 1", "def f(x):\n    for _ in range(99): x = [x]\n    return x\n"),
        ("try:\n    f(1)\nexcept Exception:\n    pass\nelse:\n    assert False", "def f(x): return [0] * 10**7\n"),
    ],
)
def test_a_completion_cannot_get_out_of_a_verdict(box, test, completion):
    """What says nothing about the completion must not be for the completion to bring about."""
    assert box.check(listed(test), completion).status == "fail"


@pytest.mark.parametrize("base", ["object", "int", "tuple", "str"])
def test_equality_is_not_the_candidates(box, base):
    forged = f"class E({base}):\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\n"
    forged += "    __hash__ = lambda s: 1\ndef one(): return E()\n"
    for test in ("assert one() == 1", "assert 1 == one()", "assert one() in [1]", "assert not one() != 1"):
        assert box.check(listed(test), forged).status == "fail"


UNSPLITTABLE = [
    (
        "assert apply(lambda x: x + 1, 2) == 3",
        "def apply(f, x): return f(x)\n",
        "def apply(f, x): return x\n",
        "an argument that cannot cross",
    ),
    (
        "import io, contextlib\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    hello()\n"
        "assert out.getvalue() == 'hi\\n'",
        "def hello(): print('hi')\n",
        "def hello(): print('ho')\n",
        "look at what the program prints",
    ),
]


@pytest.mark.parametrize("test, right, wrong, reason", UNSPLITTABLE)
def test_unsplittable_is_refused_or_weak(box, test, right, wrong, reason):
    verdict = box.check(listed(test), right)
    assert verdict.status == "refused" and not verdict.judged and reason in verdict.reason
    with Sandbox(num_workers=1, allow_weak_tests=True) as weak:
        verdict = weak.check(listed(test), right)
        assert (verdict.status, verdict.weak) == ("pass", True), verdict.reason
        verdict = weak.check(listed(test), wrong)
        assert (verdict.status, verdict.weak) == ("fail", True), verdict.reason
        assert not weak.check(DOUBLE, RIGHT).weak


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"test": "def check(candidate:\n"}, "the task's tests do not compile"),
        ({"test": "def check(candidate):\n    pass\nreturn\n"}, "the task does not compile"),
        ({"test": "def chek(candidate):\n    pass\n"}, "the task's tests do not define check"),
        ({"test": "def check(candidate):\n    raise SystemExit\n"}, "the task's tests end the program"),
        ({"prompt": "import no_such_module\n" + DOUBLE["prompt"]}, "the prompt's own code fails"),
        ({"prompt": "x = = 1\n\n" + DOUBLE["prompt"]}, "the task's prompt does not compile"),
    ],
)
def test_a_broken_task_is_not_the_completions_fault(box, change, reason):
    verdict = box.check({**DOUBLE, **change}, RIGHT)
    assert verdict.status == "refused" and reason in verdict.reason


def test_helpers_come_from_the_prompt(box):
    """A completion that redefines the prompt's helper does not change what the tests use."""
    prompt = "def expected(x):\n    return 2 * x\n\n\ndef double(x):\n"
    task = {**DOUBLE, "prompt": prompt, "test": "def check(candidate):\n    assert candidate(3) == expected(3)\n"}
    assert box.check(task, RIGHT).passed
    assert not box.check(task, "    return 0\n\ndef expected(x): return 0\n").passed


# HumanEval


@pytest.mark.skipif(not HUMANEVAL.is_file(), reason="HumanEval.jsonl.gz is not in ../shared/data")
def test_humaneval(box):
    with gzip.open(HUMANEVAL, "rt") as lines:
        tasks = [json.loads(line) for line in lines]
    verdicts = box.check_many([(task, task["canonical_solution"]) for task in tasks])
    assert [task["task_id"] for task, v in zip(tasks, verdicts, strict=True) if not v.passed] == []
    assert all(v.tests_passed == v.tests_total for v in verdicts)
    verdicts = box.check_many([(task, "") for task in tasks])
    assert [task["task_id"] for task, v in zip(tasks, verdicts, strict=True) if v.passed] == []


# many checks


def test_order(box):
    expected = [n % 3 == 0 for n in range(40)]
    pairs = [(DOUBLE, f"    import time; time.sleep({0.02 * (n % 5 == 0)})\n    return {2 if n % 3 == 0 else 3} * x\n")
             for n in range(40)]  # fmt: skip
    assert [v.passed for v in box.check_many(pairs)] == expected
    assert {i: v.passed for i, v in box.as_completed(pairs)} == dict(enumerate(expected))


def test_as_completed_overlaps_with_its_input(box):
    """A verdict comes out before the generator of completions is through."""
    produced = []

    def sample():
        for n in range(8):
            produced.append(n)
            yield DOUBLE, RIGHT
            time.sleep(0.05)

    first = next(iter(box.as_completed(sample())))
    assert first[1].passed and len(produced) < 8


def test_many_threads_share_a_sandbox(box):
    verdicts = []
    threads = [threading.Thread(target=lambda: verdicts.append(box.check(DOUBLE, RIGHT))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [v.passed for v in verdicts] == [True] * 8


def test_checks_know_nothing_of_each_other(box):
    write = "    import builtins, sys\n    builtins.left = sys.left = 1\n    return 2 * x\n"
    read = "    import builtins, sys\n    return 2 * x if hasattr(builtins, 'left') or hasattr(sys, 'left') else 0\n"
    for verdict in box.check_many([(DOUBLE, write), (DOUBLE, read)] * 4)[1::2]:
        assert verdict.status == "fail"


def test_random_programs_are_reproducible(box):
    task = {**DOUBLE, "test": "import random\ndef check(candidate):\n    assert candidate(1) == (1, random.random())\n"}
    body = "    import random\n    return id, random.random(), hash('a')\n"
    reasons = {box.check(task, body.replace("id", "2")).reason for _ in range(4)}
    assert len(reasons) == 1, reasons


# what may be killed

SLOW = RIGHT + "\nimport time; time.sleep(0.6)\n"


def family(pid):
    """A process and the chain of its first children, oldest first: judge, zygote (two with namespaces), child."""
    chain = [pid]
    with contextlib.suppress(OSError):  # it may end while we look
        while children := Path(f"/proc/{chain[-1]}/task/{chain[-1]}/children").read_text().split():
            chain.append(int(children[0]))
    return chain


@pytest.mark.parametrize("namespaces", [True, False])
def test_a_kill_costs_nothing(namespaces):
    """The judge, the zygote's outer and inner process, the child: the check is done again, and its verdict is right.

    A sandbox for each of the four. They are beside each other, because most of the time is waiting.
    """

    def kill(which: int, pool: Sandbox) -> None:
        judges = judges_of(pool)
        for completion, status in ((SLOW, "pass"), (SLOW.replace("2 *", "3 *"), "fail")):
            future = pool.submit(DOUBLE, completion)
            time.sleep(0.3)
            judges |= judges_of(pool)
            chain = family(next(iter(judges_of(pool))))
            assert len(chain) >= 3
            os.kill(chain[which], signal.SIGKILL)
            assert future.result(timeout=10).status == status, which
        assert pool.check(DOUBLE, RIGHT).passed
        pool.close()
        assert processes(judges) == []

    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as threads:
        settings = dict(time_limit=5.0, num_workers=1, namespaces=namespaces)
        pools = [stack.enter_context(Sandbox(**settings)) for _ in range(4)]
        list(threads.map(kill, (0, 1, -2, -1), pools))


def test_killed_twice_is_no_verdict():
    with Sandbox(time_limit=5.0, num_workers=1) as pool:
        future = pool.submit(DOUBLE, SLOW)
        for _ in range(2):
            time.sleep(0.45)
            judge = family(next(iter(judges_of(pool))))
            os.kill(judge[-1], signal.SIGKILL)
            while not future.done() and family(judge[0])[-1:] == judge[-1:]:
                time.sleep(0.01)
        verdict = future.result(timeout=10)
        assert verdict.status == "infrastructure" and not verdict.judged and verdict.reason
        assert pool.check(DOUBLE, RIGHT).passed


def test_restarts_leak_nothing():
    with Sandbox(num_workers=1) as pool:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            os.kill(next(iter(judges_of(pool))), signal.SIGKILL)
            assert pool.check(DOUBLE, RIGHT).passed
        assert len(os.listdir("/proc/self/fd")) == before


CALLER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it, and that is inherited
sys.path.insert(0, {root!r})
from sandbox import Sandbox
task = {task!r}
sandbox = Sandbox(num_workers=2)
print(*[worker.process.pid for worker in sandbox._workers], flush=True)
{use}
"""
HANG = "    while True: pass\n"


@pytest.mark.parametrize(
    "use, number",
    [
        ("with sandbox: sandbox.check_many([(task, {hang!r})] * 50)", signal.SIGINT),
        ("sandbox.check_many([(task, {hang!r})] * 50)", signal.SIGINT),
        ("for _ in sandbox.as_completed([(task, {hang!r})] * 50): pass", signal.SIGINT),
        ("sandbox.check_many([(task, {hang!r})] * 50)", signal.SIGTERM),
        ("sandbox.check_many([(task, {hang!r})] * 50)", signal.SIGKILL),
        ("import os\nif os.fork(): sandbox.check(task, {hang!r})\nelse: import time; time.sleep(4)", signal.SIGKILL),
    ],
    ids=["ctrl-c, with", "ctrl-c, without", "ctrl-c, iterator", "terminated", "killed", "killed, a fork stays"],
)
def test_end_of_the_caller(use, number):
    text = CALLER.format(root=str(ROOT), task=DOUBLE, use=use.format(hang=HANG))
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as caller:
        judges = {int(word) for word in caller.stdout.readline().split()}
        time.sleep(0.3)
        assert len(processes(judges)) >= 4
        caller.send_signal(number)
        caller.wait(timeout=1.0)
        give_up = time.monotonic() + (1.0 if number == signal.SIGINT else 3.0)
        while (left := processes(judges)) and time.monotonic() < give_up:
            time.sleep(0.02)
        assert left == []


def test_close_is_quick_and_final():
    pool = Sandbox(num_workers=2)
    judges = judges_of(pool)
    futures = [pool.submit(DOUBLE, HANG) for _ in range(20)]
    time.sleep(0.2)
    started = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - started < 1.0
    assert processes(judges) == []
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError):
        pool.check(DOUBLE, RIGHT)


def test_a_fork_of_the_caller_does_not_close_it(box):
    pid = os.fork()
    if pid == 0:
        box.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert box.check(DOUBLE, RIGHT).passed


# where it runs


def test_it_does_not_depend_on_the_folder(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    text = CALLER.format(
        root=str(ROOT),
        task=DOUBLE,
        use=f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})\n"
        f"sandbox.close(); sandbox = Sandbox(num_workers=1); print(sandbox.check(task, {RIGHT!r}).status)",
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=20)
    assert done.stdout.split()[-1] == "pass", done.stderr


def test_import_is_light():
    text = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import sandbox; print({{'torch', 'numpy'}} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, text=True).stdout == "set()\n"


def test_nothing_of_the_caller_reaches_a_worker(box):
    """Neither its environment nor its descriptors."""
    judge = next(iter(judges_of(box)))
    for pid in family(judge):
        environment = Path(f"/proc/{pid}/environ").read_text()
        assert {line.partition("=")[0] for line in environment.split("\0") if line} <= set(ENVIRONMENT)
        targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        targets = [target for target in targets if not target.endswith("/sys/kernel/ns_last_pid")]  # the zygote's own
        assert all(target.startswith(("socket:", "anon_inode:", "/dev/null")) for target in targets), targets


def test_probe():
    done = subprocess.run([sys.executable, str(ROOT / "sandbox.py"), "--probe"], capture_output=True, text=True)
    assert done.returncode == 0
    for layer in ("rlimits", "landlock", "seccomp", "namespaces", "uid"):
        assert layer in done.stdout


def test_self_test(box):
    self_test(box)


def test_self_test_finds_a_hole(monkeypatch, box):
    """Were an attack judged a pass, the run would stop with one line."""
    monkeypatch.setattr(box, "submit", lambda *_: _Done(Verdict("pass", "")))
    with pytest.raises(InputError, match="the sandbox does not hold: a wrong answer: pass instead of fail"):
        self_test(box)


class _Done:
    def __init__(self, verdict):
        self.result = lambda: verdict


def test_a_missing_layer_is_a_refusal(monkeypatch):
    monkeypatch.setattr(sandbox_module, "REQUIRED_LAYERS", ("rlimits", "moat"))
    with pytest.raises(InputError, match="the sandbox lacks moat on this machine"):
        Sandbox(num_workers=1)
    with Sandbox(num_workers=1, allow_missing_layers=True) as pool:
        assert pool.check(DOUBLE, RIGHT).passed
        assert sandbox_module.missing_layers(pool.layers) == ["moat"]


@pytest.mark.parametrize("settings", [{"time_limit": 0}, {"memory_mib": 8}])
def test_impossible_settings(settings):
    with pytest.raises(InputError):
        Sandbox(num_workers=1, **settings)
