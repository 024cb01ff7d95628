"""The error of a trajectory: how far it is from answers to the same question by other arithmetic.

What differs is rounding error, since the data are the same to the last bit. Two computations with independent roundings
that agree are right, so the error is taken from the one that agrees best, and more careful ones are asked for only
where it is not small. With many times some of them are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..kernels import wide
from ..kernels.tensors import is_finite, widened
from ..methods import Method
from ..methods.propagator import EXTENDED_MAX_N
from .careful import AGAIN, CAREFUL, EVERY, MOST_STATES, careful_plans, is_compiled, powers_of, shares
from .conditioning import norms
from .evaluation import Planner
from .problem import Layout

N_TIMES, FEW_TIMES = 8, 2  # that are compared; the latter where they are so many, or so large, that it takes long:
MOST_WORK = 2**17  # squares of states of all trajectories at all of these times; some 10 ms of compiled arithmetic
SMALL = 1e-13  # relative difference up to which no other answer is asked for
ROUNDINGS = 4.0  # the least error, in units: that of the last operations and of the answer itself
SAFETY = 4.0  # times the difference: the other answer may have half of the error, and both together less than one


def references(Xi: Tensor) -> tuple[Method, ...]:
    """What to compare with, in this order, as long as the difference is not small."""
    n = Xi.shape[-1]
    if n <= EXTENDED_MAX_N and is_compiled(Xi):
        return (CAREFUL,)
    return (AGAIN, CAREFUL) if n <= MOST_STATES else (AGAIN,)


Compare = Callable[[Tensor, Tensor], Sequence[Sequence[float]]]


def compared(answer: Callable[[Tensor], Tensor]) -> Compare:
    """For states z (*batch, T, n) at times t (*batch, T): |z - y| and |y| for every index of the batch, with the states
    y = answer(t); in the 2-norm over all times and states.
    """

    def distances(z: Tensor, t: Tensor) -> list[list[float]]:
        y, rank = answer(t), z.ndim - 2
        return torch.stack([norms(y - z, rank), norms(y, rank)], -1).reshape(-1, 2).tolist()

    return distances


def compared_by_kernel(planner: Planner, Xi: Tensor, z0: Tensor) -> Compare:
    """The same with the states by a planner of `Careful` where `careful.is_compiled`; float64 or complex128."""

    def distances(z: Tensor, t: Tensor) -> Sequence[Sequence[float]]:
        layout = Layout.of(Xi.shape, z0.shape, t.shape)
        ways = careful_plans(planner, Xi, layout, t)
        if not layout.batch:
            return wide.distances_from(*powers_of(ways, EVERY), z0, t, z)
        starts, times, states = layout.trajectories(z0, 1), layout.trajectories(t, 1), layout.trajectories(z, 2)
        pairs: list[tuple[float, float]] = []
        for own in shares(*ways):
            pairs += wide.distances_from(*powers_of(ways, own), starts[own], times[own], states[own])
        order = torch.arange(len(pairs), device="cpu").reshape(layout.S, layout.R)
        return [pairs[i] for i in layout.batched(order).flatten().tolist()]

    return distances


def relative_error(z: Tensor, t: Tensor, comparisons: Iterable[Compare]) -> list[float]:
    """The error of z (*batch, T, n) in its norm over all times, relative to that norm, estimated; of every trajectory.

    comparisons: cheap ones first, see `compared`. The error is infinite where z is not finite, 0 where z is exactly 0,
    and elsewhere at least some units of rounding: of the smallest float, where z is below the normal ones.
    """
    rank, (T, n), kind = z.ndim - 2, z.shape[-2:], torch.finfo(z.dtype)
    if z.numel() == 0:
        return [0.0] * math.prod(z.shape[:-2])
    own, times, sizes = widened(z), t, None
    if T > FEW_TIMES:
        n_times = max(FEW_TIMES, min(N_TIMES, MOST_WORK // (z.numel() // T * n)))
        if n_times < T:
            sizes = norms(own, rank).reshape(-1).tolist()
            places = _places(t, own, n_times)
            own, times = own[..., places, :], t[..., places]
    weight, floor = SAFETY * math.sqrt(T / own.shape[-2]), ROUNDINGS * kind.eps / 2
    least = kind.tiny * kind.eps * math.sqrt(own.shape[-2] * n)  # error of numbers below the least normal float
    errors = [math.inf] * math.prod(z.shape[:-2])
    for compare in comparisons:
        for i, (difference, size) in enumerate(compare(own, times)):
            size = size if sizes is None else sizes[i]
            if size > 0:
                error = max(weight * difference / size, least / size, floor)
            else:
                error = math.inf if difference > 0 else 0.0
            errors[i] = min(errors[i], error) if error == error else errors[i]
        if max(errors) <= max(SMALL, 2 * floor):
            break
    if is_finite(z):
        return errors
    finite = torch.isfinite(z).flatten(rank).all(-1).reshape(-1).tolist()
    return [error if good else math.inf for error, good in zip(errors, finite)]


def _places(t: Tensor, z: Tensor, count: int) -> Tensor:
    """Indices of up to `count` times to compare: evenly from the latest to the earliest, and where z is largest."""
    T = t.shape[-1]
    late = t.abs().reshape(-1, T).amax(0)
    size = z.abs().amax(-1).reshape(-1, T).amax(0)
    evenly = torch.linspace(0, T - 1, count - 1, device=t.device).round().to(torch.int64)
    return torch.cat([late.argsort(descending=True)[evenly], size.argmax()[None]]).unique()
