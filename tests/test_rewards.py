"""Rewards: their numbers, the linter behind `shaped`, and functions of the user's own."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

import train_grpo_lora
from common import InputError
from judging import quality
from judging.pool import STATUSES, Verdict
from judging.rewards import chosen_reward, partial_reward, shaped_reward, unit_test_reward
from train_rl_lora import Args
from training.resume import _fixed

TASK = {"task_id": "t", "prompt": 'import os\n\n\ndef first(xs):\n    """The first of xs."""\n'}
MAIN = "    for x in xs:\n        return x\n    return None"


def sample(text="    pass\n", status="pass", length=10, **counts):
    return SimpleNamespace(task=TASK, rollout=SimpleNamespace(text=text), verdict=Verdict(status, "", **counts),
                           length=length)  # fmt: skip


@pytest.fixture(scope="module")
def measure():
    return quality.quality_measure()


@st.composite
def verdicts(draw):
    status = draw(st.sampled_from(STATUSES))
    total = draw(st.none() | st.integers(0, 20))
    passed = None if total is None else draw(st.integers(0, total))
    return Verdict(status, "", tests_passed=passed, tests_total=total)


def shares(least):
    return st.floats(least, 1, allow_nan=False)


@given(st.lists(verdicts(), min_size=1, max_size=20), st.integers(1, 4096), st.data())
def test_wrong_code_earns_less_than_right_code(some, most, data):
    """Whatever the verdicts, lengths, qualities, and numbers that are let through."""
    alpha = data.draw(st.floats(0, 200 / most))
    full, bonus, penalty = data.draw(shares(0)), data.draw(st.floats(0, 1e6)), data.draw(st.floats(0, 1e6))
    allowed = []
    for name in ("unit_test", "partial"):
        settings = dict(reward=name, max_new_tokens=most, length_penalty_alpha=alpha, full_bonus=full)
        try:
            chosen_reward(Args(**settings))
            allowed.append(name)
        except InputError:
            pass
    assert ("unit_test" in allowed) == (alpha * most / 100 < 1)
    for verdict in some:
        length, clean = data.draw(st.integers(1, most)), data.draw(shares(0))
        right = Verdict("pass", "", tests_passed=verdict.tests_passed, tests_total=verdict.tests_total)
        pairs = [(shaped_reward(verdict, clean, penalty, bonus), shaped_reward(right, 0.0, penalty, bonus))]
        if "unit_test" in allowed:
            pairs.append((unit_test_reward(verdict, length, alpha), unit_test_reward(right, most, alpha)))
        if "partial" in allowed:
            pairs.append((partial_reward(verdict, full), partial_reward(right, full)))
        assert all(any_code < right or verdict.passed for any_code, right in pairs)


def test_partial_by_hand():
    assert [partial_reward(Verdict("fail", "", tests_passed=n, tests_total=4), 0.25) for n in range(4)] == [
        0, 0.1875, 0.375, 0.5625]  # fmt: skip
    assert partial_reward(Verdict("timeout", "", tests_passed=3, tests_total=4), 0.5) == 0.375
    assert partial_reward(Verdict("fail", "", weak=True), 0.5) == 0  # not counted
    assert partial_reward(Verdict("pass", ""), 0.5) == partial_reward(Verdict("pass", "", 0, 0, 0, 3, 3), 0.1) == 1


def test_shaped_by_hand():
    """Two findings: the bare except, and the variable that nothing reads."""
    sloppy = "    try:\n        y = 1\n        return xs[0]\n    except:\n        return None\n"
    samples = [sample(MAIN), sample(sloppy), sample(sloppy, "fail"), sample("    (", "syntax"), sample(MAIN)]
    earned = chosen_reward(Args(reward="shaped", quality_bonus=0.3))(samples)
    assert earned == pytest.approx([1.3, 1.1, 0.0, -0.2, 1.3])


def test_only_the_completion_answers_for_its_findings(measure):
    prompt = "import os\nimport sys\r\nl = 1\rfrom re import *\n\n\ndef first(xs):\n"
    assert measure([(TASK | {"prompt": prompt}, "    return xs[0]")]) == [1.0]
    assert measure([(TASK | {"prompt": prompt}, "    l = xs[0]\n    return l")]) == [0.5]


@pytest.mark.parametrize(
    "comment",
    ["# noqa", "# noqa: F401", "# ruff: noqa", "# flake8: noqa", "# ruff: noqa: F401", "# ruff: disable[F401]",
     "# ruff: file-ignore[F401]", '# /// script\n# requires-python = ">=3.4"\n# [tool.ruff]\n# select = []\n# ///'],
)  # fmt: skip
def test_nothing_in_the_code_hides_a_finding(measure, comment):
    line = comment.splitlines()[0]
    assert measure([(TASK, f"{comment}\n    import re  {line}\n    return xs[0]  {line}\n{comment}\n")]) == [0.5]


def test_nor_does_a_settings_file(measure, tmp_path, monkeypatch):
    (tmp_path / "ruff.toml").write_text('lint.ignore = ["ALL"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUFF_CONFIG", str(tmp_path / "ruff.toml"))
    assert measure([(TASK, "    import re\n    return xs[0]")]) == [0.5]


def test_padding_earns_nothing(measure):
    one = measure([(TASK, "    l = xs[0]\n    return l")])
    assert measure([(TASK, "    l = xs[0]\n" + "    # then\n" * 50 + "    return l")]) == one == [0.5]


def test_hostile_code_costs_only_itself(measure, capsys, monkeypatch):
    """What overflows ruff's stack, what it cannot parse, says too much about, or takes too long over."""
    deep = "    x = " + "-" * 50000 + "1\n"
    quadratic = "    x = " + "not " * 2000 + "1\n"
    texts = [MAIN, deep, "    return )\n", quadratic, "    return '\ud800\x00'\n", "--config=x\n--fix\n", MAIN]
    assert measure([(TASK, text) for text in texts]) == [1.0, 0, 0, 0, 1.0, 0, 1.0]
    assert "could not read 4 of 6 programs" in capsys.readouterr().out
    monkeypatch.setattr(quality, "LIMIT_SECONDS", 0.2)  # ruff needs seconds for this one, on any machine
    assert measure([(TASK, "    x = " + "not " * 20000 + "1\n")]) == [0.0]
    assert "could not read 1 of 1" in capsys.readouterr().out


def test_without_ruff_there_is_no_shaped(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ruff", None)
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    (pinned,) = [line for line in lines if line.startswith("ruff==")]
    with pytest.raises(InputError, match=f"ruff is not installed; .venv/bin/pip install {pinned}$"):
        chosen_reward(Args(reward="shaped"))


def test_with_a_ruff_that_does_not_run(monkeypatch):
    monkeypatch.setattr(quality, "OPTIONS", ("--target-version=py399",))
    with pytest.raises(InputError, match="does not run here"):
        chosen_reward(Args(reward="shaped"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(length_penalty_alpha=0.4), "must be below 0.391"),
        (dict(length_penalty_alpha=math.nan), "must be below"),
        (dict(reward="shaped", syntax_penalty=-0.2), "--syntax_penalty -0.2: must not be negative"),
        (dict(reward="shaped", quality_bonus=-0.1), "--quality_bonus -0.1: must not be negative"),
        (dict(reward="shaped", quality_bonus=math.inf), "must be finite"),
        (dict(reward="partial", full_bonus=0.0), "must be above 0"),
        (dict(reward="partial", full_bonus=1.1), "at most 1"),
        (dict(reward="partial", full_bonus=1e-20), "must be above 0"),
        (dict(reward="shapd"), "want unit_test, shaped, partial, parts, or FILE.py:FUNCTION"),
        (dict(reward="nowhere.py:f"), "there is no file nowhere.py"),
        (dict(reward="judging/rewards.py:f"), "has no function 'f'"),
        (dict(reward="judging/rewards.py:"), "has no function ''"),
        (dict(reward="README.md:f"), "want unit_test"),
    ],
)
def test_what_cannot_be_is_refused(settings, says):
    with pytest.raises(InputError, match=says):
        chosen_reward(Args(**settings))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def f(", "does not load: SyntaxError"),
        ("import no_such_module", "does not load: ModuleNotFoundError"),
        ("f = 3", "has no function 'f'"),
        ("def f(task, completion, verdict, length):\n    return task['nothing']", "KeyError.*on task 't'"),
        ("def f():\n    return 1", "TypeError.*on task 't'"),
        ("def f(*_):\n    return None", "gave None on task 't'"),
        ("def f(*_):\n    return float('nan')", "gave nan on task 't'"),
        ("def f(*_):\n    return '1'", "gave '1' on task 't'"),
    ],
)
def test_errors_of_the_users_own(tmp_path, code, says):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(InputError, match=says):
        chosen_reward(Args(reward=f"{tmp_path}/mine.py:f"))([sample()])


def documented() -> str:
    return re.search(r"```python\n(.*?)```", (ROOT / "docs" / "rewards.md").read_text(), re.DOTALL)[1]


def test_the_documented_reward_of_ones_own(tmp_path):
    (tmp_path / "my_reward.py").write_text(documented())
    samples = [sample(MAIN), sample("    print(xs)\n" + MAIN), sample(status="fail"), sample(status="timeout")]
    earned = chosen_reward(Args(reward=f"{tmp_path}/my_reward.py:quiet_and_fast"))(samples)
    assert earned == pytest.approx([1.0 - 0.001, 0.8 - 0.001, 0.0 - 0.001, -0.1 - 0.001])


def test_a_run_goes_on_only_with_the_same_file(tmp_path):
    path = tmp_path / "mine.py"
    settings = []
    for text in ("def f(*_):\n    return 1\n", "def f(*_):\n    return 2\n"):
        path.write_text(text)
        settings.append(_fixed(Args(train_path="README.md", reward=f"{path}:f")))
    assert [name for name in settings[0] if settings[0][name] != settings[1][name]] == ["sha256 of --reward"]
    assert "sha256 of --reward" not in _fixed(Args(train_path="README.md"))


def run_grpo(start, tasks_path, tmp_path, **settings) -> dict:
    args = train_grpo_lora.Args(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / "out"),
                                max_length=384, max_new_tokens=32, num_steps=1, batch_size=2, num_samples=3,
                                **settings)  # fmt: skip
    train_grpo_lora.main(args)
    return json.loads(Path(args.output_dir, "grpo_train_log.jsonl").read_text())


def test_a_run_with_the_users_own(start, tasks_path, tmp_path, known_run):
    known_run()
    (tmp_path / "mine.py").write_text("def f(task, completion, verdict, length):\n"
                                      "    return 3 * verdict.passed - length / 7\n")  # fmt: skip
    record = run_grpo(start, tasks_path, tmp_path, reward=f"{tmp_path}/mine.py:f")
    assert record["reward"] == pytest.approx(3 * record["base_reward"] - record["gen_len"] / 7)
    assert record["advantage_std"] > 0.9 and record["grad_norm"] > 0


def test_a_shaped_run(start, tasks_path, tmp_path, known_run, monkeypatch):
    sampled, measured = known_run(), []
    real = quality.quality

    def spy(command, before, completion, whole):
        measured.append((completion, real(command, before, completion)))
        return measured[-1][1]

    monkeypatch.setattr(quality, "quality", spy)
    record = run_grpo(start, tasks_path, tmp_path, reward="shaped", quality_bonus=0.4)
    right = [rollout.text for i, rollout in enumerate(sampled[0]) if i % 3]
    known = dict(measured)
    assert known.keys() == set(right)  # the others are not looked at
    assert record["reward"] == pytest.approx(sum(1 + 0.4 * (known[text] or 0) for text in right) / 6)


def test_shares_of_several_processes_are_put_together_in_order(monkeypatch):
    """Process 0 of 2: the second's share comes from it."""
    from common import processes

    samples = [sample(length=n) for n in range(5)]
    monkeypatch.setattr(processes, "share", lambda items: items[0::2])
    monkeypatch.setattr(processes, "gather", lambda mine: mine + [(1, 0.5), (3, 0.25)])
    assert chosen_reward(Args(length_penalty_alpha=0.1))(samples) == pytest.approx([1.0, 0.5, 0.998, 0.25, 0.996])


def test_every_preset_is_documented():
    text = (ROOT / "docs" / "rewards.md").read_text()
    for name in ("unit_test", "shaped", "partial", *quality.RULES[0].partition("=")[2].split(",")):
        assert f"`{name}`" in text


@pytest.mark.parametrize(
    "old, new", [("tasks import code_of", "judging.tasks"), ("training import training_run", "training.run")]
)
def test_a_file_written_before_the_modules_moved_is_told_where_to(tmp_path, old, new):
    (tmp_path / "mine.py").write_text(f"from {old}\n\n\ndef f(task, completion, verdict, length):\n    return 0.0\n")
    with pytest.raises(InputError, match=f"does not load: .*; import it from {new}"):
        chosen_reward(Args(reward=f"{tmp_path / 'mine.py'}:f"))
