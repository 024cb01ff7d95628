"""The front of the compiled double-double arithmetic (wide.c): states of small systems to about 30 digits.

`solve` compares answers with these to see how large their rounding error is, and takes condition numbers from the same
powers. Here shapes, types and memory are checked before addresses are handed to C. Where the module was not built, or
LINODE_COMPILED=0 is set, `is_in_use` is false.
Cost: about 8 + log2(|A| t) products of n x n, each some 10 times that of one in double; for a trajectory 20 products
with a vector, and for each of its states one for each binary digit of the number of its step that is 1. A condition
number takes up to 20 turns of 32 + 4 log2(|A| t) products of n x n in double.
Shapes: Xi (S, n, n), z0 (S, R, n), t (S, R, T) float64, z (S, R, T, n), all on the CPU; complex128 or float64. A and H
are real: of complex Xi as `embedding.real_matrix` makes it.
"""

from __future__ import annotations

import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

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


class Powers(NamedTuple):
    """A H and exp(2^k A H) for k < levels, of systems with A = D^-1 Xi D, real."""

    numbers: Tensor  # (S, levels + 1, 2, n, w), transposed: hi and lo, rows padded to w entries
    H: Tensor  # (S,) powers of two
    D: Tensor | None  # (S, n), where Xi is complex twice; None: ones

    def fits(self, S: int, n: int) -> bool:
        """Whether they are those of S systems of n real states."""
        return (self.numbers.shape[0], self.numbers.shape[3]) == (S, n)

    @property
    def places(self) -> tuple[int, int, int, int]:
        """As the compiled functions read them."""
        at_D = 0 if self.D is None else self.D.data_ptr()
        return self.numbers.data_ptr(), self.H.data_ptr(), at_D, self.numbers.shape[1] - 1


NO_POWERS = 0, 0, 0, 0


def make_powers(A: Tensor, D: Tensor | None, H: Tensor, levels: int) -> Powers:
    """Of A (S, n, n) with |A| H <= 1/4, in the sense of powers."""
    S, n, columns = A.shape
    are_plain = all(x.dtype == torch.float64 and x.is_cpu for x in (A, H, A if D is None else D))
    fits = n == columns and 0 < n <= MOST_STATES and H.shape == (S,) and (D is None or D.shape == (S, n))
    if _wide is None or not are_plain or not fits or not 0 < levels <= MOST_LEVELS:
        raise ValueError(f"the compiled arithmetic does not take A {tuple(A.shape)}, {A.dtype} on {A.device}")
    numbers = torch.zeros(S, levels + 1, 2, n, -(-n // 4) * 4, dtype=torch.float64, device="cpu")
    torch.mul(A.mT, H[:, None, None], out=numbers[:, 0, 0, :, :n])
    _wide.plan(numbers.data_ptr(), S, n, levels)
    return Powers(numbers, _row(H), None if D is None else _row(D))


def states(powers: Powers, z0: Tensor, t: Tensor) -> Tensor:
    """exp(Xi t) z0, rounded to double, for t >= 0 within the powers.

    Raises, as all functions here:
        ValueError: times beyond the powers, or tensors that do not fit.
    """
    z0, t = _row(z0), _row(t)
    z = z0.new_empty((*t.shape, z0.shape[-1]))
    _wide.states(*_question(powers, None, z0, t), z.data_ptr())
    return z


def distances_from(forth: Powers, back: Powers | None, z0: Tensor, t: Tensor, z: Tensor) -> list[tuple[float, float]]:
    """|z - y| and |y| of every trajectory, one system after the other, in the 2-norm over all its times, with the
    states y at times t. back: powers of -Xi, which times before 0 need.
    """
    z0, t, z = _row(z0), _row(t), _row(z)
    if z.dtype != z0.dtype or z.numel() != t.numel() * z0.shape[-1]:
        raise ValueError(f"the compiled arithmetic does not compare with z {tuple(z.shape)}, {z.dtype}")
    return _wide.distances_from(*_question(forth, back, z0, t), z.data_ptr())


def conditions(forth: Powers, back: Powers | None, z0: Tensor, t: Tensor) -> Tensor:
    """Relative condition numbers (S, R) of the states with respect to Xi, see `engine.conditioning`."""
    z0, t = _row(z0), _row(t)
    out = t.new_empty(t.shape[:2])
    _wide.conditions(*_question(forth, back, z0, t), out.data_ptr())
    return out


def _question(forth: Powers, back: Powers | None, z0: Tensor, t: Tensor) -> tuple[Any, ...]:
    """Checked, as the compiled functions read it; z0 (n,) and t (T,) are one trajectory of one system."""
    S, R = t.shape[:-1] or (1, 1)
    is_complex, n = z0.dtype == torch.complex128, z0.shape[-1] << (z0.dtype == torch.complex128)
    fits = z0.shape[:-1] == t.shape[:-1] and t.dtype == torch.float64 and (is_complex or z0.dtype == torch.float64)
    fits = fits and forth.fits(S, n) and (back is None or back.fits(S, n))
    if _wide is None or not (fits and z0.is_cpu and t.is_cpu):
        found = f"z0 {tuple(z0.shape)}, {z0.dtype}, t {tuple(t.shape)}, {t.dtype} on {t.device}"
        raise ValueError(f"the compiled arithmetic does not take {found}")
    places = forth.places, NO_POWERS if back is None else back.places
    return *places, is_complex, S, R, t.shape[-1], n, z0.data_ptr(), t.data_ptr()


def _row(x: Tensor) -> Tensor:
    """Numbers in a row, without a conjugation or a sign that torch has put off."""
    if x.is_contiguous() and not (x.is_neg() or x.is_conj()):
        return x
    return x.resolve_conj().resolve_neg().contiguous()
