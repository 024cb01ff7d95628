"""Products of matrices in pieces so small that OpenBLAS computes each on one thread, and sums over columns.

A fit alternates small factorisations with products of medium size. Threads that OpenBLAS starts for these wait actively
between them, and use as much processor time as they save.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# multiplications in one product that OpenBLAS leaves to one thread: interface/gemm.c, and as measured
MOST_OF_ONE_THREAD = 2**18
IMAGINARY = 1e-30  # step of `complex_step`: its square is below eps^2 for any theta of a fit


def matmul(a: Array, b: Array) -> Array:
    """a @ b for real a (..., m, k) and b (..., k, n), of which at most one of m, k, n is large."""
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    if m * k * n <= MOST_OF_ONE_THREAD:
        return a @ b
    longest = max(m, k, n)
    size = max(1, MOST_OF_ONE_THREAD * longest // (m * k * n))
    cuts = [slice(i, i + size) for i in range(0, longest, size)]
    if k == longest:
        total = a[..., cuts[0]] @ b[..., cuts[0], :]
        for cut in cuts[1:]:
            total += a[..., cut] @ b[..., cut, :]
        return total
    if m == longest:
        return np.concatenate([a[..., cut, :] @ b for cut in cuts], -2)
    return np.concatenate([a @ b[..., cut] for cut in cuts], -1)


def gram(J: Array) -> Array:
    """J^T J of J (N, k)."""
    return matmul(J.T, J)


def sum_of_squares(r: Array) -> float:
    """|r|^2, without numpy's dot, which starts threads of BLAS from 10,000 values on."""
    with np.errstate(over="ignore"):
        return float(np.square(r).sum())


def complex_step(function: Callable[[Array], Array], theta: Array) -> Array:
    """Derivatives (k, *value) by theta (k,) of an analytic function of (*, k), exact to rounding.

    The square of the step in the imaginary part vanishes, and nothing is subtracted.
    Source: Squire & Trapp (1998), SIAM Review 40(1).
    """
    slopes: Array = function(theta + 1j * IMAGINARY * np.eye(len(theta))).imag / IMAGINARY
    return slopes


def column_lengths(A: Array) -> Array:
    """Euclidean lengths of the columns of A (*, N, n), (*, 1, n), without overflow; 1 for a column of zeros."""
    largest = np.abs(A).max(-2, keepdims=True)
    largest = np.where(largest > 0, largest, 1.0)
    lengths: Array = largest * np.linalg.norm(A / largest, axis=-2, keepdims=True)
    return np.where(lengths > 0, lengths, 1.0)


def without(J: Array, Q: Array) -> Array:
    """J - Q Q^T J for real Q (K, N, n) with orthonormal columns and J (K, N, k)."""
    if J.dtype.kind == "c":
        return without(J.real, Q) + 1j * without(J.imag, Q)
    return J - matmul(Q, matmul(Q.swapaxes(-1, -2), J))
