"""What a number type must offer so that the stepping kernels, written once, run in it.

Plain tensors qualify as they are. `Wrapped` is the base of the types made of several tensors (`DoubleDouble`) or with
other rounding (`Noisy`): everything that only moves entries is defined here, through `parts`.
Kernels conjugate by conj_physical(): the lazy conj(), and so mH and vecdot, is silently lost inside an operator that
runs beneath a dispatch mode, as torch.compile's do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Wrapped:
    """Tensors of one shape that together stand for one array."""

    parts: tuple[Tensor, ...]

    def like(self, *parts: Tensor) -> Any:
        """The same type, holding other parts."""
        raise TypeError(f"{type(self).__name__} does not define like()")

    def constant(self, x: Tensor) -> Any:
        """x, exact, as this type."""
        return self.like(x, *(torch.zeros_like(x) for _ in self.parts[1:]))

    @property
    def shape(self) -> torch.Size:
        return self.parts[0].shape

    @property
    def mT(self) -> Any:
        return self.like(*(p.mT for p in self.parts))

    def conj_physical(self) -> Any:
        return self.like(*(p.conj_physical() for p in self.parts))

    def __getitem__(self, index: Any) -> Any:
        return self.like(*(p[index] for p in self.parts))

    def reshape(self, *shape: int) -> Any:
        return self.like(*(p.reshape(*shape) for p in self.parts))

    def __neg__(self) -> Any:
        return self.like(*(-p for p in self.parts))

    def scale(self, power_of_two: Tensor) -> Any:
        """Product with powers of two: exact."""
        return self.like(*(p * power_of_two for p in self.parts))

    def round(self) -> Tensor:
        """The nearest plain tensor."""
        raise TypeError(f"{type(self).__name__} does not define round()")

    def release(self) -> None:
        """Forget what was kept to make further products cheaper."""

    def converted(self, like: Array) -> Any:
        return self if isinstance(like, Wrapped) else self.round()

    def row_product(self, other: Any) -> Any:
        """self^T conj(other), the sum over rows of their outer products."""
        return self.mT @ other.conj_physical()


Array = Tensor | Wrapped


def leading(x: Array) -> Tensor:
    """The tensor that carries shape, dtype and device."""
    return x.parts[0] if isinstance(x, Wrapped) else x


def constant(x: Tensor, like: Array) -> Any:
    """x, exact, in the arithmetic of `like`."""
    return like.constant(x) if isinstance(like, Wrapped) else x


def scale(x: Array, power_of_two: Tensor) -> Any:
    """x times powers of two: exact in every arithmetic."""
    return x.scale(power_of_two) if isinstance(x, Wrapped) else x * power_of_two


def convert(x: Any, like: Array) -> Any:
    """x in the arithmetic of `like`."""
    return x.converted(like) if isinstance(x, Wrapped) else constant(x, like)


def row_product(a: Any, b: Any) -> Any:
    """a^T conj(b): (S, M, n), (S, M, p) -> (S, n, p)."""
    return a.row_product(b) if isinstance(a, Wrapped) else a.mT @ b.conj_physical()


def zeros_like(x: Array) -> Any:
    return x.like(*map(torch.zeros_like, x.parts)) if isinstance(x, Wrapped) else torch.zeros_like(x)


def where(mask: Tensor, a: Any, b: Any) -> Any:
    if isinstance(a, Wrapped):
        return a.like(*(torch.where(mask, p, q) for p, q in zip(a.parts, b.parts)))
    return torch.where(mask, a, b)


def cat(arrays: list[Any], dim: int) -> Any:
    return _joined(torch.cat, arrays, dim)


def stack(arrays: list[Any], dim: int) -> Any:
    return _joined(torch.stack, arrays, dim)


def _joined(join: Any, arrays: list[Any], dim: int) -> Any:
    if isinstance(arrays[0], Wrapped):
        return arrays[0].like(*(join(list(p), dim) for p in zip(*(a.parts for a in arrays))))
    return join(arrays, dim)
