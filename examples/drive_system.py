"""Drive a mass on a spring: the response to a rough measured force, then the gentlest force that does a task.

The mass is to stand still at 1 cm for the whole of the third second. The force is held between 300 samples; gradients
with respect to these go through the exact solution. The last line is the largest distance from the target in that time.
"""

import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import minimize

import linode

torch.set_default_dtype(torch.float64)
m, k, c = 0.5, 200.0, 1.0  # kg, N/m, N s/m: 3.2 Hz, lightly damped
Xi = torch.tensor([[0.0, 1.0], [-k / m, -c / m]])  # of position (m) and velocity (m/s)
B = torch.tensor([[0.0], [1 / m]])  # force (N)
rest = torch.zeros(2)

# a force as a sensor records it: irregular times, noise, two steps; the response at times of its own
rng = np.random.default_rng(1)
times = torch.from_numpy(np.sort(rng.uniform(0.0, 4.0, 400)))
force = 2.0 * ((times > 0.5).double() - (times > 2.0).double()) + torch.from_numpy(rng.normal(0.0, 0.3, 400))
t = torch.linspace(0.0, 4.0, 401)
measured = linode.LinearODE(Xi, rest, B=B, u=linode.FirstOrderHold(times, force[:, None]))(t)

# optimal control: least force and least change of force that brings the mass to its target and keeps it there
steps = torch.arange(300) * 0.01
still = (t >= 2.0) & (t < 3.0)
control = torch.zeros(300, 1, requires_grad=True)
u = linode.ZeroOrderHold(steps, control)
ode = linode.LinearODE(Xi, rest, B=B, u=u)  # what it decomposes it decomposes once


def cost_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
    control.data[:, 0], control.grad = torch.from_numpy(values), None
    z = ode(t[still])
    cost = 1e8 * (z[:, 0] - 0.01).square().mean() + control.square().mean() + 100 * control.diff(dim=0).square().mean()
    cost.backward()
    return cost.item(), control.grad[:, 0].numpy()


best = minimize(cost_and_gradient, np.zeros(300), jac=True, method="L-BFGS-B", options={"maxiter": 100, "maxcor": 30})
control.data[:, 0] = torch.from_numpy(best.x)
driven = ode(t).detach()
figure = Figure(figsize=(9, 6), layout="constrained")
# the recorded force is joined by straight lines; the other one is held: it is drawn in steps, the last until t = 4
held = torch.cat([steps, t[-1:]]), torch.cat([control.detach()[:, 0], control.detach()[-1]])
panels = (("recorded", times, force, "default", measured), ("least", *held, "steps-post", driven))
for (top, bottom), (name, at, values, style, z) in zip(figure.subplots(2, 2, sharex=True).T, panels, strict=True):
    top.plot(at, values, lw=0.8, color="#D55E00", drawstyle=style)
    bottom.plot(t, 100 * z[:, 0], color="#0072B2")
    top.set(title=f"{name} force", ylabel="force (N)")
    bottom.set(xlabel="time (s)", ylabel="position (cm)")
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "drive_system.png", dpi=150)
error = (driven[still, 0] - 0.01).abs().max()
print(f"largest force {np.abs(best.x).max():.2f} N; largest distance from the target: {1000 * error:.4f} mm")
