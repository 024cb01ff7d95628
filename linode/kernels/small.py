"""The front of the compiled kernel: small systems on the CPU, in one call for states and one for gradients.

The module (small.c) takes tensors, and reads and checks in one place where their numbers lie, of which shape and type
(views.h). What it does not take gives None, or an error; here it is tried again without what torch has put off. Where
the module was not built, torch is older than 2.10, or LINODE_COMPILED=0 is set, `is_in_use` is false and methods take
their torch kernels, which give the same numbers.
Shapes: Xi (S, n, n), z0 (S, R, n), t (S, R, T) float64, z and g (S, R, T, n); strides are free, states and gradients
keep the precision of z0. Plans are a bytearray: the module checks that their size and kind fit.
"""

from __future__ import annotations

import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.linalg import cython_lapack
from torch import Tensor

from .private import dlpack_table, is_recorded, n_dispatch_modes

EIG, CHAIN, COMPLEX = 0, 1, 2  # the kind of a plan: one of the first two, and COMPLEX more for complex Xi
PLAIN = (Tensor, torch.nn.Parameter)
BEYOND = "times are negative or beyond those of the plan"
STRUCTURES = (None, "diagonal", "Hermitian", "skew-Hermitian")


def _load() -> tuple[Any, str]:
    """The compiled module, or None and why."""
    if os.environ.get("LINODE_COMPILED", "1") == "0":
        return None, "turned off by LINODE_COMPILED=0"
    folder = Path(__file__).parent
    if not any(folder.glob("_small.*")):
        return None, f"not built in {folder}"
    if dlpack_table is None:
        return None, "built, but this torch does not show its tensors to C: 2.10 and newer do"
    try:
        module = import_module("linode.kernels._small")
        module.use_lapack(cython_lapack.__pyx_capi__)
        module.use_torch(dlpack_table, *PLAIN, n_dispatch_modes, is_recorded, torch.get_num_threads)
    except ImportError as error:
        return None, f"built, but cannot be loaded: {error}"
    return module, ""


_small, WHY_NOT = _load()  # why it is not in use, in words
MOST_STATES: int = _small.MOST_STATES if _small else 0
HEADER: int = _small.HEADER if _small else 6


def is_in_use() -> bool:
    """Whether there is a compiled kernel, and it is not turned off."""
    return _small is not None


def is_system(Xi: Any, z0: Any) -> bool:
    """Whether Xi (n, n) or (S, n, n), and z0 (n,), (S, n) or (R, n), are plain tensors that the kernel takes, and the
    sums of their moduli are finite.
    """
    return _small is not None and _small.is_system(Xi, z0)


def rank_of_times(t: Any) -> int:
    """The number of dimensions of a plain tensor, float64, on the CPU; 0 for anything else."""
    return _small.rank_of_times(t) if _small is not None else 0


def serves(x: Tensor) -> bool:
    """Whether the kernel takes systems Xi (S, n, n), or (n, n); of no systems it makes no plans."""
    if _small is None:
        return False
    return _small.serves(x) or (type(x) in PLAIN and _small.serves(_plain(x)))


def largest(x: Tensor) -> float | None:
    """max |x| (of real and imaginary parts where it is complex), NaN where there is one; None: not looked at here."""
    return None if _small is None else _small.largest(x)


def extremes(x: Tensor) -> tuple[float, float] | None:
    """min(0, x) and max(0, x) of float64, NaN where there is one; None: not looked at here."""
    return None if _small is None else _small.extremes(x)


class Size(NamedTuple):
    """What a choice of methods must know of matrices Xi (S, n, n), beside their number."""

    norm: float  # the largest |Xi|_1, NaN where there is one; 0 of no matrices
    is_diagonal: bool  # every Xi is
    has_metzler: bool  # an Xi is real and has no negative entry off its diagonal


class Question:
    """Trajectories of systems: z0 (S, R, n), t (S, R, T) float64. Some may come in shapes of their own: one of one
    system as z0 (n,), t (T,); and, beside Xi, one of each as z0 (S, n), t (T,) or (S, T), or all of one as z0 (R, n),
    t (T,) or (R, T). States and gradients then have such shapes.

    size: of Xi; start, smallest: the largest |z0|, and that of the smallest trajectory that is not 0;
    least, most: of 0 and all times; NaN where there is one. No size: Xi was not
    given, or there is too much to look at: then the others are NaN.
    """

    size: Size | None = None
    start: float = math.nan
    least: float = math.nan
    most: float = math.nan
    smallest: float = math.nan

    def __init__(self, Xi: Tensor | None, z0: Tensor, t: Tensor, z0_place: int, t_place: int, *sizes: Any) -> None:
        self.z0, self.t, self.places = z0, t, (z0_place, t_place)
        self.Xi_shape = (*z0.shape[:-2], z0.shape[-1], z0.shape[-1]) if Xi is None else Xi.shape
        if sizes:
            norm, is_diagonal, has_metzler, self.start, self.least, self.most, self.smallest = sizes
            self.size = Size(norm, is_diagonal, has_metzler)

    @classmethod
    def of(cls, z0: Tensor, t: Tensor, Xi: Tensor | None = None) -> Question | None:
        """None where the kernel does not take z0 and t. Xi: (S, n, n) or (n, n), in the dtype of z0 or wider."""
        if _small is None:
            return None
        found = _small.look(Xi, z0, t)
        if found is None:
            z0, t, Xi = _plain(z0), _plain(t), None if Xi is None else _plain(Xi)
            found = _small.look(Xi, z0, t)
        if found is None:
            return None
        return cls(Xi, z0, t, *found)

    def states(self, plans: bytearray) -> Tensor:
        """z (S, R, T, n), in the dtype of z0.

        Raises:
            ValueError: the plans are of other systems, or, with `CHAIN`, for times that are not negative nor as late.
        """
        z0 = self.z0
        *outer, n = z0.shape
        z = z0.new_empty((*outer, self.t.shape[-1], n))
        if _small.states(plans, z0, self.t, z):
            raise ValueError(BEYOND)
        return z

    def vjp(self, plans: bytearray, g: Tensor) -> tuple[Tensor, Tensor, bool]:
        """S (S, n, n) and a (S, R, n) of sum Re<g, z>, for g of the shape and dtype of z, and whether they are finite.

        Raises as `states`. RuntimeError: z0 or t is no longer where it was.
        """
        z0, t, places = self.z0, self.t, self.places
        of_Xi, of_z0 = z0.new_empty(self.Xi_shape), z0.new_empty(z0.shape)
        answer = _small.vjp(plans, z0, t, *places, g, of_Xi, of_z0)
        if answer is None:
            answer = _small.vjp(plans, z0, t, *places, _plain(g), of_Xi, of_z0)
        if answer is None:
            raise ValueError(f"the compiled kernel does not take g {tuple(g.shape)}, {g.dtype} on {g.device}")
        if answer == 1:
            raise ValueError(BEYOND)
        return of_Xi, of_z0, answer == 0


def asked(z0: Tensor, t: Tensor) -> Question:
    """The question.

    Raises:
        ValueError: the kernel does not take it.
    """
    question = Question.of(z0, t)
    if question is None:
        found = f"z0 {tuple(z0.shape)}, {z0.dtype} on {z0.device}, t {tuple(t.shape)}, {t.dtype} on {t.device}"
        raise ValueError(f"the compiled kernel does not take {found}")
    return question


def measured(Xi: Tensor) -> Size | None:
    """The size of Xi (S, n, n); None: not looked at here."""
    found = None if _small is None else _small.sizes(Xi) or _small.sizes(_plain(Xi))
    return Size(*found) if found else None


def structure(Xi: Tensor) -> str | None:
    """As `eigenpairs.structure`."""
    return STRUCTURES[_small.structure(_plain(Xi))]


class Made(NamedTuple):
    """Plans of all systems: for each HEADER numbers, then A and exp(A) with padded rows; or lam, V and V^-1 as complex
    numbers and n^2 bytes, 1 for two modes to be subtracted time by time.
    """

    plans: bytearray
    n_refused: int  # systems that the kernel's check refuses
    t_needed: float  # from which time on the check holds
    structure: str | None  # what all Xi are, where `EIG` was asked; there are no plans then


def make_plans(kind: int, Xi: Tensor, limit: float, t_max: float = 0.0, latest: Tensor | None = None) -> Made | None:
    """The plans for all Xi (S, n, n); None where the kernel does not take Xi.

    latest: (S,) float64, the largest times of the systems where `EIG` is asked; None: t_max of all.
    """
    if _small is None:
        return None
    latest = None if latest is None else latest.contiguous()
    found = _small.plan(kind, Xi, limit, t_max, latest) or _small.plan(kind, _plain(Xi), limit, t_max, latest)
    if found is None:
        return None
    plans, n_refused, t_needed, kind_of_Xi = found
    return Made(plans, n_refused, t_needed, STRUCTURES[kind_of_Xi])


def as_rows(plans: bytearray, S: int) -> Tensor:
    """The numbers of S plans, a row each, in their memory."""
    if not plans:
        return torch.empty(S, HEADER, dtype=torch.float64, device="cpu")
    return torch.frombuffer(plans, dtype=torch.float64).reshape(S, -1)


def as_plans(rows: Tensor) -> bytearray:
    """A copy of such rows."""
    plans = bytearray(8 * rows.numel())
    as_rows(plans, len(rows)).copy_(rows)
    return plans


def _plain(x: Tensor) -> Tensor:
    """Without a conjugation or a sign that torch has put off, and without a class that only adds to Tensor."""
    if type(x) not in PLAIN:
        x = x.as_subclass(Tensor)
    return x.resolve_conj().resolve_neg() if x.is_neg() or x.is_conj() else x
