"""Many trajectories of one time each: any plan's propagators at few times, and products.

Times of their own are digits of radix 64 in steps of at most THETA / |Xi|, each digit a propagator, and what is left
over, a short Taylor polynomial.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.arrays import as_array, as_tensor, as_type, conj, expand, largest, of_kind, one_norm, permute, real
from ..kernels.series import short, short_vjp
from ..methods.base import HostPlan, Plan

THETA = 2.0  # |Xi| t that a Taylor polynomial of two dozen terms does by itself
DIGIT_BITS = 6
ROWS_ENTRIES = 2**18  # of rows at a time


@dataclass
class Many(Plan):
    """Another plan, for many trajectories (S, R) of one time each, t (S, R, 1) >= 0."""

    plan: Plan
    method: str = field(init=False)
    reason: str = field(init=False)

    def __post_init__(self) -> None:
        self.method, self.reason, self.rejected = self.plan.method, self.plan.reason, self.plan.rejected
        self.one_norm, self.t_needed, self.t_most = self.plan.one_norm, self.plan.t_needed, self.plan.t_most

    @property
    def Xi(self) -> Tensor:  # type: ignore[override]
        return self.plan.Xi

    @property
    def accepted(self) -> Tensor:  # type: ignore[override]
        return self.plan.accepted

    def subset(self, index: Tensor) -> Plan:
        return type(self)(self.plan.subset(index))


def makes_many(t: Tensor, n: int) -> type[Many] | None:
    """The kind that suits trajectories at times t (*batch, 1), if one does."""
    if t.numel() <= 2 * n:
        return None
    least, most = (float(x) for x in t.aminmax())
    return OneTime if least == most else OwnTimes if least >= 0 else None


class OneTime(Many):
    """All at the same time: one propagator is multiplied with all z0. Arrays or tensors."""

    takes_arrays = True

    def evaluate(self, z0: Any, t: Any) -> Any:
        E = propagators(self.plan, z0, t[:, :1])[:, 0]
        return (z0 @ E.mT)[:, :, None]

    def vjp(self, z0: Any, t: Any, g: Any, want_t: bool = True) -> tuple[Any, Any, Any]:
        E, rows = propagators(self.plan, z0, t[:, :1])[:, 0], g[:, :, 0]
        columns = [*_columns(z0, t[:, :1]), (conj(z0).mT @ rows)[:, :, None]]  # row j: cotangent of exp(Xi t) e_j
        if not (isinstance(z0, Tensor) or self.plan.takes_arrays):
            columns = [as_tensor(x) for x in columns]
        S = of_kind(self.plan.vjp(columns[0], columns[1], columns[2], False)[0], z0)
        if not want_t:
            return S, rows @ conj(E), None
        return S, rows @ conj(E), real((conj(rows) * (z0 @ (of_kind(self.Xi, z0) @ E).mT)).sum(-1))[:, :, None]


class OwnTimes(Many):
    """Each at its own. Arrays or tensors."""

    takes_arrays = True

    def evaluate(self, z0: Any, t: Any) -> Any:
        A = of_kind(self.Xi, z0)
        if is_short(A, t):
            return short(A, t[..., 0], z0)[:, :, None]
        digits = Digits.of(self.plan, as_tensor(z0), as_tensor(t)[..., 0])
        return of_kind(digits.climbed(short(digits.A, digits.rest, as_tensor(z0)))[-1][:, :, None], z0)

    def vjp(self, z0: Any, t: Any, g: Any, want_t: bool = True) -> tuple[Any, Any, Any]:
        A = of_kind(self.Xi, z0)
        if is_short(A, t):
            return *short_vjp(A, t[..., 0], z0, g[:, :, 0]), self._rates(z0, t, g) if want_t else None
        y, lam = as_tensor(z0), as_tensor(g)[:, :, 0]
        digits = Digits.of(self.plan, y, as_tensor(t)[..., 0])
        states = digits.climbed(short(digits.A, digits.rest, y))
        columns = []  # cotangents of the propagators
        for level in reversed(range(len(digits.E))):
            lam, of_E = digits.back(level, lam, states[level])
            columns.append(of_E)
        S, a = short_vjp(digits.A, digits.rest, y, lam)
        of_E = torch.cat(columns[::-1], 1).permute(0, 3, 1, 2)  # (S, n columns, times, n)
        S = S + self.plan.vjp(*_columns(y, digits.times), of_E, False)[0]
        return of_kind(S, z0), of_kind(a, z0), self._rates(z0, t, g) if want_t else None

    def _rates(self, z0: Any, t: Any, g: Any) -> Any:
        """dL/dt."""
        velocity = self.evaluate(z0, t)[:, :, 0] @ of_kind(self.Xi, z0).mT
        return real((conj(g[:, :, 0]) * velocity).sum(-1))[:, :, None]


def is_short(A: Any, t: Any) -> bool:
    """Whether one polynomial does it."""
    return float(one_norm(A).max()) * largest(t) <= THETA


@dataclass
class Digits:
    """t = rest + sum_l digit_l 64^l H, for t (S, R); E_l (S, n_digits, n, n) the propagators of the digits."""

    A: Tensor
    rest: Tensor  # (S, R)
    index: list[Tensor]  # of every level, into systems x digits (S, R)
    E: list[Tensor]
    times: Tensor  # (S, 1, all digits)

    @classmethod
    def of(cls, plan: Plan, like: Tensor, t: Tensor) -> Digits:
        A = plan.Xi.to(like.dtype)
        span = float(one_norm(A).max()) * float(t.amax())
        n_steps = int(span / (2 * THETA)) + 1
        H = float(t.amax()) / n_steps
        k = torch.round(t / H)
        rest, system = t - k * H, torch.arange(len(t), device=t.device)[:, None]
        k, index, times = k.to(torch.int64), [], []
        for level in range(max(1, -(-n_steps.bit_length() // DIGIT_BITS))):
            digit = (k >> (DIGIT_BITS * level)) % 2**DIGIT_BITS
            n_digits = int(digit.amax()) + 1
            index.append(system * n_digits + digit)
            times.append(torch.arange(n_digits, dtype=t.dtype, device=t.device) * (H * 2.0 ** (DIGIT_BITS * level)))
        every = torch.cat(times).expand(len(t), 1, -1)
        E = propagators(plan, like, every).split([len(x) for x in times], 1)
        return cls(A, rest, index, [x.contiguous() for x in E], every)

    def climbed(self, y: Tensor) -> list[Tensor]:
        """The states (S, R, n) before every level and after the last."""
        states = [y]
        for E, index in zip(self.E, self.index):
            states.append(_each(E.flatten(0, 1), index, states[-1]))
        return states

    def back(self, level: int, lam: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cotangents of the states y before a level, and of its propagators (S, n_digits, n, n)."""
        E, index, n = self.E[level], self.index[level].flatten(), lam.shape[-1]
        of_E = torch.zeros_like(E).flatten(0, 1).flatten(1)
        rows = max(1, ROWS_ENTRIES // n**2)
        for some, own, before in zip(index.split(rows), lam.reshape(-1, n).split(rows), y.reshape(-1, n).split(rows)):
            of_E.index_add_(0, some, (own[:, :, None] * conj(before)[:, None, :]).flatten(1))
        return _each(conj(E).mT.flatten(0, 1), self.index[level], lam), of_E.reshape(E.shape)


def _each(E: Tensor, index: Tensor, y: Tensor) -> Tensor:
    """E[index] y for every row, E (:, n, n), index (S, R), y (S, R, n)."""
    n = y.shape[-1]
    rows = max(1, ROWS_ENTRIES // n**2)
    parts = zip(index.flatten().split(rows), y.reshape(-1, n).split(rows))
    return torch.cat([(E[some] * own[:, None, :]).sum(-1) for some, own in parts]).reshape(y.shape)


@dataclass
class Short(HostPlan):
    """One time for every trajectory, so short that a Taylor polynomial does it all, for every Xi."""

    given: Any  # Xi (S, n, n), as a tensor or an array
    one_norm: float = torch.inf
    method: str = "series"
    reason: str = f"|Xi| t <= {THETA / 2:g}"

    @property
    def good(self) -> Any:  # type: ignore[override]
        return np.ones(len(self.given), dtype=bool)

    def subset(self, index: Tensor) -> Plan:
        return Short(self.Xi[index], self.one_norm)

    def evaluate(self, z0: Any, t: Any) -> Any:
        return short(of_kind(self.given, z0), t[..., 0], z0)[:, :, None]

    def vjp(self, z0: Any, t: Any, g: Any, want_t: bool = True) -> tuple[Any, Any, Any]:
        A = of_kind(self.given, z0)
        S, a = short_vjp(A, t[..., 0], z0, g[:, :, 0])
        rates = real((conj(g) * (self.evaluate(z0, t) @ A[:, None].mT)).sum(-1)) if want_t else None
        return S, a, rates


def propagators(plan: Plan, like: Any, t: Any) -> Any:
    """exp(Xi t), (S, T, n, n), for t (S, 1, T); arrays for arrays."""
    return permute(evaluated(plan, *_columns(like, t)), (0, 2, 3, 1))


def evaluated(plan: Plan, z0: Any, t: Any) -> Any:
    """What the plan evaluates, as arrays for arrays though it may take tensors only."""
    if isinstance(z0, Tensor) or plan.takes_arrays:
        return plan.evaluate(z0, t)
    return as_array(plan.evaluate(as_tensor(z0), as_tensor(t)))


def _columns(like: Any, t: Any) -> tuple[Any, Any]:
    """The columns of I as initial states, and their times: those of t (S, 1, T)."""
    S, n = like.shape[0], like.shape[-1]
    eye = as_type(of_kind(np.eye(n), like), like)
    return expand(eye, (S, n, n)), expand(t, (S, n, t.shape[-1]))
