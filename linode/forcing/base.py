"""The base class of inputs. A new kind of input is one file here: a subclass of `Input` that defines `pieces`."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..engine.problem import as_answer, as_tensor, broadcast, check_finite_anywhere, extremes
from ..errors import DtypeError, ShapeError
from .mesh import Misfit
from .pieces import Pieces


class Input(ABC):
    """u(t) of m channels. Inputs add up: `u1 + u2`.

    Attributes:
        m: number of channels. dtype: of u(t). batch: batch dimensions. tensors: the tensors that define it.

    Example:
        >>> import linode
        >>> u = linode.ZeroOrderHold([0.0], [[1.0]]) + linode.Harmonics([0.0], [[2.0]])
        >>> u.m, u([0.0, 1.0]).tolist()
        (1, [[3.0], [3.0]])
    """

    m: int
    tensors: tuple[Tensor, ...]
    dtype: torch.dtype
    is_numpy: bool  # whether u(t) is a NumPy array for t that is no tensor
    batch = torch.Size()
    is_approximate = False  # whether u(t) is known at samples only that the input chooses itself

    @abstractmethod
    def pieces(self, start: float, stop: float, asked: Tensor | None = None) -> Pieces:
        """u between two times, in double precision; values are checked again, as they may have changed in place.

        asked: the times at which z is asked for, between which an input that is sampled must look.
        """

    @property
    def misfit(self) -> Misfit | None:
        """Of the last pieces, of an input that is approximate."""
        return None

    @property
    def parts(self) -> tuple[Input, ...]:
        """The inputs of which this is the sum."""
        return (self,)

    def refined(self) -> Input | None:
        """The same input with denser samples; None if it is known exactly between its samples."""
        return None

    def snapshot(self) -> Input:
        """The same input with copies of its tensors, which may be changed in place."""
        own = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(own, name, value.detach().clone())
        return own

    def fixed(self) -> Input:
        """The same input, which goes on with the samples that it has."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(m={self.m})"

    def __add__(self, other: Input) -> Input:
        return Sum((*self.parts, *other.parts)) if isinstance(other, Input) else NotImplemented

    def __radd__(self, other: Any) -> Input:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # what sum() starts from

    def __call__(self, t: Any) -> Any:
        """u(t), (*batch, T, m), for t (T,) or (*batch, T), or (*batch, m) for a scalar; without impulses.

        Raises:
            DtypeError, NonFiniteError: t cannot be used.

        Example:
            >>> import linode
            >>> linode.FirstOrderHold([0.0, 2.0], [[0.0], [2.0]])(0.5).tolist()
            [0.5]
        """
        times = as_tensor(t, "t", integers_become=torch.float64)
        if times.is_complex():
            raise DtypeError(f"t must be real, got {times.dtype}")
        check_finite_anywhere(times, "t")
        times = times.to(torch.float64)
        u = self._at(times if times.ndim else times[None])
        return as_answer(u if times.ndim else u[..., 0, :], self.is_numpy and not isinstance(t, Tensor))

    def _at(self, t: Tensor) -> Tensor:
        return self.pieces(*extremes(t)).at(t).to(self.dtype)


class Sum(Input):
    """The sum of several inputs."""

    def __init__(self, parts: Sequence[Input]) -> None:
        if len({part.m for part in parts}) > 1:
            raise ShapeError(f"inputs of {', '.join(str(part.m) for part in parts)} channels cannot be added")
        self._parts, self.m = tuple(parts), parts[0].m
        self.tensors = tuple(x for part in parts for x in part.tensors)
        self.is_numpy = all(part.is_numpy for part in parts)
        self.dtype = reduce(torch.promote_types, (part.dtype for part in parts))
        self.batch = broadcast({f"input {i}": part.batch for i, part in enumerate(parts)})

    @property
    def parts(self) -> tuple[Input, ...]:
        return self._parts

    def pieces(self, start: float, stop: float, asked: Tensor | None = None) -> Pieces:
        raise TypeError("a sum has no pieces of its own: its parts have")

    def _at(self, t: Tensor) -> Tensor:
        return sum((part._at(t) for part in self._parts[1:]), start=self._parts[0]._at(t))
