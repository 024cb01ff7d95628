"""The front of the compiled kernel: small systems on the CPU, in one call for states and one for gradients.

Here is the one place where shapes, types and memory are checked before addresses are handed to C (small.c). Where the
module was not built, or LINODE_COMPILED=0 is set, `is_in_use` is false and methods take their torch kernels, which give
the same numbers.
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

from .private import n_dispatch_modes

EIG, CHAIN, COMPLEX = 0, 1, 2  # the kind of a plan: one of the first two, and COMPLEX more for complex Xi
PLAIN = (Tensor, torch.nn.Parameter)
BEYOND = "times are negative or beyond those of the plan"
STRUCTURES = (None, "diagonal", "Hermitian", "skew-Hermitian")
MOST_ENTRIES = 2**20  # that one thread looks at; beyond, torch's threads are faster
CODES = {torch.float32: 0, torch.float64: 1, torch.complex64: 2, torch.complex128: 3}
REAL = (torch.float32, torch.float64)
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
    """Whether the kernel takes systems of x.shape[-1] states that are where x is; of no systems it makes no plans."""
    return 0 < x.shape[-1] <= MOST_STATES and x.shape[0] > 0 and _address(x) is not None


def largest(x: Tensor) -> float | None:
    """max |x| (of real and imaginary parts where it is complex), NaN where there is one; None: not looked at here."""
    row = _row(x)
    return None if row is None else _small.largest(CODES[x.dtype], *row)


def extremes(x: Tensor) -> tuple[float, float] | None:
    """min(0, x) and max(0, x) of float64, NaN where there is one; None: not looked at here."""
    row = _row(x)
    return None if row is None else _small.extremes(*row)


class Sizes(NamedTuple):
    """What a question is judged by; NaN where there is one."""

    norm: float  # the largest |Xi|_1
    is_diagonal: bool  # every Xi is
    has_metzler: bool  # an Xi is real and has no negative entry off its diagonal
    start: float  # the largest |z0|
    least: float  # of 0 and all times
    most: float
    smallest: float  # |z0| of a trajectory, in the largest norm, that is not 0; infinite where there is none


class Question:
    """Trajectories of systems: z0 (S, R, n), t (S, R, T) float64. One of one system may come as z0 (n,), t (T,)."""

    def __init__(self, z0: Tensor, t: Tensor, places: tuple[int, int]) -> None:
        *outer, self.n = z0.shape
        *_, self.T = t.shape
        self.z0, self.t, self.outer = z0, t, outer  # kept, as their memory is read
        S, R = outer or (1, 1)
        self.n_steps = S * R * self.T
        self.places = places
        (z0_place, t_place), skipped = places, () if outer else (0, 0)
        self.arguments = (
            *(CODES[z0.dtype], S, R, self.T, self.n),
            *(z0_place, *skipped, *z0.stride(), t_place, *skipped, *t.stride()),
        )

    @classmethod
    def of(cls, z0: Tensor, t: Tensor) -> Question | None:
        """None where the kernel does not take them."""
        z0, t = _plain(z0), _plain(t)
        z0_place, t_place = _address(z0), _address(t)
        *outer, n = z0.shape
        fits = len(outer) in (0, 2) and t.shape[:-1] == (*outer,) and t.dtype == torch.float64 and z0.dtype in CODES
        if not fits or z0_place is None or t_place is None or not 0 < n <= MOST_STATES:
            return None
        return cls(z0, t, (z0_place, t_place))

    def sizes(self, Xi: Tensor) -> Sizes | None:
        """Of Xi (S, n, n) or (n, n) too, in the dtype of z0; None: not looked at here."""
        place = _address(Xi)
        if place is None or self.n_steps > MOST_ENTRIES or Xi.shape[-1] != self.n:
            return None
        Xi = _plain(Xi)  # a name of its own: it must live while its memory is read
        return Sizes(*_small.sizes(*_matrices(Xi), *self.arguments))

    def states(self, plans: bytearray) -> Tensor:
        """z (S, R, T, n), in the dtype of z0.

        Raises:
            ValueError: the plans are of other systems, or, with `CHAIN`, for times that are not negative nor as late.
        """
        z = self.z0.new_empty((*self.outer, self.T, self.n))
        threads = _threads(self.n_steps * (20.0 + self.n) * self.n)
        if _small.states(plans, *self.arguments, z.data_ptr(), threads):
            raise ValueError(BEYOND)
        return z

    def vjp(self, plans: bytearray, g: Tensor) -> tuple[Tensor, Tensor, bool]:
        """S (S, n, n) and a (S, R, n) of sum Re<g, z>, for g of the shape and dtype of z, and whether they are finite.

        Raises as `states`. RuntimeError: z0 or t is no longer where it was.
        """
        z0, n, outer, g = self.z0, self.n, self.outer, _plain(g)
        if (z0.data_ptr(), self.t.data_ptr()) != self.places:
            raise RuntimeError("z0 or t was put elsewhere in memory (x.data = ..., x.resize_(...)) before backward")
        place = _address(g)
        if place is None or g.shape != (*outer, self.T, n) or g.dtype != z0.dtype:
            raise ValueError(f"the compiled kernel does not take g {tuple(g.shape)}, {g.dtype} on {g.device}")
        of_Xi, of_z0 = z0.new_empty((*outer[:1], n, n)), z0.new_empty(z0.shape)
        places = place, *(() if outer else (0, 0)), *g.stride(), of_Xi.data_ptr(), of_z0.data_ptr()
        answer = _small.vjp(plans, *self.arguments, *places, _threads(self.n_steps * (40.0 + n) * n))
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


def measured(Xi: Tensor) -> tuple[float, bool, bool] | None:
    """The first three of `Sizes` for Xi (S, n, n); None: not looked at here."""
    if not serves(Xi) or Xi.numel() > MOST_ENTRIES:
        return None
    Xi = _plain(Xi)
    return _small.sizes(*_matrices(Xi))[:3]


def are_moderate(Xi: Tensor, z0: Tensor) -> bool:
    """Whether Xi (n, n) and z0 (n,) are plain, and all sums of their moduli are numbers."""
    n, places = z0.shape[0], (_address(Xi), _address(z0))
    if None in places or n > MOST_STATES or Xi.dtype not in CODES or z0.dtype not in CODES:
        return False
    Xi, z0 = _plain(Xi), _plain(z0)
    no_times = 0, 0, 0, 0
    found = _small.sizes(*_matrices(Xi), CODES[z0.dtype], 1, 1, 0, n, z0.data_ptr(), 0, 0, *z0.stride(), *no_times)
    return found[0] < math.inf and found[3] < math.inf


def structure(Xi: Tensor) -> str | None:
    """As `eigenpairs.structure`."""
    Xi = _plain(Xi)
    return STRUCTURES[_small.structure(*_matrices(Xi))]


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
    S, n, columns = Xi.shape
    if n != columns or Xi.dtype not in CODES or not serves(Xi):
        return None
    Xi, threads = _plain(Xi), _threads(S * 30.0 * n**3)
    if latest is not None and (latest.shape != (S,) or latest.dtype != torch.float64 or not latest.is_cpu):
        raise ValueError(f"the compiled kernel does not take latest {tuple(latest.shape)}, {latest.dtype}")
    latest = None if latest is None else latest.contiguous()  # a name of its own: it must live while its memory is read
    place = 0 if latest is None else latest.data_ptr()
    plans, n_refused, t_needed, found = _small.plan(kind, *_matrices(Xi), limit, t_max, place, threads)
    return Made(plans, n_refused, t_needed, STRUCTURES[found])


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


def _matrices(Xi: Tensor) -> tuple[int, ...]:
    """Dtype, address, strides, number and size of plain Xi (S, n, n) or (n, n)."""
    strides, n = Xi.stride(), Xi.shape[-1]
    S, strides = (1, (0, *strides)) if len(strides) == 2 else (Xi.shape[0], strides)
    return CODES[Xi.dtype], Xi.data_ptr(), *strides, S, n


def _address(x: Tensor) -> int | None:
    """Where the numbers of x lie in memory; None where they do not, or something asks to see what operators read."""
    if type(x) not in PLAIN or not x.is_cpu or n_dispatch_modes():
        return None
    try:
        place = x.data_ptr()
    except RuntimeError:  # a transform of torch.func has wrapped it
        return None
    return place if place or x.numel() == 0 else None


def _row(x: Tensor) -> tuple[int, int] | None:
    """Address and number of plain numbers in a row, where they are not too many."""
    count, place = x.numel(), _address(x)
    if _small is None or place is None or count > MOST_ENTRIES or x.dtype not in CODES:
        return None
    return (place, count) if x.is_contiguous() and not (x.is_neg() or x.is_conj()) else None


def _plain(x: Tensor) -> Tensor:
    """Without a conjugation or a sign that torch has put off, and without a class that only adds to Tensor."""
    if type(x) not in PLAIN:
        x = x.as_subclass(Tensor)
    if x.is_neg() or (x.dtype not in REAL and x.is_conj()):
        return x.resolve_conj().resolve_neg()
    return x


def _threads(work: float) -> int:
    """How many threads pay for so many multiplications; the kernel takes no more than it has systems or parts."""
    return 1 if work < 2 * WORK_OF_A_THREAD else min(torch.get_num_threads(), int(work / WORK_OF_A_THREAD))
