"""Block diagonalisation Xi = X blockdiag(B_1, ..., B_p) X^-1 with a well-conditioned X, for one matrix on the CPU.

Real Schur form, close eigenvalues moved next to each other, then one Sylvester equation per block; blocks whose
solution is large are merged with their nearest neighbour and the work is done again, so that a defective matrix ends
as one block.
Cost: about 30 n^3 a pass, at most log2(n) passes or so. Pure LAPACK (gees, trsen, trsyl).
Sources: Bavely & Stewart (1979), SIAM J. Numer. Anal. 16, 359; Golub & Van Loan (2013), 7.6.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack, schur

MAX_SOLUTION = 5.0  # |R|_F of a block's Sylvester solution
MAX_CONDITION = 200.0  # kappa_1(X)
FIRST_GAP = 1e-3  # eigenvalues closer than this, relative to the spectral radius, start in one block

Matrix = NDArray[Any]


@dataclass(frozen=True)
class BlockSchur:
    """X, its inverse, and the diagonal blocks in order."""

    X: Matrix
    X_inv: Matrix
    blocks: list[Matrix]


def block_schur(Xi: Matrix) -> BlockSchur:
    """Factor Xi (n, n); raises scipy.linalg.LinAlgError where the QR algorithm does not converge."""
    T, Q = schur(Xi, output="complex" if np.iscomplexobj(Xi) else "real")
    lam = quasi_triangular_eigenvalues(T)
    labels = _clusters(lam, FIRST_GAP * np.abs(lam).max(initial=0.0))
    while True:
        ordered, U, order = _reordered(T, Q, labels)
        starts = np.flatnonzero(np.diff(order, prepend=-1))
        X, X_inv, sizes = _decoupled(ordered, U, starts)
        limit = MAX_SOLUTION
        if np.linalg.norm(X, 1) * np.linalg.norm(X_inv, 1) > MAX_CONDITION:  # many moderate solutions
            limit = min(limit, 0.5 * max(sizes))
        large = {int(order[start]) for start, size in zip(starts, sizes) if size > limit}
        if not large:
            stops = [*starts[1:], len(order)]
            return BlockSchur(X, X_inv, [ordered[i:j, i:j] for i, j in zip(starts, stops)])
        labels = _merged(lam, labels, large)


def quasi_triangular_eigenvalues(T: Matrix) -> Matrix:
    """Of a (quasi-)triangular matrix, position by position."""
    lam = np.diag(T).astype(complex)
    for i in np.flatnonzero(np.diag(T, -1)):
        root = np.sqrt(complex(T[i, i + 1]) * T[i + 1, i])
        lam[i], lam[i + 1] = T[i, i] + root, T[i + 1, i + 1] - root
    return lam


def _clusters(lam: Matrix, gap: float) -> Matrix:
    """Labels 0, 1, ...: single linkage, a conjugate pair always together (conjugates count as equal)."""
    upper = lam.real + 1j * np.abs(lam.imag)
    close = np.abs(upper[:, None] - upper[None]) <= gap
    labels = np.arange(len(lam))
    while True:
        lowest = np.where(close, labels[None], len(lam)).min(1)
        if np.array_equal(lowest, labels):
            return np.unique(labels, return_inverse=True)[1]
        labels = lowest


def _merged(lam: Matrix, labels: Matrix, large: set[int]) -> Matrix:
    """Every block of `large` joined to the block that holds the eigenvalue nearest to one of its own."""
    upper = lam.real + 1j * np.abs(lam.imag)
    labels = labels.copy()
    for label in large:
        own = labels == label
        if own.any() and not own.all():
            distance = np.abs(upper[own][:, None] - upper[~own][None]).min(0)
            labels[labels == labels[~own][distance.argmin()]] = label
    return np.unique(labels, return_inverse=True)[1]


def _reordered(T: Matrix, Q: Matrix, labels: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Schur form with each cluster contiguous, and the labels in their new order."""
    trsen = lapack.ztrsen if np.iscomplexobj(T) else lapack.dtrsen
    order = labels
    for label in range(labels.max(initial=0), -1, -1):
        chosen = order == label
        if np.flatnonzero(chosen)[-1] + 1 == chosen.sum():
            continue  # already leading
        out = trsen(chosen.astype(np.int32), T, Q, job="N")
        T, Q = out[0], out[1]
        order = np.concatenate([order[chosen], order[~chosen]])
    return T, Q, order


def _decoupled(T: Matrix, Q: Matrix, starts: Matrix) -> tuple[Matrix, Matrix, list[float]]:
    """X, X^-1 and the norms of the Sylvester solutions of T = blocks with the couplings removed."""
    n = len(T)
    trsyl = lapack.ztrsyl if np.iscomplexobj(T) else lapack.dtrsyl
    Y, Y_inv, sizes = np.eye(n, dtype=T.dtype), np.eye(n, dtype=T.dtype), []
    for start, stop in zip(starts, [*starts[1:], n]):
        own, rest = slice(start, stop), slice(stop, n)
        if stop == n:
            sizes.append(0.0)
            break
        # A R - R B = -C makes [[A, C], [0, B]] block diagonal
        R, scale, _ = trsyl(T[own, own], T[rest, rest], -T[own, rest], isgn=-1)
        R = R / scale
        sizes.append(float(np.linalg.norm(R)))
        Y[:, rest] += Y[:, own] @ R
        Y_inv[own] -= R @ Y_inv[rest]
    return Q @ Y, Y_inv @ Q.conj().T, [s if np.isfinite(s) else np.inf for s in sizes]
