"""Linear recurrences x_(k+1) = E_k x_k + d_k, all states at once.

One E for all steps (`steady`): blocks of L steps are one product with a block Toeplitz matrix of E's powers, and the
states at the starts of blocks are the same recurrence with E^L: about 2 K L n^2 in log_L K products, memory O(K n).
The powers come from the caller, who knows them as exponentials.
An E for every step (`changing`): two steps are one of the same kind, so that log2 K halvings, in which all pairs are
one operation, come to about twice the work of the loop (n times as much where E is not diagonal).
Source: Blelloch (1990), Prefix sums and their applications, CMU-CS-90-190, section 1.4 (recurrences as scans); Stone
(1973), J. ACM 20, 27 (odd-even reduction).
Shapes: x_0 (*batch, n), d (*batch, K, n), states (*batch, K + 1, n); batch dimensions of E broadcast. Arrays or
tensors, all of one kind.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import empty, namespace, of_kind

FEW_STEPS = 8  # for which a loop is no slower than halving
ROWS_OF_A_BLOCK = 96  # L n: products of this size are fast, and at most 96 / n times as much work as is needed


@lru_cache(maxsize=256)
def exponents(K: int, n: int) -> tuple[tuple[int, ...], ...]:
    """The powers of E that K steady steps need, a level at a time."""
    L = max(2, min(16, ROWS_OF_A_BLOCK // n))
    levels, stride = [], 1
    while True:
        levels.append(tuple(stride * j for j in range(1, min(K, L) + 1)))
        if K < 2 * L:
            return tuple(levels)
        K, stride = K // L - 1, stride * L


def steady(powers: list[Any], d: Any, x0: Any) -> Any:
    """x_0 to x_K, with powers[level][..., j, :, :] = E^exponents[level][j]."""
    own, *coarser = powers
    *batch, K, n = d.shape
    L = own.shape[-3]
    out = empty((*batch, K + 1, n), d)
    out[..., 0, :] = x0
    inputs, of_starts = _toeplitz(own)
    whole = K // L * L
    rows = d[..., :whole, :].reshape(*batch, K // L, L * n)
    starts = out[..., :1, :]
    if coarser:  # of blocks: what a block adds by its end is the input of a recurrence of its own
        starts = steady(coarser, rows[..., :-1, :] @ inputs[..., -n:], x0)
    _put(out[..., 1 : whole + 1, :], rows, inputs, starts, of_starts)
    if whole < K:
        rest = (K - whole) * n
        rows, start = d[..., whole:, :].reshape(*batch, 1, rest), out[..., whole : whole + 1, :]
        _put(out[..., whole + 1 :, :], rows, inputs[..., :rest, :rest], start, of_starts[..., :rest])
    return out


def _put(out: Any, rows: Any, inputs: Any, starts: Any, of_starts: Any) -> None:
    """rows inputs + starts of_starts, written where it belongs."""
    if isinstance(out, Tensor) and out.shape[:-2].numel() == 1:  # no more memory than that, which takes time
        target = out.view(rows.shape[-2:])
        torch.mm(starts.flatten(0, -2), of_starts.flatten(0, -2), out=target)
        target.addmm_(rows.flatten(0, -2), inputs.flatten(0, -2))
    else:
        out[:] = (rows @ inputs + starts @ of_starts).reshape(out.shape)


def _toeplitz(powers: Any) -> tuple[Any, Any]:
    """(L n, L n) from the inputs d_i of a block to its states x_(j+1), E^(j-i) for i <= j; (n, L n) from its start."""
    *batch, L, n, _ = powers.shape
    xp = namespace(powers)
    all_powers = empty((*batch, L + 1, n, n), powers)  # of the transpose
    all_powers[..., 0, :, :], all_powers[..., 1:, :, :] = of_kind(np.eye(n), powers), powers.mT
    gap = of_kind(np.arange(L)[None, :] - np.arange(L)[:, None], powers)
    blocks = all_powers[..., gap.clip(min=0), :, :] * (gap >= 0)[:, :, None, None]
    inputs = xp.swapaxes(blocks, -3, -2).reshape(*batch, L * n, L * n)
    return inputs, xp.swapaxes(all_powers[..., 1:, :, :], -3, -2).reshape(*batch, n, L * n)


def changing(E: Any, d: Any, x0: Any) -> Any:
    """x_0 to x_K: E (*batch, K, n, n), or diagonals (*batch, K, n) where it has the rank of d."""
    *batch, K, n = d.shape
    out = empty((*batch, K + 1, n), d)
    out[..., 0, :] = x0
    _fill(out[..., 1:, :], E, d, x0)
    return out


def _fill(out: Any, E: Any, d: Any, x: Any) -> None:
    """Odd-even reduction: pairs of steps are the same recurrence at half the length, and what lies between follows."""
    K = d.shape[-2]
    if K <= FEW_STEPS:
        for k in range(K):
            out[..., k, :] = x = _times(_steps(E, d, k, k + 1), x[..., None, :])[..., 0, :] + d[..., k, :]
        return
    even, odd = _steps(E, d, 0, K, 2), _steps(E, d, 1, K, 2)
    n_pairs = K // 2
    paired = _steps(even, d, 0, n_pairs)
    both = odd * paired if E.ndim == d.ndim else odd @ paired
    _fill(out[..., 1::2, :], both, _times(odd, d[..., : 2 * n_pairs : 2, :]) + d[..., 1::2, :], x)
    out[..., 0, :] = _times(_steps(E, d, 0, 1), x[..., None, :])[..., 0, :] + d[..., 0, :]
    out[..., 2::2, :] = _times(_steps(even, d, 1, None), out[..., 1 : K - 1 : 2, :]) + d[..., 2::2, :]


def _steps(E: Any, d: Any, start: int, stop: int | None, stride: int = 1) -> Any:
    """Some of the steps of E, whose own dimensions are one more than those of d, or as many where it is diagonal."""
    some = slice(start, stop, stride)
    return E[..., some, :] if E.ndim == d.ndim else E[..., some, :, :]


def _times(E: Any, x: Any) -> Any:
    """E_k x_k for every k."""
    return E * x if E.ndim == x.ndim else (E @ x[..., None])[..., 0]
