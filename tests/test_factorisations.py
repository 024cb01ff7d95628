"""Balancing and block diagonalisation: what defines them, exactly or to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from linode.kernels.balance import balance
from linode.kernels.block_schur import MAX_CONDITION, block_schur
from tests.accuracy import EPS, norm
from tests.case_builders import direct_sum, generator, grcar, jordan, normal, real_jordan_pair, rotated, similar

# ---- block diagonalisation ---------------------------------------------------------------------------------


def block_matrices() -> dict[str, np.ndarray]:
    rng = generator("block_schur")
    return {
        "random": normal(rng, 9, 9),
        "random_complex": normal(rng, 7, 7, is_complex=True),
        "two_jordan_blocks": similar(rng, direct_sum(jordan(3, -1.0), jordan(4, 2.0)), 5.0),
        "interleaved": similar(rng, np.diag([1.0, 2, 1, 2, 1, 2]) + np.diag([1.0] * 4, 2), 3.0),
        "clusters": similar(rng, np.diag([1.0, 1 + 1e-6, 5, 1 - 1e-6, 5.001, -2]), 10.0),
        "defective_pairs": rotated(rng, direct_sum(real_jordan_pair(2, -0.2, 2.0), 1.0)),
        "complex_jordan": rotated(rng, direct_sum(jordan(2, 1j), jordan(2, -1j + 0j))),
        "grcar": grcar(12),
        "many_moderate_couplings": np.diag(np.arange(1.0, 9.0)) + np.triu(np.full((8, 8), 3.0), 1),
        "one": np.array([[3.0]]),
        "zero": np.zeros((4, 4)),
    }


BLOCK_MATRICES = block_matrices()
every_block_matrix = pytest.mark.parametrize("name", BLOCK_MATRICES)


@every_block_matrix
def test_blocks_in_their_basis_are_the_matrix(name: str):
    Xi = BLOCK_MATRICES[name]
    factors = block_schur(Xi)
    kappa = np.linalg.norm(factors.X, 1) * np.linalg.norm(factors.X_inv, 1)
    assert norm(factors.X @ factors.X_inv - np.eye(len(Xi))) <= 10 * len(Xi) * EPS * kappa
    rebuilt = factors.X @ direct_sum(*factors.blocks) @ factors.X_inv
    assert norm(rebuilt - Xi) <= 10 * len(Xi) * EPS * kappa * norm(Xi)
    assert kappa <= MAX_CONDITION


@every_block_matrix
def test_close_eigenvalues_share_a_block_and_real_blocks_are_real(name: str):
    factors = block_schur(BLOCK_MATRICES[name])
    spectra = [np.linalg.eigvals(block) for block in factors.blocks]
    spread = max(np.abs(np.concatenate(spectra)))
    for i, own in enumerate(spectra):
        for other in spectra[i + 1 :]:
            assert np.abs(own[:, None] - other[None]).min() > 1e-6 * spread
    assert np.iscomplexobj(factors.X) == np.iscomplexobj(BLOCK_MATRICES[name])


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("two_jordan_blocks", [3, 4]), ("interleaved", [3, 3]), ("clusters", [1, 2, 3]), ("defective_pairs", [1, 4])],
)
def test_defective_eigenvalues_end_in_blocks_of_their_multiplicity(name: str, sizes: list[int]):
    assert sorted(len(block) for block in block_schur(BLOCK_MATRICES[name]).blocks) == sizes


@pytest.mark.parametrize("n", [2, 5, 9])
def test_a_defective_matrix_is_one_block(n: int):
    assert len(block_schur(rotated(generator("one block"), jordan(n, -0.5))).blocks) == 1


@pytest.mark.parametrize(("coupling", "n_blocks"), [(1.0, 2), (4.0, 2), (8.0, 1), (1e3, 1)])
def test_blocks_whose_coupling_is_large_beside_their_gap_are_one(coupling: float, n_blocks: int):
    assert len(block_schur(np.array([[1.0, coupling], [0.0, 2.0]])).blocks) == n_blocks


# ---- balancing ---------------------------------------------------------------------------------------------


def badly_scaled(name: str) -> Tensor:
    rng = generator(name)
    scales = {"graded": 10.0 ** np.arange(-30, 30, 12), "huge": 10.0 ** np.array([-100, 0, 50, 100, 3])}
    A = normal(rng, 5, 5, is_complex=name == "complex")
    d = scales.get(name, 10.0 ** rng.integers(-12, 13, 5))
    A = A * d[:, None] / d
    if name == "reducible":
        A[3:, :3] = 0
    if name == "zero_row":
        A[2] = 0
    return torch.tensor(A)[None]


every_badly_scaled = pytest.mark.parametrize("name", ["random", "graded", "huge", "complex", "reducible", "zero_row"])


@every_badly_scaled
def test_balancing_is_an_exact_similarity_by_powers_of_two(name: str):
    A = badly_scaled(name)
    B, D = balance(A)
    assert torch.equal(torch.frexp(D).mantissa, torch.full_like(D, 0.5))
    assert torch.equal(B / D[:, None] * D[..., None], A)


@pytest.mark.parametrize("name", ["random", "graded", "huge", "complex"])
def test_rows_and_columns_of_a_balanced_matrix_are_alike(name: str):
    def worst_ratio(A: Tensor) -> float:
        size = A.abs()[0].fill_diagonal_(0)
        return float(torch.maximum(size.sum(0) / size.sum(1), size.sum(1) / size.sum(0)).max())

    A = badly_scaled(name)
    assert worst_ratio(A) > 1e3
    assert worst_ratio(balance(A)[0]) < 8


def test_a_slightly_skewed_matrix_keeps_its_entries_alone_and_in_a_batch_with_one_that_is_not():
    slight = torch.tensor(normal(generator("slight"), 1, 5, 5)) * torch.tensor([4.0, 1, 1, 0.25, 1])[:, None]
    alone, _ = balance(slight)
    assert torch.equal(alone, slight)
    A = torch.cat([badly_scaled("random"), slight])
    B, D = balance(A)
    assert not torch.equal(B[0], A[0])
    assert torch.equal(B[1], A[1])
    assert torch.equal(D[1], torch.ones_like(D[1]))
