"""What Xi may be: maps theta -> Xi with their derivatives, and the theta that is nearest to a given Xi."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_continuous_lyapunov

from ..errors import OptionError, ShapeError

Array = NDArray[Any]
MOST_PARAMETERS = 400  # that are tried where a function does not say how many it takes
STEP = 6e-6  # cube root of eps: central differences of functions that torch cannot differentiate


class Structure(ABC):
    """Xi (n, n) as a smooth function of theta (size,)."""

    n: int
    size: int
    is_free = False  # whether every Xi is in it
    is_given = True  # whether theta means something to who asked for it
    names_theta = False  # whether what the data do not determine is told in terms of theta, not Xi
    bounds: tuple[Array, Array] | None = None

    @abstractmethod
    def matrix(self, theta: Array) -> Array:
        """Xi (n, n)."""

    @abstractmethod
    def slopes(self, theta: Array) -> Array:
        """dXi / dtheta, (n^2, size)."""

    @abstractmethod
    def nearest(self, Xi: Array) -> Array | None:
        """theta of a matrix in the set near to Xi; None where that is not known."""

    def starts(self, rate: float) -> list[Array]:
        """theta to start from without a guess of Xi, for rates (1/time) that the data can show."""
        return []


class Linear(Structure):
    """Xi = sum_j theta_j M_j: free, symmetric, skew, sparse. basis (n^2, k)."""

    def __init__(self, n: int, basis: Array, is_free: bool = False) -> None:
        self.n, self.basis, self.size = n, basis, basis.shape[1]
        self.is_free, self.is_given = is_free, not is_free

    def matrix(self, theta: Array) -> Array:
        return (self.basis @ theta).reshape(self.n, self.n)

    def slopes(self, theta: Array) -> Array:
        return self.basis

    def nearest(self, Xi: Array) -> Array | None:
        return np.linalg.lstsq(self.basis, Xi.ravel(), rcond=None)[0]

    def starts(self, rate: float) -> list[Array]:
        return [x for x in map(self.nearest, guesses(self.n, rate)) if x is not None]


class Stable(Structure):
    """Xi = (J - R) P with J skew, R and P positive definite: every Xi whose eigenvalues decay.

    theta holds the entries of J above the diagonal, and the lower triangles L of R = unit L L^T and P = L L^T.
    Source: Gillis & Sharma (2017), Automatica 85, theorem 1.
    """

    is_given = False

    def __init__(self, n: int, unit: float) -> None:
        self.n, self.unit, self.upper, self.lower = n, unit, np.triu_indices(n, 1), np.tril_indices(n)
        self.n_J, self.n_L = len(self.upper[0]), len(self.lower[0])
        self.size = self.n_J + 2 * self.n_L

    def starts(self, rate: float) -> list[Array]:
        return [x for x in map(self.nearest, guesses(self.n, rate)) if x is not None]

    def _parts(self, theta: Array) -> tuple[Array, Array, Array]:
        J, L, M = (np.zeros((self.n, self.n)) for _ in range(3))
        J[self.upper], L[self.lower], M[self.lower] = np.split(theta, [self.n_J, self.n_J + self.n_L])
        return self.unit * (J - J.T), L, M

    def matrix(self, theta: Array) -> Array:
        J, L, M = self._parts(theta)
        return (J - self.unit * L @ L.T) @ (M @ M.T)

    def slopes(self, theta: Array) -> Array:
        J, L, M = self._parts(theta)
        P, left = M @ M.T, J - self.unit * L @ L.T
        columns = []
        for i, j in zip(*self.upper):
            columns.append(self.unit * (np.outer(_unit(self.n, i), P[j]) - np.outer(_unit(self.n, j), P[i])))
        for i, j in zip(*self.lower):
            columns.append(-self.unit * (np.outer(_unit(self.n, i), L[:, j] @ P) + np.outer(L[:, j], P[i])))
        for i, j in zip(*self.lower):
            columns.append(np.outer(left[:, i], M[:, j]) + np.outer(left @ M[:, j], _unit(self.n, i)))
        return np.stack([x.ravel() for x in columns], -1)

    def nearest(self, Xi: Array) -> Array | None:
        """Eigenvalues that do not decay are moved to the left by as much as all must be."""
        least = 1e-3 * self.unit
        Xi = Xi - max(0.0, np.linalg.eigvals(Xi).real.max() + least) * np.eye(self.n)
        P = solve_continuous_lyapunov(Xi.T, -np.eye(self.n))
        P = P * self.n / np.trace(P)
        S = Xi @ np.linalg.inv(P) / self.unit
        try:
            L, M = np.linalg.cholesky(-(S + S.T) / 2), np.linalg.cholesky(P)
        except np.linalg.LinAlgError:
            return None
        return np.concatenate([((S - S.T) / 2)[self.upper], L[self.lower], M[self.lower]])


class Function(Structure):
    """A user's theta -> Xi. theta0 (size,): where to start; bounds: (lowest, highest), numbers or (size,).

    Functions of tensors are differentiated by torch, where that agrees with differences; others by central differences.
    """

    names_theta = True

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
        self.size, self.takes_tensors = _signature(function, self.theta0, n)
        Xi = self.matrix(np.zeros(self.size) if self.theta0 is None else self.theta0)
        if Xi.ndim != 2 or Xi.shape[0] != Xi.shape[1]:
            raise ShapeError(f"structure returns shape {Xi.shape}; it must return Xi (n, n)")
        self.n = len(Xi)
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
        """Whether torch's derivative is that of differences: a function may detach what it returns."""
        theta = np.linspace(0.1, 0.2, self.size) if self.theta0 is None else self.theta0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's of what is detached, which is found out here
            try:
                own, other = self._jacobian(theta), self._differences(theta)
            except RuntimeError:
                return False
        return bool(np.allclose(own, other, rtol=1e-4, atol=1e-4 * max(1e-300, np.abs(other).max())))

    def matrix(self, theta: Array) -> Array:
        Xi = self.function(torch.from_numpy(np.array(theta)) if self.takes_tensors else theta)
        return Xi.detach().numpy().astype(float) if isinstance(Xi, torch.Tensor) else np.asarray(Xi, float)

    def slopes(self, theta: Array) -> Array:
        return self._jacobian(theta) if self.is_differentiable else self._differences(theta)

    def _jacobian(self, theta: Array) -> Array:
        jacobian = torch.func.jacrev(self.function)(torch.from_numpy(np.array(theta)))
        return jacobian.detach().numpy().reshape(self.n * self.n, self.size).astype(float)

    def _differences(self, theta: Array) -> Array:
        columns = []
        for j in range(self.size):
            h = STEP * max(1.0, abs(theta[j])) * (np.arange(self.size) == j)
            columns.append((self.matrix(theta + h) - self.matrix(theta - h)).ravel() / (2 * h[j]))
        return np.stack(columns, -1)

    def nearest(self, Xi: Array) -> Array | None:
        return None

    def starts(self, rate: float) -> list[Array]:
        if self.theta0 is not None:
            return [self.theta0]
        rng = np.random.default_rng(0)
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


def guesses(n: int, rate: float) -> list[Array]:
    """Matrices (n, n) of no particular kind, for rates (1/time) that data can show."""
    rng = np.random.default_rng(0)
    mixed = [rate * (rng.standard_normal((n, n)) / n - x * np.eye(n)) for x in (0.3, 1.0, 3.0)]
    return [-rate * np.eye(n), *mixed]


def make_structure(structure: Any, n: int, stable: bool, rate: float) -> Structure:
    """Of n states, from None, a name, a mask (n, n), or a Structure; rate: a typical one, 1/time."""
    if isinstance(structure, Structure):
        return structure
    if structure is None:
        return Stable(n, rate) if stable else Linear(n, np.eye(n * n), is_free=True)
    if isinstance(structure, str):
        if structure not in NAMED:
            names = ", ".join(map(repr, NAMED))
            raise OptionError(f"structure must be one of {names}, a mask, or a function of theta, got {structure!r}")
        return NAMED[structure](n, rate)
    mask = np.asarray(structure)
    if mask.dtype.kind not in "biuf":
        raise OptionError(f"a mask of Xi must hold booleans or numbers, got {mask.dtype}")
    if mask.shape != (n, n):
        raise ShapeError(f"structure has shape {mask.shape}; a mask of Xi must be ({n}, {n})")
    if not mask.any():
        raise OptionError("structure is a mask that leaves no entry of Xi")
    return Linear(n, np.eye(n * n)[:, mask.astype(bool).ravel()])


def symmetric(n: int, rate: float) -> Structure:
    i, j = np.triu_indices(n)
    return Linear(n, _entries(n, i, j) + _entries(n, j, i) * (i != j))


def skew(n: int, rate: float) -> Structure:
    i, j = np.triu_indices(n, 1)
    return Linear(n, _entries(n, i, j) - _entries(n, j, i))


def diagonal(n: int, rate: float) -> Structure:
    i = np.arange(n)
    return Linear(n, _entries(n, i, i))


class Positive(Structure):
    """Off-diagonal entries exp(theta) > 0. Metzler: a free diagonal; compartmental: outflows exp(theta) > 0 too."""

    def __init__(self, n: int, rate: float, is_compartmental: bool) -> None:
        self.n, self.size, self.is_compartmental = n, n * n, is_compartmental
        off = ~np.eye(n, dtype=bool)
        self.flows, self.rate = np.nonzero(off.ravel())[0], rate

    def matrix(self, theta: Array) -> Array:
        off, own = theta[: len(self.flows)], theta[len(self.flows) :]
        Xi = np.zeros(self.n * self.n)
        with np.errstate(over="ignore"):
            Xi[self.flows] = np.exp(off)
            flows = Xi.reshape(self.n, self.n)
            return flows + np.diag(own if not self.is_compartmental else -np.exp(own) - flows.sum(0))

    def slopes(self, theta: Array) -> Array:
        n, off, own = self.n, np.exp(theta[: len(self.flows)]), theta[len(self.flows) :]
        slopes = np.zeros((n * n, self.size))
        at = np.arange(len(self.flows))
        slopes[self.flows, at] = off
        if self.is_compartmental:
            slopes[self.flows % n * (n + 1), at] = -off  # what arrives has left its column
        diagonal = np.arange(n) * (n + 1)
        slopes[diagonal, len(self.flows) + np.arange(n)] = -np.exp(own) if self.is_compartmental else 1.0
        return slopes

    def nearest(self, Xi: Array) -> Array | None:
        least = 1e-3 * self.rate
        off = np.maximum(Xi.ravel()[self.flows], least)
        if not self.is_compartmental:
            return np.concatenate([np.log(off), np.diag(Xi)])
        return np.concatenate([np.log(off), np.log(np.maximum(-Xi.sum(0), least))])

    def starts(self, rate: float) -> list[Array]:
        rng = np.random.default_rng(0)
        thetas = [np.log(rate) + rng.uniform(-2, 2, self.size) * (i > 0) for i in range(12)]
        if not self.is_compartmental:
            for theta in thetas:
                theta[len(self.flows) :] = -rate * self.n
        return thetas


NAMED: dict[str, Callable[[int, float], Structure]] = {
    "symmetric": symmetric,
    "skew": skew,
    "diagonal": diagonal,
    "metzler": lambda n, rate: Positive(n, rate, False),
    "compartmental": lambda n, rate: Positive(n, rate, True),
}


def _unit(n: int, i: Any) -> Array:
    return np.eye(n)[i]


def _entries(n: int, i: Array, j: Array) -> Array:
    """One column for each (i, j), with a one in that entry of a vectorised matrix."""
    columns = np.zeros((n * n, len(i)))
    columns[i * n + j, np.arange(len(i))] = 1.0
    return columns


def _signature(function: Callable[[Any], Any], theta0: Array | None, n: int | None) -> tuple[int, bool]:
    """How many parameters a function of theta takes, and whether it is one of tensors.

    The least number that works, and that makes Xi (n, n) where n is known.
    """
    last: Exception | None = None
    sizes = range(1, MOST_PARAMETERS + 1) if theta0 is None else (len(theta0),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what functions of arrays say to tensors
        for k in sizes:
            theta = np.zeros(k) if theta0 is None else theta0
            for takes_tensors in (True, False):
                try:
                    Xi = function(torch.from_numpy(np.array(theta)) if takes_tensors else np.array(theta))
                except Exception as error:  # whatever a user's function may raise
                    last = error
                    continue
                fits = np.ndim(Xi) == 2 and n in (None, len(Xi))
                if fits and isinstance(Xi, torch.Tensor) == takes_tensors:
                    return k, takes_tensors
    where = f"{MOST_PARAMETERS} or fewer parameters" if theta0 is None else f"theta0 {theta0}"
    size = "(n, n)" if n is None else f"({n}, {n})"
    advice = f"it must return Xi {size}" if last is None else f"it raised {type(last).__name__}: {last}"
    raise OptionError(f"structure cannot be called with {where}: {advice}; pass (function, theta0) with where to start")
