"""Matrix arithmetic in about twice the working precision, out of ordinary float64 products.

A `DoubleDouble` is an unevaluated sum hi + lo of two float64 tensors. Sums use error-free transformations; a matrix
product cuts both factors into slices so short that BLAS multiplies and adds them without any rounding, and sums the
few exact products. It runs wherever `torch.matmul` runs, batched, and costs about ten products (85 to 96 significant
bits relative to the largest entry of the row and column). Where a row or column holds entries so small that this is not
enough for them, its terms are multiplied and added one by one: slower, and accurate relative to the terms themselves.
Sources: Dekker (1971), Numer. Math. 18, section 5 (two_prod); Knuth, TAOCP 2, 4.2.2 (two_sum); Ozaki, Ogita, Oishi &
Rump (2012), Numer. Algorithms 59, algorithm 3 (error-free splitting of a matrix product).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import Wrapped

N_SLICES = 5
GRADED = (
    2.0**-40
)  # of the largest entry of a row or column: smaller ones must not lose the digits that slices leave out
SPLITTER = 134217729.0  # 2^27 + 1, Dekker (1971) for 53 bits


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b = s + e exactly, s = fl(a + b)."""
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


def fast_two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """two_sum for |a| >= |b|."""
    s = a + b
    return s, b - (s - a)


def two_prod(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a * b = p + e exactly, p = fl(a * b); needs |a|, |b| < 1e290."""
    p = a * b
    c = SPLITTER * a
    a_hi = c - (c - a)
    a_lo = a - a_hi
    d = SPLITTER * b
    b_hi = d - (d - b)
    b_lo = b - b_hi
    return p, ((a_hi * b_hi - p) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo


class DoubleDouble(Wrapped):
    """hi + lo, real float64."""

    __slots__ = ("_slices", "parts")

    def __init__(self, hi: Tensor, lo: Tensor | None = None) -> None:
        self.parts = (hi, torch.zeros_like(hi) if lo is None else lo)
        self._slices: dict[int, tuple[Tensor, ...]] = {}  # by contracted dimension; a power is used many times
        self._is_graded: dict[int, bool] = {}  # likewise

    def like(self, *parts: Tensor) -> DoubleDouble:
        return DoubleDouble(*parts)

    @property
    def hi(self) -> Tensor:
        return self.parts[0]

    @property
    def lo(self) -> Tensor:
        return self.parts[1]

    @property
    def mT(self) -> DoubleDouble:
        out = DoubleDouble(self.hi.mT, self.lo.mT)
        out._slices = {-3 - dim: tuple(part.mT for part in parts) for dim, parts in list(self._slices.items())}
        out._is_graded = {-3 - dim: known for dim, known in list(self._is_graded.items())}
        return out

    def conj_physical(self) -> DoubleDouble:
        return self

    def row_product(self, other: DoubleDouble) -> DoubleDouble:
        """self^T other; rows of `other` are scaled to 1 first, since slices are relative to the largest row."""
        size = other.hi.abs().amax(-1, keepdim=True)
        exponent = torch.frexp(size).exponent
        shifted = (DoubleDouble(*(ldexp(p, sign * exponent) for p in x.parts)) for x, sign in ((self, 1), (other, -1)))
        left, right = shifted
        return left.mT @ right

    def release(self) -> None:
        self._slices = {}

    def inner(self, other: DoubleDouble) -> DoubleDouble:
        """Sum of products over the last dimension."""
        terms = self * other
        total = terms[..., 0]
        for k in range(1, terms.shape[-1]):
            total = total + terms[..., k]
        return total

    def round(self) -> Tensor:
        """The nearest float64."""
        return self.hi + self.lo

    def __add__(self, other: DoubleDouble) -> DoubleDouble:
        s, e = two_sum(self.hi, other.hi)
        t, f = two_sum(self.lo, other.lo)
        s, e = fast_two_sum(s, e + t)
        return DoubleDouble(*fast_two_sum(s, e + f))

    def __sub__(self, other: DoubleDouble) -> DoubleDouble:
        return self + (-other)

    def __mul__(self, other: DoubleDouble) -> DoubleDouble:
        """Elementwise product."""
        p, e = two_prod(self.hi, other.hi)
        return DoubleDouble(*fast_two_sum(p, e + (self.hi * other.lo + self.lo * other.hi)))

    def __matmul__(self, other: DoubleDouble) -> DoubleDouble:
        if self.is_graded(-1) or other.is_graded(-2):
            return self._by_terms(other)
        n = self.shape[-1]
        # 2 beta bits a product and n * N_SLICES products a level must fit in 53 bits
        beta = (53 - math.ceil(math.log2(max(n, 1) * N_SLICES))) // 2
        *a, a_exp = self._sliced(-1, beta)
        *b, b_exp = other._sliced(-2, beta)
        levels = [
            torch.cat(a[: k + 1], dim=-1) @ torch.cat(b[k::-1], dim=-2)  # exact
            for k in range(N_SLICES)
        ]
        hi, e1 = two_sum(levels[0], levels[1])
        hi, e2 = two_sum(hi, levels[2])
        tail, e3 = two_sum(e1, e2)
        hi, lo = fast_two_sum(hi, tail + (e3 + sum(levels[3:])))
        exponent = a_exp + b_exp
        return DoubleDouble(ldexp(hi, exponent), ldexp(lo, exponent))

    def is_graded(self, dim: int) -> bool:
        """Whether entries along `dim` differ so much that slices lose the small ones."""
        if dim not in self._is_graded:
            size = self.hi.abs()
            largest = size.amax(dim, keepdim=True) if size.shape[dim] else size.new_zeros(())
            self._is_graded[dim] = bool(((size > 0) & (size < GRADED * largest)).any())
        return self._is_graded[dim]

    def _by_terms(self, other: DoubleDouble) -> DoubleDouble:
        """The product as a sum of outer products, each term and sum in this arithmetic."""
        (a, a_exp), (b, b_exp) = (x._scaled(dim) for x, dim in ((self, -1), (other, -2)))
        total: DoubleDouble | None = None
        for k in range(self.shape[-1]):
            term = a[..., k : k + 1] * b[..., k : k + 1, :]
            total = term if total is None else total + term
        if total is None:
            raise ValueError("a product over no terms")
        exponent = a_exp + b_exp
        return DoubleDouble(*(ldexp(part, exponent) for part in total.parts))

    def _scaled(self, dim: int) -> tuple[DoubleDouble, Tensor]:
        """Entries of at most 1 along `dim`, and the exponent that was taken out."""
        exponent = torch.frexp(self.hi.abs().amax(dim, keepdim=True)).exponent
        return DoubleDouble(*(ldexp(part, -exponent) for part in self.parts)), exponent

    def _sliced(self, dim: int, beta: int) -> tuple[Tensor, ...]:
        """Slices of beta bits along `dim`, scaled to at most 1, and the exponent that was taken out."""
        known = self._slices.get(dim)
        if known is not None:
            return known
        size = self.hi.abs().amax(dim, keepdim=True) if self.hi.shape[dim] else self.hi.new_zeros(())
        exponent = torch.frexp(size).exponent
        hi, lo = ldexp(self.hi, -exponent), ldexp(self.lo, -exponent)
        slices = []
        for k in range(1, N_SLICES):
            sigma = 1.5 * 2.0 ** (52 - k * beta)  # x + sigma rounds x to a multiple of 2^(-k beta)
            part = (hi + sigma) - sigma
            slices.append(part)
            hi = hi - part
            if k == 2:  # what is left of hi has few bits: lo joins it
                hi = hi + lo
        sigma = 1.5 * 2.0 ** (52 - N_SLICES * beta)
        slices.append((hi + sigma) - sigma)
        parts = (*slices, exponent)
        self._slices[dim] = parts
        return parts


def ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    """x 2^exponent; in two steps, since 2^exponent alone may overflow where the product does not."""
    half = exponent // 2
    return torch.ldexp(torch.ldexp(x, half), exponent - half)
