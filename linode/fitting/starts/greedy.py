"""Guesses of eigenvalues: one factor after another from a periodogram, or the best subset of a grid of real rates.

For irregular times, missing samples, few channels. After each addition all factors are refined together. Constants
without an origin of their own were chosen by hand.
Source: Lomb (1976), Astrophys. Space Sci. 39, 447 (periodogram of irregular samples); Pati, Rezaiifar & Krishnaprasad
(1993), 27th Asilomar Conference (matching pursuit with all amplitudes solved anew).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import comb

import numpy as np

from ..levenberg import minimise
from ..products import Array, gram, matmul, without
from ..projection import RatesModel

Groups = tuple[Array, Array, Array]  # times (G, T), weighted observations (G, T, q), weights (G, T)
MOST_TIMES = 3000  # that the periodogram uses: its cost grows as their square
DECAYS = (0.0, 3.0, 12.0)  # decay rates of the periodogram, in 1 / (longest trajectory)
GROWTHS = (0.0, 0.5, 2.0)  # growth rates of the grid, in 1 / (longest trajectory)
MOST_WAVES = 1e6  # frequencies times times above which the periodogram has no decays: some 16 MB complex
MOST_FREQUENCIES = 3  # per time; where uneven gaps ask for more, the grid is logarithmic instead of uniform
RATES_PER_DECADE, MOST_RATES = 4, 22  # of the grid
MOST_SUBSETS = 20000  # of rates that are compared at once
REFINE_STEPS = 15  # of a minimisation after each addition
NOTHING = 1e-6  # length of a candidate without the eigenvalues found, of its whole, below which it adds none
RIDGE = 1e-13  # least pivot, some 500 eps, for Gram matrices of columns of length 1
REAL = 1e-12  # |Im| / |lambda| below which an eigenvalue is real: some 5,000 eps


def greedy(model: RatesModel, single_first: bool = False) -> Array | None:
    """(n,) eigenvalues for a model of n states; of an odd number the single rate is found last, or first."""
    n, found = model.factors.n, np.zeros(0, complex)
    t, y, w = _thinned(model)
    omegas = _frequencies(t, w, model.fastest[1])
    span = model.factors.span
    sigmas = -np.array(DECAYS if len(omegas) * t.size < MOST_WAVES else DECAYS[:1]) / span
    grid = (sigmas[:, None] + 1j * omegas).ravel()
    waves = [np.exp(np.outer(x, grid)) * v[:, None] for x, v in zip(t, w)] if n > 1 else []
    rates = real_rates(model)
    reals = [np.exp(np.outer(x, rates)) * v[:, None] for x, v in zip(t, w)]
    while len(found) < n:
        if len(found) == n - 1 or (single_first and n % 2 and not len(found)):
            pick, _ = _best_subset(*_projected(reals, found, (t, y, w), model.bias), 1)
            added = rates[list(pick)].astype(complex)
        else:
            added = _best_pair(waves, grid, reals, rates, found, (t, y, w), model.bias)
        grown = np.concatenate([found, added])
        part = replace(model, factors=model.factors.resized(len(grown)))
        theta = minimise(part, part.factors.from_eigenvalues(_apart(grown, span)), max_steps=REFINE_STEPS).theta
        found = part.factors.eigenvalues(theta)
        found = np.where(np.abs(found.imag) < REAL * np.abs(found), found.real, found)
    return found


def decays(model: RatesModel, per_decade: float = RATES_PER_DECADE, fastest: float = np.inf) -> list[Array]:
    """The best n real rates of a logarithmic grid, as a list of one guess; an empty list where the grid is smaller."""
    n, (t, y, w) = model.factors.n, _thinned(model)
    rates = real_rates(model, per_decade)
    rates = rates[np.abs(rates) <= fastest]
    if n > len(rates):
        return []
    reals = [np.exp(np.outer(x, rates)) * v[:, None] for x, v in zip(t, w)]
    G, b = _projected(reals, np.zeros(0, complex), (t, y, w), model.bias)
    return [rates[list(_best_subset(G, b, n)[0])].astype(complex)]


def real_rates(model: RatesModel, per_decade: float = RATES_PER_DECADE) -> Array:
    """A logarithmic grid from 0.3 / (longest trajectory) to 2 / (shortest gap), and some growth rates."""
    span, gaps = model.factors.span, np.diff(model.t, axis=1)
    fastest = min(2.0 / gaps[gaps > 0].min(), model.fastest[0] / 2)
    slowest = min(0.3 / span, fastest / 10)
    count = int(np.clip(per_decade * np.log10(fastest / slowest), 6, MOST_RATES))
    return np.concatenate([-np.geomspace(fastest, slowest, count), np.array(GROWTHS) / span])


def _thinned(model: RatesModel) -> Groups:
    """Times, observations and weights, at most MOST_TIMES of them, drawn from a fixed seed."""
    t, y, w = model.t, model.y, model.w
    if t.size > MOST_TIMES:
        keep = np.sort(np.random.default_rng(0).permutation(t.shape[1])[: max(MOST_TIMES // len(t), 8)])
        t, y, w = t[:, keep], y[:, keep], w[:, keep]
    return t, y, w


def _frequencies(t: Array, w: Array, highest: float) -> Array:
    """Angular frequencies, half a turn per longest trajectory apart, up to half a turn per median gap."""
    gaps = np.diff(t, axis=1)
    gaps = gaps[(gaps > 0) & (w[:, 1:] > 0)]
    span = float(t.max())
    top = min(np.pi / float(np.median(gaps)), highest) if len(gaps) else np.pi / span
    count = max(2, int(top * span / np.pi))
    if count <= MOST_FREQUENCIES * t.shape[1]:
        return np.arange(1, count + 1) * (np.pi / span)
    return np.geomspace(np.pi / span, top, MOST_FREQUENCIES * t.shape[1])


def _projected(columns: list[Array], found: Array, data: Groups, bias: bool) -> tuple[Array, Array]:
    """Gram matrix of the candidates without what is found, of length 1, and their products with the rest of y."""
    G, b = np.zeros((columns[0].shape[1],) * 2), []
    kept = [_remaining(X, found, tk, yk, wk, bias) for X, tk, yk, wk in zip(columns, *data)]
    size, whole = (np.sqrt(sum((X**2).sum(0) for X in xs)) for xs in ([X for X, _ in kept], columns))
    size = np.where(size > NOTHING * whole, size, np.inf)
    for X, r in kept:
        X = X / size
        G = G + gram(X)
        b.append(matmul(X.T, r))
    return G, np.concatenate(b, -1)


def _remaining(X: Array, found: Array, t: Array, y: Array, w: Array, bias: bool) -> tuple[Array, Array]:
    """Candidates and observations of one group minus their projections on the modes found and the constant."""
    known = np.exp(np.outer(t, found)) * w[:, None]
    known = np.concatenate([known.real, known.imag[:, found.imag > 0], w[:, None][:, : int(bias)]], 1)
    if not known.shape[1]:
        return X, y
    size = np.linalg.norm(known, axis=0)
    U, s, _ = np.linalg.svd(known / np.where(size > 0, size, 1.0), full_matrices=False)
    U = U[:, s > 1e-10 * s[0]]
    return without(X, U), without(y, U)


def _best_pair(
    waves: list[Array], grid: Array, reals: list[Array], rates: Array, found: Array, data: Groups, bias: bool
) -> Array:
    """The two eigenvalues that reduce the cost most: a conjugate pair or two real ones."""
    a, b, c = (np.zeros(len(grid)) for _ in range(3))
    products = []
    for X, tk, yk, wk in zip(waves, *data):
        Z, r = _remaining(X, found, tk, yk, wk, bias)
        a, b, c = a + (Z.real**2).sum(0), b + (Z.real * Z.imag).sum(0), c + (Z.imag**2).sum(0)
        products.append(matmul(Z.real.T, r) + 1j * matmul(Z.imag.T, r))
    p = np.concatenate(products, -1)
    det = np.maximum(a * c - b * b, RIDGE * (a + c) ** 2 + 1e-300)
    gains = (c * (p.real**2).sum(-1) - 2 * b * (p.real * p.imag).sum(-1) + a * (p.imag**2).sum(-1)) / det
    whole = sum((np.abs(X) ** 2).sum(0) for X in waves)
    gains = np.where(a + c > NOTHING * whole, gains, 0.0)
    best = int(np.argmax(gains))
    G, products_real = _projected(reals, found, data, bias)
    pick, gain = _best_subset(G, products_real, 2)
    if gain > gains[best]:
        return rates[list(pick)].astype(complex)
    return np.array([grid[best], grid[best].conj()])


def _best_subset(G: Array, b: Array, size: int) -> tuple[list[int], float]:
    """The candidates that reduce the cost most together, and by how much.

    In several passes where there are more than MOST_SUBSETS subsets.
    """
    chosen: list[int] = []
    gain, is_free = 0.0, np.ones(len(G), bool)
    while len(chosen) < size:
        more = size - len(chosen)
        while more > 1 and comb(len(G) - len(chosen), more) > MOST_SUBSETS:
            more -= 1
        added, G, b, more_gain = _best_of_subsets(G, b, is_free, more)
        chosen, gain, is_free[added] = [*chosen, *added], gain + more_gain, False
    return chosen, gain


def _best_of_subsets(G: Array, b: Array, is_free: Array, size: int) -> tuple[list[int], Array, Array, float]:
    """The best subset of free candidates, G and b without it, and the reduction of the cost.

    A Cholesky factorisation for all S subsets at once: rows (S, k, N) of the factors, with all candidates as columns;
    the remaining squares of the candidates (S, N), and remaining products with the data (S, N, q).
    """
    N = len(G)
    subsets, rows, gain = np.zeros((1, 0), int), np.zeros((1, 0, N)), np.zeros(1)
    squares, left = np.diag(G)[None], b[None]
    while True:
        last = subsets[:, -1:] if subsets.shape[1] else np.full((1, 1), -1)
        allowed = is_free & (np.arange(N) > last)
        unit = np.where(squares > RIDGE, 1 / np.sqrt(np.maximum(squares, RIDGE)), 0.0)
        gains = np.where(allowed, gain[:, None] + ((left * unit[..., None]) ** 2).sum(-1), -1.0)
        is_last = subsets.shape[1] == size - 1
        parent, j = np.divmod([np.argmax(gains)], N) if is_last else np.nonzero(allowed)
        row = G[j] - np.einsum("sk,skn->sn", rows[parent, :, j], rows[parent])
        row *= unit[parent, j, None]
        value = left[parent, j] * unit[parent, j, None]
        subsets, gain = np.c_[subsets[parent], j], gains[parent, j]
        rows = np.concatenate([rows[parent], row[:, None]], 1)
        squares, left = squares[parent] - row**2, left[parent] - row[..., None] * value[:, None]
        if is_last:
            return [int(x) for x in subsets[0]], G - rows[0].T @ rows[0], left[0], float(gain[0])


def _apart(lam: Array, span: float) -> Array:
    """Eigenvalues with close real ones moved apart: amplitudes of equal ones are not determined."""
    real = np.flatnonzero(lam.imag == 0)
    order = real[np.argsort(lam[real].real)]
    moved = lam.copy()
    for before, after in pairwise(order):
        gap = max(0.1 * abs(moved[before].real), 0.1 / span)
        if moved[after].real - moved[before].real < gap:
            moved[after] = moved[before].real + gap
    return moved
