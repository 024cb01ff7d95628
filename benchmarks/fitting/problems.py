"""What is to be identified: noisy data of known systems, new ones for every seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import linode

Array = np.ndarray


@dataclass(frozen=True)
class Problem:
    """Data, options of `linode.fit`, and the truth: Xi where the states are seen, else the clean observations alone."""

    t: Any  # (T,), or a list of them
    z: Any  # (T, p), or a list of them
    clean: Any
    sigma: float
    u: Array | None = None
    options: dict[str, Any] = field(default_factory=dict)
    Xi: Array | None = None
    B: Array | None = None
    eigenvalues: Array | None = None
    is_uniform: bool = False

    @property
    def trajectories(self) -> list[tuple[Array, Array, Array]]:
        """(t, z, clean) of each."""
        if isinstance(self.t, list):
            return list(zip(self.t, self.z, self.clean))
        return [(self.t, self.z, self.clean)]


def noisy(rng: np.random.Generator, clean: list[Array], share: float) -> tuple[list[Array], float]:
    """Observations with noise of a share of their root mean square."""
    sigma = share * float(np.sqrt(np.mean(np.concatenate([x.ravel() for x in clean]) ** 2)))
    return [x + sigma * rng.standard_normal(x.shape) for x in clean], sigma


def states(Xi: Array, z0: Array, t: Array, **forcing: Any) -> Array:
    return linode.LinearODE(Xi, z0, **forcing)(t - t[0])


def oscillators(share: float) -> Callable[[np.random.Generator], Problem]:
    """Three masses on damped springs, one trajectory of 200 irregular samples of positions and velocities."""

    def make(rng: np.random.Generator) -> Problem:
        mass, spring = np.array([1.0, 1.3, 0.8]), np.array([4.0, 2.5, 3.0, 5.0])
        K = (np.diag(spring[:3] + spring[1:]) - np.diag(spring[1:3], 1) - np.diag(spring[1:3], -1)) / mass[:, None]
        Xi = np.block([[np.zeros((3, 3)), np.eye(3)], [-K, -0.05 * (K + np.eye(3))]])
        t = np.sort(rng.uniform(0.0, 15.0, 200))
        clean = states(Xi, rng.standard_normal(6), t)
        (z,), sigma = noisy(rng, [clean], share)
        return Problem(t, z, clean, sigma, Xi=Xi)

    return make


def ten(is_uniform: bool) -> Callable[[np.random.Generator], Problem]:
    """Ten trajectories of 30 samples of a system of ten states, another one for every seed."""

    def make(rng: np.random.Generator) -> Problem:
        A = rng.standard_normal((10, 10)) / np.sqrt(10)
        Xi = A - 0.6 * A.T - 0.5 * np.eye(10)
        Xi -= max(0.0, np.linalg.eigvals(Xi).real.max() + 0.1) * np.eye(10)
        ts = [np.linspace(0.0, 6.0, 30) if is_uniform else np.sort(rng.uniform(0.0, 6.0, 30)) for _ in range(10)]
        clean = [states(Xi, rng.standard_normal(10), t) for t in ts]
        zs, sigma = noisy(rng, clean, 0.05)
        return Problem(ts, zs, clean, sigma, Xi=Xi, is_uniform=is_uniform)

    return make


def compartments(n: int) -> Callable[[np.random.Generator], Problem]:
    """A dose into the first of n compartments, the only one observed: dense samples, then sparse ones."""

    def make(rng: np.random.Generator) -> Problem:
        rates = {2: [[-1.3, 0.4], [0.8, -0.4]], 3: [[-1.6, 0.4, 0.05], [0.8, -0.4, 0.0], [0.3, 0.0, -0.05]]}
        Xi = np.array(rates[n])
        t = np.r_[np.linspace(0.05, 2.0, 20), np.linspace(2.5, 12.0, 20), np.linspace(14.0, 48.0, 15)]
        clean = 10 * states(Xi, np.eye(n)[0], t)[:, :1]
        (z,), sigma = noisy(rng, [clean], 0.02)
        return Problem(t, z, clean, sigma, options={"rank": n}, eigenvalues=np.linalg.eigvals(Xi))

    return make


def stiff(rng: np.random.Generator) -> Problem:
    """Rates -0.1, -10 and -1000 in a basis that is not orthogonal, at logarithmic times."""
    V = np.array([[1.0, 0.5, 0.2], [0.3, 1.0, 0.4], [0.1, 0.3, 1.0]])
    Xi = V @ np.diag([-0.1, -10.0, -1000.0]) @ np.linalg.inv(V)
    t = np.geomspace(1e-5, 1e2, 120)
    clean = states(Xi, np.array([2.0, 2.0, 2.0]), t)
    (z,), sigma = noisy(rng, [clean], 0.01)
    return Problem(t, z, clean, sigma, Xi=Xi)


def jordan(rng: np.random.Generator) -> Problem:
    """A chain of four equal rates, a Jordan block: six trajectories of 30 irregular samples."""
    Xi = -np.eye(4) + np.diag(np.ones(3), -1)
    ts = [np.sort(rng.uniform(0.0, 8.0, 30)) for _ in range(6)]
    clean = [states(Xi, 2 * rng.standard_normal(4), t) for t in ts]
    zs, sigma = noisy(rng, clean, 0.02)
    return Problem(ts, zs, clean, sigma, Xi=Xi)


def forced(is_uniform: bool) -> Callable[[np.random.Generator], Problem]:
    """Four states, two known inputs that change at every tenth of 200 irregular samples, or at each of 400 uniform."""

    def make(rng: np.random.Generator) -> Problem:
        Xi = np.array([[-0.5, 2, 0, 0], [-2, -0.5, 0.5, 0], [0, 0, -0.3, 1], [0.2, 0, -1, -0.4]])
        B = rng.standard_normal((4, 2))
        t = np.linspace(0.0, 40.0, 400) if is_uniform else np.sort(rng.uniform(0.0, 20.0, 200))
        u = rng.standard_normal((400, 2)) if is_uniform else np.repeat(rng.standard_normal((20, 2)), 10, axis=0)
        clean = states(Xi, rng.standard_normal(4), t, B=B, u=linode.ZeroOrderHold(t - t[0], u))
        (z,), sigma = noisy(rng, [clean], 0.03)
        return Problem(t, z, clean, sigma, u=u, Xi=Xi, B=B, is_uniform=is_uniform)

    return make


def snapshots(is_uniform: bool) -> Callable[[np.random.Generator], Problem]:
    """150 snapshots of 400 channels in which six modes are."""

    def make(rng: np.random.Generator) -> Problem:
        lam = np.array([-0.1 + 2j, -0.05 + 3.1j, -0.3 + 0.7j])
        t = np.linspace(0.0, 12.0, 150) if is_uniform else np.sort(rng.uniform(0.0, 12.0, 150))
        waves = np.exp(np.outer(t, lam))
        clean = np.c_[waves.real, waves.imag] @ rng.standard_normal((6, 400))
        (z,), sigma = noisy(rng, [clean], 0.1)
        every = np.r_[lam, lam.conj()]
        return Problem(t, z, clean, sigma, options={"rank": 6}, eigenvalues=every, is_uniform=is_uniform)

    return make


PROBLEMS: dict[str, Callable[[np.random.Generator], Problem]] = {
    "oscillators 1 %": oscillators(0.01),
    "oscillators 5 %": oscillators(0.05),
    "oscillators 20 %": oscillators(0.20),
    "ten states, uniform": ten(True),
    "ten states, irregular": ten(False),
    "two compartments": compartments(2),
    "three compartments": compartments(3),
    "stiff": stiff,
    "Jordan block": jordan,
    "forced, uniform": forced(True),
    "forced, irregular": forced(False),
    "snapshots, uniform": snapshots(True),
    "snapshots, irregular": snapshots(False),
}


def problem(name: str, seed: int) -> Problem:
    return PROBLEMS[name](np.random.default_rng(seed))
