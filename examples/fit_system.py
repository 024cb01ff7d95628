"""Identify a linear system in one call: three masses on springs from noisy, irregular samples with gaps, with errors.

Nothing is known of the system but that it has six states, all of them measured, a fifth of the values lost.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import linode

rng = np.random.default_rng(0)
mass, spring = np.array([1.0, 1.3, 0.8]), np.array([4.0, 2.5, 3.0, 5.0])  # kg, N/m
K = np.diag(spring[:3] + spring[1:]) - np.diag(spring[1:3], 1) - np.diag(spring[1:3], -1)
stiffness = K / mass[:, None]  # 1/s^2
Xi = np.block([[np.zeros((3, 3)), np.eye(3)], [-stiffness, -0.05 * (stiffness + np.eye(3))]])

t = np.sort(rng.uniform(0.0, 15.0, 200))  # s
clean = linode.LinearODE(Xi, rng.standard_normal(6))(t - t[0])
z = clean + 0.1 * clean.std() * rng.standard_normal(clean.shape)
z[rng.uniform(size=z.shape) < 0.2] = np.nan

result = linode.fit(t, z)
print(result.summary())

module = result.to_module()  # a torch.nn.Module, to train on from here
print(f"\nmodule starts from Xi: {bool(np.allclose(module.Xi.detach(), result.Xi))}")
figure = Figure(figsize=(12, 4.5), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=(2, 1))
names = [f"{what} of mass {i} ({unit})" for what, unit in (("position", "m"), ("speed", "m/s")) for i in (1, 2, 3)]
result.plot(left, channels=[0, 1, 2], ahead=5.0, labels=names, xlabel="time (s)", ylabel="position (m)")
result.plot_eigenvalues(right)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "fit_system.png", dpi=150)
inside = np.mean(np.abs(result.Xi - Xi) < 1.96 * result.stderr)
error = np.linalg.norm(result.Xi - Xi) / np.linalg.norm(Xi)
print(f"95 % intervals that hold the true entry: {inside:.2f}, relative error of Xi: {error:.3f}")
