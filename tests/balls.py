"""Ball arithmetic for the oracles, and the cache that keeps their results.

A ball is a midpoint with a rigorous error radius (python-flint's arb and acb). `settle` raises the working
precision until the radii are below 2^-70 of each result's norm; only then is anything rounded to float64.
Results are kept in tests/.cache, keyed by the inputs and by the text of this file and of oracles.py: delete
that folder whenever you like.
Source: Johansson (2017), IEEE Trans. Computers 66(8).
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from math import inf
from pathlib import Path

import numpy as np
from flint import acb, acb_mat, arb, arb_mat, ctx

RESULT_BITS = 70
MAX_PRECISION = 1 << 14
UNDERFLOW_BITS = 1100  # 2^-1075 already rounds to zero
HERE = Path(__file__).parent
CACHE = HERE / ".cache"


# ---- cache -------------------------------------------------------------------------------------------------


@functools.cache
def _version() -> bytes:
    return (HERE / "balls.py").read_bytes() + (HERE / "oracles.py").read_bytes()


def cached(function: Callable[..., tuple[np.ndarray, ...]]) -> Callable[..., tuple[np.ndarray, ...]]:
    """Keep a function's tuple of arrays in memory and in tests/.cache, keyed by its arguments' content."""
    memory: dict[str, tuple[np.ndarray, ...]] = {}

    @functools.wraps(function)
    def lookup(*arguments: np.ndarray) -> tuple[np.ndarray, ...]:
        arrays = [np.ascontiguousarray(argument) for argument in arguments]
        digest = hashlib.sha256(_version() + function.__name__.encode())
        for array in arrays:
            digest.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
        key = digest.hexdigest()[:40]
        if key not in memory:
            path = CACHE / f"{key}.npz"
            if not path.exists():
                _save(path, function(*arrays))
            with np.load(path) as stored:
                memory[key] = tuple(stored[f"arr_{i}"] for i in range(len(stored.files)))
        return tuple(array.copy() for array in memory[key])

    return lookup


def _save(path: Path, arrays: tuple[np.ndarray, ...]) -> None:
    path.parent.mkdir(exist_ok=True)
    (path.parent / ".gitignore").write_text("*\n")
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        np.savez(file, *arrays)
    os.replace(name, path)  # atomic: parallel test workers may write the same key


# ---- balls -------------------------------------------------------------------------------------------------


def ball(x: complex) -> arb | acb:
    return acb(complex(x)) if np.iscomplexobj(x) else arb(float(x))


def matrix(A: np.ndarray, *, is_complex: bool = False) -> arb_mat | acb_mat:
    """A numpy array (rows, columns) as an exact ball matrix."""
    balls = [ball(x) for x in A.ravel()]
    return from_balls(A.shape[0], A.shape[1], balls, is_complex=is_complex or np.iscomplexobj(A))


def from_balls(rows: int, columns: int, balls: list, *, is_complex: bool) -> arb_mat | acb_mat:
    return (acb_mat if is_complex else arb_mat)(rows, columns, balls)


def conjugate(x: arb | acb) -> arb | acb:
    return acb(x.real, -x.imag) if isinstance(x, acb) else x


def adjoint(A: arb_mat | acb_mat) -> arb_mat | acb_mat:
    transposed = A.transpose()
    if isinstance(A, arb_mat):
        return transposed
    return acb_mat(transposed.nrows(), transposed.ncols(), [conjugate(x) for x in transposed.entries()])


def real_parts(balls: list) -> list[arb]:
    """The real balls of a list: real and imaginary parts where it is complex."""
    return [part for x in balls for part in ((x.real, x.imag) if isinstance(x, acb) else (x,))]


def log2(x: arb) -> float:
    """An upper bound on log2 |x| of an exact ball, tight to one bit; -inf for zero."""
    mantissa, exponent = x.man_exp()
    return int(abs(mantissa)).bit_length() + int(exponent) if mantissa else -inf


def is_settled(balls: list) -> bool:
    """Whether the radii are below 2^-RESULT_BITS of the largest entry, or everything rounds to zero."""
    parts = real_parts(balls)
    if not all(x.is_finite() for x in parts):
        return False
    radius = max((log2(x.rad()) for x in parts), default=-inf)
    size = max((log2(x.mid()) for x in parts), default=-inf)
    slack = len(parts).bit_length() // 2 + 2
    return radius == -inf or radius + RESULT_BITS + slack <= size or max(radius, size) < -UNDERFLOW_BITS


def settle(groups_at_precision: Callable[[], list[list]], precision: int = 192) -> list[list]:
    """Raise the working precision until each group of balls that the function returns is settled."""
    while precision <= MAX_PRECISION:
        with ctx.workprec(precision):
            groups = groups_at_precision()
        if all(is_settled(group) for group in groups):
            return groups
        precision *= 2
    raise ArithmeticError(f"no result of {RESULT_BITS} bits at {MAX_PRECISION} bits of working precision")


def rounded(balls: list, shape: tuple[int, ...], *, is_complex: bool) -> np.ndarray:
    """Midpoints rounded to nearest: float64, or complex128."""
    if is_complex:
        values = [complex(float(acb(x).real), float(acb(x).imag)) for x in balls]
        return np.array(values, complex).reshape(shape)
    return np.array([float(x.real) for x in balls], float).reshape(shape)


def is_settled_to(balls: list, bits: int) -> bool:
    parts = real_parts(balls)
    radius, size = (max(log2(x) for x in group) for group in ([x.rad() for x in parts], [x.mid() for x in parts]))
    return radius == -inf or radius + bits <= size


def scaled(balls: list) -> tuple[np.ndarray, int]:
    """(x, p) with the balls about x 2^p and max |x| near 1: norms then neither overflow nor underflow."""
    power = max((log2(part.mid()) for part in real_parts(balls)), default=-inf)
    if power == -inf:
        return np.zeros(len(balls)), 0
    is_complex = any(isinstance(x, acb) for x in balls)
    scale = arb(2) ** -power
    return rounded([x * scale for x in balls], (len(balls),), is_complex=is_complex), int(power)


def norm(balls: list) -> arb:
    """The 2-norm as a ball; never fails, where a ball of squares that reaches below zero has no root."""
    parts = real_parts(balls)
    middle = sum((x.mid() * x.mid() for x in parts), arb(0)).sqrt()
    return middle + arb(0, sum((x.rad() for x in parts), arb(0)).upper())


def is_zero(balls: list) -> bool:
    """Whether all rounds to zero, exactly or by exact cancellation."""
    return all(x.is_finite() and x.abs_upper() < arb(2) ** -UNDERFLOW_BITS for x in real_parts(balls))
