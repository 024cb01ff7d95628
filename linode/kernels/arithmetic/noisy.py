"""Arithmetic with amplified rounding error: how much does rounding hurt this computation, and how much must it?

Three copies of one computation run side by side along the first dimension: as it is; with the data perturbed once by a
small random factor, entry by entry; and with every factor of every product perturbed so. The spread of the third copy
shows the rounding error of the algorithm, that of the second the componentwise condition of the problem.
An algorithm is as good as its arithmetic allows when the first does not exceed the second by much.
Source: the idea is that of stochastic arithmetic, Vignes (2004), Numer. Algorithms 37.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from . import Array, Wrapped

AMPLITUDE = 2.0**-26  # of rounding: the square root of the unit roundoff, far above actual rounding
DATA_AMPLITUDE = 2.0**-40  # of data: small enough that the response stays linear up to a condition of 1e12
N_COPIES = 3
POOL_SIZE = 2**18


class Noise:
    """The same random factors 1 + amplitude (-1 .. 1) for the same sequence of calls; no global state is touched."""

    def __init__(self) -> None:
        self._position = 0

    def factors(self, x: Tensor, amplitude: float = AMPLITUDE) -> Tensor:
        """Factors for every entry of x."""
        pool, size = _pool(x.device), x.numel()
        if size > POOL_SIZE // 2:
            pool = pool.repeat(2 + 2 * size // POOL_SIZE)
        elif self._position + size > POOL_SIZE:
            self._position = 0
        start, self._position = self._position, self._position + min(size, POOL_SIZE // 2)
        return 1 + amplitude * pool[start : start + size].view(x.shape)


class Noisy(Wrapped):
    """A tensor whose first dimension holds the three copies."""

    __slots__ = ("is_quiet", "noise", "parts")

    def __init__(self, value: Tensor, noise: Noise, is_quiet: bool = False) -> None:
        self.parts = (value,)
        self.noise, self.is_quiet = noise, is_quiet

    @classmethod
    def data(cls, x: Tensor, noise: Noise, is_quiet: bool = False) -> Noisy:
        """The three copies of x (S, ...), as (3 S, ...). Products of quiet factors are exact."""
        return cls(torch.cat([x, x * noise.factors(x, DATA_AMPLITUDE), x]), noise, is_quiet)

    @classmethod
    def exact(cls, x: Tensor, noise: Noise) -> Noisy:
        """Three equal copies."""
        return cls(x.repeat(N_COPIES, *(1,) * (x.ndim - 1)), noise)

    def like(self, *parts: Tensor) -> Noisy:
        return Noisy(parts[0], self.noise, self.is_quiet)

    def converted(self, like: Array) -> Noisy:
        return Noisy(self.parts[0], self.noise, isinstance(like, Noisy) and like.is_quiet)

    def __add__(self, other: Noisy) -> Noisy:
        return self.like(self.parts[0] + other.parts[0])

    def __mul__(self, other: Noisy) -> Noisy:
        return self.like(self.parts[0] * other.parts[0])

    def __matmul__(self, other: Noisy) -> Noisy:
        if self.is_quiet and other.is_quiet:
            return self.like(self.parts[0] @ other.parts[0])
        return Noisy(self._rounded() @ other._rounded(), self.noise)

    def _rounded(self) -> Tensor:
        x = self.parts[0].clone()
        last = x[x.shape[0] - x.shape[0] // N_COPIES :]
        last *= self.noise.factors(last)
        return x

    def spreads(self) -> tuple[Tensor, Tensor]:
        """Response to data and response to rounding, for the actual unit roundoff.

        Norms over the last dimension, relative to that of the value, (S, ...).
        """
        value, data, rounding = self.parts[0].chunk(N_COPIES)
        scale = value.abs().amax(-1, keepdim=True)  # squares of large states would overflow
        scale = torch.where(scale > 0, scale, 1)
        size = torch.linalg.vector_norm(value / scale, dim=-1)
        unit = torch.finfo(value.dtype).eps / 2
        by_data = torch.linalg.vector_norm((data - value) / scale, dim=-1) * (unit / DATA_AMPLITUDE)
        by_rounding = torch.linalg.vector_norm((rounding - value) / scale, dim=-1) * (unit / AMPLITUDE)
        return by_data / size.clamp(min=1), by_rounding / size.clamp(min=1)


@lru_cache(maxsize=8)
def _pool(device: torch.device) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    uniform = torch.rand(POOL_SIZE, generator=generator, dtype=torch.float64, device="cpu").to(device)
    return 2 * uniform - 1
