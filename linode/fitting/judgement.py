"""The status of a fit and its message: what the data do not determine, and how residuals differ from noise.

Sources: Durbin & Watson (1950), Biometrika 37, 409 (correlation of residuals); Breusch & Pagan (1980), Review of
Economic Studies 47, 239 (score tests of what a model leaves out); Laurent & Massart (2000), Annals of
Statistics 28, 1302, lemma 1 (bound of a sum of squares of noise).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..display import numbered
from .data import Data
from .estimate import Estimate, FitStatus, agreed
from .products import Array, column_lengths, matmul, sum_of_squares, without
from .residuals import correlation
from .states import StatesModel, explaining, residuals_of, states_of
from .uncertainty import named_directions, names_of

CLEARLY = 5.0  # standard deviations between what is found and what noise gives: passed once in 3 million
LEAST_CORRELATION = 0.1  # of neighbouring residuals: a smaller one makes errors at most a tenth too small
ROUNDING = 1e-24  # variance / mean square of the data that is assumed at least, for rounding of data and fit
EXACT = 1e-24  # cost / sum of squares of the data below which rounding of the fit is seen, not the data's errors
MOST_LAG, LEAST_FREEDOM = 1, 20  # times between an input and residuals that are compared, and dof for that; by hand
FOLLOWED = 1e-6  # part of an input that unknowns cannot follow, below which it is rounding; by hand


def judge(found: Estimate, data: Data, sigma_is_known: bool) -> tuple[FitStatus, str]:
    """Status and message of a fit."""
    dof = data.n_values - found.n_unknowns
    costs = [x.cost for x in found.starts if x.converged]
    count = f"{len(found.starts)} start{'s' * (len(found.starts) != 1)}"
    is_exact = found.cost <= EXACT * sum_of_squares(data.w * data.y)  # no other minimum is lower
    is_sure = is_exact or found.is_confirmed
    disagree = len(costs) > 1 and not agreed(costs) and not is_sure
    agreement = "of which two agree" if agreed(costs) else "which do not agree" if disagree else "one minimum"
    if found.is_confirmed:
        agreement = "as good as the fit without the structure"
    words = [f"converged from {count}, {agreement}" if found.converged else f"not converged from {count}"]
    unknown = unidentified(found, data, 1.0 if sigma_is_known else found.cost / max(dof, 1))
    misfit = misfits(found, data, dof, sigma_is_known)
    if unknown:
        words.append(f"not identifiable from these data: {', '.join(unknown)}")
    words += misfit
    words += [f"{name} ended at its bound {bound:.6g}" for name, bound in found.at_bounds]
    if (np.diff(data.t, axis=1)[data.is_time[:, 1:]] == 0).any():
        words.append("times that repeat are taken as repeated measurements")
    if "Xi" in found.changes:
        words.append("Xi is a realisation: these data determine it up to a change of basis of the states")
    elif found.changes:
        are = "are" if len(found.changes) > 1 else "is"
        words.append(f"{' and '.join(found.changes)} {are} known up to a change of basis of the states")
    status = FitStatus.OK
    if not found.converged:
        status = FitStatus.NOT_CONVERGED
    elif unknown:
        status = FitStatus.NOT_IDENTIFIABLE
    elif dof <= 0:
        status = FitStatus.NO_FREEDOM
    elif misfit:
        status = FitStatus.MISFIT
    elif disagree:
        status = FitStatus.UNCONFIRMED
    if not status and status is not FitStatus.NOT_IDENTIFIABLE:
        words.append(status.value)
    return status, "; ".join(words)


def misfits(found: Estimate, data: Data, dof: int, sigma_is_known: bool) -> list[str]:
    """How residuals differ from the white noise that standard errors assume, in words."""
    words = []
    if sigma_is_known and dof > 0 and found.cost > dof + CLEARLY * np.sqrt(2 * dof):
        words.append(f"chi2 is {found.cost / dof:.3g} times the degrees of freedom: the model, or sigma, is wrong")
    total = sum_of_squares(data.w * data.y)
    if dof > 0 and found.cost > EXACT * total:
        r = residuals_of(found, data)
        rho, n_pairs = correlation(r, data.w > 0)
        if rho > max(LEAST_CORRELATION, CLEARLY / np.sqrt(max(1, n_pairs))):
            words.append(f"residuals are no white noise, the correlation of neighbours is {rho:.2g}")
        channel, inputs, rho = correlation_with_inputs(r, found, data)
        if rho > 0:
            more = "" if found.D.any() else "; an output that follows the input at once needs feedthrough=True"
            cause = (data.input_names or numbered("u", data.m))[inputs]
            words.append(f"residuals of {data.channels[channel]} follow input {cause}, correlation {rho:.2g}{more}")
    return words


def correlation_with_inputs(r: Array, found: Estimate, data: Data) -> tuple[int, int, float]:
    """The largest correlation of residuals with an input at the same time or soon before, with channel and input.

    It is 0 where noise gives as much. Of the input counts what the unknowns cannot follow, as residuals have no part of
    the rest: the score test of a direct output.
    """
    m, n_lags, dof = data.m, MOST_LAG + 1, data.n_values - found.n_unknowns
    best, most = (0, 0), 0.0
    if not m or dof < LEAST_FREEDOM:
        return *best, most
    u, total, rest_of = data.inputs_at(found.delay), np.sqrt(sum_of_squares(r)), beyond(found, data)
    for j in range(data.p):
        v = np.zeros((*u.shape, n_lags))
        for lag in range(n_lags):
            v[:, lag:, :, lag] = u[:, : u.shape[1] - lag]
        v = v.reshape(*u.shape[:2], -1) * data.w[..., j, None]
        rest = rest_of(v, j)  # (N, m n_lags)
        size, length = np.sqrt((v**2).sum((0, 1))), np.sqrt((rest**2).sum(0))
        own = r.ravel() if len(rest) == r.size else r[..., j].ravel()
        rho = np.where(length > FOLLOWED * size, np.abs(own @ rest) / np.where(length > 0, length, 1.0), 0.0) / total
        i = int(np.argmax(rho))
        best, most = ((j, i // n_lags), float(rho[i])) if rho[i] > most else (best, most)
    return *best, most * (most > max(LEAST_CORRELATION, CLEARLY / np.sqrt(dof)))


def beyond(found: Estimate, data: Data) -> Callable[[Array, int], Array]:
    """A function of changes v (K, T, q) of one weighted channel, and its number: what the unknowns cannot follow.

    That is (K T p, q), of all channels; or (K T, q), of this one, where each was fitted to the states by itself.
    """
    if found.C_is_refitted:
        X = explaining(states_of(found, data), data, found.delay, bool(found.D.any()), found.offset is not None)

        def of_one(v: Array, j: int) -> Array:
            Q, flat = range_of((X * data.w[..., j, None]).reshape(-1, X.shape[-1])), v.reshape(-1, v.shape[-1])
            return flat - matmul(Q, matmul(Q.T, flat))

        return of_one
    model = StatesModel(data, found.unknowns)
    assert found.point is not None  # fits with inputs are by states
    J, _ = model.jacobian(found.point)
    fitted = model.eliminated(found.point)
    if J is None or fitted is None:  # no longer finite, as at the edge of what a float holds
        return lambda v, j: np.zeros((data.w.size, v.shape[-1]))
    Q = range_of(J)

    def of_all(v: Array, j: int) -> Array:
        every = np.zeros((*data.y.shape, v.shape[-1]))
        every[:, :, j] = v
        every = every.reshape(data.K, -1, v.shape[-1])
        every = every if fitted.Q is None else without(every, fitted.Q)
        every = every.reshape(-1, v.shape[-1])
        return every - matmul(Q, matmul(Q.T, every))

    return of_all


def range_of(J: Array) -> Array:
    """Orthonormal columns (N, rank) that span the range of J (N, k)."""
    Q, R = np.linalg.qr(J / column_lengths(J))
    if (np.abs(np.diag(R)) > FOLLOWED).all():
        return Q
    U, s, _ = np.linalg.svd(R)
    return matmul(Q, U[:, : len(s)][:, s > FOLLOWED * s.max(initial=0.0)])


def unidentified(found: Estimate, data: Data, variance: float) -> list[str]:
    """Names of what the data do not determine; variance: that of noise of weight 1."""
    names = named_directions(found.null, found.null_names or names_of(*found.B.shape))
    if "delay" in found.other_variances:
        error = np.sqrt(found.other_variances["delay"][0] * variance)
        names += ["delay"] * (not error < min(found.unknowns.longest_delay, data.span) and "delay" not in names)
    has_meaning = found.theta is not None and not found.unknowns.is_free_C  # small modes may still tell theta
    if names or has_meaning or found.B.size or not found.unknowns.free_z0.all():
        return names
    lam = faint_eigenvalues(found, data, variance)
    shown = [f"{x.real:.3g}" if x.imag == 0 else f"{x.real:.3g} +- {x.imag:.3g}i" for x in lam if x.imag >= 0]
    return [f"modes no larger than the noise, of eigenvalues {', '.join(shown)}"] if shown else []


def faint_eigenvalues(found: Estimate, data: Data, variance: float) -> Array:
    """Eigenvalues whose modes are no larger than the largest of many modes fitted to pure noise."""
    lam, V = np.linalg.eig(found.Xi)
    with np.errstate(all="ignore"):  # a mode that is not finite is not faint
        try:
            z0, b = np.linalg.solve(V, found.z0.T).T, np.linalg.solve(V, found.b)
        except np.linalg.LinAlgError:
            return lam[:0]
        start = z0 + b / np.where(b == 0, 1.0, lam)  # distance from the equilibrium, (K, n)
        weights = (data.w**2).reshape(-1, data.p) @ np.abs(found.C @ V) ** 2  # (K T, n)
        growth = np.exp(2 * lam.real * data.t[..., None]) * np.abs(start[:, None]) ** 2
        floor = ROUNDING * sum_of_squares(data.w * data.y) / data.n_values
        energy = (weights.reshape(growth.shape) * growth).sum((0, 1)) / max(variance, floor)
        energy = np.where(lam.imag != 0, 2 * energy, energy)  # that of both modes of a pair
    freedom = np.where(lam.imag != 0, 2, 1) * data.p * data.K
    # of the largest of T^2 modes: as many rates, and as many frequencies, as times
    rarity = 2 * np.log(max(2, data.t.shape[1]))
    return lam[energy < freedom + 2 * np.sqrt(freedom * rarity) + 2 * rarity]
