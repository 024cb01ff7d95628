"""z' = Xi z + G w(s) from states x, with a polynomial w(s) of its own for every row, at a time of its own.

Near the start, z is a power series in Xi. With a step H that such a series can take, every time is r + k H; the binary
digits of k select steps H 2^l, of which the propagators E_l = exp(Xi H 2^l) come from the plan of Xi, and the gains
int_0^(H 2^l) exp(Xi (H 2^l - s)) (s / H)^j ds G from those of half the step: E_l times these and the same of the
polynomial about the middle. Nothing is subtracted and no system is inverted, so that gains are accurate for every Xi,
also a singular or a stiff one; and what a polynomial costs is one product with n vectors a power, however many channels
there are. All of it is torch's own operators: derivatives of every order follow.
Source: Al-Mohy & Higham (2011), SIAM J. Sci. Comput. 33, 488, theorem 2.1 and section 5 (phi functions by one
exponential; here its block structure is used); Hochbruck & Ostermann (2010), Acta Numerica 19, section 2.
Shapes: Xi (*batch, J, n, n), one system for all rows (J = 1) or one for each; G (*batch, n, m), None for I; x
(*batch, R, n); c (*batch, R, p, m) with w = sum_j c_j (s / unit)^j; s (*batch, R) >= 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..engine.autograd import trajectory
from ..engine.evaluation import Planner, columns
from ..engine.problem import common_shape, concrete, extremes, is_known
from ..kernels.tensors import is_finite
from .block import Planners, Started, are_equal
from .pieces import Pieces, select, shifted

FEW_STATES = 32  # of an input, beyond which M is not formed if it is also larger than Xi
MOST_SPAN, MOST_TERMS = 2.0, 25  # |Xi| r of a series, and its terms there
ENOUGH = 2.0**-56  # of the first term
N_PRODUCTS, LONGEST = 20, 1e60  # of matrices for a propagator; the largest |Xi| s for which digits of s are counted
CHUNK_ENTRIES = 2**21  # of the terms of rows, 16 MiB


@dataclass(frozen=True)
class Powers:
    """How b and polynomials of the input act: Xi (*batch, J, n, n), one for each piece or one for all; b (*batch, n)
    and B (*batch, n, m), or None.
    """

    Xi: Tensor
    b: Tensor | None
    B: Tensor | None
    m: int
    norm: float
    planner: Planner

    @staticmethod
    def suits(pieces: Pieces, n: int) -> bool:
        """Whether M of `Block` would be large beside Xi, or another one for each piece."""
        q = pieces.states.shape[-1]
        if pieces.generator is not None or not q:
            return False
        return isinstance(pieces.unit, Tensor) or pieces.n_terms > 2 or q > max(n, FEW_STATES)

    @staticmethod
    def divided(pieces: Pieces, Xi: Tensor, end: float) -> Pieces:
        """Pieces so short that series are enough, where these cost less than gains and propagators; end: the last time.
        Counted are products of a matrix with one vector.
        """
        n, m, K = Xi.shape[-1], pieces.m, pieces.breaks.shape[-1]
        if not K or pieces.breaks.ndim > 1 or Xi.shape[-3] > 1:
            return pieces
        longest = max(extremes(pieces.gaps)[1], end - float(pieces.breaks[-1]), 0.0)
        span = float(concrete(Xi.abs().sum(-2)).max()) * longest
        n_parts, levels = math.ceil(min(span, LONGEST) / MOST_SPAN), n_levels(span)
        of_gains = MOST_TERMS * m + levels * (pieces.n_terms * m + n) + N_PRODUCTS * n
        return pieces.divided(n_parts, end) if n_parts > 1 and n_parts * K * MOST_TERMS <= of_gains else pieces

    @classmethod
    def of(cls, Xi: Tensor, b: Tensor | None, B: Tensor | None, pieces: Pieces, planners: Planners) -> Powers:
        """Xi (*batch, J, n, n), b (*batch, n), B (*batch, n, m)."""
        return cls(Xi, b, B, pieces.m, float(concrete(Xi.abs().sum(-2)).max()), planners.state)

    def mirrored(self, planners: Planners) -> Powers:
        """The same as a function of -t."""
        b, B = (None if x is None else -x for x in (self.b, self.B))
        if B is None:
            B = -torch.eye(self.m, dtype=self.Xi.dtype, device=self.Xi.device)
        return replace(self, Xi=-self.Xi.flip(-3), b=b, B=B, planner=planners.state)

    def added(self, started: Started, h: Tensor) -> Tensor:
        """What b and the input add to z in steps h (*batch, K) of some pieces, (*batch, K, n)."""
        q = started.v.shape[-1]
        if started.which is None and h.shape[-1] > q and not isinstance(started.unit, Tensor) and are_equal(h):
            step, units = h.flatten()[:1], torch.eye(q, dtype=self.Xi.dtype, device=self.Xi.device)
            d = started.v @ self._driven(None, None, Started(units, started.unit, None), step)  # gains (*batch, q, n)
            if self.b is None:
                return d
            return d + self._driven(None, self.b, Started(0 * units[:1], started.unit, None), step)
        return self._driven(None, self.b, started, h)

    def states(self, x: Tensor, started: Started, k: Tensor, s: Tensor) -> Tensor:
        """z at times s (*batch, T) after the starts of pieces k (*batch, T), whose states are x (*batch, k, n)."""
        unit, which = started.unit, started.which
        if isinstance(unit, Tensor):
            unit = unit[k]
        own = Started(select(started.v, k), unit, None if which is None else which[k])
        return self._driven(select(x, k), self.b, own, s)

    def _driven(self, x: Tensor | None, b: Tensor | None, rows: Started, s: Tensor) -> Tensor:
        """z of rows, (*batch, R, n), in chunks; x: None for the state 0."""
        c, G = rows.v.unflatten(-1, (-1, self.m)), self.B
        if b is not None and G is None:
            first = c[..., 0, :] + b[..., None, :]
            c = torch.cat([first[..., None, :], c[..., 1:, :].expand(*first.shape[:-1], -1, -1)], -2)
        elif b is not None and G is not None:  # one more channel, which is 1
            batch = common_shape(G.shape[:-2], b.shape[:-1])
            G = torch.cat([y.expand(*batch, *y.shape[-2:]) for y in (G, b[..., None])], -1)
            one = torch.zeros(c.shape[-2], 1, dtype=c.dtype, device=c.device)
            one[0] = 1
            c = torch.cat([c, one.expand(*c.shape[:-1], 1)], -1)
        Xi = self.Xi
        if rows.which is not None:
            if rows.which.ndim > 1:  # every trajectory has pieces of its own
                Xi = select(Xi.flatten(-2), rows.which).unflatten(-1, Xi.shape[-2:])
            else:
                Xi = Xi[..., rows.which, :, :]
        n_rows = max(s.shape[-1], c.shape[-3])
        chunk = max(1, CHUNK_ENTRIES // (Xi.shape[-1] * MOST_TERMS))
        steps = Steps(Xi, G, self.norm * extremes(s)[1], extremes(s)[1], c.shape[-2], self.planner)
        parts = []
        for start in range(0, n_rows, chunk):
            own = slice(start, start + chunk)
            some = (_some(y, own, n_own) for y, n_own in ((x, 1), (c, 2), (rows.unit, 0), (s, 0)))
            parts.append(steps.rows(own, *some))
        z = parts[0] if len(parts) == 1 else torch.cat(parts, -2)
        if is_known(z) and not is_finite(z.detach()):
            z = torch.where(z.isnan(), torch.inf, z)  # inf - inf or 0 inf: a state beyond the largest float
        return z


def _some(x: Any, own: slice, n_own: int) -> Any:
    """Some rows of x, whose last n_own dimensions are not rows."""
    if not isinstance(x, Tensor) or x.shape[x.ndim - 1 - n_own] == 1:
        return x
    return x[(..., own) + (slice(None),) * n_own]


class Steps:
    """The step H, and what powers of it do: E (*batch, J, L, n, n) and gains (*batch, J, p, n, m) for each level."""

    def __init__(self, Xi: Tensor, G: Tensor | None, span: float, longest: float, p: int, planner: Planner) -> None:
        """For times up to longest; span: |Xi| longest."""
        n = Xi.shape[-1]
        self.Xi, self.G, self.p, self.n_levels = Xi, G, p, n_levels(span)
        self.H = longest * 2.0**-self.n_levels or 1.0
        self.n_terms = n_terms(span * 2.0**-self.n_levels)
        if self.n_levels == 0:
            return
        times = self.H * 2.0 ** torch.arange(self.n_levels, dtype=torch.float64, device=Xi.device)
        E = trajectory(Xi, columns(n, Xi.ndim - 2, Xi), times, planner)  # (n, *batch, J, L, n)
        self.E = E.movedim(0, -1)
        G = torch.eye(n, dtype=Xi.dtype, device=Xi.device) if G is None else G
        term = self.H * G[..., None, :, :]
        terms = [term]
        for _ in range(self.n_terms - 1):
            term = self.H * (Xi @ term)
            terms.append(term)
        weights = _weights(self.n_terms, p).to(Xi.device).to(Xi.dtype)
        gain = (weights.mT @ torch.stack(terms, -3).flatten(-2)).unflatten(-1, term.shape[-2:])
        self.gains = [gain]
        for level in range(self.n_levels - 1):
            moved = (self.shift(level) @ gain.flatten(-2)).unflatten(-1, term.shape[-2:])
            gain = self.E[..., level, None, :, :] @ gain + moved
            self.gains.append(gain)

    def shift(self, level: int) -> Tensor:
        """(p, p): row j has the powers of s / H about H 2^level of (s / H)^j."""
        return _binomials(self.p, 2.0**level).to(self.Xi.device).to(self.Xi.dtype)

    def rows(self, own: slice, x: Tensor | None, c: Tensor, unit: float | Tensor, s: Tensor) -> Tensor:
        Xi = self.Xi if self.Xi.shape[-3] == 1 else self.Xi[..., own, :, :]
        if self.n_levels == 0:
            return self._series(Xi, x, c, unit, s)
        k = torch.floor(s.detach() / self.H).clamp(max=2.0**self.n_levels - 1)
        z = self._series(Xi, x, c, unit, s - k * self.H)
        scaled = c * _powers(torch.as_tensor(self.H / unit, dtype=torch.float64, device=c.device), self.p).to(c.dtype)
        v = shifted(scaled, s / self.H - k)  # about the end of the series, in units of H
        for level, gain in enumerate(self.gains):
            on = (torch.remainder(torch.floor(k * 2.0**-level), 2) > 0)[..., None]
            E = self.E[..., level, :, :]
            if E.shape[-3] > 1:
                E, gain = E[..., own, :, :], gain[..., own, :, :, :]
            moved = _times(E, z) + _times(gain.movedim(-3, -2).flatten(-2), v.flatten(-2))
            z = torch.where(on, moved, z)
            if self.p > 1:
                v = torch.where(on[..., None], self.shift(level).mT @ v, v)
        return z

    def _series(self, Xi: Tensor, x: Tensor | None, c: Tensor, unit: float | Tensor, s: Tensor) -> Tensor:
        """For |Xi| s <= MOST_SPAN: sum_l (Xi s)^l (x / l! + s sum_j j! / (l + j + 1)! w_j (s / unit)^j)."""
        own = c * _powers(s / unit, self.p).to(c.dtype) * s[..., None, None]
        terms = _weights(self.n_terms, self.p).to(c.device).to(c.dtype) @ own
        if self.G is not None:
            terms = terms @ (self.G.mT if self.G.ndim == 2 else self.G.mT[..., None, :, :])
        if x is not None:
            terms = terms + _factors(self.n_terms).to(x.device).to(x.dtype)[:, None] * x[..., None, :]
        step, z = s[..., None].to(c.dtype), terms[..., -1, :]
        for level in range(self.n_terms - 2, -1, -1):
            z = torch.addcmul(terms[..., level, :], _times(Xi, z), step)
        return z


def n_levels(span: float) -> int:
    """How often half the step is taken until a series is short."""
    return max(0, math.ceil(math.log2(min(span, LONGEST) / MOST_SPAN))) if span > 0 else 0


def n_terms(span: float) -> int:
    """Of a series in Xi s, of norm up to span."""
    count, size = 1, 1.0
    while size > ENOUGH:
        size *= span / count
        count += 1
    return count


def _powers(x: Tensor, p: int) -> Tensor:
    """x^j, (*x.shape, p, 1)."""
    rows = [torch.ones_like(x)]
    for _ in range(p - 1):
        rows.append(rows[-1] * x)
    return torch.stack(rows, -1)[..., None]


def _times(A: Tensor, x: Tensor) -> Tensor:
    """A x for rows x (*batch, R, n) and A (*batch, 1, n, n), or (*batch, R, n, n)."""
    return x @ A[..., 0, :, :].mT if A.shape[-3] == 1 else (A @ x[..., None])[..., 0]


@lru_cache(maxsize=256)
def _weights(count: int, p: int) -> Tensor:
    """j! / (l + j + 1)!, (count, p): s^(l + j + 1) times it is the l-th integral of s^j."""
    rows = [[math.factorial(j) / math.factorial(level + j + 1) for j in range(p)] for level in range(count)]
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


@lru_cache(maxsize=64)
def _factors(count: int) -> Tensor:
    """1 / l!."""
    return torch.tensor([1 / math.factorial(level) for level in range(count)], dtype=torch.float64, device="cpu")


@lru_cache(maxsize=1024)
def _binomials(p: int, x: float) -> Tensor:
    rows = [[math.comb(j, i) * x ** (j - i) if j >= i else 0.0 for i in range(p)] for j in range(p)]
    return torch.tensor(rows, dtype=torch.float64, device="cpu")
