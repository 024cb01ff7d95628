"""PiecewiseLinearODE: Xi switches from one matrix to another at given times."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .display import states_of
from .engine.autograd import Map, linearised
from .engine.evaluation import Planner, columns
from .engine.held import Held
from .engine.problem import as_tensor, broadcast, check_finite_anywhere, check_same_device, check_tolerance, make_system
from .errors import DtypeError, ShapeError
from .forcing.block import Planners
from .forcing.pieces import check_increasing
from .forcing.total import Forcing
from .methods import Method, make_method
from .ode import Solver


class PiecewiseLinearODE(Solver):
    """Solver of z'(t) = Xi(t) z(t) + b + B u(t), z(0) = z0, with Xi constant between times at which it switches.

    Args:
        pieces: [(t0, Xi0), (t1, Xi1), ...] with t0 < t1 < ...: from t1 on Xi1 rules in place of Xi0, and so on; Xi0
            also holds before t0. Each Xi is (*batch, n, n), each time a number or a tensor of one.
        z0: state at t = 0, (*batch, n), wherever t0 lies.
        b, B, u: as for `LinearODE`; the times of u must be (K,).
        method, rtol: as for `LinearODE`.

    Calling it, `solve`, `condition`, `explain` and `propagator` are those of `LinearODE`; differentiable in every Xi,
    every time after the first, z0, b, B, the samples of u and t.

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError, OptionError: an argument that cannot be used, by name.
        OrderError (a ValueError): the times do not increase.

    Example:
        >>> import linode
        >>> ode = linode.PiecewiseLinearODE([(0.0, [[1.0]]), (1.0, [[-1.0]])], [1.0])
        >>> [round(x, 6) for x in ode([0.0, 1.0, 2.0])[:, 0].tolist()]
        [1.0, 2.718282, 1.0]
    """

    def __init__(
        self,
        pieces: Sequence[tuple[Any, Any]],
        z0: Any,
        *,
        b: Any = None,
        B: Any = None,
        u: Any = None,
        method: str | Method = "auto",
        rtol: float | None = None,
    ) -> None:
        check_tolerance(rtol)
        times, systems, is_numpy = _separated(pieces, z0)
        self.times, self.Xi = times, systems  # (J,), (*batch, J, n, n)
        self._names = ("Xi", "z0")
        self.state_names = states_of(z0)
        _, self.z0, _ = make_system(systems[..., 0, :, :], z0)
        self.forcing, forcing_is_numpy = Forcing.make(b, B, u, systems[..., 0, :, :])
        self._is_numpy = is_numpy and not isinstance(z0, Tensor) and forcing_is_numpy
        broadcast({"Xi": self._Xi_batch, "z0": self.z0.shape[:-1], **self.forcing.batches})
        self._planner = Planner(make_method(method), rtol)
        self._planners = Planners.of(self._planner)
        given = {f"Xi of piece {i}": piece[1] for i, piece in enumerate(pieces)}
        self._held = Held(
            {**given, "z0": z0, "b": b, "B": B}, {"z0": self.z0, "b": self.forcing.b, "B": self.forcing.B}
        )

    def _propagators(self, times: Tensor) -> Tensor:
        starts = columns(self.Xi.shape[-1], max(len(self._Xi_batch), times.ndim - 1), self.Xi)
        P = Forcing().states(self.Xi, starts, times, self._planners.child("propagator"), self.times[1:])
        return P.movedim(0, -1).to(self.Xi.dtype)

    def _evaluate(self, times: Tensor) -> Tensor:
        return self.forcing.states(self.Xi, self.z0, times, self._planners, self.times[1:])

    def _derivatives(self, times: Tensor, z: Tensor) -> tuple[Tensor, Map, Map]:
        J, n = self.Xi.shape[-3], self.Xi.shape[-1]
        Xi = self.Xi.detach().to(z.dtype).expand(*z.shape[:-2], J, n, n).contiguous()
        z0 = self.z0.detach().to(z.dtype)
        planners, switches = self._planners.child("condition"), self.times[1:].detach()
        forcing = self.forcing.fixed()
        return Xi, *linearised(lambda A: forcing.states(A, z0, times, planners, switches), Xi)

    @property
    def _Xi_batch(self) -> torch.Size:
        return self.Xi.shape[:-3]


def _separated(pieces: Any, z0: Any) -> tuple[Tensor, Tensor, bool]:
    """Checked times (J,) and matrices (*batch, J, n, n), and whether none of them is a tensor."""
    try:
        times, systems = zip(*[(time, Xi) for time, Xi in pieces])
    except (TypeError, ValueError):
        raise ShapeError("pieces must be a sequence of pairs (time, Xi), at least one") from None
    is_numpy = not any(isinstance(x, Tensor) for x in (*times, *systems))
    names = [f"time of piece {i}" for i in range(len(times))]
    starts = [as_tensor(x, name, integers_become=torch.float64) for x, name in zip(times, names)]
    matrices = [as_tensor(Xi, f"Xi of piece {i}", beside=(z0, *systems)) for i, Xi in enumerate(systems)]
    for i, (start, name, Xi) in enumerate(zip(starts, names, matrices)):
        if start.is_complex():
            raise DtypeError(f"{name} must be real, got {start.dtype}")
        if start.numel() != 1:
            raise ShapeError(f"{name} has shape {tuple(start.shape)}; it must be a number")
        if Xi.ndim < 2 or Xi.shape[-1] != Xi.shape[-2] or Xi.shape[-1] != matrices[0].shape[-1]:
            raise ShapeError(
                f"Xi of piece {i} has shape {tuple(Xi.shape)}; it must be (*batch, n, n) with the n of all others"
            )
        check_finite_anywhere(Xi, f"Xi of piece {i}")
    check_same_device({f"Xi of piece {i}": Xi for i, Xi in enumerate(matrices)})
    batch = broadcast({f"Xi of piece {i}": Xi.shape[:-2] for i, Xi in enumerate(matrices)})
    when = torch.stack([start.reshape(()).to(matrices[0].device, torch.float64) for start in starts])
    check_finite_anywhere(when, "times of pieces")
    check_increasing(when, "times of pieces")
    dtype = reduce(torch.promote_types, (Xi.dtype for Xi in matrices))
    own = matrices[0].shape[-2:]
    return when, torch.stack([Xi.to(dtype).expand(*batch, *own) for Xi in matrices], -3), is_numpy
