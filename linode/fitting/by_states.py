"""Any data: many trajectories, inputs, known C, structures; least squares on states from several starts.

Constants without an origin of their own were chosen by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from .by_rates import fastest_of, make_model, within
from .channels import make_channels
from .data import Data
from .estimate import Estimate, Start
from .levenberg import Minimum, minimise
from .products import Array, matmul
from .progress import Report
from .race import race
from .realisation import completed, inverse_of, scales
from .starts.greedy import decays, greedy
from .starts.hankel import delayed
from .starts.regression import Guess, regressions
from .states import StatesModel
from .structures import Structure
from .uncertainty import names_of

SHORTEST_WINDOW, WINDOW_GROWTH = 4, 4  # times in the first windows, and the factor by which they grow
WINDOW_STEPS = 12  # of a minimisation on windows
MOST_AMPLITUDE = 1e150  # amplitudes are clipped to this: their squares are still finite
MOST_GUESSES = 6  # starts of a structure that are run, those with the lowest cost
MOVED = 1e-6  # change of (Xi, B, b) along a direction of theta, of the largest one, below which there is none


def fit_by_states(
    data: Data, structure: Structure, C: Array | None, bias: bool, z0: Array | None, report: Report
) -> Estimate | None:
    """The best fit, or None if no start has a finite cost; C (p, n) and z0 (K, n), or None where they are unknown."""
    model = StatesModel(data, structure, C, bias, z0, fastest_of(data))
    best, starts = race(model, start_points(model), data.w, data.w * data.y, report)
    return None if best is None else described(model, best, starts)


# ---- starts ----------------------------------------------------------------------------------------------------------


def start_points(model: StatesModel) -> Iterator[tuple[str, Array]]:
    """theta to start from, with names: guesses of Xi mapped into the structure, then the structure's own starts."""
    data, C = model.data, model.C
    used = False
    if C is not None and np.linalg.matrix_rank(C) == model.n:  # all states are seen
        reduced = data if is_identity(C) else data.mapped(np.linalg.pinv(C))
        ranked = ranked_by_cost(
            model, ((guess.name, point_of(model, guess)) for guess in regressions(reduced, model.bias))
        )
        for i, (name, theta) in enumerate(ranked):
            used = True
            yield (f"{name}, windows", windowed(model, theta)) if i == 0 else (name, theta)
        if ranked:
            yield ranked[0]
    elif data.m == 0:
        for guess in modal_guesses(model):
            point = point_of(model, guess)
            if point is not None:
                used = True
                yield guess.name, point
    own = (model.pack(x, C=default_C(model)) for x in model.structure.starts(typical_rate(data)))
    for name, theta in ranked_by_cost(model, (("own start", with_gains(model, theta)) for theta in own))[:MOST_GUESSES]:
        used = True
        yield name, theta
    if not used:
        yield "decay", model.pack(np.zeros(model.structure.size), C=default_C(model))


def default_C(model: StatesModel) -> Array:
    """C (p, n) where it is known, else the identity, cut or padded with zeros."""
    p, n = model.data.p, model.n
    return np.eye(p, n) if model.C is None else model.C


def is_identity(C: Array | None) -> bool:
    return C is not None and C.shape[0] == C.shape[1] and np.array_equal(C, np.eye(len(C)))


def typical_rate(data: Data) -> float:
    """1/time: the geometric mean of 1 / (longest trajectory) and 1 / (median gap)."""
    h = np.diff(data.t, axis=1)
    return float(1 / np.sqrt(data.span * np.median(h[h > 0])))


def point_of(model: StatesModel, guess: Guess) -> Array | None:
    """theta of a guess, slowed down to the bounds of rates; None where the structure has no matrix near to it."""
    lam = np.linalg.eigvals(guess.Xi) if np.isfinite(guess.Xi).all() else np.full(1, np.nan)
    if not np.isfinite(lam).all():
        return None
    over = max(np.abs(lam.real).max() / model.fastest[0], np.abs(lam.imag).max() / model.fastest[1])
    Xi = guess.Xi * min(1.0, 0.9 / over) if over > 0 else guess.Xi
    own = model.structure.nearest(Xi)
    if own is None:
        return None
    C = guess.C if guess.C is not None else default_C(model)
    return model.pack(own, guess.B, guess.b, C)


def with_gains(model: StatesModel, theta: Array) -> Array:
    """The same Xi and C with the best B and b: the model is linear in them."""
    sizes = model.sizes
    gains = slice(sizes[0], sizes[0] + sizes[1] + sizes[2])
    if gains.start == gains.stop:
        return theta
    J, r = model.jacobian(theta)
    if J is None:
        return theta
    moved = theta.copy()
    moved[gains] += np.linalg.lstsq(J[:, gains], r, rcond=1e-10)[0]  # smaller singular values are not trusted
    return moved


def ranked_by_cost(model: StatesModel, points: Iterable[tuple[str, Array | None]]) -> list[tuple[str, Array]]:
    """Points of finite cost, the lowest one first."""
    known = [(name, theta) for name, theta in points if theta is not None]
    costs = [model.cost(theta) for _, theta in known]
    return [known[i] for i in np.argsort(costs) if np.isfinite(costs[i])]


def windowed(model: StatesModel, theta: Array) -> Array:
    """theta after fits of short windows of the trajectories, each with its own initial state, then of longer ones."""
    if model.z0 is not None or model.data.inputs:
        return theta
    T, length = int(model.data.counts.max()), max(SHORTEST_WINDOW, -(-2 * model.n // model.data.p) + 2)
    while 2 * length <= T:
        part = replace(model, data=model.data.segments(length))
        found = minimise(part, theta, max_steps=WINDOW_STEPS, tol=1e-3, bounds=part.bounds)
        theta = found.theta if np.isfinite(found.cost) and np.isfinite(model.cost(found.theta)) else theta
        length *= WINDOW_GROWTH
    return theta


def modal_guesses(model: StatesModel) -> Iterator[Guess]:
    """Guesses where only part of the states is observed and there is no input.

    Eigenvalues are fitted with amplitudes that are free in each trajectory; then one system is made of them.
    """
    data, n, bias = model.data, model.n, model.bias
    channels = make_channels(data)
    modal = make_model(channels, n, data, bias, False)
    found = delayed(data, n, bias)
    candidates = [] if found is None else [("delayed samples", found)]
    candidates += [("grid of rates", lam) for lam in (decays(modal) if n <= 4 else [])]
    lam = greedy(modal)
    candidates += [] if lam is None else [("periodogram", lam)]
    for name, lam in candidates:
        theta = modal.factors.from_eigenvalues(within(lam, modal.fastest))
        theta = minimise(modal, theta, max_steps=40, tol=1e-6).theta
        try:
            c = modal.amplitudes(theta)
        except np.linalg.LinAlgError:
            continue
        coefficients = np.stack([channels.coefficients(c[:, :n], k).T for k in range(data.K)])
        M = modal.factors.generator(theta)
        S = shared_modes(coefficients, M)
        _, C, basis = completed(S, model.C, scales(M))
        if np.linalg.cond(basis) < 1e9:  # else Xi keeps less than half of its digits
            yield Guess(name, basis @ M @ np.linalg.inv(basis), C=C)


def shared_modes(coefficients: Array, M: Array) -> Array:
    """S (p, n) with y_k = S exp(M t) x_k for some x_k, from coefficients (K, p, n) of phi(t) in each trajectory.

    The columns of a factor are taken from the trajectory in which its coefficients are largest.
    """
    S, coefficients = np.zeros(coefficients.shape[1:]), np.clip(coefficients, -MOST_AMPLITUDE, MOST_AMPLITUDE)
    for i in range(0, len(M), 2):
        own = slice(i, min(i + 2, len(M)))
        size = np.linalg.norm(coefficients[:, :, own], axis=(1, 2))
        S[:, own] = coefficients[int(np.argmax(size)), :, own].reshape(len(S), -1)
    return S


# ---- result ----------------------------------------------------------------------------------------------------------


def described(model: StatesModel, best: Minimum, starts: tuple[Start, ...]) -> Estimate:
    """The estimate at a minimum, with the covariance of Xi, B and b."""
    theta, n, m = best.theta, model.n, model.data.m
    found = model.eliminated(theta)
    assert found is not None  # its cost is finite
    system, z0 = found.system, found.z0
    cov, null_rows = inverse_of(best.gram)
    null = null_rows.T
    own, n_gains = model.structure.size, n * (m + model.bias)
    size = n * n + n_gains  # entries of Xi, B and b; those of C follow
    L = np.zeros((n * n + len(theta) - own, len(theta)))
    L[: n * n, :own] = model.structure.slopes(theta[:own])
    L[n * n :, own:] = np.eye(len(theta) - own)
    every, L = matmul(matmul(L, cov), L.T), L[:size]
    n_free = free_basis(model)
    if model.structure.names_theta:
        directions = null.T
    else:
        directions = matmul(L, null).T
        length = np.linalg.norm(directions, axis=1)
        directions = directions[length > MOVED * np.linalg.norm(L, axis=0).max(initial=0.0)]
        if len(directions) and np.linalg.matrix_rank(directions, tol=MOVED) <= n_free:
            directions = directions[:0]
    return Estimate(
        Xi=system.Xi,
        B=system.B,
        b=system.b,
        C=system.C,
        z0=z0,
        cost=best.cost,
        converged=best.converged,
        starts=starts,
        covariance=every[:size, :size],
        covariance_with_C=every if model.C is None else None,
        n_unknowns=len(theta) - null.shape[1] + (0 if model.z0 is not None else z0.size),
        null=directions / np.linalg.norm(directions, axis=1, keepdims=True),
        is_realisation=n_free > 0,
        null_names=theta_names(model) if model.structure.names_theta else (),
        at_bounds=at_bounds(model, theta),
        theta=theta[:own] if model.structure.is_given else None,
        theta_covariance=cov[:own, :own],
    )


def free_basis(model: StatesModel) -> int:
    """How many unknowns a change of the states' basis has that leaves all observations as they are."""
    n = model.n
    if model.structure.is_given:
        return 0
    seen = min(model.data.p, n) if model.C is None else int(np.linalg.matrix_rank(model.C))
    without_C = n * n if model.C is None else n * (n - seen)
    return without_C + model.bias * (n - seen)  # the origin of unobserved states is free


def theta_names(model: StatesModel) -> tuple[str, ...]:
    """Names of the entries of theta: those of the structure, B, b and C."""
    n, p, own = model.n, model.data.p, model.structure.size
    _, n_B, n_b, n_C = model.sizes
    gains = names_of(n, model.data.m)[n * n :]
    C = [f"C[{i}, {j}]" for i in range(p) for j in range(n)]
    return (*(f"theta[{i}]" for i in range(own)), *gains[: n_B + n_b], *C[:n_C])


def at_bounds(model: StatesModel, theta: Array) -> tuple[tuple[str, float], ...]:
    """Names of the parameters that are at a bound, and the bound."""
    if model.structure.bounds is None:
        return ()
    own = theta[: model.structure.size]
    pairs = zip(own, *model.structure.bounds)
    return tuple((f"theta[{i}]", float(x)) for i, (x, low, high) in enumerate(pairs) if x in (low, high))
