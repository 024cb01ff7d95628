"""Parameters of a structure from a fit without it, whose states are in another basis.

Where C, B or z0 are known or structured, theta and the change of basis S are found together from S Xi_f = Xi(theta) S,
C(theta) S = C_f, S B_f = B(theta), S z0_f = z0: a small problem in which the data do not occur. Where nothing tells the
basis, theta is found from the eigenvalues.
Source: Parrilo & Ljung (2003), Initialization of physical parameter estimates, 13th IFAC Symposium on System
Identification (the equations).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..estimate import Estimate
from ..levenberg import minimise
from ..products import Array, gram, sum_of_squares
from ..unknowns import Unknowns

Residuals = Callable[[Array, bool], tuple[Array, Array | None]]  # of x, and whether derivatives are wanted
STEPS = 100
DISTINCT = 1e-3  # relative difference of theta from which on two results are different; by hand
TINY = 1e-300  # keeps quotients finite


class LeastSquares:
    """A least-squares problem for `minimise` from residuals (N,) and their derivatives (N, k), None if not wanted."""

    def __init__(self, residuals: Residuals) -> None:
        self.residuals = residuals

    def cost(self, x: Array) -> float:
        r, _ = self.residuals(x, False)
        return sum_of_squares(r) if np.isfinite(r).all() else np.inf

    def linearise(self, x: Array) -> tuple[float, Array, Array]:
        r, J = self.residuals(x, True)
        if J is None or not (np.isfinite(r).all() and np.isfinite(J).all()):
            return np.inf, np.zeros((len(x), len(x))), np.zeros(len(x))
        return sum_of_squares(r), gram(J), J.T @ r


def in_structure(unknowns: Unknowns, free: Estimate, owns: list[Array]) -> list[Array]:
    """Parameters of the structure, the best match first; owns: where to start."""
    found: list[tuple[float, Array]] = []
    n = unknowns.n
    for own in owns:
        for residuals, start in ((eigenvalue_residuals(unknowns, free), own), *changed_basis(unknowns, free, own)):
            bounds = unknowns.structure.bounds
            if bounds is not None:
                rest = np.full(len(start) - len(own), np.inf)
                bounds = np.concatenate([bounds[0], -rest]), np.concatenate([bounds[1], rest])
            end = minimise(LeastSquares(residuals), start, max_steps=STEPS, tol=1e-8, floor=1e-20 * n, bounds=bounds)
            if np.isfinite(end.cost):
                found.append((end.cost, end.theta[: len(own)]))
    found.sort(key=lambda x: x[0])
    kept: list[Array] = []
    for _, own in found:
        if not any(np.allclose(own, other, rtol=DISTINCT, atol=0) for other in kept):
            kept.append(own)
    return kept


def eigenvalue_residuals(unknowns: Unknowns, free: Estimate) -> Residuals:
    """Relative differences between eigenvalues of Xi(theta) and of the fit without the structure, as pairs."""
    target = np.linalg.eigvals(free.Xi).astype(complex)
    size = np.abs(target) + 1e-3 * np.abs(target).max() + TINY  # an eigenvalue of 0 has no relative difference
    n = unknowns.n

    def residuals(own: Array, want_slopes: bool) -> tuple[Array, Array | None]:
        Xi = unknowns.structure.parts(own)["Xi"]
        if not np.isfinite(Xi).all():
            return np.full(2 * n, np.inf), None
        lam, V = np.linalg.eig(Xi)
        order = linear_sum_assignment(np.abs(lam[:, None] - target) / size)[1]
        r = (lam - target[order]) / size[order]
        r = np.concatenate([r.real, r.imag])
        if not want_slopes:
            return r, None
        try:
            W = np.linalg.inv(V)
        except np.linalg.LinAlgError:
            return r, None
        dXi = unknowns.structure.slopes(own).reshape(n, n, -1)
        slopes = np.einsum("ai,ijk,ja->ak", W, dXi, V) / size[order][:, None]
        return r, np.concatenate([slopes.real, slopes.imag])

    return residuals


def changed_basis(unknowns: Unknowns, free: Estimate, own: Array) -> list[tuple[Residuals, Array]]:
    """The problem of theta and S, (theta, S row by row), and where to start it; empty where nothing tells the basis."""
    n, names, E = unknowns.n, unknowns.structure.names, np.eye(unknowns.n)
    targets = {"C": free.C, "B": free.B, "z0": free.z0}
    told = {
        name: np.ones(x.shape, bool) if name in names else ~np.isnan(getattr(unknowns, name))
        for name, x in targets.items()
        if name in names or getattr(unknowns, name).shape == x.shape
    }
    told = {name: known for name, known in told.items() if known.any() and np.abs(targets[name]).max() > 0}
    if not told:
        return []
    units = {"Xi": np.abs(free.Xi).max() + TINY, **{name: np.abs(targets[name]).max() for name in told}}
    told = {"Xi": np.ones((n, n), bool), **told}

    def residuals(x: Array, want_slopes: bool) -> tuple[Array, Array | None]:
        S = x[len(own) :].reshape(n, n)
        theta = unknowns.pack(x[: len(own)])
        system = unknowns.system(theta)
        off = {
            "Xi": S @ free.Xi - system.Xi @ S,
            "C": system.C @ S - free.C,
            "B": S @ free.B - system.B,
            "z0": free.z0 @ S.T - system.z0,
        }
        r = np.concatenate([off[name].ravel()[kept.ravel()] / units[name] for name, kept in told.items()])
        if not want_slopes:
            return r, None
        slopes, found = unknowns.slopes(theta), []
        for name, kept in told.items():
            d = slopes.get(name, np.zeros((off[name].size, len(own))))
            if name in ("Xi", "C"):
                value = getattr(system, name)
                by_own = np.einsum("ijk,jl->ilk", d.reshape(*value.shape, -1), S).reshape(value.size, -1)
                by_S = np.kron(value, E)
                by_own, by_S = (by_own, by_S) if name == "C" else (-by_own, np.kron(E, free.Xi.T) - by_S)
            else:
                by_own = -d
                by_S = np.kron(E, free.B.T) if name == "B" else np.concatenate([np.kron(E, z[None]) for z in free.z0])
            found.append(np.c_[by_own, by_S][kept.ravel()] / units[name])
        return r, np.concatenate(found)

    start = np.concatenate([own, np.zeros(n * n)])
    r, J = residuals(start, True)
    if J is None or not (np.isfinite(r).all() and np.isfinite(J).all()):
        return []
    start[len(own) :] = -np.linalg.lstsq(J[:, len(own) :], r, rcond=None)[0]  # the residuals are linear in S
    return [(residuals, start)]


def with_known_rows(Xi: Array, C: Array, known: Array) -> tuple[Array, Array]:
    """Xi and C in the basis nearest to the present one in which C has the known entries, NaN for unknown ones."""
    S = np.eye(len(Xi))  # z = S z_new
    for row, wanted in zip(C, known):
        told = ~np.isnan(wanted)
        if told.any() and row.any():
            S[:, told] += np.outer(row, wanted[told] - (row @ S)[told]) / (row @ row)
    if not np.isfinite(S).all() or np.linalg.cond(S) > 1e9:
        return Xi, C
    return np.linalg.solve(S, Xi @ S), C @ S
