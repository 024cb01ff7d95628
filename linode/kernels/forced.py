"""The front of the compiled kernel for forced systems (forced.c): x' = Xi x + f(t), f a polynomial between breaks.

Here shapes, types and memory are checked before addresses are handed to C. Where the module was not built, or
LINODE_COMPILED=0 is set, `is_in_use` is false, and forcing goes by trajectories of larger systems, which give the same
numbers.
Cost: a step of a series is some 10 to 20 products of Xi with a vector, and one of many equal steps 1 + p of them for p
coefficients; three times that with a gradient.
Shapes: Xi (S, J, n, n), one for each piece or one for all (J = 1); x0 (S, R, n); f (S, R, K + 1, p n), coefficients of
((t - refs) / unit)^j in each piece, (S, R, 1, p n) for one that rules all pieces; jumps of x at the breaks
(S, R, K, n); t (S, R, T); all but t float64 or all complex128. Those of one trajectory may come without S and R.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .private import is_wrapped, n_dispatch_modes
from .small import PLAIN

DTYPES = (torch.float64, torch.complex128)
WORK_OF_A_THREAD = 2e6  # as in `small`


def _load() -> Any:
    """The compiled module, or None."""
    if os.environ.get("LINODE_COMPILED", "1") == "0" or not any(Path(__file__).parent.glob("_forced.*")):
        return None
    try:
        return import_module("linode.kernels._forced")
    except ImportError:
        return None


_forced = _load()
MOST_STATES: int = _forced.MOST_STATES if _forced else 0
MOST_COEFFICIENTS: int = _forced.MOST_COEFFICIENTS if _forced else 0


def is_in_use() -> bool:
    """Whether there is a compiled module, and it is not turned off."""
    return _forced is not None


class Grid(NamedTuple):
    """Breaks (K,), their distances (K - 1,), expanded from one number where they are equal, and what polynomials refer
    to: refs (K + 1,), and a unit of time, one for all pieces or (K + 1,). All float64.
    """

    breaks: Tensor
    gaps: Tensor
    refs: Tensor
    unit: float | Tensor


class Walk:
    """One problem, whose states are asked for at times t >= 0 of which none is beyond t_max."""

    def __init__(
        self, Xi: Tensor, x0: Tensor, f: Tensor | None, jumps: Tensor | None, t: Tensor, grid: Grid, t_max: float
    ) -> None:
        """Raises ValueError where the kernel does not take them: `takes` tells before."""
        *outer, n = x0.shape
        S, R = outer or (1, 1)
        J, K, T = Xi.shape[-3], grid.breaks.shape[0], t.shape[-1]
        Xi, t, breaks = (_without_signs(x) for x in (Xi, t, grid.breaks))
        x0, f, jumps = _rows(x0), None if f is None else _rows(f), None if jumps is None else _rows(jumps)
        p = 0 if f is None else f.shape[-1] // n
        unit = grid.unit
        own_unit = (unit.data_ptr(), 1.0) if isinstance(unit, Tensor) else (0, unit)
        self.x0, self.f, self.jumps, self.shape = x0, f, jumps, (*outer, T, n)
        self.kept = Xi, t, breaks, grid  # their memory is read
        skipped = () if outer else (0, 0)
        fits = x0.dtype in DTYPES and Xi.dtype == x0.dtype and Xi.shape == (*outer[:1], J, n, n)
        fits = fits and t.dtype == torch.float64
        fits = fits and t.shape[:-1] == (*outer,) and grid.refs.shape == (K + 1,) and J in (1, K + 1)
        fits = fits and (f is None or (f.shape[:-2] == (*outer,) and f.shape[-2] in (1, K + 1) and f.dtype == x0.dtype))
        fits = fits and (jumps is None or (jumps.shape == (*outer, K, n) and jumps.dtype == x0.dtype))
        if not fits:
            found = f"Xi {tuple(Xi.shape)}, x0 {tuple(x0.shape)}, {x0.dtype}, t {tuple(t.shape)}"
            raise ValueError(f"the compiled kernel does not take {found}")
        gaps, of_pieces = grid.gaps, 0 if f is None or f.shape[-2] == 1 else f.stride(-2)
        of_Xi, of_x0, of_t = Xi.stride(), x0.stride(), t.stride()
        self.arguments = (
            *(x0.dtype == torch.complex128, S, R, J, K, T, n, p),
            *(Xi.data_ptr(), *(() if outer else (0,)), *of_Xi[:-3], of_Xi[-3] if J > 1 else 0, *of_Xi[-2:]),
            *(x0.data_ptr(), *skipped, *of_x0[:-1]),
            *((0, 0, 0, 0) if f is None else (f.data_ptr(), *skipped, *f.stride()[:-2], of_pieces)),
            *((0, 0, 0, 0) if jumps is None else (jumps.data_ptr(), *skipped, *jumps.stride()[:-1])),
            *(t.data_ptr(), *skipped, *of_t),
            *(breaks.data_ptr(), gaps.data_ptr(), gaps.stride(0), grid.refs.data_ptr(), *own_unit, t_max),
        )
        self.work = S * R * (K + 1 + T) * (20.0 + n) * n

    def states(self, keep: bool) -> tuple[Tensor, bytearray] | None:
        """z (S, R, T, n) and, where they are to be kept for the gradients, the states at all nodes; None where other
        methods are faster or more accurate, or where something overflows.
        """
        z = self.x0.new_empty(self.shape)
        nodes = _forced.states(keep, _threads(self.work), *self.arguments, z.data_ptr())
        return None if nodes is None else (z, nodes)

    def gradients(self, nodes: bytearray, g: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None] | None:
        """Of sum Re<g, z> with respect to Xi, x0, f and jumps, in their shapes; None where something overflows."""
        Xi, x0, f, jumps = self.kept[0], self.x0, self.f, self.jumps
        if self.arguments[8] != Xi.data_ptr():
            raise RuntimeError("Xi was put elsewhere in memory (x.data = ..., x.resize_(...)) before backward")
        g = _rows(g, whole=True)
        of_Xi, of_x0 = x0.new_empty(Xi.shape), x0.new_empty(x0.shape)
        of_f, of_jumps = (None if x is None else x0.new_zeros(x.shape) for x in (f, jumps))
        places = (0 if x is None else x.data_ptr() for x in (of_f, of_jumps))
        done = _forced.gradients(
            nodes, _threads(3 * self.work), *self.arguments, g.data_ptr(), of_Xi.data_ptr(), of_x0.data_ptr(), *places
        )
        return None if done is None else (of_Xi, of_x0, of_f, of_jumps)


def spacing(times: Tensor) -> tuple[float, float, float] | None:
    """Of times (K,): the smallest and the largest distance of neighbours, and how far a time is at most from where it
    would be if all were equally spaced; None: not looked at here.
    """
    if _forced is None or times.dtype != torch.float64 or not is_plain(times) or not times.is_contiguous():
        return None
    return None if times.is_neg() or times.shape[0] < 2 else _forced.spacing(times.data_ptr(), times.shape[0])


def takes(n: int, n_terms: int, *xs: Tensor) -> bool:
    """Whether the kernel serves systems of n states and so many coefficients, and reads these tensors, which no
    transform of torch.func has wrapped.
    """
    if not 0 < n <= MOST_STATES or n_terms > MOST_COEFFICIENTS or n_dispatch_modes():
        return False
    return all([type(x) in PLAIN and x.is_cpu for x in xs])  # noqa: C419 - a generator takes twice as long


def is_plain(x: Tensor) -> bool:
    """Whether numbers of x lie in memory here, and nothing asks to see what operators read."""
    return type(x) in PLAIN and x.is_cpu and not is_wrapped(x) and not n_dispatch_modes()


def _without_signs(x: Tensor) -> Tensor:
    """x without a conjugation or a sign that torch has put off."""
    return x.resolve_conj().resolve_neg() if x.is_neg() or x.is_conj() else x


def _rows(x: Tensor, whole: bool = False) -> Tensor:
    """x with entries of the last dimension side by side, and of all where `whole`."""
    x = _without_signs(x)
    return x if x.is_contiguous() or not (whole or x.stride(-1) != 1) else x.contiguous()


def _threads(work: float) -> int:
    """How many threads pay for so many multiplications."""
    return 1 if work < 2 * WORK_OF_A_THREAD else min(torch.get_num_threads(), int(work / WORK_OF_A_THREAD))


# ---- the matrices of one step ----------------------------------------------------------------------------------------


def steps(A: Tensor, n_terms: int) -> tuple[Tensor, Tensor] | None:
    """exp(A) (S, n, n) and the integrals int_0^1 exp(A (1 - s)) s^j ds, j < n_terms, (S, n_terms, n, n), of A
    (S, n, n); None where the kernel does not take them, or not without losing digits.
    """
    *outer, n, _ = A.shape
    if len(outer) > 1 or not takes(n, n_terms, A) or is_wrapped(A) or A.dtype not in DTYPES:
        return None
    E, gains = A.new_empty(A.shape), A.new_empty((*outer, n_terms, n, n))
    A = _without_signs(A)
    done = _forced.steps(0, _threads(A.numel() * 20.0 * n), *_matrices(A, n_terms), E.data_ptr(), gains.data_ptr())
    return None if done is None else (E, gains)


def steps_vjp(A: Tensor, of_E: Tensor, of_gains: Tensor) -> Tensor | None:
    """The gradient with respect to A from those of both; None where it overflows."""
    A, of_E, of_gains = _without_signs(A), _rows(of_E, whole=True), _rows(of_gains, whole=True)
    of_A = A.new_empty(A.shape)
    places = of_E.data_ptr(), of_gains.data_ptr(), of_A.data_ptr()
    done = _forced.steps(1, _threads(A.numel() * 60.0 * A.shape[-1]), *_matrices(A, of_gains.shape[-3]), *places)
    return None if done is None else of_A


def _matrices(A: Tensor, n_terms: int) -> tuple[Any, ...]:
    S = A.shape[0] if A.ndim == 3 else 1
    strides = A.stride() if A.ndim == 3 else (0, *A.stride())
    is_complex = A.dtype == torch.complex128
    return is_complex, S, 1, 1, 0, 0, A.shape[-1], n_terms, A.data_ptr(), strides[0], 0, *strides[1:]
