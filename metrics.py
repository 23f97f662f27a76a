"""Statistics of an evaluation."""

from __future__ import annotations

import math
from statistics import NormalDist, mean


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples passes: 1 - C(n-c, k) / C(n, k) (arXiv 2107.03374, eq. 1).

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
    (0.25, 0.5, 1.0)
    """
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_correct} correct among {num_samples} is not defined")
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def wilson_interval(rate: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share `rate` observed on `count` trials (Wilson 1927, doi 10.2307/2276774).

    >>> [round(bound, 3) for bound in wilson_interval(12 / 33, 33)]
    [0.222, 0.534]
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = rate + z * z / (2 * count)
    spread = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_parts(verdicts: list[dict[str, float] | None]) -> dict[str, float]:
    """The mean of each part of Verilog's verdicts, over those that have it.

    >>> mean_parts([{"compilation": 1.0, "functional": 0.5}, {"compilation": 0.0}, None])
    {'compilation': 0.5, 'functional': 0.5}
    """
    parts = [parts for parts in verdicts if parts]
    names = list(dict.fromkeys(name for one in parts for name in one))
    return {name: mean(one[name] for one in parts if name in one) for name in names}
