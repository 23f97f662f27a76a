"""Compute intervals and tests over tasks and seeds.

A row of a table is a matrix of pass rates, seeds times tasks. Other seeds and other tasks would have given another
mean; what an interval covers depends on which of the two it lets vary. Arrays may stand in front of the last axes, for
simulations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from judging.metrics import wilson_interval

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
Compared = tuple[float, tuple[float, float], float]  # difference, its 95% interval, p-value


def student_inside(t, freedom) -> np.ndarray:
    """Return P(|T| < t), also for broken degrees of freedom: the integral of cos^(freedom - 1) up to atan(t/sqrt(f)).

    >>> [round(float(student_inside(t, n)), 4) for t, n in ((12.706, 1), (4.303, 2), (1.984, 100))]
    [0.95, 0.95, 0.95]
    """
    freedom = np.asarray(freedom, dtype=float)
    angle = np.arctan(np.asarray(t, dtype=float) / np.sqrt(freedom))
    log_gamma = np.vectorize(math.lgamma, otypes=[float])
    scale = 2 / math.sqrt(math.pi) * np.exp(log_gamma((freedom + 1) / 2) - log_gamma(freedom / 2))
    nodes = angle[..., None] * (NODES + 1) / 2  # (..., 64), Gauss's nodes on [0, angle]
    inside = scale * angle / 2 * np.sum(WEIGHTS * np.cos(nodes) ** (freedom[..., None] - 1), axis=-1)
    return np.clip(inside, 0, 1)


def student_quantile(freedom, confidence: float = 0.95) -> np.ndarray:
    """Return t with P(|T| < t) = confidence. Raises ValueError below one degree of freedom.

    >>> [round(float(student_quantile(n)), 3) for n in (1, 2, 3, 10, 100)]
    [12.706, 4.303, 3.182, 2.228, 1.984]
    """
    freedom = np.asarray(freedom, dtype=float)
    if np.any(freedom < 1):
        raise ValueError("need at least two values")
    low, high = np.zeros_like(freedom), np.full_like(freedom, math.pi / 2)
    for _ in range(50):  # halves the angle atan(t / sqrt(freedom))
        middle = (low + high) / 2
        below = student_inside(np.sqrt(freedom) * np.tan(middle), freedom) < confidence
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.sqrt(freedom) * np.tan(low)


@cache
def student_factor(freedom: int) -> float:
    return float(student_quantile(freedom))


def logit_interval(rate, variance, freedom, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return Student's interval of a share on the logit scale, which stays inside (0, 1) without being cut.

    The scale is log(rate / (1 - rate)); the error there is the error of the rate over rate (1 - rate). The rate must be
    neither 0 nor 1.

    Args:
        variance: of `rate`. freedom: degrees of freedom of this variance.

    >>> [round(float(bound), 3) for bound in logit_interval(0.8, 0.1**2 / 3, 2)]
    [0.459, 0.95]
    """
    spread = student_quantile(freedom, confidence) * np.sqrt(variance) / (rate * (1 - rate))
    centre = np.log(rate / (1 - rate))
    return np.exp(-np.logaddexp(0, spread - centre)), np.exp(-np.logaddexp(0, -spread - centre))


def crossed_variance(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, variance of the mean, and degrees of freedom of a seeds x tasks matrix, both being random.

    The method of moments for two crossed random effects, without repetition: var_tasks / T + var_seeds / S +
    within / (T S). Where no component is negative this is (variance of the task means) / T + (variance of the seed
    means) / S - within / (T S), because each of these two variances holds a share of what is within. A negative
    component counts as 0. The degrees of freedom, at least 1, are Satterthwaite's of the mean squares (1946, doi
    10.2307/3002019).

    Args:
        rates: (..., S, T), S and T at least 2.

    >>> [round(float(found), 4) for found in crossed_variance(np.array([[1.0, 1, 0, 0], [1, 1, 1, 0]]))]
    [0.625, 0.0573, 2.3121]
    """
    seeds, tasks = rates.shape[-2:]
    mean = rates.mean((-2, -1))
    of_task = rates.mean(-2, keepdims=True) - mean[..., None, None]  # (..., 1, T)
    of_seed = rates.mean(-1, keepdims=True) - mean[..., None, None]  # (..., S, 1)
    rest = rates - mean[..., None, None] - of_task - of_seed
    squares = [
        (seeds * np.sum(of_task**2, (-2, -1)) / (tasks - 1), tasks - 1),
        (tasks * np.sum(of_seed**2, (-2, -1)) / (seeds - 1), seeds - 1),
        (np.sum(rest**2, (-2, -1)) / ((seeds - 1) * (tasks - 1)), (seeds - 1) * (tasks - 1)),
    ]  # mean squares, which expect within + S var_tasks, within + T var_seeds and within, and their degrees of freedom
    (by_task, _), (by_seed, _), (within, _) = squares
    total = np.maximum(by_task - within, 0) + np.maximum(by_seed - within, 0) + within
    spread = sum(square**2 / freedom for square, freedom in squares)
    freedom = np.maximum(1, total**2 / np.where(spread > 0, spread, 1))
    return mean, total / (seeds * tasks), freedom


def crossed_interval(rates: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of a mean over other tasks and other seeds: Student's on the logit scale.

    With one seed, and where nothing varies (all pass, or none), it is Wilson's over the tasks: then the seeds say
    nothing of their own. It can be narrower than `seed_interval`, which has to estimate its variance from the seeds
    alone: with three, Student's factor is 4.3.

    Args:
        rates: (S, T), the pass rate of each seed on each task.
    """
    mean = float(rates.mean())
    if min(rates.shape) > 1:
        _, variance, freedom = crossed_variance(rates)
        if variance > 0 and 0 < mean < 1:
            low, high = logit_interval(mean, variance, freedom)
            return float(low), float(high)
    return wilson_interval(mean, rates.shape[-1])


def seed_interval(values: Sequence[float], count: int = 0) -> tuple[float, float]:
    """Return the 95% interval of a share over other seeds, on the same tasks: Student's on the logit scale.

    With three seeds it is wide: 2.5 times their standard deviation on either side. Where all seeds have 0, or all have
    1, it is Wilson's for `count`. Raises ValueError for fewer than two values.

    Args:
        values: one share per seed. count: what each is a share of; 0 if it is a share of nothing countable, and then
            the interval at 0 or 1 is (0, 1).

    >>> [round(bound, 3) for bound in seed_interval([0.7, 0.8, 0.9], 100)]
    [0.459, 0.95]
    """
    mean, variance = float(np.mean(values)), of_mean(values, 1 / count if count else 0.0)
    if not 0 < mean < 1:
        return wilson_interval(mean, count) if count else (0.0, 1.0)
    low, high = logit_interval(mean, variance, len(values) - 1)
    return float(low), float(high)


def of_mean(values: Sequence[float], step: float) -> float:
    """Return the variance of the mean of values that come in steps. Raises ValueError for fewer than two values.

    Values of 250 tasks that are equal by chance differ by less than a task, not by nothing: their variance counts as
    what rounding to a step makes, step^2 / 12, at least.
    """
    if len(values) < 2:
        raise ValueError("need at least two values")
    return max(float(np.var(values, ddof=1)), step**2 / 12) / len(values)


def paired_t(differences: Sequence[float], step: float = 0.0) -> Compared:
    """Return the mean of paired differences, its Student interval, and the p-value of the paired t-test (Student 1908).

    Args:
        differences: one per seed, at least two; assumed normal. step: the smallest possible difference of one seed.

    >>> mean, (low, high), p = paired_t([0.01, 0.02, 0.03])
    >>> f"{mean:.2f} ({low:.4f} to {high:.4f}), p = {p:.4f}"
    '0.02 (-0.0048 to 0.0448), p = 0.0742'
    """
    mean, error = float(np.mean(differences)), math.sqrt(of_mean(differences, step))
    spread = student_factor(len(differences) - 1) * error
    if not error:
        return mean, (mean, mean), 0.0 if mean else 1.0
    return mean, (mean - spread, mean + spread), float(1 - student_inside(abs(mean) / error, len(differences) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): one of k true hypotheses is rejected at most so often.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, reached = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = reached
    return corrected


def predicted_mean(values: Sequence[float], new: Sequence[float], step: float = 0.0) -> tuple[float, float]:
    """Return where the mean of `new` seeds lies with 95%, if they are seeds of the same method on the same tasks.

    Student's prediction interval around the mean of `values`, with the variance of both rows pooled. It needs two
    values in at least one of them; raises ValueError otherwise.
    """
    freedom = len(values) + len(new) - 2
    if freedom < 1:
        raise ValueError("need at least two values")
    squares = sum(float(np.sum((np.asarray(row) - np.mean(row)) ** 2)) for row in (values, new))
    variance = max(squares / freedom, step**2 / 12)
    spread = student_factor(freedom) * math.sqrt(variance * (1 / len(values) + 1 / len(new)))
    return float(np.mean(values)) - spread, float(np.mean(values)) + spread


def wilson_difference(first: float, second: float, count: int, correlation: float = 0.0) -> tuple[float, float]:
    """Return the 95% interval of second - first, two pass rates on the same `count` tasks, from Wilson's of each.

    Newcombe's (1998, Statistics in Medicine 17, 2635-2650, method 10): the distances to Wilson's bounds are put
    together like two sides of a triangle, whose angle is the correlation.
    """

    def side(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * correlation * x * y + y * y))

    (low, high), (low_too, high_too) = wilson_interval(first, count), wilson_interval(second, count)
    shift = second - first
    return shift - side(second - low_too, high - first), shift + side(high_too - second, first - low)


def task_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the correlation of two rows' scores over tasks, less the continuity correction of Newcombe's method 10.

    Args:
        first, second: one score per task, both in the same order.

    >>> task_correlation([1, 1, 0, 0], [1, 1, 0, 0]), task_correlation([1, 1, 1, 1], [1, 1, 0, 0])
    (0.5, 0.0)
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    together, scale = float(np.mean(one * two) - one.mean() * two.mean()), float(one.std() * two.std())
    together = max(0.0, together - 1 / (2 * len(one))) if together > 0 else together
    return together / scale if scale else 0.0
