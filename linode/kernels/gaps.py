"""Distances of eigenvalues, and divided differences of exponentials where they are too small to divide by.

Sources: Higham (2008), Functions of Matrices, theorem 3.9 and eq. 10.15-10.17.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .arrays import amax, amin, as_type, conj, namespace, nonzero, of_kind, real, split

# Pairs with |lam_j - lam_k| t_max below NEAR are subtracted analytically, time by time; so are those with a gap below
# NEAR_RELATIVE beside the eigenvalues themselves, since some times may be too short to resolve it. Both bound the
# digits that are lost otherwise: at most 1 / NEAR units of rounding.
NEAR, NEAR_RELATIVE = 0.03, 0.01


@dataclass
class Gaps:
    """|lam_j - lam_k| and the inverse of its conjugate, (S, p, e), infinite and 0 where it is not used; the smallest
    that is, (S, 1, 1); and the mask of pairs that are near whatever the times, or None. j counts the leading p modes.
    """

    size: Any
    inverse: Any
    smallest: Any
    near: Any

    @classmethod
    def of(cls, lam: Any, p: int, exists: Any, delicate: Any) -> Gaps:
        """Of modes lam (S, e); exists and delicate as in `Modes`."""
        diagonal = slice(None, None, lam.shape[-1] + 1)
        difference, magnitude = conj(lam[:, :p, None] - lam[:, None]), abs(lam)
        size = abs(difference)
        size.reshape(len(lam), -1)[:, diagonal] = torch.inf
        difference.reshape(len(lam), -1)[:, diagonal] = 1
        smallest = amin(size, (1, 2))
        if exists is None and delicate is None and bool((smallest > NEAR_RELATIVE * amax(magnitude, -1)).all()):
            return cls(size, 1 / difference, smallest[:, None, None], None)
        xp = namespace(lam)
        unused = size <= NEAR_RELATIVE * xp.maximum(magnitude[:, :p, None], magnitude[:, None])
        if delicate is not None:
            unused |= delicate
        near = None
        if bool(unused.any()):
            near = unused & (size < torch.inf)
            if exists is not None:
                there = exists[:, :p, None] & exists[:, None]
                near &= there
                unused |= ~there
            near = near if bool(near.any()) else None
        size = xp.where(unused, torch.inf, size)
        unused |= size == torch.inf
        inverse = xp.where(unused, 0, 1 / xp.where(unused, 1, difference))
        return cls(size, inverse, amin(size, (1, 2))[:, None, None], near)

    def at(self, t: Any) -> tuple[Any, Any]:
        """For times t (S, R, T): the inverse, 0 for near pairs, and the mask of the near pairs or None."""
        t_max = of_kind(amax(abs(t), (1, 2)), self.size)[:, None, None]
        if bool((self.smallest * t_max >= NEAR).all()):
            return self.inverse, self.near
        near = self.size * t_max < NEAR
        return namespace(near).where(near, 0, self.inverse), near if self.near is None else near | self.near


def add_close_pairs(M: Any, near: Any, lam: Any, VH: Any, cH: Any, t: Any, g: Any) -> None:
    """Entries of M (S, p, e) for near pairs: R T work a pair, as many at a time as there are modes."""
    xp, lam, VH, cH = (namespace(t), *(of_kind(x, t) for x in (lam, VH, cH)))
    system, first, second = (of_kind(index, t) for index in nonzero(near))
    which, own = xp.unique(system, return_inverse=True)
    modes, row = xp.unique(first, return_inverse=True)
    ghat = as_type(g[which], lam) @ VH[which][:, None, modes].mT  # (systems, R, T, modes)
    for s, j, k, i, m in zip(*(split(index, lam.shape[-1], 0) for index in (system, first, second, own, row))):
        times = t[s]  # (P, R, T)
        x_j, x_k = lam[s, j][:, None, None], lam[s, k][:, None, None]
        # the larger exponential goes outside, so that neither overflows alone
        swap = real((x_j - x_k) * times) > 0
        w = xp.where(swap, x_k - x_j, x_j - x_k) * times
        D = times * xp.exp(xp.where(swap, x_j, x_k) * times) * _phi1(w)
        value = ((ghat[i, :, :, m] * conj(D)).sum(-1) * cH[s, :, k]).sum(-1)
        M[tuple(of_kind(x, M) for x in (s, j, k))] = of_kind(value, M)


def _phi1(w: Any) -> Any:
    """(exp(w) - 1) / w, 1 at 0."""
    xp = namespace(w)
    zero = abs(w) < 1e-290  # dividing subnormal complex numbers overflows
    return xp.where(zero, 1, xp.expm1(w) / xp.where(zero, 1, w))
