"""Learn how fast each street of a town is walked, from where the walkers are at a few times.

Walkers start at six places and change from crossing to crossing at unknown rates, one for each of some 6,000 streets.
Xi is sparse: its values are built from the logarithms of the rates, and so are differentiable. A few avenues are
faster than the rest. The last line is the share of streets that are told apart rightly.
"""

import sys

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.spatial import Delaunay

import linode

torch.set_default_dtype(torch.float64)
rng = np.random.default_rng(0)
n = 2000
places = rng.uniform(size=(n, 2))  # km
corners = Delaunay(places).simplices
ends = np.unique(np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]]), axis=1), axis=0)
i, j = torch.from_numpy(ends).T
middle = places[ends].mean(axis=1)
is_avenue = (abs(middle - 0.5).min(axis=1) < 0.03) | (abs(np.hypot(*(middle - 0.5).T) - 0.35) < 0.03)  # a cross, a ring
true = torch.where(torch.from_numpy(is_avenue), 1.5, 0.0)  # log of the rate, 1/min

indices = torch.stack([torch.cat([j, i, i, j]), torch.cat([i, j, i, j])])  # entries at one place add up
starts = torch.zeros(6, n)
starts[torch.arange(6), torch.from_numpy(rng.choice(n, 6, replace=False))] = 1.0
t = torch.tensor([2.0, 5.0, 10.0, 20.0, 40.0])  # min
n_walkers = 1_000_000  # from each place


def shares(log_rate: torch.Tensor) -> torch.Tensor:
    """Of the walkers at each crossing, (6, T, n)."""
    rate = log_rate.exp()
    Xi = linode.SparseMatrix(torch.cat([rate, rate, -rate, -rate]), indices, n)
    return linode.LinearODE(Xi, starts, rtol=1e-6)(t)


seen = torch.from_numpy(rng.poisson(n_walkers * shares(true).clamp(min=0.0).numpy())).double()
log_rate = torch.zeros(len(ends), requires_grad=True)
optimiser = torch.optim.Adam([log_rate], lr=0.1)
for step in range(100):
    optimiser.zero_grad()
    expected = n_walkers * shares(log_rate).clamp(min=1e-9)
    loss = (expected - torch.xlogy(seen, expected)).sum() + 0.5 * log_rate.square().sum()  # Poisson counts; a weak prior
    loss.backward()
    optimiser.step()

learned = log_rate.detach()
figure = Figure(figsize=(11, 5), layout="constrained")
for axes, (title, values) in zip(figure.subplots(1, 2), (("true", true), ("learned", learned)), strict=True):
    lines = LineCollection(places[ends], array=values.exp().numpy(), cmap="viridis_r", lw=1.2, clim=(0.5, 5.0))
    figure.colorbar(axes.add_collection(lines), ax=axes, label="rate (1/min)")
    axes.set(title=title, xlabel="km", ylabel="km", aspect="equal", xlim=(0, 1), ylim=(0, 1))
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "walk_on_graph.png", dpi=150)
right = ((learned > 0.75) == torch.from_numpy(is_avenue)).double().mean()
print(f"{len(ends)} rates, median error of their logarithms {(learned - true).abs().median():.3f}; told apart {right:.3f}")
