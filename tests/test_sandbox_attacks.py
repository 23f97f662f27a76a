"""The corpus of attacks: every verdict right, no trace on the host, as root and as somebody else, with every layer."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from attack_runner import Traces, pair, run_all  # noqa: E402
from attacks import TASKS, corpus  # noqa: E402

import train_rl_lora  # noqa: E402
from judging.pool import Verdict  # noqa: E402
from judging.rewards import chosen_reward  # noqa: E402


def assert_held(report):
    assert report["rows"] >= 400
    assert report["wrong"] == []
    assert report["traces"] == []
    assert report["late"] == []


@pytest.fixture(scope="module")
def everyones():
    """A copy of the sandbox that every user can read, and an interpreter that every user can run."""
    nobody = pwd.getpwnam("nobody").pw_uid
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for source in ROOT.glob("*.py"):
            shutil.copy(source, folder)
        for package in ("common", "judging"):
            shutil.copytree(ROOT / package, Path(folder, package))
        shutil.copytree(ROOT / "tests", Path(folder, "tests"))
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
            try:
                command = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 10))"]
                if subprocess.run(command, user=nobody, group=nobody, cwd="/", env={}).returncode == 0:
                    break
            except OSError:
                continue
        else:
            pytest.skip("no Python 3.10 or newer that nobody can run: the interpreter is in a folder of root's")
        yield nobody, python, str(Path(folder, "tests", "attack_runner.py"))


def run_as(everyones, user, *arguments):
    _, python, program = everyones
    command = [python, program, *arguments]
    done = subprocess.run(
        command, user=user, group=user, extra_groups=[], cwd="/", env={}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["uid"] == user
    return report


@pytest.fixture(scope="module")
def report():
    """The corpus, as whoever runs the tests, with everything that this machine allows."""
    return run_all()


def test_corpus(report):
    assert_held(report)


@pytest.mark.parametrize(
    "numbers", [{}, dict(length_penalty_alpha=0.39, syntax_penalty=0.0, quality_bonus=2.0, full_bonus=0.01)]
)
@pytest.mark.parametrize("name", ["unit_test", "shaped", "partial"])
def test_wrong_code_never_earns_what_right_code_does(report, name, numbers):
    """By each preset, the wrong rows at one token and the right ones at the most that are allowed."""
    args = train_rl_lora.Args(reward=name, **numbers)
    samples = []
    for row in corpus():
        if row.name in report["verdicts"]:
            verdict = Verdict(**report["verdicts"][row.name])
            length = args.max_new_tokens if verdict.passed else 1
            rollout = SimpleNamespace(text=row.completion)
            samples.append(SimpleNamespace(task=TASKS[row.task], rollout=rollout, verdict=verdict, length=length))
    earned = chosen_reward(args)(samples)
    right = [reward for reward, s in zip(earned, samples, strict=True) if s.verdict.passed]
    wrong = [reward for reward, s in zip(earned, samples, strict=True) if not s.verdict.passed]
    assert len(right) >= 50 and len(wrong) >= 350
    assert max(wrong) < min(right)


def test_wrong_code_passes_all_counted_tests_only_where_they_ask_for_nothing(report):
    whole = {
        name
        for name, verdict in report["verdicts"].items()
        if verdict["status"] != "pass" and 0 < (verdict["tests_total"] or 0) == verdict["tests_passed"]
    }
    assert whole == {"never called"}


@pytest.mark.slow
def test_corpus_as_nobody_without_namespaces(everyones):
    """As in a container: no root, and no namespaces to help."""
    report = run_as(everyones, everyones[0], "--no-namespaces")
    assert report["layers"]["namespaces"] == [] and report["layers"]["uid"] == "kept"
    assert_held(report)


@pytest.mark.slow
@pytest.mark.parametrize("namespaces", [True, False])
def test_corpus_again(namespaces):
    assert_held(run_all(namespaces=namespaces))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--no-namespaces"]], ids=["namespaces", "no namespaces"])
@pytest.mark.parametrize("user", ["nobody", "root"])
def test_corpus_as(everyones, user, arguments):
    """With an interpreter that everybody can read, root's candidates get a user id of their own."""
    report = run_as(everyones, everyones[0] if user == "nobody" else 0, *arguments)
    assert_held(report)
    assert user == "nobody" or int(report["layers"]["uid"]) >= 60000


HARMLESS = [
    "fork",
    "os.system",
    "writes beside the victim",
    "truncates the victim",
    "chmod of the victim",
    "utime of the victim",
    "reads the victim",
    "reads /etc/passwd",
    "reads its own environ",
    "imports the project",
    "reads an installed package",
    "imports an installed package",
    "lists the packages",
    "reads a link",
    "lists its parent's descriptors",
    "shares a file's memory",
    "its parent's CPU time",
    "the number of a socket",
    "a futex that others can find",
    "syscall: sysinfo",
    "TCP to the host",
    "UDP to the host",
    "a unix socket",
    "a datagram pair writes elsewhere",
    "changes its folder",
    "signals its parent through a socket",
    "a secret from the environment",
    "syscall: inotify_init1",
    "syscall: memfd_create",
]


@pytest.mark.parametrize("name", HARMLESS)
def test_rows_bite(name):
    """Without a sandbox these rows do what they say, so a sandbox that let them would be found out."""
    row = next(row for row in corpus() if row.name == name)
    traces = Traces()
    try:
        task, completion = pair(row, traces)
        program = task["prompt"] + "\n\n" + completion + "\n" + task["test"] + "\ncheck(double)\n"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=traces.host
        )
        assert done.returncode == 0, done.stderr[-400:]
        changed = {"writes beside the victim", "truncates the victim", "chmod of the victim", "utime of the victim"}
        called = {"TCP to the host", "UDP to the host", "a unix socket", "a datagram pair writes elsewhere"}
        if name in changed | called:
            assert traces.differences() != []
    finally:
        traces.close()


def test_corpus_is_large_and_mixed():
    rows = corpus()
    assert len(rows) >= 120
    for status in ("pass", "fail", "timeout", "memory", "crash", "protocol", "syntax", "no_entry_point"):
        assert sum(status in row.expected for row in rows) >= 3, status
    assert not any("pass" in row.expected and len(row.expected) > 1 for row in rows)
