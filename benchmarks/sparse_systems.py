"""Large sparse systems whose trajectories and gradients are known.

Truth: sine transforms; sums of positive terms with Poisson weights, where Xi has no negative entry off its diagonal
(Jensen 1953: uniformisation); a sum of two binomial variables for Ehrenfest's urns. Times are uniform from 0 to
|Xi|_1 t = `rate`. g, the gradient of a loss with respect to z, is zero but at the witnesses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from math import isqrt, sqrt
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.sparse as sp
from scipy.spatial import Delaunay

from tests.balls import cached

VERSION = np.array([1])  # of `summed`, in the key of the cache: raise it when the code of the truth below changes
Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of vectors and times (w,)


class Truth(NamedTuple):
    """At the witnesses: states (w, n), cotangents (w, n), and the gradient with respect to z0 (n,)."""

    z: np.ndarray
    g: np.ndarray
    dz0: np.ndarray


class Family(NamedTuple):
    """Xi, z0, and the truth at times, with a generator for g."""

    Xi: sp.csr_array
    z0: np.ndarray
    truth: Callable[[np.ndarray, np.random.Generator], Truth]


@dataclass(frozen=True)
class Problem:
    """Arrays of one problem and its truth at the witnesses."""

    Xi: sp.csr_array
    z0: np.ndarray
    t: np.ndarray
    witnesses: np.ndarray  # indices of the times at which truth is known
    true: Truth

    @property
    def g(self) -> np.ndarray:
        """(T, n)."""
        g = np.zeros((len(self.t), len(self.z0)), self.z0.dtype)
        g[self.witnesses] = self.true.g
        return g

    @property
    def slopes(self) -> dict[str, tuple[float, float]]:
        """Derivatives of the loss along two directions of Xi, with their sizes before anything cancels.

        Along Xi it is sum t_i Re <g_i, Xi z_i>, along I it is sum t_i Re <g_i, z_i>, since both commute with Xi.
        """
        t, found = self.t[self.witnesses], {}
        for name, moved in (("Xi", (self.Xi @ self.true.z.T).T), ("I", self.true.z)):
            terms = t * np.einsum("kn,kn->k", self.true.g.conj(), moved).real
            sizes = t * np.linalg.norm(self.true.g, axis=1) * np.linalg.norm(moved, axis=1)
            found[name] = float(terms.sum()), float(sizes.sum())
        return found

    def errors(self, z: np.ndarray, dz0: np.ndarray | None = None, dXi: np.ndarray | None = None) -> dict[str, float]:
        """The largest relative error of z over the witnesses (w, n), those of dz0 and of dXi (nnz,) in CSR order.

        That of dXi is measured along Xi and along I.
        """
        off = np.linalg.norm(z - self.true.z, axis=1) / np.linalg.norm(self.true.z, axis=1)
        found = {"z": float(off.max())}
        if dz0 is not None:
            found["dz0"] = float(np.linalg.norm(dz0 - self.true.dz0) / np.linalg.norm(self.true.dz0))
        if dXi is not None:
            S = sp.csr_array((dXi, self.Xi.indices, self.Xi.indptr), self.Xi.shape)
            along = {"Xi": float(np.vdot(dXi, self.Xi.data).real), "I": float(S.diagonal().sum().real)}
            found["dXi"] = max(abs(along[name] - true) / size for name, (true, size) in self.slopes.items())
        return found


@dataclass(frozen=True)
class System:
    """One row: a family, |Xi|_1 t at the last time, and what is hoped for."""

    name: str
    words: str
    family: Callable[[int], Family]
    rate: float
    target: float | None = None  # least time of the best peer, in units of linode's
    n: int = 100_000  # about
    n_times: int = 20
    most_factor: float = 4.0  # hoped for: time of forward and gradients over that of forward
    most_bytes: float | None = None  # hoped for: of the whole process
    has_peers: bool = True
    is_stencil: bool = False  # it is timed as an operator too

    def problem(self, n: int | None = None) -> Problem:
        return _problem(self, n or self.n)

    def rate_of(self, n: int | None) -> float:
        """|Xi|_1 t: a quick run with few states ends earlier, before all is diffused or gone."""
        return self.rate * min(1.0, (n or self.n) / self.n)

    def describe(self, n: int | None = None) -> str:
        problem = self.problem(n)
        size = f"n = {len(problem.z0)}, {problem.Xi.nnz} entries, T = {self.n_times}"
        return f"{self.words}, {size}, |Xi| t = {self.rate_of(n):g}"


@lru_cache(maxsize=2)
def _problem(system: System, n: int) -> Problem:
    family = system.family(n)
    t = np.linspace(0.0, system.rate_of(n) / abs(family.Xi).sum(axis=0).max(), system.n_times)
    witnesses = np.unique(np.linspace(0, system.n_times - 1, 5).astype(int)[1:])
    rng = np.random.default_rng(1)
    return Problem(family.Xi, family.z0, t, witnesses, family.truth(t[witnesses], rng))


# ---- truth -----------------------------------------------------------------------------------------------------------


def by_flow(z0: np.ndarray, forward: Flow, backward: Flow) -> Callable[[np.ndarray, np.random.Generator], Truth]:
    """Truth from e^(Xi t_i) z0 and sum e^(Xi^H t_i) g_i; g is z, turned where it is complex, and positive noise."""

    def truth(t: np.ndarray, rng: np.random.Generator) -> Truth:
        z = forward(z0, t)
        noise = rng.uniform(size=z.shape)
        turned = (1 + 1j) / sqrt(2) * z if np.iscomplexobj(z) else z  # Re <z, i H z> is 0
        g = turned / np.linalg.norm(z, axis=1, keepdims=True) + noise / np.linalg.norm(noise, axis=1, keepdims=True)
        return Truth(z, g, backward(g, t))

    return truth


def by_sines(v: np.ndarray, t: np.ndarray, shape: tuple[int, ...], factor: complex) -> np.ndarray:
    """e^(factor L t) v with the Laplacian L of a grid, zero outside: 2 -1 stencils, of eigenvalues -4 sin^2."""
    axes, lam = tuple(range(1, len(shape) + 1)), np.zeros(shape)
    for i, m in enumerate(shape):
        line = -4.0 * np.sin(np.pi * np.arange(1, m + 1) / (2 * (m + 1))) ** 2
        lam = lam + line.reshape([-1 if i == j else 1 for j in range(len(shape))])
    waves = scipy.fft.dstn(v.reshape(-1, *shape), type=1, axes=axes, norm="ortho")
    waves = waves * np.exp(factor * t.reshape(-1, *[1] * len(shape)) * lam)
    return scipy.fft.dstn(waves, type=1, axes=axes, norm="ortho").reshape(len(t), -1)


def sines(shape: tuple[int, ...], factor: complex) -> tuple[Flow, Flow]:
    """Forward and backward."""

    def backward(g: np.ndarray, t: np.ndarray) -> np.ndarray:
        return by_sines(g, t, shape, np.conj(factor)).sum(axis=0)

    return partial(by_sines, shape=shape, factor=factor), backward


def by_poisson(v: np.ndarray, t: np.ndarray, Xi: sp.csr_array) -> np.ndarray:
    """e^(Xi t_i) v = sum_k w_k P^k v, where Xi has no negative entry off its diagonal and v (n,) none at all.

    P = I + Xi / c has none either for c = max |a_ii|, and w_k are the Poisson weights of c t_i. Nothing cancels: the
    relative error is at most some eps for each of the terms.
    """
    P, weights = jumps(Xi, t)
    state, z = v, np.zeros((len(t), len(v)))
    for k in range(max(low + len(w) for low, w in weights)):
        for i, (low, w) in enumerate(weights):
            if low <= k < low + len(w):
                z[i] += w[k - low] * state
        state = P @ state
    return z


def by_poisson_backward(g: np.ndarray, t: np.ndarray, Xi: sp.csr_array) -> np.ndarray:
    """sum_i e^(Xi^T t_i) g_i for g (w, n) without negative entries: the same sums, from the last term to the first."""
    P, weights = jumps(tidy(Xi.T), t)
    total = np.zeros(g.shape[1])
    for k in reversed(range(max(low + len(w) for low, w in weights))):
        total = P @ total
        for i, (low, w) in enumerate(weights):
            if low <= k < low + len(w):
                total += w[k - low] * g[i]
    return total


def jumps(Xi: sp.csr_array, t: np.ndarray) -> tuple[sp.csr_array, list[tuple[int, np.ndarray]]]:
    """P, and the first index and the weights of each time."""
    c = -Xi.diagonal().min()
    weights = [poisson_weights(float(c * time)) for time in t]
    return (sp.eye_array(Xi.shape[0]) + Xi / c).tocsr(), [(low, w.astype(float)) for low, w in weights]


def poisson_weights(mean: float) -> tuple[int, np.ndarray]:
    """The first index and the weights around the mean, but for less than 1e-25 in all."""
    reach = 12 * sqrt(mean) + 60
    low = max(0, int(mean - reach))
    return low, unimodal(lambda k: mean / (k + 1), low, int(mean + reach), int(mean))


def binomial_weights(n: int, p: np.longdouble) -> tuple[int, np.ndarray]:
    mean = float(n * p)
    reach = 12 * sqrt(mean * float(1 - p)) + 60
    low, high = max(0, int(mean - reach)), min(n, int(mean + reach))
    return low, unimodal(lambda k: (n - k) / (k + 1) * (p / (1 - p)), low, high, int(mean))


def unimodal(ratio: Callable[[np.ndarray], np.ndarray], low: int, high: int, mode: int) -> np.ndarray:
    """Weights of low .. high that sum to 1, from the ratios of that at k + 1 to that at k, in extended precision."""
    ratios = ratio(np.arange(low, high).astype(np.longdouble))
    above, below = np.cumprod(ratios[mode - low :]), np.cumprod(1 / ratios[: mode - low][::-1])[::-1]
    w = np.concatenate([below, np.ones(1, np.longdouble), above])
    return w / w.sum()


# ---- families --------------------------------------------------------------------------------------------------------


def laplacian(shape: tuple[int, ...]) -> sp.csr_array:
    """Second differences on a grid, zero outside."""
    total = sp.csr_array((np.prod(shape), np.prod(shape)))
    for i, m in enumerate(shape):
        before, after = sp.eye_array(int(np.prod(shape[:i]))), sp.eye_array(int(np.prod(shape[i + 1 :])))
        total = total + sp.kron(sp.kron(before, stencil(m, 1.0, 1.0)), after)
    return tidy(total)


def stencil(m: int, lower: float, upper: float) -> sp.dia_array:
    return sp.diags_array([lower, -2.0, upper], offsets=[-1, 0, 1], shape=(m, m))


def tidy(A: sp.sparray) -> sp.csr_array:
    """CSR with sorted indices of 32 bits."""
    A = sp.csr_array(A)
    A.sum_duplicates()
    A.indices, A.indptr = A.indices.astype(np.int32), A.indptr.astype(np.int32)
    return A


def heat(n: int, dims: int) -> Family:
    """z' = L z from random values."""
    shape = (round(n ** (1 / dims)),) * dims
    z0 = np.random.default_rng(0).standard_normal(int(np.prod(shape)))
    return Family(laplacian(shape), z0, by_flow(z0, *sines(shape, 1.0)))


def schroedinger(n: int, dims: int) -> Family:
    """z' = i L z: a Gaussian wave packet that moves, in a box."""
    shape = (round(n ** (1 / dims)),) * dims
    x = np.linspace(-1.0, 1.0, shape[0])
    line = np.exp(-8.0 * (x + 0.2) ** 2 + 0.5j * np.arange(shape[0]))
    z0 = line if dims == 1 else np.outer(line, line).ravel()
    return Family(tidy(1j * laplacian(shape)), z0, by_flow(z0, *sines(shape, 1j)))


def positive(name: str, Xi: sp.csr_array, z0: np.ndarray) -> Family:
    """No negative entry off the diagonal of Xi and in z0."""

    def truth(t: np.ndarray, rng: np.random.Generator) -> Truth:
        @cached
        def summed(*key: np.ndarray) -> tuple[np.ndarray, ...]:
            return by_flow(z0, partial(by_poisson, Xi=Xi), partial(by_poisson_backward, Xi=Xi))(t, rng)

        return Truth(*summed(np.array(name), np.array(Xi.shape), t, VERSION))

    return Family(Xi, z0, truth)


def advection(n: int, peclet: float) -> Family:
    """Diffusion in a square with a flow along its diagonal; peclet: velocity times side over diffusivity, at 1e5."""
    m, drift = isqrt(n), peclet / (2 * 317)  # of a cell, so that small squares have small numbers
    line = stencil(m, 1.0 + drift, 1.0 - drift)
    Xi = sp.kron(line, sp.eye_array(m)) + sp.kron(sp.eye_array(m), line)
    return positive(f"advection {peclet}", tidy(Xi), np.random.default_rng(0).uniform(size=m * m))


def upwind(n: int) -> Family:
    """Transport by first-order upwind differences: one Jordan block."""
    Xi = sp.diags_array([1.0, -1.0], offsets=[-1, 0], shape=(n, n))
    return positive("upwind", tidy(Xi), np.random.default_rng(0).uniform(size=n))


def walk(n: int, edges: Callable[[int], tuple[np.ndarray, np.ndarray]]) -> Family:
    """Shares of walkers that leave each node at rate 1 for a neighbour; they start at one node in 1000."""
    A = adjacency(n, *edges(n))
    Xi = A @ sp.diags_array(1.0 / A.sum(axis=0)) - sp.eye_array(n)
    z0, n_starts = np.zeros(n), max(1, n // 1000)
    z0[np.random.default_rng(0).choice(n, n_starts, replace=False)] = 1.0 / n_starts
    return positive(f"walk {edges.__name__}", tidy(Xi), z0)


def smoothing(n: int) -> Family:
    """The Laplacian of the Delaunay graph of random points of the square."""
    A = adjacency(n, *delaunay(n))
    Xi = A - sp.diags_array(A.sum(axis=0))
    return positive("delaunay", tidy(Xi), np.random.default_rng(0).uniform(size=n))


def urns(n: int) -> Family:
    """Ehrenfest's urns: N = n - 1 balls change urns at rate 1 each; shares of ensembles by the balls in the first urn.

    A quarter of the balls starts there. After a time t a ball is where it was with probability (1 + e^(-2t)) / 2: the
    number is a sum of two binomial variables, and the expectation of s^k from k balls is a product of two powers.
    """
    N, start = n - 1, (n - 1) // 4
    k = np.arange(n)
    Xi = sp.diags_array([1.0 * k[:0:-1], np.full(n, -1.0 * N), 1.0 * k[1:]], offsets=[-1, 0, 1])
    s = 1 - np.longdouble(4) / N

    def truth(t: np.ndarray, rng: np.random.Generator) -> Truth:
        z, g, dz0 = np.zeros((len(t), n)), np.zeros((len(t), n)), np.zeros(n)
        for i, time in enumerate(t):
            stays = (1 + np.exp(-2 * np.longdouble(time))) / 2
            (low, w), (other, v) = binomial_weights(start, stays), binomial_weights(N - start, 1 - stays)
            both = np.convolve(w, v)
            z[i, low + other : low + other + len(both)] = both
            g[i] = (i + 1) * s ** k.astype(np.longdouble)
            here, there = np.log(stays * s + 1 - stays), np.log((1 - stays) * s + stays)
            dz0 += ((i + 1) * np.exp(k * here + (N - k) * there)).astype(float)
        return Truth(z, g, dz0)

    z0 = np.zeros(n)
    z0[start] = 1.0
    return Family(tidy(Xi), z0, truth)


# ---- graphs ----------------------------------------------------------------------------------------------------------


def adjacency(n: int, i: np.ndarray, j: np.ndarray) -> sp.csr_array:
    """Of an undirected graph, from the ends of its edges; loops and repeated edges are dropped."""
    i, j = i[i != j], j[i != j]
    A = sp.csr_array((np.ones(2 * len(i)), (np.concatenate([i, j]), np.concatenate([j, i]))), (n, n))
    A.data[:] = 1.0
    return A


def barabasi_albert(n: int, m: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Every new node is joined to m others, by chance in proportion to their edges (Barabasi & Albert 1999)."""
    chance = np.random.default_rng(0).uniform(size=(n, m))
    ends = np.empty((n, m, 2), int)
    ends[: m + 1] = np.arange(m + 1)[:, None, None]
    ends[: m + 1, :, 1] = (np.arange(m + 1)[:, None] + 1 + np.arange(m)) % (m + 1)  # the first m + 1 are all joined
    listed = ends.reshape(-1)  # every node as often as it has edges
    for new in range(m + 1, n):
        ends[new, :, 0] = new
        ends[new, :, 1] = listed[(chance[new] * (2 * m * new)).astype(int)]
    return ends[..., 0].ravel(), ends[..., 1].ravel()


def watts_strogatz(n: int, m: int = 5, p: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """A ring, each node joined to m on either side, a part p of the edges moved (Watts & Strogatz 1998)."""
    rng = np.random.default_rng(0)
    i, j = np.repeat(np.arange(n), m), (np.arange(n)[:, None] + 1 + np.arange(m)).ravel() % n
    return i, np.where(rng.uniform(size=n * m) < p, rng.integers(0, n, n * m), j)


def delaunay(n: int) -> tuple[np.ndarray, np.ndarray]:
    corners = Delaunay(np.random.default_rng(0).uniform(size=(n, 2))).simplices
    return corners.ravel(), np.roll(corners, 1, axis=1).ravel()


# ---- rows ------------------------------------------------------------------------------------------------------------

SYSTEMS = {
    f"sparse-{system.name}": system
    for system in (
        *(
            System(f"tridiagonal-{rate:g}", "heat in one dimension", partial(heat, dims=1), rate, target, n_times=50)
            for rate, target in ((4, 9.6), (400, 6.9))
        ),
        *(
            System(
                f"heat-{name}", "heat in two dimensions", partial(heat, dims=2), float(name), target, is_stencil=True
            )
            for name, target in (("1e1", 5.6), ("1e2", 6.4), ("1e4", 45.6), ("1e6", 60.0))
        ),
        *(
            System(
                f"advection-{peclet}",
                f"advection and diffusion in two dimensions, Peclet number {peclet}",
                partial(advection, peclet=float(peclet)),
                1e4,
                target,
                is_stencil=True,
            )
            for peclet, target in ((1, 36.8), (100, 17.6))
        ),
        System("walk-hubs", "walk on a Barabasi-Albert graph", partial(walk, edges=barabasi_albert), 40.0, 3.7),
        System("walk-small-world", "walk on a Watts-Strogatz graph", partial(walk, edges=watts_strogatz), 400.0, 8.0),
        System("laplacian", "Laplacian of a Delaunay graph", smoothing, 4e3, 19.2),
        *(
            System(
                f"schroedinger-{name}-{rate:g}",
                f"Schroedinger equation in {words}",
                partial(schroedinger, dims=dims),
                rate,
                target,
            )
            for name, words, dims, rate, target in (
                ("1d", "one dimension", 1, 50, 4.5),
                ("1d", "one dimension", 1, 5000, 6.9),
                ("2d", "two dimensions", 2, 50, 3.0),
                ("2d", "two dimensions", 2, 5000, 7.4),
            )
        ),
        System("birth-death-3e3", "birth and death, Ehrenfest's urns", urns, 3e3, 40.0),
        System("birth-death-3e5", "birth and death, Ehrenfest's urns", urns, 3e5, 14.4),
        System("upwind-1e3", "upwind transport, one Jordan block", upwind, 1e3, 3.0, is_stencil=True),
        System("upwind-1e4", "upwind transport, one Jordan block", upwind, 1e4, 5.4),
        System(
            "million",
            "heat in two dimensions",
            partial(heat, dims=2),
            1e4,
            n=1_000_000,
            n_times=10,
            most_factor=5.0,
            most_bytes=2e9,
            has_peers=False,
        ),
    )
}
