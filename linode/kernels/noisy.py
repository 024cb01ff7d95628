"""Arithmetic with amplified rounding error: how much does rounding hurt this computation, and how much must it?

Three copies of one computation run side by side along the first dimension: as it is; with the data perturbed once by random
relative 2^-26, entry by entry; and with every factor of every product perturbed so. The spread of the third copy is the
rounding error of the algorithm (times 2^27), that of the second is the componentwise condition of the problem. An algorithm
is as good as its arithmetic allows when the first does not exceed the second by much.
Source: the idea is that of stochastic arithmetic, Vignes (2004), Numer. Algorithms 37.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arithmetic import Wrapped

AMPLITUDE = 2.0**-26  # the square root of the unit roundoff: first-order effects, far above actual rounding
N_COPIES = 3


class Noisy(Wrapped):
    """A tensor whose first dimension holds the three copies."""

    __slots__ = ("generator", "parts")

    def __init__(self, value: Tensor, generator: torch.Generator) -> None:
        self.parts = (value,)
        self.generator = generator

    @classmethod
    def data(cls, x: Tensor, generator: torch.Generator) -> Noisy:
        """The three copies of x (S, ...), as (3 S, ...)."""
        return cls(torch.cat([x, x * _factors(x, generator), x]), generator)

    def like(self, *parts: Tensor) -> Noisy:
        return Noisy(parts[0], self.generator)

    def __add__(self, other: Noisy) -> Noisy:
        return self.like(self.parts[0] + other.parts[0])

    def __mul__(self, other: Noisy) -> Noisy:
        return self.like(self.parts[0] * other.parts[0])

    def __matmul__(self, other: Noisy) -> Noisy:
        return self.like(self._rounded() @ other._rounded())

    def _rounded(self) -> Tensor:
        x = self.parts[0]
        start = x.shape[0] - x.shape[0] // N_COPIES
        return torch.cat([x[:start], x[start:] * _factors(x[start:], self.generator)])

    def spreads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Norms over the last dimension, (S, ...): of the value; of its response to data; of its response to rounding.

        Both responses are for the actual unit roundoff.
        """
        value, data, rounding = self.parts[0].chunk(N_COPIES)
        unit = torch.finfo(value.dtype).eps / 2 / AMPLITUDE
        return (
            torch.linalg.vector_norm(value, dim=-1),
            torch.linalg.vector_norm(data - value, dim=-1) * unit,
            torch.linalg.vector_norm(rounding - value, dim=-1) * unit,
        )


def _factors(x: Tensor, generator: torch.Generator) -> Tensor:
    u = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    return 1 + (2 * u - 1) * AMPLITUDE
