"""What a method is. To add one: write one file here with a `Method` subclass and decorate it with `@register`.

A method looks at detached data only. `plan(Xi)` factors what can be factored and checks its own work, system by
system; the plan then evaluates trajectories and their adjoints as pure functions of tensors. Everything else (`auto`,
`explain`, the contract tests, the benchmarks) walks the registry.
Shapes inside methods: Xi (S, n, n) systems, z0 (S, R, n) initial states of each, t (S, R, T), z and g (S, R, T, n);
all float64 or complex128, t float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import MethodError


@dataclass(frozen=True)
class Workload:
    """How much is asked: what a cost depends on beside Xi.

    Example:
        >>> import linode
        >>> work = linode.methods.Workload(n_systems=1, n_trajectories=2, n_times=100, n=6, norm=3.0, t_max=10.0)
        >>> work.span, work.n_rows
        (30.0, 200)
    """

    n_systems: int
    n_trajectories: int
    n_times: int
    n: int
    norm: float  # largest |Xi|_1
    t_max: float  # largest |t|

    @property
    def span(self) -> float:
        return self.norm * self.t_max

    @property
    def n_rows(self) -> int:
        """States asked for, per system."""
        return self.n_trajectories * self.n_times


Pullback = Callable[[Any, bool], tuple[Any, Any, Any]]  # (g, want_t) -> S, a, dt, as `Plan.vjp`


class Plan(ABC):
    """A decomposition of Xi that can be evaluated many times.

    Example:
        >>> import linode, torch
        >>> plan = linode.methods.Eig().plan(torch.tensor([[[-1.0]]], dtype=torch.float64))
        >>> plan.is_accepted, plan.reason
        (True, 'Xi is diagonal')
    """

    method: str
    Xi: Tensor
    accepted: Tensor  # (S,) bool: the plan's own check, system by system
    reason: str  # why, in words: the check and its figures
    rejected: tuple[str, ...] = ()  # methods passed over before this one, with their reasons
    one_norm: float = torch.inf  # largest |Xi|_1
    t_needed: float = 0.0  # the check holds where the largest time is at least this,
    t_most: float = torch.inf  # and at most this
    takes_arrays: ClassVar[bool] = False  # evaluates NumPy arrays too, which is faster where they are small
    prefers_arrays: bool = False  # however large they are
    takes_single: ClassVar[bool] = False  # evaluates float32 and complex64 z0 and g too, in half of the time

    @abstractmethod
    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        """z_i = exp(Xi t_i) z0, (S, R, T, n)."""

    @abstractmethod
    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of sum Re<g, z>: S (S, n, n), a (S, R, n), and with respect to t (S, R, T) where wanted."""

    def record(self, z0: Tensor, t: Tensor) -> tuple[Tensor, Pullback]:
        """The states, and the function of (g, want_t) that gives their gradients: it may keep what it needs again."""
        return self.evaluate(z0, t), lambda g, want_t: self.vjp(z0, t, g, want_t)

    @abstractmethod
    def subset(self, index: Tensor) -> Plan:
        """The same plan for some of the systems."""

    @property
    def is_accepted(self) -> bool:
        """For every system."""
        return bool(self.accepted.all())

    @property
    def details(self) -> dict[str, Any]:
        """Figures of the decomposition, for `explain` and `Stats`."""
        return {}


class HostPlan(Plan):
    """A plan of arrays on the host, for Xi that was given as a tensor or as an array."""

    given: Any  # Xi (S, n, n)
    good: NDArray[Any]  # (S,) bool: accepted
    takes_arrays = True

    @property
    def Xi(self) -> Tensor:  # type: ignore[override]
        if not isinstance(self.given, Tensor):
            self.given = torch.from_numpy(self.given)
        return self.given

    @property
    def accepted(self) -> Tensor:  # type: ignore[override]
        return torch.from_numpy(self.good).to(self.Xi.device)

    @property
    def is_accepted(self) -> bool:
        return bool(self.good.all())


@dataclass(frozen=True)
class Method(ABC):
    """A way to evaluate exp(Xi t) z0; options are fields, and two equal methods behave the same.

    Example:
        >>> import linode
        >>> linode.methods.Eig(max_condition=10.0) == linode.methods.Eig(max_condition=10.0)
        True
        >>> print(linode.methods.Taylor.summary)
        Taylor polynomials by matrix-vector products; large Xi, moderate spans
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs_host: ClassVar[bool] = False  # factors Xi by LAPACK, on the CPU, wherever it lives
    is_sequential: ClassVar[bool] = False  # many small operations: off the CPU launching them takes longer than they do
    takes_arrays: ClassVar[bool] = False  # plans NumPy arrays too
    options: ClassVar[tuple[str, ...]] = ()  # names of the fields, filled in by `register`
    key: ClassVar[str]  # name and options as a literal
    alternative: ClassVar[str] = "propagator"  # what to name when this method cannot be accurate

    def __post_init__(self) -> None:
        options = ", ".join([f"{option!r}: {getattr(self, option)!r}" for option in self.options])
        object.__setattr__(self, "key", f"({self.name!r}, {{{options}}})")

    @abstractmethod
    def plan(self, Xi: Tensor, rtol: float | None = None) -> Plan:
        """Factor Xi and check the factors; never raises for numerical reasons, `accepted` says so instead."""

    @abstractmethod
    def cost(self, work: Workload) -> float:
        """Estimated seconds for planning and one evaluation with its gradient."""

    def try_plan(self, Xi: Any, work: Workload, rtol: float | None = None) -> Plan:
        """As `plan`, for a workload that may matter to the check."""
        return self.plan(Xi, rtol)

    def given(self, Xi: Any) -> Any:
        """A tensor, or the array that it was where the method takes arrays."""
        return Xi if self.takes_arrays or isinstance(Xi, Tensor) else torch.from_numpy(Xi)

    def plan_for(self, Xi: Any, work: Workload, rtol: float | None = None) -> Plan:
        """The plan for a workload: where the method cannot be accurate, it raises."""
        plan = self.try_plan(self.given(Xi), work, rtol)
        if not plan.is_accepted:
            which = int((~plan.accepted).nonzero()[0])
            system = "" if Xi.shape[0] == 1 else f" (system {which} of the batch)"
            raise MethodError(
                f"method {self.name!r} cannot be accurate for this Xi{system}: {plan.reason}; "
                f"use method={self.alternative!r} or 'auto'"
            )
        return plan


_REGISTRY: dict[str, type[Method]] = {}
_DEFAULTS: dict[str, Method] = {}
MethodType = TypeVar("MethodType", bound=type[Method])


def register(method: MethodType) -> MethodType:
    """Class decorator, outermost: make the method known under its name.

    Example:
        >>> import linode
        >>> from dataclasses import dataclass
        >>> @linode.methods.register
        ... @dataclass(frozen=True)
        ... class Cautious(linode.methods.Eig):
        ...     max_condition: float = 2.0
        ...     name = "cautious"
        >>> linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0], method="cautious")([0.0]).tolist()
        [[1.0, 0.0]]
        >>> del linode.methods.base._REGISTRY["cautious"]
    """
    method.options = tuple(option.name for option in fields(method))
    _REGISTRY[method.name] = method
    return method


def registry() -> dict[str, type[Method]]:
    """Every method by name.

    Example:
        >>> import linode
        >>> sorted(linode.methods.registry())
        ['auto', 'chain', 'eig', 'propagator', 'schur', 'taylor']
    """
    return dict(_REGISTRY)


def default(name: str) -> Method:
    """The method of that name with its default options."""
    method = _DEFAULTS.get(name)
    if type(method) is not _REGISTRY[name]:  # not made yet, or of a class that another has replaced
        method = _DEFAULTS[name] = _REGISTRY[name]()
    return method


def times_gradient(Xi: Tensor, z: Tensor, g: Tensor) -> Tensor:
    """dL/dt_i = Re <g_i, Xi z_i>, (S, R, T)."""
    S, R, T, n = z.shape
    rate = (z.reshape(S, R * T, n) @ Xi.mT).reshape(z.shape)
    return (g.conj_physical() * rate).sum(-1).real if g.is_complex() else (g * rate).sum(-1)


@dataclass
class SplitPlan(Plan):
    """Different plans for different systems of one batch."""

    Xi: Tensor
    parts: list[tuple[Tensor, Plan]]
    method: str = field(init=False)
    accepted: Tensor = field(init=False)
    reason: str = field(init=False)

    def __post_init__(self) -> None:
        self.method = "+".join(dict.fromkeys(plan.method for _, plan in self.parts))
        self.accepted = self.Xi.new_zeros(self.Xi.shape[0], dtype=torch.bool)
        for index, plan in self.parts:
            self.accepted[index] = plan.accepted
        self.t_needed = max(plan.t_needed for _, plan in self.parts)
        self.t_most = min(plan.t_most for _, plan in self.parts)
        self.reason = "; ".join(f"{len(index)} systems by {plan.method}: {plan.reason}" for index, plan in self.parts)

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        z = z0.new_empty(*t.shape, z0.shape[-1])
        for index, plan in self.parts:
            z[index] = plan.evaluate(z0[index], t[index])
        return z

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        S, a = torch.empty_like(self.Xi), torch.empty_like(z0)
        dt = torch.empty_like(t) if want_t else None
        for index, plan in self.parts:
            S[index], a[index], part = plan.vjp(z0[index], t[index], g[index], want_t)
            if dt is not None and part is not None:
                dt[index] = part
        return S, a, dt

    def subset(self, index: Tensor) -> Plan:
        keep = torch.zeros(self.Xi.shape[0], dtype=torch.bool, device=self.Xi.device)
        keep[index] = True
        rank = torch.cumsum(keep, 0) - 1
        parts = []
        for systems, plan in self.parts:
            chosen = keep[systems].nonzero()[:, 0]
            if len(chosen):
                parts.append((rank[systems[chosen]], plan.subset(chosen)))
        return SplitPlan(self.Xi[keep], parts)

    @property
    def details(self) -> dict[str, Any]:
        return {f"{plan.method}[{len(index)}]": plan.details for index, plan in self.parts}
