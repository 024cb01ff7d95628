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
from .base import Method, Plan, SplitPlan, Workload, classes, default, register, registry

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
        parts: list[tuple[Tensor, Plan]] = []
        rejected: list[str] = []
        todo: Tensor | None = None  # all of them
        tried: set[Method] = set()
        ranked = self.ranked(work)
        method: Method | None = next((method for method in ranked if method.suits(Xi)), ranked[0])
        while method is not None:
            tried.add(method)
            plan = method.plan(Xi if todo is None else Xi[todo], rtol, work)
            if plan.is_accepted:
                if todo is not None:
                    parts.append((todo, plan))
                    plan = parts[0][1] if len(parts) == 1 else SplitPlan(Xi, parts)
                plan.rejected = tuple(rejected)
                return plan
            rejected.append(f"{method.name}: {plan.reason}")
            todo = torch.arange(len(Xi), device=Xi.device) if todo is None else todo
            good, bad = plan.accepted.nonzero()[:, 0], (~plan.accepted).nonzero()[:, 0]
            if len(good):
                parts.append((todo[good], plan.subset(good)))
            todo = todo[bad]
            work = work._replace(n_systems=len(todo))
            method = next((method for method in self.ranked(work) if method not in tried), None)
        raise MethodError(f"no method of {self.names!r} is accurate for this Xi: {'; '.join(rejected)}")

    def ranked(self, work: Workload) -> list[Method]:
        """The candidates by estimated cost."""
        # rounded to 7 %, so that steps of training, whose spans differ little, find their order in the cache
        span = round(10 * math.log2(min(work.span, LARGEST) + 1))
        return _ranked(self.candidates, classes(), Workload(*work[:4], 2 ** (span / 10) - 1, 1.0, work.is_on_host))

    def cost(self, work: Workload) -> float:
        return min(default(name).cost(work) for name in self.names)


@lru_cache(maxsize=1024)
def _ranked(candidates: tuple[str, ...] | None, known: tuple[type[Method], ...], work: Workload) -> list[Method]:
    """known: all registered methods, so that a new one is ranked too."""
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
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in registry():
        return default(method)
    names = ", ".join(repr(name) for name in sorted(registry()))
    if not isinstance(method, str):
        raise MethodError(
            "method must be a name or a method object such as linode.methods.Eig(), "
            f"got {type(method).__name__}; names: {names}"
        )
    raise MethodError(f"method {method!r} is unknown; known are {names}{meant(method, registry())}")
