"""Any data: many trajectories, inputs, known parts, structures; least squares on states from several starts.

Constants without an origin of their own were chosen by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

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
from .starts.mapped import in_structure, with_known_rows
from .starts.regression import Guess, regressions
from .starts.subspace import subspace
from .states import StatesModel
from .unknowns import Unknowns, orthonormal

SHORTEST_WINDOW, WINDOW_GROWTH = 4, 4  # times in the first windows, and the factor by which they grow
WINDOW_STEPS = 12  # of a minimisation on windows
MOST_AMPLITUDE = 1e150  # amplitudes are clipped to this: their squares are still finite
COARSE_DELAYS, FINE_DELAYS = 12, 8  # delays that are tried: of equal distances, and powers of 2 times the shortest gap
STARTS_PER_DELAY, DELAY_STEPS = 2, 6
CLEARLY = 5.0  # standard deviations of what noise adds to a cost that a true structure may exceed
SETTLING_STEPS = 12  # of a minimisation on all unknowns but those of the structure
MOST_GUESSES = 6  # starts of a structure that are run, those with the lowest cost
MOST_OWN = 6  # starts of a structure from which it is matched to the free fit
MOST_MAPPED = 4  # parameters of a structure from the free fit that are run
HALF = 0.5  # length of an undetermined direction outside of changes of basis from which on it is none of them
MOVED = 1e-6  # change of (Xi, B, b) along a direction of theta, of the largest one, below which there is none


def fit_by_states(
    data: Data, unknowns: Unknowns, report: Report, free_fit: Callable[[], Estimate | None] = lambda: None
) -> Estimate | None:
    """The best fit, or None if no start has a finite cost; free_fit: the fit without the structure, for starts."""
    model = StatesModel(data, unknowns, fastest_of(data))
    best, starts = race(model, start_points(model, free_fit), data.w, data.w * data.y, report)
    return None if best is None else described(model, best, starts)


# ---- starts ----------------------------------------------------------------------------------------------------------


def start_points(model: StatesModel, free_fit: Callable[[], Estimate | None]) -> Iterator[tuple[str, Array]]:
    """theta to start from, with names: the user's, guesses of Xi mapped into the structure, the structure's own."""
    data, unknowns, structure = model.data, model.unknowns, model.structure
    if len(unknowns.free("delay")):
        yield from delayed_points(model, free_fit)
        return
    used = False
    if structure.theta0 is not None:
        used = True
        yield "theta0", settled(model, point(model, structure.theta0))
    guesses: Iterable[Guess] = ()
    sees_all = unknowns.knows("C") and np.linalg.matrix_rank(unknowns.C) == model.n
    if sees_all:
        reduced = data if is_identity(unknowns.C) else data.mapped(np.linalg.pinv(unknowns.C))
        if data.u is not None and unknowns.delay:
            reduced = replace(reduced, u=data.inputs_at(float(unknowns.delay)))
        guesses = regressions(reduced, unknowns.has_b)
    elif not structure.is_given:
        guesses = modal_guesses(model) if data.m == 0 else subspace(data, model.n, float(unknowns.delay))
    if not structure.names_theta:
        ranked = ranked_by_cost(model, ((guess.name, point_of(model, guess)) for guess in guesses))
        for i, (name, theta) in enumerate(ranked):
            used = True
            yield (f"{name}, windows", windowed(model, theta)) if i == 0 and sees_all else (name, theta)
        if ranked and sees_all:
            yield ranked[0]
    rate = typical_rate(data)
    if structure.is_given and (structure.names_theta or not sees_all):
        free = free_fit()
        model.enough = 0.0 if free is None else best_possible(model, free)
        owns = structure.starts(rate)[:MOST_OWN] if free is not None else []
        for part in (owns[:1], owns[1:]):  # those that follow are for where the first one is not good enough
            mapped = [] if free is None or not part else in_structure(unknowns, free, part)
            matched = (("free fit", settled(model, point(model, own))) for own in mapped)
            for name, theta in ranked_by_cost(model, matched)[: MOST_MAPPED // 2]:
                used = True
                yield name, theta
    points = [point(model, own) for own in structure.starts(rate)[structure.theta0 is not None :]]
    points = [with_gains(model, theta) if unknowns.knows("C") else settled(model, theta) for theta in points]
    for name, theta in ranked_by_cost(model, (("own start", theta) for theta in points))[:MOST_GUESSES]:
        used = True
        yield name, theta
    if not used:
        yield "decay", point(model, np.zeros(structure.size))


def delayed_points(model: StatesModel, free_fit: Callable[[], Estimate | None]) -> Iterator[tuple[str, Array]]:
    """Starts with an unknown delay: the best of the starts with delays on a grid."""
    data, unknowns = model.data, model.unknowns
    longest = unknowns.longest_delay
    steps = data.shortest_gap * 2.0 ** np.arange(FINE_DELAYS)
    found: list[tuple[float, Array]] = []
    for delay in np.unique(np.r_[longest * np.arange(COARSE_DELAYS) / COARSE_DELAYS, steps[steps < longest]]):
        part = replace(model, unknowns=replace(unknowns, delay=np.array(delay)))
        for _, theta in islice(start_points(part, free_fit), STARTS_PER_DELAY):
            end = minimise(part, theta, max_steps=DELAY_STEPS, tol=1e-3, bounds=part.bounds)
            if np.isfinite(end.cost):
                found.append((end.cost, np.append(end.theta, delay)))
    found.sort(key=lambda x: x[0])
    for _, theta in found[:MOST_GUESSES]:
        yield f"delay {theta[-1]:.3g}", theta


def best_possible(model: StatesModel, free: Estimate) -> float:
    """The cost of a true structure: that of the fit without it, and what noise adds for the unknowns that are fewer."""
    more = free.n_unknowns - model.unknowns.size - int(np.count_nonzero(model.unknowns.free_z0))
    freedom = model.data.n_values - free.n_unknowns
    if not free.converged or freedom <= 0:
        return 0.0
    more = max(more, 1)
    return free.cost * (1 + (more + CLEARLY * np.sqrt(2 * more)) / freedom)


def point(model: StatesModel, own: Array) -> Array:
    """theta with these parameters of the structure, all gains 0, and C as `default_C`."""
    return model.unknowns.pack(own, C=default_C(model))


def default_C(model: StatesModel) -> Array:
    """C (p, n) where it is known; unknown entries are those of the identity, or random ones for structured states.

    States of a structure may not be coupled, so that each must be seen at the start.
    """
    known = model.unknowns.C
    start = np.eye(*known.shape)
    if model.structure.is_given:
        start = np.random.default_rng(0).uniform(0.5, 1.5, known.shape)
    return np.where(np.isnan(known), start, known)


def settled(model: StatesModel, theta: Array) -> Array:
    """The same Xi with the best of all else: B, b and D by linear least squares, then some steps with C."""
    theta = with_gains(model, theta)
    own = model.unknowns.place("Xi")
    if not len(model.unknowns.free("C")):
        return theta
    low, high = model.bounds or (np.full(len(theta), -np.inf), np.full(len(theta), np.inf))
    low[own] = high[own] = theta[own]
    found = minimise(model, theta, max_steps=SETTLING_STEPS, tol=1e-4, bounds=(low, high))
    return found.theta if np.isfinite(found.cost) else theta


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
    theta = model.unknowns.pack(own, B=guess.B, b=guess.b, C=C)
    return theta if guess.B is not None and not len(model.unknowns.free("D")) else with_gains(model, theta)


def with_gains(model: StatesModel, theta: Array) -> Array:
    """The same Xi and C with the best B, b and D: the model is linear in them."""
    places = [np.arange(len(theta))[model.unknowns.place(name)] for name in ("B", "b", "D")]
    gains = np.concatenate(places)
    if not len(gains):
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
    unknowns = model.unknowns
    if not unknowns.free_z0.all() or model.data.inputs or not unknowns.knows("delay") or unknowns.delay:
        return theta
    T, length = int(model.data.counts.max()), max(SHORTEST_WINDOW, -(-2 * model.n // model.data.p) + 2)
    while 2 * length <= T:
        data = model.data.segments(length)
        part = replace(model, data=data, unknowns=replace(unknowns, z0=np.full((data.K, model.n), np.nan)))
        found = minimise(part, theta, max_steps=WINDOW_STEPS, tol=1e-3, bounds=part.bounds)
        theta = found.theta if np.isfinite(found.cost) and np.isfinite(model.cost(found.theta)) else theta
        length *= WINDOW_GROWTH
    return theta


def modal_guesses(model: StatesModel) -> Iterator[Guess]:
    """Guesses where only part of the states is observed and there is no input.

    Eigenvalues are fitted with amplitudes that are free in each trajectory; then one system is made of them.
    """
    data, n, bias = model.data, model.n, model.unknowns.has_b
    known = model.unknowns.C if model.unknowns.knows("C") else None
    channels = make_channels(data)
    modal = make_model(channels, n, data, bias)
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
        _, C, basis = completed(S, known, scales(M))
        if np.linalg.cond(basis) < 1e9:  # else Xi keeps less than half of its digits
            Xi = basis @ M @ np.linalg.inv(basis)
            if known is None and model.structure.is_free:
                Xi, C = with_known_rows(Xi, C, model.unknowns.C)
            yield Guess(name, Xi, C=C)


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
    """The estimate at a minimum, with the covariance of its entries."""
    theta, n, unknowns, structure = best.theta, model.n, model.unknowns, model.structure
    found = model.eliminated(theta)
    assert found is not None  # its cost is finite
    system, z0 = found.system, found.z0
    changes = unknowns.changes_of_basis(theta, z0) if may_change_basis(unknowns) else np.zeros((0, len(theta)))
    cov, null_rows = inverse_of(best.gram, changes)
    parts = ("Xi", "B", "b", "C", "D", "delay")
    L = unknowns.by_entries(theta, parts)
    sizes = dict(zip(parts, (n * n, system.B.size, n, system.C.size, system.D.size, 1)))
    n_first = n * n + system.B.size + n * unknowns.has_b  # entries of Xi, B and b
    first = L[:n_first]
    others, start = {}, n * n + system.B.size + n
    for name in ("C", "D", "delay"):
        rows, start = L[start : start + sizes[name]], start + sizes[name]
        if rows.any():
            others[name] = np.einsum("ij,jk,ik->i", rows, cov, rows)
            others[name][np.linalg.norm(matmul(rows, changes.T), axis=1) > MOVED] = np.inf
    if "z0" in unknowns.structure.names or unknowns.free_z0.any():
        others["z0"] = model.z0_variances(theta, cov, changes)
    # parts that a change of basis moves; of a function theta means something, so that it is asked for
    blocks = {"Xi": first[: n * n], "B": first[n * n : n * n + system.B.size], "b": first[n * n + system.B.size :]}
    moved = tuple(name for name, block in blocks.items() if moves(block, changes))
    moved += ("C",) if len(changes) and len(unknowns.free("C")) else ()
    own_moves = np.zeros((0, len(theta)))
    if structure.names_theta:
        by_own = changes[:, : structure.size]
        by_own = orthonormal(by_own[np.linalg.norm(by_own, axis=1) > MOVED])
        own_moves = np.pad(by_own, ((0, 0), (0, len(theta) - structure.size)))
    wants_C = asks_for_C(unknowns) and "Xi" not in moved
    if structure.names_theta or wants_C:
        asked = changes if wants_C else own_moves
        null = remaining(null_rows, changes, np.sqrt(np.maximum(np.diag(best.gram), 0.0)))
        null, names = np.concatenate([null, asked]), unknowns.names()
    else:  # in entries: several parameters of one Xi are no question that was asked
        null, names = undetermined_entries(matmul(null_rows, L.T), matmul(changes, L.T), L)[:, :n_first], ()
        null = null[np.linalg.norm(null, axis=1) > MOVED]
    own = structure.size
    theta_variances = np.where(np.abs(own_moves[:, :own]).max(0, initial=0.0) > MOVED, np.inf, np.diag(cov)[:own])
    return Estimate(
        unknowns=unknowns,
        Xi=system.Xi,
        B=system.B,
        b=system.b,
        C=system.C,
        D=system.D,
        delay=system.delay,
        z0=z0,
        cost=best.cost,
        converged=best.converged,
        starts=starts,
        covariance=matmul(matmul(first, cov), first.T),
        other_variances=others,
        n_unknowns=len(theta) - len(null_rows) - len(orthonormal(changes)) + int(np.count_nonzero(unknowns.free_z0)),
        null=null / np.linalg.norm(null, axis=1, keepdims=True),
        changes=moved,
        is_confirmed=best.converged and best.cost <= model.enough,
        null_names=names,
        at_bounds=at_bounds(model, theta),
        point=theta,
        point_covariance=cov,
        theta=theta[:own] if structure.is_given else None,
        theta_variances=theta_variances,
    )


def asks_for_C(unknowns: Unknowns) -> bool:
    """Whether some entries of C are known, so that the others mean something."""
    return unknowns.structure.is_given and not unknowns.knows("C") and not unknowns.is_free_C


def undetermined_entries(null: Array, changes: Array, L: Array) -> Array:
    """Directions of all entries that the data do not determine, without changes of basis; L: of entries by theta."""
    length = np.linalg.norm(null, axis=1)
    null = null[length > MOVED * np.linalg.norm(L, axis=0).max(initial=0.0)]
    return remaining(null, changes, np.ones(len(L)))


def may_change_basis(unknowns: Unknowns) -> bool:
    """Whether a change of the states' basis may be possible at all: where C is known and sees all, there is none."""
    return not unknowns.knows("C") or bool(np.linalg.matrix_rank(unknowns.C) < unknowns.n)


def moves(first: Array, changes: Array) -> bool:
    """Whether changes of basis move the entries of Xi, B or b."""
    moved = np.linalg.norm(matmul(changes, first.T), axis=1)
    return bool((moved > MOVED * np.linalg.norm(first, axis=0).max(initial=0.0)).any())


def remaining(null: Array, changes: Array, units: Array) -> Array:
    """What is no change of basis of the directions null (k, size), each of length 1; units: of the entries."""
    units = np.where(units > 0, units, 1.0)
    if not len(null):
        return null
    N, G = orthonormal(null * units), orthonormal(changes * units)
    _, s, Vt = np.linalg.svd(N - matmul(matmul(N, G.T), G), full_matrices=False)
    found = Vt[s > HALF] / units
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def at_bounds(model: StatesModel, theta: Array) -> tuple[tuple[str, float], ...]:
    """Names of the parameters that are at a bound, and the bound."""
    if model.bounds is None:
        return ()
    names, pairs = model.unknowns.names(), zip(theta, *model.bounds)
    return tuple((names[i], float(x)) for i, (x, low, high) in enumerate(pairs) if x in (low, high))
