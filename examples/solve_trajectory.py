"""Solve a trajectory from a script: NumPy in, NumPy out, no gradients asked for.

A chain of three radioactive decays, Po-218 -> Pb-214 -> Bi-214 -> decayed, with half-lives of minutes. The
last line is the largest difference from its closed form, that of Bateman (1910).
"""

import sys

import numpy as np

import linode
from linode.plotting import plot_trajectories

half_life = np.array([3.07, 27.06, 19.71])  # minutes: Po-218, Pb-214, Bi-214
rate = np.log(2) / half_life
Xi = np.diag([*-rate, 0.0]) + np.diag(rate, -1)  # each nuclide feeds the next
z0 = np.array([1.0, 0.0, 0.0, 0.0])  # shares of the atoms
t = np.array([0.0, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 240.0])  # minutes, not evenly spaced

solution = linode.LinearODE(Xi, z0).solve(t)
z = solution.z  # (T, n), a NumPy array

print("t (min)    Po-218    Pb-214    Bi-214    decayed")
for time, shares in zip(t, z, strict=True):
    print(f"{time:7.1f}  " + "  ".join(f"{share:8.5f}" for share in shares))
print(f"method: {solution.method}; {solution.status}")

fine = np.linspace(0.0, 240.0, 500)
ax = plot_trajectories(
    fine,
    linode.LinearODE(Xi, z0)(fine),
    labels=["Po-218", "Pb-214", "Bi-214", "decayed"],
    xlabel="time (min)",
    ylabel="share of the atoms",
)
ax.figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "solve_trajectory.png", dpi=150)


def bateman(times: np.ndarray, index: int) -> np.ndarray:
    """Share of nuclide `index` in a chain that starts as nuclide 0 (Bateman 1910)."""
    rates = rate[: index + 1]
    terms = [np.exp(-r * times) / np.prod(np.delete(rates, i) - r) for i, r in enumerate(rates)]
    return np.prod(rates[:-1]) * np.sum(terms, axis=0)


error = max(np.abs(z[:, i] - bateman(t, i)).max() for i in range(3))
print(f"largest difference from the closed form: {error:.1e}")
