"""Timing of contenders on one problem: interleaved in one process, warmed up, medians and quartiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """One contender on one problem: quartiles in ms and relative errors, or why there are none."""

    contender: str
    quartiles: tuple[float, float, float] | None
    errors: dict[str, float]
    failure: str = ""

    def __str__(self) -> str:
        if self.quartiles is None:
            return f"{self.contender:24} {self.failure}"
        low, median, high = self.quartiles
        errors = "".join(f"{error:10.1e}" for error in self.errors.values())
        return f"{self.contender:24}{median:10.2f}{f'{low:.2f} .. {high:.2f}':>20}{errors}"


def relative_error(x: np.ndarray, truth: np.ndarray) -> float:
    """Frobenius norm of the error over that of the truth."""
    return float(np.linalg.norm(x - truth) / np.linalg.norm(truth))


def interleave(
    contenders: Mapping[str, Callable[[], dict[str, np.ndarray]]],
    truth: Mapping[str, np.ndarray],
    n_rounds: int,
) -> list[Row]:
    """Call every contender once in every round; its answers are judged against the truth."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    errors: dict[str, dict[str, float]] = {}
    failures: dict[str, str] = {}
    for name, solve in contenders.items():  # warm-up, and the errors
        try:
            solve()
            errors[name] = {key: relative_error(x, truth[key]) for key, x in solve().items()}
        except (RuntimeError, ValueError) as error:  # what torch.linalg.eig and linode's methods raise
            failures[name] = f"raises {type(error).__name__}: {str(error).splitlines()[0][:80]}"
    for _ in range(n_rounds):
        for name, solve in contenders.items():
            if name not in failures:
                start = time.perf_counter()
                solve()
                seconds[name].append(1e3 * (time.perf_counter() - start))
    return [
        Row(name, None, {}, failures[name]) if name in failures else Row(name, _quartiles(seconds[name]), errors[name])
        for name in contenders
    ]


def _quartiles(times: list[float]) -> tuple[float, float, float]:
    if len(times) == 1:
        return times[0], times[0], times[0]
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return low, median, high
