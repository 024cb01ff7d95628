"""The training step that people ask about in forums, whose torch.linalg.eig raises, done with LinearODE.

1800 steps: 300 seeds x 3 sizes of Xi x 2 dtypes, n = 6, 100 irregular times in [0, 2], a squared loss. Truth for every
one of them is computed in numpy's long double (64 bits) by a path of its own: the times are multiples of h = 1/512, so
with E = exp(Xi h)
    z_{k+1} = E z_k,   lambda_k = g_k + E^T lambda_{k+1},   a = lambda_0,
and S is the upper right block of exp([[Xi^T, W], [0, Xi^T]] h), W = sum_k lambda_{k+1} z_k^T (Van Loan 1978).
That truth is itself held against ball arithmetic on every 100th seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch

from linode import LinearODE
from tests import oracles

N, N_SEEDS, N_TIMES, GRID, H = 6, 300, 100, 1024, 1 / 512
SCALES = (0.3, 1.0, 3.0)
DTYPES = (torch.float32, torch.float64)
BOUND = {torch.float32: 1e-6, torch.float64: 1e-11}  # no seed here is worse conditioned than about 1e3

pytestmark = pytest.mark.skipif(np.finfo(np.longdouble).eps > 2e-19, reason="long double is no wider than double here")
every_setting = pytest.mark.parametrize(("scale", "dtype"), [(scale, dtype) for scale in SCALES for dtype in DTYPES])


class Problem(NamedTuple):
    """All seeds: Xi (seeds, n, n), z0 (seeds, n), k (seeds, T) with t = k H, and the data y (seeds, T, n)."""

    Xi: torch.Tensor
    z0: torch.Tensor
    k: torch.Tensor
    y: torch.Tensor


@cache
def problem(scale: float, dtype: torch.dtype) -> Problem:
    def draw(seed: int) -> tuple[torch.Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        k = torch.randperm(GRID + 1, generator=g)[:N_TIMES].sort().values
        Xi, z0, y = (torch.randn(*shape, generator=g, dtype=dtype) for shape in ((N, N), (N,), (N_TIMES, N)))
        return scale * Xi, z0, k, y

    return Problem(*(torch.stack(x) for x in zip(*map(draw, range(N_SEEDS)))))


def steps(scale: float, dtype: torch.dtype) -> Iterator[tuple[torch.Tensor, ...]]:
    """(Xi, z0, t, y) of every seed, copied."""
    Xi, z0, k, y = (x.clone() for x in problem(scale, dtype))
    return zip(Xi, z0, k.to(dtype) * H, y)


def forum_loss(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((z - y) ** 2).sum()


@cache
def answers(scale: float, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """(S, a) of all seeds by LinearODE, one call and one backward pass each."""
    grads = []
    for Xi, z0, t, y in steps(scale, dtype):
        Xi.requires_grad_()
        z0.requires_grad_()
        forum_loss(LinearODE(Xi, z0)(t), y).backward()
        grads.append((Xi.grad, z0.grad))
    S, a = (torch.stack(x) for x in zip(*grads))
    assert S.dtype == a.dtype == dtype
    return S.numpy(), a.numpy()


# ---- truth -------------------------------------------------------------------------------------------------


def expm_of_small(A: np.ndarray) -> np.ndarray:
    """Taylor polynomial of exp for a stack of matrices, of norm 1/10 at most apart from a nilpotent part."""
    E = term = np.broadcast_to(np.eye(A.shape[-1], dtype=A.dtype), A.shape)
    for j in range(1, 16):
        term = term @ A / j
        E = E + term
    return E


@cache
def truth(scale: float, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S, a, g) of all seeds in long double; g = dL/dz, (seeds, T, n)."""
    Xi, z0, k, y = (x.numpy() for x in problem(scale, dtype))
    A = Xi.astype(np.longdouble)
    E = expm_of_small(A * H)
    states = np.empty((GRID + 1, N_SEEDS, N), np.longdouble)
    states[0] = z0
    for j in range(GRID):
        states[j + 1] = (E @ states[j][..., None])[..., 0]
    seeds = np.arange(N_SEEDS)[:, None]
    g = 2 * (states[k, seeds] - y)
    cotangents = np.zeros_like(states)
    np.add.at(cotangents, (k, seeds), g)
    for j in range(GRID, 0, -1):
        cotangents[j - 1] += (E.swapaxes(1, 2) @ cotangents[j][..., None])[..., 0]
    W = np.zeros_like(A)
    for z, lam in zip(states[:-1], cotangents[1:]):
        W += lam[:, :, None] * z[:, None]
    AT = A.swapaxes(1, 2)
    block = np.concatenate([np.concatenate([AT, W], 2), np.concatenate([np.zeros_like(A), AT], 2)], 1)
    return expm_of_small(block * H)[:, :N, N:], cotangents[0], g


def relative_errors(got: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Of every seed, in the 2-norm of all its entries."""
    error, size = ((x.reshape(N_SEEDS, -1) ** 2).sum(1) ** 0.5 for x in (got - true, true))
    return (error / size).astype(float)


# ---- tests -------------------------------------------------------------------------------------------------


@every_setting
def test_every_one_of_300_seeds_has_finite_gradients(scale: float, dtype: torch.dtype):
    S, a = answers(scale, dtype)
    assert S.shape == (N_SEEDS, N, N)
    assert np.isfinite(S).all()
    assert np.isfinite(a).all()


@every_setting
def test_every_one_of_300_seeds_has_the_true_gradients(scale: float, dtype: torch.dtype):
    S, a, _ = truth(scale, dtype)
    for got, true in zip(answers(scale, dtype), (S, a)):
        errors = relative_errors(got, true)
        assert errors.max() <= BOUND[dtype], f"seed {errors.argmax()}: {errors.max():.1e}"


@every_setting
def test_the_long_double_truth_is_that_of_ball_arithmetic(scale: float, dtype: torch.dtype):
    S, a, g = truth(scale, dtype)
    Xi, z0, k, _ = (x.numpy() for x in problem(scale, dtype))
    for seed in range(0, N_SEEDS, 100):
        exact = oracles.gradients(Xi[seed], z0[seed], k[seed] * H, g[seed].astype(float))
        for got, true in ((S[seed], exact.S), (a[seed], exact.a)):
            assert np.linalg.norm((got - true).astype(float)) <= 1e-14 * np.linalg.norm(true)


@pytest.mark.parametrize(
    ("scale", "dtype", "at_least"), [(3.0, torch.float32, 200), (1.0, torch.float32, 75), (3.0, torch.float64, 20)]
)
def test_torch_linalg_eig_raises_for_many_of_300_seeds(scale: float, dtype: torch.dtype, at_least: int):
    """Counted here: 287, 115 and 71, by a rounding error that is compared with a fixed threshold."""
    n_raised = 0
    for Xi, z0, t, y in steps(scale, dtype):
        lam, V = torch.linalg.eig(Xi.requires_grad_())
        coeff = torch.linalg.solve(V, z0.to(V.dtype))
        z = ((coeff * torch.exp(lam * t[:, None])) @ V.mT).real
        try:
            forum_loss(z, y).backward()
        except RuntimeError as error:
            n_raised += "linalg_eig_backward" in str(error)
    assert n_raised >= at_least
