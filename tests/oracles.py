"""True values, gradients and condition numbers of z(t) = exp(Xi t) z0, by ball arithmetic.

Every entry of every input is taken exactly, as the double (or float) it is; results are float64 or
complex128, rounded from balls of radius below 2^-70 of the norm of each result (each z_i, each propagator, S,
a, dt). Condition numbers hold to about three digits; those of gradients are estimates.
Gradients are those of L = sum_i Re <g_i, z_i>, in torch's convention dL/dRe + i dL/dIm.
Source: Van Loan (1978), IEEE Trans. Automatic Control 23(3), for the block exponential.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from flint import acb, acb_mat, arb, arb_mat, ctx

from tests.balls import (
    MAX_PRECISION,
    adjoint,
    ball,
    cached,
    from_balls,
    is_settled_to,
    is_zero,
    log2,
    matrix,
    norm,
    real_parts,
    rounded,
    scaled,
    settle,
)

SMALL_STEP = -130  # log2 of the relative perturbation in finite differences, about 1e-39
N_DIRECTIONS = 6


class Gradients(NamedTuple):
    """S = dL/dXi (n, n), a = dL/dz0 (n,), dt = dL/dt (T,); or one number for each of the three."""

    S: np.ndarray
    a: np.ndarray
    dt: np.ndarray


class Condition(NamedTuple):
    """Relative condition numbers of z with respect to Xi: of the stacked trajectory, and of each time."""

    normwise: float
    componentwise: float
    normwise_per_time: np.ndarray
    componentwise_per_time: np.ndarray


class GradientCondition(NamedTuple):
    """Relative condition numbers of S, a and dt with respect to Xi."""

    normwise: Gradients
    componentwise: Gradients


# ---- values ------------------------------------------------------------------------------------------------


def trajectory(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray) -> np.ndarray:
    """z_i = exp(Xi t_i) z0, shape (T, n)."""
    return _trajectory(*_arrays(Xi, z0, t))[0]


def propagator(Xi: np.ndarray, t: np.ndarray) -> np.ndarray:
    """exp(Xi t_i), shape (T, n, n)."""
    return _propagator(*_arrays(Xi, t))[0]


def expm(A: np.ndarray) -> np.ndarray:
    """exp(A), shape (n, n)."""
    return propagator(A, np.ones(1))[0]


def gradients(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, g: np.ndarray) -> Gradients:
    """S = dL/dXi, a = dL/dz0, dt = dL/dt of L = sum_i Re <g_i, z_i>, for g of shape (T, n)."""
    return Gradients(*_gradients(*_arrays(Xi, z0, t, g)))


def _arrays(*arguments: np.ndarray) -> list[np.ndarray]:
    """Float32 and integers widen exactly; anything complex is complex128."""
    return [np.asarray(x, complex if np.iscomplexobj(x) else float) for x in arguments]


@cached
def _trajectory(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, ...]:
    is_complex = any(map(np.iscomplexobj, (Xi, z0)))

    def states() -> list[list]:
        A, start = matrix(Xi, is_complex=is_complex), matrix(z0[:, None], is_complex=is_complex)
        return [((A * arb(float(time))).exp() * start).entries() for time in t]

    rows = [rounded(row, z0.shape, is_complex=is_complex) for row in settle(states)]
    return (np.array(rows).reshape(t.size, z0.size),)


@cached
def _propagator(Xi: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, ...]:
    def exponentials() -> list[list]:
        return [(matrix(Xi) * arb(float(time))).exp().entries() for time in t]

    rows = [rounded(entries, Xi.shape, is_complex=np.iscomplexobj(Xi)) for entries in settle(exponentials)]
    return (np.array(rows).reshape(t.size, *Xi.shape),)


@cached
def _gradients(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, ...]:
    is_complex = any(map(np.iscomplexobj, (Xi, z0, g)))
    S, a, dt = settle(lambda: _gradient_balls(matrix(Xi, is_complex=is_complex), z0, t, g))
    # a real parameter among complex ones receives the real part, as in torch
    return (
        rounded(S, Xi.shape, is_complex=np.iscomplexobj(Xi)),
        rounded(a, z0.shape, is_complex=np.iscomplexobj(z0)),
        rounded(dt, t.shape, is_complex=False),
    )


def _gradient_balls(A: arb_mat | acb_mat, z0: np.ndarray, t: np.ndarray, g: np.ndarray) -> list[list]:
    """[S, a, dt] as lists of balls at the current precision.

    S_i is the upper right block of exp([[A^H, g_i z0^H], [0, A^H]] t_i); equal times share one exponential.
    """
    n, is_complex = z0.size, isinstance(A, acb_mat)
    start = matrix(z0[:, None], is_complex=is_complex)
    rows = adjoint(A).tolist()
    S = from_balls(n, n, [0] * (n * n), is_complex=is_complex)
    a = from_balls(n, 1, [0] * n, is_complex=is_complex)
    dt = [arb(0)] * t.size
    for time in np.unique(t):
        where = np.flatnonzero(t == time)
        weight = from_balls(n, 1, [0] * n, is_complex=is_complex)
        for i in where:
            weight += matrix(g[i][:, None], is_complex=is_complex)
        outer = (weight * adjoint(start)).tolist()
        block = [rows[k] + outer[k] for k in range(n)] + [[0] * n + rows[k] for k in range(n)]
        flat = [x for row in block for x in row]
        exponential = from_balls(2 * n, 2 * n, flat, is_complex=is_complex) * arb(float(time))
        exponential = exponential.exp().tolist()
        forward = from_balls(n, n, [x for row in exponential[:n] for x in row[:n]], is_complex=is_complex)
        S += from_balls(n, n, [x for row in exponential[:n] for x in row[n:]], is_complex=is_complex)
        a += forward * weight
        velocity = A * (adjoint(forward) * start)
        for i in where:
            product = adjoint(matrix(g[i][:, None], is_complex=is_complex)) * velocity
            dt[i] = product[0, 0].real
    return [S.entries(), a.entries(), dt]


# ---- condition numbers -------------------------------------------------------------------------------------


def condition(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray) -> Condition:
    """Relative condition numbers of the trajectory z with respect to Xi, to about three digits.

    With J = dz/dXi, of shape (n, n^2) for one time and (T n, n^2) for the stacked trajectory:
    normwise ||Xi||_F ||J||_2 / ||z||_2, componentwise || |J| |Xi| ||_2 / ||z||_2. Zero where z = 0.
    """
    stacked, per_time = _condition(*_arrays(Xi, z0, t))
    return Condition(float(stacked[0]), float(stacked[1]), per_time[0], per_time[1])


@cached
def _condition(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, ...]:
    n, size = z0.size, np.linalg.norm(Xi)
    if not np.any(z0):
        return np.zeros(2), np.zeros((2, t.size))
    times, index = np.unique(t, return_inverse=True)
    triples = [_sensitivity(Xi, z0, float(time)) for time in times]
    per_time = np.array([_condition_of([triple], n, size) for triple in triples]).reshape(-1, 2)
    return np.array(_condition_of([triples[i] for i in index], n, size)), per_time[index].T


def _condition_of(triples: list[tuple[list, list, list]], n: int, size: float) -> tuple[float, float]:
    """Normwise and componentwise condition of stacked times, from their |z|, J and |J| |Xi|."""
    (z, p), (J, q), (J_Xi, r) = (scaled([x for group in groups for x in group]) for groups in zip(*triples))
    z_norm = np.linalg.norm(z)
    normwise = size * np.linalg.norm(J.reshape(-1, n * n), 2) / z_norm
    return float(np.ldexp(normwise, q - p)), float(np.ldexp(np.linalg.norm(J_Xi) / z_norm, r - p))


def _sensitivity(Xi: np.ndarray, z0: np.ndarray, time: float) -> tuple[list, list, list]:
    """Balls of |z(t)|, of J = dz/dXi (flat: [k, p, q] for dz_k / dXi_pq) and of |J| |Xi|, to 16 bits."""
    is_complex = np.iscomplexobj(Xi) or np.iscomplexobj(z0)
    sizes = [abs(ball(x)) for x in Xi.ravel()]
    n, precision = z0.size, 96
    while precision <= MAX_PRECISION:
        with ctx.workprec(precision):
            A, start = matrix(Xi, is_complex=is_complex), matrix(z0[:, None], is_complex=is_complex)
            z = ((A * arb(time)).exp() * start).entries()
            J = _jacobian_balls(A, z0, time)
            if all(part.is_finite() for part in real_parts(z + J)):
                z = [abs(x) for x in z]
                rows = [[abs(x) * s for x, s in zip(J[k * n * n : (k + 1) * n * n], sizes)] for k in range(n)]
                J_Xi = [sum(row, arb(0)) for row in rows]
                if all(is_settled_to(group, 16) for group in (z, J, J_Xi)):
                    return z, J, J_Xi
        precision *= 2
    raise ArithmeticError(f"no condition number at {MAX_PRECISION} bits of working precision")


def _jacobian_balls(A: arb_mat | acb_mat, z0: np.ndarray, time: float) -> list:
    """K[k, p, q] = int_0^t exp(A (t - s))[k, p] z_q(s) ds = dz_k / dXi_pq, flat.

    Taylor series over h = t / 2^d, with B = A h and a bound on the remainder: K(h) = h sum_m D_m / (m+1)!,
    where D_m = sum_{a+b=m} B^a (x) B^b z0 obeys D_{m+1} = B D_m + I (x) B^{m+1} z0.
    Then d doublings, with E = exp(B), squared each time:
    K(2h)[k, p, q] = sum_l E[k, l] K(h)[l, p, q] + sum_l K(h)[k, p, l] E[q, l].
    """
    n, is_complex = z0.size, isinstance(A, acb_mat)
    row_sums = [sum((abs(x).abs_upper() for x in row), arb(0)) for row in A.tolist()]
    n_doublings = max(0, log2((max(row_sums) * abs(time)).mid()) + 6) if time and max(row_sums) > 0 else 0
    h = arb(time) * arb(2) ** -n_doublings
    B = A * h
    theta = max(row_sums) * abs(h)  # entries of D_m are below (m + 1) theta^m max|z0|, and theta <= 1/32
    power = matrix(z0[:, None], is_complex=is_complex)
    bound = 2 * abs(h) * arb(float(np.abs(z0).max())) * arb("1.01")
    D = _identity_times(power, n, is_complex=is_complex)
    K = D
    n_terms = 1
    tail = bound * theta
    while n_terms < ctx.prec and tail > bound * arb(2) ** -ctx.prec:
        power = B * power
        D = B * D + _identity_times(power, n, is_complex=is_complex)
        n_terms += 1
        K = K + D * (1 / arb(n_terms).gamma() / n_terms)
        tail = tail * theta / n_terms
    error = arb(0, tail.upper())
    error = acb(error, error) if is_complex else error
    flat = [x * h + error for x in K.entries()]
    E = B.exp()
    for _ in range(n_doublings):
        right = from_balls(n * n, n, flat, is_complex=is_complex) * E.transpose()
        left = E * from_balls(n, n * n, flat, is_complex=is_complex)
        flat = [x + y for x, y in zip(left.entries(), right.entries())]
        E = E * E
    return flat


def _identity_times(v: arb_mat | acb_mat, n: int, *, is_complex: bool) -> arb_mat | acb_mat:
    """I (x) v as an (n, n^2) matrix: entry [k, p n + q] = delta_kp v_q."""
    entries = v.entries()
    flat = [entries[q] if k == p else 0 for k in range(n) for p in range(n) for q in range(n)]
    return from_balls(n, n * n, flat, is_complex=is_complex)


def condition_of_gradients(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, g: np.ndarray) -> GradientCondition:
    """Estimated relative condition numbers of S, a and dt (each in its Frobenius norm) with respect to Xi.

    Finite differences in ball arithmetic: Xi + h E with h = 2^-130 and six directions E of each kind, giving
    r = ||change|| / (h ||gradient||). The differences are good to three digits; directions are a sample.
    Normwise: Gaussian E with ||E||_F = ||Xi||_F. sqrt(N mean r^2), N the number of real entries of Xi,
    estimates ||J||_F ||Xi||_F / ||gradient||_F with J the derivative: at least the spectral condition number
    (up to sampling), at most sqrt(rank J) times that. Componentwise: E_pq = Xi_pq times a random sign (if
    complex, a random power of i); max r, a lower bound for the worst case. Zero where the gradient is zero.
    """
    normwise, componentwise = _condition_of_gradients(*_arrays(Xi, z0, t, g))
    return GradientCondition(Gradients(*map(float, normwise)), Gradients(*map(float, componentwise)))


@cached
def _condition_of_gradients(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, ...]:
    if not np.any(Xi):
        return np.zeros(3), np.zeros(3)
    is_complex = any(map(np.iscomplexobj, (Xi, z0, g)))
    rng = np.random.default_rng(20)
    directions = []
    for _ in range(N_DIRECTIONS):
        E = rng.standard_normal(Xi.shape)
        if np.iscomplexobj(Xi):
            E = E + 1j * rng.standard_normal(Xi.shape)
        directions.append(E * (np.linalg.norm(Xi) / np.linalg.norm(E)))
    n_signs, unit = (4, 1j) if np.iscomplexobj(Xi) else (2, -1.0)
    directions += [Xi * unit ** rng.integers(0, n_signs, Xi.shape) for _ in range(N_DIRECTIONS)]

    def responses() -> list[list[arb]]:
        A = matrix(Xi, is_complex=is_complex)
        base = _gradient_balls(A, z0, t, g)
        sizes = [norm(group) for group in base]
        zeros = [is_zero(group) for group in base]
        rows, step = [], arb(2) ** SMALL_STEP
        for E in directions:
            moved = _gradient_balls(A + matrix(E, is_complex=is_complex) * step, z0, t, g)
            changes = [norm([x - y for x, y in zip(*pair)]) for pair in zip(moved, base)]
            relative = zip(changes, sizes, zeros)
            rows.append([arb(0) if zero else change / size / step for change, size, zero in relative])
        return rows

    precision = 224
    while precision <= MAX_PRECISION:
        with ctx.workprec(precision):
            rows = responses()
        flat = [x for row in rows for x in row]
        if all(x.is_finite() and float(x.rad()) <= 1e-3 * max(float(x.mid()), 1e-3) for x in flat):
            r = np.array([[float(x) for x in row] for row in rows])
            n_real = Xi.size * (2 if np.iscomplexobj(Xi) else 1)
            return np.sqrt(n_real * np.mean(r[:N_DIRECTIONS] ** 2, axis=0)), r[N_DIRECTIONS:].max(axis=0)
        precision *= 2
    raise ArithmeticError(f"no gradient condition number at {MAX_PRECISION} bits of working precision")
