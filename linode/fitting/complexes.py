"""Complex data as real ones: real parts, then imaginary parts, of channels and states.

A complex system stays one: Xi = R + i I acts on (Re z, Im z) as [[R, -I], [I, R]], a linear set of real matrices. So
waves keep their sense of rotation, and there are half as many unknowns as for real and imaginary parts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import DtypeError, OptionError, ShapeError
from .by_states import fit_by_states
from .data import Data
from .estimate import Estimate
from .identify import LONGEST_DELAY, NO_START
from .products import Array
from .progress import Report
from .states import explaining, states_of
from .structures import Function, Linear, Structure, check_mask, parts_of
from .unknowns import Unknowns, make_unknowns

WINDOW = 3  # a third of the samples are the rows of the Hankel matrix: least variance from noise (Hua & Sarkar 1990)
MOST_ROWS = 400  # of it
N_FREQUENCIES = 4  # a time, of the periodogram
DECAYS = (0.0, 1.0, 4.0)  # decay rates of the periodogram, in 1 / (longest trajectory)


def is_complex(x: Any) -> bool:
    """Whether x, or one of the trajectories of a list, is complex."""
    if isinstance(x, (list, tuple)):
        return any(is_complex(part) for part in x)
    if isinstance(x, torch.Tensor):
        return x.is_complex()
    kinds = x.dtypes if hasattr(x, "columns") and hasattr(x, "dtypes") else [getattr(x, "dtype", None)]
    return isinstance(x, complex) or any(getattr(kind, "kind", "") == "c" for kind in kinds)


def as_real(x: Any) -> Any:
    """Observations (T, p) or (T,) as (T, 2 p); lists of them, and (K, T, p), one by one."""
    if isinstance(x, (list, tuple)) and any(getattr(part, "ndim", 0) for part in x):
        return [as_real(part) for part in x]
    array = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    if array.ndim == 3:
        return np.stack([as_real(part) for part in array])
    array = array[:, None] if array.ndim == 1 else array
    seen = np.isfinite(array)  # a part that is missing makes the value a missing one
    return np.concatenate([np.where(seen, part, np.nan) for part in (array.real, array.imag)], -1)


def as_complex(x: Any) -> Array:
    return np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x, complex)


def split(M: Array) -> Array:
    """[[R, -I], [I, R]] (2 a, 2 b) of M = R + i I (a, b)."""
    return np.block([[M.real, -M.imag], [M.imag, M.real]])


def joined(M: Array) -> Array:
    """R + i I of [[R, ...], [I, ...]] (2 a, *), in all columns."""
    half = len(M) // 2
    found = M[:half].astype(complex)
    found.imag = M[half:]  # 1j * inf would be NaN
    return found


def real_form(name: str, x: Any) -> Any:
    """The real array, or tensor, that stands for a complex part of a system; of an entry that is NaN, both are."""
    if isinstance(x, torch.Tensor):
        real, imag = (x.real, x.imag) if x.is_complex() else (x, torch.zeros_like(x))
        join: Any = torch.cat
    else:
        x = np.asarray(x)
        x = np.where(np.isnan(x), complex(np.nan, np.nan), x) if np.isnan(x).any() else x
        real, imag, join = x.real, x.imag, np.concatenate
    if name in ("Xi", "C"):
        return join([join([real, -imag], -1), join([imag, real], -1)], 0)
    return join([real, imag], -1 if name == "z0" else 0)


def complex_entries(x: Any, name: str) -> Array:
    """As `fit._entries`, of complex numbers."""
    if np.asarray(x).dtype == bool:
        return np.where(np.asarray(x), complex(np.nan), 0.0)
    try:
        return as_complex(x)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"{name} is no array of numbers: {error}") from None


class ComplexLinear(Linear):
    """Xi (2 n, 2 n) that stand for complex matrices with some known entries, NaN for free ones.

    theta: the real parts of the free entries, row by row, then the imaginary parts.
    """

    has_complex_theta = True

    def __init__(self, entries: Array, is_given: bool) -> None:
        n, free = len(entries), np.flatnonzero(np.isnan(entries))
        units = np.eye(n * n).reshape(n * n, n, n)[free]
        basis = np.stack([split(x).ravel() for x in (*units, *(1j * units))], -1)
        super().__init__(2 * n, basis, known=split(np.where(np.isnan(entries), 0.0, entries)))
        self.is_given = is_given


class ComplexFunction(Function):
    """A user's theta -> complex Xi, or several parts; theta is complex where theta0 is."""

    reals = 2

    def __init__(self, function: Callable[[Any], Any], theta0: Any, bounds: Any, n: int | None) -> None:
        self.has_complex_theta = theta0 is not None and np.iscomplexobj(np.asarray(theta0))

        def real(theta: Any) -> dict[str, Any]:
            half = len(theta) // 2
            given = theta[:half] + 1j * theta[half:] if self.has_complex_theta else theta
            return {name: real_form(name, value) for name, value in parts_of(function(given)).items()}

        if self.has_complex_theta:
            theta0 = real_form("theta", np.atleast_1d(np.asarray(theta0)))
            size = len(theta0) // 2
            if bounds is not None:
                bounds = [real_form("theta", np.broadcast_to(np.asarray(x), (size,))) for x in bounds]
        super().__init__(real, theta0, bounds, None if n is None else 2 * n)


def complex_structure(structure: Any, n: Any, p: int) -> Structure | None:
    """The structure of 2 n states that stands for one of n complex states; n None: as many as p if it does not say.

    Raises:
        OptionError: it is a name other than "diagonal", no mask and no function.
    """
    if structure is None:
        return None
    if isinstance(structure, str) and structure == "diagonal":
        structure = np.eye(p if n is None else int(n), dtype=bool)
    if isinstance(structure, str):
        raise OptionError(
            f"structure {structure!r} is for real data; of complex data it is 'diagonal', a mask, an array with NaN "
            "for free entries, or a function of theta"
        )
    if callable(structure):
        structure = (structure, getattr(structure, "theta0", None), getattr(structure, "bounds", None))
    if isinstance(structure, tuple) and structure and callable(structure[0]):
        function, theta0, bounds = (*structure, None, None)[:3]
        size = n if n is not None or theta0 is not None else p
        return ComplexFunction(function, theta0, bounds, None if theta0 is not None else size)
    entries = np.ma.filled(structure, complex(np.nan)) if np.ma.isMaskedArray(structure) else np.asarray(structure)
    if entries.ndim != 2 or entries.shape[0] != entries.shape[1] or entries.dtype.kind not in "biufc":
        raise OptionError(f"structure must be 'diagonal', a mask (n, n), or a function of theta, got {structure!r}")
    if not np.isnan(entries).any():
        check_mask(entries)
        entries = np.where(entries != 0, complex(np.nan), 0.0)
    if np.isinf(entries).any() or not np.isnan(entries).any():
        raise OptionError("structure must leave some entry of Xi free, and known entries finite")
    return ComplexLinear(entries.astype(complex), True)


def complex_matrices(n: int) -> ComplexLinear:
    """All Xi (2 n, 2 n) that stand for a complex matrix."""
    return ComplexLinear(np.full((n, n), complex(np.nan)), False)


class ComplexRates(Linear):
    """Diagonal complex Xi, from starts of their own; theta: the real parts, then the imaginary parts."""

    names_theta = True

    def __init__(self, n: int, guesses: list[Array]) -> None:
        units = [np.diag(x) for x in np.eye(n)]
        super().__init__(2 * n, np.stack([split(x * c).ravel() for c in (1.0, 1j) for x in units], -1))
        self.is_given, self.guesses = False, guesses

    def starts(self, rate: float) -> list[Array]:
        return [np.concatenate([lam.real, lam.imag]) for lam in self.guesses]


def identify_complex(
    data: Data, n: int, C: Array | None, structure: Structure | None, known: dict[str, Array], report: Report
) -> Estimate:
    """The fit of n complex states to real and imaginary parts of channels; C (p, n), complex, or None.

    known: parts as `make_unknowns` takes them, of the real system.

    Raises:
        OptionError: there are more states than channels, of which there are several, and C is unknown; or other states
            than channels, a structure, and C is unknown. ShapeError: fewer values than unknowns.
    """
    p, longest = data.p // 2, LONGEST_DELAY * data.span

    def found_by(part: Data, structure: Structure, **more: Array) -> Estimate:
        unknowns = make_unknowns(structure, part.K, part.p, part.m, longest, **{**known, **more})
        if not structure.is_given:
            check_values(part, unknowns)
        found = fit_by_states(part, unknowns, report, without_structure)
        if found is None:
            raise OptionError(NO_START)
        return found

    def without_structure() -> Estimate | None:
        free = {name: x for name, x in known.items() if name in ("D", "delay")}
        if "b" in known or (structure is not None and "b" in structure.names):
            free["b"] = np.full(2 * n, np.nan)
        try:
            return identify_complex(data, n, None, None, free, report)
        except (OptionError, ShapeError):
            return None

    if structure is not None:
        if "C" in structure.names:
            return found_by(data, structure)
        if C is None and n != p:
            raise OptionError(f"structure of {n} complex states of {p} complex channels: give C, or let it return C")
        return found_by(data, structure, C=split(np.eye(n) if C is None else C))
    if C is not None:
        return found_by(data, complex_matrices(n), C=split(C))
    if n == p:
        return found_by(data, complex_matrices(n), C=np.eye(2 * n))
    if n > p:
        if p > 1:
            raise OptionError(f"{n} complex states of {p} complex channels: give C, or rank <= {p}, or one channel")
        return found_by(data, ComplexRates(n, list(guesses(data, n))), C=split(np.ones((1, n))))
    D = known.get("D", np.zeros((2 * p, data.m)))
    if not (np.isnan(D).all() or not D.any()):
        raise OptionError(
            f"D of {n} complex states of {p} complex channels must be free or 0: give C, or all of the rank"
        )
    y = joined(np.moveaxis(data.y, -1, 0)).reshape(p, -1)  # (p, K T)
    U = np.linalg.svd(y, full_matrices=False)[0][:, :n]
    found = found_by(data.mapped(split(U.conj().T)), complex_matrices(n), C=np.eye(2 * n), D=D[: 2 * n])
    return with_matrix(found, data, bool(D.any()), found.unknowns.has_b)


def check_values(data: Data, unknowns: Unknowns) -> None:
    """Raise where z holds fewer values than there are unknowns of any data of this size."""
    least = unknowns.structure.size + int(np.count_nonzero(unknowns.free_z0[0]))
    least += sum(len(unknowns.free(name)) for name in ("B", "b"))
    if data.n_values < least:
        raise ShapeError(
            f"z holds {data.n_values // 2} complex values, fewer than the {-(-least // 2)} unknowns of "
            f"{unknowns.n // 2} states; give more samples, or ask for fewer states by rank"
        )


def with_matrix(found: Estimate, data: Data, has_D: bool, bias: bool) -> Estimate:
    """The estimate with a complex C, and D and a constant where they are free, fitted to all channels."""
    n, p, m = len(found.Xi) // 2, data.p // 2, data.m
    z = states_of(found, data)
    X = explaining(z[..., :n] + 1j * z[..., n:], data, found.delay, has_D, bias)
    X = X.reshape(-1, X.shape[-1])
    M, cost = np.zeros((p, X.shape[1]), complex), 0.0
    for j in range(p):
        w = data.w[..., j].ravel()
        y = w * (data.y[..., j] + 1j * data.y[..., p + j]).ravel()
        M[j] = np.linalg.lstsq(w[:, None] * X, y, rcond=None)[0]
        cost += float((np.abs(y - w * (X @ M[j])) ** 2).sum())
    return replace(
        found,
        C=split(M[:, :n]),
        D=real_form("D", M[:, n : n + m]) if has_D else np.zeros((2 * p, m)),
        offset=real_form("b", M[:, -1]) if bias else None,
        cost=cost,
        n_unknowns=found.n_unknowns + 2 * (M.size - n * n) - len(found.unknowns.free("D")),
        other_variances={name: x for name, x in found.other_variances.items() if name not in ("C", "D")},
        changes=("Xi",),
        C_is_refitted=True,
    )


# ---- starts ----------------------------------------------------------------------------------------------------------


def guesses(data: Data, n: int) -> Iterator[Array]:
    """(n,) complex eigenvalues of one complex channel: by shift invariance on a uniform grid, and one after another."""
    y, seen = data.y[..., 0] + 1j * data.y[..., 1], data.w[..., 0] > 0
    if data.step is not None and seen[data.is_time].all():
        rows = min(int(data.counts.min()) // WINDOW + 1, MOST_ROWS)
        windows = np.lib.stride_tricks.sliding_window_view
        H = np.concatenate([windows(x[:count], rows).T for x, count in zip(y, data.counts)], 1)
        if rows > n and H.shape[1] >= n:
            U = np.linalg.svd(H, full_matrices=False)[0][:, :n]
            mu = np.linalg.eigvals(np.linalg.lstsq(U[:-1], U[1:], rcond=None)[0])
            if (mu != 0).all():
                yield np.log(mu) / data.step
    yield one_by_one(data, y, seen, n)


def one_by_one(data: Data, y: Array, seen: Array, n: int) -> Array:
    """The frequency and decay that explain most, then those that explain most of the rest, and so on."""
    span = data.span
    highest = np.pi / (data.step if data.step is not None else float(np.median(np.diff(data.t[data.is_time]))))
    count = int(min(N_FREQUENCIES * data.t.shape[1], 2 * highest * span / np.pi)) // 2
    omega = np.linspace(-highest, highest, 2 * max(count, 4) + 1)
    grid = (-np.array(DECAYS)[:, None] / span + 1j * omega).ravel()
    found: list[complex] = []
    rest = [x[s] for x, s in zip(y, seen)]
    times = [t[s] for t, s in zip(data.t, seen)]
    for _ in range(n):
        gain = np.zeros(len(grid))
        for t, r in zip(times, rest):
            waves = np.exp(np.outer(t, grid))
            gain += np.abs(waves.conj().T @ r) ** 2 / (np.abs(waves) ** 2).sum(0)
        best = grid[int(np.argmax(gain))]
        found.append(best + 1e-3 / span * len(found))  # no two are equal
        rest = []
        for t, x, s in zip(times, y, seen):
            waves = np.exp(np.outer(t, found))
            rest.append(x[s] - waves @ np.linalg.lstsq(waves, x[s], rcond=None)[0])
    return np.array(found)
