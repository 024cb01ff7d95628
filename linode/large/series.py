"""Vectors F_k(X) v of one start v, in blocks, and the sums that states are of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from scipy.linalg import blas

from .linear import Mapped

BLOCK = 32  # vectors that one product of matrices adds to the states


class Expansion(Protocol):
    """A region's polynomials, with the coefficients of functions in them."""

    @property
    def B(self) -> Mapped: ...

    @property
    def tau(self) -> float | np.ndarray:
        """Of the polynomials of an ellipse; or one for every k, see `tau_at`."""

    u: float  # z grows no faster than e^(u t)
    size: float  # |Xi|, about
    norm: float  # in which F_k are bounded
    d: np.ndarray | None  # z = d y, and the recurrence is that of y
    is_normal: bool  # Xi is, or D^-1 Xi D

    n_terms: int  # expected

    def within(self, span: slice) -> Expansion:
        """The same on these states only; where B has entries."""

    def coefficients(self, kind: str, t: np.ndarray, w: complex) -> np.ndarray:
        """f_k(t_i), (T, N), with N so large that the last are 0."""

    def weights(self, n_terms: int) -> np.ndarray:
        """By how much a term may count for more in the gradient than in the states."""


class Rows(NamedTuple):
    """Times of one piece that columns share, latest first."""

    columns: slice
    places: np.ndarray  # their places among the times asked for
    local: np.ndarray  # time since the start of the piece; one more in front where the state is carried on
    carries: bool


class Piece(NamedTuple):
    """What the reverse needs of a piece."""

    expansion: Expansion
    start: float
    rows: list[Rows]
    coefficients: list[list[np.ndarray]]  # of terms, of groups of rows
    blocks: list[tuple[int, int, list[int]]]  # first and last + 1 of k, and the rows of each group that it adds to
    vectors: list[np.ndarray]  # v of each term
    kept: list[list[np.ndarray]]  # of terms: what `backwards` needs
    keeps: str | None  # "all" vectors, "checkpoints": the two before each block, or "ends": the last two
    n_made: int  # vectors of each term


def norms(X: np.ndarray, order: float) -> np.ndarray:
    """Norms over the axis before the last, of X (..., n, R)."""
    if order == 1:
        return np.abs(X).sum(-2)
    if order == math.inf:
        return np.abs(X).max(-2, initial=0)
    with np.errstate(over="ignore", invalid="ignore"):
        if X.dtype.kind == "c":
            pairs = X.view(float).reshape(*X.shape, 2)
            squares = np.einsum("...nrp,...nrp->...r", pairs, pairs)
        else:
            squares = np.einsum("...nr,...nr->...r", X, X)
    if ((squares > 1e-280) & (squares < 1e300)).all() or not X.size:
        return np.sqrt(squares)
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.abs(X).max(-2)
        scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        return scale * np.sqrt((np.abs(X / scale[..., None, :]) ** 2).sum(-2))


def add_products(C: np.ndarray, F: np.ndarray, Z: np.ndarray) -> None:
    """Z += C @ F for C (T, K), F (K, n, R) and contiguous Z (T, n, R)."""
    if C.dtype.kind != "c" and Z.dtype.kind == "c":
        F, Z = F.view(float), Z.view(float)
    flat, sums = F.reshape(len(F), -1), Z.reshape(len(Z), -1)
    is_complex = Z.dtype.kind == "c"
    if len(Z) == 1:
        gemv = blas.zgemv if is_complex else blas.dgemv
        sums[0] = gemv(1.0, flat.T, C[0], beta=1.0, y=sums[0], overwrite_y=1)
        return
    gemm = blas.zgemm if is_complex else blas.dgemm
    found = gemm(1.0, flat.T, np.asarray(C, Z.dtype).T, beta=1.0, c=sums.T, overwrite_c=1)
    if not np.shares_memory(found, sums):
        sums[:] = found.T


class Series:
    """Vectors F_k(X) v, (n, R), made block by block."""

    def __init__(self, expansion: Expansion, v: np.ndarray, keep: str | None) -> None:
        self.B, self.tau, self.keep = expansion.B, expansion.tau, keep
        self.v = v
        self.before = np.empty((2, *v.shape), v.dtype)  # the last two of the block before
        self.kept: list[np.ndarray] = []
        self.block = np.empty((0, *v.shape), v.dtype)

    def advance(self, low: int, high: int) -> np.ndarray:
        """F_k for low <= k < high, after those below low."""
        if self.keep == "all" or len(self.block) < high - low:
            self.block = np.empty((high - low, *self.v.shape), self.v.dtype)
        block = self.block[: high - low]
        if self.keep == "checkpoints":
            self.kept.append(self.before.copy())
        fill(self.B, self.tau, self.v, self.before, block, low)
        if self.keep == "all":
            self.kept.append(block)
        for i in (2, 1):
            if high - i >= low:
                self.before[2 - i] = block[high - i - low]
            elif i == 2:
                self.before[0] = self.before[1]
        return block

    @property
    def record(self) -> list[np.ndarray]:
        return [self.before] if self.keep == "ends" else self.kept


def is_reversible(expansion: Expansion) -> bool:
    """F_(k - 1) can be had from F_k and F_(k + 1): the ellipse is flat, and nothing grows in either direction.

    Seen: 5e-15 after 450 terms, 2e-14 after 4000; round an ellipse, 1e-8 after 200.
    """
    return isinstance(expansion.tau, float) and abs(expansion.tau) == 1 and not expansion.B.samples_products


def backwards(piece: Piece, j: int, v: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The blocks of vectors of term j from the last to the first: number, F_(low - 1) and F_k for low <= k < high.

    Vectors that were not kept are made again. F_(low - 1) is 0 where "ends" are kept.
    """
    kept, nothing = piece.kept[j], np.zeros_like(v)
    B, tau = piece.expansion.B, piece.expansion.tau
    below, above = (kept[0][0].copy(), kept[0][1].copy()) if piece.keeps == "ends" else (nothing, nothing)
    k = piece.n_made - 1  # `above` is F_k, `below` F_(k - 1)
    for i in reversed(range(len(piece.blocks))):
        low, high, _ = piece.blocks[i]
        if piece.keeps == "all":
            yield i, kept[i - 1][-1] if i else nothing, kept[i]
            continue
        block = np.empty((high - low, *v.shape), v.dtype)
        if piece.keeps == "checkpoints":
            fill(B, tau, v, kept[i], block, low)
            yield i, kept[i][1], block
            continue
        while k >= low:
            if k < high:
                block[k - low] = above
            if k == 2:
                above, below = below, v
            elif k > 2 and isinstance(tau, float):
                np.multiply(real(above), -1.0, out=real(above))
                B.add(below, above)
                if tau != 1:
                    np.multiply(real(above), 1 / tau, out=real(above))
                above, below = below, above
            else:
                above = below
            k -= 1
        yield i, nothing, block


def fill(B: Mapped, tau: float | np.ndarray, v: np.ndarray, before: np.ndarray, block: np.ndarray, low: int) -> None:
    """F_k for k from low on into the block (K, n, R); before: F_(low - 2) and F_(low - 1)."""
    last, new = before[0], before[1]
    for i in range(len(block)):
        out = block[i]
        if low + i == 0:
            out[:] = v
        elif low + i == 1:
            out[:] = 0
            B.at(0).add(new, out)
        else:
            factor = tau_at(tau, low + i - 1)
            if factor:
                np.multiply(real(last), -factor, out=real(out))
            else:
                out[:] = 0
            B.at(low + i - 1).add(new, out)
        last, new = new, out


def tau_at(tau: float | np.ndarray, k: int) -> float:
    """What multiplies F_(k - 1) in F_(k + 1) = B_k F_k - tau_k F_(k - 1)."""
    if isinstance(tau, np.ndarray):
        return float(tau[k])
    return 0.0 if k == 0 else 2 * tau if k == 1 else tau


def real(x: np.ndarray) -> np.ndarray:
    """The same numbers, complex ones as pairs: a real factor costs half the time then."""
    return x.view(float) if x.dtype.kind == "c" else x
