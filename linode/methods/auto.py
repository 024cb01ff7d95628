"""The choice: the cheapest method whose own check passes, system by system, with the reasons for what was passed over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import MethodError
from .base import Method, Plan, SplitPlan, Workload, register, registry


@register
@dataclass(frozen=True)
class Auto(Method):
    """Tries methods in the order of their cost; each judges its own decomposition."""

    order: tuple[str, ...] = ("eig", "propagator")
    name: ClassVar[str] = "auto"
    summary: ClassVar[str] = "the cheapest method whose own check passes"

    def plan(self, Xi: Tensor, rtol: float | None = None) -> Plan:
        todo = torch.arange(Xi.shape[0], device=Xi.device)
        parts: list[tuple[Tensor, Plan]] = []
        rejected: list[str] = []
        for name in self.order:
            plan = registry()[name]().plan(Xi[todo], rtol)
            good, bad = plan.accepted.nonzero()[:, 0], (~plan.accepted).nonzero()[:, 0]
            if len(bad):
                rejected.append(f"{name}: {plan.reason}")
            if len(good):
                parts.append((todo[good], plan if not len(bad) else plan.subset(good)))
            todo = todo[bad]
            if not len(todo):
                break
        plan = parts[0][1] if len(parts) == 1 else SplitPlan(Xi, parts)
        plan.rejected = tuple(rejected)
        return plan

    def cost(self, work: Workload, one_norm: float) -> float:
        return min(registry()[name]().cost(work, one_norm) for name in self.order)


def make_method(method: Any) -> Method:
    """A method object from a name or a method object."""
    if isinstance(method, Method):
        return method
    names = ", ".join(repr(name) for name in sorted(registry()))
    if not isinstance(method, str):
        raise MethodError(f"method must be a name or a method object, got {type(method).__name__}; names: {names}")
    if method not in registry():
        raise MethodError(f"method {method!r} is unknown; known are {names}")
    return registry()[method]()
