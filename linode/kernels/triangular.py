"""Entries of exp(A t) that have closed forms where A is triangular: the diagonal and the diagonal next to it.

Set in every power of exp(A H), they do not carry the rounding of the squarings before, which stiff, graded and
overscaled matrices need. A may be lower or upper triangular, or upper quasi-triangular with 2 x 2 blocks in LAPACK's
standard form, whose diagonal entries are equal.
Sources: Al-Mohy & Higham (2009), SIAM J. Matrix Anal. 31, section 2; Higham (2008), Functions of Matrices, (10.42).
Shapes: A (S, n, n), H and shift (S,).
"""

from __future__ import annotations

import torch
from torch import Tensor


class ClosedForms:
    """Of exp((A + shift I) H 2^level)."""

    def __init__(self, A: Tensor, H: Tensor, shift: Tensor | None, is_lower: bool) -> None:
        """A upper quasi-triangular, or lower triangular."""
        self._H, self._shift, self._is_lower = H[:, None], None if shift is None else shift[:, None], is_lower
        T = A.mT if is_lower else A
        self._above, self._below = T.diagonal(1, -2, -1), T.diagonal(-1, -2, -1)
        is_block = self._below != 0
        near = torch.nn.functional.pad(is_block, (1, 1))
        self._is_closed = is_block | ~(near[:, :-2] | near[:, 2:])  # not between a 2 x 2 block and its neighbour
        self._lam = eigenvalues(T) if bool(is_block.any()) else T.diagonal(dim1=-2, dim2=-1)

    @classmethod
    def of(cls, A: Tensor, H: Tensor, shift: Tensor | None = None) -> ClosedForms | None:
        """For matrices that are all upper or all lower triangular; None for others."""
        entries = A != 0
        halves = torch.stack([(entries.tril(-1)).any(), entries.triu(1).any()]).tolist()
        return None if all(halves) else cls(A, H, shift, is_lower=halves[0])

    def put(self, power: Tensor, level: int) -> None:
        """Write them into exp((A + shift I) H 2^level) (S, n, n)."""
        h = self._H * 2.0**level
        x = self._lam * h
        factor = 1.0 if self._shift is None else torch.exp(self._shift * h)
        diagonal, slope = torch.exp(x), h * divided_difference(x[:, :-1], x[:, 1:])
        if not power.is_complex():
            diagonal, slope = diagonal.real, slope.real
        E = power.mT if self._is_lower else power
        above = torch.where(self._is_closed, factor * slope * self._above, E.diagonal(1, -2, -1))
        for k, entries in ((0, factor * diagonal), (-1, factor * slope * self._below), (1, above)):
            E.diagonal(k, -2, -1).copy_(entries)


def divided_difference(x: Tensor, y: Tensor) -> Tensor:
    """(exp(x) - exp(y)) / (x - y) without cancellation and without needless overflow."""
    swap = x.real < y.real
    x, y = torch.where(swap, y, x), torch.where(swap, x, y)
    gap = y - x  # its real part is not positive
    return torch.exp(x) * torch.where(gap == 0, 1.0, torch.expm1(gap) / torch.where(gap == 0, 1.0, gap))


def eigenvalues(T: Tensor) -> Tensor:
    """Of quasi-triangular T (S, n, n) in LAPACK's standard form, position by position, complex."""
    lam = T.diagonal(dim1=-2, dim2=-1).to(torch.complex128, copy=True)
    above, below = (T.diagonal(k, -2, -1).to(lam.dtype).sqrt() for k in (1, -1))  # the product may overflow
    lam[:, :-1] += above * below
    lam[:, 1:] -= above * below
    return lam
