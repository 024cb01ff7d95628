"""A function of time as an input, interpolated by polynomials on panels.

The integral of exp(Xi (t - s)) B u(s) is exact for these polynomials: the only error is that of the interpolation,
however stiff Xi is. Panels are halved where the polynomial differs from the function: see `mesh`.
Source: Hochbruck & Ostermann (2010), Acta Numerica 19, 209, section 2.2 (exponential quadrature).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.problem import as_tensor, check_finite_anywhere, concrete, is_known
from ..errors import OptionError, ShapeError
from ..kernels.private import has_derivative
from ..kernels.tensors import widened
from . import mesh
from .base import Input
from .pieces import Pieces

MAX_EVALUATIONS = 100_000


class Smooth(Input):
    """u(t) given by a function, interpolated by polynomials to the order asked for, with an error estimate.

    Args:
        function: from times (T,), float64, to u (T, m) or (*batch, T, m); (T,) for one channel. It may be
            differentiable in anything that it refers to.
        m: number of channels.
        order: number of nodes a panel; the error falls like the panels' width to that power.
        rtol: largest error of the polynomials, relative to the largest |u| of the channel; panels are halved until
            they reach it.
        n_panels: fixed number of panels of equal width, which are not halved; None: as many as rtol needs.
        breaks: times at which a panel ends: where u or a derivative of it jumps, and the edges of pulses.
        max_width: largest width of a panel, in units of t: no more than the width of the narrowest pulse.
        max_evaluations: number of times at which the function is evaluated, above which panels are not halved.

    `LinearODE(..., u=function)` makes one. The function is compared with the polynomials at 16 places of each panel
    (twice the order), at some thousand places over all times (4096 of one channel, 128 or more of many), and between
    each two of the times that are asked for. A pulse that lies between all of these is not seen: give `breaks` or
    `max_width`. Where panels were not halved as far as needed, calling gives an `UnresolvedInputWarning` and `solve`
    the status UNRESOLVED_INPUT, if z may be wrong by more than 1e-6. `solve` also halves every panel once more: the
    relative change of z is `stats.details["input_error"]`, a part of `error_estimate`.

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
    is_approximate = True

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        m: int,
        *,
        order: int = 8,
        rtol: float = 1e-10,
        n_panels: int | None = None,
        breaks: Sequence[float] = (),
        max_width: float | None = None,
        max_evaluations: int = MAX_EVALUATIONS,
    ) -> None:
        if not callable(function):
            raise OptionError(f"function must be callable, got {type(function).__name__}")
        if not (isinstance(order, int) and 2 <= order <= 16):
            raise OptionError(f"order must be an integer from 2 to 16, got {order!r}")
        if not (isinstance(rtol, (int, float)) and 0 < rtol < 1):
            raise OptionError(f"rtol must be a number between 0 and 1, got {rtol!r}")
        if n_panels is not None and not (isinstance(n_panels, int) and n_panels >= 1):
            raise OptionError(f"n_panels must be None or a positive integer, got {n_panels!r}")
        if n_panels is not None and (max_width is not None or len(breaks)):
            raise OptionError("n_panels fixes all panels; it cannot go with breaks or max_width")
        if max_width is not None and not (isinstance(max_width, (int, float)) and max_width > 0):
            raise OptionError(f"max_width must be None or a positive number, got {max_width!r}")
        if not (isinstance(max_evaluations, int) and max_evaluations >= 1):
            raise OptionError(f"max_evaluations must be a positive integer, got {max_evaluations!r}")
        self.function, self.m, self.order, self.rtol, self.n_panels = function, m, order, rtol, n_panels
        self.breaks, self.max_width, self.max_evaluations = _times_of(breaks), max_width, max_evaluations
        self._last: mesh.Panels | None = None
        self._is_given = False  # whether these panels are to be used as they are

    def __repr__(self) -> str:
        return f"Smooth({getattr(self.function, '__name__', type(self.function).__name__)}, order {self.order})"

    @property
    def misfit(self) -> mesh.Misfit | None:
        return None if self._last is None else self._last.misfit

    @property
    def panels(self) -> Tensor:
        """The starts of the last panels, (K,); none before the first solution."""
        return torch.zeros(0, dtype=torch.float64, device="cpu") if self._last is None else self._last.left

    def _at(self, t: Tensor) -> Tensor:
        return self._values(t.flatten()).unflatten(-2, t.shape)

    def refined(self) -> Input:
        """With each of the last panels halved."""
        return self._with(None if self._last is None else self._last.halved())

    def fixed(self) -> Input:
        """With the last panels."""
        return self._with(self._last)

    def _with(self, panels: mesh.Panels | None) -> Smooth:
        other = object.__new__(Smooth)
        other.__dict__.update(self.__dict__, _last=panels, _is_given=panels is not None)
        return other

    def pieces(self, start: float, stop: float, asked: Tensor | None = None) -> Pieces:
        panels, has_values = self._panels(start, stop, asked)
        left, width, u = panels.left, panels.width, panels.u
        if not has_values:
            u = self._values(panels.times()).unflatten(-2, (len(left), self.order))
        if float(width.max() - width.min()) <= 2.0**-40 * float(width.mean()):  # they differ by rounding
            width = width.mean().expand(len(width))
        coefficients = mesh.monomials_of(u)
        # a piece more, before the first panel: where that starts at time 0, all steps are from break to break
        states = torch.cat([coefficients[..., :1, :, :], coefficients], -3).flatten(-2)
        refs, before = torch.cat([left[:1], left]), width[:1]
        unit = float(before) if width.stride(0) == 0 else torch.cat([before, width])
        return Pieces(left, width[:-1], refs, states, self.m, unit)

    def _panels(self, start: float, stop: float, asked: Tensor | None) -> tuple[mesh.Panels, bool]:
        """Decided on detached values; and whether the values at their nodes are all that is needed of the function."""
        if self._is_given and self._last is not None:
            return self._last, False
        stop = stop if stop > start else start + 1.0
        asked = None if asked is None else concrete(asked).to("cpu", torch.float64)
        demands = mesh.Demands(self.order, self.rtol, self.max_evaluations, self.breaks, self.max_width or math.inf)
        differentiated = []

        def values(t: Tensor) -> Tensor:  # detached, with mapped dimensions of transforms as dimensions of its own
            u = self._values(t)
            differentiated.append(not is_known(u) or has_derivative(u))
            return concrete(u).cpu()

        if self.n_panels is not None:
            edges = torch.linspace(start, stop, self.n_panels + 1, dtype=torch.float64, device="cpu")
            panels = mesh.judged(values, edges, asked, self.m, demands)
        else:
            panels = mesh.make_panels(values, start, stop, asked, self.m, demands)
        self._last = panels
        return panels, not any(differentiated)

    def _values(self, t: Tensor) -> Tensor:
        u = as_tensor(self.function(t), "u(t)", integers_become=t.dtype)
        if self.m == 1 and u.shape == t.shape:
            u = u[:, None]
        if u.ndim < 2 or u.shape[-2:] != (len(t), self.m):
            raise ShapeError(
                f"u(t) has shape {tuple(u.shape)} for t ({len(t)},); "
                f"it must be (T, m) or (*batch, T, m) with m = {self.m}"
            )
        check_finite_anywhere(u, "u(t)")
        return widened(u)


def _times_of(breaks: Any) -> tuple[float, ...]:
    times = as_tensor(breaks, "breaks", integers_become=torch.float64) if len(breaks) else torch.zeros(0, device="cpu")
    if times.ndim != 1 or times.is_complex():
        raise OptionError(f"breaks must be real times (J,), got shape {tuple(times.shape)}, {times.dtype}")
    check_finite_anywhere(times, "breaks")
    return tuple(sorted(set(times.tolist())))
