"""Sets of matrices: maps, parts and bases, by what defines each set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linode import matrices
from linode.fitting.products import complex_step

N = 4
PROJECTIONS = {
    "symmetric": (matrices.symmetric_part, N * (N + 1) // 2),
    "skew": (matrices.skew_part, N * (N - 1) // 2),
    "diagonal": (matrices.diagonal_part, N),
}
MAPS = {
    "symmetric": (matrices.symmetric, 1),
    "skew": (matrices.skew, 1),
    "metzler": (matrices.metzler, 1),
    "compartmental": (matrices.compartmental, 1),
    "stable": (matrices.stable, 3),
}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_basis_spans_the_range_of_the_projection(name: str):
    project, dimension = PROJECTIONS[name]
    basis, A = matrices.basis(project, N), draw(N, N)
    assert basis.shape == (N * N, dimension)
    assert torch.linalg.matrix_rank(basis) == dimension
    members = basis.mT.reshape(-1, N, N)
    assert torch.equal(project(members), members)
    theta = torch.linalg.lstsq(basis, A.reshape(-1, 1)).solution
    assert torch.allclose((basis @ theta).reshape(N, N), project(A), atol=1e-14)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_parameters_of_a_basis_are_entries_row_by_row(name: str):
    project, dimension = PROJECTIONS[name]
    Xi = (matrices.basis(project, N) @ torch.arange(1.0, dimension + 1, dtype=torch.float64)).reshape(N, N)
    entries = [float(x) for x in Xi.triu().ravel() if x != 0]
    assert entries == list(range(1, dimension + 1))


@pytest.mark.parametrize("name", MAPS)
def test_the_complex_step_gives_the_derivative_of_autograd(name: str):
    make, count = MAPS[name]
    parts = draw(count, N, N)
    true = torch.func.jacrev(lambda x: make(*x))(parts).reshape(N, N, -1)

    def of_arrays(theta: np.ndarray) -> np.ndarray:
        return make(*torch.from_numpy(theta).reshape(-1, count, N, N).movedim(1, 0)).numpy()

    found = np.moveaxis(complex_step(of_arrays, parts.numpy().ravel()), 0, -1)
    assert np.allclose(found, true.numpy(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_stable_parts_give_back_a_stable_matrix_and_make_others_stable(size: float):
    for seed in range(20):
        A = size * draw(N, N, seed=seed)
        shift = float(torch.linalg.eigvals(A).real.max())
        stable = A - (shift + 0.1 * size) * torch.eye(N)
        again = matrices.stable(*matrices.stable_parts(stable))
        assert (again - stable).abs().max() <= 1e-9 * stable.abs().max()
        least = 0.05 * size
        moved = matrices.stable(*matrices.stable_parts(A - (shift - 0.01 * size) * torch.eye(N), least))
        assert float(torch.linalg.eigvals(moved).real.max()) <= -0.999 * least


def test_positive_parts_give_back_a_matrix_whose_rates_are_large_enough():
    logarithms = draw(N, N)
    for make, parts in (
        (matrices.metzler, matrices.metzler_parts),
        (matrices.compartmental, matrices.compartmental_parts),
    ):
        Xi = make(logarithms)
        assert torch.allclose(make(*parts(Xi, 1e-6)), Xi, rtol=1e-12, atol=1e-12)
        clipped = make(*parts(-Xi.abs(), 0.1))
        off = clipped[~torch.eye(N, dtype=torch.bool)]
        assert torch.allclose(off, torch.full_like(off, 0.1))


def test_nothing_is_made_on_the_default_device():
    A = draw(N, N)
    with torch.device("meta"):
        for parts in (
            matrices.stable_parts(A),
            matrices.metzler_parts(A, 0.1),
            matrices.compartmental_parts(A, 0.1),
            matrices.low_rank_parts(A, 1, A[0]),
        ):
            assert all(part.device.type == "cpu" for part in parts)
        assert matrices.basis(matrices.skew_part, N).device.type == "cpu"
