import os
import time

import pytest

from tasks import read_tasks

TASK = {"task_id": "add", "prompt": "def add(a, b):\n", "canonical_solution": "    return a + b\n",
        "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0\n",
        "entry_point": "add"}  # fmt: skip


def test_every_humaneval_solution_passes_and_no_empty_body_does(sandbox, humaneval):
    assert [v.status for v in sandbox.check_many((t, t["canonical_solution"]) for t in humaneval)] == ["pass"] * 164
    assert not any(v.passed for v in sandbox.check_many((t, "") for t in humaneval))


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_pocket_solution_passes_and_no_empty_body_does(sandbox, split):
    tasks = read_tasks(f"data/pocket_{split}.jsonl")
    assert {v.status for v in sandbox.check_many((t, t["canonical_solution"]) for t in tasks)} == {"pass"}
    assert not any(v.passed for v in sandbox.check_many((t, "") for t in tasks))


@pytest.mark.parametrize(
    ("completion", "status", "reason"),
    [
        ("    return a + b", "pass", ""),
        ("    return a - b", "fail", "assert candidate(2, 3) == 5"),
        ("    return a.x", "fail", "AttributeError"),
        ("    return (", "syntax", "SyntaxError"),
        ("    return '\x00'", "syntax", "null byte"),
        ("    return a + b\ndel add", "no_entry_point", "add"),
        ("    raise SystemExit(0)", "fail", "SystemExit"),
        ("    import os; os._exit(0)", "crash", "before the tests"),
        ("    import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "crash", "signal 9"),
        ("    return [0] * 10**10", "memory", "1024 MiB"),
    ],
)
def test_the_verdict_says_what_happened(sandbox, completion, status, reason):
    verdict = sandbox.check(TASK, completion)
    assert verdict.status == status
    assert reason in verdict.reason


def test_a_hang_ends_at_the_limit_and_leaves_nothing():
    from sandbox import Sandbox

    started = time.monotonic()
    with Sandbox(time_limit=1.0, num_workers=1) as box:
        loop = "    try:\n        while True:\n            pass\n    except BaseException:\n        return a + b"
        assert box.check(TASK, loop).status == "timeout"
        assert box.check(TASK, "    import time; time.sleep(60)").status == "timeout"
        assert box.check(TASK, "    return a + b").passed
        assert time.monotonic() - started < 4
        pids = [worker.pid for worker in box._workers]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_verdicts_come_in_order_and_as_they_finish(sandbox):
    pairs = [(TASK, f"    return a + b if {i} % 3 else 0") for i in range(30)]
    expected = [bool(i % 3) for i in range(30)]
    assert [v.passed for v in sandbox.check_many(pairs)] == expected
    assert [v.passed for _, v in sorted(sandbox.as_completed(pairs), key=lambda pair: pair[0])] == expected


def test_the_environment_does_not_reach_the_candidate(sandbox, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert sandbox.check(TASK, "    import os\n    return a + b if not os.environ.get('HF_TOKEN') else 0").passed


def test_a_killed_worker_costs_no_verdict():
    from sandbox import Sandbox

    with Sandbox(num_workers=1) as box:
        box._workers[0].kill()
        assert box.check(TASK, "    return a + b").passed
