"""The front of the compiled double-double arithmetic (wide.c): states of small systems to about 30 digits.

`solve` compares answers with these to see how large their rounding error is. Here shapes, types and memory are checked
before addresses are handed to C. Where the module was not built, or LINODE_COMPILED=0 is set, `is_in_use` is false.
Cost: about 22 + log2(|A| t) products of n x n, each some 10 times that of one in double; for a state 20 products with a
vector, and one more for each binary digit of the number of its step that is 1.
Shapes: A (S, n, n), H (S,), z0 (S, R, n), t (S, R, T), z (S, R, T, n); float64 on the CPU.
"""

from __future__ import annotations

import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MOST_STATES = 128  # of a real system
MOST_LEVELS = 96  # later times are those of this one: of |A| t = 2^94 less than four digits would be known


def _load() -> Any:
    """The compiled module, or None."""
    if os.environ.get("LINODE_COMPILED", "1") == "0" or not any(Path(__file__).parent.glob("_wide.*")):
        return None
    try:
        return import_module("linode.kernels._wide")
    except ImportError:
        return None


_wide = _load()


def is_in_use() -> bool:
    """Whether there is a compiled module, and it is not turned off."""
    return _wide is not None


def n_levels(t_max: float, H: float) -> int:
    """Powers E, E^2, E^4 ... of a step H that times up to t_max need."""
    return max(1, math.frexp(min(t_max / H + 0.5, 2.0 ** (MOST_LEVELS - 1)))[1])


def make_plan(A: Tensor, H: Tensor, levels: int) -> Tensor:
    """A H and exp(2^k A H) for k < levels, transposed, (S, levels + 1, 2, n, w): hi, lo, rows padded to w entries.

    H: powers of two with |A| H <= 1/4, in the sense of powers.
    """
    S, n, columns = A.shape
    if _wide is None or n != columns or A.dtype != torch.float64 or not A.is_cpu or not 0 < n <= MOST_STATES:
        raise ValueError(f"the compiled arithmetic does not take A {tuple(A.shape)}, {A.dtype} on {A.device}")
    plan = torch.zeros(S, levels + 1, 2, n, -(-n // 4) * 4, dtype=torch.float64, device="cpu")
    torch.mul(A.mT, H[:, None, None], out=plan[:, 0, 0, :, :n])
    _wide.plan(plan.data_ptr(), S, n, levels)
    return plan


def states(plan: Tensor, H: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    """exp(A t) z0, rounded to float64, for t >= 0 within the powers of the plan."""
    S, levels, parts, n, width = plan.shape
    z0, t, H = (_row(x) for x in (z0, t, H))
    fits = z0.ndim == t.ndim == 3 and len(z0) == len(t) == len(H) == S
    fits = fits and (parts, width) == (2, -(-n // 4) * 4)
    fits = fits and z0.shape[2] == n and z0.shape[1] == t.shape[1] and plan.is_contiguous()
    if _wide is None or not fits or any(x.dtype != torch.float64 or not x.is_cpu for x in (plan, H, z0, t)):
        found = f"z0 {tuple(z0.shape)}, {z0.dtype}, t {tuple(t.shape)}, {t.dtype}, plan {tuple(plan.shape)}"
        raise ValueError(f"the compiled arithmetic does not take {found}")
    z = torch.empty(*t.shape, n, dtype=torch.float64, device="cpu")
    own = plan.data_ptr(), S, n, levels - 1, *t.shape[1:], z0.data_ptr(), t.data_ptr(), H.data_ptr(), z.data_ptr()
    if _wide.states(*own):
        raise ValueError("times are negative or beyond those of the plan")
    return z


def _row(x: Tensor) -> Tensor:
    """Numbers in a row, without a sign that torch has put off."""
    return x.resolve_neg().contiguous()


def distances(x: Tensor, y: Tensor) -> Tensor:
    """|x - y| and |y| in the 2-norm, (..., 2), for x and y (..., size), float64."""
    if _wide is None or x.shape != y.shape or any(a.dtype != torch.float64 or not a.is_cpu for a in (x, y)):
        raise ValueError(f"the compiled arithmetic does not take {tuple(x.shape)}, {x.dtype} and {tuple(y.shape)}")
    x, y = _row(x), _row(y)
    out = torch.empty(*x.shape[:-1], 2, dtype=torch.float64, device="cpu")
    _wide.distances(x.data_ptr(), y.data_ptr(), out.numel() // 2, x.shape[-1], out.data_ptr())
    return out
