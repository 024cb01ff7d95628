"""Complex problems as real ones of twice the size, for arithmetic that knows real numbers only."""

from __future__ import annotations

import torch
from torch import Tensor


def real_matrix(A: Tensor) -> Tensor:
    """[[Re, -Im], [Im, Re]]: (..., n, n) -> (..., 2n, 2n)."""
    return torch.cat([torch.cat([A.real, -A.imag], -1), torch.cat([A.imag, A.real], -1)], -2)


def real_vector(v: Tensor) -> Tensor:
    """(..., n) -> (..., 2n)."""
    return torch.cat([v.real, v.imag], -1)


def complex_vector(v: Tensor) -> Tensor:
    """Inverse of `real_vector`."""
    return torch.complex(*v.chunk(2, -1))


def complex_gradient(S: Tensor) -> Tensor:
    """The gradient with respect to A from that with respect to `real_matrix(A)`."""
    (rr, ri), (ir, ii) = (block.chunk(2, -1) for block in S.chunk(2, -2))
    return torch.complex(rr + ii, ir - ri)
