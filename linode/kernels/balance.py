"""Diagonal similarity by powers of two that makes row and column norms alike: exact, batched.

Source: Osborne (1960), J. ACM 7, 338, all columns at once with damping; powers of two as in Parlett & Reinsch (1969).
"""

from __future__ import annotations

import torch
from torch import Tensor

N_SWEEPS = 60
SKEWED = 3.0  # |log2(row norm / column norm)| / 2 up to which a system is not balanced: nothing is gained
MAX_EXPONENT = 400.0


def balance(A: Tensor) -> tuple[Tensor, Tensor]:
    """D^-1 A D and D (S, n), powers of two; (S, n, n) in and out."""
    n = A.shape[-1]
    size = A.abs()
    size.diagonal(dim1=-2, dim2=-1).zero_()
    ones = torch.ones(A.shape[:-1], dtype=size.dtype, device=size.device)
    as_it_stands = _log_ratio(size.sum(-1), size.sum(-2)).abs().amax(-1, keepdim=True)
    if n == 1 or not bool((as_it_stands > SKEWED).any()):
        return A, ones
    exponent = torch.zeros_like(ones)
    for _ in range(N_SWEEPS):
        step = 0.5 * _skew(size, torch.exp2(exponent))
        exponent = (exponent + step).clamp(-MAX_EXPONENT, MAX_EXPONENT)
        if bool((step.abs() < 0.25).all()):
            break
    # systems that need no balancing keep their entries
    exponent = torch.where(as_it_stands > SKEWED, exponent.round(), 0.0)
    D = torch.exp2(exponent - exponent.mean(-1, keepdim=True).round())
    return A / D[:, :, None] * D[:, None, :], D


def _skew(size: Tensor, D: Tensor) -> Tensor:
    """log2(row / column) / 2 of D^-1 |A| D without its diagonal; 0 where a row or column vanishes."""
    scaled = size / D[:, :, None] * D[:, None, :]
    return _log_ratio(scaled.sum(-1), scaled.sum(-2))


def _log_ratio(row: Tensor, column: Tensor) -> Tensor:
    return torch.where((row > 0) & (column > 0), 0.5 * (torch.log2(row) - torch.log2(column)), 0.0)


def power_of_two(ratio: Tensor) -> Tensor:
    """The nearest power of two, multiplying by which is exact; 1 where the ratio is not positive and finite."""
    return torch.exp2(torch.where((ratio > 0) & torch.isfinite(ratio), ratio, 1.0).log2().round())
