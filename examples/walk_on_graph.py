"""Learn how fast each street of a town is walked, from counts of walkers at the crossings at four times.

They start at 30 places and change from crossing to crossing at unknown rates, one for each of some 3,000 streets; a few
avenues are faster. Xi is sparse, its values are built from the logarithms of the rates. The last line says how well.
"""

import sys

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.optimize import minimize
from scipy.spatial import Delaunay

import linode

torch.set_default_dtype(torch.float64)
rng = np.random.default_rng(0)
n, n_walkers = 1000, 1_000_000  # from each place
places = rng.uniform(size=(n, 2))  # of the crossings, km
corners = Delaunay(places).simplices
ends = np.unique(np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]]), axis=1), axis=0)
middle = places[ends].mean(axis=1) - 0.5
is_avenue = torch.from_numpy((abs(middle).min(axis=1) < 0.03) | (abs(np.hypot(*middle.T) - 0.35) < 0.03))  # cross, ring
true = torch.where(is_avenue, 1.5, 0.0)  # logarithm of the rate (1/min)

i, j = torch.from_numpy(ends).T
indices = torch.stack([torch.cat([j, i, i, j]), torch.cat([i, j, i, j])])  # values at one place add up
starts, t = torch.eye(n)[torch.from_numpy(rng.choice(n, 30, replace=False))], torch.tensor([1.0, 2.0, 4.0, 8.0])  # min


def expected(log_rate: torch.Tensor) -> torch.Tensor:
    """Walkers at each crossing, (30, 4, n); those who leave a crossing arrive at its neighbours."""
    rate = log_rate.exp()
    Xi = linode.SparseMatrix(torch.cat([rate, rate, -rate, -rate]), indices, n)
    return n_walkers * linode.LinearODE(Xi, starts, rtol=1e-6)(t).clamp(min=1e-9)


counts = torch.from_numpy(rng.poisson(expected(true).numpy())).double()


def misfit(values: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus the logarithm of the likelihood of Poisson counts, with a weak prior."""
    log_rate = torch.from_numpy(values).requires_grad_()
    mean = expected(log_rate)
    loss = (mean - counts - torch.xlogy(counts, mean / counts.clamp(min=1.0))).sum() + log_rate.square().sum()
    return loss.item(), torch.autograd.grad(loss, log_rate)[0].numpy()


best = minimize(misfit, np.zeros(len(ends)), jac=True, method="L-BFGS-B", options={"maxiter": 80, "maxcor": 20})
learned = torch.from_numpy(best.x)
figure = Figure(figsize=(11, 5), layout="constrained")
for axes, (title, values) in zip(figure.subplots(1, 2), (("true", true), ("learned", learned)), strict=True):
    lines = axes.add_collection(LineCollection(places[ends], array=values.exp().numpy(), clim=(0.5, 5.0)))
    figure.colorbar(lines, ax=axes, label=f"rate, {title} (1/min)")
    axes.set(xlabel="km", ylabel="km", aspect="equal", xlim=(0, 1), ylim=(0, 1))
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "walk_on_graph.png", dpi=150)
right, error = ((learned > 0.75) == is_avenue).double().mean(), (learned - true).abs().median()
print(f"{len(ends)} streets, {right:.3f} of them told apart; median error of the logarithms of the rates: {error:.3f}")
