"""How far error estimates and statuses of `solve` can be trusted: against ball arithmetic, on many kinds of problems.

    python -m tests.trust [--seeds 12] [--first 0] [--only chain] [--method auto] [--hard] [--worst 20] [--cost]

Every kind gives a problem for every seed. Per problem: the error made, in the norm over all times and relative to the
true norm, the estimate of it, and the status. Printed are the shares of problems whose estimate covers the error, and
whose estimate is at most 100 times the error or a unit of rounding; and how many have a status other than OK though the
error is below 1e-9, or OK though it is above 1e-6.
--hard: the hard cases of tests/cases.py in place of these kinds. --cost: times of `solve` beside those of a call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from scipy import signal

import linode
from tests import oracles
from tests.accuracy import norm
from tests.case_builders import (
    companion,
    direct_sum,
    generator,
    jordan,
    normal,
    rotated,
    scaled_basis,
    similar,
    with_corner,
)
from tests.cases import CASES

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]  # Xi, z0, t
Random = np.random.Generator
SURE, WRONG = 1e-9, 1e-6  # relative errors below which a status must be OK, and above which it must not
KINDS: dict[str, Callable[[Random], Problem]] = {}


@dataclass(frozen=True)
class Record:
    """What `solve` said of a problem, and what is true."""

    name: str
    error: float
    estimate: float
    status: str
    unit: float

    @property
    def is_covered(self) -> bool:
        return self.error <= self.estimate

    @property
    def is_near(self) -> bool:
        return self.estimate <= 100 * max(self.error, self.unit)

    @property
    def is_false_alarm(self) -> bool:
        return self.status != "OK" and self.error < SURE

    @property
    def is_miss(self) -> bool:
        return self.status == "OK" and not self.error <= WRONG


# ---- problems ------------------------------------------------------------------------------------------------------


def kind(make: Callable[[Random], Problem]) -> Callable[[Random], Problem]:
    KINDS[make.__name__] = make
    return make


def times(rng: Random, span: float, count: int = 5) -> np.ndarray:
    return np.sort(rng.uniform(0, span, count))


def size(rng: Random, least: int = 2, most: int = 10) -> int:
    return int(rng.integers(least, most + 1))


def posed(rng: Random, Xi: np.ndarray, span: float) -> Problem:
    """With a random z0, and times up to span / |Xi|."""
    z0 = normal(rng, len(Xi), is_complex=np.iscomplexobj(Xi))
    return Xi, z0, times(rng, span / max(norm(Xi), 1e-300))


@kind
def gaussian(rng: Random) -> Problem:
    n = size(rng)
    return posed(rng, normal(rng, n, n), 10 ** rng.uniform(-2, 2))


@kind
def small_times(rng: Random) -> Problem:
    n = size(rng)
    return posed(rng, normal(rng, n, n), 10 ** rng.uniform(-9, -1))


@kind
def complex_gaussian(rng: Random) -> Problem:
    n = size(rng)
    return posed(rng, normal(rng, n, n, is_complex=True), 10 ** rng.uniform(-2, 1.5))


@kind
def before_zero(rng: Random) -> Problem:
    Xi, z0, t = gaussian(rng)
    return Xi, z0, t * rng.choice([-1.0, 1.0], len(t))


@kind
def many_times(rng: Random) -> Problem:
    Xi, z0, t = gaussian(rng)
    return Xi, z0, rng.uniform(-t[-1], t[-1], 60)


@kind
def larger(rng: Random) -> Problem:
    n = size(rng, 20, 40)
    return posed(rng, normal(rng, n, n), 10 ** rng.uniform(-1, 1.3))


@kind
def stiff(rng: Random) -> Problem:
    n = size(rng)
    rates = -(10 ** rng.uniform(-3, 6, n))
    return similar(rng, np.diag(rates), 10 ** rng.uniform(0, 3)), normal(rng, n), 10 ** rng.uniform(-6, 3, 5)


@kind
def oscillators(rng: Random) -> Problem:
    n = size(rng, 1, 4)
    K = np.diag(10 ** rng.uniform(-2, 4, n)) + 0.1 * np.ones((n, n))
    Xi = np.block([[np.zeros((n, n)), np.eye(n)], [-K, -rng.uniform(0, 0.1) * np.eye(n)]])
    return Xi, normal(rng, 2 * n), times(rng, 10 ** rng.uniform(-1, 3))


@kind
def long_rotations(rng: Random) -> Problem:
    w = 10 ** rng.uniform(-3, 3)
    Xi = np.array([[0, w * rng.uniform(0.5, 2)], [-w, 0]])
    return Xi, normal(rng, 2), times(rng, 10 ** rng.uniform(0, 12) / w, 3)


@kind
def defective(rng: Random) -> Problem:
    n = size(rng, 2, 8)
    return posed(rng, rotated(rng, jordan(n, rng.uniform(-1, 1), rng.uniform(0.1, 3))), 10 ** rng.uniform(-1, 1.5))


@kind
def nearly_defective(rng: Random) -> Problem:
    n = size(rng, 2, 8)
    return posed(rng, with_corner(jordan(n, -0.3), 10 ** rng.uniform(-16, -2)), 10 ** rng.uniform(-1, 2))


@kind
def ill_conditioned_modes(rng: Random) -> Problem:
    n = size(rng, 3, 8)
    return posed(rng, similar(rng, np.diag(normal(rng, n)), 10 ** rng.uniform(2, 7)), 10 ** rng.uniform(-1, 1.5))


@kind
def companions(rng: Random) -> Problem:
    n = size(rng, 3, 9)
    roots = -rng.uniform(0.1, 5, n) * 10 ** rng.uniform(0, 1.5)
    return companion(roots), normal(rng, n), times(rng, rng.uniform(0.1, 5))


@kind
def filters(rng: Random) -> Problem:
    order, cut = size(rng, 2, 9), 2 * np.pi * 10 ** rng.uniform(0, 6)
    design = signal.butter if rng.random() < 0.5 else lambda N, w, **k: signal.cheby1(N, 1.0, w, **k)
    A = signal.tf2ss(*design(order, cut, analog=True))[0]
    return A, np.eye(order)[0], times(rng, 10 / cut)


@kind
def triangular(rng: Random) -> Problem:
    n, coupling = size(rng), 10 ** rng.uniform(0, 12)
    Xi = np.triu(coupling * normal(rng, n, n), 1) + np.diag(normal(rng, n))
    return Xi if rng.random() < 0.5 else Xi.T, normal(rng, n), times(rng, rng.uniform(0.1, 5))


@kind
def strictly_triangular(rng: Random) -> Problem:
    n = size(rng)
    return np.triu(10 ** rng.uniform(-6, 12) * normal(rng, n, n), 1), normal(rng, n), times(rng, rng.uniform(0.1, 5))


@kind
def graded_chains(rng: Random) -> Problem:
    n = size(rng, 2, 12)
    Xi = 10 ** rng.uniform(2, 12) * np.eye(n, k=1) - np.diag(rng.uniform(0.1, 2, n))
    return Xi, np.ones(n), times(rng, rng.uniform(0.1, 5))


@kind
def decay_chains(rng: Random) -> Problem:
    n = size(rng, 3, 12)
    rates = 10 ** rng.uniform(-9, 4, n)
    Xi = np.diag(-rates) + np.diag(rates[:-1], -1)
    return Xi, np.eye(n)[0], 10 ** rng.uniform(-4, 8, 4)


@kind
def generators(rng: Random) -> Problem:
    """Columns sum to 0 exactly: rates are multiples of 2^-20."""
    n = size(rng, 2, 8)
    G = np.round(10 ** rng.uniform(-4, 3, (n, n)) * 2.0**20) / 2.0**20
    np.fill_diagonal(G, 0)
    return G - np.diag(G.sum(0)), np.eye(n)[0], 10 ** rng.uniform(-3, 12, 4)


@kind
def compartments(rng: Random) -> Problem:
    n = size(rng, 2, 8)
    K = 10 ** rng.uniform(-6, 2, (n, n)) * (rng.random((n, n)) < 0.6)
    np.fill_diagonal(K, 0)
    return K - np.diag(K.sum(0) + 10 ** rng.uniform(-6, 1, n)), np.eye(n)[0], 10 ** rng.uniform(-2, 4, 4)


@kind
def badly_scaled(rng: Random) -> Problem:
    n = size(rng)
    Xi = scaled_basis(normal(rng, n, n), 10 ** rng.uniform(-12, 12, n))
    return Xi, normal(rng, n), times(rng, rng.uniform(0.1, 5))


@kind
def scattered_sizes(rng: Random) -> Problem:
    n = size(rng, 2, 6)
    Xi = normal(rng, n, n) * 10 ** rng.uniform(-8, 0, (n, n))
    return Xi, normal(rng, n), times(rng, 10 ** rng.uniform(-1, 2))


@kind
def tiny_couplings(rng: Random) -> Problem:
    a, b = 10 ** rng.uniform(-120, -10), 10 ** rng.uniform(-12, 0)
    return np.array([[0, -a], [-b, rng.uniform(-1, 1) * 1e-3 * b]]), normal(rng, 2), times(rng, 10 / b)


@kind
def non_normal(rng: Random) -> Problem:
    n = size(rng, 4, 14)
    Xi = np.tril(np.ones((n, n))) - np.tril(np.ones((n, n)), -2) * 2 - rng.uniform(0, 2) * np.eye(n)
    return Xi + np.triu(normal(rng, n, n), 3), normal(rng, n), times(rng, rng.uniform(0.5, 10))


@kind
def growing_and_decaying(rng: Random) -> Problem:
    n = size(rng, 2, 6)
    return similar(rng, np.diag(rng.uniform(-3, 3, n)), 3.0), normal(rng, n), times(rng, rng.uniform(10, 150), 3)


@kind
def overscaled(rng: Random) -> Problem:
    b = 10 ** rng.uniform(3, 18)
    return np.array([[1, b], [0, -1 + rng.uniform(0, 1)]]), normal(rng, 2), times(rng, rng.uniform(0.5, 3), 3)


@kind
def unstable_slow(rng: Random) -> Problem:
    """A fast decay beside a slow, exact conservation."""
    n = size(rng, 2, 5)
    fast = direct_sum(-(10 ** rng.uniform(2, 7)), np.zeros((n, n)))
    fast[0, 1:] = normal(rng, n) * 10 ** rng.uniform(0, 5)
    return fast, normal(rng, n + 1), 10 ** rng.uniform(-2, 5, 4)


@kind
def symmetric(rng: Random) -> Problem:
    n = size(rng)
    X = normal(rng, n, n)
    return -X @ X.T * 10 ** rng.uniform(-2, 3), normal(rng, n), times(rng, 3)


@kind
def diagonal(rng: Random) -> Problem:
    n = size(rng, 1, 6)
    rates = normal(rng, n) * 10 ** rng.uniform(-3, 3, n)
    return np.diag(rates), normal(rng, n), times(rng, min(10 ** rng.uniform(-3, 1), 600 / np.abs(rates).max()))


@kind
def single_precision(rng: Random) -> Problem:
    Xi, z0, t = gaussian(rng)
    return Xi.astype(np.float32), z0.astype(np.float32), t


# ---- scores --------------------------------------------------------------------------------------------------------


def score(name: str, problem: Problem, method: str = "auto") -> Record:
    """Solve, and compare with ball arithmetic."""
    Xi, z0, t = problem
    solution = linode.LinearODE(*map(torch.tensor, (Xi, z0)), method=method).solve(torch.tensor(t))
    true = oracles.trajectory(Xi, z0, t)
    true_size, got = norm(true), solution.z.to(torch.promote_types(solution.z.dtype, torch.float64)).numpy()
    missed = norm(got - true) if np.isfinite(got).all() else inf
    error = missed / true_size if true_size else float(missed > 0)
    unit = torch.finfo(solution.z.dtype).eps / 2
    return Record(name, error, float(solution.error_estimate), solution.status.name, unit)


def problems(seeds: range, only: str = "") -> list[tuple[str, Problem]]:
    chosen = [(f"{name} {seed}", name, seed) for name in KINDS for seed in seeds if only in f"{name} {seed}"]
    return [(label, KINDS[name](generator(f"trust {name} {seed}"))) for label, name, seed in chosen]


def summary(records: Sequence[Record]) -> str:
    count = len(records)
    covered, near = (100 * sum(getattr(r, f"is_{x}") for r in records) / count for x in ("covered", "near"))
    alarms, misses = (sum(getattr(r, f"is_{x}") for r in records) for x in ("false_alarm", "miss"))
    return (
        f"{count} problems: estimate covers the error in {covered:.1f} %, is within 100 x of it in {near:.1f} %; "
        f"{alarms} statuses other than OK below {SURE:g}, {misses} OK above {WRONG:g}"
    )


def median_time(call: Callable[[], object], count: int = 9) -> float:
    """Seconds, after a first call."""
    call()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def costs(problem: Problem, method: str) -> tuple[float, float, float, float]:
    """Seconds of a call; as multiples of it `solve`, and `solve` with its condition number; and `solve` of a new solver
    as a multiple of a call of a new one.
    """
    Xi, z0, t = map(torch.tensor, problem)
    ode = linode.LinearODE(Xi, z0, method=method)
    call, solve, both = (median_time(f) for f in (lambda: ode(t), lambda: ode.solve(t), lambda: ode.solve(t).condition))
    fresh = [
        median_time(lambda: linode.LinearODE(Xi, z0, method=method)(t)),
        median_time(lambda: linode.LinearODE(Xi, z0, method=method).solve(t)),
    ]
    return call, solve / call, both / call, fresh[1] / fresh[0]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12, help="problems of each kind")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--method", default="auto", help="of linode")
    parser.add_argument("--hard", action="store_true", help="the hard cases in place of the kinds")
    parser.add_argument("--worst", type=int, default=20, help="how many to list")
    parser.add_argument("--cost", action="store_true", help="times too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen = problems(range(options.first, options.first + options.seeds), options.only)
    if options.hard:
        chosen = [(case.name, (case.Xi, case.z0, case.t)) for case in CASES if options.only in case.name]
    records = []
    for name, problem in chosen:
        try:
            records.append(score(name, problem, options.method))
        except ArithmeticError as error:  # the truth could not be found
            print(f"{name}: {error}")
        except linode.MethodError:  # the method named is not for this one
            continue
    wrong = [r for r in records if not (r.is_covered and r.is_near) or r.is_false_alarm or r.is_miss]
    for r in wrong[: options.worst]:
        marks = [x for x in ("covered", "near") if not getattr(r, f"is_{x}")]
        marks = [f"not {x}" for x in marks] + [x for x in ("false_alarm", "miss") if getattr(r, f"is_{x}")]
        print(f"{r.name:28s} error {r.error:8.1e}  estimate {r.estimate:8.1e}  {r.status:16s} {', '.join(marks)}")
    print(summary(records))
    if options.cost:
        call, solve, both, fresh = np.median([costs(problem, options.method) for _, problem in chosen], axis=0)
        print(
            f"medians, one thread: a call {1e6 * call:.0f} us; solve {solve:.1f} x a call, with the condition number "
            f"{both:.1f} x, of a new solver {fresh:.1f} x"
        )


if __name__ == "__main__":
    main()
