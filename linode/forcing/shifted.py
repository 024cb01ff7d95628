"""An input with another origin of time."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from .base import Input
from .mesh import Misfit
from .pieces import Pieces


class Shifted(Input):
    """u(t) = inner(t + by)."""

    def __init__(self, inner: Input, by: float) -> None:
        self.inner, self.by = inner, by
        self.m, self.tensors, self.dtype = inner.m, inner.tensors, inner.dtype
        self.is_numpy, self.batch, self.is_approximate = inner.is_numpy, inner.batch, inner.is_approximate

    @property
    def parts(self) -> tuple[Input, ...]:
        return (self,) if self.inner.parts == (self.inner,) else tuple(Shifted(x, self.by) for x in self.inner.parts)

    def refined(self) -> Input | None:
        inner = self.inner.refined()
        return None if inner is None else Shifted(inner, self.by)

    def fixed(self) -> Input:
        return Shifted(self.inner.fixed(), self.by)

    @property
    def misfit(self) -> Misfit | None:
        return self.inner.misfit

    def pieces(self, start: float, stop: float, asked: Tensor | None = None) -> Pieces:
        pieces = self.inner.pieces(start + self.by, stop + self.by, None if asked is None else asked + self.by)
        if not pieces.breaks.shape[-1]:  # one piece, whose state must hold at time 0
            return replace(pieces, states=pieces.advanced(pieces.states, self.by - pieces.refs), refs=0 * pieces.refs)
        return replace(pieces, breaks=pieces.breaks - self.by, refs=pieces.refs - self.by, ends=None)
