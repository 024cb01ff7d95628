"""The choice: the cheapest method whose own check passes, system by system, with the reasons for what was passed
over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import MethodError, OptionError, meant
from .base import ROUNDINGS, Method, Plan, SplitPlan, Workload, classes, default, register, registry
from .large import LargeMethod, large_registry
from .propagator import CEILING, EXTENDED_MAX_N, Propagator

FEW_STATES = 16  # asked for, up to which digits count for more than time
LARGEST = 1e300  # costs of larger spans are those of this one


@register
@dataclass(frozen=True)
class Auto(Method):
    """Tries methods in the order of their estimated cost; each judges its own decomposition.

    Options: candidates, the names of those among which to choose; None: all that are registered.

    Example:
        >>> import linode
        >>> method = linode.methods.Auto(candidates=("eig", "schur"))
        >>> linode.LinearODE([[0.0, 1.0], [0.0, 0.0]], [1.0, 0.0], method=method).solve([1.0]).method
        'schur'
    """

    candidates: tuple[str, ...] | None = None
    name: ClassVar[str] = "auto"
    summary: ClassVar[str] = "the cheapest method whose own check passes"

    def __post_init__(self) -> None:
        names = self.names
        unknown = [name for name in names if name == self.name or name not in registry()]
        if unknown or not names:
            raise OptionError(f"candidates must name methods among {sorted(registry())}, got {self.candidates!r}")
        super().__post_init__()

    @property
    def names(self) -> tuple[str, ...]:
        """The candidates; where none are named, all registered methods but those that are taken by name only."""
        if self.candidates is not None:
            return self.candidates
        known = registry()
        return tuple(name for name in known if name != self.name and not known[name].by_name_only)

    def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> Plan:
        work = work or Workload.of(Xi)
        if work.is_on_host != Xi.is_cpu:
            work = work._replace(is_on_host=Xi.is_cpu)
        ranked = self.ranked(work)
        special = [x for x in ranked if type(x).suits is not Method.suits and x.suits(Xi, work) is not False]
        first: Plan | None = None
        if not special:
            first = ranked[0].plan(Xi, rtol, work)
            if first.is_accepted and work.span * ROUNDINGS <= CEILING:  # no plan has more rounding: nothing to choose
                return first
        choice = Choice(Xi, rtol, work, ranked)
        for method in special:
            suited = method.suits(Xi if choice.todo is None else Xi[choice.todo], work)
            if suited is False or (suited is not True and not bool(suited.any())):
                continue
            if (seconds := method.cost(work)) > method.most_seconds:
                choice.rejected.append(f"{method.name}: more accurate, but takes some {seconds:.1g} s")
            elif choice.attempt(method, None if suited is True else suited.to(Xi.device)):
                return choice.plan()
        untried: Method | None = ranked[0]
        while untried is not None:
            if untried not in choice.tried and choice.attempt(untried, plan=first):
                return choice.plan()
            first = None
            untried = next((method for method in self.ranked(choice.work) if method not in choice.tried), None)
        raise MethodError(f"no method of {self.names!r} is accurate for this Xi: {'; '.join(choice.rejected)}")

    def ranked(self, work: Workload) -> list[Method]:
        """The candidates by estimated cost."""
        # rounded to 7 %, so that steps of training, whose spans differ little, find their order in the cache
        span = round(10 * math.log2(work.span + 1 if work.span < LARGEST else LARGEST))
        return _ranked(self.candidates, classes(), work[:4], span / 10, work.is_on_host, work.is_diagonal)

    def cost(self, work: Workload) -> float:
        return min(default(name).cost(work) for name in self.names)


class Choice:
    """Systems with the plans that were accepted for them, and what was passed over."""

    def __init__(self, Xi: Tensor, rtol: float | None, work: Workload, candidates: list[Method]) -> None:
        self.Xi, self.rtol, self.work = Xi, rtol, work
        is_few = work.n_systems * work.n_rows <= FEW_STATES and work.n <= EXTENDED_MAX_N
        has_careful = is_few and any(isinstance(method, Propagator) for method in candidates)
        self.ceiling = max(CEILING, rtol or 0.0) if has_careful else math.inf  # of rounding, which `propagator` keeps
        self.parts: list[tuple[Tensor, Plan]] = []
        self.whole: Plan | None = None  # one for all systems
        self.rejected: list[str] = []
        self.tried: set[Method] = set()  # for all systems that were left
        self.todo: Tensor | None = None  # None: all

    @property
    def indices(self) -> Tensor:
        """Of the systems without a plan."""
        return torch.arange(len(self.Xi), device=self.Xi.device) if self.todo is None else self.todo

    def attempt(self, method: Method, suited: Tensor | None = None, plan: Plan | None = None) -> bool:
        """Try a method for the systems left, or for the suited among them; whether all systems have a plan then.

        plan: of the method for the systems left, if there is one already.
        """
        index = self.todo
        if suited is None or bool(suited.all()):
            self.tried.add(method)
        else:
            index = self.indices[suited]
        work = self.work if index is None else self.work._replace(n_systems=len(index))
        if plan is None:
            plan = method.plan(self.Xi if index is None else self.Xi[index], self.rtol, work)
        accepted = self.judged(plan, method.name)
        if index is None:
            if accepted is None:
                self.whole = plan
                return True
            index = self.indices
        if accepted is None:
            self.parts.append((index, plan))
        elif bool(accepted.any()):
            good = accepted.nonzero()[:, 0]
            index = index[good]
            self.parts.append((index, plan.subset(good)))
        else:
            index = index[:0]
        left = self.indices
        self.todo = left[~torch.isin(left, index)]
        self.work = self.work._replace(n_systems=len(self.todo))
        return len(self.todo) == 0

    def judged(self, plan: Plan, name: str) -> Tensor | None:
        """(S,) bool: whether the plan is accepted for each system; None: for all. Others are noted with the reason."""
        accepted = None if plan.is_accepted else plan.accepted
        if accepted is not None:
            self.rejected.append(f"{name}: {plan.reason}")
        if self.work.span * ROUNDINGS > self.ceiling:  # else no plan has so much rounding
            rounding = plan.rounding(self.work.t_max)
            if rounding is not None and not bool((rounding <= self.ceiling).all()):
                self.rejected.append(f"{name}: rounding of {float(rounding.max()):.1g} > {self.ceiling:.1g}")
                accepted = plan.accepted & (rounding <= self.ceiling).to(self.Xi.device)
        return accepted

    def plan(self) -> Plan:
        plan = self.whole
        if plan is None:
            plan = self.parts[0][1] if len(self.parts) == 1 else SplitPlan(self.Xi, self.parts)
        plan.rejected = tuple(self.rejected)
        return plan


@lru_cache(maxsize=1024)
def _ranked(
    candidates: tuple[str, ...] | None,
    known: tuple[type[Method], ...],
    sizes: tuple[int, int, int, int],
    octaves: float,
    is_on_host: bool,
    is_diagonal: bool,
) -> list[Method]:
    """known: all registered methods, so that a new one is ranked too. octaves: log2(span + 1)."""
    n_systems, n_trajectories, n_times, n = sizes
    work = Workload(n_systems, n_trajectories, n_times, n, 2**octaves - 1, 1.0, is_on_host, is_diagonal)
    methods = [default(name) for name in Auto(candidates).names]
    if work.n_times == 0:  # not known yet
        methods = [m for m in methods if not m.needs_times] or methods
    return sorted(methods, key=lambda method: method.cost(work))


def make_method(method: Any) -> Method:
    """A method object from a name or a method object.

    Raises:
        MethodError: there is no method of that name.

    Example:
        >>> import linode
        >>> linode.methods.make_method("eig")
        Eig(max_condition=1000.0)
    """
    if isinstance(method, str) and method in registry():
        return default(method)
    if isinstance(method, Method):
        return method
    names = ", ".join(repr(name) for name in sorted(registry()))
    if isinstance(method, LargeMethod) or (isinstance(method, str) and method in large_registry()):
        name = method if isinstance(method, str) else method.name
        raise MethodError(
            f"method {name!r} is for Xi given as a sparse matrix or an operator; for a dense Xi there are {names}"
        )
    if not isinstance(method, str):
        raise MethodError(
            "method must be a name or a method object such as linode.methods.Eig(), "
            f"got {type(method).__name__}; names: {names}"
        )
    raise MethodError(f"method {method!r} is unknown; known are {names}{meant(method, registry())}")
