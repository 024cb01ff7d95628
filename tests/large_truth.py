"""Sparse systems with true states and gradients, by ball arithmetic on all entries.

z(t) = exp(Xi t) z0, and with a driving vector v the integral of e^((t - s) Xi) v e^(s w) for s from 0 to t beside it
(w = 0: constant forcing). The augmented matrix [[Xi, v], [0, w]] with the initial state (z0, 1) has both, and its
gradient on the pattern of Xi, to z0, to v and to t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from tests import oracles


@dataclass(frozen=True)
class Sparse:
    """Xi in CSR, z0 (n,), t (T,)."""

    name: str
    Xi: sp.csr_array
    z0: np.ndarray
    t: np.ndarray

    @property
    def n(self) -> int:
        return self.Xi.shape[0]

    @property
    def dense(self) -> np.ndarray:
        return self.Xi.toarray()


class Truth(NamedTuple):
    z: np.ndarray  # (T, n)
    values: np.ndarray  # (nnz,), in CSR order
    z0: np.ndarray
    dt: np.ndarray
    v: np.ndarray | None


def states(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, v: np.ndarray | None = None, w: complex = 0.0) -> np.ndarray:
    """z (T, n)."""
    A, start = augmented(Xi, z0, v, w)
    return oracles.trajectory(A, start, t)[:, : len(z0)]


def truth(case: Sparse, g: np.ndarray, v: np.ndarray | None = None, w: complex = 0.0) -> Truth:
    """States, and gradients of sum Re<g, z> for g (T, n)."""
    A, start = augmented(case.dense, case.z0, v, w)
    padded = np.pad(g, ((0, 0), (0, len(start) - case.n)))
    S, a, dt = oracles.gradients(A, start, case.t, padded)
    rows = np.repeat(np.arange(case.n), np.diff(case.Xi.indptr))
    values = S[rows, case.Xi.indices]
    z = oracles.trajectory(A, start, case.t)[:, : case.n]
    driving = None if v is None else S[: case.n, case.n]
    if not np.iscomplexobj(case.Xi.data):
        values = values.real  # a real parameter among complex ones receives the real part
    return Truth(z, values, a[: case.n] if np.iscomplexobj(case.z0) else a[: case.n].real, dt, driving)


def augmented(Xi: np.ndarray, z0: np.ndarray, v: np.ndarray | None, w: complex) -> tuple[np.ndarray, np.ndarray]:
    if v is None:
        return Xi, z0
    n = len(z0)
    dtype = complex if any(map(np.iscomplexobj, (Xi, z0, v))) or complex(w).imag else float
    A = np.zeros((n + 1, n + 1), dtype)
    A[:n, :n], A[:n, n], A[n, n] = Xi, v, w if dtype is complex else complex(w).real
    return A, np.append(z0, 1.0).astype(dtype)


# ---- systems -----------------------------------------------------------------------------------------------


def line(n: int, low: float, middle: float, high: float) -> sp.csr_array:
    """Constant diagonals, as of a stencil on a line."""
    bands = [np.full(n - 1, low), np.full(n, middle), np.full(n - 1, high)]
    return csr(sp.diags_array(bands, offsets=[-1, 0, 1]))


def csr(A: sp.sparray) -> sp.csr_array:
    A = sp.csr_array(A)
    A.sum_duplicates()
    A.sort_indices()
    return A


def plane(m: int, scale: float) -> sp.csr_array:
    """The five-point Laplacian on m x m points."""
    one, unit = line(m, 1.0, -2.0, 1.0), sp.eye_array(m)
    return csr(scale * (sp.kron(one, unit) + sp.kron(unit, one)))


def generator(n: int, seed: int) -> sp.csr_array:
    """Columns sum to 0, other entries are not negative: rates between random pairs of states."""
    rng = np.random.default_rng(seed)
    Q = sp.random_array((n, n), density=4 / n, rng=rng, data_sampler=lambda size: rng.exponential(3.0, size=size))
    Q = csr(Q - sp.diags_array(Q.diagonal()))
    return csr(Q - sp.diags_array(np.asarray(Q.sum(0)).ravel()))


def reversible(n: int, seed: int) -> sp.csr_array:
    """A walk on a random graph with detailed balance and unequal stationary weights."""
    rng = np.random.default_rng(seed)
    edges = sp.random_array((n, n), density=3 / n, rng=rng)
    rates = csr(edges + edges.T + line(n, 1.0, 0.0, 1.0))
    weights = np.exp(rng.uniform(-1, 1, n))
    Q = csr(5 * rates @ sp.diags_array(1 / weights))
    Q = csr(Q - sp.diags_array(Q.diagonal()))
    return csr(Q - sp.diags_array(np.asarray(Q.sum(0)).ravel()))


def random(n: int, seed: int, *, is_complex: bool = False, scale: float = 3.0) -> sp.csr_array:
    rng = np.random.default_rng(seed)
    A = sp.random_array((n, n), density=4 / n, rng=rng, data_sampler=lambda size: rng.standard_normal(size))
    if is_complex:
        A = A + 1j * sp.random_array(
            (n, n), density=4 / n, rng=rng, data_sampler=lambda size: rng.standard_normal(size)
        )
    return csr(scale * A)


def hermitian(n: int, seed: int) -> sp.csr_array:
    A = random(n, seed, is_complex=True, scale=2.0)
    return csr(A + A.conj().T)


def jordan(n: int, lam: float) -> sp.csr_array:
    """One Jordan block for each of three eigenvalues close to lam."""
    diagonal = np.repeat(lam + np.array([0.0, 0.5, 1.0]), n // 3)
    return csr(sp.diags_array([diagonal, np.ones(len(diagonal) - 1)], offsets=[0, 1]))


def with_empty_rows(n: int) -> sp.csr_array:
    A = line(n, 2.0, -5.0, 1.0).tolil()
    A[n // 2] = 0
    A[:, 3] = 0
    return csr(sp.csr_array(A))


def variable(m: int) -> sp.csr_array:
    """Diffusion on m x m points with coefficients that vary, and a little advection."""
    rng = np.random.default_rng(4)
    n = m * m
    horizontal = [np.exp(rng.uniform(-1, 1, n)) for _ in range(2)]
    A = plane(m, 1.0)
    rows = np.repeat(np.arange(n), np.diff(A.indptr))
    data = np.where(rows == A.indices, 0.0, horizontal[0][rows] + horizontal[0][A.indices])
    data = np.where(A.indices > rows, 0.7 * data, data)
    B = csr(sp.csr_array((data, A.indices, A.indptr), shape=A.shape))
    B.eliminate_zeros()
    return csr(20 * (B - sp.diags_array(np.asarray(B.sum(1)).ravel())))


def systems(n: int = 60) -> list[Sparse]:
    """All kinds, with random initial states; n about as asked."""
    rng = np.random.default_rng(11)
    m = round(n**0.5)
    matrices = {
        "diffusion": line(n, 60.0, -120.0, 60.0),
        "stiff diffusion": line(n, 1e3, -2e3, 1e3),
        "diffusion in a plane": plane(m, 40.0),
        "variable coefficients": variable(m),
        "advection and diffusion": line(n, 70.0, -100.0, 30.0),
        "mostly advection": line(n, 101.0, -100.0, -1.0),
        "upwind, one Jordan block": line(n, 30.0, -30.0, 0.0),
        "Jordan blocks": jordan(n, -2.0),
        "growth": csr(line(n, 6.0, -8.0, 5.0) + 6.0 * sp.eye_array(n)),
        "skew": line(n, -30.0, 0.0, 30.0),
        "random": random(n, 1),
        "complex random": random(n, 2, is_complex=True),
        "Hermitian": hermitian(n, 3),
        "i times real": csr(1j * line(n, 40.0, -80.0, 40.0)),
        "i times real, not symmetric": csr(1j * line(n, 25.0, -40.0, 15.0)),
        "complex diffusion": csr((1 + 0.5j) * line(n, 40.0, -80.0, 40.0)),
        "generator": generator(n, 5),
        "reversible walk": reversible(n, 6),
        "strictly triangular": csr(line(n, 0.0, 0.0, 5.0)),
        "empty rows and columns": with_empty_rows(n),
        "diagonal": csr(sp.diags_array(-np.geomspace(1e-3, 1e2, n))),
    }
    t = np.array([0.35, 1.0])
    found = []
    for name, Xi in matrices.items():
        z0 = rng.standard_normal(Xi.shape[0])
        if np.iscomplexobj(Xi.data):
            z0 = z0 + 1j * rng.standard_normal(Xi.shape[0])
        found.append(Sparse(name, Xi, z0, t))
    return found
