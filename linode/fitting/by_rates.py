"""One trajectory without inputs: variable projection on eigenvalues, from several guesses of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .channels import Channels, make_channels
from .data import Data
from .estimate import Estimate
from .products import gram, matmul, sum_of_squares
from .progress import Report
from .projection import RatesModel
from .race import race
from .rates import Factors, StableFactors
from .realisation import realise
from .starts.greedy import decays, greedy
from .starts.hankel import delayed
from .starts.regression import regressions
from .states import residuals_of

Array = NDArray[Any]
GROWTH, FREQUENCY = 20.0, 2.0  # bounds of rates: by so much in the shortest gap; times pi per shortest gap
WIDE = 300.0  # ratio of long to short gaps: such times were chosen for rates far apart
COARSE, SLOWER = 1.7, 3.0  # rates in a decade of a second grid; by how much those of a third one are slower
LOST, TINY = 1e-3, 1e-16  # of the cost; of the data's sum of squares
LEAST_STARTS = 4  # for what is seen in few channels: sums of exponentials have many minima
MOST_RATES = 4  # states that a grid of real rates is tried for
SPARE, POWERS = 4, 4  # directions beside those wanted, and steps, of subspace iteration


def make_model(channels: Channels, n: int, data: Data, bias: bool, stable: bool) -> RatesModel:
    factors = (StableFactors if stable else Factors)(n, data.span)
    return RatesModel(factors, channels.t, channels.y, channels.w, bias, fastest_of(data))


def fastest_of(data: Data) -> tuple[float, float]:
    """What |Re lambda| and |Im lambda| can be: faster ones act within the shortest gap, or are aliases."""
    gap = data.shortest_gap
    frequency = np.pi / data.step * (1 + 1e-6) if data.step is not None else FREQUENCY * np.pi / gap
    return GROWTH / gap, frequency


def guesses(model: RatesModel, data: Data, reduced: Data | None, bias: bool) -> Iterator[tuple[str, Array]]:
    """Eigenvalues to start from, cheap ones first; reduced: the data in as many channels as states."""
    n = model.factors.n
    is_wide = data.gap_ratio > WIDE
    if is_wide:
        yield from rates(model)
    regressed = [] if reduced is None else [(x.name, np.linalg.eigvals(x.Xi)) for x in regressions(reduced, bias)]
    yield from regressed[:-1]
    found = delayed(data, n, bias) if reduced is None or n <= 3 else None
    if found is not None:
        yield "delayed samples", found
    if reduced is None and n <= MOST_RATES and not is_wide:
        yield from rates(model)
    found = greedy(model)
    if found is not None:
        yield "periodogram", found
    found = greedy(model, single_first=True) if n % 2 and n > 1 else None
    if found is not None:
        yield "level and periodogram", found
    if reduced is not None and n <= MOST_RATES and not is_wide:
        yield from rates(model)
    yield from regressed[-1:]


def rates(model: RatesModel) -> Iterator[tuple[str, Array]]:
    """Of grids of real rates."""
    found = decays(model)
    for lam in found:
        yield "grid of rates", lam
    for lam in decays(model, COARSE):
        yield "coarse grid of rates", lam
    for lam in found:
        for slower in decays(model, fastest=np.abs(lam).max() / SLOWER):
            yield "grid of slower rates", slower


def fit_by_rates(data: Data, n: int, C: Array | None, bias: bool, stable: bool, report: Report) -> Estimate | None:
    """The best fit of n states; None where the amplitudes do not determine Xi.

    C: (p, n) of full row rank, or None.
    """
    channels = make_channels(data)
    model = make_model(channels, n, data, bias, stable)
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
    return found if found is not None and explains(found, data, bias) else None


def explains(found: Estimate, data: Data, bias: bool) -> bool:
    """Whether Xi and z0 show what eigenvalues and amplitudes do: modes too small at the start are lost in rounding."""
    cost = sum_of_squares(residuals_of(found, data, bias))
    return cost <= (1 + LOST) * found.cost + TINY * sum_of_squares(data.w * data.y)


def within(lam: Array, fastest: tuple[float, float]) -> Array:
    """Eigenvalues inside of the bounds, those that coincide moved apart."""
    bound = 0.9 * np.array(fastest)
    moved = np.clip(lam.real, -bound[0], bound[0]) + 1j * np.clip(lam.imag, -bound[1], bound[1])
    moved = np.where(lam.imag == 0, moved.real, moved)
    for i in range(len(moved)):
        same = np.abs(moved[:i] - moved[i]) <= 1e-6 * np.abs(moved[i])
        if same.any() and moved[i].imag == 0:
            moved[i] *= 1 + 0.05 * same.sum()
    return moved


def strongest(data: Data, n: int) -> Array:
    """(n, p): rows are orthonormal directions in which complete samples are largest; all of them where n = p."""
    if n == data.p:
        return np.eye(n)
    complete = (data.w > 0).all(-1)
    y = data.y[complete] if complete.sum() >= n else data.y.reshape(-1, data.p)
    Q = np.random.default_rng(0).standard_normal((data.p, min(n + SPARE, data.p)))
    for _ in range(POWERS):
        Q = np.linalg.qr(matmul(y.T, matmul(y, np.linalg.qr(Q)[0])))[0]
    seen = matmul(y, Q)
    return (Q @ np.linalg.eigh(gram(seen))[1][:, ::-1][:, :n]).T
