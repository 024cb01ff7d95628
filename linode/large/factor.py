"""R = (I - gamma Xi)^-1 as a map of vectors: by sparse factors of I - gamma Xi, or by a function of the user.

Whether a matrix can be factored is decided before it is tried, since a factorisation that fills up cannot be
interrupted. The measure is the profile of the pattern after the reverse Cuthill-McKee order: rows of a factor reach no
further left than the profile does, so a factorisation within the profile has at most 2 profile entries, and takes some
profile^2 / n multiplications. The order that is used afterwards, minimum degree, fills less.
Cost: the order of 4.5e5 entries takes 20 to 50 ms; of a pattern like a 2-D grid of 300 x 300 the factors take 0.3 s and
5.0e6 entries, a solve 9 ms.
Source: George and Liu (1981), Computer Solution of Large Sparse Positive Definite Systems, chapter 4; Demmel,
Eisenstat, Gilbert, Li and Liu (1999), SIAM J. Matrix Anal. Appl. 20(3), 720 (SuperLU).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import splu

from ..errors import NonFiniteError, NotDifferentiableError
from .linear import Functions

MOST_WORK = 1e11  # profile^2 / n: a minute or two within the profile; less by minimum degree
MEMORY_SHARE = 0.5  # of the machine's memory, for the factors
UNKNOWN_MEMORY = 8e9  # bytes, where the system does not say
LARGEST_RESIDUAL = 1e-10  # |b - (I - gamma Xi) x| / |b| of factors that serve; 1e-16 to 1e-12 were seen


class Profile(NamedTuple):
    """How far entries lie from the diagonal, summed over rows, in the reverse Cuthill-McKee order."""

    n: int
    n_entries: int
    entries: int  # of the profile
    bytes_per_entry: int = 12  # of a factor: a number and an index

    @property
    def work(self) -> float:
        """Multiplications within the profile, about."""
        return self.entries**2 / max(self.n, 1)

    @property
    def memory(self) -> float:
        """Bytes of the factors, at most."""
        return 2.0 * (self.entries + self.n) * self.bytes_per_entry

    @property
    def refusal(self) -> str:
        """Why Xi is not factored, in words; empty where it can be."""
        if self.work > MOST_WORK:
            return (
                f"I - gamma Xi may fill up when it is factored: its profile has {self.entries:.2g} entries, "
                f"profile^2 / n = {self.work:.1g} > {MOST_WORK:.0g}"
            )
        if self.memory > (most := MEMORY_SHARE * machine_memory()):
            return (
                f"factors of I - gamma Xi may take {self.memory / 1e9:.2g} GB (profile of {self.entries:.2g} entries), "
                f"more than the {most / 1e9:.2g} GB that are set aside for them"
            )
        return ""


def profile(Xi: sparse.csr_array) -> Profile:
    """The profile of the pattern of Xi + Xi^T.

    Source: George and Liu (1981), section 4.3.
    """
    n = Xi.shape[0]
    size = 4 + Xi.dtype.itemsize
    if Xi.nnz == 0:
        return Profile(n, 0, 0, size)
    pattern = sparse.csr_array((np.ones(Xi.nnz, np.int8), Xi.indices, Xi.indptr), shape=Xi.shape)
    order = reverse_cuthill_mckee(pattern, symmetric_mode=False)
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    rows, columns = np.repeat(place, np.diff(Xi.indptr)), place[Xi.indices]
    first = np.arange(n)
    np.minimum.at(first, rows, columns)
    np.minimum.at(first, columns, rows)
    return Profile(n, Xi.nnz, int((np.arange(n) - first).sum()), size)


def machine_memory() -> float:
    """Bytes of memory of this machine."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN_MEMORY


class Resolvent(ABC):
    """R = (I - gamma Xi)^-1.

    Attributes:
        gamma: a time. n_solves, n_transposed: applications of R and of R^H so far. fill: entries of the factors.
        residual: |b - (I - gamma Xi) x| / |b| for a random b; infinite where there is no x.
    """

    def __init__(self, n: int, dtype: np.dtype, gamma: float) -> None:
        self.n, self.dtype, self.gamma = n, np.dtype(dtype), gamma
        self.n_solves, self.n_transposed, self.fill = 0, 0, 0
        self.residual = np.inf

    def times(self, X: np.ndarray) -> np.ndarray:
        """R X for X (n, Q)."""
        self.n_solves += 1
        return self._applied(X, is_adjoint=False)

    def adjoint_times(self, X: np.ndarray) -> np.ndarray:
        """R^H X for X (n, Q)."""
        self.n_transposed += 1
        return self._applied(X, is_adjoint=True)

    def _random(self) -> np.ndarray:
        return np.random.default_rng(self.n).standard_normal((self.n, 1)).astype(self.dtype)

    def _judge(self, b: np.ndarray, again: np.ndarray) -> None:
        """Compare b with (I - gamma Xi) x."""
        with np.errstate(all="ignore"):
            residual = float(np.linalg.norm(b - again) / np.linalg.norm(b))
        self.residual = residual if np.isfinite(residual) else np.inf

    def _applied(self, X: np.ndarray, is_adjoint: bool) -> np.ndarray:
        if X.dtype.kind == "c" and self.dtype.kind != "c":  # as pairs of real columns
            parts = self._solve(np.concatenate([X.real, X.imag], 1), is_adjoint)
            Y = parts[:, : X.shape[1]] + 1j * parts[:, X.shape[1] :]
        else:
            Y = self._solve(np.asarray(X, self.dtype), is_adjoint)
        if not np.isfinite(Y).all():
            number = self.n_transposed if is_adjoint else self.n_solves
            raise NonFiniteError(f"solve number {number} with I - gamma Xi (gamma = {self.gamma:.3g}) is not finite")
        return Y

    @abstractmethod
    def _solve(self, X: np.ndarray, is_adjoint: bool) -> np.ndarray:
        """R X or R^H X for X (n, Q) of the dtype of R."""


class Factors(Resolvent):
    """R by LU factors in the order of minimum degree, without pivoting: for 1 / gamma to the right of the numerical
    range of Xi the Hermitian part of I - gamma Xi is positive definite.
    """

    def __init__(self, Xi: sparse.csr_array, gamma: float) -> None:
        super().__init__(Xi.shape[0], Xi.dtype, gamma)
        system = sparse.csc_array(sparse.eye_array(self.n, dtype=Xi.dtype) - gamma * Xi)
        system.indices, system.indptr = system.indices.astype(np.intc), system.indptr.astype(np.intc)
        options = {"SymmetricMode": True}
        try:
            self._lu = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
        except RuntimeError:  # a pivot is exactly 0
            return
        self.fill = int(self._lu.nnz)
        b = self._random()
        self._judge(b, system @ self._lu.solve(b))

    def _solve(self, X: np.ndarray, is_adjoint: bool) -> np.ndarray:
        trans = ("H" if self.dtype.kind == "c" else "T") if is_adjoint else "N"
        return self._lu.solve(X, trans)


class GivenSolve(Resolvent):
    """R by the user's function."""

    def __init__(self, A: Functions, gamma: float) -> None:
        super().__init__(A.n, A.dtype, gamma)
        self.A = A
        b = self._random()
        x = self._solve(b, is_adjoint=False)
        self._judge(b, x - gamma * A.times(x))

    def _solve(self, X: np.ndarray, is_adjoint: bool) -> np.ndarray:
        solve = self.A.rsolve if is_adjoint else self.A.solve
        if solve is None:
            raise NotDifferentiableError(
                "a gradient by 'rational' needs (I - gamma Xi^H)^-1: give the operator an rsolve, or hermitian=True"
            )
        return solve(self.gamma, X)


def lanczos(R: Resolvent, least: int, most: int, close: float, end: float) -> tuple[float, float, float]:
    """Least and largest Ritz value of a Hermitian R, by a random start, and about how far its largest eigenvalue may be
    above.

    end: the eigenvalues do not exceed it. As many steps as bring the distance to `close` of the value, from `least` to
    `most`.
    Source: Saad (2011), Numerical Methods for Large Eigenvalue Problems, section 6.6; the residual is squared where the
    gap to the next Ritz value allows it, section 3.2.
    """
    for H, last in _krylov(R, most):
        values, vectors = np.linalg.eigh((H + H.conj().T) / 2)
        value, residual = float(values[-1]), float(last * abs(vectors[-1, -1]))
        gap = value - float(values[-2]) if len(values) > 1 else 0.0
        error = min(residual**2 / gap if 4 * residual < gap else residual, max(end - value, 0.0))
        if len(H) >= least and error <= close * abs(value):
            break
    return float(values[0]), value, error


def arnoldi(R: Resolvent, n_steps: int) -> np.ndarray:
    """H = V^H R V (m, m) for an orthonormal basis V of the Krylov space of a random start: W(H) lies in W(R)."""
    *_, (H, _) = _krylov(R, n_steps)
    return H


def _krylov(R: Resolvent, most: int) -> Iterator[tuple[np.ndarray, float]]:
    """H of 1, 2, ... steps, with the part of R that leads out of the basis, until it is 0."""
    rng = np.random.default_rng(R.n)
    v = rng.standard_normal(R.n).astype(R.dtype)
    if R.dtype.kind == "c":
        v = v + 1j * rng.standard_normal(R.n)
    m = min(most, R.n)
    V, H = np.zeros((m, R.n), R.dtype), np.zeros((m, m), R.dtype)
    V[0] = v / np.linalg.norm(v)
    for k in range(m):
        w = R.times(V[k][:, None])[:, 0]
        size = np.linalg.norm(w)
        for _ in range(2):  # the second pass restores orthogonality
            h = V[: k + 1].conj() @ w
            w = w - h @ V[: k + 1]
            H[: k + 1, k] += h
        last = float(np.linalg.norm(w))
        is_closed = last <= 1e-14 * size or k + 1 == R.n
        yield H[: k + 1, : k + 1], 0.0 if is_closed else last
        if is_closed:
            return
        if k + 1 < m:
            H[k + 1, k] = last
            V[k + 1] = w / last
