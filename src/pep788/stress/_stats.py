"""What so many runs prove: bounds, how many it takes, and whether two rates differ."""

from __future__ import annotations

import math


def upper_bound(failures: int, runs: int, confidence: float = 0.95) -> float:
    """The highest failure rate that fits what was seen (one-sided Clopper-Pearson); with 0 of n about 3/n at 95 %."""
    if failures >= runs:
        return 1.0
    low, high = failures / runs, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        if _at_most(failures, runs, rate) > 1 - confidence:
            low = rate
        else:
            high = rate
    return high


def runs_for(confidence: float, rate: float) -> int:
    """Runs without a failure after which the rate is below ``rate``, with this confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - rate))


def fisher(failures: int, runs: int, others: int, other_runs: int) -> float:
    """The two-sided p-value of Fisher's exact test: how likely rates so different are if nothing has changed."""
    total, failed = runs + other_runs, failures + others
    ways = math.comb(total, failed)

    def chance(count: int) -> float:
        return math.comb(runs, count) * math.comb(other_runs, failed - count) / ways

    seen = chance(failures)
    possible = range(max(0, failed - other_runs), min(runs, failed) + 1)
    return min(1.0, sum(p for p in map(chance, possible) if p <= seen * (1 + 1e-9)))


def _at_most(failures: int, runs: int, rate: float) -> float:
    if rate >= 1.0:
        return 0.0
    logs = [
        math.lgamma(runs + 1) - math.lgamma(k + 1) - math.lgamma(runs - k + 1)
        + (k * math.log(rate) if k else 0.0) + (runs - k) * math.log1p(-rate)
        for k in range(failures + 1)
    ]  # fmt: skip
    return sum(map(math.exp, logs))
