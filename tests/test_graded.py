"""Triangular matrices of mixed sign with entries up to 1e18: values and gradients to their componentwise condition."""

from __future__ import annotations

import numpy as np
import pytest

from tests import accuracy
from tests.case_builders import generator
from tests.cases import Case

SEEDS = [*range(24), 25, 104, 139, 191, 196, 361]  # the last: gradients whose digits double precision loses


def graded(seed: int) -> Case:
    rng = generator(f"graded {seed}")
    n, top = int(rng.integers(2, 8)), rng.uniform(12, 18)
    signs = rng.choice([-1.0, 1.0], (n, n))
    couplings = [
        lambda: 10 ** rng.uniform(0, top, (n, n)) * signs,
        lambda: 10**top * rng.standard_normal((n, n)),
        lambda: 10 ** rng.uniform(-top, top, (n, n)) * signs,
        lambda: np.diag(10 ** rng.uniform(6, top, n - 1), 1) * signs + np.triu(rng.standard_normal((n, n)), 2),
    ][seed % 4]()
    if seed % 3:
        rates = rng.standard_normal(n) * 10 ** rng.uniform(-2, 1)
    else:
        rates = -np.abs(rng.standard_normal(n) * 10 ** rng.uniform(-1, 2.5, n))
    Xi = np.triu(couplings, 1) + np.diag(rates)
    t = np.sort(rng.uniform(0.05, 3, 3))
    z0 = rng.standard_normal(n) if seed % 5 else np.eye(n)[-1 if seed % 2 == 0 else 0]
    return Case(f"graded_{seed}", "graded", Xi.T if seed % 2 else Xi, z0, t, rng.standard_normal((3, n)), "")


@pytest.mark.filterwarnings("ignore:overflow encountered in square")  # of condition numbers above 1e154
@pytest.mark.parametrize("method", ["auto", "propagator", "schur"])
@pytest.mark.parametrize("seed", SEEDS)
def test_graded_triangular_matrices_pass_norm_wise_and_component_wise(method: str, seed: int):
    record = accuracy.score_method(accuracy.evaluator(method), [graded(seed)])[0]
    assert record.passes_normwise, accuracy.lines_of(record)
    assert record.passes_componentwise, accuracy.lines_of(record)
