"""Complex data as real ones: real parts, then imaginary parts, of channels and states.

A complex system stays one: Xi = R + i I acts on (Re z, Im z) as [[R, -I], [I, R]], a linear set of real matrices. So
waves keep their sense of rotation, and there are half as many unknowns as for real and imaginary parts alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import OptionError
from ..ode import LinearODE
from .by_states import fit_by_states
from .data import Data
from .estimate import Estimate
from .identify import NO_START
from .products import Array
from .progress import Report
from .result import FitResult
from .states import states_of
from .structures import Linear
from .unknowns import make_unknowns

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
    return isinstance(x, complex) or getattr(getattr(x, "dtype", None), "kind", "") == "c"


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
    return M[:half] + 1j * M[half:]


def complex_matrices(n: int) -> Linear:
    """All Xi (2 n, 2 n) that stand for a complex matrix; theta: the real parts, then the imaginary parts."""
    units = np.eye(n * n).reshape(n * n, n, n)
    found = Linear(2 * n, np.stack([split(x).ravel() for x in (*units, *(1j * units))], -1))
    found.is_given = False
    return found


class ComplexRates(Linear):
    """Diagonal complex Xi, from starts of their own; theta: the real parts, then the imaginary parts."""

    names_theta = True

    def __init__(self, n: int, guesses: list[Array]) -> None:
        units = [np.diag(x) for x in np.eye(n)]
        super().__init__(2 * n, np.stack([split(x * c).ravel() for c in (1.0, 1j) for x in units], -1))
        self.is_given, self.guesses = False, guesses

    def starts(self, rate: float) -> list[Array]:
        return [np.concatenate([lam.real, lam.imag]) for lam in self.guesses]


def identify_complex(data: Data, n: int, C: Array | None, bias: bool, report: Report) -> Estimate:
    """The fit of n complex states to real and imaginary parts of channels; C (p, n), complex, or None.

    Raises:
        OptionError: there are more states than channels, of which there are several, and C is unknown.
    """
    p = data.p // 2
    known: dict[str, Array] = {"b": np.full(2 * n, np.nan)} if bias else {}

    def found_by(part: Data, structure: Linear, C: Array) -> Estimate:
        unknowns = make_unknowns(structure, part.K, part.p, part.m, np.inf, **known, C=C)
        found = fit_by_states(part, unknowns, report)
        if found is None:
            raise OptionError(NO_START)
        return found

    if C is not None:
        return found_by(data, complex_matrices(n), split(C))
    if n == p:
        return found_by(data, complex_matrices(n), np.eye(2 * n))
    if n > p:
        if p > 1:
            raise OptionError(f"{n} complex states of {p} complex channels: give C, or rank <= {p}, or one channel")
        return found_by(data, ComplexRates(n, list(guesses(data, n))), split(np.ones((1, n))))
    y = joined(np.moveaxis(data.y, -1, 0)).reshape(p, -1)  # (p, K T)
    U = np.linalg.svd(y, full_matrices=False)[0][:, :n]
    found = found_by(data.mapped(split(U.conj().T)), complex_matrices(n), np.eye(2 * n))
    return with_matrix(found, data, bias)


def with_matrix(found: Estimate, data: Data, bias: bool) -> Estimate:
    """The estimate with a complex C, and a constant, fitted to all channels by least squares."""
    n, p = len(found.Xi) // 2, data.p // 2
    z = states_of(found, data)
    X = (z[..., :n] + 1j * z[..., n:]).reshape(-1, n)
    X = np.concatenate([X, np.ones((len(X), int(bias)))], 1)
    M, cost = np.zeros((p, n + bias), complex), 0.0
    for j in range(p):
        w = data.w[..., j].ravel()
        y = w * (data.y[..., j] + 1j * data.y[..., p + j]).ravel()
        M[j] = np.linalg.lstsq(w[:, None] * X, y, rcond=None)[0]
        cost += float((np.abs(y - w * (X @ M[j])) ** 2).sum())
    offset = np.concatenate([M[:, n].real, M[:, n].imag]) if bias else None
    more = 2 * (M.size - n * n)
    return replace(
        found,
        C=split(M[:, :n]),
        D=np.zeros((2 * p, data.m)),
        offset=offset,
        cost=cost,
        n_unknowns=found.n_unknowns + more,
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


# ---- result ----------------------------------------------------------------------------------------------------------


class ComplexFitResult(FitResult):
    """A `FitResult` of complex data: Xi, B, b, C, z0 and predictions are complex.

    Standard errors are those of real parts + 1j times those of imaginary parts, `covariance` that of
    [[Re Xi, -Im Xi], [Im Xi, Re Xi]] and so on, and `sigma` is the noise of each part. Pictures show both parts.
    """

    def __init__(self, real: FitResult, like: Any) -> None:
        self.__dict__.update(real.__dict__)
        self._real, self._one = real, np.ndim(like) == 1
        self._tensor = like if isinstance(like, torch.Tensor) else None
        found, K, n = real._found, real._data.K, len(real._found.Xi) // 2
        Xi, C = joined(found.Xi)[:, :n], joined(found.C)[:, :n]
        z0 = found.z0[:, :n] + 1j * found.z0[:, n:]
        self.Xi, self.C = Xi, C
        self.B = joined(found.B) if self.B is not None else None
        self.b = joined(found.b) if self.b is not None else None
        self.offset = None if found.offset is None else joined(found.offset)
        self.z0 = z0 if real._is_list else z0[0]
        lam, V = np.linalg.eig(Xi)
        order = np.lexsort((lam.imag, np.abs(lam.imag), -lam.real))
        self.eigenvalues, V = lam[order], V[:, order]
        self.modes = C @ V
        amplitudes = np.linalg.lstsq(V, z0.T, rcond=None)[0].T
        self.amplitudes = amplitudes if K > 1 or real._is_list else amplitudes[0]
        if real.covariance is not None:
            self._join_errors(V)
        for name, value in list(self.__dict__.items()):
            if not name.startswith("_") and isinstance(value, np.ndarray):
                setattr(self, name, self._shown(value))

    def _join_errors(self, V: Array) -> None:
        """Set standard errors of complex entries; V: eigenvectors of Xi."""
        real, n = self._real, len(V)
        self.stderr = joined(real.stderr)[:, :n]
        self.B_stderr = joined(real.B_stderr) if self.B is not None else None
        self.b_stderr = joined(real.b_stderr) if self.b is not None else None
        self.eigenvalue_covariance = spread = eigenvalue_covariances(self.eigenvalues, V, real.covariance, n)
        widths = np.sqrt(np.maximum(np.stack([spread[:, 0, 0], spread[:, 1, 1]], -1), 0.0))
        self.eigenvalue_stderr = widths.view(complex)[:, 0]

    def _shown(self, x: Array) -> Any:
        """x as an array or a tensor, as the data came."""
        if self._tensor is None:
            return x
        tensor = torch.from_numpy(np.ascontiguousarray(x)).to(self._tensor.device)
        dtype = self._tensor.dtype
        return tensor.to(dtype if tensor.is_complex() else torch.empty(0, dtype=dtype, device="cpu").real.dtype)

    def _complex(self, y: Any) -> Any:
        if isinstance(y, list):
            return [self._complex(x) for x in y]
        p = y.shape[-1] // 2
        found = y[..., :p] + 1j * y[..., p:]
        return self._shown(found[..., 0] if self._one else found)

    def predict(self, t: Any, *, z0: Any = None, u: Any = None) -> Any:
        start = None if z0 is None else as_complex(z0)
        start = None if start is None else np.concatenate([start.real, start.imag])
        return self._complex(self._real.predict(t, z0=start, u=u))

    def predict_stderr(self, t: Any, k: int = 0) -> Any:
        return self._complex(self._real.predict_stderr(t, k))

    @property
    def observations(self) -> list[tuple[Array, Array]]:
        p = self._data.p // 2
        return [(t, y[:, :p] + 1j * y[:, p:]) for t, y in self._real.observations]

    def _solver(self, z0: Any, k: int, u: Any) -> Any:
        own = self._found.z0[k]
        start = own[: len(self.Xi)] + 1j * own[len(self.Xi) :] if z0 is None else as_complex(z0)
        Xi, b, B = (None if x is None else as_complex(x) for x in (self.Xi, self.b, self.B))
        return LinearODE(Xi, start, b=b, B=B if u is not None else None, u=u)

    def summary(self) -> str:
        data, found = self._data, super().summary().split("\n")
        first = f"{len(self.Xi)} complex states, {data.p // 2} complex channels, {data.K} trajectories, "
        return "\n".join([f"{first}{data.n_values // 2} complex values", *found[1:]])

    def to_module(self) -> Any:
        raise OptionError("to_module makes layers of real systems, and this one is complex: use ode()")

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Real and imaginary parts; see `linode.plotting.plot_fit`. Needs matplotlib."""
        p = self._data.p // 2
        names = options.pop("labels", None) or [str(j) for j in range(p)]
        return self._real.plot(ax, labels=[f"{part} {name}" for part in ("Re", "Im") for name in names], **options)


def eigenvalue_covariances(lam: Array, V: Array, covariance: Array, n: int) -> Array:
    """(n, 2, 2) of (Re, Im), to first order; infinite where the covariance is, or Xi has no eigenbasis."""
    index = np.arange(4 * n * n).reshape(2 * n, 2 * n)
    own = np.concatenate([index[:n, :n].ravel(), index[n:, :n].ravel()])  # real parts, then imaginary parts
    try:
        W = np.linalg.inv(V)
    except np.linalg.LinAlgError:
        return np.full((n, 2, 2), np.inf)
    cov = covariance[np.ix_(own, own)]
    if not np.isfinite(cov).all():
        return np.full((n, 2, 2), np.inf)
    slopes = (W[:, :, None] * V.T[:, None, :]).reshape(n, -1)
    parts = np.stack([np.c_[slopes.real, -slopes.imag], np.c_[slopes.imag, slopes.real]], 1)  # (n, 2, 2 n^2)
    found: Array = parts @ cov @ parts.swapaxes(1, 2)
    return found
