"""SparseLinearODE: what `LinearODE(Xi, z0)` is where Xi is sparse or an operator.

Up to 256 states with known entries it is the dense solver, with Xi built from its values, so that gradients come on the
pattern. Beyond, and for operators, methods multiply by Xi and never form it: the states come from
`linode.engine.large`, with the forcing of `linode.forcing.large`.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from .engine.autograd import linearised
from .engine.conditioning import relative_condition
from .engine.evaluation import Planner
from .engine.held import Held, is_being_made
from .engine.large import entries_of, large_states
from .engine.large_evaluation import MOST_DENSE, Asked, LargePlanner, Report, Systems, choose, make_large_method
from .engine.problem import (
    as_tensor,
    broadcast,
    check_finite,
    check_finite_anywhere,
    check_same_device,
    check_tolerance,
    is_known,
)
from .engine.tracing import untraced
from .errors import DtypeError, InaccurateWarning, MethodError, ShapeError
from .forcing.block import Planners
from .forcing.large import forced_states
from .forcing.total import Forcing
from .kernels.tensors import is_finite
from .methods import Method, make_method
from .methods.large import LargeMethod, LargePlan, Task, large_registry
from .ode import ENOUGH, NOTHING, LinearODE
from .operators import (
    Operator,
    Pattern,
    SparseMatrix,
    check_tensor,
    coordinates,
    from_linear_operator,
    from_scipy,
    pattern_of,
)
from .solution import Explanation, Solution, Stats, Status

MOST_WORK = 1e9  # multiplications of a forward sweep up to which `explain` computes the condition number: some 20 s
N_SWEEPS = 50  # sweeps of the power iteration for the condition number, about


class SparseLinearODE(LinearODE):
    """Solver of z'(t) = Xi z(t) + b + B u(t) for sparse Xi and operators; `LinearODE(Xi, z0)` makes one.

    Args:
        Xi: (n, n): a sparse tensor of torch (CSR, COO, CSC), a sparse array or matrix of scipy, a `SparseMatrix`, an
            `Operator`, or a `LinearOperator` of scipy. It has no batch dimensions.
        z0, b, B, u: as for `LinearODE`; the times of inputs must be (K,).
        method: "auto", "faber", "rational" or an object of these; up to 256 states with known entries, also the
            methods for dense Xi, of which "auto" then chooses.
        rtol: relative error allowed of every state z(t), relative to |z(t)|, and of gradients; None: 1e-10.
        names: what error messages call Xi and z0.

    Gradients have the layout of Xi: for a sparse tensor a sparse tensor on its pattern; values (nnz,) of which the user
    built Xi get (nnz,). Second derivatives: up to 256 states of a `SparseMatrix`; elsewhere NotDifferentiableError.
    Work is done in double precision on the host.

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError, OptionError: an argument that cannot be used, by name.
        MethodError: the method needs a dense Xi; when called, no method can be accurate.
        NotDifferentiableError: a derivative that cannot be computed, at the call where that is known.

    Warns:
        InaccurateWarning: where `solve` would have the status REGION, DECAY or NOT_CONVERGED.

    Source: see `linode.methods.Faber`.

    Example:
        >>> import numpy as np, scipy.sparse, linode
        >>> n = 10_000
        >>> Xi = scipy.sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n))  # diffusion on a line
        >>> z0 = np.zeros(n)
        >>> z0[n // 2] = 1.0
        >>> ode = linode.LinearODE(Xi, z0)
        >>> z = ode([0.0, 10.0, 100.0])
        >>> type(ode).__name__, z.shape, [round(x, 9) for x in z.sum(1).tolist()]
        ('SparseLinearODE', (3, 10000), [1.0, 1.0, 1.0])
    """

    Xi: Any  # as it was given
    _large: LargePlanner  # where there are more than 256 states, or an operator

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
        self.Xi, self._names, self.C, self.D = Xi, names, None, None
        self._read = reader_of(Xi, names[0], z0)
        operand = self._read()
        n = operand.n
        if isinstance(operand, SparseMatrix):
            check_values(operand)
        self.z0 = as_tensor(z0, names[1], beside=(operand.values,) if isinstance(operand, SparseMatrix) else ())
        shape = self.z0.shape
        if not shape or shape[-1] != n:
            found = f"has last size {shape[-1]}, but {names[0]} is {n} x {n}" if shape else "is a scalar"
            raise ShapeError(f"{names[1]} {found}; {names[1]} must be (*batch, {n})")
        has_place = isinstance(operand, SparseMatrix) or bool(operand.parameters)
        like = torch.zeros((), dtype=operand.result_dtype, device=operand.device if has_place else self.z0.device)
        check_same_device({names[0]: like, names[1]: self.z0})
        check_finite_anywhere(self.z0, names[1])
        self._is_numpy = operand.is_numpy and not isinstance(z0, Tensor)
        is_named = isinstance(method, LargeMethod) or (isinstance(method, str) and method in large_registry())
        self._is_small = isinstance(operand, SparseMatrix) and n <= MOST_DENSE and not is_named
        planner: Any = None
        if self._is_small:
            planner = Planner(make_method(method), rtol)
        else:
            planner = LargePlanner(make_large_method(method), rtol)
        self._planner = self._large = planner
        self.forcing = NOTHING
        if b is not None or B is not None or u is not None:
            self.forcing, is_numpy = Forcing.make(b, B, u, like.expand(n, n))
            self._is_numpy = self._is_numpy and is_numpy
            broadcast({names[1]: shape[:-1], **self.forcing.batches})
            if self._is_small:
                self._planners = Planners.of(planner)
        if not (self.z0 is z0 and self.forcing.is_nothing) or isinstance(Xi, Tensor) or is_being_made():
            own = {names[0]: Xi.values if isinstance(Xi, SparseMatrix) else Xi}
            if isinstance(Xi, Operator):
                own = {f"{names[0]}.parameters[{i}]": x for i, x in enumerate(Xi.parameters)}
            kept = {**own, names[1]: self.z0, "b": self.forcing.b, "B": self.forcing.B}
            self._held = Held({**own, names[1]: z0, "b": b, "B": B}, kept)

    @untraced
    def __call__(self, t: Any) -> Any:
        return super().__call__(t)

    @property
    def dtype(self) -> torch.dtype:
        return self.forcing.dtype(torch.promote_types(self._read().result_dtype, self.z0.dtype))

    def solve(self, t: Any) -> Solution:
        if self._is_small:
            return self._dense().solve(t)
        return self._solved(t)

    @untraced
    def _solved(self, t: Any) -> Solution:
        times, is_scalar = self._times(t)
        report = Report()
        z = self._reported(times, report)
        found = torch.zeros((), dtype=torch.float64, device="cpu") if report.error is None else report.error
        error = found.to(z.device).expand(z.shape[:-2]).contiguous()
        input_error = self._input_error(times, z)
        enough = max(ENOUGH, 10 * self._large.rtol)
        if report.trouble is not None:
            status = Status[report.trouble]
        elif not is_finite(z.detach()):
            status = Status.OVERFLOW
        elif input_error is not None and not input_error <= ENOUGH:
            status = Status.UNRESOLVED_INPUT
        elif error.numel() and not float(error.max()) <= enough:
            status = Status.ILL_CONDITIONED
        else:
            status = Status.OK
        snapshot, at = self._snapshot(), times.detach().clone()
        plan = report.plans[0] if report.plans else None
        details = report.details if input_error is None else {**report.details, "input_error": input_error}
        stats = Stats(
            n=self._n,
            n_systems=1,
            n_times=times.shape[-1],
            reason="no time but 0 is asked for" if plan is None else plan.reason,
            rejected=() if plan is None else tuple(plan.rejected),
            details=details,
        )
        return Solution(
            t=t,
            z=self._answer(z[..., 0, :] if is_scalar else z, t),
            method=self._planner.method.name if plan is None else plan.method,
            status=status,
            error_estimate=self._answer(error if input_error is None else error + input_error, t),
            _condition=lambda: self._answer(snapshot._condition(at), t),
            _stats=lambda: stats,
        )

    @untraced
    def condition(self, t: Any) -> Any:
        """Relative condition number of the trajectory with respect to the entries of Xi, (*batch,).

        |J|_2 |x|_2 / |z|_F with x the entries on the pattern (of an operator, all its parameters together) and J the
        derivative of all of z(t) with respect to x: entries that are not in the pattern stay 0. Its norm comes from
        power iteration with this solver's own derivatives: a lower bound, usually within a few per cent, for some 50
        times the work of the states; of a batch, for each trajectory.

        Raises:
            MethodError: an operator without parameters. NotDifferentiableError: one without rmatvec.

        Example:
            >>> import scipy.sparse, linode
            >>> Xi = scipy.sparse.diags_array([-1.0, -2.0])
            >>> round(float(linode.LinearODE(Xi, [1.0, 0.0]).condition([1.0])), 3)  # |(-1, -2)|
            2.236
        """
        times, _ = self._times(t)
        return self._answer(self._condition(times), t)

    def propagator(self, t: Any) -> Any:
        """exp(Xi t), as for a dense Xi, up to 256 states with known entries.

        Raises:
            MethodError: Xi is larger, or an operator.
        """
        if self._is_small:
            return self._dense().propagator(t)
        raise self._refusal(
            "propagator gives exp(Xi t), in which all entries are filled",
            "solve from the columns that you need, LinearODE(Xi, columns.mT)(t), or give Xi.to_dense()",
        )

    @property
    @untraced
    def decomposition(self) -> Any:
        """The plan for the present Xi: up to 256 states as for a dense Xi, else the `LargePlan` of the last call, or
        for one time of 1 where there was none.
        """
        if self._is_small:
            return self._dense().decomposition
        operand = self._read()
        leaves = (operand.entries,) if isinstance(operand, SparseMatrix) else operand.parameters
        systems: Systems = self._large.systems(operand, tuple(x.detach() for x in leaves))
        last = systems.plans.get(False) or systems.plans.get(True)
        task = Task(1.0, 1, 1, self._large.rtol, False)
        plan: LargePlan = last[1] if last else systems.plan(False, task, self._large.method)
        return plan

    def explain(self, t: Any | None = None) -> str:
        if self._is_small:
            text = self._dense().explain(t)
            return Explanation(f"{text}\nXi was sparse: dense methods take less time up to {MOST_DENSE} states")
        return self._explained(t)

    @untraced
    def _explained(self, t: Any | None) -> str:
        operand = self._read()
        solution = self._solved(t) if t is not None else None
        if solution is None:
            plan = self.decomposition
            method, reason, rejected, details = plan.method, plan.reason, plan.rejected, plan.details
        else:
            stats = solution.stats
            method, reason, rejected, details = solution.method, stats.reason, stats.rejected, stats.details
        known = f"{operand.pattern.nnz} entries" if isinstance(operand, SparseMatrix) else "known by its products"
        lines = [
            f"Xi: 1 system of {self._n} x {self._n}, {known}, {operand.dtype}",
            f"method: {method}, because {reason}",
            *(f"passed over: {words}" for words in rejected),
            *(f"{name}: {value}" for name, value in details.items()),
            *(f"forcing: {words}" for words in self.forcing.words()),
        ]
        if solution is not None:
            lines += self._savings(operand, solution.stats.details.get("n_products", 0))
            lines.append(self._condition_in_words(operand, solution))
            error = max(torch.as_tensor(solution.error_estimate).flatten().tolist(), default=0.0)
            lines.append(f"error estimate: {error:.3g} (relative, of z(t) for Xi as it is)")
            lines.append(f"status: {solution.status}")
        return Explanation("\n".join(lines))

    def _savings(self, operand: SparseMatrix | Operator, n_products: int) -> list[str]:
        """What an operator would save if more were known of its numerical range."""
        systems = self._large.last
        known = None if systems is None else systems.plans.get(False)
        if systems is None or known is None or isinstance(operand, SparseMatrix) or operand.bounds is not None:
            return []
        offers = []
        for hermitian in (operand.hermitian,) if operand.hermitian else (False, True):
            better: Any = copy.copy(systems.linear(False))
            better.is_dissipative, better.is_hermitian = True, hermitian
            details = choose(better, known[0], self._large.method).details
            count = details.get("steps", 1) * details.get("degree", n_products)
            words = "dissipative=True" + " and hermitian=True" * (hermitian and not operand.hermitian)
            if not (operand.dissipative and words == "dissipative=True") and count < n_products:
                offers.append(f"{words} some {count}")
        where = "as much as bounds=(left, right, bottom, top) where they are known"
        return [f"products: {n_products}; with {', with '.join(offers)}, if that holds; {where}"] if offers else []

    def _condition_in_words(self, operand: SparseMatrix | Operator, solution: Solution) -> str:
        if isinstance(operand, Operator):
            return "condition: of operators not computed here: see condition(t)"
        count = solution.stats.details.get("n_products", 0) * operand.pattern.nnz * max(1, self.z0.numel() // self._n)
        if N_SWEEPS * count > MOST_WORK:
            return f"condition: not computed here, as it takes some {N_SWEEPS} times the work of z(t): see condition(t)"
        condition = max(torch.as_tensor(solution.condition).flatten().tolist(), default=0.0)
        return f"condition: {condition:.3g} (relative, of z(t) with respect to the entries of Xi)"

    def to_statespace(self, make: Any = None) -> Any:
        """As for a dense Xi, up to 256 states with known entries. MethodError: Xi is larger, or an operator."""
        if self._is_small:
            return self._dense().to_statespace(make)
        raise self._refusal("a state-space object holds a dense Xi", "give Xi.to_dense()")

    def plot_phase(self, ax: Any = None, **options: Any) -> Any:
        """As for a dense Xi, up to 256 states with known entries. MethodError: Xi is larger, or an operator."""
        if self._is_small:
            return self._dense().plot_phase(ax, **options)
        raise self._refusal("a phase portrait needs all entries of Xi", "give Xi.to_dense()")

    def plot_eigenvalues(self, ax: Any = None, **options: Any) -> Any:
        """As for a dense Xi, up to 256 states with known entries. MethodError: Xi is larger, or an operator."""
        if self._is_small:
            return self._dense().plot_eigenvalues(ax, **options)
        raise self._refusal(
            "a plot of all eigenvalues needs all entries of Xi", "for some of them use scipy.sparse.linalg.eigs"
        )

    # ---- what the base class asks for --------------------------------------------------------------------------------

    @property
    def _n(self) -> int:
        return int(self.Xi.shape[-1])

    @property
    def _Xi_batch(self) -> torch.Size:
        return torch.Size()

    def _refusal(self, what: str, instead: str) -> MethodError:
        kind = "an operator" if isinstance(self.Xi, (Operator, LinearOperator)) else "sparse"
        return MethodError(f"{what}, and Xi is {kind} with {self._n} states: {instead}")

    def _dense(self) -> LinearODE:
        """The same solver with a dense Xi, which depends on the values."""
        self._others  # noqa: B018 - made here, so that both have the same
        dense: LinearODE = object.__new__(LinearODE)
        operand = self._read()
        assert isinstance(operand, SparseMatrix)
        dense.__dict__.update(self.__dict__, Xi=operand.to_dense())
        return dense

    def _evaluate(self, times: Tensor) -> Tensor:
        if self._is_small:
            return self._dense()._evaluate(times)
        report = Report()
        z = self._reported(times, report)
        if report.trouble is not None:
            warnings.warn(
                f"{Status[report.trouble]} (solve(t) gives the error estimate)", InaccurateWarning, stacklevel=6
            )
        return z

    def _reported(self, times: Tensor, report: Report | None) -> Tensor:
        return self._states_of(self._read(), times, report)

    def _states_of(self, operand: SparseMatrix | Operator, times: Tensor, report: Report | None = None) -> Tensor:
        def solve(kinds: Any, vectors: Any, t: Tensor, like: Asked | None = None) -> Tensor:
            return large_states(self._large, operand, kinds, vectors, t, report, like)

        dtype = self.forcing.dtype(torch.promote_types(operand.result_dtype, self.z0.dtype))
        z = forced_states(self.forcing, self.z0, times, operand.result_dtype.is_complex, solve)
        return z if z.dtype == dtype else z.to(dtype)

    def _propagators(self, times: Tensor) -> Tensor:
        return self._dense()._propagators(times)

    def _errors(self, times: Tensor, z: Tensor) -> list[float]:
        return self._dense()._errors(times, z)

    def _condition(self, times: Tensor) -> Tensor:
        operand = self._read()
        with torch.no_grad():
            if isinstance(operand, SparseMatrix):
                pattern = operand.pattern.in_order
                x = operand.entries.detach().to(torch.promote_types(self.dtype, torch.float64))
                made = lambda v: SparseMatrix.on(pattern, v)  # noqa: E731
            else:
                x, made = operand.as_vector()
            times = times.detach()
            other: Any = self._with(forcing=self.forcing.fixed())

            def states(v: Tensor) -> Tensor:
                return other._of_operand(made(v), times).to(z.dtype)

            z = self._evaluate(times).detach().to(torch.promote_types(self.dtype, torch.float64))
            if not is_finite(z):  # states beyond the largest float have no condition: leave them out
                times = torch.where(torch.isfinite(z).all(-1), times, 0)
                z = states(x)
            batch = z.shape[:-2]
            rows = []
            for place in np.ndindex(*batch):
                push, pull = linearised(lambda v: states(v)[place], x)  # noqa: B023 - used before it changes
                rows.append(relative_condition(z[place], x, push, pull))
            return torch.stack(rows).reshape(batch) if rows else torch.zeros(batch, dtype=torch.float64, device="cpu")

    def _of_operand(self, operand: SparseMatrix | Operator, times: Tensor) -> Tensor:
        """The states with another Xi."""
        if not self._is_small:
            return self._states_of(operand, times)
        dense: LinearODE = object.__new__(LinearODE)
        assert isinstance(operand, SparseMatrix)
        dense.__dict__.update(self.__dict__, Xi=operand.to_dense())
        return dense._evaluate(times)

    def _snapshot(self) -> SparseLinearODE:
        """The same problem with copies of all tensors, which may be changed in place."""
        other: SparseLinearODE = object.__new__(type(self))
        operand = self._read()
        if isinstance(operand, SparseMatrix):
            operand = SparseMatrix.on(operand.pattern, operand.values.detach().clone(), operand.is_numpy)
        forcing = self.forcing if self.forcing.is_nothing else self.forcing.snapshot()
        own = {"Xi": operand, "z0": self.z0.detach().clone(), "forcing": forcing, "_read": Fixed(operand)}
        other.__dict__.update(self.__dict__ | own)
        return other


class Fixed:
    """Xi that is read as it is."""

    def __init__(self, operand: SparseMatrix | Operator) -> None:
        self.operand = operand

    def __call__(self) -> SparseMatrix | Operator:
        return self.operand


class FromTensor:
    """Xi read from a sparse tensor, whose values an optimiser may change between calls."""

    def __init__(self, Xi: Tensor, name: str, z0: Any) -> None:
        check_tensor(Xi, name)
        self.Xi, self.name = Xi, name
        self.mark: Any = None
        self.pattern: Pattern
        self.integers_become: torch.dtype | None = None
        if not (Xi.is_floating_point() or Xi.is_complex()):  # what integers become depends on z0
            self.integers_become = as_tensor(torch.zeros(1, dtype=Xi.dtype, device="cpu"), name, beside=(z0,)).dtype

    def __call__(self) -> SparseMatrix:
        index = coordinates(self.Xi)
        mark = [(x.data_ptr(), x.shape, None if x.is_inference() else x._version) for x in index]
        if mark != self.mark:  # an optimiser may give a COO tensor other indices
            self.pattern, self.mark = pattern_of(self.Xi, self.name), mark
        entries = entries_of(self.Xi, self.pattern)
        entries = entries if self.integers_become is None else entries.to(self.integers_become)
        return SparseMatrix.on(self.pattern.in_order, as_tensor(entries, self.name))

    def __reduce__(self) -> Any:
        return FromTensor, (self.Xi, self.name, None)


def reader_of(Xi: Any, name: str, z0: Any) -> Any:
    """A function that gives the present Xi as a `SparseMatrix` or an `Operator`."""
    if isinstance(Xi, (SparseMatrix, Operator)):
        return Fixed(Xi)
    if isinstance(Xi, Tensor):
        return FromTensor(Xi, name, z0)
    if isinstance(Xi, LinearOperator):
        return Fixed(from_linear_operator(Xi, name))
    if hasattr(Xi, "tocoo"):
        return Fixed(from_scipy(Xi, name))
    raise DtypeError(f"{name} must be a sparse array, a sparse tensor or an operator, got {type(Xi).__name__}")


def check_values(matrix: SparseMatrix) -> None:
    values = matrix.values
    if is_known(values):
        check_finite(values, "Xi.values")
    else:
        check_finite_anywhere(values, "Xi.values")
