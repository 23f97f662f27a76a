"""Turn verdicts into rewards: four preset reward functions, or one from the user's file (--reward).

    unit_test  r - alpha * length / 100: r is 1 if every test passes, else 0; length in tokens, EOS included
    shaped     1 + bonus * quality if every test passes; -penalty if the code does not compile; else 0
    partial    1 if every test passes, else (1 - bonus) * share of the tests passed
    parts      (the verdict's parts, averaged by --part_weights) - alpha * length / 100; for Verilog only

With the first three, wrong code always earns less than right code. `docs/rewards.md` says more.
"""

from __future__ import annotations

import importlib.util
import math
import numbers
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import InputError, require, require_at_least
from judging.pool import Verdict
from judging.quality import quality_measure
from judging.tasks import code_of
from judging.verilog.pool import PARTS, score

MOVED = {"tasks": "judging.tasks", "rewards": "judging.rewards", "metrics": "judging.metrics",
         "training": "training.run", "quality": "judging.quality", "answers": "judging.answers",
         "batches": "training.samples"}  # fmt: skip
Reward = Callable[[list[Any]], list[float]]  # takes scored samples, returns one reward per sample


def base_reward(verdict: Verdict) -> float:
    """Return r: 1 if every test passes, else 0."""
    return 1.0 if verdict.passed else 0.0


def unit_test_reward(verdict: Verdict, length: int, alpha: float) -> float:
    """Return R = r - alpha * length / 100; length in tokens, EOS included.

    >>> unit_test_reward(Verdict("pass", ""), 50, 0.02)
    0.99
    >>> unit_test_reward(Verdict("fail", "AssertionError"), 200, 0.02)
    -0.04
    """
    return base_reward(verdict) - alpha * length / 100


def shaped_reward(verdict: Verdict, quality: float, syntax_penalty: float, quality_bonus: float) -> float:
    """Return R = 1 + bonus * quality if the code passes, -penalty if it does not compile, else 0; quality in [0, 1].

    >>> [shaped_reward(Verdict(status, ""), 0.5, 0.2, 0.1) for status in ("pass", "fail", "syntax")]
    [1.05, 0.0, -0.2]
    """
    if verdict.passed:
        return 1.0 + quality_bonus * quality
    return -syntax_penalty if verdict.status == "syntax" else 0.0


def partial_reward(verdict: Verdict, full_bonus: float) -> float:
    """Return R = 1 if every test passes, else (1 - bonus) * share of the tests passed.

    The share is 0 if the tests cannot be counted. Tests that passed before a crash or a time limit count. A program
    that sent the judge something unasked (status "protocol") gets 0.

    >>> [partial_reward(Verdict(status, "", tests_passed=2, tests_total=4), 0.5) for status in ("fail", "protocol")]
    [0.25, 0.0]
    """
    if verdict.passed:
        return 1.0
    if verdict.status == "protocol" or not verdict.tests_total:
        return 0.0
    return (1 - full_bonus) * verdict.tests_passed / verdict.tests_total


def parts_reward(verdict: Verdict, weights: Sequence[float], length: int, alpha: float) -> float:
    """Return R = sum(weight * part) / sum(weight) - alpha * length / 100; the sums are over the verdict's parts.

    >>> parts_reward(Verdict("fail", "", parts={"compilation": 1.0, "functional": 0.5}), (1, 3, 0, 0, 0), 100, 0.01)
    0.615
    """
    return score(verdict.parts or {}, weights) - alpha * length / 100


def chosen_reward(args: Any, language: str = "python") -> Reward:
    """Return the reward function that `--reward` names; it takes scored samples and returns their rewards.

    With several processes, each computes the rewards of its share of the samples.

    Args:
        language: python or verilog, the language of the tasks.

    Raises:
        InputError: there is no such reward, it does not support this language, its settings would let wrong code earn
            as much as right code, or ruff, which shaped needs, is missing. The returned function raises it if the
            user's function raises or does not return a finite number.
    """
    discount = getattr(args, "turn_discount", 1.0)
    require(0 < discount <= 1, f"--turn_discount {discount}: must be above 0, and at most 1")
    least = discount if getattr(args, "turns", 1) > 1 else 1.0  # what code earns that passes, by the tests alone
    if args.reward == "unit_test":
        alpha, most = args.length_penalty_alpha, args.max_new_tokens * getattr(args, "turns", 1)
        require(
            0 <= alpha * most / 100 < least,
            f"--length_penalty_alpha {alpha}: with up to {most} tokens, long right code would earn less than short "
            f"wrong code; must be below {100 * least / most:.3g}",
        )
        reward = _of_each(lambda s: unit_test_reward(s.verdict, s.length, alpha))
    elif args.reward == "parts":
        alpha, weights = args.length_penalty_alpha, read_weights(args.part_weights)
        require(
            language == "verilog",
            "--reward parts: only verdicts on Verilog have parts; want unit_test, shaped, partial",
        )
        score(dict.fromkeys(PARTS[:4], 0.0), weights)  # raises if only parts that need a judge model have weight
        reward = _of_each(lambda s: parts_reward(s.verdict, weights, s.length, alpha))
    elif args.reward == "shaped":
        require(language == "python", "--reward shaped: ruff reads Python, not Verilog; want unit_test, partial, parts")
        penalty, bonus = args.syntax_penalty, args.quality_bonus
        require_at_least(0, args, "syntax_penalty", "quality_bonus")
        require(penalty + bonus < math.inf, "--syntax_penalty and --quality_bonus must be finite")
        measure = quality_measure()

        def reward(samples: list[Any]) -> list[float]:
            clean = iter(measure([(s.task, code_of(s.task, s.rollout.text)) for s in samples if s.verdict.passed]))
            quality = [next(clean) if s.verdict.passed else 0.0 for s in samples]
            return [shaped_reward(s.verdict, q, penalty, bonus) for s, q in zip(samples, quality, strict=True)]

    elif args.reward == "partial":
        full = args.full_bonus
        require(0 <= 1 - full < 1, f"--full_bonus {full}: must be above 0, and at most 1")
        require(1 - full < least, f"--turn_discount {least}: wrong code could earn more; must be above {1 - full:.3g}")
        reward = _of_each(lambda s: partial_reward(s.verdict, full))
    else:
        reward = _of_each(_users_own(args.reward))
    return _shared_out(reward if discount == 1 else _discounted(reward, discount))


def read_weights(text: str) -> tuple[float, ...]:
    """Read `--part_weights`: one number per part, separated by commas. Raises InputError for anything else.

    >>> read_weights("0.4,0.5,0.3,0.5,0.6")
    (0.4, 0.5, 0.3, 0.5, 0.6)
    """
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"--part_weights {text}: want numbers with commas between: {', '.join(PARTS)}") from None


def reward_file(reward: str) -> Path:
    """Return the file of FILE.py:FUNCTION; for a preset, the folder "."."""
    return Path(reward.rpartition(":")[0])


def _of_each(reward: Callable[[Any], float]) -> Reward:
    return lambda samples: [reward(s) for s in samples]


def _discounted(reward: Reward, discount: float) -> Reward:
    """Take 1 - discount off the reward of what passes only at its second turn: r = 1 becomes r = discount."""
    return lambda samples: [
        earned - (1 - discount) * base_reward(s.verdict) * (len(s.turns) > 1)
        for s, earned in zip(samples, reward(samples), strict=True)
    ]


def _shared_out(reward: Reward) -> Reward:
    def of_all(samples: list[Any]) -> list[float]:
        from common import processes  # not at the top: it imports torch, which nothing else here needs

        mine = processes.share(list(enumerate(samples)))
        earned = reward([s for _, s in mine])
        everyones = processes.gather([(i, r) for (i, _), r in zip(mine, earned, strict=True)])
        return [r for _, r in sorted(everyones)]

    return of_all


def _users_own(name: str) -> Callable[[Any], float]:
    """Load `function(task, completion, verdict, length) -> float` from FILE.py:FUNCTION."""
    path, _, function_name = name.rpartition(":")
    require(path.endswith(".py"), f"--reward {name}: want unit_test, shaped, partial, parts, or FILE.py:FUNCTION")
    require(Path(path).is_file(), f"--reward {name}: there is no file {path}")
    spec = importlib.util.spec_from_file_location("reward_of_the_user", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:  # the file may have been written before the modules moved into packages
        moved = MOVED.get(error.name or "")
        hint = f"; import it from {moved} (docs/extend.md)" if moved else ""
        raise InputError(f"--reward {name}: {path} does not load: {error!r}{hint}") from error
    except Exception as error:
        raise InputError(f"--reward {name}: {path} does not load: {error!r}") from error
    function = getattr(module, function_name, None)
    require(callable(function), f"--reward {name}: {path} has no function {function_name!r}")

    def earned(s: Any) -> float:
        try:
            reward = function(s.task, s.rollout.text, s.verdict, s.length)
        except Exception as error:
            raise InputError(f"--reward {name}: raised {error!r} on task {s.task['task_id']!r}") from error
        if not isinstance(reward, numbers.Real) or not math.isfinite(reward):
            raise InputError(f"--reward {name}: gave {reward!r} on task {s.task['task_id']!r}; want a finite number")
        return float(reward)

    return earned
