"""exp(A t) y for many y, each with a short time of its own: a Taylor polynomial as one product of matrices.

With |A| t of order 1, exp(A t) y = sum_p t^p y A^p / p!: rows (y, t y, t^2 y, ...) times the stacked terms, some twenty
times n^2 multiplications for each row, and the reverse by the same products transposed.
Shapes: A (S, n, n), t (S, R), y and g (S, R, n).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .tensors import one_norm

CHUNK_ENTRIES = 2**18  # of rows at a time: 2 MiB, which a cache holds
ENOUGH = 2.0**-56  # of the first term: an eighth of the rounding of a result


def short(A: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """exp(A t) y."""
    n = y.shape[-1]
    used = (y != 0).reshape(-1, n).any(0)  # skip columns that are 0 in all rows, as augmented systems have them
    used[0] |= ~used.any()  # keep one if all are zeros
    if not bool(used.all()):
        y = y[..., used]
    terms = _terms(A, t)[..., used].transpose(-3, -2).reshape(len(A), n, -1).mT  # (S, n_terms n_used, n)
    return torch.cat([_weighted(s, own, terms.shape[-2]) @ terms for s, own in _chunks(terms.shape[-2], t, y)], 1)


def short_vjp(A: Tensor, t: Tensor, y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients with respect to A and y of sum Re <g, exp(A t) y>."""
    terms = _terms(A, t)
    S, n_terms, n, _ = terms.shape
    back = terms.conj_physical().transpose(-3, -2).reshape(S, n, n_terms * n)  # g to the cotangents of s^p y
    rows, of_y = torch.zeros_like(back).mT, []
    for s, own, lam in _chunks(n_terms * n, t, y, g):
        rows = rows + _weighted(s, own.conj_physical(), n_terms * n).mT @ lam
        of_y.append(((lam @ back).reshape(*lam.shape[:-1], n_terms, n) * _powers(s, n_terms)).sum(-2))
    of_terms = rows.reshape(S, n_terms, n, n).mT
    AH, total, of_A = A.conj_physical().mT, torch.zeros_like(A), torch.zeros_like(A)
    for p in range(n_terms - 1, 0, -1):  # A^p / p! = A A^(p-1) / (p-1)! / p
        total = (of_terms[:, p] + AH @ total) / p
        of_A = of_A + total @ terms[:, p - 1].conj_physical().mT
    return of_A, torch.cat(of_y, 1)


def _terms(A: Tensor, t: Tensor) -> Tensor:
    """A^p / p!, (S, n_terms, n, n), down to ENOUGH."""
    theta = float(one_norm(A).max()) * float(t.abs().max())
    terms = [torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand(A.shape)]
    size = 1.0
    while size > ENOUGH:
        p = len(terms)
        terms.append((A @ terms[-1]) / p)
        size *= theta / p
    return torch.stack(terms, 1)


def _powers(s: Tensor, n_terms: int) -> Tensor:
    """s^p (S, R, n_terms, 1)."""
    out = s.new_empty(*s.shape, n_terms)
    out[..., 0], out[..., 1:] = 1, s[..., None]
    return out.cumprod(-1)[..., None]


def _weighted(s: Tensor, y: Tensor, size: int) -> Tensor:
    """s^p y for all p, (S, R, size)."""
    return (_powers(s, size // y.shape[-1]) * y[..., None, :]).reshape(*y.shape[:-1], size)


def _chunks(size: int, *xs: Tensor) -> zip[tuple[Tensor, ...]]:
    """Rows a share at a time, so that what belongs to them stays in the cache."""
    rows = max(1, CHUNK_ENTRIES // (len(xs[0]) * size))
    return zip(*(x.split(rows, 1) for x in xs))
