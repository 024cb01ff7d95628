"""Learn where a plate conducts heat well: the diffusivity of 10,000 cells from noisy pictures of its temperature.

z' = div(d grad z), without a flow through the edges. Xi is not formed: an `Operator` multiplies by it, and gradients
reach the logarithm of d in every cell. The last number is its error, relative to its variation over the plate.
"""

import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import minimize
from torch.nn.functional import avg_pool2d, pad

import linode

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
m = 100  # cells of 1 mm in each direction
t, line = torch.linspace(2.0, 16.0, 8), torch.linspace(-1, 1, m)  # s; a side of the plate
z0 = avg_pool2d(torch.randn(1, 1, m + 2, m + 2), 3, 1).flatten()  # warm and cold spots, known
y, x = torch.meshgrid(line, line, indexing="ij")
true = 0.7 * (3 * x).sin() * (2 * y).cos() + 1.2 * (-20 * ((x - 0.4) ** 2 + (y + 0.3) ** 2)).exp()  # log of mm^2/s


def inflow(v: torch.Tensor, log_d: torch.Tensor) -> torch.Tensor:
    """Heat that flows into each cell, (..., n); between two cells d is the geometric mean of theirs."""
    z = v.unflatten(-1, (m, m))
    right = ((log_d[:, 1:] + log_d[:, :-1]) / 2).exp() * z.diff(dim=-1)
    down = ((log_d[1:] + log_d[:-1]) / 2).exp() * z.diff(dim=-2)
    return (pad(right, (0, 1)) - pad(right, (1, 0)) + pad(down, (0, 0, 0, 1)) - pad(down, (0, 0, 1, 0))).flatten(-2)


def temperature(log_d: torch.Tensor) -> torch.Tensor:
    """At all times, (8, n)."""
    bounds = (-8 * float(log_d.detach().max().exp()), 0.0)  # by Gershgorin's discs
    Xi = linode.Operator(inflow, m * m, parameters=[log_d], hermitian=True, bounds=bounds)
    return linode.LinearODE(Xi, z0, rtol=1e-6)(t)


seen = (exact := temperature(true)) + (sigma := 0.01 * exact.std()) * torch.randn_like(exact)


def misfit(values: np.ndarray) -> tuple[float, np.ndarray]:
    """Half the squares of the residuals in units of sigma, and a price for steps between neighbours."""
    log_d = torch.from_numpy(values).reshape(m, m).requires_grad_()
    loss = ((temperature(log_d) - seen) / sigma).square().sum() / 2
    loss += 100 * (log_d.diff(dim=0).square().sum() + log_d.diff(dim=1).square().sum())
    return loss.item(), torch.autograd.grad(loss, log_d)[0].flatten().numpy()


best = minimize(misfit, np.zeros(m * m), jac=True, method="L-BFGS-B", options={"maxiter": 40})
learned, figure = torch.from_numpy(best.x).reshape(m, m), Figure(figsize=(11, 3.4), layout="constrained")
panels = (("temperature seen after 2 s", seen[0].reshape(m, m)), ("log diffusivity, true", true), ("learned", learned))
for axes, (title, values) in zip(figure.subplots(1, 3), panels, strict=True):
    figure.colorbar(axes.imshow(values.numpy()), ax=axes)
    axes.set_title(title)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "learn_diffusion.png", dpi=150)
error = (learned - true).std() / true.std()
print(f"{m * m} diffusivities from {len(t)} pictures, {best.nfev} evaluations: relative error {error:.3f}")
