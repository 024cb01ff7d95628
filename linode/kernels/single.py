"""One real system, one trajectory, few states: the identities of `modal` in matrices, in as few calls as there can be.

Below some twenty states calls are all that costs, and half of those that `modal` makes serve batches, tensors, complex
systems and close eigenvalues. What has any of these is left to it; `modes` are its `Modes` throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import amax
from .gaps import NEAR

Array = NDArray[Any]
Gradients = tuple[Any, Any, Any]
MOST_STATES, MOST_ENTRIES = 24, 2**17  # of the functions of time


def is_single(modes: Any, z0: Any, t: Any) -> bool:
    """Whether all of it is one real system with one trajectory, few states, and arrays."""
    lam, shape = modes.lam, z0.shape
    return bool(
        shape[0] == shape[1] == 1
        and isinstance(lam, np.ndarray)
        and isinstance(t, np.ndarray)
        and shape[2] <= MOST_STATES
        and t.size * shape[2] <= MOST_ENTRIES
        and (modes.pairs is not None or lam.dtype.kind != "c")
    )


def record(modes: Any, z0: Array, t: Array) -> tuple[Array, Callable[[Any, bool], Gradients]]:
    """As `Modes.record`."""
    times = t[0, 0]
    c, K = modes.expanded(z0)
    F = modes.functions(t)[0, 0]

    def pullback(g: Any, want_t: bool) -> Gradients:
        gaps, size = modes.gaps, abs(times)
        if gaps.near is not None or gaps.smallest[0, 0, 0] * amax(size) < NEAR:
            return modes.gradients(c, t, g, want_t, [(t, F[None, None])])
        S, a = _gradients(modes, c[0, 0], times, size, F, g[0, 0])
        dt = (g[0, 0] * (F.T @ modes.synthesis(c * modes.lam)[0, 0])).sum(-1) if want_t else None
        return S[None], a[None, None], None if dt is None else dt[None, None]

    return (F.T @ K[0, 0])[None, None], pullback


def _gradients(modes: Any, c: Array, t: Array, size: Array, F: Array, g: Array) -> tuple[Array, Array]:
    """S (n, n) and a (n,); size is |t|."""
    (VH, dual, basis, largest), (e, T), p = modes.adjoint, F.shape, modes.n_kept
    VH, dual, is_paired = VH[0], dual[0], modes.pairs is not None
    weights = np.empty((2 * e + 1, T))  # of conj(F) g, of t conj(F) g, and of g at short times
    weights[:e] = F
    np.multiply(F, t, out=weights[e:-1])
    short = size * largest[0, 0, 0] < 1
    weights[-1] = short
    i = short.nonzero()[0]
    if len(i):
        lam, own = modes.lam[0, :p], t[i]
        less_one = np.expm1(np.multiply.outer(lam.real, own))
        if is_paired:
            half = np.sin(np.multiply.outer(0.5 * lam.imag, own))
            less_one -= 2 * half * half * (less_one + 1)
        weights[:p, i] = less_one
    sums = weights @ g
    Q = sums[:-1].reshape(2, e, -1)
    if modes.pairs is not None:
        Q = modes.pairs.UH[0] @ Q
    diagonal, own = np.add.reduce(VH * Q[:, :p], -1)
    a = dual @ (diagonal + VH @ sums[-1])
    cH = c.conj()
    M = (diagonal[:, None] - VH @ Q[0].T) * (modes.gaps.inverse[0] * cH)
    M.reshape(-1)[:: e + 1] = own * cH[:p]
    S = dual @ (M @ basis[0])
    return (S.real, a.real) if is_paired else (S, a)
