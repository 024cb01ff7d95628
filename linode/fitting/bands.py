"""Standard errors of a fitted curve, without the noise of an observation, at any times.

Rates, or Xi, B and b, are drawn from their covariance. For each draw the amplitudes, or initial states, are fitted to
the data again, a linear problem, and errors of these from noise are added.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..forcing import Input
from ..ode import LinearODE
from .channels import make_channels
from .data import Data
from .estimate import Estimate
from .products import Array, matmul
from .projection import RatesModel
from .states import StatesModel, System, observation_matrix, observed
from .structures import Linear
from .uncertainty import draws

N_DRAWS = 64  # standard errors are then known to 10 % or so
INNER = (0.1587, 0.8413)  # quantiles of a normal variable at one standard deviation from its median


def standard_errors(
    found: Estimate, data: Data, k: int, t: Array, u: Input | None, bias: bool, sigma: float, z0_is_known: bool
) -> Array:
    """(T, p) at times t (T,) since the first time of trajectory k; sigma: standard deviation of noise of weight 1."""
    with np.errstate(all="ignore"):  # draws may grow past the largest float
        if found.rates is not None:
            return _by_rates(found, data, t, bias, sigma)
        return _by_states(found, data, k, t, u, bias, sigma, z0_is_known)


def _by_rates(found: Estimate, data: Data, t: Array, bias: bool, sigma: float) -> Array:
    assert found.rates is not None
    factors, theta, covariance = found.rates
    channels = make_channels(data)
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


def _by_states(
    found: Estimate, data: Data, k: int, t: Array, u: Input | None, bias: bool, sigma: float, z0_is_known: bool
) -> Array:
    n, p, sizes = len(found.Xi), data.p, [found.Xi.size, found.B.size, len(found.Xi) * bias]
    mean = np.concatenate([found.Xi.ravel(), found.B.ravel(), found.b[: n * bias]])
    covariance = found.covariance
    if found.covariance_with_C is not None:
        mean, covariance = np.concatenate([mean, found.C.ravel()]), found.covariance_with_C
    free, known = Linear(n, np.eye(n * n), is_free=True), found.z0 if z0_is_known else None
    rng, curves = np.random.default_rng(1), []
    for move in sigma * draws(covariance)[:N_DRAWS]:
        Xi, B, b, C = np.split(mean + move, np.cumsum(sizes))
        system = System(Xi.reshape(n, n), B.reshape(n, -1), b if bias else np.zeros(n), found.C)
        if C.size:
            system = replace(system, C=C.reshape(p, n))
        model = StatesModel(data, free, system.C, bias, known)
        fitted = model.eliminated(model.pack(system.Xi.ravel(), system.B, system.b))
        if fitted is None:
            continue
        z0, offset = fitted.z0[k], np.zeros(p)
        if not z0_is_known:
            A = observed(system.C, model.respond(system, fitted.basis, None, False).by_z0[k]) * data.w[k][..., None]
            z0 = z0 + sigma * np.linalg.pinv(A.reshape(-1, n)) @ rng.standard_normal(A.size // n)
        if found.C_is_refitted:
            states = model.respond(system, fitted.basis, fitted.z0, False).z
            C, _, roots = observation_matrix(states, data, bias)
            C += sigma * (roots @ rng.standard_normal((*C.shape, 1)))[..., 0]
            system, offset = replace(system, C=C[:, :n]), C[:, n:].sum(-1)
        ode = LinearODE(system.Xi, z0, b=system.b if bias else None, B=system.B if u is not None else None, u=u)
        curves.append(np.asarray(ode(t)) @ system.C.T + offset)
    return _spread(curves)


def _spread(curves: list[Array]) -> Array:
    """Half of the range that holds the middle two thirds of the curves, at each time."""
    if len(curves) < 2:
        return np.full(curves[0].shape if curves else (1, 1), np.inf)
    low, high = np.quantile(np.nan_to_num(np.stack(curves), nan=np.inf), INNER, axis=0)
    return (high - low) / 2
