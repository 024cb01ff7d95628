"""The Taylor polynomial of exp, its action on vectors, and the reverse mode of both.

Degree m = q n_blocks - 1, evaluated by blocks (Paterson & Stockmeyer 1973): powers P_j = A^j up to q by products, then
Horner in P_q. Products: q - 1 + n_blocks - 1 forward, twice that in reverse. Written once for float64, complex128 and
`DoubleDouble` arrays. All matrices are (S, n, n); gradients follow torch: dL/dRe + i dL/dIm.
Truncation: |A| <= 1 (in the sense of |A^p|^(1/p), Al-Mohy & Higham 2009, theorem 4.2) leaves 1/(m + 1)!, which is
below the unit roundoff for m = 19 (float64: 4e-19) and m = 29 (double-double: 4e-33).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .arithmetic import Array, Wrapped, cat, constant, leading, stack
from .arithmetic.double_double import DoubleDouble


@dataclass(frozen=True)
class Degree:
    """Shape of the polynomial: q powers a block, n_blocks blocks."""

    q: int
    n_blocks: int

    @property
    def n_terms(self) -> int:
        return self.q * self.n_blocks


DOUBLE = Degree(q=5, n_blocks=4)
EXTENDED = Degree(q=6, n_blocks=5)


@lru_cache(maxsize=64)
def inverse_factorials_on(n_terms: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """1/j! for j < n_terms and what rounding takes off each, once for each device; not to be written to."""
    exact = [Fraction(1, math.factorial(j)) for j in range(n_terms)]
    rounded = [float(x) for x in exact]
    rest = [float(x - Fraction(y)) for x, y in zip(exact, rounded)]
    with torch.inference_mode(False):  # they outlive the call
        return torch.tensor(rounded, dtype=dtype, device=device), torch.tensor(rest, dtype=dtype, device=device)


def inverse_factorials(degree: Degree, like: Array) -> Any:
    """1/j! for j < n_terms, in the arithmetic of `like`."""
    plain = leading(like)
    rounded, rest = inverse_factorials_on(degree.n_terms, plain.dtype, plain.device)
    return DoubleDouble(rounded, rest) if isinstance(like, DoubleDouble) else constant(rounded, like)


def powers(A: Array, degree: Degree) -> list[Any]:
    """[I, A, ..., A^q]."""
    plain = leading(A)
    eye = torch.eye(plain.shape[-1], dtype=plain.dtype, device=plain.device).expand(plain.shape)
    out: list[Any] = [constant(eye, A), A]
    for j in range(2, degree.q + 1):
        out.append(out[j // 2] @ out[j - j // 2])
    return out


def polynomial(P: list[Any], degree: Degree) -> tuple[Any, list[Any]]:
    """sum_j A^j / j! and the Horner partial sums that its reverse needs."""
    c = inverse_factorials(degree, P[1])
    partial: list[Any] = []
    total = None
    for block in reversed(range(degree.n_blocks)):
        B = P[0] * c[block * degree.q]
        for j in range(1, degree.q):
            B = B + P[j] * c[block * degree.q + j]
        if total is not None:
            partial.append(total)
            B = B + P[degree.q] @ total
        total = B
    return total, partial


def polynomial_vjp(P: list[Any], partial: list[Any], degree: Degree, G: Any, gP: list[Any]) -> None:
    """Add to gP the gradient with respect to every power, given G with respect to the sum."""
    c = inverse_factorials(degree, P[1])
    for block in range(degree.n_blocks):
        for j in range(1, degree.q):
            gP[j] = gP[j] + G * c[block * degree.q + j]
        if block < degree.n_blocks - 1:
            gP[degree.q] = gP[degree.q] + G @ partial[-1 - block].mT.conj_physical()
            G = P[degree.q].mT.conj_physical() @ G


def powers_vjp(P: list[Any], gP: list[Any]) -> Any:
    """The gradient with respect to A, given those with respect to [I, A, ..., A^q]."""
    gP = list(gP)
    for j in range(len(P) - 1, 1, -1):
        left, right = j // 2, j - j // 2
        gP[left] = gP[left] + gP[j] @ P[right].mT.conj_physical()
        gP[right] = gP[right] + P[left].mT.conj_physical() @ gP[j]
    return gP[1]


def block_vectors(P: list[Any], degree: Degree, v: Any) -> list[Any]:
    """A^(q b) v for every block b, v (S, M, n)."""
    blocks = [v]
    for _ in range(1, degree.n_blocks):
        blocks.append(blocks[-1] @ P[degree.q].mT)
    return blocks


def action_terms(P: list[Any], degree: Degree, blocks: list[Any]) -> Any:
    """A^j v for j < n_terms, (S, M, n_terms, n), from the block vectors of v (S, M, n)."""
    Y = stack(blocks, -2)  # (S, M, n_blocks, n)
    S, M, _, n = Y.shape
    rows = Y.reshape(S, M * degree.n_blocks, n)
    terms = rows @ cat(P[:-1], -2).mT  # (S, M * n_blocks, q * n)
    return terms.reshape(S, M, degree.n_terms, n)


def action_terms_vjp(P: list[Any], blocks: list[Any], degree: Degree, gW: Any, gP: list[Any]) -> Any:
    """Reverse of `action_terms`: adds to gP, returns the gradient with respect to v."""
    S, M, _, n = gW.shape
    Y = stack(blocks, -2).reshape(S, M * degree.n_blocks, n)
    g_terms = gW.reshape(S, M * degree.n_blocks, degree.q * n)
    g_stack = g_terms.mT @ Y.conj_physical()  # (S, q * n, n)
    for j in range(1, degree.q):
        gP[j] = gP[j] + g_stack[:, j * n : (j + 1) * n]
    gY = (g_terms @ cat(P[:-1], -2).conj_physical()).reshape(S, M, degree.n_blocks, n)
    g = gY[:, :, degree.n_blocks - 1]
    for b in range(degree.n_blocks - 2, -1, -1):
        gP[degree.q] = gP[degree.q] + g.mT @ blocks[b].conj_physical()
        g = gY[:, :, b] + g @ P[degree.q].conj_physical()
    return g


def monomials(s: Tensor, degree: Degree, like: Array) -> Any:
    """s^j / j!, shape (*s.shape, n_terms), in the arithmetic of `like`; s is exact."""
    c = inverse_factorials(degree, like)
    if not isinstance(like, Wrapped):
        powers = s.new_empty(degree.n_terms, *s.shape)  # a power at a time: long passes
        powers[0], powers[1:2] = 1, s
        known = 2
        while known < degree.n_terms:
            more = min(known - 1, degree.n_terms - known)
            torch.mul(powers[1 : more + 1], powers[known - 1], out=powers[known : known + more])
            known += more
        c = c.reshape(-1, *(1,) * s.ndim)
        return (powers.mul_(c) if c.dtype == powers.dtype else powers * c).movedim(0, -1)
    x = like.constant(s)
    columns = [like.constant(torch.ones_like(s))]
    for _ in range(1, degree.n_terms):
        columns.append(columns[-1] * x)
    return stack(columns, -1) * c
