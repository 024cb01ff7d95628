"""Samples held between their times: constant (zero-order hold) or along straight lines (first-order hold)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine.problem import as_tensor, broadcast, check_finite_anywhere, check_same_device, is_known
from ..errors import DtypeError, ShapeError
from ..kernels.memory import Memory
from ..kernels.private import has_derivative
from ..kernels.tensors import widened
from .base import Input
from .pieces import SAME, Pieces, are_uniform, check_increasing, unit_of


class Samples(Input):
    """The base class of inputs that are given by values at times."""

    def __init__(self, times: Any, values: Any) -> None:
        self.is_numpy = not isinstance(times, Tensor) and not isinstance(values, Tensor)
        self.times, self.values = (
            as_tensor(times, "times", integers_become=torch.float64),
            as_tensor(values, "values", beside=(times,)),
        )
        self.tensors, self.dtype = (self.times, self.values), self.values.dtype
        check_same_device({"times": self.times, "values": self.values})
        if self.times.is_complex():
            raise DtypeError(f"times must be real, got {self.times.dtype}")
        if self.times.ndim < 1 or self.times.shape[-1] < 1:
            raise ShapeError(f"times has shape {tuple(self.times.shape)}; times must be (K,) or (*batch, K), K >= 1")
        K = self.times.shape[-1]
        if self.values.ndim < 2 or self.values.shape[-2] != K:
            hint = "; for one channel pass values[:, None]" if self.values.shape == (K,) else ""
            raise ShapeError(
                f"values has shape {tuple(self.values.shape)}; values must be (*batch, K, m) with K = {K}, "
                f"the number of times{hint}"
            )
        self.batch = broadcast({"times": self.times.shape[:-1], "values": self.values.shape[:-2]})
        self.m = self.values.shape[-1]
        self._grid: Memory[Grid] = Memory()
        self._checked()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.times.shape[-1]} times, m={self.m})"

    def _checked(self) -> tuple[Grid, Tensor]:
        """Present times and values, checked, in double precision."""
        check_finite_anywhere(self.values, "values")
        return self._present_grid(), widened(self.values)

    def _present_grid(self) -> Grid:
        if not is_known(self.times) or has_derivative(self.times):
            return self._make_grid()
        return self._grid.of(self._make_grid, self.times)

    def _make_grid(self) -> Grid:
        check_finite_anywhere(self.times, "times")
        return Grid.of(widened(self.times))

    def _polynomials(self, grid: Grid, coefficients: Tensor, unit: float = 1.0) -> Pieces:
        """Pieces from their coefficients (*batch, K + 1, q); they refer to their starts, the first one to its end."""
        return Pieces(grid.times, grid.gaps, grid.refs, coefficients, self.m, unit, ends=grid.ends, gap=grid.gap)


@dataclass(frozen=True)
class Grid:
    """Times of samples (*batch, K), and what follows from them alone: see `Pieces`."""

    times: Tensor
    gaps: Tensor
    refs: Tensor
    ends: tuple[float, float] | None
    gap: float | None

    @classmethod
    def of(cls, times: Tensor) -> Grid:
        refs = torch.cat([times[..., :1], times], -1)
        if times.ndim > 1 or not is_known(times) or times.shape[0] < 2:
            check_increasing(times, "times")
            return cls(times, times[..., 1:] - times[..., :-1], refs, None, None)
        gaps = times[1:] - times[:-1]
        least, most = torch.stack(gaps.detach().aminmax()).tolist()
        if not least > 0:
            check_increasing(times, "times")
        first, last = float(times[0].detach()), float(times[-1].detach())
        mean = (last - first) / len(gaps)
        if most - least <= SAME * mean and not has_derivative(times) and are_uniform(times, first, last):
            gaps, most = gaps.new_full((1,), mean).expand(len(gaps)), mean
        return cls(times, gaps, refs, (first, last), most)


class ZeroOrderHold(Samples):
    """u(t) = values[k] from times[k] to times[k + 1]; the first value also holds before, the last one ever after.

    Args:
        times: (K,) or (*batch, K), increasing; need not match the times at which the solution is asked for.
        values: (*batch, K, m).

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError: an argument that cannot be used, by name.
        OrderError (a ValueError): times do not increase.

    Example:
        >>> import linode
        >>> u = linode.ZeroOrderHold([0.0, 1.0], [[1.0], [3.0]])
        >>> u([0.5, 1.0, 9.0])[:, 0].tolist()
        [1.0, 3.0, 3.0]
        >>> linode.LinearODE([[0.0]], [0.0], B=[[1.0]], u=u)([2.0]).tolist()
        [[4.0]]
    """

    def pieces(self, start: float, stop: float, asked: Tensor | None = None) -> Pieces:
        grid, values = self._checked()
        return self._polynomials(grid, torch.cat([values[..., :1, :], values], -2))


class FirstOrderHold(Samples):
    """u(t) linear between samples; before the first and after the last one it stays at its value there.

    Args:
        times: (K,) or (*batch, K), increasing; need not match the times at which the solution is asked for.
        values: (*batch, K, m).

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError: an argument that cannot be used, by name.
        OrderError (a ValueError): times do not increase.

    Example:
        >>> import linode
        >>> u = linode.FirstOrderHold([0.0, 2.0], [[0.0], [2.0]])
        >>> u([-1.0, 1.5, 3.0])[:, 0].tolist()
        [0.0, 1.5, 2.0]
        >>> linode.LinearODE([[0.0]], [0.0], B=[[1.0]], u=u)([2.0]).tolist()
        [[2.0]]
    """

    def pieces(self, start: float, stop: float, asked: Tensor | None = None) -> Pieces:
        grid, values = self._checked()
        times, width = grid.times, grid.times[..., 1:] - grid.times[..., :-1]
        unit = unit_of(width)
        slopes = torch.diff(values, dim=-2) * (unit / width)[..., None]
        slopes = torch.nn.functional.pad(slopes, (0, 0, 1, 1))  # none before the first sample and after the last
        batch = (*self.batch, times.shape[-1] + 1, self.m)
        levels = torch.cat([values[..., :1, :], values], -2)
        return self._polynomials(grid, torch.cat([levels.expand(batch), slopes.expand(batch)], -1), unit)
