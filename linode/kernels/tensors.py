"""What every layer asks of tensors: their precision, finiteness, equality and norm."""

from __future__ import annotations

import cmath

import torch
from torch import Tensor

from .private import is_transforming

WIDE = (torch.float64, torch.complex128)


def widened(x: Tensor) -> Tensor:
    """float64 or complex128."""
    return x if x.dtype in WIDE else x.to(torch.promote_types(x.dtype, torch.float64))


def is_deferred() -> bool:
    """Inside torch.func transforms and torch.compile values cannot be looked at; they are checked during evaluation."""
    return torch.compiler.is_compiling() or is_transforming()


def is_finite(*xs: Tensor) -> bool:
    """Whether every entry of all of them is finite; an empty one is. One pass, and one wait for a device; what is
    finite may still overflow the sum.
    """
    total = sum((x.sum() for x in xs[1:]), start=xs[0].sum())
    return cmath.isfinite(total.item()) or all(bool(torch.isfinite(x).all()) for x in xs)


def is_equal(x: Tensor, y: Tensor) -> bool:
    """Same shape, kind and values."""
    return (x.device, x.dtype) == (y.device, y.dtype) and torch.equal(x, y)


def one_norm(A: Tensor) -> Tensor:
    """|A|_1 (S,) of A (S, n, n)."""
    return A.abs().sum(-2).amax(-1)
