"""Peak memory of one training step: some arrays of the size of the trajectory and some of the matrix, never T matrices.

Measured by torch's profiler, which sees every allocation of a tensor, those inside an operator too: the largest running
sum over one forward and one backward pass, plans included. What linode keeps for good (tables, random factors) is made
before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from linode import FirstOrderHold, LinearODE
from tests.case_builders import generator, jordan, normal
from tests.memory import peak_bytes

N, T = 64, 1000
ARRAYS, MATRICES = 16, 60  # of T x n and of n x n, float64
SHORT, LONG = 1.0, 500.0  # spans of time: many times per step of the propagator, or few


def limit(n_times: int = T) -> int:
    return 8 * (ARRAYS * n_times * N + MATRICES * N * N)


def matrix(name: str, n: int) -> torch.Tensor:
    rng = generator(name)
    A = normal(rng, n, n) / np.sqrt(n)
    return torch.tensor({"skew": A - A.T, "stable": A - 1.5 * np.eye(n), "defective": jordan(n, -1.0)}[name])


def training_step(
    solve: Callable[..., torch.Tensor], name: str, span: float, n_times: int = T, n: int = N
) -> Callable[[], object]:
    rng = generator(f"{name} {span}")
    Xi, z0 = matrix(name, n).requires_grad_(), torch.tensor(normal(rng, n), requires_grad=True)
    t, g = (torch.tensor(x) for x in (rng.uniform(0, span, n_times), normal(rng, n_times, n)))
    return lambda: torch.autograd.grad((solve(Xi, z0, t) * g).sum(), (Xi, z0))


def by(method: str) -> Callable[..., torch.Tensor]:
    return lambda Xi, z0, t: LinearODE(Xi, z0, method=method)(t)


def with_T_matrices(Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_exp(Xi * t[:, None, None]) @ z0


QUESTIONS = [
    ("auto", "skew", LONG),
    ("eig", "skew", LONG),
    ("auto", "stable", SHORT),
    ("auto", "stable", LONG),
    ("propagator", "stable", SHORT),
    ("propagator", "stable", LONG),
    ("taylor", "stable", SHORT),
    ("chain", "stable", SHORT),
    ("auto", "defective", SHORT),
    ("auto", "defective", LONG),
]
every_question = pytest.mark.parametrize(("method", "name", "span"), QUESTIONS)


@pytest.fixture(scope="module", autouse=True)
def _after_what_is_kept_for_good():
    for method, name, span in QUESTIONS:
        training_step(by(method), name, span, n_times=10, n=8)()


@every_question
def test_a_training_step_holds_few_arrays_of_the_size_of_its_output(method: str, name: str, span: float):
    peak = peak_bytes(training_step(by(method), name, span))
    assert peak <= limit(), f"{peak / (8 * T * N):.1f} times the output"


@every_question
def test_twice_the_times_take_twice_the_memory(method: str, name: str, span: float):
    once, twice = (peak_bytes(training_step(by(method), name, span, n_times, n=16)) for n_times in (2 * T, 4 * T))
    assert 1.4 < twice / once < 2.2


def test_one_matrix_for_every_time_is_over_the_limit():
    assert peak_bytes(training_step(with_T_matrices, "stable", SHORT, 100)) > 3 * limit(100)


def test_the_peak_is_that_of_what_is_held_and_not_of_all_that_was_allocated():
    def run() -> torch.Tensor:
        a = torch.ones(100, 1000, dtype=torch.float64)
        b = a + 1
        del a
        c = b * 2
        del b
        return c.sum()

    assert 2 * 800_000 <= peak_bytes(run) < 2.1 * 800_000


@pytest.mark.parametrize("spacing", ["uniform", "irregular"])
@pytest.mark.parametrize("name", ["stable", "defective"])
def test_more_samples_of_an_input_need_arrays_of_states_and_no_matrices(name: str, spacing: str):
    """A propagator for every sample would be 40 arrays of their states."""
    n, Xi, B = 40, matrix(name, 40), torch.ones(40, 2, dtype=torch.float64)

    def peak(n_samples: int) -> int:
        rng = np.random.default_rng(n_samples)
        times = (
            np.arange(n_samples) / 64 if spacing == "uniform" else np.sort(rng.uniform(0, n_samples / 64, n_samples))
        )
        values = torch.tensor(rng.standard_normal((n_samples, 2)), requires_grad=True)

        def step() -> None:
            A = Xi.clone().requires_grad_()
            u = FirstOrderHold(times, values)
            LinearODE(A, torch.zeros(n, dtype=torch.float64), B=B, u=u)(torch.from_numpy(times)).sum().backward()

        step()
        return peak_bytes(step)

    assert peak(18_000) - peak(6_000) < 8 * 16 * 12_000 * n
