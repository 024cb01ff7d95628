"""A function of time as an input, interpolated by polynomials.

The integral of exp(Xi (t - s)) B u(s) is exact for these polynomials: the only error is that of the interpolation,
however stiff Xi is. Panels of equal width are halved until the polynomials agree with the function between their nodes.
Sources: Hochbruck & Ostermann (2010), Acta Numerica 19, 209, section 2.2 (exponential quadrature); Trefethen (2013),
Approximation Theory and Approximation Practice, chapters 2 to 4 (Chebyshev interpolation).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from ..engine.problem import as_tensor, check_finite_anywhere, concrete
from ..errors import OptionError, ShapeError
from ..kernels.tensors import widened
from .base import Input
from .pieces import Pieces, shift

FIRST_PANELS, MOST_PANELS = 4, 4096
BETWEEN = (-0.93, -0.31, 0.11, 0.67)  # places in a panel [-1, 1] where polynomial and function are compared; by hand


class Smooth(Input):
    """u(t) given by a smooth function, interpolated to the order asked for, with an error estimate.

    Args:
        function: from times (T,), float64, to u (T, m) or (*batch, T, m); (T,) for one channel. It may be
            differentiable in anything that it refers to.
        m: number of channels.
        order: number of nodes a panel; the error falls like the panels' width to that power.
        rtol: relative error of the polynomials below which panels are not halved further.
        n_panels: fixed number of panels; None: as many as rtol needs, at most 4096.

    `LinearODE(..., u=function)` makes one. `solve` compares with twice as many panels: the relative change of z is
    `stats.details["input_error"]`, a part of `error_estimate`, and a status where it is large.
    A function that jumps is better given as a hold.

    Raises:
        ShapeError, DtypeError, NonFiniteError: what the function returns cannot be used. OptionError: an option cannot.

    Example:
        >>> import torch, linode
        >>> u = linode.Smooth(lambda t: torch.cos(t)[:, None], m=1)
        >>> round(float(linode.LinearODE([[0.0]], [0.0], B=[[1.0]], u=u)([1.0])[0, 0]), 12)  # sin(1)
        0.841470984808
    """

    dtype = torch.float32  # the lowest: promotion follows the other arguments
    tensors = ()
    is_numpy = True

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        m: int,
        *,
        order: int = 8,
        rtol: float = 1e-10,
        n_panels: int | None = None,
    ) -> None:
        if not callable(function):
            raise OptionError(f"function must be callable, got {type(function).__name__}")
        if not (isinstance(order, int) and 2 <= order <= 16):
            raise OptionError(f"order must be an integer from 2 to 16, got {order!r}")
        if not (isinstance(rtol, (int, float)) and 0 < rtol < 1):
            raise OptionError(f"rtol must be a number between 0 and 1, got {rtol!r}")
        if n_panels is not None and not (isinstance(n_panels, int) and n_panels >= 1):
            raise OptionError(f"n_panels must be None or a positive integer, got {n_panels!r}")
        self.function, self.m, self.order, self.rtol, self.n_panels = function, m, order, rtol, n_panels
        self._chosen = n_panels or FIRST_PANELS

    def __repr__(self) -> str:
        return f"Smooth({getattr(self.function, '__name__', type(self.function).__name__)}, order {self.order})"

    def _at(self, t: Tensor) -> Tensor:
        return self._values(t.flatten()).unflatten(-2, t.shape)

    def refined(self) -> Input:
        return Smooth(self.function, self.m, order=self.order, rtol=self.rtol, n_panels=2 * self._chosen)

    def pieces(self, start: float, stop: float) -> Pieces:
        width = stop - start or 1.0
        panels = self.n_panels
        if panels is None:
            panels = FIRST_PANELS
            with torch.no_grad():
                while panels < MOST_PANELS and self._error(start, width / panels, panels) > self.rtol:
                    panels *= 2
        self._chosen = panels
        h = width / panels
        coefficients = self._chebyshev(start, h, panels)
        coefficients = coefficients @ _monomials(self.order).to(coefficients.dtype)  # (*batch, panels, m, order)
        states = coefficients.mT.flatten(-2)  # (c_0, ..., c_(order - 1)), each of m
        edges = start + h * torch.arange(panels, dtype=torch.float64, device="cpu")
        Omega, H = shift(self.order, self.m, h, states.dtype, states.device)
        gaps = edges.new_full((1,), h).expand(max(panels - 2, 0))
        return Pieces(edges[1:], gaps, edges, states, Omega, H, self.order - 1)

    def _chebyshev(self, start: float, h: float, panels: int) -> Tensor:
        """Coefficients of T_j on every panel, (*batch, panels, m, order)."""
        values = self._on_panels(_nodes(self.order), start, h, panels)
        return values.mT @ _coefficients(self.order).to(values.dtype)

    def _on_panels(self, x: Tensor, start: float, h: float, panels: int) -> Tensor:
        """u at x in [-1, 1] of every panel, (*batch, panels, len(x), m)."""
        left = start + h * torch.arange(panels, dtype=torch.float64, device="cpu")
        t = (left[:, None] + h * (x + 1) / 2).flatten()
        return self._values(t).unflatten(-2, (panels, len(x)))

    def _error(self, start: float, h: float, panels: int) -> float:
        """Error of the polynomials between nodes, relative to the largest |u|."""
        between = torch.tensor(BETWEEN, dtype=torch.float64, device="cpu")
        true = self._on_panels(between, start, h, panels)
        size = largest_of(true)
        basis = torch.from_numpy(chebyshev.chebvander(np.array(BETWEEN), self.order - 1))
        got = (self._chebyshev(start, h, panels) @ basis.mT.to(true.dtype)).mT
        return largest_of(got - true) / size if size else 0.0

    def _values(self, t: Tensor) -> Tensor:
        u = as_tensor(self.function(t), "u(t)")
        if self.m == 1 and u.shape == t.shape:
            u = u[:, None]
        if u.ndim < 2 or u.shape[-2:] != (len(t), self.m):
            raise ShapeError(
                f"u(t) has shape {tuple(u.shape)} for t ({len(t)},); "
                f"it must be (T, m) or (*batch, T, m) with m = {self.m}"
            )
        check_finite_anywhere(u, "u(t)")
        return widened(u)


def largest_of(x: Tensor) -> float:
    """max |x|, also over mapped dimensions."""
    return float(concrete(x.abs().amax()).max()) if x.numel() else 0.0


@lru_cache(maxsize=32)
def _nodes(order: int) -> Tensor:
    return torch.from_numpy(np.cos(np.pi * (np.arange(order) + 0.5) / order))


@lru_cache(maxsize=32)
def _coefficients(order: int) -> Tensor:
    """From values at the nodes to coefficients of T_0 to T_(order - 1), (order, order): a row times this matrix."""
    values = chebyshev.chebvander(_nodes(order).numpy(), order - 1)  # orthogonal columns
    return torch.from_numpy(values * np.array([1 / order] + [2 / order] * (order - 1)))


@lru_cache(maxsize=32)
def _monomials(order: int) -> Tensor:
    """From coefficients of T_j(2 x - 1) to those of x^j, (order, order): a row times this matrix of integers."""
    T = np.zeros((order, order))
    T[0, 0] = 1
    if order > 1:
        T[1, :2] = -1, 2
    for j in range(2, order):
        T[j] = -2 * T[j - 1] - T[j - 2]
        T[j, 1:] += 4 * T[j - 1, :-1]
    return torch.from_numpy(T)
