"""Many trajectories of one time each, or steps of a recurrence: any plan's propagators at few times, and products.

Times of their own are digits of radix 64 in steps of at most THETA / |Xi|, each digit a propagator, and what is left
over, a short Taylor polynomial.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..kernels.arrays import conj, real
from ..kernels.modal import Modes
from ..kernels.recurrence import changing, exponents, steady
from ..problem import is_finite
from .base import Plan, times_gradient
from .eig import EigPlan

WINDOW_ENTRIES = 2**21  # of propagators at a time
THETA = 2.0  # |Xi| t that a Taylor polynomial of two dozen terms does by itself
DIGIT_BITS = 6
CHUNK_ENTRIES = 2**18  # of rows at a time


@dataclass
class Many(Plan):
    """Another plan, for many trajectories (S, R) of one time each, t (S, R, 1) >= 0."""

    plan: Plan
    method: str = field(init=False)
    reason: str = field(init=False)

    def __post_init__(self) -> None:
        self.method, self.reason, self.rejected = self.plan.method, self.plan.reason, self.plan.rejected

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
    """All at the same time: one propagator is multiplied with all z0."""

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        E = propagators(self.plan, z0, t[:, :1])[:, 0]
        return (z0 @ E.mT)[:, :, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        E, rows = propagators(self.plan, z0, t[:, :1])[:, 0], g[:, :, 0]
        of_columns = conj(z0).mT @ rows  # row j: the cotangent of exp(Xi t) e_j
        S, _, _ = self.plan.vjp(*_columns(z0, t[:, :1]), of_columns[:, :, None], False)
        rates = real((conj(rows) * (z0 @ (self.Xi @ E).mT)).sum(-1))[:, :, None] if want_t else None
        return S, rows @ conj(E), rates


class OwnTimes(Many):
    """Each at its own."""

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        digits = Digits.of(self.plan, z0, t[..., 0])
        return digits.climbed(short(digits.A, digits.rest, z0))[-1][:, :, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        digits, lam = Digits.of(self.plan, z0, t[..., 0]), g[:, :, 0]
        states = digits.climbed(short(digits.A, digits.rest, z0))
        rates = real((conj(lam) * (states[-1] @ self.Xi.mT)).sum(-1))[:, :, None] if want_t else None
        columns = []  # cotangents of the propagators
        for level in reversed(range(len(digits.E))):
            lam, of_E = digits.back(level, lam, states[level])
            columns.append(of_E)
        S, a = short_vjp(digits.A, digits.rest, z0, lam)
        if columns:
            of_E = torch.cat(columns[::-1], 1).permute(0, 3, 1, 2)  # (S, n columns, times, n)
            S = S + self.plan.vjp(*_columns(z0, digits.times), of_E, False)[0]
        return S, a, rates


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
        span = float(A.abs().sum(-2).amax()) * float(t.amax())
        if span <= THETA:
            return cls(A, t, [], [], t[:, None, :0])
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
        rows = max(1, CHUNK_ENTRIES // n**2)
        for some, own, before in zip(index.split(rows), lam.reshape(-1, n).split(rows), y.reshape(-1, n).split(rows)):
            of_E.index_add_(0, some, (own[:, :, None] * conj(before)[:, None, :]).flatten(1))
        return _each(conj(E).mT.flatten(0, 1), self.index[level], lam), of_E.reshape(E.shape)


def _each(E: Tensor, index: Tensor, y: Tensor) -> Tensor:
    """E[index] y for every row, E (:, n, n), index (S, R), y (S, R, n)."""
    n = y.shape[-1]
    rows = max(1, CHUNK_ENTRIES // n**2)
    parts = zip(index.flatten().split(rows), y.reshape(-1, n).split(rows))
    return torch.cat([(E[some] * own[:, None, :]).sum(-1) for some, own in parts]).reshape(y.shape)


def short(A: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """exp(A t) y by a Taylor polynomial, A (S, n, n), t (S, R), y (S, R, n): (s^p y) for all p, times A^p / p!."""
    used = (y != 0).any(0).any(0)  # what drives a forced problem starts beside a state of zeros
    used[0] |= ~used.any()  # one of them, if all are zeros
    if not bool(used.all()):
        y = y[..., used]
    terms = _terms(A, t)[..., used].transpose(-3, -2).flatten(-2).mT  # (S, n_terms n_used, n)
    return torch.cat([_weighted(s, own, terms) @ terms for s, own in _chunks(terms, t, y)], 1)


def short_vjp(A: Tensor, t: Tensor, y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients with respect to A and y of sum Re <g, exp(A t) y>."""
    terms = _terms(A, t)
    n_terms, n = terms.shape[1:3]
    back = conj(terms).transpose(-3, -2).flatten(-2)  # (S, n, n_terms n): g to the cotangents of s^p y
    of_terms, of_y = torch.zeros_like(back).mT, []
    for s, own, lam in _chunks(back.mT, t, y, g):
        of_terms = of_terms + _weighted(s, conj(own), back.mT).mT @ lam
        of_y.append(((lam @ back).unflatten(-1, (n_terms, n)) * _powers(s, n_terms)).sum(-2))
    of_terms = of_terms.unflatten(1, (n_terms, n)).mT  # (S, n_terms, n, n)
    AH, total, of_A = conj(A).mT, of_terms[:, -1] * 0, torch.zeros_like(A)
    for p in range(n_terms - 1, 0, -1):  # A^p / p! = A A^(p-1) / (p-1)! / p
        total = (of_terms[:, p] + AH @ total) / p
        of_A = of_A + total @ conj(terms[:, p - 1]).mT
    return of_A, torch.cat(of_y, 1)


def _terms(A: Tensor, t: Tensor) -> Tensor:
    """A^p / p!, (S, n_terms, n, n), as many as matter."""
    theta = float(A.abs().sum(-2).amax()) * float(t.abs().amax())
    terms = [torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand(A.shape)]
    size = 1.0
    while size > 2.0**-56:
        p = len(terms)
        terms.append((A @ terms[-1]) / p)
        size *= theta / p
    return torch.stack(terms, 1)


def _powers(s: Tensor, n_terms: int) -> Tensor:
    """s^p (S, R, n_terms, 1)."""
    ones = torch.ones_like(s)[..., None]
    return torch.cat([ones, s[..., None].expand(*s.shape, n_terms - 1)], -1).cumprod(-1)[..., None]


def _weighted(s: Tensor, y: Tensor, terms: Tensor) -> Tensor:
    """s^p y for all p, (S, R, n_terms n)."""
    n = y.shape[-1]
    return (_powers(s, terms.shape[-2] // n) * y[..., None, :]).flatten(-2)


def _chunks(terms: Tensor, *xs: Tensor) -> zip[tuple[Tensor, ...]]:
    """Rows a share at a time, so that what belongs to them stays in the cache."""
    rows = max(1, CHUNK_ENTRIES // (terms.shape[0] * terms.shape[-2]))
    return zip(*(x.split(rows, 1) for x in xs))


@dataclass
class Short(Plan):
    """Times so short that a Taylor polynomial does it all, for every Xi: |Xi| t <= THETA."""

    Xi: Tensor
    method: str = "series"
    reason: str = f"|Xi| t <= {THETA:g}"

    @property
    def accepted(self) -> Tensor:  # type: ignore[override]
        return torch.ones(len(self.Xi), dtype=torch.bool, device=self.Xi.device)

    def subset(self, index: Tensor) -> Plan:
        return Short(self.Xi[index])

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        return short(self.Xi, t[..., 0], z0)[:, :, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        S, a = short_vjp(self.Xi, t[..., 0], z0, g[:, :, 0])
        return S, a, times_gradient(self.Xi, self.evaluate(z0, t), g) if want_t else None


def propagators(plan: Plan, like: Tensor, t: Tensor) -> Tensor:
    """exp(Xi t), (S, T, n, n), for t (S, 1, T)."""
    return plan.evaluate(*_columns(like, t)).permute(0, 2, 3, 1)


def _columns(like: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of I as initial states, and their times: those of t (S, 1, T)."""
    S, n = like.shape[0], like.shape[-1]
    eye = torch.eye(n, dtype=like.dtype, device=like.device)
    return eye.expand(S, n, n), t.expand(S, n, t.shape[-1])


def recur(plan: Plan, z0: Tensor, h: Tensor, d: Tensor) -> Tensor:
    """x_(k+1) = exp(Xi h_k) x_k + d_k from x_0 = z0 (S, R, n), for h (S, R, K) and d (S, R, K, n): (S, R, K, n)."""
    S, R, K, n = d.shape
    if bool((h == h[:, :1, :1]).all()):
        levels = exponents(K, n)
        times = h[:, :1, :1] * torch.tensor([e for level in levels for e in level], dtype=h.dtype, device=h.device)
        powers = propagators(plan, z0, times)[:, None].split([len(level) for level in levels], 2)
        x = steady(list(powers), d, z0)
        if is_finite(x):  # else powers may overflow where states do not
            return x
    if isinstance(plan, EigPlan):
        return _modal(plan.modes_for(z0), z0, h, d)
    shared = R == 1 or h.stride(1) == 0
    h = h[:, :1] if shared else h
    window = max(1, WINDOW_ENTRIES // (S * h.shape[1] * n**2))
    parts: list[Tensor] = []
    for start in range(0, K, window):
        own = h[:, :, start : start + window]
        E = propagators(plan, z0, own.reshape(S, 1, -1)).reshape(*own.shape, n, n)
        parts.append(changing(E, d[:, :, start : start + window], parts[-1][:, :, -1] if parts else z0))
    return torch.cat(parts, 2)


def _modal(modes: Modes, z0: Tensor, h: Tensor, d: Tensor) -> Tensor:
    """The same, a mode at a time."""
    dual, basis = modes.V_inv.mT[:, None], modes.weighted.mT[:, None]
    E = _exp(modes.lam[:, None, None], h[..., None])
    if not modes.n_pairs:
        return changing(E, d.to(dual.dtype) @ dual, z0.to(dual.dtype) @ dual[:, 0]) @ basis
    c = torch.complex(d @ dual.real, d @ dual.imag)
    x = changing(E, c, z0.to(dual.dtype) @ dual[:, 0])
    return x.real @ basis.real - x.imag @ basis.imag


def _exp(lam: Tensor, t: Tensor) -> Tensor:
    """exp(lam t), by real functions, which take less time than the complex one."""
    if not lam.is_complex():
        return torch.exp(lam * t)
    size, angle = torch.exp(lam.real * t), lam.imag * t
    return torch.complex(size * torch.cos(angle), size * torch.sin(angle))
