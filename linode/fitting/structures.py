"""The sets that Xi may be in: maps theta -> Xi with derivatives, and theta of a matrix near to a given Xi.

A user's function may give B, C, D, b and z0 beside Xi, from the same parameters.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from .. import matrices
from ..errors import OptionError, ShapeError
from .products import Array, complex_step
from .rates import Factors

PARTS = ("Xi", "B", "C", "D", "b", "z0")  # that a function may give, in the order of its tuple
MOST_PARAMETERS = 400  # tried, one number after another, where a function does not say how many it takes
LEAST = 1e-3  # of a typical rate: decay, or flow, that a start has at least; from 0 a minimisation cannot move on
MOST_CONDITION = 1e9  # of a basis of modes: Xi keeps half of its digits
N_NEAR = 24  # starts near to a user's theta0; by hand
STEP = 6e-6  # cube root of eps, relative: central differences, for functions that torch cannot differentiate


class Structure(ABC):
    """Xi (n, n) as a smooth function of theta (size,)."""

    n: int
    size: int
    is_free = False  # whether every Xi is in the set
    is_given = True  # whether the user gave the structure, so that theta is shown
    names_theta = False  # whether a message names theta, not Xi, as undetermined
    bounds: tuple[Array, Array] | None = None
    theta0: Array | None = None  # where to start, if the user says so
    names: tuple[str, ...] = ("Xi",)  # of the parts that it gives
    has_complex_theta = False  # whether theta is real parts, then imaginary parts

    def parts(self, theta: Array) -> dict[str, Array]:
        """Xi, and the other parts that the structure gives."""
        return {"Xi": self.matrix(theta)}

    def part_slopes(self, theta: Array) -> dict[str, Array]:
        """Derivatives (entries, size) of these parts by theta."""
        return {"Xi": self.slopes(theta)}

    def theta_names(self) -> list[str]:
        if not self.has_complex_theta:
            return [f"theta[{i}]" for i in range(self.size)]
        return [f"{part} theta[{i}]" for part in ("Re", "Im") for i in range(self.size // 2)]

    @abstractmethod
    def matrix(self, theta: Array) -> Array:
        """Xi (n, n)."""

    @abstractmethod
    def slopes(self, theta: Array) -> Array:
        """dXi / dtheta, (n^2, size)."""

    @abstractmethod
    def nearest(self, Xi: Array) -> Array | None:
        """theta of a matrix in the set near to Xi; None where there is no way to find it."""

    def starts(self, rate: float) -> list[Array]:
        """theta to start from without a guess of Xi; rate: a typical one of the data, 1/time."""
        return [x for x in map(self.nearest, guesses(self.n, rate)) if x is not None]


class Linear(Structure):
    """Xi = M_0 + sum_j theta_j M_j: free, symmetric, skew, sparse, partly known. basis (n^2, k): the M_j as columns."""

    def __init__(self, n: int, basis: Array, is_free: bool = False, known: Array | None = None) -> None:
        self.n, self.basis, self.size = n, basis, basis.shape[1]
        self.is_free, self.is_given = is_free, not is_free
        self.known = np.zeros(n * n) if known is None else known.ravel()

    def matrix(self, theta: Array) -> Array:
        return (self.known + self.basis @ theta).reshape(self.n, self.n)

    def slopes(self, theta: Array) -> Array:
        return self.basis

    def nearest(self, Xi: Array) -> Array | None:
        return np.linalg.lstsq(self.basis, Xi.ravel() - self.known, rcond=None)[0]


class Nonlinear(Structure):
    """A set of `linode.matrices` that is not linear; its map takes parts of shape (n, n).

    theta: the entries of the parts (k, n, n) that have an effect, at the flat indices `places`.
    """

    def __init__(
        self,
        n: int,
        make: Callable[..., torch.Tensor],
        parts: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
        places: Array,
        is_given: bool,
        draw: Callable[[float], list[Array]] | None = None,
    ) -> None:
        self.n, self.size, self.make, self.parts_near, self.places, self.draw = (
            n,
            len(places),
            make,
            parts,
            places,
            draw,
        )
        self.is_given, self.shape = is_given, (int(places.max()) // n**2 + 1, n, n)

    def _entries(self, theta: Array) -> torch.Tensor:
        """The parts, (k, *, n, n), from theta (*, size)."""
        entries = np.zeros((*theta.shape[:-1], prod(self.shape)), theta.dtype)
        entries[..., self.places] = theta
        return torch.from_numpy(np.moveaxis(entries.reshape(*theta.shape[:-1], *self.shape), -3, 0))

    def matrix(self, theta: Array) -> Array:
        return self.make(*self._entries(theta)).numpy()

    def slopes(self, theta: Array) -> Array:
        return complex_step(self.matrix, theta).reshape(self.size, -1).T

    def nearest(self, Xi: Array) -> Array | None:
        theta = torch.stack(self.parts_near(torch.from_numpy(np.array(Xi)))).numpy().ravel()[self.places]
        return theta if np.isfinite(theta).all() else None

    def starts(self, rate: float) -> list[Array]:
        """Drawn at random where a way to draw is given, else those of `guesses`."""
        return super().starts(rate) if self.draw is None else self.draw(rate)


class Modal(Structure):
    """Xi = S M S^-1, where M has eigenvalues of a kind; theta: the factors of these, then S row by row."""

    is_given = False

    def __init__(self, factors: Factors) -> None:
        self.factors, self.n, self.size = factors, factors.n, factors.n + factors.n**2

    def _split(self, theta: Array) -> tuple[Array, Array]:
        return theta[: self.n], theta[self.n :].reshape(self.n, self.n)

    def matrix(self, theta: Array) -> Array:
        rates, S = self._split(theta)
        try:
            return S @ self.factors.generator(rates) @ np.linalg.inv(S)
        except np.linalg.LinAlgError:
            return np.full((self.n, self.n), np.nan)

    def slopes(self, theta: Array) -> Array:
        n, (rates, S) = self.n, self._split(theta)
        inverse, M = np.linalg.inv(S), self.factors.generator(rates)
        Xi, E = S @ M @ inverse, np.eye(n)
        by_rates = (S @ self.factors.generator_slopes(rates) @ inverse).reshape(n, n * n).T
        by_S = np.kron(E, (M @ inverse).T) - np.kron(Xi, inverse.T)
        return np.c_[by_rates, by_S]

    def nearest(self, Xi: Array) -> Array | None:
        lam, V = np.linalg.eig(Xi)
        free = Factors(self.n, self.factors.span)
        given = free.from_eigenvalues(lam)
        found, W = np.linalg.eig(free.generator(given).astype(complex))
        order = linear_sum_assignment(np.abs(found[:, None] - lam))[1]
        weights = np.random.default_rng(0).uniform(0.5, 1.5, self.n)  # real: conjugate vectors stay conjugate
        V = V[:, order]
        try:
            S = (V / (weights @ V)) @ np.linalg.inv(W / (weights @ W))
        except np.linalg.LinAlgError:
            return None
        theta = np.concatenate([self.factors.encode(given), S.real.ravel()])
        return theta if np.isfinite(theta).all() and np.linalg.cond(S.real) < MOST_CONDITION else None


class Function(Structure):
    """A user's theta -> Xi, or a tuple (Xi, B, C, D, b, z0), cut short, or a dictionary with these names.

    theta0 (size,): where to start; bounds: (lowest, highest), numbers or (size,).
    torch differentiates functions of tensors, if that agrees with differences; central differences serve the others.
    """

    names_theta = True
    reals = 1  # states for each of the user's

    def __init__(
        self, function: Callable[[Any], Any], theta0: Any = None, bounds: Any = None, n: int | None = None
    ) -> None:
        self.function = function
        try:
            self.theta0 = None if theta0 is None else np.atleast_1d(np.asarray(theta0, float))
        except (TypeError, ValueError):
            raise OptionError(f"theta0 of structure must be numbers, got {theta0!r}") from None
        if self.theta0 is not None and not (self.theta0.ndim == 1 and np.isfinite(self.theta0).all()):
            raise OptionError(f"theta0 of structure must be (k,) and finite, got {theta0!r}")
        self.size, self.takes_tensors = _signature(function, self.theta0, n, self.reals)
        first = self._called(np.zeros(self.size) if self.theta0 is None else self.theta0)
        self.shapes = {name: np.shape(value) for name, value in first.items()}
        self.names = tuple(first)
        shape = self.shapes["Xi"]
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ShapeError(f"structure returns Xi of shape {shape}; it must be (n, n)")
        self.n = shape[0]
        if bounds is not None:
            needed = "bounds of structure must be (lowest, highest), each a number or of theta's size"
            try:
                low, high = (np.broadcast_to(np.asarray(x, float), (self.size,)) for x in bounds)
            except (TypeError, ValueError):
                raise OptionError(f"{needed}, got {bounds!r}") from None
            if not (low < high).all():
                raise OptionError(needed)
            self.bounds = low, high
        self.is_differentiable = self.takes_tensors and self._agrees()

    def _agrees(self) -> bool:
        """Whether torch's derivative agrees with differences: a function may detach a part of its result."""
        theta = np.linspace(0.1, 0.2, self.size) if self.theta0 is None else self.theta0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of detached parts, which this test finds
            try:
                own, other = self._jacobian(theta), self._differences(theta)
            except RuntimeError:
                return False
        return bool(np.allclose(own, other, rtol=1e-4, atol=1e-4 * max(1e-300, np.abs(other).max(initial=0.0))))

    def _called(self, theta: Any) -> dict[str, Any]:
        """The parts by name, as the function returns them for an array theta."""
        return parts_of(self.function(torch.from_numpy(np.array(theta)) if self.takes_tensors else np.array(theta)))

    def parts(self, theta: Array) -> dict[str, Array]:
        found = {}
        for name, value in self._called(theta).items():
            array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
            if np.shape(array) != self.shapes[name]:
                raise ShapeError(f"structure returns {name} of shape {np.shape(array)}, before {self.shapes[name]}")
            found[name] = array.astype(float)
        return found

    def matrix(self, theta: Array) -> Array:
        return self.parts(theta)["Xi"]

    def part_slopes(self, theta: Array) -> dict[str, Array]:
        every = self._jacobian(theta) if self.is_differentiable else self._differences(theta)
        cuts = np.cumsum([prod(self.shapes[name]) for name in self.names])[:-1]
        return dict(zip(self.names, np.split(every, cuts)))

    def slopes(self, theta: Array) -> Array:
        return self.part_slopes(theta)["Xi"]

    def _jacobian(self, theta: Array) -> Array:
        """Derivatives of all parts, one after the other, (entries, size)."""

        def flat(x: torch.Tensor) -> torch.Tensor:
            parts = [torch.as_tensor(value, dtype=torch.float64) for value in parts_of(self.function(x)).values()]
            return torch.cat([part.reshape(-1) for part in parts])

        jacobian: Array = torch.func.jacrev(flat)(torch.from_numpy(np.array(theta))).detach().numpy().astype(float)
        return jacobian

    def _differences(self, theta: Array) -> Array:
        def flat(x: Array) -> Array:
            return np.concatenate([value.ravel() for value in self.parts(x).values()])

        columns = []
        for j in range(self.size):
            h = STEP * max(1.0, abs(theta[j])) * (np.arange(self.size) == j)
            columns.append((flat(theta + h) - flat(theta - h)) / (2 * h[j]))
        return np.stack(columns, -1)

    def nearest(self, Xi: Array) -> Array | None:
        return None

    def starts(self, rate: float) -> list[Array]:
        rng = np.random.default_rng(0)
        if self.theta0 is not None:  # itself, then at other sizes of its entries, within a factor of 10 or so
            near = [self.theta0 * np.exp(x) for x in rng.uniform(-2.5, 2.5, (N_NEAR, self.size))]
            low, high = self.bounds if self.bounds is not None else (-np.inf, np.inf)
            return [self.theta0, *(np.clip(x, low, high) for x in near)]
        logs = np.log(rate)  # parameters may be logarithms of rates, or rates
        guesses = [np.zeros(self.size), np.full(self.size, logs), np.full(self.size, rate)]
        spread = rng.uniform(-2.5, 2.5, (48, self.size))
        guesses += (
            [logs + x for x in spread] + [rate * np.exp(x) for x in spread[:16]] + [rate * x for x in spread[:16]]
        )
        if self.bounds is not None:
            low, high = self.bounds
            inside = np.where(np.isfinite(low) & np.isfinite(high), (low + high) / 2, 0.0)
            guesses = [np.clip(x, low, high) for x in [inside, *guesses]]
        return guesses


def parts_of(found: Any) -> dict[str, Any]:
    """What a user's function returns, by name: a matrix Xi, a tuple of parts, or a dictionary of them; None is no part.

    Raises:
        OptionError: a name or number of parts that does not exist, or no Xi.
    """
    if isinstance(found, dict):
        named = found
    elif isinstance(found, tuple) and found and np.ndim(found[0]) == 2:
        if len(found) > len(PARTS):
            raise OptionError(f"structure returns {len(found)} parts; there are {len(PARTS)}: {', '.join(PARTS)}")
        named = dict(zip(PARTS, found))
    else:
        named = {"Xi": found}
    for name in named:
        if name not in PARTS:
            raise OptionError(f"structure returns a part named {name!r}; there are {', '.join(PARTS)}")
    kept = {name: named[name] for name in PARTS if named.get(name) is not None}
    if "Xi" not in kept:
        raise OptionError("structure returns no Xi")
    return kept


def guesses(n: int, rate: float) -> list[Array]:
    """Matrices (n, n) of no particular kind whose eigenvalues are about as large as rate, 1/time."""
    rng = np.random.default_rng(0)
    mixed = [rate * (rng.standard_normal((n, n)) / n - x * np.eye(n)) for x in (0.3, 1.0, 3.0)]
    return [-rate * np.eye(n), *mixed]


def make_structure(structure: Any, n: int, stable: bool, rate: float) -> Structure:
    """A structure of n states from None, a name, a mask (n, n), or a Structure; rate: a typical one, 1/time."""
    if isinstance(structure, Structure):
        return structure
    if structure is None:
        return stable_matrices(n, rate) if stable else Linear(n, np.eye(n * n), is_free=True)
    if isinstance(structure, str):
        if structure not in NAMED:
            names = ", ".join(map(repr, NAMED))
            raise OptionError(f"structure must be one of {names}, a mask, or a function of theta, got {structure!r}")
        return NAMED[structure](n, rate)
    is_masked = isinstance(structure, np.ma.MaskedArray)  # what is masked is unknown, as NaN is
    mask = np.asarray(np.ma.filled(structure.astype(float), np.nan) if is_masked else structure)
    if mask.dtype.kind not in "biuf":
        raise OptionError(f"a mask of Xi must hold booleans or numbers, got {mask.dtype}")
    if mask.shape != (n, n):
        raise ShapeError(f"structure has shape {mask.shape}; a mask of Xi must be ({n}, {n})")
    if np.isnan(mask).any():  # known entries, and NaN for free ones
        if np.isinf(mask).any():
            raise OptionError("known entries of Xi must be finite")
        return Linear(n, np.eye(n * n)[:, np.isnan(mask).ravel()], known=np.nan_to_num(mask.astype(float)))
    if not mask.any():
        raise OptionError("structure is a mask that leaves no entry of Xi")
    check_mask(mask)
    return Linear(n, np.eye(n * n)[:, mask.astype(bool).ravel()])


def check_mask(mask: Array) -> None:
    """Raise where an array without NaN is no mask: it may be meant as a matrix that is known."""
    if not np.isin(mask, (0, 1)).all():
        other = mask[~np.isin(mask, (0, 1))][0]
        raise OptionError(
            f"structure holds {other:.6g} and no NaN: a mask holds booleans, or 0 and 1, and in an array of known "
            "entries NaN stands for a free one"
        )


def stable_matrices(n: int, rate: float) -> Structure:
    """Every matrix whose eigenvalues have negative real parts; theta: J below its diagonal, then both factors."""
    strict, lower = (np.tril(np.ones((n, n), bool), k) for k in (-1, 0))
    places = np.flatnonzero(np.stack([strict, lower, lower]))
    return Nonlinear(n, matrices.stable, partial(matrices.stable_parts, least=LEAST * rate), places, False)


def positive(n: int, rate: float, make: Callable[..., torch.Tensor], parts: Callable[..., Any]) -> Structure:
    """Metzler or compartmental matrices; theta: logarithms of the entries off the diagonal, then n for the diagonal."""
    is_own = np.eye(n, dtype=bool).ravel()
    places = np.concatenate([np.flatnonzero(~is_own), np.flatnonzero(is_own)])

    def draw(rate: float) -> list[Array]:
        rng = np.random.default_rng(0)
        thetas = [np.log(rate) + rng.uniform(-2, 2, n * n) * (i > 0) for i in range(12)]
        if make is matrices.metzler:
            for theta in thetas:
                theta[-n:] = -rate * n
        return thetas

    return Nonlinear(n, make, partial(parts, least=LEAST * rate), places, True, draw)


def linear(n: int, rate: float, project: Callable[[torch.Tensor], torch.Tensor]) -> Structure:
    """theta: the independent entries, row by row."""
    return Linear(n, matrices.basis(project, n).numpy())


NAMED: dict[str, Callable[[int, float], Structure]] = {
    "symmetric": partial(linear, project=matrices.symmetric_part),
    "skew": partial(linear, project=matrices.skew_part),
    "diagonal": partial(linear, project=matrices.diagonal_part),
    "metzler": partial(positive, make=matrices.metzler, parts=matrices.metzler_parts),
    "compartmental": partial(positive, make=matrices.compartmental, parts=matrices.compartmental_parts),
}


def _signature(function: Callable[[Any], Any], theta0: Array | None, n: int | None, reals: int) -> tuple[int, bool]:
    """How many parameters a function of theta takes, and whether it takes tensors.

    It is the least number for which the function returns a matrix, (n, n) if n is known.
    """
    last: Exception | None = None
    sizes = range(1, MOST_PARAMETERS + 1) if theta0 is None else (len(theta0),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that functions of arrays give for tensors
        for k in sizes:
            theta = np.zeros(k) if theta0 is None else theta0
            for takes_tensors in (True, False):
                try:
                    found = function(torch.from_numpy(np.array(theta)) if takes_tensors else np.array(theta))
                    parts = parts_of(found)
                    Xi = parts["Xi"]
                    fits = np.ndim(Xi) == 2 and n in (None, len(Xi))
                except OptionError:
                    raise
                except Exception as error:  # whatever a user's function may raise
                    last = error
                    continue
                if fits and any(isinstance(x, torch.Tensor) for x in parts.values()) == takes_tensors:
                    return k, takes_tensors
    where = f"{MOST_PARAMETERS} or fewer parameters" if theta0 is None else f"theta0 {theta0}"
    size = "(n, n)" if n is None else f"({n // reals}, {n // reals})"
    advice = f"it must return Xi {size}" if last is None else f"it raised {type(last).__name__}: {last}"
    raise OptionError(f"structure cannot be called with {where}: {advice}; pass (function, theta0) with where to start")
