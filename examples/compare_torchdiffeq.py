"""linode and torchdiffeq on the same two problems: seconds and errors of both, against the closed form.

Non-stiff: a damped oscillator beside a slow decay; stiff: beside one 1,000 times faster. Xi = Q D Q with a reflection
Q and a block-diagonal D, so that z(t) = Q e^{Dt} Q z0 is known, and so is the derivative of the loss sum |z|^2 along
Xi: sum 2 t_i <z_i, Xi z_i>. Times are medians of training steps, forward and backward.
"""

import statistics
import sys
import time

import torch
import torchdiffeq

import linode
from linode.plotting import plot_comparison

torch.set_default_dtype(torch.float64)
t = torch.linspace(0.0, 10.0, 101)
z0 = torch.tensor([1.0, -0.5, 2.0])
Q = torch.eye(3) - torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 6.0, 9.0]]) / 7


def closed_form(decay: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Xi, the trajectory (T, 3) and the derivative of the loss along Xi."""
    Xi = Q @ torch.tensor([[-0.1, 2.0, 0.0], [-2.0, -0.1, 0.0], [0.0, 0.0, -decay]]) @ Q
    x, y, w = Q @ z0
    cos, sin = torch.exp(-0.1 * t) * torch.cos(2 * t), torch.exp(-0.1 * t) * torch.sin(2 * t)
    z = torch.stack([x * cos + y * sin, y * cos - x * sin, torch.exp(-decay * t) * w], -1) @ Q
    return Xi, z, (2 * t[:, None] * z * (z @ Xi.mT)).sum()


def with_linode(Xi: torch.Tensor) -> torch.Tensor:
    return linode.odeint(Xi, z0, t)


def with_torchdiffeq(Xi: torch.Tensor) -> torch.Tensor:
    return torchdiffeq.odeint(lambda _, z: Xi @ z, z0, t, rtol=1e-8, atol=1e-8)  # dopri5, its default


rows = []
print("problem    solver            seconds  error of z  gradient along Xi")
for problem, decay in (("non-stiff", 0.2), ("stiff", 200.0)):
    Xi, z_true, slope = closed_form(decay)
    Xi.requires_grad_()
    for solve in (with_linode, with_torchdiffeq):
        times = []
        while len(times) < 3 or (sum(times) < 1.0 and len(times) < 50):  # the first one warms up
            start = time.perf_counter()
            z = solve(Xi)
            (gradient,) = torch.autograd.grad(z.square().sum(), Xi)
            times.append(time.perf_counter() - start)
        seconds = statistics.median(times[1:])
        errors = (z - z_true).abs().max().item(), ((gradient * Xi).sum() / slope - 1).abs().item()
        name = f"{solve.__name__.removeprefix('with_')}, {problem}"
        rows.append({"method": name, "seconds": seconds, "error": max(errors)})
        print(f"{problem:10} {solve.__name__:16} {seconds:8.4f}  {errors[0]:10.1e}  {errors[1]:17.1e}")
ax = plot_comparison(rows, xlabel="a training step (s)", ylabel="largest error of z and of its gradient")
ax.figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "compare_torchdiffeq.png", dpi=150)
print(f"largest error of linode: {max(row['error'] for row in rows if row['method'].startswith('linode')):.1e}")
