"""Short inputs and functions u(t), against what one would write by hand: a constant b, held samples, discretize, u(t).

`python -m benchmarks.inputs [rounds]` prints the median time of each, in random order in one process, with the largest
error relative to the largest state. By hand: the system of z and a constant, or of z and held inputs. Truth: ball
arithmetic for b and discretize, a loop with those for held samples, DOP853 at its smallest tolerance for functions; of
larger tolerances that one is timed whose error is the largest that is not above linode's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
import torch
from scipy.integrate import solve_ivp

import linode
from tests import forced_oracles as oracle

N, M, STEP = 6, 2, 0.01
SAMPLES, STATES = (50, 100, 300, 1000), (1, 6, 20, 50, 100)
Row = tuple[str, str, Callable[[], Any], float]  # group, name, call, error


def error(got: Any, true: np.ndarray) -> float:
    return float(np.abs(np.asarray(got) - true).max() / np.abs(true).max())


def system(n: int = N) -> tuple[np.ndarray, ...]:
    """Xi, B, b, z0."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, n)) / np.sqrt(n) - 1.5 * np.eye(n), *(rng.standard_normal(s) for s in ((n, M), n, n))


def bordered(Xi: np.ndarray, G: np.ndarray) -> np.ndarray:
    """[[Xi, G], [0, 0]]."""
    return np.block([[Xi, G], [np.zeros((G.shape[1], sum(G.shape)))]])


def constant() -> list[Row]:
    Xi, _, b, z0 = system()
    t, few = np.linspace(0.0, 10.0, 1768), slice(0, None, 300)
    true = oracle.solution(oracle.zero_order, Xi, z0, t[few], b, np.eye(N), [0.0], np.zeros((1, N)))
    calls = {
        "linode": lambda: linode.LinearODE(Xi, z0, b=b)(t),
        "by hand": lambda: linode.LinearODE(bordered(Xi, b[:, None]), np.append(z0, 1.0))(t)[:, :N],
    }
    rows = [("constant b, 1768 times", name, call, error(call()[few], true)) for name, call in calls.items()]
    return [*rows, ("constant b, 1768 times", "without b", lambda: linode.LinearODE(Xi, z0)(t), np.nan)]


def step() -> list[Row]:
    Xi, B, *_ = system()
    nothing = np.zeros(N)
    true = np.stack(
        [
            oracle.solution(oracle.zero_order, Xi, nothing, [STEP], nothing, B, [0.0], [e])[0] for e in np.eye(M)
        ], -1,
    )  # fmt: skip
    shapes = np.eye(N), np.zeros((N, M))
    calls = {
        "linode": lambda: linode.discretize(Xi, B, STEP)[1],
        "by hand": lambda: linode.expm(bordered(Xi * STEP, B * STEP))[:N, N:],
        "cont2discrete": lambda: scipy.signal.cont2discrete((Xi, B, *shapes), STEP)[1],
    }
    return [("discretize", name, call, error(call(), true)) for name, call in calls.items()]


def samples(K: int, hold: str) -> list[Row]:
    Xi, B, _, z0 = system()
    times, values = np.arange(K) * STEP, np.random.default_rng(1).standard_normal((K, M))
    cls = {"zero": linode.ZeroOrderHold, "first": linode.FirstOrderHold}[hold]
    space, is_first = scipy.signal.StateSpace(Xi, B, np.eye(N), np.zeros((N, M))), hold == "first"
    kept = linode.LinearODE(Xi, z0, B=B, u=cls(times, values))

    def looped() -> np.ndarray:
        Ad, *gains = linode.discretize(Xi, B, STEP, hold)
        d = sum(values[i : K - 1 + i] @ G.T for i, G in enumerate(gains))
        z = np.empty((K, N))
        z[0] = z0
        for k in range(K - 1):
            z[k + 1] = Ad @ z[k] + d[k]
        return z

    calls = {
        "linode": lambda: linode.LinearODE(Xi, z0, B=B, u=cls(times, values))(times),
        "linode, solver kept": lambda: kept(times),
        "discretize and a loop": looped,
        "lsim": lambda: scipy.signal.lsim(space, values, times, z0, interp=is_first)[1],
    }
    true = looped()
    return [(f"{hold}-order hold, {K} samples", name, call, error(call(), true)) for name, call in calls.items()]


def functions(n: int) -> list[Row]:
    Xi, *_, z0 = system(n)
    rng = np.random.default_rng(2)
    w, phase = rng.uniform(0.5, 3.0, n), rng.uniform(0.0, 6.0, n)
    w_, phase_ = torch.tensor(w), torch.tensor(phase)
    ode = linode.LinearODE(Xi, z0, u=lambda t: torch.sin(t[:, None] * w_ + phase_))

    def integrated(rtol: float) -> np.ndarray:
        found = solve_ivp(
            lambda t, z: Xi @ z + np.sin(w * t + phase), (0, 5), z0, "DOP853", [5.0], rtol=rtol, atol=rtol / 100
        )
        return found.y.T

    true = integrated(2.3e-14)
    own = error(ode([5.0]), true)
    rtol = next((x for x in 10.0 ** -np.arange(4.0, 13.5, 0.5) if error(integrated(x), true) <= own), 3e-14)
    name = f"u(t) on all of {n} states"
    return [
        (name, "linode", lambda: ode([5.0]), own),
        (name, f"DOP853, rtol {rtol:.0e}", lambda: integrated(rtol), error(integrated(rtol), true)),
    ]


def main(n_rounds: int) -> None:
    torch.set_num_threads(1)
    rows = [*constant(), *step()]
    for K in SAMPLES:
        rows += [*samples(K, "zero"), *samples(K, "first")]
    for n in STATES:
        rows += functions(n)
    seconds: list[list[float]] = [[] for _ in rows]
    rng = np.random.default_rng(3)
    for _ in range(n_rounds):
        for i in rng.permutation(len(rows)):
            call = rows[i][2]
            call()  # what other rows have driven out of the caches
            start = time.perf_counter()
            call()
            seconds[i].append(time.perf_counter() - start)
    for (group, name, _, err), own in zip(rows, seconds):
        print(f"{group:28} {name:24} {1e3 * np.median(own):8.3f} ms  error {err:.1e}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
