"""Linear recurrences x_(k+1) = E_k x_k + d_k with E_k = exp(Xi h_k), most of them without a loop over k.

Equal steps, few of them (`windowed`): sums over r steps, over r^2, ..., each by one product with r powers of E, of
windows that overlap: two or three products of K x r n with r n x n, r^2 or r^3 > K.
Equal steps, many of them (`steady`): one product with a block Toeplitz matrix of powers of E gives all blocks of L
steps; the states at the starts of blocks follow the same recurrence with E^L. About 2 K L n^2 work in log_L K products,
memory O(K n).
Steps of few lengths, more states (`looped`): one product a step, since powers of E would cost n^3 each.
Unequal steps (`changing`): two steps make one step of the same form, so log2 K halvings suffice; all pairs of a halving
are one operation. Twice the work of the loop, or n times as much where E is not diagonal. Plans with modes do this for
each mode; others form the propagators of some steps at a time.
Source: Blelloch (1990), Prefix sums and their applications, CMU-CS-90-190, section 1.4 (recurrences as scans);
Hillis & Steele (1986), Comm. ACM 29, 1170 (sums of ever more steps); Stone (1973), J. ACM 20, 27 (odd-even reduction).
Shapes: x_0 (*batch, n), d (*batch, K, n), states (*batch, K + 1, n); batch dimensions of E broadcast.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from ..kernels.modes import Modes
from ..kernels.tensors import is_finite
from ..methods.base import Plan
from ..methods.eig import CompiledEigPlan, EigPlan
from .one_time import propagators

WINDOW_ENTRIES = 2**21  # of propagators at a time: 16 MiB
LOOP_STATES, LOOP_STEPS = 24, 1024  # a product of so many states takes as long as its call; steps of a loop
STEPS_OF_A_LENGTH = 4  # at least, for a propagator of each length to pay
FEW_EQUAL_STEPS, WIDEST_WINDOW = 512, 16  # of states; products of 16 n are fast
FEW_STEPS = 8  # up to which a loop is as fast as halving
ROWS_OF_A_BLOCK = 96  # L n: products of this size are fast, and at most 96 / n times as much work as is needed


def recur(plan: Plan, z0: Tensor, h: Tensor, d: Tensor) -> Tensor:
    """x_0 = z0 (S, R, n) to x_K, (S, R, K + 1, n), for h (S, R, K) and d (S, R, K, n)."""
    S, R, K, n = d.shape
    if K == 1:
        return torch.cat([z0[:, :, None], plan.evaluate(z0, h) + d], 2)
    if n >= LOOP_STATES and K <= LOOP_STEPS:
        x = _by_loop(plan, z0, h, d)
        if x is not None:
            return x
    if is_steady(h):
        x = _by_powers(plan, z0, h, d)
        if is_finite(x):  # powers may overflow although the states do not
            return x
    if isinstance(plan, EigPlan | CompiledEigPlan):
        return _by_modes(plan.modes, z0, h, d)
    if R > 1 and h.stride(1) == 0:
        h = h[:, :1]
    window = max(1, WINDOW_ENTRIES // (S * h.shape[1] * n**2))
    parts = [z0[:, :, None]]
    for start in range(0, K, window):
        own = h[:, :, start : start + window]
        E = propagators(plan, z0, own.reshape(S, 1, -1)).reshape(*own.shape, n, n)
        parts.append(changing(E, d[:, :, start : start + window], parts[-1][:, :, -1])[:, :, 1:])
    return torch.cat(parts, 2)


def _by_loop(plan: Plan, z0: Tensor, h: Tensor, d: Tensor) -> Tensor | None:
    """The states step by step, with one propagator for each length; None where they are of many lengths."""
    S, R, K, n = d.shape
    lengths, which = h[0, 0].unique(return_inverse=True)
    if len(lengths) > max(1, K // STEPS_OF_A_LENGTH) or not (_is_shared(h) or bool((h == h[:1, :1]).all())):
        return None
    E = propagators(plan, z0, lengths.expand(S, 1, -1)).mT  # (S, lengths, n, n)
    out = d.new_empty(K + 1, S, R, n)
    out[0] = z0
    steps = list(E.movedim(1, 0).contiguous())
    for k, (length, own) in enumerate(zip(which.tolist(), d.movedim(2, 0))):
        torch.baddbmm(own, out[k], steps[length], out=out[k + 1])
    return out.movedim(0, 2)


def _is_shared(h: Tensor) -> bool:
    """Whether all trajectories have the same steps in memory."""
    return all(size == 1 or stride == 0 for size, stride in zip(h.shape[:2], h.stride()))


def is_steady(h: Tensor) -> bool:
    """Whether all steps (S, R, K) have one length."""
    return bool((h == h.flatten()[:1]).all())


def _by_powers(plan: Plan, z0: Tensor, h: Tensor, d: Tensor) -> Tensor:
    """The states for steps of one length."""
    K, n = d.shape[-2:]
    levels = powers_of(K, n)
    times = h[:, :1, :1] * torch.tensor([e for level in levels for e in level], dtype=h.dtype, device=h.device)
    E = propagators(plan, z0, times)[:, None]
    if is_few(K):
        return windowed(E, d, z0)
    return steady(list(E.split([len(level) for level in levels], 2)), d, z0)


def _by_modes(modes: Modes, z0: Tensor, h: Tensor, d: Tensor) -> Tensor:
    """The states for steps of any lengths, by the modes of Xi."""
    p = modes.n_kept
    lam, dual, basis = modes.lam[:, None, None, :p], modes.V_inv[:, :p].mT[:, None], modes.weighted.mT[:, None]
    x = changing(torch.exp(lam * h[..., None]), d.to(dual.dtype) @ dual, z0.to(dual.dtype) @ dual[:, 0])
    return (x.real @ basis.real - x.imag @ basis.imag) if modes.is_paired else x @ basis


def powers_of(K: int, n: int) -> tuple[tuple[int, ...], ...]:
    """The exponents of E that K equal steps need."""
    return exponents_of_windows(K) if is_few(K) else exponents(K, n)


# ---- steps of one length -------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def exponents(K: int, n: int) -> tuple[tuple[int, ...], ...]:
    """The exponents of E that K equal steps need, for each level of blocks."""
    L = max(2, min(16, ROWS_OF_A_BLOCK // n))
    levels, stride = [], 1
    while True:
        levels.append(tuple(stride * j for j in range(1, min(K, L) + 1)))
        if K < 2 * L:
            return tuple(levels)
        K, stride = K // L - 1, stride * L


@lru_cache(maxsize=256)
def exponents_of_windows(K: int) -> tuple[tuple[int, ...], ...]:
    """The same for each level of windows, from the largest."""
    n_levels, radix = windows(K)
    return tuple(tuple(j * radix**level for j in range(radix - 1, 0, -1)) for level in range(n_levels))


def is_few(K: int) -> bool:
    """Whether windows are faster than blocks."""
    return K < FEW_EQUAL_STEPS


def windows(K: int) -> tuple[int, int]:
    """How often windows of how many states are summed."""
    n_levels = 2 if K < WIDEST_WINDOW**2 else 3
    radix = math.ceil((K + 1) ** (1 / n_levels) - 1e-9)
    return n_levels, max(radix, 2)


def windowed(powers: Tensor, d: Tensor, x0: Tensor) -> Tensor:
    """x_0 to x_K, with powers (*batch, E, n, n), E^e for `exponents_of_windows`."""
    *batch, K, n = d.shape
    n_levels, radix = windows(K)
    weights = powers.mT.unflatten(-3, (n_levels, radix - 1)).flatten(-3, -2)  # (*batch, levels, (radix - 1) n, n)
    before = (radix - 1) * radix ** (n_levels - 1)
    whole = d.new_zeros(*batch, before + K + 1, n)
    x = whole[..., before:, :]
    x[..., 0, :] = x0
    x[..., 1:, :] = d
    for level in range(n_levels):  # states that lie 1 to radix - 1 strides back, the oldest first
        stride = radix**level
        size, strides = (*batch, K + 1, radix - 1, n), (*whole.stride()[:-2], n, stride * n, 1)
        windows_of = whole.as_strided(size, strides, (before - (radix - 1) * stride) * n)
        rows = windows_of.clone(memory_format=torch.contiguous_format).flatten(-2)  # x is written below
        if rows.ndim == 2 and weights.ndim == 3:
            x.addmm_(rows, weights[level])
        else:
            x += rows @ weights[..., level, :, :]
    return x


def steady(powers: list[Tensor], d: Tensor, x0: Tensor) -> Tensor:
    """x_0 to x_K, with powers[level][..., j, :, :] = E^exponents[level][j]."""
    own, *coarser = powers
    *batch, K, n = d.shape
    L = own.shape[-3]
    out = d.new_empty(*batch, K + 1, n)
    out[..., 0, :] = x0
    inputs, of_starts = _toeplitz(own)
    whole = K // L * L
    rows = d[..., :whole, :].reshape(*batch, K // L, L * n)
    starts = out[..., :1, :]
    if coarser:  # the starts of blocks follow a recurrence whose inputs are what each block adds at its end
        starts = steady(coarser, rows[..., :-1, :] @ inputs[..., -n:], x0)
    _put(out[..., 1 : whole + 1, :], rows, inputs, starts, of_starts)
    if whole < K:
        rest = (K - whole) * n
        rows, start = d[..., whole:, :].reshape(*batch, 1, rest), out[..., whole : whole + 1, :]
        _put(out[..., whole + 1 :, :], rows, inputs[..., :rest, :rest], start, of_starts[..., :rest])
    return out


def _put(out: Tensor, rows: Tensor, inputs: Tensor, starts: Tensor, of_starts: Tensor) -> None:
    """Write rows @ inputs + starts @ of_starts into out."""
    if out.shape[:-2].numel() == 1:  # without temporary memory, which takes time to allocate
        target = out.view(rows.shape[-2:])
        torch.mm(starts.flatten(0, -2), of_starts.flatten(0, -2), out=target)
        target.addmm_(rows.flatten(0, -2), inputs.flatten(0, -2))
    else:
        out[:] = (rows @ inputs + starts @ of_starts).reshape(out.shape)


def _toeplitz(powers: Tensor) -> tuple[Tensor, Tensor]:
    """From inputs d_i of a block to its states x_(j+1), (L n, L n): E^(j-i) for i <= j; from its start, (n, L n)."""
    *batch, L, n, _ = powers.shape
    all_powers = powers.new_empty(*batch, L + 1, n, n)  # of the transpose
    all_powers[..., 0, :, :] = torch.eye(n, dtype=powers.dtype, device=powers.device)
    all_powers[..., 1:, :, :] = powers.mT
    place = torch.arange(L, device=powers.device)
    gap = place - place[:, None]
    blocks = all_powers[..., gap.clamp(min=0), :, :] * (gap >= 0)[:, :, None, None]
    inputs = blocks.transpose(-3, -2).reshape(*batch, L * n, L * n)
    return inputs, all_powers[..., 1:, :, :].transpose(-3, -2).reshape(*batch, n, L * n)


# ---- steps of any lengths -------------------------------------------------------------------------------------------


def changing(E: Tensor, d: Tensor, x0: Tensor) -> Tensor:
    """x_0 to x_K for E (*batch, K, n, n), or its diagonals (*batch, K, n)."""
    *batch, K, n = d.shape
    out = d.new_empty(*batch, K + 1, n)
    out[..., 0, :] = x0
    _fill(out[..., 1:, :], E, d, x0)
    return out


def _fill(out: Tensor, E: Tensor, d: Tensor, x: Tensor) -> None:
    """Odd-even reduction: the recurrence of pairs of steps gives every second state; one step more gives the others."""
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


def _steps(E: Tensor, d: Tensor, start: int, stop: int | None, stride: int = 1) -> Tensor:
    """E_k for some k; E has one dimension more than d, or as many if it holds diagonals."""
    some = slice(start, stop, stride)
    return E[..., some, :] if E.ndim == d.ndim else E[..., some, :, :]


def _times(E: Tensor, x: Tensor) -> Tensor:
    """E_k x_k for every k."""
    return E * x if E.ndim == x.ndim else (E @ x[..., None])[..., 0]
