"""Samples held between their times: constant (zero-order hold) or along straight lines (first-order hold)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine.problem import as_tensor, broadcast, check_finite_anywhere, check_same_device, extremes, is_known
from ..errors import DtypeError, ShapeError
from ..kernels import forced
from ..kernels.memory import Memory
from ..kernels.private import has_derivative
from ..kernels.tensors import widened
from .base import Input
from .pieces import SAME, Pieces, check_increasing, unit_of

EPS = 2.0**-52  # of float64


class Samples(Input):
    """The base class of inputs that are given by values at times."""

    def __init__(self, times: Any, values: Any) -> None:
        self.is_numpy = not isinstance(times, Tensor) and not isinstance(values, Tensor)
        self.times, self.values = (
            as_tensor(times, "times", integers_become=torch.float64),
            as_tensor(values, "values", beside=(times,)),
        )
        self.tensors, self.dtype = (self.times, self.values), self.values.dtype
        if self.times.device != self.values.device:
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
        if self.times.ndim > 1 or self.values.ndim > 2:
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
            return Grid.of(self.times)
        return self._grid.of_copy(Grid.of, self.times)

    def _polynomials(self, grid: Grid, coefficients: Tensor, unit: float = 1.0) -> Pieces:
        """Pieces from their coefficients (*batch, K + 1, q); they refer to their starts, the first one to its end."""
        return Pieces(grid.times, grid.gaps, grid.refs, coefficients, self.m, unit, ends=grid.ends, gap=grid.gap)


class Grid(NamedTuple):
    """Times of samples (*batch, K), and what follows from them alone: see `Pieces`."""

    times: Tensor
    gaps: Tensor
    refs: Tensor
    ends: tuple[float, float] | None
    gap: float | None

    @classmethod
    def of(cls, given: Tensor) -> Grid:
        times = widened(given)
        found = (
            forced.spacing(times) if times.ndim == 1 and is_known(times) else None
        )  # NaN or infinite where a time is
        if found is None or not found[1] < math.inf:
            check_finite_anywhere(given, "times")
        refs = torch.cat([times[..., :1], times], -1)
        if times.ndim > 1 or times.shape[0] < 2 or not is_known(times):
            check_increasing(times, "times")
            return cls(times, times[..., 1:] - times[..., :-1], refs, None, None)
        least, most, off = found or _spacing(times.detach())
        if not least > 0:
            check_increasing(times, "times")
        first, last = float(refs[0].detach()), float(refs[-1].detach())
        mean = (last - first) / (times.shape[0] - 1)
        rounding = 4 * EPS * max(abs(first), abs(last))
        if most - least <= SAME * mean and off <= min(rounding, SAME * mean) and not has_derivative(times):
            return cls(times, times.new_full((1,), mean).expand(times.shape[0] - 1), refs, (first, last), mean)
        return cls(times, times[1:] - times[:-1], refs, (first, last), most)


def _spacing(times: Tensor) -> tuple[float, float, float]:
    """As `forced.spacing`."""
    mean = (times[-1] - times[0]) / (len(times) - 1)
    off = torch.arange(len(times), dtype=times.dtype, device=times.device) * mean + times[0] - times
    return tuple(torch.stack([*torch.diff(times).aminmax(), off.abs().max()]).tolist())


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
        unit = unit_of(extremes(grid.gaps)[1] if grid.gap is None else grid.gap)
        is_uniform = grid.gap is not None and grid.gaps.stride(-1) == 0
        rate = unit / grid.gap if is_uniform and grid.gap else (unit / grid.gaps)[..., None]
        slopes = torch.nn.functional.pad(torch.diff(values, dim=-2) * rate, (0, 0, 1, 1))  # none before and after all
        levels = torch.cat([values[..., :1, :], values], -2)
        if levels.shape != slopes.shape:
            levels = levels.expand(slopes.shape)
        return self._polynomials(grid, torch.cat([levels, slopes], -1), unit)
