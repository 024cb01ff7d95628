"""Evaluation for large Xi, on the host: the plan, the states, their gradients and tangents, in the shapes asked for.

As `evaluation` does for dense Xi: `LargePlanner` keeps what was planned and compares Xi by content; times before 0, for
which -Xi is planned, gradients with respect to times, and batches are here and in no method. No autograd here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import MethodError
from ..kernels.memory import Memory
from ..kernels.tensors import extremes
from ..large.linear import Linear
from ..methods import Auto, make_method
from ..methods.large import LargeMethod, LargePlan, Pullback, Task, Term, large_registry
from ..operators import Operator, SparseMatrix
from .large_products import host, linear_of
from .problem import check_finite, common_shape
from .progress import Progress

MOST_DENSE = 256  # states of a sparse Xi up to which it is solved as a dense one
RTOL = 1e-10  # of states and gradients, where none is asked for
MOST_NUMBERS = 2**22  # of states in one product, for derivatives with respect to times: 32 MB


def result_type(operand: SparseMatrix | Operator, vectors: Sequence[Tensor], kinds: Sequence[Kind]) -> torch.dtype:
    """Of states: that of Xi and all vectors together."""
    dtype = reduce(torch.promote_types, [x.dtype for x in vectors], operand.result_dtype)
    is_complex = any(kind.is_complex for kind in kinds)
    return torch.promote_types(dtype, torch.complex64) if is_complex else dtype


def handed_over(x: Tensor, like: Tensor) -> Tensor:
    """A gradient in the dtype and on the device of what it belongs to: of a real one the real part."""
    x = x.real if x.is_complex() and not like.is_complex() else x
    return x.to(like.device, like.dtype).contiguous()


class Kind(NamedTuple):
    """What multiplies a vector: see `linode.methods.large.Term`."""

    name: str = "exp"
    w: complex = 0.0

    @property
    def is_complex(self) -> bool:
        return self.name == "harmonic" and complex(self.w).imag != 0

    def mirrored(self) -> tuple[float, Kind]:
        """The factor and the kind by which this one at times -t, of Xi, is one at times t of -Xi."""
        if self.name == "exp":
            return 1.0, self
        if self.name == "harmonic":
            return -1.0, Kind(self.name, -self.w)
        return (1.0 if self.power % 2 else -1.0), self

    @property
    def power(self) -> int:
        """Of time in the input."""
        return int(complex(self.w).real) if self.name == "power" else 0

    def rate(self, t: np.ndarray) -> np.ndarray | None:
        """The input at times t: what the derivative of the states has beside Xi times them. None: nothing."""
        if self.name == "exp":
            return None
        if self.name == "harmonic":
            return np.exp(self.w * t)
        return t**self.power / prod(range(1, self.power + 1))


@dataclass
class Report:
    """What an evaluation found, for `solve`."""

    error: Tensor | None = None  # (*batch,), estimated, relative
    trouble: str | None = None
    plans: list[LargePlan] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, error: Tensor, trouble: str | None, plans: Sequence[LargePlan]) -> None:
        """What one more sweep found; counts add up, other figures are the largest."""
        self.error = error if self.error is None else torch.maximum(self.error, error)
        self.trouble = self.trouble or trouble
        self.plans += plans
        for plan in plans:
            for name, value in plan.details.items():
                known = self.details.get(name)
                if known is None or isinstance(value, (str, bool)) or not isinstance(value, (int, float)):
                    self.details[name] = value if known is None else known
                else:
                    self.details[name] = (
                        known + value if name.startswith("n_") or name == "steps" else max(known, value)
                    )


def make_large_method(method: Any) -> LargeMethod | Auto:
    """A method for large Xi, or `auto`, from a name or a method object.

    Raises:
        MethodError: there is no such method, or it needs a dense Xi.
    """
    if isinstance(method, LargeMethod):
        return method
    known = large_registry()
    if isinstance(method, str) and method in known:
        return known[method]()
    names = " or ".join(map(repr, sorted(known)))
    made = make_method(method)
    if not isinstance(made, Auto):
        raise MethodError(
            f"method {made.name!r} needs Xi as a dense matrix, but Xi is sparse with more than {MOST_DENSE} states or "
            f"an operator: use 'auto', {names}, or give a dense Xi"
        )
    if made.candidates is not None:
        raise MethodError(f"candidates {made.candidates!r} need a dense Xi: use 'auto' or {names}")
    return made


class LargePlanner:
    """Plans for one solver. They depend on the values of Xi and on what is asked; the last ones are kept."""

    def __init__(self, method: LargeMethod | Auto, rtol: float | None = None) -> None:
        self.method, self.rtol = method, RTOL if rtol is None else rtol
        self._last: Memory[Systems] = Memory()

    def fresh(self) -> LargePlanner:
        """An equal one that has no plan."""
        return LargePlanner(self.method, self.rtol)

    def systems(self, operand: SparseMatrix | Operator, leaves: tuple[Tensor, ...]) -> Systems:
        """Xi with these values, detached, as what plans are made for."""
        last = self._last.known(*leaves)
        if last is not None and last.serves(operand):
            return last
        for x, name in zip(leaves, operand_names(operand)):
            check_finite(x, name)
        return self._last.keep(Systems(operand, linear_of(operand, leaves)), *leaves)

    @property
    def last(self) -> Systems | None:
        return self._last.last


def operand_names(operand: SparseMatrix | Operator) -> list[str]:
    """What messages call the leaves."""
    if isinstance(operand, SparseMatrix):
        return ["Xi.values"]
    return [f"parameters[{i}]" for i in range(len(operand.parameters))]


class Systems:
    """Xi and -Xi, with the last plan of each."""

    def __init__(self, operand: SparseMatrix | Operator, Xi: Linear) -> None:
        self.made_of = operand.pattern if isinstance(operand, SparseMatrix) else operand
        self.both: dict[bool, Linear] = {False: Xi}
        self.plans: dict[bool, tuple[Task, LargePlan]] = {}

    def serves(self, operand: SparseMatrix | Operator) -> bool:
        return self.made_of is (operand.pattern if isinstance(operand, SparseMatrix) else operand)

    def linear(self, is_mirrored: bool) -> Linear:
        if is_mirrored not in self.both:
            self.both[is_mirrored] = self.both[False].negated()
        return self.both[is_mirrored]

    def plan(self, is_mirrored: bool, task: Task, method: LargeMethod | Auto) -> LargePlan:
        known = self.plans.get(is_mirrored)
        if known is not None and known[0] == task:
            return known[1]
        plan = choose(self.linear(is_mirrored), task, method)
        self.plans[is_mirrored] = task, plan
        return plan


def choose(A: Linear, task: Task, method: LargeMethod | Auto) -> LargePlan:
    """The plan of a method chosen by name, or of the cheapest whose own check passes, with reasons.

    Raises:
        MethodError: the method refuses this Xi; or all do.
    """
    if isinstance(method, LargeMethod):
        only = method.plan_large(A, task)
        if not only.is_accepted:
            raise MethodError(f"method {method.name!r} cannot be used for this Xi: {only.reason}; use method='auto'")
        return only
    candidates = [kind() for kind in large_registry().values()]
    if len(candidates) == 1:
        return choose(A, task, candidates[0])
    ranked = sorted(((*x.offer(A, task), x.name) for x in candidates), key=lambda x: x[0])
    rejected: list[str] = []
    for i, (seconds, _, make_plan, name) in enumerate(ranked):
        plan = make_plan()
        if plan.is_accepted:
            for cost, why, _, dearer in ranked[i + 1 :]:
                own = "not for this Xi" if not np.isfinite(cost) else f"some {cost:.2g} s, {name} {seconds:.2g} s"
                rejected.append(f"{dearer}: {own} ({why})")
            plan.rejected = tuple(rejected)
            return plan
        rejected.append(f"{name}: {plan.reason}")
    raise MethodError(f"no method can be used for this Xi: {'; '.join(rejected)}")


class Asked(NamedTuple):
    """The longest time and the number of times of a question."""

    t_max: float
    n_times: int


class Columns:
    """How batches become columns, one for each initial state or vector of an input, and times of each.

    Batch dimensions along which only t varies are further times (M), so that they cost no products.
    """

    def __init__(self, t: torch.Size, vectors: Sequence[torch.Size]) -> None:
        self.t, self.T, self.n = t, t[-1], vectors[0][-1]
        self.batch = batch = common_shape(t[:-1], *(x[:-1] for x in vectors))
        rank = len(batch)
        varies = [any(x[d - rank - 1] != 1 for x in vectors if len(x) - 1 >= rank - d) for d in range(rank)]
        self.columns = [d for d in range(rank) if varies[d]]
        self.others = [d for d in range(rank) if not varies[d]]
        self.R, self.M = prod(batch[d] for d in self.columns), prod(batch[d] for d in self.others)
        self.z_shape = (*batch, self.T, self.n)

    def _ordered(self, x: Tensor, n_own: int) -> Tensor:
        """(*batch, own) as (*columns, *others, own)."""
        rank = len(self.batch)
        x = x.expand(*self.batch, *x.shape[x.ndim - n_own :])
        return x.permute(*self.columns, *self.others, *range(rank, rank + n_own))

    def vectors(self, x: Tensor) -> np.ndarray:
        """(n, R) of (*batch, n)."""
        x = self._ordered(x, 1)
        x = x[(slice(None),) * len(self.columns) + (0,) * len(self.others)] if self.M else x.new_zeros(0)
        return np.ascontiguousarray(host(x.reshape(self.R, self.n)).T)

    def times(self, t: Tensor) -> np.ndarray:
        """(1, M T), or (R, M T) where they differ between columns."""
        t = self._ordered(t, 1)
        is_own = any(t.shape[i] > 1 and t.stride(i) != 0 for i in range(len(self.columns)))
        return host(t.reshape(self.R, self.M * self.T) if is_own else t.reshape(self.R, -1)[:1])

    def cotangents(self, g: Tensor) -> np.ndarray:
        """(R, M T, n) of (*batch, T, n)."""
        return host(self._ordered(g, 2).reshape(self.R, self.M * self.T, self.n))

    def _back(self, x: Tensor, own: tuple[int, ...]) -> Tensor:
        """(*batch, own) of (R, M * own[0], ...)."""
        order = [*self.columns, *self.others]
        x = x.reshape([*(self.batch[d] for d in order), *own])
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return x.permute([*inverse, *range(len(order), x.ndim)])

    def states(self, z: np.ndarray) -> Tensor:
        return self._back(torch.from_numpy(z), (self.T, self.n))

    def rates(self, dt: np.ndarray) -> Tensor:
        return self._back(torch.from_numpy(dt), (self.T,)).sum_to_size(self.t)

    def errors(self, error: np.ndarray) -> Tensor:
        """(*batch,) of (R,)."""
        return self._back(torch.from_numpy(error)[:, None].expand(-1, self.M), ())

    def of_vector(self, a: np.ndarray, shape: torch.Size) -> Tensor:
        """Gradients (n, R) in the shape of the vector: its columns, summed where it does not vary."""
        x = torch.from_numpy(np.ascontiguousarray(a.T))
        x = x.reshape(*(self.batch[d] for d in self.columns), *(1,) * len(self.others), self.n)
        order = [*self.columns, *self.others]
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return x.permute(*inverse, len(order)).sum_to_size(shape)


@dataclass
class Side:
    """Times of one sign: at which places, how long, and for which columns."""

    plan: LargePlan
    linear: Linear
    is_mirrored: bool
    terms: list[Term]
    index: np.ndarray  # of times, (T',)
    t: np.ndarray  # (1 or R, T'), >= 0
    mask: np.ndarray | None  # (R, T'): of times of other signs among them; None: all are of this one
    progress: Progress
    pullback: Pullback | None = None

    def own(self, x: np.ndarray) -> np.ndarray:
        """The rows of these times of (R, T, n), 0 for others."""
        part = x if len(self.index) == x.shape[1] else x[:, self.index]
        return part if self.mask is None else np.where(self.mask[..., None], part, 0)

    def put(self, x: np.ndarray, part: np.ndarray) -> None:
        if self.mask is None:
            x[:, self.index] = part
        else:
            x[:, self.index] = np.where(self.mask[..., None], part, x[:, self.index])


class LargeEvaluation:
    """One question with its plans: sum_j f_j(t, Xi) v_j for vectors (*batch, n) at times (*batch, T)."""

    def __init__(
        self,
        planner: LargePlanner,
        operand: SparseMatrix | Operator,
        kinds: Sequence[Kind],
        leaves: tuple[Tensor, ...],
        t: Tensor,
        vectors: Sequence[Tensor],
        wants_gradient: bool,
        like: Asked | None = None,
    ) -> None:
        """like: of what this question is one of many, for which one plan is to serve."""
        self.kinds, self.leaves, self.asked = kinds, leaves, vectors
        self.is_matrix = isinstance(operand, SparseMatrix)
        self.layout = layout = Columns(t.shape, [x.shape for x in vectors])
        self.dtype = result_type(operand, vectors, kinds)
        self.device = vectors[0].device
        self.sides: list[Side] = []
        self.is_empty = 0 in layout.z_shape
        if self.is_empty:
            return
        for i, x in enumerate(vectors):
            check_finite(x, "z0" if i == 0 else "the forcing")
        self.t = layout.times(t)  # (1 or R, T)
        least, most = extremes(torch.from_numpy(np.ascontiguousarray(self.t)))
        if not most - least < np.inf:
            check_finite(t, "t")
        is_complex = self.dtype.is_complex
        self.vectors = [layout.vectors(x) for x in vectors]
        self.kind = np.dtype(np.complex128 if is_complex else np.float64)
        if any(np.iscomplexobj(v) for v in self.vectors):
            self.vectors = [v.astype(np.complex128, copy=False) for v in self.vectors]
        systems = planner.systems(operand, tuple(x.detach() for x in leaves))
        self.linear = systems.linear(False)
        for is_mirrored, is_own in ((False, self.t > 0), (True, self.t < 0)):
            index = np.flatnonzero(is_own.any(0))
            if not len(index):
                continue
            own = is_own[:, index]
            times = np.where(own, np.abs(self.t[:, index]), 0.0)
            asked = Asked(float(times.max()), len(index))
            if like is not None:
                asked = Asked(max(asked.t_max, like.t_max), like.n_times)
            task = Task(*asked, layout.R, planner.rtol, wants_gradient)
            plan = systems.plan(is_mirrored, task, planner.method)
            terms = []
            for v, kind in zip(self.vectors, kinds):
                factor, seen = kind.mirrored() if is_mirrored else (1.0, kind)
                terms.append(Term(v if factor == 1.0 else factor * v, seen.name, seen.w))
            mask = None if own.all() else np.broadcast_to(own, (layout.R, len(index)))
            self.sides.append(
                Side(plan, systems.linear(is_mirrored), is_mirrored, terms, index, times, mask, Progress(""))
            )

    def states(self, report: Report | None = None, for_gradients: bool = False) -> Tensor:
        """z (*batch, T, n); for gradients, what they need again may be kept."""
        layout = self.layout
        if self.is_empty:
            if report is not None:
                report.add(torch.zeros(layout.batch, dtype=torch.float64, device="cpu"), None, [])
            return torch.zeros(layout.z_shape, dtype=self.dtype, device=self.device)
        z = np.zeros((layout.R, self.t.shape[1], layout.n), dtype=self.kind)
        error, trouble = np.zeros(layout.R), None
        for side in self.sides:
            side.progress.title = "linode: states"
            with side.progress as watch:
                if for_gradients:
                    answer, side.pullback = side.plan.record(side.terms, side.t, watch)
                else:
                    answer = side.plan.states(side.terms, side.t, watch)
            if len(self.sides) == 1 and side.mask is None and len(side.index) == z.shape[1]:
                z = answer.z
            else:
                side.put(z, answer.z)
            error, trouble = np.maximum(error, answer.error), trouble or answer.trouble
        self._start(z, self.vectors)
        if report is not None:
            report.add(layout.errors(error), trouble, [side.plan for side in self.sides])
        return layout.states(z).to(self.device, self.dtype)

    def sign(self, side: Side) -> float:
        """Of a change of the leaves, as one of what the side's plan was made for: entries of -Xi, or parameters."""
        return -1.0 if self.is_matrix and side.is_mirrored else 1.0

    def _start(self, z: np.ndarray, vectors: Sequence[np.ndarray]) -> None:
        """Write the state at time 0, to the last bit."""
        starts = [v for v, kind in zip(vectors, self.kinds) if kind.name == "exp"]
        for r, i in zip(*np.nonzero(self.t == 0)):
            rows = slice(None) if len(self.t) == 1 else slice(r, r + 1)
            z[rows, i] = sum(v.T[rows] for v in starts) if starts else 0.0

    def gradients(self, g: Tensor, z: Tensor | None, wants_t: bool, wants_others: bool) -> list[Tensor]:
        """Of L = sum Re<g, z>: with respect to what makes up Xi, to t and to the vectors; zeros where not wanted.

        z: the states, for dL/dt.
        """
        layout = self.layout
        own = [torch.zeros_like(x) for x in self.leaves]
        dt = torch.zeros(layout.t, dtype=torch.float64, device=self.device)
        if self.is_empty:
            return [*own, dt, *(torch.zeros_like(x) for x in self.asked)]
        cotangents = layout.cotangents(g)
        of_vectors = [np.zeros((layout.n, layout.R), dtype=np.result_type(cotangents, self.kind)) for _ in self.kinds]
        if wants_others:
            self._add_gradients(cotangents, own, of_vectors)
        if wants_t and z is not None:
            velocity = self._velocity(layout.cotangents(z))
            dt = layout.rates((cotangents.conj() * velocity).sum(-1).real).to(self.device)
        return [*own, dt, *(handed_over(layout.of_vector(a, x.shape), x) for a, x in zip(of_vectors, self.asked))]

    def _add_gradients(self, g: np.ndarray, own: list[Tensor], of_vectors: list[np.ndarray]) -> None:
        for r, i in zip(*np.nonzero(self.t == 0)):
            rows = slice(None) if len(self.t) == 1 else slice(r, r + 1)
            for a, kind in zip(of_vectors, self.kinds):
                if kind.name == "exp":
                    a.T[rows] += g[rows, i]
        for side in self.sides:
            side.progress.title = "linode: gradient"
            with side.progress as watch:
                own_g = side.own(g)
                found = side.pullback(own_g) if side.pullback else side.plan.vjp(side.terms, side.t, own_g, watch)
            of_Xi, parts = found
            for a, part, kind in zip(of_vectors, parts, self.kinds):
                a += (kind.mirrored()[0] if side.is_mirrored else 1.0) * part
            for x, part in zip(own, [of_Xi] if self.is_matrix else of_Xi or ()):
                x += handed_over(torch.from_numpy(np.asarray(self.sign(side) * part)), x).reshape(x.shape)

    def _velocity(self, z: np.ndarray) -> np.ndarray:
        """z'(t), (R, T, n), from the states."""
        R, T, n = z.shape
        rows, found = z.reshape(-1, n), np.empty_like(z).reshape(-1, n)
        size = max(1, MOST_NUMBERS // n)
        for i in range(0, len(rows), size):
            found[i : i + size] = self.linear.times(np.ascontiguousarray(rows[i : i + size].T)).T
        out = found.reshape(R, T, n)
        for v, kind in zip(self.vectors, self.kinds):
            rate = kind.rate(self.t)
            if rate is not None:
                out = out + rate[..., None] * v.T[:, None]
        return out

    def tangent(self, dleaves: Sequence[Tensor | None], dt: Tensor | None, dvectors: Sequence[Tensor | None]) -> Tensor:
        """The derivative of z along tangents; None: no change."""
        layout = self.layout
        if self.is_empty:
            return torch.zeros(layout.z_shape, dtype=self.dtype, device=self.device)
        tangents = [
            np.zeros_like(v) if d is None else layout.vectors(d).astype(v.dtype, copy=False)
            for v, d in zip(self.vectors, dvectors)
        ]
        dz: Any = np.zeros((layout.R, self.t.shape[1], layout.n), dtype=self.kind)
        z = np.zeros_like(dz)
        for side in self.sides:
            dXi: Any = None
            if any(d is not None for d in dleaves):
                parts = [host(torch.zeros_like(x) if d is None else d) for x, d in zip(self.leaves, dleaves)]
                dXi = self.sign(side) * parts[0] if self.is_matrix else parts
            factors = [kind.mirrored()[0] if side.is_mirrored else 1.0 for kind in self.kinds]
            own = [factor * d for factor, d in zip(factors, tangents)]
            found = side.plan.jvp(side.terms, side.t, dXi, own)
            side.put(z, found[0])
            side.put(dz, found[1])
        self._start(z, self.vectors)
        self._start(dz, tangents)
        if dt is not None:
            dz = dz + layout.times(dt.expand(layout.t))[..., None] * self._velocity(z)
        return layout.states(dz).to(self.device, self.dtype)
