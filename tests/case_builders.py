"""The matrices that the hard cases are made of, and `Case`, one question with a cotangent.

All matrices are float64 or complex128 NumPy arrays, made deterministically: a random one takes its generator.
Source: Higham (1995), The Test Matrix Toolbox, for the named matrices; each case says where it comes from.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg


@dataclass(frozen=True, eq=False)
class Case:
    """z(t) = exp(Xi t) z0 at the times t, and a loss sum_i Re <g_i, z_i>."""

    name: str
    kind: str
    Xi: np.ndarray  # (n, n)
    z0: np.ndarray  # (n,)
    t: np.ndarray  # (T,)
    g: np.ndarray  # (T, n)
    source: str


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def normal(rng: np.random.Generator, *shape: int, is_complex: bool = False) -> np.ndarray:
    real = rng.standard_normal(shape)
    return (real + 1j * rng.standard_normal(shape)) / np.sqrt(2) if is_complex else real


def make_case(
    name: str,
    kind: str,
    Xi: np.ndarray | Sequence,
    t: Sequence[float],
    source: str,
    *,
    z0: np.ndarray | Sequence | None = None,
    g_scale: float = 1.0,
    z0_scale: float = 1.0,
) -> Case:
    """A case whose z0 (unless given) and g are Gaussian, drawn from a generator seeded by the name."""
    rng = generator(name + "/vectors")
    Xi = np.array(Xi, complex if np.iscomplexobj(Xi) else float)
    times = np.array(t, float)
    is_complex = np.iscomplexobj(Xi)
    drawn = normal(rng, len(Xi), is_complex=is_complex) * z0_scale
    start = drawn if z0 is None else np.array(z0, Xi.dtype)
    g = normal(rng, times.size, len(Xi), is_complex=is_complex) * g_scale
    return Case(name, kind, Xi, start, times, g, source)


# ---- changes of basis ------------------------------------------------------------------


def random_unitary(rng: np.random.Generator, n: int, *, is_complex: bool = False) -> np.ndarray:
    return np.linalg.qr(normal(rng, n, n, is_complex=is_complex))[0]


def rotated(rng: np.random.Generator, A: np.ndarray) -> np.ndarray:
    """Q A Q^H, Q random unitary."""
    Q = random_unitary(rng, len(A), is_complex=np.iscomplexobj(A))
    return Q @ A @ Q.conj().T


def similar(rng: np.random.Generator, A: np.ndarray, kappa: float) -> np.ndarray:
    """V A V^{-1} with random V of condition number kappa."""
    n, is_complex = len(A), np.iscomplexobj(A)
    sizes = np.geomspace(1.0, kappa, n)
    P, Q = random_unitary(rng, n, is_complex=is_complex), random_unitary(rng, n, is_complex=is_complex)
    return ((P * sizes) @ Q) @ A @ ((Q.conj().T / sizes) @ P.conj().T)


def scaled_basis(A: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """D^{-1} A D for a diagonal D."""
    return A * scales / scales[:, None]


# ---- blocks ------------------------------------------------------------------------------------------------


def jordan(n: int, eigenvalue: complex, coupling: float = 1.0) -> np.ndarray:
    return eigenvalue * np.eye(n) + coupling * np.eye(n, k=1)


def real_jordan_pair(n_pairs: int, decay: float, frequency: float) -> np.ndarray:
    """The real Jordan form of a defective conjugate pair: n_pairs 2 x 2 blocks, coupled by identities."""
    block = np.array([[decay, frequency], [-frequency, decay]])
    return np.kron(np.eye(n_pairs), block) + np.kron(np.eye(n_pairs, k=1), np.eye(2))


def direct_sum(*blocks: np.ndarray | float) -> np.ndarray:
    return linalg.block_diag(*blocks)


def with_corner(A: np.ndarray, corner: float) -> np.ndarray:
    """A with its lower left entry set: a Jordan block's eigenvalues move onto a circle."""
    A = A.copy()
    A[-1, 0] = corner
    return A


def augmented(Xi: np.ndarray, B: np.ndarray) -> np.ndarray:
    """[[Xi, B], [0, 0]]: inputs held constant, as states."""
    n, m = B.shape
    return np.block([[Xi, B], [np.zeros((m, n)), np.zeros((m, m))]])


def companion(roots: Sequence[complex]) -> np.ndarray:
    """The companion matrix, coefficients in the first row, of the polynomial with these roots."""
    return linalg.companion(np.poly(roots))


def controllable(roots: Sequence[complex]) -> np.ndarray:
    """The companion matrix in phase variables: ones above the diagonal, coefficients in the last row."""
    return companion(roots)[::-1, ::-1].copy()


# ---- named matrices ----------------------------------------------------------------------------------------


def tridiagonal(n: int, lower: complex, middle: complex, upper: complex) -> np.ndarray:
    return lower * np.eye(n, k=-1) + middle * np.eye(n) + upper * np.eye(n, k=1)


def toeplitz_band(n: int, **bands: complex) -> np.ndarray:
    """Toeplitz with b0 on the diagonal, a1, a2, ... above and c1, c2, ... below."""
    sign = {"a": 1, "b": 1, "c": -1}
    return sum(value * np.eye(n, k=sign[key[0]] * int(key[1:])) for key, value in bands.items())


def grcar(n: int, k: int = 3) -> np.ndarray:
    return sum((np.eye(n, k=j) for j in range(1, k + 1)), np.eye(n) - np.eye(n, k=-1))


def frank(n: int) -> np.ndarray:
    i, j = np.indices((n, n))
    return np.where(j >= i - 1, n - np.maximum(i, j), 0).astype(float)


def kahan(n: int, theta: float = 1.2) -> np.ndarray:
    s, c = np.sin(theta), np.cos(theta)
    return s ** np.arange(n)[:, None] * (np.eye(n) - c * np.triu(np.ones((n, n)), 1))


def lesp(n: int) -> np.ndarray:
    """Tridiagonal with sensitive, real, negative eigenvalues."""
    k = np.arange(2.0, n + 1)
    return np.diag(-(2.0 * np.arange(2, n + 2) + 1)) + np.diag(k, 1) + np.diag(1 / k, -1)


def clement(n: int) -> np.ndarray:
    """Tridiagonal, eigenvalues n-1, n-3, ..., 1-n."""
    k = np.arange(1.0, n)
    return np.diag(k, -1) + np.diag(k[::-1], 1)


def gear(n: int) -> np.ndarray:
    """Ones beside the diagonal, corners of opposite sign: some eigenvalues are double and defective."""
    A = np.eye(n, k=1) + np.eye(n, k=-1)
    A[0, -1] = 1.0
    A[-1, 0] = -1.0
    return A


def hanowa(n: int, d: float = -1.0) -> np.ndarray:
    m = n // 2
    D = np.diag(np.arange(1.0, m + 1))
    return np.block([[d * np.eye(m), -D], [D, d * np.eye(m)]])


def chebspec(n: int) -> np.ndarray:
    """Chebyshev spectral differentiation with a boundary condition: nilpotent in exact arithmetic."""
    x = np.cos(np.pi * np.arange(n + 1) / n)
    c = np.ones(n + 1)
    c[[0, -1]] = 2.0
    c *= (-1.0) ** np.arange(n + 1)
    D = np.outer(c, 1 / c) / (x[:, None] - x[None, :] + np.eye(n + 1))
    D -= np.diag(D.sum(axis=1))
    return D[1:, 1:]


def smoke(n: int) -> np.ndarray:
    """Complex: roots of unity on the diagonal, a one above each and in the corner."""
    A = np.diag(np.exp(2j * np.pi * np.arange(1, n + 1) / n)) + np.eye(n, k=1)
    A[-1, 0] = 1.0
    return A


def circulant(first_row: Sequence[float]) -> np.ndarray:
    return linalg.circulant(first_row).T


# ---- physics -----------------------------------------------------------------------------------------------


def first_order(M: np.ndarray, C: np.ndarray, K: np.ndarray) -> np.ndarray:
    """M x'' + C x' + K x = 0 as a system in (x, x')."""
    n = len(M)
    return np.block([[np.zeros((n, n)), np.eye(n)], [-np.linalg.solve(M, K), -np.linalg.solve(M, C)]])


def laplacian(n: int, length: float = 1.0) -> np.ndarray:
    """Second differences with Dirichlet ends."""
    return tridiagonal(n, 1.0, -2.0, 1.0) * ((n + 1) / length) ** 2


def birth_death(births: Sequence[float], deaths: Sequence[float]) -> np.ndarray:
    """Generator (columns sum to zero) of a chain with births[i]: i -> i + 1 and deaths[i]: i + 1 -> i."""
    A = np.diag(np.asarray(births, float), -1) + np.diag(np.asarray(deaths, float), 1)
    return A - np.diag(A.sum(axis=0))


def decay_chain(rates: Sequence[float]) -> np.ndarray:
    """Bateman's chain: each species decays into the next."""
    rates = np.asarray(rates, float)
    return np.diag(-rates) + np.diag(rates[:-1], -1)
