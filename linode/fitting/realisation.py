"""From eigenvalues and amplitudes to Xi, b, C and z0, with their covariance.

phi(t), of `rates`, solves phi' = M(theta) phi from a known phi(0), and y = S phi. With as many channels as states,
Xi = S M S^-1. With more channels the states are those in the directions of the strongest ones; with fewer the basis of
the states is not determined, and one is chosen.
Source of the first-order errors: Bates & Watts (1988), Nonlinear Regression Analysis, section 2.2.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.linalg import lapack

from .channels import Channels
from .data import Data
from .estimate import Estimate, Start
from .levenberg import Minimum
from .products import Array, gram, matmul
from .projection import RatesModel, Tangent
from .rates import Factors
from .unknowns import free_matrices, make_unknowns, orthonormal

SINGULAR_AMPLITUDES = 1e-9  # 1 / (condition number of scaled amplitudes) below which Xi has too few sure digits
# Of a Gram matrix with unit diagonal: least pivot of a factor that is inverted as it is, and least eigenvalue, times n,
# of a direction that the data determine, some 500 eps.
WELL_DETERMINED, UNDETERMINED = 1e-4, 1e-13
COVERED = 1e-9  # square of the part of an entry outside of directions that are left out, below which there is none
TINY = 1e-300  # keeps the quotient of 0 by 0 finite


def realise(
    data: Data, channels: Channels, model: RatesModel, best: Minimum, C: Array | None, frame: Array | None,
    starts: tuple[Start, ...],
) -> Estimate | None:  # fmt: skip
    """Xi, b, C and z0 with their covariance from eigenvalues and amplitudes; None where these do not determine Xi."""
    theta, factors, n, p = best.theta, model.factors, model.factors.n, data.p
    c = channels.coefficients(model.amplitudes(theta), 0)  # (n + bias, p)
    S, offset = c[:n].T, c[n] if model.bias else np.zeros(p)  # y = S phi + offset
    M, start = factors.generator(theta), factors.start()
    if frame is not None:  # (n, p): the states are n directions of the channels
        if n < p:
            Q, R = np.linalg.qr(S)
            U = Q @ np.linalg.svd(R)[0]
            frame = U.T * np.where((U.T * frame).sum(1, keepdims=True) < 0, -1.0, 1.0)
        G, C_found = frame, frame.T
        basis = G @ S
    else:
        G, C_found, basis = completed(S, C, scales(M))
    size = np.linalg.norm(basis, axis=0)
    if not (size > 0).all() or np.linalg.cond(basis / size) > 1 / SINGULAR_AMPLITUDES:
        return None
    inverse = np.linalg.inv(basis)
    Xi = basis @ M @ inverse
    rise = C_found.T if frame is not None else np.linalg.pinv(C_found)
    level = rise @ offset  # the equilibrium
    free_factors, parameters = factors.for_errors(theta)
    free = replace(model, factors=free_factors)
    tangent = free.tangent(parameters)
    if tangent is None:
        return None
    covariance, null, cov_theta, z0_variances = errors(
        channels, tangent, free.factors, parameters, c, basis, inverse, G, Xi, level, rise
    )
    hidden = np.eye(n) if G is None else np.linalg.svd(C_found)[2][p:]  # (k, n): directions that no channel shows
    z0_variances[(hidden**2).sum(0) > COVERED] = np.inf
    unknowns = make_unknowns(free_matrices(n), 1, p, 0)
    return Estimate(
        unknowns=replace(unknowns, b=np.full(n, np.nan)) if model.bias else unknowns,
        Xi=Xi,
        B=np.zeros((n, 0)),
        b=-Xi @ level,
        C=C_found,
        D=np.zeros((p, 0)),
        delay=0.0,
        z0=(basis @ start + level)[None],
        cost=best.cost,
        converged=best.converged,
        starts=starts,
        covariance=covariance,
        n_unknowns=n + (n + model.bias) * p,
        null=null,
        other_variances={"z0": z0_variances[None]},
        rates=(free.factors, parameters, cov_theta),
        changes=() if frame is not None else ("Xi",),
        offset=offset - C_found @ level if model.bias and n < p else None,
    )


def errors(
    channels: Channels, tangent: Tangent, factors: Factors, theta: Array, c: Array, basis: Array, inverse: Array,
    G: Array | None, Xi: Array, level: Array, rise: Array,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Covariance of (Xi, b) for noise of weight 1, directions in which it is infinite, covariance of theta, variances
    of z0 (n,), in so far as channels show it.

    Xi = S M S^-1 with S = G c^T depends on theta and on the amplitudes c (n + bias, p); b = -Xi level with
    level = rise c[n]; z0 = S phi(0) + level. Errors of theta, and of c at fixed theta, are independent: they come from
    the noise outside and inside the range of the basis.
    """
    n, p = factors.n, c.shape[1]
    M, bias, column, inner = factors.generator(theta), len(c) - n, tangent.column, tangent.inverse
    back = inner @ tangent.inside  # (G, n + bias, 2n)
    information, moves = np.zeros((n, n)), np.zeros((n, n + bias, n))
    frame = np.zeros((n, p)) if G is None else G
    roots = []  # of the covariance of (G dc^T, rise dc^T): each (2, n, q), and of the amplitudes (n + bias, n + bias)
    for g in range(len(channels.t)):
        own = np.flatnonzero(channels.group[0] == g)
        amplitude, unscaled = c[:, own] * channels.scale[0, own], 1 / channels.scale[0, own]
        both = gram(tangent.outside[g]) * gram(amplitude[column].T)
        information += both.reshape(n, 2, n, 2).sum((1, 3))
        for k in range(n):  # dc / dtheta_k (n + bias, own), in the directions of the states
            dc = -back[g][:, 2 * k : 2 * k + 2] @ c[column[2 * k : 2 * k + 2]][:, own]
            moves[k] += (
                dc @ frame[:, own].T if not bias else np.vstack([dc[:n] @ frame[:, own].T, dc[n:] @ rise[:, own].T])
            )
        seen = np.concatenate([frame[:, own] * unscaled, rise[:, own] * unscaled])  # (2 n, own)
        if len(own) > 2 * n:  # the same covariance from fewer columns
            seen = np.asarray(np.linalg.qr(seen.T, mode="r")).T
        roots.append((seen.reshape(2, n, -1), inner[g]))
    cov_theta, null = inverse_of(information)
    # linear maps of dS (n, n) and dlevel (n,) to d(Xi, b), row by row
    by_S = np.kron(np.eye(n), (M @ inverse).T) - np.kron(Xi, inverse.T)  # (n^2, n^2)
    down = np.kron(np.eye(n), level[None])  # dXi level
    to_all = np.vstack([by_S, -down @ by_S]) if bias else by_S
    L = np.stack([(basis @ dM @ inverse).ravel() for dM in factors.generator_slopes(theta)], -1)
    L = np.vstack([L, -down @ L]) if bias else L
    L = L + to_all @ moves[:, :n].swapaxes(1, 2).reshape(n, n * n).T
    if bias:
        L[n * n :] -= Xi @ moves[:, n].T
    covariance = matmul(matmul(L, cov_theta), L.T)
    first = np.r_[factors.start(), np.ones(bias)]
    by_theta = (first @ moves).T  # dz0 / dtheta, (n, n)
    z0_variances = ((by_theta @ cov_theta) * by_theta).sum(-1)
    by_rows = to_all.reshape(-1, n)
    for seen, root in roots:  # dc = root e, with a column e of unit noise for each column of seen
        by_noise = matmul(by_rows, root[:n]).reshape(len(L), n, -1)
        inside = matmul(seen[0].T, by_noise)  # (n^2 + n, q, n + bias)
        if bias:
            inside[n * n :] -= (Xi @ seen[1])[..., None] * root[n]
        covariance += gram(inside.reshape(len(L), -1).T)
        ends = seen[0][..., None] * (first[:n] @ root[:n])  # (n, q, n + bias)
        if bias:
            ends = ends + seen[1][..., None] * root[n]
        z0_variances += (ends**2).sum((1, 2))
    directions = (L @ null.T).T
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    kept = length[:, 0] > 0  # a parameter without any effect is no unknown
    return covariance, directions[kept] / length[kept], cov_theta, z0_variances


def scales(M: Array) -> Array:
    """Units of phi in which its states are of similar size: the second function of a pair has the unit of time."""
    rates = np.ones(len(M))
    for i in range(0, len(M) - 1, 2):
        rates[i + 1] = 1 / max(np.sqrt(abs(M[i, i + 1])), 0.1 * abs(M[i, i]), TINY)
    return rates


def completed(S: Array, C: Array | None, units: Array) -> tuple[Array | None, Array, Array]:
    """G, C and a basis (n, n) with C basis = S; where C is None, the basis is one of real modes of similar size."""
    p = len(S)
    if C is None:
        basis = np.diag(1 / units)
        return None, S @ np.diag(units), basis
    G = np.linalg.pinv(C)
    U = np.linalg.svd(C)[2][p:].T  # (n, n - p): the null space of C
    scaled = S * units
    rest = np.linalg.svd(scaled)[2][p:] * (np.linalg.norm(scaled) / np.sqrt(p))
    return G, C, G @ S + U @ (rest / units)


def inverse_of(gram: Array, known_null: Array | None = None) -> tuple[Array, Array]:
    """The pseudo-inverse of a Gram matrix (n, n), and unit vectors (k, n) of the directions that it leaves out.

    known_null: (j, n), directions of which the Gram matrix is known to leave them out, but for rounding; the unit
    vectors are those of others.
    """
    size = np.sqrt(np.maximum(np.diag(gram), 0.0))
    size = np.where(size > 0, size, 1.0)
    scaled = gram / np.outer(size, size)
    G = np.zeros((0, len(gram))) if known_null is None else orthonormal(known_null * size)
    if len(G):  # what rounding leaves of them goes, and the rest is inverted beside them
        scaled = scaled - matmul(G.T, matmul(G, scaled))
        scaled = scaled - matmul(matmul(scaled, G.T), G) + matmul(G.T, G)
    factor, info = lapack.dpotrf(scaled)
    if not info and np.diag(factor).min() > WELL_DETERMINED:
        root = lapack.dtrtri(factor)[0] / size[:, None]
        inverse, null = matmul(root, root.T), np.zeros((0, len(gram)))
    else:
        w, V = np.linalg.eigh(scaled)
        good = w > UNDETERMINED * len(w)
        V = V / size[:, None]
        null = V[:, ~good] / np.linalg.norm(V[:, ~good], axis=0)
        inverse, null = (V[:, good] / w[good]) @ V[:, good].T, null.T
    covered = (G**2).sum(0) > 1 - COVERED  # entries of which nothing is left: their scale is rounding
    G = G / size
    inverse = inverse - matmul(G.T, G)
    inverse[covered], inverse[:, covered] = 0.0, 0.0
    return inverse, null
