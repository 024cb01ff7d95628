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


def _solve(
    kind: Input, Xi: Balls, z0: Balls, t: Balls, b: Balls, B: Balls, times: Balls, values: Balls, switches: Balls = ()
) -> list[Balls]:
    """Xi is a list of matrices; each after the first rules from its switch on."""
    pieces = kind(times, values)
    return [_state(_merged(pieces, Xi, switches), z0, time, b, B) for time in t]


def _merged(pieces: Sequence[tuple], Xi: Balls, switches: Balls) -> list[tuple]:
    """(start, Xi, u at `at`, slope, jump, at), a piece for every break of the input and of the system."""
    starts = [p[0] for p in pieces[1:]] + list(switches)
    merged = [(None, Xi[0], *pieces[0][1:], acb(0))]
    for start in sorted(starts, key=_order):
        k = max(i for i, p in enumerate(pieces) if p[0] is None or _order(p[0]) <= _order(start))
        j = sum(_order(x) <= _order(start) for x in switches)
        at, u, slope, jump = pieces[k]
        own = at is not None and _order(at) == _order(start)
        if merged[-1][0] is not None and _order(merged[-1][0]) == _order(start):
            continue
        merged.append((start, Xi[j], u, slope, jump if own else [acb(0)] * len(u), acb(0) if at is None else at))
    return merged


def _order(x: acb) -> float:
    return float(x.real.mid())  # breaks and times are far apart, or equal doubles


def _state(pieces: Sequence[tuple], z0: Balls, t: acb, b: Balls, B: Balls) -> Balls:
    def advance(k: int, z: Balls, now: acb, then: acb) -> Balls:
        _, Xi, u, slope, _, at = pieces[k]
        u = [x + d * (now - at) for x, d in zip(u, slope)]
        w0 = [x + y for x, y in zip(b, _matvec(B, u))]
        return _advance(Xi, z, w0, _matvec(B, slope), then - now)

    starts = [-np.inf if p[0] is None else _order(p[0]) for p in pieces]
    now, z = acb(0), z0
    if _order(t) >= 0:
        for k in range(1, len(pieces)):
            if 0 <= starts[k] <= _order(t):
                z = [x + y for x, y in zip(advance(k - 1, z, now, pieces[k][0]), _matvec(B, pieces[k][4]))]
                now = pieces[k][0]
    else:
        for k in reversed(range(1, len(pieces))):
            if _order(t) < starts[k] < 0:
                z = [x - y for x, y in zip(advance(k, z, now, pieces[k][0]), _matvec(B, pieces[k][4]))]
                now = pieces[k][0]
    return advance(max(k for k, start in enumerate(starts) if start <= _order(t)), z, now, t)


def solution(
    kind: Input, Xi: Any, z0: Any, t: Any, b: Any, B: Any, times: Any, values: Any, switches: Any = ()
) -> np.ndarray:
    """z (T, n), rounded; complex where an argument is. Xi (n, n), or (J, n, n) with J - 1 switches."""
    arguments = (_stacked(Xi), z0, t, b, B, times, values, switches)
    with ctx.workprec(PRECISION):
        z = _solve(kind, *(balls(x) for x in arguments))
        return _rounded(z, any(np.iscomplexobj(x) for x in arguments))


def gradients(
    kind: Input, g: Any, Xi: Any, z0: Any, t: Any, b: Any, B: Any, times: Any, values: Any, switches: Any = ()
) -> list[np.ndarray]:
    """Of sum_i <g_i, z_i>, real arguments, with respect to each of them."""
    arguments = [np.asarray(x, float) for x in (_stacked(Xi), z0, t, b, B, times, values, switches)]
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
    grads[0] = grads[0].reshape(np.shape(Xi))
    return grads


def _stacked(Xi: Any) -> np.ndarray:
    return np.asarray(Xi)[None] if np.ndim(Xi) == 2 else np.asarray(Xi)


def _moved(x: Balls, index: tuple[int, ...], change: acb) -> Balls:
    if not index:
        return x + change
    return [_moved(y, index[1:], change) if i == index[0] else y for i, y in enumerate(x)]


def _rounded(z: Balls, is_complex: bool) -> np.ndarray:
    values = np.array([[complex(float(x.real.mid()), float(x.imag.mid())) for x in row] for row in z])
    return values if is_complex else values.real


def harmonic(Xi: Any, z0: Any, t: Any, b: Any, B: Any, rates: Any, amplitudes: Any) -> np.ndarray:
    """z (T, n) of a real system driven by Re sum_j amplitudes_j exp(rates_j t)."""
    n, J = len(z0), len(rates)
    with ctx.workprec(PRECISION):
        gains = np.asarray(amplitudes)
        columns = [_matvec(balls(B), balls(a)) for a in gains]
        rows = [[*balls(Xi[i]), *(column[i] for column in columns), balls(b[i])] for i in range(n)]
        rows += [[0] * (n + j) + [balls(rates[j])] + [0] * (J - j) for j in range(J)] + [[0] * (n + J + 1)]
        start = acb_mat([[balls(x)] for x in z0] + [[acb(1)]] * (J + 1))
        states = []
        for time in np.asarray(t):
            y = (acb_mat([[x * balls(time) for x in row] for row in rows])).exp() * start
            states.append([y[i, 0] for i in range(n)])
        return _rounded(states, False)
