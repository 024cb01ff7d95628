"""What every layer asks of tensors: their precision, finiteness and equality."""

from __future__ import annotations

import cmath
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from .private import is_transforming

WIDE = (torch.float64, torch.complex128)
FEW = 2**14  # entries up to which NumPy looks at a tensor on the CPU faster than torch does
FEWER = 2**12  # entries of which OpenBLAS leaves a scalar product to one thread


def widened(x: Tensor) -> Tensor:
    """float64 or complex128."""
    return x if x.dtype in WIDE else x.to(torch.promote_types(x.dtype, torch.float64))


def is_deferred() -> bool:
    """Inside torch.func transforms and torch.compile values cannot be looked at; they are checked during evaluation."""
    return torch.compiler.is_compiling() or is_transforming()


def is_finite(x: Tensor) -> bool:
    """Whether every entry is finite; an empty x is. One pass; what is finite may still overflow the sum."""
    if not isinstance(x, Tensor):
        x = torch.from_numpy(np.array(x))
    if x.is_cpu and x.numel() <= FEW and not is_deferred():
        array = x.numpy(force=True)
        if array.size <= FEWER and cmath.isfinite(np.vdot(array, array)):
            return True
        return isfinite(float(np.maximum.reduce(abs(array), axis=None, initial=0.0)))
    return cmath.isfinite(x.sum().item()) or bool(torch.isfinite(x).all())


def is_equal(x: Tensor, y: Tensor) -> bool:
    """Same shape, kind and values."""
    if x.device.type == "cpu" and y.device.type == "cpu" and x.numel() <= FEW and not is_deferred():
        return x.dtype == y.dtype and np.array_equal(x.numpy(force=True), y.numpy(force=True))
    return (x.device, x.dtype) == (y.device, y.dtype) and torch.equal(x, y)
