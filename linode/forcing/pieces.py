"""An input as pieces: between two breaks u = H v with v' = Omega v.

z and v together are then a linear ODE without input, which is solved exactly for every Xi, also a singular one.
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
from ..engine.problem import common_shape, extremes, is_anywhere, is_known
from ..errors import DtypeError, OrderError, ShapeError
from ..kernels.private import has_derivative, untransformed
from ..kernels.tensors import is_equal
from ..methods import make_method

SAME = 1e-6  # relative difference of gaps that is taken as rounding; chosen by hand


@dataclass(frozen=True)
class Pieces:
    """K + 1 pieces of an input: piece k lies between breaks k - 1 and k; the first and the last have one end only.

    breaks (*batch, K); gaps (*batch, K - 1): distances of breaks, exactly equal if they differ by rounding only.
    states (*batch, K + 1, q): v of each piece at the time refs (*batch, K + 1). Omega (q, q); H (*batch, m, q).
    degree: Omega^(degree + 1) = 0, or None if Omega is not nilpotent. jumps (*batch, K, m): impulses at the breaks.
    """

    breaks: Tensor
    gaps: Tensor
    refs: Tensor
    states: Tensor
    Omega: Tensor
    H: Tensor
    degree: int | None
    jumps: Tensor | None = None

    def mirrored(self) -> Pieces:
        """The same input as a function of -t."""
        breaks, refs = -self.breaks.flip(-1), -self.refs.flip(-1)
        gaps, states = self.gaps.flip(-1), self.states.flip(-2)
        jumps = None if self.jumps is None else -self.jumps.flip(-2)
        return replace(self, breaks=breaks, gaps=gaps, refs=refs, states=states, Omega=-self.Omega, jumps=jumps)

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
        states, refs = self.states[..., of_input, :], self.refs[of_input]
        jumps = self.jumps
        if jumps is not None:
            jumps = torch.nn.functional.pad(jumps, (0, 0, 0, len(switches)))[..., order, :]
        states = self.advanced(states, starts - refs)
        gaps = breaks[1:] - breaks[:-1]
        return replace(self, breaks=breaks, gaps=gaps, refs=starts, states=states, jumps=jumps), of_switches

    def advanced(self, v: Tensor, s: Tensor) -> Tensor:
        """exp(Omega s) v for v (*batch, q) and s (*batch,)."""
        if self.degree is None:
            return trajectory(self.Omega, v, s[..., None], Planner(make_method("auto")))[..., 0, :]
        term = v
        for j in range(1, self.degree + 1):
            term = (term @ self.Omega.mT) * (s[..., None] / j)
            v = v + term
        return v

    def at(self, t: Tensor) -> Tensor:
        """u(t), (*batch, T, m), without impulses."""
        k = count(self.breaks, t, right=True)
        v = self.advanced(select(self.states, k), t - select(self.refs[..., None], k)[..., 0])
        return v @ self.H.mT

    def to(self, like: Tensor) -> Pieces:
        """The pieces in the dtype and on the device of `like`; times keep their dtype."""
        values = [x for x in (self.states, self.H, self.jumps) if x is not None]
        if not like.is_complex() and any(x.is_complex() for x in values):
            raise DtypeError("u(t) is complex, but Xi, z0, b and B are real; make one of them complex")
        of_times = {x: getattr(self, x).to(like.device) for x in ("breaks", "gaps", "refs")}
        of_values = {x: getattr(self, x).to(like) for x in ("states", "Omega", "H")}
        return replace(self, **of_times, **of_values, jumps=None if self.jumps is None else self.jumps.to(like))


def no_pieces(n: int, t: Tensor) -> Pieces:
    """One piece without states: the input 0 into n states."""
    none = torch.zeros(0, dtype=torch.float64, device=t.device)
    return Pieces(none, none, none.new_zeros(1), none.new_zeros(1, 0), none.new_zeros(0, 0), none.new_zeros(n, 0), 0)


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


def gaps_of(times: Tensor) -> Tensor:
    """Distances of times (*batch, K); all equal if they differ by rounding only, as those of a linspace."""
    K = times.shape[-1]
    if times.ndim == 1 and K > 2 and is_known(times) and not has_derivative(times):
        mean = (times[-1] - times[0]) / (K - 1)
        off = torch.arange(K, dtype=times.dtype, device=times.device).mul_(mean).add_(times[0]).sub_(times)
        rounding = 4 * torch.finfo(times.dtype).eps * float(times.abs().max())
        if float(off.abs().max()) <= min(rounding, SAME * float(mean)):
            return mean.expand(K - 1)
    return times[..., 1:] - times[..., :-1]


def unit_of(gaps: Tensor) -> float:
    """A unit of time: a power of two, so that dividing by it is exact, about four times the longest gap."""
    longest = extremes(gaps)[1]
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
