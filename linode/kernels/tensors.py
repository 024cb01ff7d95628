"""Precision, size, finiteness and equality of tensors."""

from __future__ import annotations

import cmath
import math
from functools import reduce

import torch
from torch import Tensor

from . import small
from .private import is_transforming
from .small import Size

WIDE = (torch.float64, torch.complex128)


def widened(x: Tensor) -> Tensor:
    """float64 or complex128."""
    return x if x.dtype in WIDE else x.to(torch.promote_types(x.dtype, torch.float64))


def is_deferred() -> bool:
    """Inside torch.func transforms and torch.compile values cannot be looked at; they are checked during evaluation."""
    return torch.compiler.is_compiling() or is_transforming()


def is_finite(*xs: Tensor) -> bool:
    """Whether every entry of all is finite; empty ones are. One pass and one wait for a device, unless finite entries
    overflow the sum.
    """
    for x in xs:
        most = small.largest(x)
        if most is None:
            break
        if not most < math.inf:
            return False
    else:
        return True
    total = reduce(torch.add, [x.sum() for x in xs])
    return cmath.isfinite(total.item()) or all(bool(torch.isfinite(x).all()) for x in xs)


def is_equal(x: Tensor, y: Tensor) -> bool:
    """Same shape, kind and values."""
    return (x.device, x.dtype) == (y.device, y.dtype) and torch.equal(x, y)


def extremes(t: Tensor) -> tuple[float, float]:
    """min(0, t) and max(0, t) of float64, NaN where there is one."""
    found = small.extremes(t)
    if found is not None:
        return found
    if t.numel() == 0:
        return 0.0, 0.0
    least, most = torch.stack(t.aminmax()).tolist()  # one wait for a device
    return (least, most) if math.isnan(least) else (min(least, 0.0), max(most, 0.0))


def one_norm(A: Tensor) -> Tensor:
    """|A|_1 (S,) of A (S, n, n)."""
    return A.abs().sum(-2).amax(-1)


def measured(A: Tensor) -> Size:
    """Of A (S, n, n), or (n, n)."""
    A = A.cpu()
    found = small.measured(A)
    if found is not None:
        return found
    if len(A) == 0:
        return Size(0.0, True, False)
    beside = A.clone()
    beside.diagonal(dim1=-2, dim2=-1).zero_()
    has_metzler = not A.is_complex() and bool((beside.flatten(-2).amin(-1) >= 0).any())
    return Size(float(one_norm(A).amax()), not bool(beside.any()), has_metzler)
