"""One trajectory without inputs: variable projection on eigenvalues, from several guesses of them.

Constants without an origin of their own were chosen by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .channels import Channels, make_channels
from .data import UNIFORM, Data
from .estimate import Estimate
from .products import Array, gram, matmul, sum_of_squares
from .progress import Report
from .projection import RatesModel
from .race import race
from .rates import Factors
from .realisation import realise
from .starts.greedy import decays, greedy
from .starts.hankel import delayed
from .starts.regression import regressions
from .states import residuals_of

MakeFactors = Callable[[int, float], Factors]  # from the number of states and the longest trajectory
GROWTH = 20.0  # largest |Re lambda| times the shortest gap: e^-20 of a mode is left one gap later
FREQUENCY = 2.0  # largest |Im lambda| times the shortest gap, in units of pi, for irregular times; uniform ones: 1
WIDE_GAPS = 300.0  # ratio of long to short gaps; gaps so uneven suggest rates of very different size
COARSE = 1.7  # rates per decade of the second grid of rates
SLOWER = 3.0  # the third grid holds rates that are slower by this factor than those found on the first
MORE_COST, ZERO_COST = 1e-3, 1e-16  # increase of the cost by rounding that is accepted: of the cost, of the data's sum
LEAST_STARTS = 4  # where there are fewer channels than states: sums of exponentials have many minima
MOST_OF_GRID = 4  # states up to which a grid of real rates is tried: the number of subsets grows with its power
EXTRA, N_POWER_STEPS = 4, 4  # subspace iteration: directions beside those wanted, and steps (Halko et al. 2011)


def make_model(channels: Channels, n: int, data: Data, bias: bool, make: MakeFactors = Factors) -> RatesModel:
    return RatesModel(make(n, data.span), channels.t, channels.y, channels.w, bias, fastest_of(data))


def fastest_of(data: Data) -> tuple[float, float]:
    """Bounds of |Re lambda| and |Im lambda|: what is faster ends within the shortest gap, or is an alias."""
    gap = data.shortest_gap
    # of a uniform grid, Nyquist's frequency and what rounding of the times adds
    frequency = np.pi / data.step * (1 + UNIFORM) if data.step is not None else FREQUENCY * np.pi / gap
    return GROWTH / gap, frequency


def guesses(model: RatesModel, data: Data, reduced: Data | None, bias: bool) -> Iterator[tuple[str, Array]]:
    """Eigenvalues to start from, with names, cheap ones first; reduced: the data in as many channels as states."""
    n = model.factors.n
    is_wide = data.gap_ratio > WIDE_GAPS
    if is_wide:
        yield from rates(model)
    regressed = [] if reduced is None else [(x.name, np.linalg.eigvals(x.Xi)) for x in regressions(reduced, bias)]
    yield from regressed[:-1]
    found = delayed(data, n, bias) if reduced is None or n <= 3 else None
    if found is not None:
        yield "delayed samples", found
    if reduced is None and n <= MOST_OF_GRID and not is_wide:
        yield from rates(model)
    found = greedy(model)
    if found is not None:
        yield "periodogram", found
    found = greedy(model, single_first=True) if n % 2 and n > 1 else None
    if found is not None:
        yield "level and periodogram", found
    if reduced is not None and n <= MOST_OF_GRID and not is_wide:
        yield from rates(model)
    yield from regressed[-1:]


def rates(model: RatesModel) -> Iterator[tuple[str, Array]]:
    """Eigenvalues from grids of real rates."""
    found = decays(model)
    for lam in found:
        yield "grid of rates", lam
    for lam in decays(model, COARSE):
        yield "coarse grid of rates", lam
    for lam in found:
        for slower in decays(model, fastest=np.abs(lam).max() / SLOWER):
            yield "grid of slower rates", slower


def fit_by_rates(data: Data, n: int, C: Array | None, bias: bool, make: MakeFactors, report: Report) -> Estimate | None:
    """The best fit of n states; None where the amplitudes do not determine Xi.

    C: (p, n) of full row rank, or None where it is unknown. make: what the eigenvalues may be.
    """
    channels = make_channels(data)
    model = make_model(channels, n, data, bias, make)
    frame, reduced = None, None
    if C is None and n <= data.p:
        frame = strongest(data, n)
        reduced = data.mapped(frame)
    points = (
        (name, model.factors.from_eigenvalues(within(lam, model.fastest)))
        for name, lam in guesses(model, data, reduced, bias)
        if np.isfinite(lam).all()
    )
    if reduced is None:
        model.least_starts = LEAST_STARTS
    best, starts = race(model, points, data.w, channels.y, report)
    if best is None:
        return None
    found = realise(data, channels, model, best, C, frame, starts)
    return found if found is not None and explains(found, data) else None


def explains(found: Estimate, data: Data) -> bool:
    """Whether the cost of (Xi, z0) is that of the eigenvalues and amplitudes: rounding loses modes that start small."""
    cost = sum_of_squares(residuals_of(found, data))
    return cost <= (1 + MORE_COST) * found.cost + ZERO_COST * sum_of_squares(data.w * data.y)


def within(lam: Array, fastest: tuple[float, float]) -> Array:
    """Eigenvalues within the bounds, those that coincide moved apart."""
    bound = 0.9 * np.array(fastest)  # a start at the bound itself could move in one direction only
    moved = np.clip(lam.real, -bound[0], bound[0]) + 1j * np.clip(lam.imag, -bound[1], bound[1])
    moved = np.where(lam.imag == 0, moved.real, moved)
    for i in range(len(moved)):
        same = np.abs(moved[:i] - moved[i]) <= 1e-6 * np.abs(moved[i])  # amplitudes would lose 6 digits and more
        if same.any() and moved[i].imag == 0:
            moved[i] *= 1 + 0.05 * same.sum()  # 5 %, so that the basis is far from singular
    return moved


def strongest(data: Data, n: int) -> Array:
    """(n, p): rows are orthonormal directions in which complete samples have the largest sum of squares."""
    if n == data.p:
        return np.eye(n)
    complete = (data.w > 0).all(-1)
    y = data.y[complete] if complete.sum() >= n else data.y.reshape(-1, data.p)
    Q = np.random.default_rng(0).standard_normal((data.p, min(n + EXTRA, data.p)))
    for _ in range(N_POWER_STEPS):
        Q = np.linalg.qr(matmul(y.T, matmul(y, np.linalg.qr(Q)[0])))[0]
    seen = matmul(y, Q)
    return (Q @ np.linalg.eigh(gram(seen))[1][:, ::-1][:, :n]).T
