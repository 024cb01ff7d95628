"""Many trajectories of one time each: propagators at a few times, multiplied with the initial states.

Times that differ are written in steps of at most 2 THETA / |Xi| and in radix 64: each digit selects a propagator, and a
short Taylor polynomial covers the remainder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.series import short, short_vjp
from ..kernels.tensors import one_norm
from ..methods.base import Gradients, Plan

THETA = 2.0  # largest |Xi| t of a Taylor polynomial alone; it then has two dozen terms
DIGIT_BITS = 6  # radix 64
ROWS_ENTRIES = 2**18  # entries of the propagators that are gathered at a time: 2 MiB


@dataclass
class Many(Plan):
    """Another plan, for many trajectories (S, R) of one time each, t (S, R, 1)."""

    plan: Plan

    def __post_init__(self) -> None:
        self.method, self.Xi, self.rejected = self.plan.method, self.plan.Xi, self.plan.rejected

    def subset(self, index: Tensor) -> Plan:
        return type(self)(self.plan.subset(index))


def makes_many(t: Tensor, n: int) -> type[Many] | None:
    """The class for trajectories at times t (*batch, 1); None where neither is faster than the plan itself."""
    if t.numel() <= 2 * n:
        return None
    least, most = torch.stack(t.aminmax()).tolist()
    return OneTime if least == most else OwnTimes if least >= 0 else None


class OneTime(Many):
    """All trajectories have the same time: one propagator is multiplied with all z0."""

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        E = propagators(self.plan, z0, t[:, :1])[:, 0]
        return (z0 @ E.mT)[:, :, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        E, rows = propagators(self.plan, z0, t[:, :1])[:, 0], g[:, :, 0]
        of_columns = (z0.conj_physical().mT @ rows)[:, :, None]  # row j: cotangent of exp(Xi t) e_j
        S, _ = self.plan.vjp(*_columns(z0, t[:, :1]), of_columns)
        return S, rows @ E.conj_physical()


class OwnTimes(Many):
    """Each trajectory has its own time."""

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        if is_short(self.Xi, t):
            return short(self.Xi, t[..., 0], z0)[:, :, None]
        digits = Digits.of(self.plan, z0, t[..., 0])
        return digits.climbed(short(digits.A, digits.rest, z0))[-1][:, :, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        lam = g[:, :, 0]
        if is_short(self.Xi, t):
            return short_vjp(self.Xi, t[..., 0], z0, lam)
        digits = Digits.of(self.plan, z0, t[..., 0])
        states = digits.climbed(short(digits.A, digits.rest, z0))
        columns = []  # cotangents of the propagators
        for level in reversed(range(len(digits.E))):
            lam, of_E = digits.back(level, lam, states[level])
            columns.append(of_E)
        S, a = short_vjp(digits.A, digits.rest, z0, lam)
        of_columns = torch.cat(columns[::-1], 1).permute(0, 3, 1, 2)  # (S, n columns, times, n)
        return S + self.plan.vjp(*_columns(z0, digits.times), of_columns)[0], a


def is_short(A: Tensor, t: Tensor) -> bool:
    """Whether a Taylor polynomial alone is accurate for all times."""
    return float(one_norm(A).max()) * float(t.abs().max()) <= THETA


@dataclass
class Digits:
    """t = rest + sum_l digit_l 64^l H, for t (S, R); E_l (S, n_digits, n, n) the propagators of the digits."""

    A: Tensor
    rest: Tensor  # (S, R)
    index: list[Tensor]  # for each level, (S, R): place in E with its first two dimensions joined
    E: list[Tensor]
    times: Tensor  # (S, 1, all digits), those of the propagators

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
            of_E.index_add_(0, some, (own[:, :, None] * before.conj_physical()[:, None, :]).flatten(1))
        return _each(E.conj_physical().mT.flatten(0, 1), self.index[level], lam), of_E.reshape(E.shape)


def _each(E: Tensor, index: Tensor, y: Tensor) -> Tensor:
    """E[index] y for every row, E (:, n, n), index (S, R), y (S, R, n)."""
    n = y.shape[-1]
    rows = max(1, ROWS_ENTRIES // n**2)
    parts = zip(index.flatten().split(rows), y.reshape(-1, n).split(rows))
    return torch.cat([(E[some] * own[:, None, :]).sum(-1) for some, own in parts]).reshape(y.shape)


@dataclass
class Short(Plan):
    """One time for each trajectory, so short that a Taylor polynomial alone is accurate for every Xi."""

    Xi: Tensor
    method = "series"
    any_sign = True

    @property
    def reason(self) -> str:
        return f"|Xi| t <= {THETA / 2:g}"

    def subset(self, index: Tensor) -> Plan:
        return Short(self.Xi[index])

    def adjoint(self) -> Plan:
        return Short(self.Xi.mT.conj_physical())

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        return short(self.Xi, t[..., 0], z0)[:, :, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        return short_vjp(self.Xi, t[..., 0], z0, g[:, :, 0])


def propagators(plan: Plan, like: Tensor, t: Tensor) -> Tensor:
    """exp(Xi t), (S, T, n, n), for t (S, 1, T)."""
    return plan.evaluate(*_columns(like, t)).permute(0, 2, 3, 1)


def _columns(like: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of I as initial states, and their times: those of t (S, 1, T)."""
    S, n = like.shape[0], like.shape[-1]
    eye = torch.eye(n, dtype=like.dtype, device=like.device)
    return eye.expand(S, n, n), t.expand(S, n, t.shape[-1])
