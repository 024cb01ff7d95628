"""What can be reached: least squares by scipy from the truth, and the Cramer-Rao bound.

An estimator of its own: all unknowns at once where the states are seen, trajectories and their Jacobian by `LinearODE`
and torch, which the tests hold against ball arithmetic; elsewhere rates, with amplitudes by linear least squares.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import least_squares

import linode
from benchmarks.fitting.problems import Array, Problem
from tests.balls import cached

TIGHT = {"xtol": 1e-13, "ftol": 1e-13, "gtol": 1e-13, "max_nfev": 200}


@dataclass(frozen=True)
class Reference:
    """Of the minimum that is reached from the truth: the error of Xi, or of the observations where Xi is not seen; its
    sum of squares; and the bound on the error's root mean square.
    """

    error: float
    cost: float
    bound: float


def reference(problem: Problem) -> Reference:
    parts = [np.concatenate([x.ravel() for x in part]) for part in zip(*problem.trajectories)]
    found = _of_states if problem.Xi is not None else _of_rates
    key = [*parts, np.array([problem.sigma])]
    key += [np.zeros(0) if x is None else x for x in (problem.u, problem.Xi, problem.B)]
    key += [np.zeros(0) if problem.eigenvalues is None else problem.eigenvalues]
    return Reference(*(float(x) for x in _kept(found, problem, key)))


def _kept(found: Callable[[Problem], Array], problem: Problem, key: list[Array]) -> Array:
    """The three numbers, from the cache where data are as they were."""

    def solved(*data: Array) -> tuple[Array, ...]:
        return (found(problem),)

    solved.__name__ = f"fit{found.__name__}"
    return cached(solved)(*key)[0]


def _of_states(problem: Problem) -> Array:
    n, K = len(problem.Xi), len(problem.trajectories)
    m = 0 if problem.B is None else problem.B.shape[1]
    trajectories = [tuple(torch.from_numpy(x) for x in part) for part in problem.trajectories]
    observed = torch.cat([z.flatten() for _, z, _ in trajectories])

    def model(theta: torch.Tensor) -> torch.Tensor:
        Xi, B, z0 = theta.split([n * n, n * m, n * K])
        states = []
        for (t, _, _), start in zip(trajectories, z0.reshape(K, n)):
            u = None if not m else linode.ZeroOrderHold(t - t[0], torch.from_numpy(problem.u))
            ode = linode.LinearODE(Xi.reshape(n, n), start, B=B.reshape(n, m) if m else None, u=u)
            states.append(ode(t - t[0]).flatten())
        return torch.cat(states)

    def residuals(theta: Array) -> Array:
        return (model(torch.from_numpy(theta)) - observed).numpy()

    def jacobian(theta: Array) -> Array:
        with warnings.catch_warnings():  # torch's own, of how it makes forward mode
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.func.jacfwd(model)(torch.from_numpy(theta)).numpy()

    starts = [clean[0].numpy() for _, _, clean in trajectories]
    truth = np.concatenate([problem.Xi.ravel(), np.zeros(0) if not m else problem.B.ravel(), *starts])
    found = least_squares(residuals, truth, jac=jacobian, x_scale="jac", method="lm", **TIGHT)
    J = jacobian(truth)
    bound = problem.sigma * np.sqrt(np.trace(np.linalg.inv(J.T @ J)[: n * n, : n * n]))
    error = np.linalg.norm(found.x[: n * n] - truth[: n * n])
    return np.array([error, 2 * found.cost, bound])


def _of_rates(problem: Problem) -> Array:
    t, z, clean = problem.trajectories[0]
    lam = problem.eigenvalues
    pairs, reals = lam[lam.imag > 0], lam[lam.imag == 0].real

    def fitted(theta: Array) -> Array:
        rates = theta[: len(pairs)] + 1j * theta[len(pairs) : 2 * len(pairs)]
        waves = np.exp(np.outer(t - t[0], rates))
        basis = np.c_[waves.real, waves.imag, np.exp(np.outer(t - t[0], theta[2 * len(pairs) :]))]
        Q = np.linalg.qr(basis)[0]
        return Q @ (Q.T @ z)

    truth = np.r_[pairs.real, pairs.imag, reals]
    found = least_squares(lambda x: (fitted(x) - z).ravel(), truth, jac="3-point", x_scale="jac", method="lm", **TIGHT)
    n_unknowns = len(truth) * (1 + z.shape[1])
    error = np.sqrt(np.mean((fitted(found.x) - clean) ** 2))
    return np.array([error, 2 * found.cost, problem.sigma * np.sqrt(n_unknowns / z.size)])
