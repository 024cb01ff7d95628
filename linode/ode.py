"""LinearODE: one Xi for all times."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .adjoint import linearised, tangent, trajectory
from .errors import OptionError, ShapeError
from .evaluation import Planner, columns, evaluate_vjp
from .forced import Forcing, make_planners
from .methods import Method, Propagator, make_method
from .problem import broadcast, check_tolerance, make_system, widened
from .solver import Solver
from .statespace import make_state_space, matrices_of

NOTHING = Forcing()


class LinearODE(Solver):
    """Solver of z'(t) = Xi z(t) + b + B u(t), z(0) = z0, differentiable in all of them, and in t.

    Args:
        Xi: system matrix, (*batch, n, n), units 1/time. Tensor, NumPy array or nested list.
        z0: initial state, (*batch, n). Batch dimensions of all arguments and of t broadcast.
        b: constant forcing, (*batch, n).
        B: input matrix, (*batch, n, m); None: u acts on the states themselves, m = n. Without u it has no effect.
        u: input of m channels: `ZeroOrderHold`, `FirstOrderHold`, `Impulses`, `Harmonics`, a sum of these, or a smooth
            function of t (see `Smooth`).
        method: "auto", "eig", "schur", "propagator", or a method object such as
            `linode.methods.Eig(max_condition=10.0)`.
        rtol: relative error that is good enough; lets `auto` accept less well-conditioned eigenvectors. None: all
            digits.
        names: what error messages call Xi and z0.

    Tensors in, a tensor out, in their common dtype and on their device; NumPy arrays or lists in, a NumPy array out.
    Work is done in float64 or complex128. Tensors are kept, not copied: after an optimiser has changed Xi or z0 in
    place, the next call uses the new values. The decomposition is kept while Xi keeps its values.

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError, OptionError: an argument that cannot be used, by name.
        MethodError: unknown method; when called, a method chosen by name that cannot be accurate for this Xi.

    Source: gradients by the adjoint integral, see `linode.adjoint` and `linode.kernels.modal`; forcing by augmented
    systems, see `linode.forced`.

    Example:
        >>> import torch, linode
        >>> Xi = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
        >>> ode = linode.LinearODE(Xi, torch.tensor([1.0, 0.0], dtype=torch.float64))
        >>> z = ode(torch.tensor([0.0, torch.pi], dtype=torch.float64))
        >>> [round(x, 12) for x in z[:, 0].tolist()]
        [1.0, -1.0]
        >>> z[-1].sum().backward()
        >>> tuple(Xi.grad.shape)
        (2, 2)
    """

    def __init__(
        self,
        Xi: Any,
        z0: Any,
        *,
        b: Any = None,
        B: Any = None,
        u: Any = None,
        method: str | Method = "auto",
        rtol: float | None = None,
        names: tuple[str, str] = ("Xi", "z0"),
    ) -> None:
        check_tolerance(rtol)
        self.Xi, self.z0, self._is_numpy = make_system(Xi, z0, names)
        self._names = names
        self.C: Any = None  # of the output y = C z + D u, where there is one
        self.D: Any = None
        self._planner = Planner(make_method(method), rtol)
        self.forcing = NOTHING
        if b is not None or B is not None or u is not None:
            self.forcing, is_numpy = Forcing.make(b, B, u, self.Xi)
            self._is_numpy = self._is_numpy and is_numpy
            broadcast({"Xi": self.Xi.shape[:-2], "z0": self.z0.shape[:-1], **self.forcing.batches})
            self._planners = make_planners(self._planner)

    @classmethod
    def from_statespace(
        cls,
        system: Any,
        z0: Any = None,
        *,
        b: Any = None,
        u: Any = None,
        method: str | Method = "auto",
        rtol: float | None = None,
    ) -> LinearODE:
        """The states of a `scipy.signal.StateSpace`, a `control.StateSpace`, or anything with A, B, C and D like them.

        Args:
            system: in continuous time; what has no A but a method `to_ss`, such as a transfer function, is converted.
            z0: (*batch, n), zeros if None. b, u, method, rtol: as for `LinearODE`.

        C and D are kept for `output` and `to_statespace`.

        Raises:
            DtypeError: system has no A, B, C and D. OptionError: it is in discrete time. Others as `LinearODE`.

        Example:
            >>> import linode, scipy.signal
            >>> system = scipy.signal.StateSpace([[-1.0]], [[1.0]], [[2.0]], [[0.0]])
            >>> ode = linode.LinearODE.from_statespace(system, u=linode.ZeroOrderHold([0.0], [[1.0]]))
            >>> [round(x, 6) for x in ode.output([0.0, 1.0])[:, 0].tolist()]
            [0.0, 1.264241]
        """
        A, B, C, D = matrices_of(system)
        ode = cls(A, np.zeros(len(A)) if z0 is None else z0, b=b, B=B, u=u, method=method, rtol=rtol)
        ode.C, ode.D = C, D
        return ode

    def to_statespace(self, make: Callable[..., Any] | None = None) -> Any:
        """Xi, B, C and D as a `scipy.signal.StateSpace`, or as what `make(A, B, C, D)` gives (`control.StateSpace`).

        C and D are those of `from_statespace`, or else the states themselves are the output. b, u and z0 have no place
        in such an object.

        Raises:
            ShapeError: Xi or B has batch dimensions.

        Example:
            >>> import linode
            >>> linode.LinearODE([[-1.0]], [0.0], B=[[2.0]]).to_statespace().B.tolist()
            [[2.0]]
        """
        n, B = self.Xi.shape[-1], self.forcing.B
        if B is None:
            B = torch.zeros(n, 0) if self.forcing.is_nothing else torch.eye(n)
        for x, name in ((self.Xi, "Xi"), (B, "B")):
            if x.ndim > 2:
                raise ShapeError(f"{name} has shape {tuple(x.shape)}; a state-space object has no batch dimensions")
        C = torch.eye(n) if self.C is None else self.C
        D = torch.zeros(C.shape[0], B.shape[-1]) if self.D is None else self.D
        return make_state_space(make, self.Xi, B, C, D)

    def output(self, t: Any) -> Any:
        """y(t) = C z(t) + D u(t), (*batch, T, p), of a system from `from_statespace`; impulses pass D unseen.

        Args and Raises as for calling. OptionError: there is no C.

        Example:
            >>> import linode, scipy.signal
            >>> system = scipy.signal.StateSpace([[-1.0]], [[1.0]], [[2.0]], [[0.5]])
            >>> u = linode.ZeroOrderHold([0.0], [[1.0]])
            >>> linode.LinearODE.from_statespace(system, u=u).output([0.0]).tolist()
            [[0.5]]
        """
        if self.C is None or self.D is None:
            raise OptionError("output needs C and D: make the solver by LinearODE.from_statespace")
        times, is_scalar = self._times(t)
        z = self._evaluate(times)
        C, D = (torch.as_tensor(x).to(z) for x in (self.C, self.D))
        y = z @ C.mT + sum(part(times).to(z) @ D.mT for part in self.forcing.inputs)
        return self._answer(y[..., 0, :] if is_scalar else y, t)

    def plot_phase(self, ax: Any = None, **options: Any) -> Any:
        """The phase portrait of two states; see `linode.plotting.plot_phase`. Needs matplotlib."""
        return importlib.import_module("linode.plotting").plot_phase(self, ax=ax, **options)

    def _propagators(self, times: Tensor) -> Tensor:
        return exponential(self.Xi, times, self._planner).to(self.dtype)

    def _evaluate(self, times: Tensor) -> Tensor:
        if not self.forcing.is_nothing:
            return self.forcing.states(self.Xi[..., None, :, :], self.z0, times, self._planners).to(self.dtype)
        Xi, z0 = self.Xi, self.z0
        if Xi.dtype != z0.dtype:
            Xi, z0 = Xi.to(self.dtype), z0.to(self.dtype)
        return trajectory(Xi, z0, times, self._planner)

    def _derivatives(
        self, times: Tensor, z: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        n, batch = self.Xi.shape[-1], z.shape[:-2]
        Xi, z0 = self.Xi.detach().to(z.dtype).expand(*batch, n, n).contiguous(), self.z0.detach().to(z.dtype)
        if not self.forcing.is_nothing:
            planners = self._planners.child("condition")
            return Xi, *linearised(lambda A: self.forcing.states(A[..., None, :, :], z0, times, planners), Xi)
        blocks = Planner(Propagator(precision="double"))  # a digit is enough
        still = torch.zeros_like(z0), torch.zeros_like(times)
        return (
            Xi,
            lambda dXi: tangent(Xi, z0, times, dXi, *still, blocks)[0],
            lambda g: evaluate_vjp(self._planner, Xi, z0, times, g, want_t=False)[0],
        )


def exponential(Xi: Tensor, times: Tensor, planner: Planner) -> Tensor:
    """exp(Xi t), (*batch, T, n, n): the trajectories of the columns of I."""
    Xi = widened(Xi)
    starts = columns(Xi.shape[-1], max(Xi.ndim - 2, times.ndim - 1), Xi)
    return trajectory(Xi, starts, times, planner).movedim(0, -1)
