"""True solutions of z' = Xi z + b + B u(t) and their gradients, by ball arithmetic.

The solution is marched from one break of the input to the next by exponentials of [[Xi, w1, w0], [0, 0, 1], [0, 0, 0]],
with B u + b = w0 + w1 s on the way; every number is the double that it is. Gradients are central differences at a step
of 2^-150 relative to one, in a precision where neither truncation nor rounding reaches a double.
Source: Van Loan (1978), IEEE Trans. Automatic Control 23(3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flint import acb, acb_mat, arb, ctx

PRECISION, STEP = 640, 150
Balls = Any  # nested lists of acb
Input = Callable[[Balls, Balls], list[tuple[acb, list[acb], list[acb], list[acb]]]]


def balls(x: Any) -> Balls:
    """A number or nested lists of them, exactly."""
    x = np.asarray(x)
    return acb(complex(x)) if x.ndim == 0 else [balls(y) for y in x]


def zero_order(times: Balls, values: Balls) -> list[tuple]:
    """(break, u there, slope, jump) of every piece; the first begins at no time."""
    nothing = [acb(0)] * len(values[0])
    return [(None, values[0], nothing, nothing)] + [(t, u, nothing, nothing) for t, u in zip(times, values)]


def first_order(times: Balls, values: Balls) -> list[tuple]:
    nothing = [acb(0)] * len(values[0])
    pieces = [(None, values[0], nothing, nothing)]
    for i, (t, u) in enumerate(zip(times, values)):
        slope = nothing
        if i + 1 < len(times):
            slope = [(y - x) / (times[i + 1] - t) for x, y in zip(u, values[i + 1])]
        pieces.append((t, u, slope, nothing))
    return pieces


def impulses(times: Balls, values: Balls) -> list[tuple]:
    nothing = [acb(0)] * len(values[0])
    return [(None, nothing, nothing, nothing)] + [(t, nothing, nothing, u) for t, u in zip(times, values)]


def _matvec(A: Balls, v: Balls) -> Balls:
    return [sum((a * x for a, x in zip(row, v)), acb(0)) for row in A]


def _advance(Xi: Balls, z: Balls, w0: Balls, w1: Balls, s: acb) -> Balls:
    """z after a time s of z' = Xi z + w0 + w1 s."""
    n = len(z)
    rows = [[*Xi[i], w1[i], w0[i]] for i in range(n)] + [[0] * n + [0, 1], [0] * (n + 2)]
    E = (acb_mat([[x * s for x in row] for row in rows])).exp()
    y = E * acb_mat([[x] for x in (*z, acb(0), acb(1))])
    return [y[i, 0] for i in range(n)]


def _solve(kind: Input, Xi: Balls, z0: Balls, t: Balls, b: Balls, B: Balls, times: Balls, values: Balls) -> list[Balls]:
    return [_state(kind(times, values), Xi, z0, time, b, B) for time in t]


def _state(pieces: Sequence[tuple], Xi: Balls, z0: Balls, t: acb, b: Balls, B: Balls) -> Balls:
    def order(x: acb) -> float:
        return float(x.real)  # breaks and times are far apart, or equal doubles

    def forcing(k: int, at: acb) -> tuple[Balls, Balls]:
        start, u, slope, _ = pieces[k]
        u = u if start is None else [x + d * (at - start) for x, d in zip(u, slope)]
        return [x + y for x, y in zip(b, _matvec(B, u))], _matvec(B, slope)

    starts = [-np.inf if p[0] is None else order(p[0]) for p in pieces]
    now, z = acb(0), z0
    if order(t) >= 0:
        for k, (start, _, _, jump) in enumerate(pieces):
            if start is not None and starts[k] < 0:
                continue
            if start is not None and starts[k] <= order(t):
                z = _advance(Xi, z, *forcing(k - 1, now), start - now)
                z = [x + y for x, y in zip(z, _matvec(B, jump))]
                now = start
        k = max(i for i, start in enumerate(starts) if start <= order(t))
    else:
        for k in reversed(range(len(pieces))):
            start, _, _, jump = pieces[k]
            if start is not None and order(t) < starts[k] < 0:
                z = _advance(Xi, z, *forcing(k, now), start - now)
                z = [x - y for x, y in zip(z, _matvec(B, jump))]
                now = start
        k = max(i for i, start in enumerate(starts) if start <= order(t))
    return _advance(Xi, z, *forcing(k, now), t - now)


def solution(kind: Input, Xi: Any, z0: Any, t: Any, b: Any, B: Any, times: Any, values: Any) -> np.ndarray:
    """z (T, n), rounded; complex where an argument is."""
    arguments = (Xi, z0, t, b, B, times, values)
    with ctx.workprec(PRECISION):
        z = _solve(kind, *(balls(x) for x in arguments))
        return _rounded(z, any(np.iscomplexobj(x) for x in arguments))


def gradients(kind: Input, g: Any, Xi: Any, z0: Any, t: Any, b: Any, B: Any, times: Any, values: Any) -> list[np.ndarray]:
    """Of sum_i <g_i, z_i>, real arguments, with respect to each of them."""
    arguments = [np.asarray(x, float) for x in (Xi, z0, t, b, B, times, values)]
    with ctx.workprec(PRECISION):
        exact, step = [balls(x) for x in arguments], acb(arb(2) ** -STEP)
        weights, grads = balls(g), []

        def loss(which: int, index: tuple[int, ...], change: acb) -> acb:
            moved = list(exact)
            moved[which] = _moved(exact[which], index, change)
            z = _solve(kind, *moved)
            return sum((x * w for row, ws in zip(z, weights) for x, w in zip(row, ws)), acb(0))

        for which, x in enumerate(arguments):
            grad = np.zeros(x.shape)
            for index in np.ndindex(x.shape):
                d = (loss(which, index, step) - loss(which, index, -step)) / (2 * step)
                grad[index] = float(d.real)
            grads.append(grad)
    return grads


def _moved(x: Balls, index: tuple[int, ...], change: acb) -> Balls:
    if not index:
        return x + change
    return [_moved(y, index[1:], change) if i == index[0] else y for i, y in enumerate(x)]


def _rounded(z: Balls, is_complex: bool) -> np.ndarray:
    values = np.array([[complex(float(x.real.mid()), float(x.imag.mid())) for x in row] for row in z])
    return values if is_complex else values.real
