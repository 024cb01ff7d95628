"""Eigenpairs of one real matrix with few states, and one trajectory of it with its gradients: the identities of
`modal` in matrices, in as few calls as there can be.

Below some twenty states calls are all that costs, and most of those that `modal` makes serve batches, tensors, complex
systems and close eigenvalues. What has any of these is left to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from .arrays import MOST_STATES_OF_NUMPY, exponential, polar, product
from .gaps import NEAR, NEAR_RELATIVE
from .modal import Gradients, Modes
from .pairs import Pairs, less_one

Array = NDArray[Any]
MOST_ENTRIES = 2**17  # of the functions of time


def is_small(A: Array) -> bool:
    """Whether matrices A (S, n, n) are one for `Single`."""
    return len(A) == 1 and A.dtype.kind == "f" and A.shape[-1] <= MOST_STATES_OF_NUMPY


def fits(z0: Any, t: Any) -> bool:
    """Whether z0 (1, R, n) and t (1, R, T) are arrays of one trajectory, so few that calls are what costs."""
    return isinstance(t, np.ndarray) and z0.shape[1] == 1 and t.size * z0.size <= MOST_ENTRIES


class Single:
    """lam (n,), V and V_inv (n, n) in the order of `Pairs`, all real where no eigenvalue is complex.

    The inverse is infinite where the eigenvectors have none. Raises numpy.linalg.LinAlgError where the QR algorithm
    does not converge.
    """

    def __init__(self, A: Array) -> None:
        re, im, _, X, info = lapack.dgeev(A, compute_vl=0)
        if info:
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        factors, pivots, singular = lapack.dgetrf(X)
        Y = np.full_like(X, np.inf) if singular else lapack.dgetri(factors, pivots)[0]
        self.order = order = _order(np.sign(im).tobytes())
        if order.m:
            # X has Re v and Im v of a pair side by side: z = 2 Re(v c) with c = (Y_re - i Y_im) z / 2
            self.lam = np.empty(len(re), np.complex128)
            self.lam.real, self.lam.imag = re[order.index], im[order.index]
            self.V, self.V_inv = X @ order.columns, order.rows @ Y
        else:
            self.lam, self.V, self.V_inv = re, X, Y
        self._last: tuple[bytes, Array, Array] | None = None  # z0 with its c and K

    @property
    def modes(self) -> Modes:
        """The same for all that is left to `modal`."""
        return Modes(self.lam[None], self.V[None], self.V_inv[None], self.order.pairs)

    def evaluate(self, z0: Array, t: Array) -> Array:
        """(T, n) for z0 (n,) and t (T,)."""
        states: Array = product(self._functions(t).T, self._start(z0)[1])
        return states

    def record(self, z0: Array, t: Array) -> tuple[Array, Callable[[Array, bool], Gradients | None]]:
        """The states, and what gives the gradients from g (T, n): None where that is left to `modal`."""
        (c, K), F = self._start(z0), self._functions(t)
        return product(F.T, K), lambda g, want_t: self._gradients(c, t, F, g, want_t)

    def _functions(self, t: Array) -> Array:
        """The rows F (n, T) of `Pairs.functions`."""
        order, lam = self.order, self.lam
        F = np.empty((len(lam), len(t)))
        kept = F[: order.p]
        np.multiply(lam.real[: order.p, None], t, out=kept)
        exponential(kept)
        if order.m:
            polar(F[: order.m], lam.imag[: order.m, None], t, F[order.p :])
        return F

    def _start(self, z0: Array) -> tuple[Array, Array]:
        """c and K: F^T K are the states; kept for the next call."""
        known, key = self._last, z0.tobytes()  # one read: another thread may replace it
        if known is None or known[0] != key:
            c = self.V_inv @ z0
            self._last = known = (key, c, self._synthesis(c))
        return known[1:]

    def _synthesis(self, c: Array) -> Array:
        return ((self.order.U * c) @ self.V.T).real if self.order.m else c[:, None] * self.V.T

    @cached_property
    def _adjoint(self) -> tuple[Array, Array, Array, Array, float, float] | None:
        """V^H of the modes kept, twice where one stands for two, V^-H of these, V^H of all, the inverse of
        conj(lam_j - lam_k), the smallest |lam_j - lam_k| and the largest |lam_j|; None where they are near each other.
        """
        p, lam = self.order.p, self.lam
        VH, difference = self.V.conj().T, (lam[:p, None] - lam).conj()
        difference.reshape(-1)[:: len(lam) + 1] = math.inf
        smallest, largest = float(np.minimum.reduce(abs(difference), None)), float(np.maximum.reduce(abs(lam)))
        if smallest <= NEAR_RELATIVE * largest:
            return None
        kept = VH[:p] * self.order.weight if self.order.m else VH
        return kept, self.V_inv[:p].conj().T, VH, 1 / difference, smallest, largest

    def _gradients(self, c: Array, t: Array, F: Array, g: Array, want_t: bool) -> Gradients | None:
        """S (n, n), a (n,) and, where wanted, dt (T,)."""
        order, known, size, e = self.order, self._adjoint, abs(t), len(c)
        if known is None or known[-2] * np.maximum.reduce(size) < NEAR:
            return None
        VH, dual, basis, inverse_gap, _, largest = known
        weights = np.empty((2 * e + 1, len(t)))  # of conj(F) g, of t conj(F) g, and of g at short times
        weights[:e] = F
        np.multiply(F, t, out=weights[e:-1])
        i = np.less(size * largest, 1.0, out=weights[-1]).nonzero()[0]
        if len(i):
            kept = self.lam[: order.p, None]  # exactly 1 less than F, free of cancellation
            weights[: order.p, i] = less_one(kept, t[i]) if order.m else np.expm1(kept * t[i])
        sums = product(weights, g)
        Q = sums[:-1].reshape(2, e, e)
        if order.m:
            Q = order.UH @ Q
        diagonal, own = np.add.reduce(VH * Q[:, : order.p], -1)
        cH = c.conj()
        M = (diagonal[:, None] - VH @ Q[0].T) * (inverse_gap * cH)
        M.reshape(-1)[:: e + 1] = own * cH[: order.p]
        S, a = dual @ (M @ basis), dual @ (diagonal + VH @ sums[-1])
        dt = (g * product(F.T, self._synthesis(c * self.lam))).sum(-1) if want_t else None
        return S.real, a.real, dt


@dataclass(frozen=True)
class _Order:
    """From the order of geev to that of `Pairs`: m pairs, p modes kept; no matrices where there are no pairs."""

    m: int
    p: int
    index: Array  # (n,)
    columns: Array  # (n, n): V = X columns
    rows: Array  # (n, n): V^-1 = rows X^-1
    U: Array  # as in `Pairs`, without its first dimension
    UH: Array
    weight: Array  # (p, 1)
    pairs: Pairs | None


@lru_cache(maxsize=64)
def _order(signs: bytes) -> _Order:
    """From the signs (n,) of the imaginary parts."""
    sign = np.frombuffer(signs)
    index, m = np.argsort(-sign, kind="stable"), int((sign > 0).sum())
    if not m:
        nothing = np.empty((0, 0))
        return _Order(0, len(sign), index, nothing, nothing, nothing, nothing, nothing, None)
    pairs = Pairs.alike(len(sign), m)
    columns = np.eye(len(sign))[:, index] @ pairs.U[0]
    rows = columns.T.conj() / (1 + np.abs(sign[index]))[:, None]
    return _Order(pairs.same, pairs.n_kept, index, columns, rows, pairs.U[0], pairs.UH[0], pairs.weight[:, None], pairs)
