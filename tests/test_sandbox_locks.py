"""What a candidate can reach, what it leaves behind, and what becomes of a judge that hangs or dies."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import state_runner  # noqa: E402
from attack_runner import judges_of, processes  # noqa: E402
from test_sandbox_attacks import everyones  # noqa: E402, F401

from judging import worker as sandbox_worker  # noqa: E402
from judging.codec import dump_frame  # noqa: E402
from judging.paths import package_paths, readable  # noqa: E402
from judging.pool import Sandbox, machine_mib  # noqa: E402

TASK = state_runner.TASK
RIGHT = TASK["canonical_solution"]


def task(*lines: str, before: str = "") -> dict:
    body = "".join(f"    {line}\n" for line in lines)
    return TASK | {"test": f"{before}\n\ndef check(candidate):\n{body}"}


# What is there to read


@pytest.mark.parametrize("namespaces", [True, False])
def test_only_chosen_packages_are_there(namespaces):
    pytest.importorskip("numpy")
    asks = task("assert candidate(3) == 6")
    body = "    import numpy\n    return int(numpy.array([x]).sum()) * 2\n"
    with Sandbox(num_workers=1, namespaces=namespaces) as box:
        assert box.check(asks, body).passed
        for name in ("pytest", "hypothesis"):
            assert f"No module named '{name}'" in box.check(asks, f"    import {name}\n    return 2 * x\n").reason
    with Sandbox(num_workers=1, namespaces=namespaces, packages=("iniconfig", "not_installed")) as box:
        assert "No module named 'numpy'" in box.check(asks, body).reason
        assert box.check(asks, "    import iniconfig\n    return 2 * x\n").passed


def test_files_of_the_machine_cannot_even_be_looked_up():
    look = task("assert candidate(3) == 6")
    with Sandbox(num_workers=1) as box:
        if box.layers["files"] != "own root":
            pytest.skip("this machine allows no mount namespace")
        names = (
            "/etc/passwd",
            "/etc/hosts",
            "/proc",
            "/proc/self",
            "/sys",
            "/var",
            "/home",
            "/dev/shm",
            "/bin",
            __file__,
        )
        body = f"    import os\n    return [p for p in {names!r} if os.path.lexists(p)] or 2 * x\n"
        assert box.check(look, body).passed
        # what is left of the folders above the interpreter shows nothing else
        body = "    import os\n    return os.stat('/dev').st_nlink - 2 or 2 * x\n"
        assert box.check(look, body).passed


def test_paths_leave_out_what_holds_answers():
    found = readable(("numpy",))
    pieces = found.pieces()
    assert found.library[0] in found.shown
    for folder in found.hidden:
        assert not any(f"{folder}/".startswith(f"{piece}/") for piece in pieces)
    home = Path(os.__file__).parent
    assert str(home / "json") in pieces and str(home / "test") not in pieces
    assert any(Path(path).name.startswith("libc.so") for path in found.shown)
    assert not any(path in ("/", "/usr", "/usr/lib", "/lib", "/etc") for path in pieces)


def test_packages_bring_what_lies_beside_them(tmp_path, monkeypatch):
    assert package_paths("no_such_package_anywhere") == []
    for name in ("one", "one.libs", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_paths("one") == [str(tmp_path / "one"), str(tmp_path / "one.libs")]


# What is left behind


def assert_nothing_left(report):
    assert report["wrong"] == []
    assert report["honest"] == ["", "", ""]  # beside a thread bomb
    if report["layers"]["same pid"]:
        assert len(set(report["numbers"])) == 1 and report["numbers"][0].startswith("ValueError: ")


@pytest.mark.parametrize("namespaces", [True, False])
def test_nothing_is_left_for_the_next_check(namespaces):
    assert_nothing_left(state_runner.run_all(namespaces))


@pytest.mark.parametrize("arguments", [[], ["--no-namespaces"]], ids=["namespaces", "no namespaces"])
def test_nothing_is_left_for_the_next_check_as_nobody(everyones, arguments):  # noqa: F811
    nobody, python, program = everyones
    command = [python, str(Path(program).with_name("state_runner.py")), *arguments]
    done = subprocess.run(
        command, user=nobody, group=nobody, extra_groups=[], cwd="/", env={}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["uid"] == nobody and bool(report["layers"]["namespaces"]) is not bool(arguments)
    assert_nothing_left(report)


def test_a_user_id_of_its_own_although_the_interpreter_is_roots():
    if os.geteuid() != 0:
        pytest.skip("only root gives user ids")
    with Sandbox(num_workers=1) as box:
        if box.layers["files"]:
            assert int(box.layers["uid"]) >= 60000


# Judges that hang, die, or ask for time


@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.parametrize(
    ("lines", "completion"),
    [
        (["assert 10 ** candidate(3) > 0"], "    return 10 ** 9\n"),
        (["import re", "assert not re.match('(a+)+$', candidate(3))"], "    return 'a' * 40 + 'b'\n"),
        (["assert sum(range(candidate(3))) == 3"], "    return 10 ** 11\n"),
    ],
    ids=["power", "regex", "sum"],
)
def test_a_judge_that_hangs_in_c_ends_within_a_second(namespaces, lines, completion):
    with Sandbox(time_limit=0.5, num_workers=1, namespaces=namespaces) as box:
        judges = judges_of(box)
        started = time.monotonic()
        verdict = box.check(task(*lines), completion)
        assert time.monotonic() - started < 1.5
        assert verdict.status in ("timeout", "fail") and verdict.judged
        assert box.check(task("assert candidate(3) == 6"), RIGHT).passed
        if not judges & judges_of(box):
            assert processes(judges) == []


@pytest.mark.parametrize(
    ("death", "status"), [("os.abort()", "crash"), ("os.kill(os.getpid(), 11)", "crash"), ("os._exit(1)", None),
                          ("os.kill(os.getpid(), 9)", "infrastructure")]
)  # fmt: skip
def test_what_a_judge_died_of(death, status):
    with Sandbox(num_workers=1) as box:
        verdict = box.check(task(f"candidate(3) == 6 or {death}", before="import os"), "    return x\n")
        assert verdict.status == status or status is None and not verdict.passed
        if status == "crash":
            assert verdict.judged and "crashed the judge" in verdict.reason
        assert box.check(task("assert candidate(3) == 6"), RIGHT).passed


class Judge:
    """A worker whose judge says what the test tells it to, with pauses in between."""

    def __init__(self, monkeypatch, *script):
        sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
        start = subprocess.Popen
        monkeypatch.setattr(
            sandbox_worker.subprocess, "Popen", lambda _, **kept: start(sleeper, start_new_session=True)
        )
        pair = sandbox_worker.socket.socketpair()
        monkeypatch.setattr(sandbox_worker.socket, "socketpair", lambda: (pair[0], pair[1].dup()))
        self.worker = sandbox_worker.Worker({})
        monkeypatch.undo()
        self.thread = threading.Thread(target=self.speak, args=(pair[1], script))

    def speak(self, channel, script):
        for step in script:
            if isinstance(step, dict):
                channel.sendall(dump_frame(step))
            else:
                time.sleep(step)

    def check(self):
        self.thread.start()
        started = time.monotonic()
        try:
            return self.worker.check({"time_limit": 0.1}), time.monotonic() - started
        finally:
            self.thread.join()
            self.worker.kill()


VERDICT = {"status": "pass", "reason": ""}


def test_a_judge_may_ask_for_time(monkeypatch):
    fields, took = Judge(monkeypatch, {"wait": 2.0}, 1.0, VERDICT).check()
    assert fields["status"] == "pass" and took > 0.8  # more than its limit and the grace


def test_a_judge_gets_no_more_than_it_asked_for(monkeypatch):
    fields, took = Judge(monkeypatch, {"wait": 0.3}, 1.5).check()
    assert fields["status"] == "timeout" and 0.8 < took < 1.4


def test_a_judge_cannot_ask_for_ever(monkeypatch):
    judge = Judge(monkeypatch, {"wait": 0.2}, {"wait": 50.0}, {"wait": 50.0}, 1.5)
    monkeypatch.setattr(sandbox_worker, "MAX_EXTENSION", 0.4)
    fields, took = judge.check()
    assert fields["status"] == "timeout" and took < 1.2


def test_judges_fit_into_the_machine():
    with Sandbox(num_workers=2) as box:
        shares = [settings["judge_mib"] for settings in box._settings]
    assert sum(shares) <= max(machine_mib(), 1024) and max(shares) <= 4096
