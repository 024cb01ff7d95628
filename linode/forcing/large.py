"""Inputs into large systems: the forcing as vectors v with functions f(t, Xi) v, one sweep from break to break.

Constants, polynomials and harmonics need no augmented system: z(t) is a sum of functions of Xi times vectors, with the
same products for all of them. A step ends at each break of an input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine.large_evaluation import Asked, Kind
from ..engine.problem import concrete, extremes, is_known
from ..errors import MethodError, NotDifferentiableError, ShapeError
from ..kernels.private import has_derivative
from ..kernels.tensors import widened
from .base import Input
from .harmonics import Harmonics
from .pieces import Pieces
from .shifted import Shifted
from .total import Forcing

# sum_j f_j(t, Xi) v_j, (*batch, T, n), of kinds, vectors and t; and what the question is one of many like
Solve = Callable[..., Tensor]


class Wave(NamedTuple):
    """vector * exp(w t)."""

    w: complex
    vector: Tensor  # (*batch, n)


def forced_states(forcing: Forcing, z0: Tensor, t: Tensor, is_complex: bool, solve: Solve) -> Tensor:
    """z (*batch, T, n) from z0 at time 0. is_complex: whether Xi is."""
    b, B = (None if x is None else widened(x) for x in (forcing.b, forcing.B))
    z0, forcing = widened(z0), replace(forcing, b=b, B=B)  # states between breaks are not rounded to float32
    values = [x for x in (z0, forcing.b, forcing.B if forcing.inputs else None) if x is not None]
    is_complex = is_complex or any(x.is_complex() for x in values)
    waves = [wave for part in forcing.inputs for wave in waves_of(part, forcing.B, is_complex)]
    broken = [part for part in forcing.inputs if harmonics_of(part) is None]
    steady = ([] if forcing.b is None else [Wave(0.0, forcing.b)]) + waves
    if broken:
        first, *others = broken
        z = along(first, z0, steady, forcing.B, t, solve)
        z = reduce(torch.add, (along(part, torch.zeros_like(z0), [], forcing.B, t, solve) for part in others), z)
    else:
        z = solve(*terms(z0, steady, None), t)
    return z.real.contiguous() if z.is_complex() and not is_complex else z


def terms(x: Tensor, waves: Sequence[Wave], start: Tensor | None) -> tuple[list[Kind], list[Tensor]]:
    """The state x at a time `start` (None: 0) and waves from then on."""
    kinds, vectors = [Kind()], [x]
    for w, vector in waves:
        if w == 0:
            add(kinds, vectors, Kind("phi1"), vector)
            continue
        if start is not None:
            rate = torch.tensor(w, dtype=torch.complex128 if complex(w).imag else torch.float64, device=x.device)
            vector = widened(vector) * torch.exp(rate * start)
        add(kinds, vectors, Kind("harmonic", w), vector)
    return kinds, vectors


def add(kinds: list[Kind], vectors: list[Tensor], kind: Kind, vector: Tensor) -> None:
    """One more term; of one kind there is one vector."""
    if kind in kinds:
        i = kinds.index(kind)
        vectors[i] = vectors[i] + vector
    else:
        kinds.append(kind)
        vectors.append(vector)


def harmonics_of(part: Input) -> tuple[Harmonics, float] | None:
    """The harmonics that an input is, and how far they are shifted."""
    if isinstance(part, Harmonics):
        return part, 0.0
    if isinstance(part, Shifted):
        inner = harmonics_of(part.inner)
        return None if inner is None else (inner[0], inner[1] + part.by)
    return None


def waves_of(part: Input, B: Tensor | None, is_complex: bool) -> Iterator[Wave]:
    """B u(t) for harmonics u(t) = Re sum_j a_j exp(r_j t); in a real problem the real part is left to the end."""
    found = harmonics_of(part)
    if found is None:
        return
    harmonics, by = found
    if has_derivative(harmonics.rates) or not is_known(harmonics.rates):
        raise NotDifferentiableError(
            "rates of Harmonics have no derivative where Xi is large: detach them, or give a dense Xi"
        )
    rates, amplitudes = widened(harmonics.rates), widened(harmonics.amplitudes)
    for j, rate in enumerate(rates.tolist()):
        a = amplitudes[..., j, :]
        if by:
            a = a * torch.exp(rates[j] * by)
        if complex(rate).imag == 0:
            yield Wave(complex(rate).real, into(B, a.real if a.is_complex() else a))
        elif not is_complex:
            yield Wave(rate, into(B, a))
        else:
            yield Wave(rate, into(B, a / 2))
            yield Wave(complex(rate).conjugate(), into(B, a.conj() / 2))


def into(B: Tensor | None, x: Tensor) -> Tensor:
    """B x for x (*batch, m)."""
    if B is None:
        return x
    dtype = torch.promote_types(B.dtype, x.dtype)
    return (B.to(dtype) @ x.to(dtype)[..., None])[..., 0]


def along(part: Input, z0: Tensor, waves: Sequence[Wave], B: Tensor | None, t: Tensor, solve: Solve) -> Tensor:
    """z with one input that has breaks, or polynomials, and with waves."""
    start, stop = extremes(t)
    pieces = part.pieces(start, stop, t)
    if pieces.breaks.ndim > 1:
        raise ShapeError(
            f"times of an input have shape {tuple(pieces.breaks.shape)}; where Xi is large they must be (K,): all "
            "trajectories share the breaks"
        )
    if pieces.generator is not None:
        raise MethodError(f"the input {part} cannot act on a large Xi: give holds, impulses, Harmonics or a function")
    found: list[tuple[Tensor, Tensor | None, Tensor]] = []  # places of times, which trajectories are meant, states
    for is_forward in (True, False):
        if is_forward or start < 0:
            found += one_way(pieces, z0, waves, B, t, solve, is_forward, stop if is_forward else start)
    return assembled(found, t)


def one_way(
    pieces: Pieces,
    z0: Tensor,
    waves: Sequence[Wave],
    B: Tensor | None,
    t: Tensor,
    solve: Solve,
    is_forward: bool,
    last: float,
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """States at the times from 0 on, or before 0: piece by piece away from time 0."""
    breaks = concrete(pieces.breaks).tolist()
    known = concrete(t)
    crossed = sorted([0.0, last, *(s for s in breaks if min(0.0, last) < s < max(0.0, last))])
    # one plan serves all pieces
    like = Asked(max(y - x for x, y in itertools.pairwise(crossed)), t.shape[-1] // (len(crossed) - 1) + 1)
    step, x, now = (1 if is_forward else -1), z0, torch.zeros((), dtype=torch.float64, device=t.device)
    k = sum(s <= 0 if is_forward else s < 0 for s in breaks)  # the number of the piece
    if is_forward and pieces.jumps is not None and k and breaks[k - 1] == 0:  # an impulse at 0 acts at once
        x = x + into(B, pieces.jumps[..., k - 1, :])
    at = 0.0
    while True:
        place = k if is_forward else k - 1  # of the break at which the piece ends
        is_within = 0 <= place < len(breaks) and (breaks[place] <= last if is_forward else breaks[place] > last)
        end = breaks[place] if is_within else math.copysign(math.inf, step)
        low, high = (at, end) if is_forward else (end, at)
        inside, mask, index = (known >= low) & (known < high), None, torch.arange(t.shape[-1], device=t.device)
        if not is_known(t) or t.ndim > 1:
            mask = (t >= low) & (t < high)
        if is_known(t):
            index = inside.reshape(-1, t.shape[-1]).any(0).nonzero()[:, 0]
            mask = None if mask is None else mask[..., index]
        if len(index) or is_within:
            times = t[..., index] - now
            times = times if mask is None else torch.where(mask, times, 0)
            if is_within:
                stop = (pieces.breaks[place] - now).expand(*t.shape[:-1], 1)
                times = torch.cat([times, stop], -1)
            kinds, vectors = terms(x, waves, now)
            for kind, vector in inputs_of(pieces, k, now):
                add(kinds, vectors, kind, into(B, vector))
            z = solve(kinds, vectors, times, like)
            if len(index):
                yield index, mask, z[..., : len(index), :]
        if not is_within:
            return
        x, now, at = z[..., -1, :], pieces.breaks[place], breaks[place]
        if pieces.jumps is not None:
            x = x + step * into(B, pieces.jumps[..., place, :])
        k += step


def inputs_of(pieces: Pieces, k: int, start: Tensor) -> Iterator[tuple[Kind, Tensor]]:
    """u in piece k from the time `start` on, as powers of the time since then."""
    own = pieces.chosen(slice(k, k + 1))
    if not own.states.shape[-1]:
        return
    c = own.advanced(own.states, start - own.refs)[..., 0, :].unflatten(-1, (-1, pieces.m))  # (*batch, p, m)
    for j in range(c.shape[-2]):
        factor: Any = math.factorial(j) / own.unit**j
        yield Kind("power", j) if j else Kind("phi1"), c[..., j, :] * factor


def assembled(found: Sequence[tuple[Tensor, Tensor | None, Tensor]], t: Tensor) -> Tensor:
    """z (*batch, T, n) of states at some of the times."""
    if all(mask is None for _, mask, _ in found):
        z = torch.cat([z for *_, z in found], -2) if len(found) > 1 else found[0][-1]
        order = torch.cat([index for index, *_ in found])
        is_sorted = bool((order[1:] > order[:-1]).all())
        return z if is_sorted else z[..., order.argsort(), :]
    first = found[0][-1]
    total = first.new_zeros(*first.shape[:-2], t.shape[-1], first.shape[-1])
    for index, mask, z in found:
        own = z if mask is None else torch.where(mask[..., None], z, 0)
        total = total.index_add(-2, index, own)
    return total
