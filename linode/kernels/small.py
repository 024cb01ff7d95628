"""The front of the compiled kernel: small systems on the CPU, in one call for states and one for gradients.

Here is the one place where shapes, types and memory are checked before addresses are handed to C (small.c). Where the
module was not built, or LINODE_COMPILED=0 is set, `is_in_use` is false and methods take their torch kernels, which give
the same numbers.
Shapes: Xi (S, n, n), z0 (S, R, n), t (S, R, T) float64, z and g (S, R, T, n); strides are free, states and gradients
keep the precision of z0.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from scipy.linalg import cython_lapack
from torch import Tensor

from .private import is_wrapped, n_dispatch_modes

EIG, CHAIN = 0, 1
PLAIN = (Tensor, torch.nn.Parameter)
STRUCTURES = (None, "diagonal", "Hermitian", "skew-Hermitian")
MOST_ENTRIES = 2**20  # that one thread looks at; beyond, torch's threads are faster
CODES = {torch.float32: 0, torch.float64: 1, torch.complex64: 2, torch.complex128: 3}
WORK_OF_A_THREAD = 2e6  # multiplications that take some 100 us, twice what it takes to start a thread, on an AMD EPYC


def _load() -> tuple[Any, str]:
    """The compiled module, or None and why."""
    if os.environ.get("LINODE_COMPILED", "1") == "0":
        return None, "turned off by LINODE_COMPILED=0"
    folder = Path(__file__).parent
    if not any(folder.glob("_small.*")):
        return None, f"not built in {folder}"
    try:
        module = import_module("linode.kernels._small")
        module.use_lapack(cython_lapack.__pyx_capi__)
    except ImportError as error:
        return None, f"built, but cannot be loaded: {error}"
    return module, ""


_small, WHY_NOT = _load()  # why it is not in use, in words
MOST_STATES: int = _small.MOST_STATES if _small else 0
HEADER: int = _small.HEADER if _small else 6


def is_in_use() -> bool:
    """Whether there is a compiled kernel, and it is not turned off."""
    return _small is not None


def serves(x: Tensor) -> bool:
    """Whether the kernel takes systems of x.shape[-1] states that are where x is."""
    return 0 < x.shape[-1] <= MOST_STATES and _is_plain(x)


def looks_at(x: Tensor) -> bool:
    """Whether x is for `largest` and `extremes`: plain numbers in a row."""
    fits = _small is not None and x.numel() <= MOST_ENTRIES and x.dtype in CODES
    return fits and _is_plain(x) and x.is_contiguous() and not (x.is_conj() or x.is_neg())


def largest(x: Tensor) -> float:
    """max |x| (of real and imaginary parts where it is complex), NaN where there is one."""
    return _small.largest(CODES[x.dtype], x.data_ptr(), x.numel())


def extremes(x: Tensor) -> tuple[float, float]:
    """min(0, x) and max(0, x) of float64, NaN where there is one."""
    return _small.extremes(x.data_ptr(), x.numel())


def one_norm(Xi: Tensor) -> float:
    """The largest |Xi|_1."""
    return _small.one_norm(CODES[Xi.dtype], Xi.data_ptr(), *Xi.stride(), len(Xi), Xi.shape[-1])


def structure(Xi: Tensor) -> str | None:
    """As `eigenpairs.structure`."""
    return STRUCTURES[_small.structure(CODES[Xi.dtype], Xi.data_ptr(), *Xi.stride(), len(Xi), Xi.shape[-1])]


def plan_size(kind: int, n: int, is_complex: bool) -> int:
    """Numbers of a plan for one system: HEADER, then A and exp(A) with padded rows; or lam, V and V^-1 as complex
    numbers and n^2 bytes, 1 for two modes to be subtracted time by time.
    """
    if kind == EIG:
        return HEADER + 2 * n + 4 * n * n + -(-n * n // 8)
    w = 2 * n if is_complex else n
    return HEADER + 2 * w * (-(-w // 4) * 4)


def make_plan(kind: int, Xi: Tensor, limit: float, t_max: float = 0.0) -> tuple[Tensor, int]:
    """The plans (S, plan_size) of all systems, and how many of them the kernel's check refuses."""
    S, n, columns = Xi.shape
    if n != columns or Xi.dtype not in CODES or not serves(Xi):
        raise ValueError(f"the compiled kernel does not take Xi {tuple(Xi.shape)}, {Xi.dtype} on {Xi.device}")
    Xi = _plain(Xi)
    plan = torch.empty(S, plan_size(kind, n, Xi.is_complex()), dtype=torch.float64, device="cpu")
    threads = _threads(S * 30.0 * n**3)
    code, place = CODES[Xi.dtype], Xi.data_ptr()
    n_refused = _small.plan(kind, code, place, *Xi.stride(), S, n, limit, t_max, plan.data_ptr(), threads)
    return plan, n_refused


def states(kind: int, plan: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    """z (S, R, T, n), in the dtype of z0; times of `CHAIN` are not negative and not beyond its plan."""
    z0, t = _plain(z0), _plain(t)
    S, R, n, T = _checked(kind, plan, z0, t)
    z = torch.empty(S, R, T, n, dtype=z0.dtype, device="cpu")
    threads = _threads(S * R * T * (20.0 + n) * n)
    failed = _small.states(
        *(kind, CODES[z0.dtype], plan.data_ptr(), S, R, T, n, z0.data_ptr()),
        *(*z0.stride(), t.data_ptr(), *t.stride(), z.data_ptr(), threads),
    )
    if failed:
        raise ValueError("times are negative or beyond those of the plan")
    return z


def vjp(kind: int, plan: Tensor, z0: Tensor, t: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """S (S, n, n) and a (S, R, n) of sum Re<g, z>."""
    z0, t, g = _plain(z0), _plain(t), _plain(g)
    S, R, n, T = _checked(kind, plan, z0, t)
    if g.shape != (S, R, T, n) or g.dtype != z0.dtype or not serves(g):
        raise ValueError(f"the compiled kernel does not take g {tuple(g.shape)}, {g.dtype} on {g.device}")
    of_Xi, of_z0 = (
        torch.empty(S, n, n, dtype=z0.dtype, device="cpu"),
        torch.empty(S, R, n, dtype=z0.dtype, device="cpu"),
    )
    threads = _threads(S * R * T * (40.0 + n) * n)
    failed = _small.vjp(
        *(kind, CODES[z0.dtype], plan.data_ptr(), S, R, T, n, z0.data_ptr(), *z0.stride()),
        *(t.data_ptr(), *t.stride(), g.data_ptr(), *g.stride()),
        *(of_Xi.data_ptr(), of_z0.data_ptr(), threads),
    )
    if failed:
        raise ValueError("times are negative or beyond those of the plan")
    return of_Xi, of_z0


def _checked(kind: int, plan: Tensor, z0: Tensor, t: Tensor) -> tuple[int, int, int, int]:
    """S, R, n, T."""
    S, R, n = z0.shape
    T = t.shape[2]
    if (
        z0.dtype not in CODES
        or t.shape[:2] != (S, R)
        or t.dtype != torch.float64
        or plan.shape != (S, plan_size(kind, n, z0.is_complex()))
        or not (serves(z0) and _is_plain(t) and plan.is_contiguous())
    ):
        found = f"z0 {tuple(z0.shape)}, {z0.dtype} on {z0.device}, t {tuple(t.shape)}, {t.dtype} on {t.device}"
        raise ValueError(f"the compiled kernel does not take {found} with a plan {tuple(plan.shape)}")
    return S, R, n, T


def _is_plain(x: Tensor) -> bool:
    """Whether x is numbers in memory on the CPU, and nothing asks to see the operators that read them."""
    return type(x) in PLAIN and x.is_cpu and not is_wrapped(x) and not n_dispatch_modes()


def _plain(x: Tensor) -> Tensor:
    """Without a conjugation or a sign that torch has put off, and without a class that only adds to Tensor."""
    if type(x) not in PLAIN:
        x = x.as_subclass(Tensor)
    return x.resolve_conj().resolve_neg() if x.is_conj() or x.is_neg() else x


def _threads(work: float) -> int:
    """How many threads pay for so many multiplications; the kernel takes no more than it has systems or parts."""
    return 1 if work < 2 * WORK_OF_A_THREAD else min(torch.get_num_threads(), int(work / WORK_OF_A_THREAD))
