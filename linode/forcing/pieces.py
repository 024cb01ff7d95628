"""An input as pieces: between two breaks u = H v with v' = Omega v.

z and v together are then a linear ODE without input, which is solved exactly for every Xi, also a singular one. Most
inputs are polynomials between breaks: v are then their coefficients, and Omega, which has ones beside its diagonal,
need not be formed.
Source: Van Loan (1978), IEEE Trans. Automatic Control 23(3) (holds by augmented exponentials).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..engine.autograd import trajectory
from ..engine.evaluation import Planner
from ..engine.problem import common_shape, is_anywhere, is_known
from ..errors import DtypeError, OrderError, ShapeError
from ..kernels.private import untransformed
from ..kernels.tensors import is_equal
from ..methods import make_method

SAME = 1e-6  # relative difference of gaps that is taken as rounding; chosen by hand


@dataclass(frozen=True)
class Generator:
    """v' = Omega v and u = H v, of inputs that are no polynomials: Omega (q, q), H (*batch, m, q)."""

    Omega: Tensor
    H: Tensor


@dataclass(frozen=True)
class Pieces:
    """K + 1 pieces of an input: piece k lies between breaks k - 1 and k; the first and the last have one end only.

    breaks (*batch, K); gaps (*batch, K - 1): distances of breaks, exactly equal if they differ by rounding only.
    states (*batch, K + 1, q): v of each piece at the time refs (*batch, K + 1).
    generator: what rules v; None for polynomials sum_j c_j ((t - ref) / unit)^j with v = (c_0, ..., c_(p - 1)), each
    of m channels, q = p m. unit: of time, one for all pieces or (K + 1,). jumps (*batch, K, m): impulses at the breaks.
    ends, gap: the first and the last break, and the longest gap, as numbers, where they are known.
    """

    breaks: Tensor
    gaps: Tensor
    refs: Tensor
    states: Tensor
    m: int
    unit: float | Tensor = 1.0
    generator: Generator | None = None
    jumps: Tensor | None = None
    ends: tuple[float, float] | None = None
    gap: float | None = None

    @property
    def n_terms(self) -> int:
        """The number p of coefficients of a polynomial."""
        return self.states.shape[-1] // self.m if self.m else 0

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Omega (q, q) and H (*batch, m, q), where all pieces have one unit."""
        if self.generator is not None:
            return self.generator.Omega, self.generator.H
        make = shift if torch.compiler.is_compiling() else known_shift  # torch.compile does not take caches
        return make(self.n_terms, self.m, float(self.unit), self.states.dtype, self.states.device)

    def mirrored(self) -> Pieces:
        """The same input as a function of -t."""
        breaks, refs = -self.breaks.flip(-1), -self.refs.flip(-1)
        gaps, states = self.gaps.flip(-1), self.states.flip(-2)
        unit = -self.unit.flip(-1) if isinstance(self.unit, Tensor) else -self.unit
        own = self.generator
        generator = None if own is None else Generator(-own.Omega, own.H)
        jumps = None if self.jumps is None else -self.jumps.flip(-2)
        ends = None if self.ends is None else (-self.ends[1], -self.ends[0])
        return Pieces(breaks, gaps, refs, states, self.m, unit, generator, jumps, ends, self.gap)

    def merged(self, switches: Tensor) -> tuple[Pieces, Tensor]:
        """The same input with further breaks `switches` (J,), and for each piece the number of switches before it."""
        if self.breaks.ndim > 1:
            shape = tuple(self.breaks.shape)
            raise ShapeError(f"times of an input have shape {shape}; where Xi switches they must be (K,)")
        K = self.breaks.shape[-1]
        every = torch.cat([self.breaks, switches])
        order = torch.argsort(every.detach(), stable=True)
        breaks = every[order]
        of_input, of_switches = (torch.nn.functional.pad(torch.cumsum(x, 0), (1, 0)) for x in (order < K, order >= K))
        starts = torch.cat([self.refs[:1], breaks])
        jumps = self.jumps
        if jumps is not None:
            jumps = torch.nn.functional.pad(jumps, (0, 0, 0, len(switches)))[..., order, :]
        pieces = self.chosen(of_input)
        states = pieces.advanced(pieces.states, starts - pieces.refs)
        gaps = breaks[1:] - breaks[:-1]
        return Pieces(breaks, gaps, starts, states, self.m, pieces.unit, self.generator, jumps), of_switches

    def divided(self, n_parts: int, end: float) -> Pieces:
        """The same polynomials with each piece after the first one in n_parts of one length, the last one up to end."""
        n_own, breaks = len(self.breaks), self.breaks
        gaps = torch.cat([self.gaps, (end - breaks[-1:]).clamp(min=0)]) / n_parts
        starts = (
            breaks[:, None] + torch.arange(n_parts, dtype=gaps.dtype, device=gaps.device) * gaps[:, None]
        ).flatten()
        index = torch.arange(1, n_own + 1, device=gaps.device).repeat_interleave(n_parts)
        index = torch.cat([index.new_zeros(1), index])
        refs, pieces = torch.cat([self.refs[:1], starts]), self.chosen(index)
        states = pieces.advanced(pieces.states, refs - pieces.refs)
        gaps = gaps.repeat_interleave(n_parts)[:-1]
        return replace(pieces, breaks=starts, gaps=gaps, refs=refs, states=states, ends=None, gap=None)

    def chosen(self, k: slice | Tensor) -> Pieces:
        """With states, references and units of some pieces only; k (T,), or (*batch, T) where states have a batch."""
        if isinstance(k, slice) or k.ndim == 1:
            states, refs = self.states[..., k, :], self.refs[..., k]
            unit = self.unit[k] if isinstance(self.unit, Tensor) else self.unit
        else:
            states, refs = select(self.states, k), select(self.refs[..., None], k)[..., 0]
            unit = select(self.unit[:, None], k)[..., 0] if isinstance(self.unit, Tensor) else self.unit
        return replace(self, states=states, refs=refs, unit=unit)

    def advanced(self, v: Tensor, s: Tensor) -> Tensor:
        """exp(Omega s) v for v (*batch, q) and s (*batch,), of pieces whose units broadcast with s."""
        if self.generator is not None:
            return trajectory(self.generator.Omega, v, s[..., None], Planner(make_method("auto")))[..., 0, :]
        if v.shape[-1] <= self.m:  # a constant
            return v
        return shifted(v.unflatten(-1, (-1, self.m)), s / self.unit).flatten(-2)

    def at(self, t: Tensor) -> Tensor:
        """u(t), (*batch, T, m), without impulses."""
        pieces = self.chosen(count(self.breaks, t, right=True))
        v = pieces.advanced(pieces.states, t - pieces.refs)
        if self.generator is not None:
            return v @ self.generator.H.mT
        if v.shape[-1] == 0:  # impulses
            return v.new_zeros(*v.shape[:-1], self.m)
        v = v[..., : self.m]
        return v.expand(*common_shape(v.shape[:-1], t.shape), self.m)

    def to(self, like: Tensor) -> Pieces:
        """The pieces in the dtype and on the device of `like`; times keep their dtype."""
        own = self.generator
        values = [x for x in (self.states, None if own is None else own.H, self.jumps) if x is not None]
        if not like.is_complex() and any(x.is_complex() for x in values):
            raise DtypeError("u(t) is complex, but Xi, z0, b and B are real; make one of them complex")
        if all((x.dtype, x.device) == (like.dtype, like.device) for x in values) and self.breaks.device == like.device:
            return self
        of_times = {x: getattr(self, x).to(like.device) for x in ("breaks", "gaps", "refs")}
        unit = self.unit.to(like.device) if isinstance(self.unit, Tensor) else self.unit
        generator = None if own is None else Generator(own.Omega.to(like), own.H.to(like))
        jumps = None if self.jumps is None else self.jumps.to(like)
        return replace(self, **of_times, states=self.states.to(like), unit=unit, generator=generator, jumps=jumps)


def no_pieces(n: int, device: torch.device) -> Pieces:
    """One piece without states: the input 0 into n states."""
    return _one_piece(0, n, torch.float64, device)


def held(n_terms: int, m: int, dtype: torch.dtype, device: torch.device) -> Pieces:
    """One piece of any polynomial of so many coefficients: an input between two samples, with time in steps."""
    return (_one_piece.__wrapped__ if torch.compiler.is_compiling() else _one_piece)(n_terms, m, dtype, device)


@lru_cache(maxsize=64)
def _one_piece(n_terms: int, m: int, dtype: torch.dtype, device: torch.device) -> Pieces:
    none = torch.zeros(0, dtype=torch.float64, device=device)
    return Pieces(none, none, none.new_zeros(1), torch.zeros(1, n_terms * m, dtype=dtype, device=device), m)


def shifted(c: Tensor, x: Tensor) -> Tensor:
    """Coefficients (*batch, p, m) of a polynomial from those about 0: about x (*batch,)."""
    total, term = c, c
    for k in range(1, c.shape[-2]):
        numbers = torch.arange(1, term.shape[-2], dtype=torch.float64, device=c.device).to(c.dtype)
        term = term[..., 1:, :] * numbers[:, None] * (x[..., None, None] / k)
        total = total + torch.nn.functional.pad(term, (0, 0, 0, k))
    return total


# ---- breaks ----------------------------------------------------------------------------------------------------------


def check_increasing(times: Tensor, name: str) -> None:
    """Raise if times (*batch, K) do not increase strictly along the last dimension."""
    bad = times[..., 1:] <= times[..., :-1]
    if not is_known(times):
        if is_anywhere(bad):
            raise OrderError(f"{name} must increase strictly")
    elif bool(bad.any()):
        *batch, k = bad.nonzero()[0].tolist()
        before, after = (times[(*batch, i)].item() for i in (k, k + 1))
        index = ", ".join(map(str, (*batch, k + 1)))
        what = "repeats" if before == after else "comes after"
        raise OrderError(f"{name} must increase strictly, but {name}[{index}] = {after:.17g} {what} {before:.17g}")


def unit_of(longest: float) -> float:
    """A unit of time: a power of two, so that dividing by it is exact, about four times the longest gap."""
    return 4 * 2.0 ** round(math.log2(longest)) if 0 < longest < 1e300 else 1.0


@lru_cache(maxsize=64)
def known_shift(n_terms: int, m: int, unit: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """`shift` with a cache: do not write to the result."""
    return shift(n_terms, m, unit, dtype, device)


def shift(n_terms: int, m: int, unit: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Omega and H for polynomials in t / unit with coefficients v = (c_0, ..., c_j), each of m channels."""
    numbers = torch.arange(1, n_terms, dtype=torch.float64, device=device).to(dtype)
    rise = torch.diag(numbers / unit, 1)  # c_j' = (j + 1) c_(j+1) / unit
    eye = torch.eye(m, dtype=dtype, device=device)
    return torch.kron(rise, eye), torch.nn.functional.pad(eye, (0, (n_terms - 1) * m))


def count(breaks: Tensor, t: Tensor, *, right: bool) -> Tensor:
    """The number of breaks (*batch, K) before each t (*batch, T), or at it too if `right`; (*batch, T)."""
    breaks, t = breaks.detach(), t.detach()
    if is_known(breaks) and is_known(t):
        with untransformed():  # so that transforms of torch.func do not wrap the result
            if right and breaks.ndim == 1 and is_equal(breaks, t):
                return torch.arange(1, len(t) + 1, device=t.device)
            return _counted(breaks, t, right)
    nothing = 0 * (breaks.sum(-1, keepdim=True) + t.sum(-1, keepdim=True))  # both with mapped dimensions if one has
    return _counted(breaks + nothing, t + nothing, right)


def _counted(breaks: Tensor, t: Tensor, right: bool) -> Tensor:
    batch = common_shape(breaks.shape[:-1], t.shape[:-1])
    breaks, t = (x.expand(*batch, x.shape[-1]).contiguous() for x in (breaks, t))
    return torch.searchsorted(breaks, t, right=right)


def select(x: Tensor, k: Tensor) -> Tensor:
    """x[..., k, :] for x (*batch, K, q) and k (*batch, T)."""
    if k.ndim == 1:
        return x[..., k, :]
    batch = common_shape(x.shape[:-2], k.shape[:-1])
    x, k = x.expand(*batch, *x.shape[-2:]), k.expand(*batch, k.shape[-1])
    return torch.take_along_dim(x, k[..., None], -2)
