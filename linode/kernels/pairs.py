"""Conjugate pairs of modes of real systems, and the real functions of time that stand for them.

Of e modes with m pairs the first m have Im lam > 0, the last m are their conjugates, in the same order, and between
them are the real ones. The functions are exp(alpha t) cos(omega t) for all but the last m, exp(alpha t) sin(omega t)
for these; with them as rows F, exp(lam t) = U^T F, and with X the real basis that has Re v and Im v of a pair at the
two places, V = X U.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .arrays import as_type, elementwise, empty_rows, exponential, namespace, of_kind, polar


@dataclass(frozen=True)
class Pairs:
    """Of S systems with e modes each: U and U^H (S, e, e), is_conjugate (S, e), and how many pairs there are, 0 where
    the systems differ in it; S is 1 where they do not.

    Sums over all modes are the real parts of those over the modes kept, all but the last `same`, times weight (kept,).
    """

    U: Any
    UH: Any
    is_conjugate: Any
    weight: Any
    same: int

    @classmethod
    def of(cls, counts: NDArray[Any], e: int) -> Pairs:
        """From the number of pairs in every system (S,)."""
        if (counts == counts[0]).all():
            return cls.alike(e, int(counts[0]))
        known = [cls.alike(e, m) for m in range(e // 2 + 1)]
        U, is_conjugate = (np.concatenate(x) for x in zip(*((k.U, k.is_conjugate) for k in known)))
        return cls(U[counts], U[counts].swapaxes(-1, -2).conj(), is_conjugate[counts], np.ones(e), 0)

    @staticmethod
    @lru_cache(maxsize=256)
    def alike(e: int, m: int) -> Pairs:
        """Every system has m of them."""
        U = np.eye(e, dtype=np.complex128)
        head = np.arange(m)
        tail = e - m + head
        U[head, tail], U[tail, head], U[tail, tail] = 1, 1j, -1j
        weight = np.where(np.arange(e - m) < m, 2.0, 1.0)
        return Pairs(U[None], U.T.conj()[None].copy(), (np.arange(e) >= e - m)[None], weight, m)

    @property
    def n_kept(self) -> int:
        """As many as there are weights."""
        return len(self.weight)

    def subset(self, index: Any) -> Pairs:
        """Those of some of the systems."""
        if len(self.U) == 1:
            return self
        if isinstance(self.U, np.ndarray):  # they may be alike
            return Pairs.of(np.count_nonzero(self.is_conjugate[index], axis=-1), self.U.shape[-1])
        return replace(self, U=self.U[index], UH=self.UH[index], is_conjugate=self.is_conjugate[index])

    def tensors(self, device: torch.device) -> Pairs:
        """The same as tensors; from NumPy arrays."""
        arrays = (self.U, self.UH, self.is_conjugate, self.weight)
        U, UH, is_conjugate, weight = (torch.from_numpy(x).to(device) for x in arrays)
        return Pairs(U, UH, is_conjugate, weight, self.same)

    def functions(self, lam: Any, t: Any) -> Any:
        """The rows F (S, R, e, T), for lam (S, e) and times t (S, R, T)."""
        xp, lam, times = namespace(t), of_kind(lam, t)[:, None, :, None], t[:, :, None]
        alpha, omega = lam.real, lam.imag
        if not self.same:
            F = exponential(alpha * times)
            angle = abs(omega) * times
            angle += as_type(~of_kind(self.is_conjugate, t), angle)[:, None, :, None] * (math.pi / 2)  # cos
            F *= elementwise("sin", angle, angle)
            return F
        m, p = self.same, self.n_kept
        S, R, T = t.shape
        F = empty_rows(S, R, lam.shape[2], T, t)
        head, tail = F[:, :, :m], F[:, :, p:]
        exponential(xp.multiply(alpha[:, :, :p], times, out=F[:, :, :p]))
        polar(head, omega[:, :, :m], times, tail)
        return F

    def less_one(self, F: Any, lam: Any, index: tuple[Any, Any, Any], times: Any) -> Any:
        """Leading rows of F (S, R, e, T) at an index of systems, trajectories and times (P,), (P, 1), where 1 is taken
        off every exp(lam t).
        """
        s, r, i = index
        own = lam[:, : self.n_kept] if len(lam) == 1 else lam[s, : self.n_kept]
        value = less_one(own, times)
        if self.same:
            return value
        is_conjugate = of_kind(self.is_conjugate, times)
        return namespace(times).where(is_conjugate if len(is_conjugate) == 1 else is_conjugate[s], F[s, r, :, i], value)


def less_one(lam: Any, t: Any) -> Any:
    """Re exp(lam t) - 1, free of cancellation where lam t is small."""
    xp = namespace(t)
    growth, square = xp.expm1(lam.real * t), xp.tan(0.5 * lam.imag * t) ** 2
    return growth - 2 * square / (1 + square) * (growth + 1)  # 1 - cos(x) = 2 sin(x / 2)^2
