"""Real functions of time that stand for the modes of real systems: one for a real mode, two for a conjugate pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .arrays import as_type, elementwise, namespace, of_kind, take


@dataclass
class Rows:
    """Real functions of time that stand for the modes of real Xi: exp(alpha t) cos(omega t), and where there is a
    conjugate exp(alpha t) sin(omega t). As many in every system as in that with most; the last may be 0 throughout.
    """

    alpha: Any  # (S, q)
    omega: Any
    is_cosine: Any  # (S, q) bool
    index: Any  # (S, q): among the p cosines and p sines of all modes. None where they are in order,
    cosine: Any  # (S, p): the row that is the cosine of a mode, and its sine; None too
    sine: Any

    @classmethod
    def of(cls, lam: Any, weight: Any, n_pairs: int, in_order: bool = False) -> Rows:
        """Of the modes lam (S, p); in order: all cosines, then the sines of the leading n_pairs, as in Modes of one
        system.
        """
        xp, (S, p) = namespace(lam), lam.shape
        if in_order:
            every = xp.concatenate((lam, lam[:, :n_pairs]), axis=-1)
            return cls(every.real, every.imag, xp.arange(p + n_pairs)[None] < p, None, None, None)
        there = xp.concatenate((weight > 0, weight > 1), axis=-1)  # (S, 2 p)
        index = xp.argsort(~there, stable=True)[:, : int(there.sum(-1).max())]
        place = xp.cumsum(there, -1) - 1  # where it is used
        system, mode, used = xp.arange(S)[:, None], index % p, take(there, index, -1)
        own, is_cosine = xp.where(used, lam[system, mode], 0), used & (index < p)
        rows = place[:, :p], xp.where(weight > 1, place[:, p:], 0)
        return cls(own.real, own.imag, is_cosine, index, *rows)

    def at(self, t: Any) -> Any:
        """(S, R, q, T) at times t (S, R, T)."""
        alpha, omega, is_cosine = (of_kind(x, t)[:, None, :, None] for x in (self.alpha, self.omega, self.is_cosine))
        times = t[:, :, None]
        F = alpha * times
        elementwise("exp", F, F)
        angle = omega * times
        angle += as_type(is_cosine, angle) * (math.pi / 2)  # cos
        F *= elementwise("sin", angle, angle)
        return F

    def less_one(self, x: Any, s: Any, times: Any) -> Any:
        """What the functions x (P, q) of systems s (P,) at times (P, 1) are where 1 is taken off every mode."""
        xp = namespace(times)
        alpha, omega, is_cosine = (of_kind(f, times)[s] for f in (self.alpha, self.omega, self.is_cosine))
        growth, half = xp.expm1(alpha * times), xp.sin(0.5 * omega * times)
        return xp.where(is_cosine, growth - 2 * half * half * (growth + 1), x)
