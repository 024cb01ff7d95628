"""What all solvers share: the data path from the call to the result, top to bottom."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .conditioning import relative_condition
from .evaluation import Planner, systems_of
from .forced import Forcing
from .kernels.arrays import one_norm
from .methods import Plan, Workload
from .problem import Layout, as_answer, check_finite, is_finite, make_times
from .solution import Solution, Stats, Status

ENOUGH = 1e-6  # relative error of z from an input that was sampled, beyond which a status says so
ILL_CONDITIONED = 0.1  # relative error to expect beyond which no digit is sure


class Solver(ABC):
    """A trajectory as a function of t, with what there is to know about it."""

    Xi: Tensor
    z0: Tensor
    forcing: Forcing
    _planner: Planner
    _is_numpy: bool
    _names: tuple[str, ...]

    def __call__(self, t: Any) -> Any:
        """The states at times t, in any order.

        Args:
            t: (T,) or (*batch, T), real, units of 1/Xi; or a scalar.

        Returns:
            z, (*batch, T, n), or (*batch, n) for a scalar t.

        Raises:
            ShapeError, DtypeError, DeviceError, NonFiniteError: t cannot be used.
            MethodError: the method chosen by name cannot be accurate.

        Example:
            >>> import linode
            >>> linode.LinearODE([[0.0, 1.0], [0.0, 0.0]], [1.0, 2.0])([3.0, 0.0, -0.5]).tolist()
            [[7.0, 2.0], [1.0, 2.0], [0.0, 2.0]]
        """
        times, is_scalar = self._times(t)
        z = self._evaluate(times)
        return self._answer(z[..., 0, :] if is_scalar else z, t)

    def solve(self, t: Any) -> Solution:
        """As calling, with method, status, statistics, condition number and error estimate.

        Args and Raises as for calling. The condition number costs about a dozen evaluations.

        Example:
            >>> import linode
            >>> sol = linode.LinearODE([[-1.0, 0.0], [0.0, -2.0]], [1.0, 1.0]).solve([0.0, 1.0])
            >>> sol.method, bool(sol.status), sol.z.shape
            ('eig', True, (2, 2))
        """
        times, is_scalar = self._times(t)
        z = self._evaluate(times)
        plan = self.decomposition
        condition = self._condition(times, z)
        error = condition * (torch.finfo(self.dtype).eps / 2)
        input_error = self._input_error(times, z)
        if not bool(torch.isfinite(z).all()):
            status = Status.OVERFLOW
        elif input_error is not None and not input_error <= ENOUGH:
            status = Status.UNRESOLVED_INPUT
        elif bool((error > ILL_CONDITIONED).any()):
            status = Status.ILL_CONDITIONED
        else:
            status = Status.OK
        stats = Stats(
            n=self.Xi.shape[-1],
            n_systems=plan.Xi.shape[0],
            n_times=times.shape[-1],
            reason=plan.reason,
            rejected=tuple(plan.rejected),
            details=plan.details if input_error is None else {**plan.details, "input_error": input_error},
        )
        return Solution(
            t=t,
            z=self._answer(z[..., 0, :] if is_scalar else z, t),
            method=plan.method,
            status=status,
            stats=stats,
            condition=self._answer(condition, t),
            error_estimate=self._answer(error if input_error is None else error + input_error, t),
        )

    def condition(self, t: Any) -> Any:
        """Relative condition number of the trajectory with respect to Xi, (*batch,).

        |J|_2 |Xi|_F / |z|_F with J the derivative of all of z(t) with respect to Xi: how much a relative change of Xi
        is amplified, to first order. By power iteration with this solver's own derivatives; a lower bound, usually
        within a few per cent. A result carries about -log10(condition * eps) digits that the rounding of Xi leaves
        meaningful.

        Source: Higham (2008), Functions of Matrices, section 3.1-3.4 and algorithm 3.20 (power method).

        Example:
            >>> import linode
            >>> ode = linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0])
            >>> 10 < float(ode.condition([20.0])) < 40
            True
        """
        times, _ = self._times(t)
        with torch.no_grad():
            return self._answer(self._condition(times, self._evaluate(times)), t)

    def propagator(self, t: Any) -> Any:
        """exp(Xi t), differentiable in Xi and t; where Xi switches, the state transition matrix from 0 to t.

        Its columns are the solutions without forcing that start from the columns of I.

        Args:
            t: (T,) or (*batch, T), or a scalar.

        Returns:
            (*batch, T, n, n), or (*batch, n, n) for a scalar t; batch dimensions are those of Xi and t.

        Example:
            >>> import linode
            >>> linode.LinearODE([[0.0, 1.0], [0.0, 0.0]], [0.0, 0.0]).propagator(3.0).tolist()
            [[1.0, 3.0], [0.0, 1.0]]
            >>> ode = linode.PiecewiseLinearODE([(0.0, [[0.0, 1.0], [0.0, 0.0]]), (1.0, [[0.0, 0.0]] * 2)], [0.0, 0.0])
            >>> ode.propagator(3.0).tolist()
            [[1.0, 1.0], [0.0, 1.0]]
        """
        times, is_scalar = make_times(t, self.Xi, (self._Xi_batch,), self._names[:1])
        P = self._propagators(times)
        return self._answer(P[..., 0, :, :] if is_scalar else P, t)

    @property
    def decomposition(self) -> Plan:
        """What was precomputed for the present Xi, or for all that it switches between: factors, checks and the reason
        for the choice; reused over every call.

        Example:
            >>> import linode
            >>> ode = linode.LinearODE([[-1.0, 0.0], [0.0, -2.0]], [1.0, 1.0])
            >>> ode.decomposition.method, ode.decomposition.reason
            ('eig', 'Xi is diagonal')
        """
        layout = Layout.of(self.Xi.shape, self.Xi.shape[-1:], torch.Size([0]))
        systems = systems_of(self.Xi.detach(), layout)
        known = self._planner.known(systems)
        if known is not None:
            return known
        check_finite(self.Xi, "Xi")
        norm = float(one_norm(systems).max()) if layout.S else 0.0
        return self._planner.plan(systems, Workload(layout.S, 1, 1, layout.n, norm, 0.0))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of results: that of Xi, z0 and the forcing together.

        Example:
            >>> import linode, torch
            >>> linode.LinearODE(torch.eye(2), torch.ones(2, dtype=torch.complex64)).dtype
            torch.complex64
        """
        return self.forcing.dtype(torch.promote_types(self.Xi.dtype, self.z0.dtype))

    def explain(self, t: Any | None = None) -> str:
        """In words: which method, why, what was passed over and why, and with t the condition and the error to
        expect.

        Args and Raises as for calling.

        Example:
            >>> import linode
            >>> print(linode.LinearODE([[-1.0, 0.0], [0.0, -2.0]], [1.0, 1.0]).explain([1.0]))
            Xi: 1 system of 2 x 2, torch.float64
            method: eig, because Xi is diagonal
            ...
            status: OK: the trajectory is as accurate as its condition number allows
        """
        solution = self.solve(t) if t is not None else None
        plan = self.decomposition
        S, n = plan.Xi.shape[:2]
        lines = [
            f"Xi: {S} system{'s' if S != 1 else ''} of {n} x {n}, {self.Xi.dtype}",
            f"method: {plan.method}, because {plan.reason}",
            *(f"passed over: {reason}" for reason in plan.rejected),
            *(f"{name}: {_short(value)}" for name, value in plan.details.items()),
            *(f"forcing: {words}" for words in self.forcing.words()),
        ]
        if solution is not None:
            condition = torch.as_tensor(solution.condition).max() if S else 0.0
            error = torch.as_tensor(solution.error_estimate).max() if S else 0.0
            lines += [
                f"condition: {float(condition):.3g} (relative, of z(t) with respect to Xi)",
                f"error estimate: {float(error):.3g} (relative, if Xi is known to rounding)",
                f"status: {solution.status}",
            ]
        return "\n".join(lines)

    def plot(self, t: Any, ax: Any = None, **options: Any) -> Any:
        """The states at times t as curves; see `linode.plotting.plot_trajectories`. Needs matplotlib."""
        with torch.no_grad():
            z = self(t)
        return importlib.import_module("linode.plotting").plot_trajectories(t, z, ax=ax, **options)

    def plot_eigenvalues(self, ax: Any = None, **options: Any) -> Any:
        """Eigenvalues of Xi in the complex plane; see `linode.plotting.plot_eigenvalues`. Needs matplotlib."""
        return importlib.import_module("linode.plotting").plot_eigenvalues(self, ax=ax, **options)

    def __repr__(self) -> str:
        shapes = f"Xi {tuple(self.Xi.shape)}, z0 {tuple(self.z0.shape)}"
        return f"{type(self).__name__}({shapes}, {self.dtype}, method={self._planner.method.name!r})"

    @abstractmethod
    def _evaluate(self, times: Tensor) -> Tensor:
        """z (*batch, T, n), in the dtype of results."""

    @abstractmethod
    def _propagators(self, times: Tensor) -> Tensor:
        """The solutions without forcing from the columns of I, (*batch, T, n, n)."""

    @abstractmethod
    def _derivatives(
        self, times: Tensor, z: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Xi, one for every trajectory, the derivative of z with respect to it and its adjoint; detached and wide."""

    def _condition(self, times: Tensor, z: Tensor) -> Tensor:
        z = z.detach().to(torch.promote_types(self.dtype, torch.float64))
        with torch.no_grad():
            if not is_finite(z):  # past the largest float is no condition to speak of
                times = torch.where(torch.isfinite(z).all(-1), times, 0)
            Xi, jvp, vjp = self._derivatives(times.detach(), z)
            return relative_condition(Xi, z, jvp, vjp)

    def _input_error(self, times: Tensor, z: Tensor) -> float | None:
        """Relative error of z from what was not seen of the input between samples; None where all of it is known."""
        finer = self.forcing.refined()
        if finer is None or z.numel() == 0:
            return None
        with torch.no_grad():
            change, size = (float(x.abs().max()) for x in (self._with(finer)._evaluate(times) - z, z))
        return change / size if size else float(change > 0)

    def _with(self, forcing: Forcing) -> Solver:
        """The same problem, otherwise forced."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, forcing=forcing)
        return other

    def _times(self, t: Any) -> tuple[Tensor, bool]:
        shapes: tuple[torch.Size, ...] = (self._Xi_batch, self.z0.shape[:-1])
        names = self._names
        if not self.forcing.is_nothing:
            more = self.forcing.batches
            shapes, names = (*shapes, *more.values()), (*names, *more)
        return make_times(t, self.z0, shapes, names)

    @property
    def _Xi_batch(self) -> torch.Size:
        return self.Xi.shape[:-2]

    def _answer(self, x: Tensor, t: Any) -> Any:
        return as_answer(x, self._is_numpy and not isinstance(t, Tensor))


def _short(value: Any, most: int = 8) -> str:
    text = str(value)
    return text if len(text) <= 24 * most else text[: 24 * most] + " ..."
