"""`LinearODE`, the solver of z'(t) = Xi z(t) + b + B u(t), and `Solver`, the base class of all solvers."""

from __future__ import annotations

import importlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .display import columns_of, states_of
from .engine.autograd import Map, linearised, trajectory
from .engine.careful import CAREFUL, is_compiled
from .engine.checking import Compare, compared, compared_by_kernel, references, relative_error
from .engine.conditioning import MOST_ENTRIES, compiled_condition, relative_condition
from .engine.evaluation import Planner, columns, evaluate, evaluate_vjp
from .engine.held import Held, is_being_made
from .engine.problem import (
    Layout,
    as_answer,
    broadcast,
    check_finite,
    check_tolerance,
    concrete,
    is_dense,
    make_system,
    make_times,
)
from .engine.tracing import untraced
from .errors import OptionError, ShapeError, UnresolvedInputWarning
from .forcing.block import Planners
from .forcing.total import Forcing
from .kernels.private import is_transforming
from .kernels.small import PLAIN
from .kernels.tensors import is_finite, measured, widened
from .methods import Method, Plan, Propagator, Workload, make_method
from .solution import Explanation, Solution, Stats, Status, largest, short, unit
from .statespace import make_state_space, matrices_of

STRIDED = torch.strided
ENOUGH = 1e-6  # relative error of z above which the status is ILL_CONDITIONED; or UNRESOLVED_INPUT, by sampling
DOUBLE = Propagator(precision="double")
DOUBT = ENOUGH / 10  # bound of the error by sampling above which calling makes the same comparison as `solve`


class Solver(ABC):
    """A trajectory as a function of t, with its method, condition and plots."""

    Xi: Tensor
    z0: Tensor
    forcing: Forcing
    _planner: Planner
    _is_numpy: bool
    _names: tuple[str, ...]
    _held: Held | None = None  # None: its tensors cannot become stale
    state_names: tuple[str, ...] = ()  # where Xi or z0 came with labels

    def __call__(self, t: Any) -> Any:
        """The states at times t, in any order.

        Args:
            t: (T,) or (*batch, T), real, units of 1/Xi; or a scalar.

        Returns:
            z, (*batch, T, n), or (*batch, n) for a scalar t.

        Raises:
            ShapeError, DtypeError, DeviceError, NonFiniteError: t cannot be used.
            MethodError: the method chosen by name cannot be accurate.

        Warns:
            UnresolvedInputWarning: where `solve` would have the status UNRESOLVED_INPUT.

        Example:
            >>> import linode
            >>> linode.LinearODE([[0.0, 1.0], [0.0, 0.0]], [1.0, 2.0])([3.0, 0.0, -0.5]).tolist()
            [[7.0, 2.0], [1.0, 2.0], [0.0, 2.0]]
        """
        times, is_scalar = self._times(t)
        z = self._states(times)
        z = z[..., 0, :] if is_scalar else z
        return self._answer(z, t) if self._is_numpy else z

    @untraced
    def solve(self, t: Any) -> Solution:
        """As calling, with method, status, statistics, error estimate and condition number.

        Args and Raises as for calling. For a few states and times it takes as long as 5 calls, and as 9 where the
        condition number is asked for.

        Example:
            >>> import linode
            >>> sol = linode.LinearODE([[-1.0, 0.0], [0.0, -2.0]], [1.0, 1.0]).solve([0.0, 1.0])
            >>> sol.method, bool(sol.status), sol.z.shape
            ('eig', True, (2, 2))
        """
        times, is_scalar = self._times(t)
        z = self._evaluate(times)
        plan = self.decomposition
        errors = self._errors(times, z)
        input_error = self._input_error(times, z)
        worst = max(errors, default=0.0)
        if worst == torch.inf and not is_finite(z.detach()):
            status = Status.OVERFLOW
        elif input_error is not None and not input_error <= ENOUGH:
            status = Status.UNRESOLVED_INPUT
        elif worst > ENOUGH:
            status = Status.ILL_CONDITIONED
        else:
            status = Status.OK
        error = torch.tensor(errors if z.ndim > 2 else worst, dtype=torch.float64, device=z.device)
        error = error.reshape(z.shape[:-2]) if z.ndim > 2 else error
        snapshot, at = self._snapshot(), times.detach().clone()

        def stats() -> Stats:
            return Stats(
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
            error_estimate=self._answer(error if input_error is None else error + input_error, t),
            _condition=lambda: self._answer(snapshot._condition(at), t),
            _stats=stats,
            names=self.state_names,
        )

    @untraced
    def condition(self, t: Any) -> Any:
        """Relative condition number of the trajectory with respect to Xi, (*batch,).

        |J|_2 |Xi|_F / |z|_F with J the derivative of all of z(t) with respect to Xi: how much a relative change of Xi
        is amplified, to first order. The norm of J comes from a power iteration, a lower bound, usually within a few
        per cent: compiled for small systems without forcing, else with this solver's own derivatives. It is infinite
        where z or its derivative grows past the largest float. A result carries about -log10(condition * eps) digits
        that the rounding of Xi leaves meaningful.

        Source: Higham (2008), Functions of Matrices, section 3.1-3.4 and algorithm 3.20 (power method).

        Example:
            >>> import linode
            >>> ode = linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0])
            >>> 10 < float(ode.condition([20.0])) < 40
            True
        """
        times, _ = self._times(t)
        return self._answer(self._condition(times), t)

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
        if self._held is not None:
            self._held.check()
        times, is_scalar = make_times(t, self.Xi, lambda: {self._names[0]: self._Xi_batch})
        P = self._propagators(times)
        return self._answer(P[..., 0, :, :] if is_scalar else P, t)

    @property
    @untraced
    def decomposition(self) -> Plan:
        """The plan for the present Xi, or for all that it switches between: factors, checks, the reason for the choice.

        Calls use it as long as Xi keeps its values.

        Example:
            >>> import linode
            >>> ode = linode.LinearODE([[-1.0, 0.0], [0.0, -2.0]], [1.0, 1.0])
            >>> ode.decomposition.method, ode.decomposition.reason
            ('eig', 'Xi is diagonal')
        """
        if self._held is not None:
            self._held.check()
        layout = Layout.of(self.Xi.shape, self.Xi.shape[-1:], torch.Size([0]))
        systems = widened(self.Xi.detach())
        systems = layout.systems(systems) if systems.ndim > 2 else systems
        known = self._planner.known(systems)
        if known is not None:
            return known
        check_finite(self.Xi, "Xi")
        norm, is_diagonal, has_metzler = measured(systems)
        work = Workload(layout.S, 1, 0, layout.n, norm, 0.0, systems.is_cpu, is_diagonal, has_metzler)
        return self._planner.plan(systems if systems.ndim > 2 else systems[None], work)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of results: that of Xi, z0 and the forcing together.

        Example:
            >>> import linode, torch
            >>> linode.LinearODE(torch.eye(2), torch.ones(2, dtype=torch.complex64)).dtype
            torch.complex64
        """
        return self.forcing.dtype(torch.promote_types(self.Xi.dtype, self.z0.dtype))

    @untraced
    def explain(self, t: Any | None = None) -> str:
        """A text: the method and why it was chosen, methods passed over and why; with t also condition and error.

        Args and Raises as for calling.

        Example:
            >>> import linode
            >>> print(linode.LinearODE([[-1.0, 0.0], [0.0, -2.0]], [1.0, 1.0]).explain([1.0]))
            Xi: 1 system of 2 x 2, torch.float64
            method: eig, because Xi is diagonal
            ...
            status: OK: the estimated error of the trajectory is small
        """
        solution = self.solve(t) if t is not None else None
        plan = self.decomposition
        S, n = plan.Xi.shape[:2]
        lines = [
            f"Xi: {S} system{'s' if S != 1 else ''} of {n} x {n}, {self.Xi.dtype}",
            f"method: {plan.method}, because {plan.reason}",
            f"evaluated by: {plan.evaluated_by}",
            *(f"passed over: {reason}" for reason in plan.rejected),
            *(f"{name}{unit(name)}: {short(value)}" for name, value in plan.details.items()),
            *(f"forcing: {words}" for words in self.forcing.words()),
        ]
        if solution is not None:
            condition, error = (largest(x) for x in (solution.condition, solution.error_estimate))
            lines += [
                f"condition: {condition:.3g} (relative, of z(t) with respect to Xi)",
                f"error estimate: {error:.3g} (relative, of z(t) for Xi as it is)",
                f"status: {solution.status}",
            ]
        return Explanation("\n".join(lines))

    def plot(self, t: Any, ax: Any = None, **options: Any) -> Any:
        """The states at times t as curves; see `linode.plotting.plot_trajectories`. Needs matplotlib."""
        with torch.no_grad():
            z = self(t)
        labelled = {"labels": list(self.state_names) or None} | options
        return importlib.import_module("linode.plotting").plot_trajectories(t, z, ax=ax, **labelled)

    def plot_eigenvalues(self, ax: Any = None, **options: Any) -> Any:
        """Eigenvalues of Xi in the complex plane; see `linode.plotting.plot_eigenvalues`. Needs matplotlib."""
        return importlib.import_module("linode.plotting").plot_eigenvalues(self, ax=ax, **options)

    def __repr__(self) -> str:
        shapes = f"Xi {tuple(self.Xi.shape)}, z0 {tuple(self.z0.shape)}"
        return f"{type(self).__name__}({shapes}, {self.dtype}, method={self._planner.method.name!r})"

    def _states(self, times: Tensor) -> Tensor:
        """z, with a warning where an input that is a function is not resolved."""
        z = self._evaluate(times)
        if self.forcing.inputs and self.forcing.is_approximate:
            warn = self._warn_if_unresolved
            (torch.compiler.disable(warn) if torch.compiler.is_compiling() else warn)(times, z)
        return z

    def _warn_if_unresolved(self, times: Tensor, z: Tensor) -> None:
        if self.forcing.doubt(z) <= DOUBT or not is_finite(concrete(z)):  # one that overflows says so itself
            return
        error = self._input_error(times, z)
        if error is not None and not error <= ENOUGH:
            warnings.warn(
                f"z(t) changes by {error:.2g} of its size where the input is sampled more densely: "
                f"{Status.UNRESOLVED_INPUT.value}",
                UnresolvedInputWarning,
                stacklevel=4,
            )

    @abstractmethod
    def _evaluate(self, times: Tensor) -> Tensor:
        """z (*batch, T, n), in the dtype of results."""

    @abstractmethod
    def _propagators(self, times: Tensor) -> Tensor:
        """The solutions without forcing from the columns of I, (*batch, T, n, n)."""

    @abstractmethod
    def _derivatives(self, times: Tensor, z: Tensor) -> tuple[Tensor, Map, Map]:
        """Xi, one for each trajectory, and the derivative of z by it and the adjoint of that, as functions."""

    def _condition(self, times: Tensor) -> Tensor:
        with torch.no_grad():
            times = times.detach()
            z = self._evaluate(times).detach().to(torch.promote_types(self.dtype, torch.float64))
            if not is_finite(z):  # states beyond the largest float have no condition: leave them out
                times = torch.where(torch.isfinite(z).all(-1), times, 0)
            return relative_condition(z, *self._derivatives(times, z))

    def _errors(self, times: Tensor, z: Tensor) -> list[float]:
        with torch.no_grad():
            return relative_error(z, times, map(self._comparison, references(self.Xi)))

    def _comparison(self, method: Method) -> Compare:
        """With the states in double precision by another method."""
        return compared(self._by(method)._evaluate)

    def _other_planner(self, method: Method) -> Planner:
        if method.name not in self._others:
            self._others[method.name] = Planner(method)
        return self._others[method.name]

    def _by(self, method: Method) -> Solver:
        """The same problem in double precision, by another method."""
        planner = self._other_planner(method)
        planners = self._others.setdefault(f"{method.name}, forced", Planners(planner, planner.fresh()))
        Xi, z0 = widened(self.Xi.detach()), widened(self.z0.detach())
        return self._with(Xi=Xi, z0=z0, forcing=self.forcing.fixed(), _planner=planner, _planners=planners)

    @cached_property
    def _others(self) -> dict[str, Any]:
        """Planners of the answers that `solve` compares with, so that their plans serve the next call."""
        return {}

    def _snapshot(self) -> Solver:
        """The same problem with copies of all tensors, which may be changed in place."""
        forcing = self.forcing if self.forcing.is_nothing else self.forcing.snapshot()
        return self._with(Xi=self.Xi.detach().clone(), z0=self.z0.detach().clone(), forcing=forcing)

    def _input_error(self, times: Tensor, z: Tensor) -> float | None:
        """Relative change of z if the input is sampled more densely; None if the input is exact."""
        finer = self.forcing.refined()
        if finer is None or z.numel() == 0:
            return None
        with torch.no_grad():
            other = self._with(forcing=finer)._evaluate(times)
            change, size = (float(concrete(x).abs().max()) for x in (other - z, z))
        return change / size if size else float(change > 0)

    def _with(self, **own: Any) -> Solver:
        """The same problem with other attributes."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__ | own)
        return other

    def _times(self, t: Any) -> tuple[Tensor, bool]:
        if self._held is not None:
            self._held.check()
        return make_times(t, self.z0, self._batches)

    def _batches(self) -> dict[str, torch.Size]:
        """Batch dimensions of all arguments but t, by name."""
        return {**dict(zip(self._names, (self._Xi_batch, self.z0.shape[:-1]))), **self.forcing.batches}

    @property
    def _Xi_batch(self) -> torch.Size:
        return self.Xi.shape[:-2]

    def _answer(self, x: Tensor, t: Any) -> Any:
        return as_answer(x, self._is_numpy and not isinstance(t, Tensor))


NOTHING = Forcing()


class LinearODE(Solver):
    """Solver of z'(t) = Xi z(t) + b + B u(t), z(0) = z0, differentiable in Xi, z0, b, B, u and t.

    Args:
        Xi: system matrix, (*batch, n, n), units 1/time. Tensor, NumPy array, nested list, or a DataFrame, whose columns
            name the states in pictures and tables, as the labels of a Series z0 do.
        z0: initial state, (*batch, n). Batch dimensions of all arguments and of t broadcast.
        b: constant forcing, (*batch, n).
        B: input matrix, (*batch, n, m); None: u acts on the states themselves, m = n. Without u it has no effect.
        u: input of m channels: `ZeroOrderHold`, `FirstOrderHold`, `Impulses`, `Harmonics`, a sum of these, or a smooth
            function of t (see `Smooth`).
        method: "auto", "eig", "chain", "taylor", "propagator", "metzler", "schur", or a method object such as
            `linode.methods.Eig(max_condition=10.0)`.
        rtol: relative error allowed: `auto` then accepts eigenvectors of larger condition. None: rounding only.
        names: what error messages call Xi and z0.

    Tensors in, a tensor out, in their common dtype and on their device; NumPy arrays or lists in, a NumPy array out.
    Work is done in float64 or complex128. Tensors are kept, not copied: after an optimiser has changed Xi or z0 in
    place, the next call uses the new values. The decomposition is kept while Xi keeps its values.

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError, OptionError: an argument that cannot be used, by name.
        MethodError: unknown method; when called, a method chosen by name that cannot be accurate for this Xi.

    Source: gradients by the adjoint integral, see `linode.engine.autograd` and `linode.kernels.modes`; forcing by
    augmented systems, see `linode.forcing.total`.

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

    _sparse: ClassVar[Callable[[], type[LinearODE]]]  # the solver of large Xi, imported then; the package sets it

    def __new__(cls, Xi: Any = None, *args: Any, **options: Any) -> LinearODE:
        # what is_dense says of a plain tensor stands here, as it takes a tenth of the time
        if not (Xi.layout is STRIDED if type(Xi) in PLAIN else is_dense(Xi)) and cls is LinearODE:
            cls = LinearODE._sparse()
        return object.__new__(cls)

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
        if rtol is not None:
            check_tolerance(rtol)
        self.Xi, self.z0, self._is_numpy = make_system(Xi, z0, names)
        self._names = names
        if not isinstance(Xi, Tensor):
            self.state_names = columns_of(Xi) or states_of(z0)
        self.C: Any = None  # of the output y = C z + D u; None: no output
        self.D: Any = None
        self._planner = Planner(make_method(method), rtol)
        self.forcing = NOTHING
        if b is not None or B is not None or u is not None:
            self.forcing, is_numpy = Forcing.make(b, B, u, self.Xi)
            self._is_numpy = self._is_numpy and is_numpy
            broadcast({"Xi": self.Xi.shape[:-2], "z0": self.z0.shape[:-1], **self.forcing.batches})
            self._planners = Planners.of(self._planner)
        if not (self.Xi is Xi and self.z0 is z0 and self.forcing.is_nothing) or is_being_made():
            kept = {"Xi": self.Xi, "z0": self.z0, "b": self.forcing.b, "B": self.forcing.B}
            self._held = Held({"Xi": Xi, "z0": z0, "b": b, "B": B}, kept)

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
        ode = cls(A, np.zeros(A.shape[0]) if z0 is None else z0, b=b, B=B, u=u, method=method, rtol=rtol)
        ode.C, ode.D = C, D
        return ode

    def to_statespace(self, make: Callable[..., Any] | None = None) -> Any:
        """Xi, B, C and D as a `scipy.signal.StateSpace`, or as what `make(A, B, C, D)` gives (`control.StateSpace`).

        C and D are those of `from_statespace`; without them the states are the output. b, u and z0 are left out.

        Raises:
            ShapeError: Xi or B has batch dimensions.

        Example:
            >>> import linode
            >>> linode.LinearODE([[-1.0]], [0.0], B=[[2.0]]).to_statespace().B.tolist()
            [[2.0]]
        """
        n = self.Xi.shape[-1]
        B: Any = self.forcing.B
        if B is None:
            B = np.zeros((n, 0)) if self.forcing.is_nothing else np.eye(n)
        for x, name in ((self.Xi, "Xi"), (B, "B")):
            if x.ndim > 2:
                raise ShapeError(f"{name} has shape {tuple(x.shape)}; a state-space object has no batch dimensions")
        C = np.eye(n) if self.C is None else self.C
        D = np.zeros((C.shape[0], B.shape[-1])) if self.D is None else self.D
        return make_state_space(make, self.Xi, B, C, D)

    def output(self, t: Any) -> Any:
        """y(t) = C z(t) + D u(t), (*batch, T, p), of a system from `from_statespace`; impulses are left out of D u.

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
        z = self._states(times)
        C, D = (torch.as_tensor(x, device=z.device).to(z) for x in (self.C, self.D))
        y = z @ C.mT + sum(part(times).to(z) @ D.mT for part in self.forcing.inputs)
        return self._answer(y[..., 0, :] if is_scalar else y, t)

    def plot_phase(self, ax: Any = None, **options: Any) -> Any:
        """The phase portrait of two states; see `linode.plotting.plot_phase`. Needs matplotlib."""
        labelled = {"labels": list(self.state_names) or None} | options
        return importlib.import_module("linode.plotting").plot_phase(self, ax=ax, **labelled)

    def _propagators(self, times: Tensor) -> Tensor:
        return exponential(self.Xi, times, self._planner).to(self.dtype)

    def _evaluate(self, times: Tensor) -> Tensor:
        if not self.forcing.is_nothing:
            return self.forcing.states(self.Xi.unsqueeze(-3), self.z0, times, self._planners)
        Xi, z0 = self.Xi, self.z0
        if Xi.dtype != z0.dtype:
            Xi, z0 = Xi.to(self.dtype), z0.to(self.dtype)
        return trajectory(Xi, z0, times, self._planner)

    def _comparison(self, method: Method) -> Compare:
        if not (self._is_compiled and method is CAREFUL):
            return super()._comparison(method)
        return compared_by_kernel(self._other_planner(method), *self._own())

    def _condition(self, times: Tensor) -> Tensor:
        if not self._is_compiled or times.shape[-1] * self.z0.shape[-1] > MOST_ENTRIES:
            return super()._condition(times)
        with torch.no_grad():
            return compiled_condition(self._other_planner(CAREFUL), *self._own(), times.detach())

    @property
    def _is_compiled(self) -> bool:
        """Whether the compiled double-double arithmetic takes it as it is."""
        z0, Xi = self.z0, self.Xi
        is_plain = self.forcing.is_nothing and not is_transforming()
        return is_plain and is_compiled(z0) and (z0.dtype == Xi.dtype or is_compiled(Xi))

    def _own(self) -> tuple[Tensor, Tensor]:
        """Xi and z0, float64 or complex128 both; where no gradients are recorded."""
        Xi, z0 = self.Xi, self.z0
        if Xi.dtype == z0.dtype == torch.float64:
            return Xi, z0
        dtype = torch.promote_types(self.dtype, torch.float64)
        return Xi.to(dtype), z0.to(dtype)

    def _derivatives(self, times: Tensor, z: Tensor) -> tuple[Tensor, Map, Map]:
        n, batch = self.Xi.shape[-1], z.shape[:-2]
        Xi, z0 = self.Xi.detach().to(z.dtype).expand(*batch, n, n).contiguous(), self.z0.detach().to(z.dtype)
        if not self.forcing.is_nothing:
            planners, forcing = self._planners.child("condition"), self.forcing.fixed()
            return Xi, *linearised(lambda A: forcing.states(A[..., None, :, :], z0, times, planners), Xi)
        blocks = Planner(DOUBLE)
        zeros = torch.zeros_like(Xi), torch.zeros_like(z0)

        def jvp(dXi: Tensor) -> Tensor:  # the lower half of the block system [[Xi, 0], [dXi, Xi]] (Van Loan 1978)
            M = torch.cat([torch.cat([Xi, zeros[0]], -1), torch.cat([dXi, Xi], -1)], -2)
            return evaluate(blocks, M, torch.cat([z0, zeros[1]], -1), times)[..., n:]

        return Xi, jvp, lambda g: evaluate_vjp(self._planner, Xi, z0, times, g, want_t=False)[0]


def exponential(Xi: Tensor, times: Tensor, planner: Planner) -> Tensor:
    """exp(Xi t), (*batch, T, n, n): the trajectories of the columns of I."""
    Xi = widened(Xi)
    starts = columns(Xi.shape[-1], max(Xi.ndim - 2, times.ndim - 1), Xi)
    return trajectory(Xi, starts, times, planner).movedim(0, -1)
