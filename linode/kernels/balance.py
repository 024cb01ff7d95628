"""Diagonal similarity by powers of two that makes no entry larger than the cycles it lies on: exact, batched.

D^-1 A D has entries up to mu, the largest geometric mean of |A| along a cycle (a diagonal entry is a cycle of length
1): no scaling makes the largest entry smaller. Unlike scaling rows and columns to the same norm, it also makes the
couplings of triangular and reducible matrices small, and it leaves alone what is small already.
Sources: Karp (1978), Discrete Math. 23, 309 (mu); Butkovic (2010), Max-linear Systems, 1.6 (the scaling); powers of two
as in Parlett & Reinsch (1969).
"""

from __future__ import annotations

import torch
from torch import Tensor

SKEWED = 6.0  # |log2(row / column)| of the largest entries up to which a system is left alone: nothing is gained
MAX_SPREAD = 800.0  # log2(max D / min D)
N_TRIALS = 12  # of a larger mu, where D would spread more


def balance(A: Tensor) -> tuple[Tensor, Tensor]:
    """D^-1 A D and D (S, n), powers of two; (S, n, n) in and out."""
    ones = torch.ones(A.shape[:-1], dtype=A.real.dtype, device=A.device)
    if A.shape[-1] == 1:
        return A, ones
    others = A.abs()
    floor = others.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    others.diagonal(dim1=-2, dim2=-1).zero_()
    row, column = (torch.maximum(others.amax(dim), floor) for dim in (-1, -2))
    is_skewed = (row / column).log2().abs() > SKEWED  # where both are 0 it is not
    if not bool(is_skewed.any()):
        return A, ones
    exponent = torch.where(is_skewed.any(-1, keepdim=True), _potentials(torch.log2(A.abs()), torch.log2(others)), 0.0)
    exponent = exponent - (0.5 * (exponent.amax(-1, keepdim=True) + exponent.amin(-1, keepdim=True))).round()
    change = exponent[:, None, :] - exponent[:, :, None]
    half = (0.5 * change).round()  # in two steps: D_j / D_i alone may overflow
    return A * torch.exp2(half) * torch.exp2(change - half), torch.exp2(exponent)


def _potentials(whole: Tensor, others: Tensor) -> Tensor:
    """The least exponents e >= 0 (S, n), integral, with others_ij + e_j - e_i <= log2 mu, but for rounding.

    whole: log2 |A|. others: the same without its diagonal.
    """
    mean, most = _cycle_mean(whole), others.amax((-2, -1))
    level = torch.where(mean.isfinite(), mean, most)  # without a cycle powers of A vanish: no scaling is better
    for _ in range(N_TRIALS):
        weights = others - level[:, None, None]
        e = torch.zeros_like(whole[..., 0])
        for _ in range(e.shape[-1]):
            before, e = e, torch.maximum(e, (weights + e[:, None]).amax(-1))
            if bool((e - before <= 0.5).all()):
                break
        is_wide = e.amax(-1) > MAX_SPREAD
        if not bool(is_wide.any()):
            break
        level = torch.where(is_wide, 0.5 * (level + most), level)
    return e.clamp(max=MAX_SPREAD).round()


def _cycle_mean(weights: Tensor) -> Tensor:
    """(S,) the largest mean of weights (S, n, n) along a cycle; -inf where there is none."""
    n = weights.shape[-1]
    walks = [torch.zeros_like(weights[..., 0])]  # the heaviest walk of k steps from every node
    for _ in range(n):
        walks.append((weights + walks[-1][:, None]).amax(-1))
    last, before = walks[-1], torch.stack(walks[:-1])
    steps = torch.arange(n, 0, -1, device=weights.device)[:, None, None]
    means = torch.where(before.isfinite(), (last - before) / steps, torch.inf).amin(0)
    return torch.where(last.isfinite(), means, -torch.inf).amax(-1)


def power_of_two(ratio: Tensor) -> Tensor:
    """The nearest power of two, multiplying by which is exact; 1 where the ratio is not positive and finite."""
    return torch.exp2(torch.where((ratio > 0) & torch.isfinite(ratio), ratio, 1.0).log2().round())
