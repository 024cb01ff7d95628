"""What a method is. To add one: write one file here with a `Method` subclass and decorate it with `@register`.

A method looks at detached data only. `plan(Xi)` factors what can be factored and checks its own work, system by
system; the plan then evaluates trajectories and their adjoints as pure functions of tensors. Times before 0, gradients
with respect to times and states that overflow are the engine's. Everything else (`auto`, `explain`, the contract tests,
the benchmarks) walks the registry.
Shapes inside methods: Xi (S, n, n) systems, z0 (S, R, n) initial states of each, t (S, R, T), z and g (S, R, T, n);
all float64 or complex128, t float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..kernels import small
from ..kernels.tensors import measured
from .costs import (
    SECONDS_PER_BYTE,
    SECONDS_PER_ENTRY,
    SECONDS_PER_FLOP,
    SECONDS_PER_LAUNCH,
    SECONDS_PER_OPERATOR,
    SECONDS_PER_ROW,
    SECONDS_PER_WAIT,
)

SMALLEST = 1e-300  # |Xi| whose inverse is a float
ROUNDINGS = 4 * 2.0**-53  # of |Xi|: what rounding does to eigenvalues; 0.2 to 10 units of it were seen, see `eig`
MATRIX_SHARE = 0.4  # n x n arrays that an operator writes: 75 of the 228 of `eig`, 155 of the 361 of `chain` do


class Workload(NamedTuple):
    """How much is asked: what a cost depends on beside Xi; and seconds of work that methods have in common.

    Example:
        >>> import linode
        >>> work = linode.methods.Workload(n_systems=1, n_trajectories=2, n_times=100, n=6, norm=3.0, t_max=10.0)
        >>> work.span, work.n_rows
        (30.0, 200)
    """

    n_systems: int
    n_trajectories: int
    n_times: int  # 0: not known yet, nor is t_max
    n: int
    norm: float  # largest |Xi|_1
    t_max: float  # largest |t|
    is_on_host: bool = True  # Xi is on the CPU
    is_diagonal: bool = False  # every Xi is
    has_metzler: bool = False  # an Xi has no negative entry off its diagonal
    own_t_max: Tensor | None = None  # (S,) of each system, on the CPU, where they differ

    @classmethod
    def of(cls, Xi: Tensor) -> Workload:
        """One trajectory of each system, at one time: that in which the largest of them turns or decays once."""
        norm, is_diagonal, has_metzler = measured(Xi)
        t_max = 1 / norm if norm > SMALLEST else 1.0
        return cls(len(Xi), 1, 1, Xi.shape[-1], norm, t_max, Xi.is_cpu, is_diagonal, has_metzler)

    @property
    def span(self) -> float:
        return self.norm * self.t_max

    @property
    def t_maxes(self) -> Tensor:
        """Largest |t| of each system, (S,), on the CPU: a system is judged by its own times."""
        if self.own_t_max is not None:
            return self.own_t_max
        return torch.full((self.n_systems,), self.t_max, dtype=torch.float64, device="cpu")

    def some(self, index: Tensor) -> Workload:
        """Of some of the systems."""
        own = None if self.own_t_max is None else self.own_t_max[index.cpu()]
        return self._replace(n_systems=len(index), own_t_max=own)

    @property
    def n_rows(self) -> int:
        """States asked for, per system."""
        return self.n_trajectories * self.n_times

    @property
    def power_span(self) -> float:
        """|Xi^p|^(1/p) t_max, by which powers of Xi grow: from span / sqrt(n), of entries with random signs, to span,
        of entries that are not negative; the geometric mean of both.
        """
        return self.span / self.n**0.25

    def operators(self, n_operators: float, n_waits: int = 0) -> float:
        """Seconds of so many torch operators on n x n matrices, without their multiplications, and of waits for them.

        Off the CPU nothing else is counted: of what methods are asked there, it takes the most time.
        """
        if not self.is_on_host:
            return n_operators * SECONDS_PER_LAUNCH + n_waits * SECONDS_PER_WAIT
        entries = MATRIX_SHARE * self.n_systems * self.n**2
        return n_operators * (SECONDS_PER_OPERATOR + entries * SECONDS_PER_ENTRY)

    def copies(self, n_numbers: float) -> float:
        """Seconds to copy so many float64 between the host and another device."""
        return 0.0 if self.is_on_host else 8 * n_numbers * SECONDS_PER_BYTE

    def product(self, n_entries: float) -> float:
        """Seconds of a product with n columns, of a matrix with so many entries."""
        return n_entries * (2 * self.n * SECONDS_PER_FLOP + SECONDS_PER_ROW)

    def polynomial(self, n_terms: int, n_passes: int) -> float:
        """Seconds of one state by a polynomial, and of its gradient: a product forward and two in reverse. Beside them
        n_passes arrays of states are written, and four of coefficients: counted, 66 to 100 entries of them for 18 to 20
        terms.
        """
        return 3 * self.product(n_terms) + (n_passes * self.n + 4 * n_terms) * SECONDS_PER_ENTRY


Gradients = tuple[Tensor, Tensor]  # S and a, see `Plan.vjp`
Pullback = Callable[[Tensor], Gradients]


class Plan(ABC):
    """A decomposition of Xi that can be evaluated many times, at times t >= 0.

    Needed are `method` and `Xi` (fields), `evaluate`, `vjp` and `subset`; the rest has defaults.

    Example:
        >>> import linode, torch
        >>> plan = linode.methods.Eig().plan(torch.tensor([[[-1.0]]], dtype=torch.float64))
        >>> plan.is_accepted, plan.reason
        (True, 'Xi is diagonal')
    """

    method: str
    Xi: Tensor  # (S, n, n)
    rejected: tuple[str, ...] = ()  # methods passed over before this one, with their reasons
    one_norm: float = torch.inf  # the largest |Xi|_1, where the engine has found it
    t_needed: float = 0.0  # the check holds if the largest time is at least this
    t_most: float = torch.inf  # and at most this
    t_ranges: tuple[Tensor, Tensor] | None = (
        None  # (S,) both of each system, on the CPU, where it was judged by its own
    )
    any_sign: bool = False  # times t < 0 are evaluated as accurately as others
    single_from: float = torch.inf  # entries of z from which on float32 and complex64 z0 and g may come as they are
    compiled: bytearray | None = None  # what the compiled kernel needs, if it evaluates the plan
    keeps_start: bool = False  # z at t = 0 is z0 to the last bit; elsewhere the engine writes it
    evaluated_by: str = "torch"

    @property
    def accepted(self) -> Tensor:
        """(S,) bool: the plan's own check, system by system."""
        return torch.ones(len(self.Xi), dtype=torch.bool, device=self.Xi.device)

    @property
    def reason(self) -> str:
        """Why, in words: the check and its figures."""
        return "it applies to every Xi"

    @property
    def details(self) -> dict[str, Any]:
        """Figures of the decomposition, for `explain` and `Stats`."""
        return {}

    def rounding(self, t_max: Tensor) -> Tensor | None:
        """Relative errors of states up to t_max (S,) that rounding may leave though Xi determines more digits, (S,).

        None: no more than a few roundings, or than the condition explains. At most ROUNDINGS times |Xi| t_max.
        """
        return None

    @abstractmethod
    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        """z_i = exp(Xi t_i) z0, (S, R, T, n)."""

    @abstractmethod
    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        """Gradients of sum Re<g, z>: S (S, n, n) with respect to Xi and a (S, R, n) with respect to z0."""

    @abstractmethod
    def subset(self, index: Tensor) -> Plan:
        """The same plan for some of the systems."""

    def record(self, z0: Tensor, t: Tensor) -> tuple[Tensor, Pullback]:
        """The states, and the function of g that gives their gradients: it may keep what it needs again."""
        return self.evaluate(z0, t), lambda g: self.vjp(z0, t, g)

    def adjoint(self) -> Plan:
        """The plan of Xi^H: here a new one by the method of this name, with its default options."""
        return default(self.method).plan(self.Xi.mT.conj_physical())

    @property
    def is_accepted(self) -> bool:
        """For every system."""
        return bool(self.accepted.all())

    def holds(self, t_max: float, own_t_max: Callable[[], Tensor] | None = None) -> bool:
        """Whether the check holds for times up to t_max, or up to those (S,) of each system."""
        if self.t_ranges is None and (own_t_max is None or self.t_needed == 0):
            return self.t_needed <= t_max <= self.t_most
        least, most = self.t_ranges or (self.t_needed, self.t_most)
        own = torch.tensor(t_max, dtype=torch.float64, device="cpu") if own_t_max is None else own_t_max()
        return bool(((own >= least) & (own <= most)).all())


class CompiledPlan(Plan):
    """A plan that the compiled kernel evaluates: see `kernels.small`."""

    compiled: bytearray
    single_from = 0
    keeps_start = True
    evaluated_by = "the compiled kernel"
    is_accepted = True

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        return small.asked(z0, t).states(self.compiled)

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        return small.asked(z0, t).vjp(self.compiled, g)[:2]


@dataclass(frozen=True)
class Method(ABC):
    """A way to evaluate exp(Xi t) z0; options are fields, and two equal methods behave the same.

    Needed are `name`, `summary`, `plan` and `cost`.

    Example:
        >>> import linode
        >>> linode.methods.Eig(max_condition=10.0) == linode.methods.Eig(max_condition=10.0)
        True
        >>> print(linode.methods.Taylor.summary)
        Taylor polynomials by matrix-vector products; large Xi, moderate spans
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    by_name_only: ClassVar[bool] = False  # `auto` never takes it
    needs_times: ClassVar[bool] = False  # its plans are for times up to those that are asked for
    most_seconds: ClassVar[float] = torch.inf  # estimated cost up to which `auto` takes it where it suits
    options: ClassVar[tuple[str, ...]] = ()  # names of the fields, filled in by `register`
    key: ClassVar[str]  # name and options as a literal
    alternative: ClassVar[str] = "propagator"  # what to name when this method cannot be accurate

    def __post_init__(self) -> None:
        options = ", ".join([f"{option!r}: {getattr(self, option)!r}" for option in self.options])
        object.__setattr__(self, "key", f"({self.name!r}, {{{options}}})")

    @abstractmethod
    def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> Plan:
        """Factor Xi and check the factors; never raises for numerical reasons, `accepted` says so instead.

        rtol: relative error that is good enough. work: what will be asked, where that matters to the check; None: one
        time of `Workload.of(Xi)`.
        """

    @abstractmethod
    def cost(self, work: Workload) -> float:
        """Estimated seconds for planning and one evaluation with its gradient."""

    def suits(self, Xi: Tensor, work: Workload) -> Tensor | bool:
        """Whether this is the method for Xi whatever others cost: for all systems alike, or (S,) bool."""
        return False


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
        ['auto', 'chain', 'eig', 'metzler', 'propagator', 'schur', 'taylor']
    """
    return dict(_REGISTRY)


def is_known(name: str) -> bool:
    """Whether a method of that name is registered."""
    return name in _REGISTRY


def classes() -> tuple[type[Method], ...]:
    """Every method, in the order in which they were registered."""
    return tuple(_REGISTRY.values())


def default(name: str) -> Method:
    """The method of that name with its default options."""
    method = _DEFAULTS.get(name)
    if type(method) is not _REGISTRY[name]:  # not made yet, or of a class that another has replaced
        method = _DEFAULTS[name] = _REGISTRY[name]()
    return method


@dataclass
class SplitPlan(Plan):
    """Different plans for different systems of one batch."""

    Xi: Tensor
    parts: list[tuple[Tensor, Plan]]

    def __post_init__(self) -> None:
        plans = [plan for _, plan in self.parts]
        self.method = "+".join(dict.fromkeys(plan.method for plan in plans))
        self.t_needed = max(plan.t_needed for plan in plans)
        self.t_most = min(plan.t_most for plan in plans)
        if any(plan.t_ranges for plan in plans):
            least, most = (torch.zeros(len(self.Xi), dtype=torch.float64, device="cpu") for _ in range(2))
            for index, plan in self.parts:
                least[index.cpu()], most[index.cpu()] = plan.t_ranges or (plan.t_needed, plan.t_most)
            self.t_ranges = least, most
        self.any_sign = all(plan.any_sign for plan in plans)
        self.evaluated_by = " and ".join(dict.fromkeys(plan.evaluated_by for plan in plans))

    @property
    def accepted(self) -> Tensor:
        accepted = torch.zeros(len(self.Xi), dtype=torch.bool, device=self.Xi.device)
        for index, plan in self.parts:
            accepted[index] = plan.accepted
        return accepted

    @property
    def reason(self) -> str:
        return "; ".join(f"{len(index)} systems by {plan.method}: {plan.reason}" for index, plan in self.parts)

    @property
    def details(self) -> dict[str, Any]:
        return {f"{plan.method}[{len(index)}]": plan.details for index, plan in self.parts}

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        z = z0.new_empty(*t.shape, z0.shape[-1])
        for index, plan in self.parts:
            z[index] = plan.evaluate(z0[index], t[index])
        return z

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        S, a = torch.empty_like(self.Xi), torch.empty_like(z0)
        for index, plan in self.parts:
            S[index], a[index] = plan.vjp(z0[index], t[index], g[index])
        return S, a

    def subset(self, index: Tensor) -> Plan:
        parts = []
        for systems, plan in self.parts:
            place, chosen = (index[:, None] == systems).nonzero(as_tuple=True)
            if len(place):
                parts.append((place, plan.subset(chosen)))
        return SplitPlan(self.Xi[index], parts)

    def adjoint(self) -> Plan:
        return SplitPlan(self.Xi.mT.conj_physical(), [(index, plan.adjoint()) for index, plan in self.parts])
