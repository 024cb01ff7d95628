"""Recurrences x_(k+1) = exp(Xi h_k) x_k + d_k: powers of one propagator, modes, or a propagator for every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.arrays import as_array, exponential, is_complex, namespace, of_kind
from ..kernels.modal import Modes
from ..kernels.recurrence import changing, exponents, steady
from ..kernels.tensors import is_finite
from ..methods.base import Plan
from ..methods.eig import ModalPlan
from .one_time import evaluated, propagators

FEW = 2**14  # entries of states up to which NumPy steps faster on the CPU
WINDOW_ENTRIES = 2**21  # of propagators at a time


def recur(plan: Plan, z0: Tensor, h: Tensor, d: Tensor) -> Tensor:
    """x_0 = z0 (S, R, n) to x_K, (S, R, K + 1, n), for h (S, R, K) and d (S, R, K, n)."""
    if d.is_cpu and d.numel() <= FEW:
        with np.errstate(all="ignore"):
            return of_kind(_recur(plan, *map(as_array, (z0, h, d))), d)
    return _recur(plan, z0, h, d)


def _recur(plan: Plan, z0: Any, h: Any, d: Any) -> Any:
    S, R, K, n = d.shape
    if K == 1:
        return namespace(d).concatenate((z0[:, :, None], evaluated(plan, z0, h) + d), axis=2)
    if bool((h == h[:, :1, :1]).all()):
        x = _steady(plan, z0, h, d)
        if is_finite(x):  # else powers may overflow where states do not
            return x
    if isinstance(plan, ModalPlan):
        return _modal(plan.modes_for(z0), z0, h, d)
    if R > 1 and (h.stride(1) if isinstance(h, Tensor) else h.strides[1]) == 0:
        h = h[:, :1]
    window = max(1, WINDOW_ENTRIES // (S * h.shape[1] * n**2))
    parts = [z0[:, :, None]]
    for start in range(0, K, window):
        own = h[:, :, start : start + window]
        E = propagators(plan, z0, own.reshape(S, 1, -1)).reshape(*own.shape, n, n)
        parts.append(changing(E, d[:, :, start : start + window], parts[-1][:, :, -1])[:, :, 1:])
    return namespace(d).concatenate(parts, axis=2)


def _steady(plan: Plan, z0: Any, h: Any, d: Any) -> Any:
    """Steps that are all of one length."""
    levels = exponents(d.shape[-2], d.shape[-1])
    ends = np.cumsum([len(level) for level in levels])
    times = h[:, :1, :1] * of_kind(np.array([float(e) for level in levels for e in level]), h)
    E = propagators(plan, z0, times)[:, None]
    return steady([E[:, :, end - len(level) : end] for level, end in zip(levels, ends)], d, z0)


def _modal(modes: Modes, z0: Any, h: Any, d: Any) -> Any:
    """A mode at a time."""
    p = modes.n_kept
    dual, basis = modes.V_inv[:, :p].mT[:, None], modes.weighted.mT[:, None]
    E = _exp(modes.lam[:, None, None, :p], h[..., None])
    if modes.pairs is None:
        return changing(E, d @ dual, z0 @ dual[:, 0]) @ basis
    x = changing(E, _complex(d @ dual.real, d @ dual.imag), _complex(z0 @ dual[:, 0].real, z0 @ dual[:, 0].imag))
    return x.real @ basis.real - x.imag @ basis.imag


def _exp(lam: Any, t: Any) -> Any:
    """exp(lam t), by real functions, which take less time than the complex one."""
    xp = namespace(t)
    if not is_complex(lam):
        return exponential(lam * t)
    size, angle = exponential(lam.real * t), lam.imag * t
    return _complex(size * xp.cos(angle), size * xp.sin(angle))


def _complex(re: Any, im: Any) -> Any:
    return torch.complex(re, im) if isinstance(re, Tensor) else re + 1j * im
