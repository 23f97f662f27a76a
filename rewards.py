"""From a verdict and a length to the scalar that the policy is trained on."""

from __future__ import annotations

from sandbox import Verdict


def base_reward(verdict: Verdict) -> float:
    """r: 1 if every test passes, else 0."""
    return 1.0 if verdict.passed else 0.0


def unit_test_reward(verdict: Verdict, length: int, alpha: float) -> float:
    """R = r - alpha * length / 100, the length in tokens, EOS included.

    >>> unit_test_reward(Verdict("pass", ""), 50, 0.02)
    0.99
    >>> unit_test_reward(Verdict("fail", "AssertionError"), 200, 0.02)
    -0.04
    """
    return base_reward(verdict) - alpha * length / 100
