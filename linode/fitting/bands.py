"""Standard errors of a fitted curve, without the noise of an observation, at any times.

Rates, or the unknowns of the fit, are drawn from their covariance. For each draw the amplitudes, or initial states, are
fitted to the data again, a linear problem, and errors of these from noise are added.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..ode import LinearODE
from .channels import make_channels
from .data import Data
from .estimate import Estimate
from .products import Array, matmul
from .projection import RatesModel
from .states import StatesModel, explaining, observation_matrix, observed
from .uncertainty import draws
from .unknowns import System

N_DRAWS = 64  # standard errors are then known to 10 % or so
INNER = (0.1587, 0.8413)  # quantiles of a normal variable at one standard deviation from its median


def standard_errors(found: Estimate, data: Data, k: int, t: Array, sigma: float) -> Array:
    """(T, p) at times t (T,) since z0 of trajectory k; sigma: standard deviation of noise of weight 1."""
    with np.errstate(all="ignore"):  # draws may grow past the largest float
        if found.rates is not None:
            return _by_rates(found, data, t, sigma)
        return _by_states(found, data, k, t, sigma)


def _by_rates(found: Estimate, data: Data, t: Array, sigma: float) -> Array:
    assert found.rates is not None
    factors, theta, covariance = found.rates
    channels, bias = make_channels(data), found.unknowns.has_b
    model = RatesModel(factors, channels.t, channels.y, channels.w, bias)
    curves = []
    for move in sigma * draws(covariance)[:N_DRAWS]:
        try:
            c = channels.coefficients(model.amplitudes(theta + move), 0)
        except np.linalg.LinAlgError:
            continue
        curves.append(matmul(model.basis(theta + move, t), c))
    tangent = model.tangent(theta)
    if tangent is None:
        return np.full((len(t), data.p), np.inf)
    roots = matmul(model.basis(theta, t), tangent.inverse)  # (G, T, n + bias)
    variance = (roots**2).sum(-1)[channels.group[0]].T / channels.scale[0] ** 2  # of the amplitudes' errors, (T, p)
    return np.sqrt(_spread(curves) ** 2 + sigma**2 * variance)


def _by_states(found: Estimate, data: Data, k: int, t: Array, sigma: float) -> Array:
    assert found.point is not None  # it was fitted by states
    assert found.point_covariance is not None
    unknowns, p, rng, curves = found.unknowns, data.p, np.random.default_rng(1), []
    n, m, has_D = unknowns.n, data.m, bool(found.D.any())
    model = StatesModel(data, unknowns)
    for move in sigma * draws(found.point_covariance)[:N_DRAWS]:
        system = unknowns.system(found.point + move)
        if found.C_is_refitted:
            system = replace(system, C=found.C, D=found.D)
        fitted = model.with_best_z0(system)
        if fitted is None:
            continue
        z0, offset, free = fitted.z0[k], np.zeros(p), unknowns.free_z0[k]
        response = model.respond(system, fitted.basis, fitted.z0, False)
        if free.any():
            A = observed(system.C, response.by_z0[k])[..., free] * data.w[k][..., None]
            A = A.reshape(-1, A.shape[-1])
            z0 = z0.copy()
            z0[free] += sigma * np.linalg.pinv(A) @ rng.standard_normal(len(A))
        if found.C_is_refitted:
            X = explaining(response.z, data, system.delay, has_D, unknowns.has_b)
            M, _, roots = observation_matrix(X, data)
            M += sigma * (roots @ rng.standard_normal((*M.shape, 1)))[..., 0]
            system = replace(system, C=M[:, :n], D=M[:, n : n + m] if has_D else system.D)
            offset = M[:, -1] if unknowns.has_b else offset
        curves.append(curve(system, data, k, t, z0) + offset)
    return _spread(curves)


def curve(system: System, data: Data, k: int, t: Array, z0: Array) -> Array:
    """Observations (T, p) of a system at times t since z0, with the input of trajectory k."""
    u = data.input_of(k, system.delay)
    ode = LinearODE(system.Xi, z0, b=system.b if system.b.any() else None, B=None if u is None else system.B, u=u)
    y = np.asarray(ode(t)) @ system.C.T
    return y + np.asarray(u(t)) @ system.D.T if u is not None and system.D.any() else y


def _spread(curves: list[Array]) -> Array:
    """Half of the range that holds the middle two thirds of the curves, at each time."""
    if len(curves) < 2:
        return np.full(curves[0].shape if curves else (1, 1), np.inf)
    low, high = np.quantile(np.nan_to_num(np.stack(curves), nan=np.inf), INNER, axis=0)
    return (high - low) / 2
