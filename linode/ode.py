"""LinearODE: the data path, top to bottom (call, validate, plan, evaluate, result)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .adjoint import trajectory
from .conditioning import relative_condition
from .evaluation import Planner, systems_of
from .kernels.arrays import one_norm
from .methods import Method, Plan, Workload, make_method
from .problem import Layout, as_answer, check_finite, check_tolerance, make_system, make_times, widened
from .solution import Solution, Stats, Status


class LinearODE:
    """Solver of z'(t) = Xi z(t), z(0) = z0: z(t) = exp(Xi t) z0, differentiable in Xi, z0 and t.

    Args:
        Xi: system matrix, (*batch, n, n), units 1/time. Tensor, NumPy array or nested list.
        z0: initial state, (*batch, n). Batch dimensions of Xi, z0 and t broadcast.
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

    Source: gradients by the adjoint integral, see `linode.adjoint` and `linode.kernels.modal`.

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
        method: str | Method = "auto",
        rtol: float | None = None,
        names: tuple[str, str] = ("Xi", "z0"),
    ) -> None:
        check_tolerance(rtol)
        self.Xi, self.z0, self._is_numpy = make_system(Xi, z0, names)
        self._names = names
        self._planner = Planner(make_method(method), rtol)

    def __call__(self, t: Any) -> Any:
        """The states at times t, in any order.

        Args:
            t: (T,) or (*batch, T), real, units of 1/Xi; or a scalar.

        Returns:
            z, (*batch, T, n), or (*batch, n) for a scalar t.

        Raises:
            ShapeError, DtypeError, DeviceError, NonFiniteError: t cannot be used.
            MethodError: the method chosen by name cannot be accurate.
        """
        times, is_scalar = make_times(t, self.Xi, self._batches, self._names)
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
        times, is_scalar = make_times(t, self.Xi, self._batches, self._names)
        z = self._evaluate(times)
        plan = self.decomposition
        condition = self._condition(times, z)
        unit_roundoff = torch.finfo(self.dtype).eps / 2
        if not bool(torch.isfinite(z).all()):
            status = Status.OVERFLOW
        elif bool((condition * unit_roundoff > ILL_CONDITIONED).any()):
            status = Status.ILL_CONDITIONED
        else:
            status = Status.OK
        stats = Stats(
            n=self.Xi.shape[-1],
            n_systems=plan.Xi.shape[0],
            n_times=times.shape[-1],
            reason=plan.reason,
            rejected=tuple(plan.rejected),
            details=plan.details,
        )
        return Solution(
            t=t,
            z=self._answer(z[..., 0, :] if is_scalar else z, t),
            method=plan.method,
            status=status,
            stats=stats,
            condition=self._answer(condition, t),
            error_estimate=self._answer(condition * unit_roundoff, t),
        )

    def propagator(self, t: Any) -> Any:
        """exp(Xi t), differentiable in Xi and t.

        Args:
            t: (T,) or (*batch, T), or a scalar.

        Returns:
            (*batch, T, n, n), or (*batch, n, n) for a scalar t; batch dimensions are those of Xi and t.

        Example:
            >>> import linode
            >>> linode.LinearODE([[0.0, 1.0], [0.0, 0.0]], [0.0, 0.0]).propagator(3.0).tolist()
            [[1.0, 3.0], [0.0, 1.0]]
        """
        times, is_scalar = make_times(t, self.Xi, self._batches[:1], self._names[:1])
        P = exponential(self.Xi, times, self._planner).to(self.dtype)
        return self._answer(P[..., 0, :, :] if is_scalar else P, t)

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
        times, _ = make_times(t, self.Xi, self._batches, self._names)
        with torch.no_grad():
            return self._answer(self._condition(times, self._evaluate(times)), t)

    @property
    def decomposition(self) -> Plan:
        """What was precomputed for the present Xi: factors, checks and the reason for the choice; reused over every
        call.
        """
        layout = Layout.of(self.Xi.shape, self.z0.shape, torch.Size([0]))
        systems = systems_of(self.Xi.detach(), layout)
        known = self._planner.known(systems, torch.inf)
        if known is not None:
            return known
        check_finite(self.Xi, "Xi")
        norm = float(one_norm(systems).max()) if layout.S else 0.0
        return self._planner.plan(systems, Workload(layout.S, 1, 1, layout.n, norm, 0.0))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of results: that of Xi and z0 together."""
        return torch.promote_types(self.Xi.dtype, self.z0.dtype)

    def explain(self, t: Any | None = None) -> str:
        """In words: which method, why, what was passed over and why, and with t the condition and the error to
        expect.
        """
        solution = self.solve(t) if t is not None else None
        plan = self.decomposition
        S, n = plan.Xi.shape[:2]
        lines = [
            f"Xi: {S} system{'s' if S != 1 else ''} of {n} x {n}, {self.Xi.dtype}",
            f"method: {plan.method}, because {plan.reason}",
            *(f"passed over: {reason}" for reason in plan.rejected),
            *(f"{name}: {_short(value)}" for name, value in plan.details.items()),
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

    def __repr__(self) -> str:
        shapes = f"Xi {tuple(self.Xi.shape)}, z0 {tuple(self.z0.shape)}"
        return f"LinearODE({shapes}, {self.dtype}, method={self._planner.method.name!r})"

    @property
    def _batches(self) -> tuple[torch.Size, torch.Size]:
        return self.Xi.shape[:-2], self.z0.shape[:-1]

    def _evaluate(self, times: Tensor) -> Tensor:
        Xi, z0 = self.Xi, self.z0
        if Xi.dtype != z0.dtype:
            Xi, z0 = Xi.to(self.dtype), z0.to(self.dtype)
        return trajectory(Xi, z0, times, self._planner)

    def _condition(self, times: Tensor, z: Tensor) -> Tensor:
        wide = torch.promote_types(self.dtype, torch.float64)
        with torch.no_grad():
            return relative_condition(
                self.Xi.detach().to(wide), self.z0.detach().to(wide), times.detach(), z.detach().to(wide), self._planner
            )

    def _answer(self, x: Tensor, t: Any) -> Any:
        return as_answer(x, self._is_numpy and not isinstance(t, Tensor))


ILL_CONDITIONED = 0.1  # relative error to expect beyond which no digit is sure


def exponential(Xi: Tensor, times: Tensor, planner: Planner) -> Tensor:
    """exp(Xi t), (*batch, T, n, n): the trajectories of the columns of I."""
    Xi = widened(Xi)
    n, rank = Xi.shape[-1], max(Xi.ndim - 2, times.ndim - 1)
    columns = torch.eye(n, dtype=Xi.dtype, device=Xi.device).reshape(n, *(1,) * rank, n)
    return trajectory(Xi, columns, times, planner).movedim(0, -1)


def _short(value: Any, most: int = 8) -> str:
    text = str(value)
    return text if len(text) <= 24 * most else text[: 24 * most] + " ..."
