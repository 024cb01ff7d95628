"""Arithmetic that cannot overflow or underflow: every entry is mantissa 2^exponent with an exponent of its own.

Used to repeat the rows of a trajectory that left the range of float64, so that what is finite comes out finite and
the rest as infinity of the right sign. Costs about 2 n elementwise passes a product; it is only run when something
overflowed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import Wrapped
from .double_double import ldexp

LIMIT = 2200  # a larger exponent overflows whatever the mantissa, a smaller one underflows


class Ranged(Wrapped):
    """parts: mantissa with modulus in [1/2, 1) or 0, and integer exponent (float64)."""

    __slots__ = ("parts",)

    def __init__(self, mantissa: Tensor, exponent: Tensor | None = None) -> None:
        size = mantissa.abs()
        shift = torch.frexp(size).exponent
        exponent = torch.zeros_like(size) if exponent is None else exponent
        self.parts = (_shifted(mantissa, -shift), torch.where(size > 0, exponent + shift, 0.0))

    def like(self, *parts: Tensor) -> Ranged:
        out = object.__new__(Ranged)
        out.parts = parts
        return out

    def constant(self, x: Tensor) -> Ranged:
        return Ranged(x)

    def conj_physical(self) -> Ranged:
        return self.like(self.parts[0].conj_physical(), self.parts[1])

    def __neg__(self) -> Ranged:
        return self.like(-self.parts[0], self.parts[1])

    def scale(self, power_of_two: Tensor) -> Ranged:
        return self * Ranged(power_of_two)

    def __add__(self, other: Ranged) -> Ranged:
        (a, ea), (b, eb) = self.parts, other.parts
        top = torch.maximum(torch.where(a == 0, -torch.inf, ea), torch.where(b == 0, -torch.inf, eb))
        top = torch.where(torch.isfinite(top), top, 0.0)
        return Ranged(_shifted(a, ea - top) + _shifted(b, eb - top), top)

    def __mul__(self, other: Ranged) -> Ranged:
        return Ranged(self.parts[0] * other.parts[0], self.parts[1] + other.parts[1])

    def __matmul__(self, other: Ranged) -> Ranged:
        (a, ea), (b, eb) = self.parts, other.parts
        total: Ranged | None = None
        for k in range(a.shape[-1]):
            column, row = slice(k, k + 1), (..., slice(k, k + 1), slice(None))
            term = Ranged(a[..., column] * b[row], ea[..., column] + eb[row])
            total = term if total is None else total + term
        if total is None:
            raise ValueError("a product over no terms")
        return total

    def round(self) -> Tensor:
        """As float64: infinity where it is too large, with its sign."""
        return _shifted(*self.parts)


def _shifted(x: Tensor, exponent: Tensor) -> Tensor:
    """x 2^exponent, for complex x too; 0 stays 0."""
    power = exponent.clamp(-LIMIT, LIMIT)
    if x.is_complex():
        return torch.complex(_shifted(x.real, power), _shifted(x.imag, power))
    return torch.where(x == 0, x, ldexp(x, power.to(torch.int32)))
