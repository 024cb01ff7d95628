"""exp(A t) y for many y, each with a short time of its own: a Taylor polynomial as one product of matrices.

With |A| t of order 1, exp(A t) y = sum_p t^p y A^p / p!: rows (y, t y, t^2 y, ...) times the stacked terms, some twenty
times n^2 multiplications for each row, and the reverse by the same products transposed.
Shapes: A (S, n, n), t (S, R), y and g (S, R, n). Arrays or tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import as_type, conj, empty, expand, largest, namespace, of_kind, one_norm, split

CHUNK_ENTRIES = 2**18  # of rows at a time


def short(A: Any, t: Any, y: Any) -> Any:
    """exp(A t) y by a Taylor polynomial, A (S, n, n), t (S, R), y (S, R, n): (s^p y) for all p, times A^p / p!."""
    n, xp = y.shape[-1], namespace(y)
    used = (y != 0).reshape(-1, n).any(0)  # what drives a forced problem starts beside a state of zeros
    used[0] |= ~used.any()  # one of them, if all are zeros
    if not bool(used.all()):
        y = y[..., used]
    terms = xp.swapaxes(_terms(A, t)[..., used], -3, -2).reshape(len(A), n, -1).mT  # (S, n_terms n_used, n)
    return _joined([_weighted(s, own, terms) @ terms for s, own in _chunks(terms, t, y)])


def short_vjp(A: Any, t: Any, y: Any, g: Any) -> tuple[Any, Any]:
    """Gradients with respect to A and y of sum Re <g, exp(A t) y>."""
    terms, xp = _terms(A, t), namespace(y)
    S, n_terms, n, _ = terms.shape
    back = xp.swapaxes(conj(terms), -3, -2).reshape(S, n, n_terms * n)  # g to the cotangents of s^p y
    of_terms, of_y = xp.zeros_like(back).mT, []
    for s, own, lam in _chunks(back.mT, t, y, g):
        of_terms = of_terms + _weighted(s, conj(own), back.mT).mT @ lam
        of_y.append(((lam @ back).reshape(*lam.shape[:-1], n_terms, n) * _powers(s, n_terms)).sum(-2))
    of_terms = of_terms.reshape(S, n_terms, n, n).mT
    AH, total, of_A = conj(A).mT, of_terms[:, -1] * 0, xp.zeros_like(A)
    for p in range(n_terms - 1, 0, -1):  # A^p / p! = A A^(p-1) / (p-1)! / p
        total = (of_terms[:, p] + AH @ total) / p
        of_A = of_A + total @ conj(terms[:, p - 1]).mT
    return of_A, _joined(of_y)


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else namespace(parts[0]).concatenate(parts, axis=1)


def _terms(A: Any, t: Any) -> Any:
    """A^p / p!, (S, n_terms, n, n), as many as matter."""
    theta = float(one_norm(A).max()) * largest(t)
    terms = [expand(as_type(of_kind(np.eye(A.shape[-1]), A), A), A.shape)]
    size = 1.0
    while size > 2.0**-56:
        p = len(terms)
        terms.append((A @ terms[-1]) / p)
        size *= theta / p
    return namespace(A).stack(terms, 1)


def _powers(s: Any, n_terms: int) -> Any:
    """s^p (S, R, n_terms, 1)."""
    out = empty((*s.shape, n_terms), s)
    out[..., 0], out[..., 1:] = 1, s[..., None]
    return out.cumprod(-1)[..., None]


def _weighted(s: Any, y: Any, terms: Any) -> Any:
    """s^p y for all p, (S, R, n_terms n)."""
    size = terms.shape[-2]
    return (_powers(s, size // y.shape[-1]) * y[..., None, :]).reshape(*y.shape[:-1], size)


def _chunks(terms: Any, *xs: Any) -> zip[tuple[Any, ...]]:
    """Rows a share at a time, so that what belongs to them stays in the cache."""
    rows = max(1, CHUNK_ENTRIES // (terms.shape[0] * terms.shape[-2]))
    return zip(*(split(x, rows, 1) for x in xs))
