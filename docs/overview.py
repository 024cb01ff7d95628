"""Draws docs/pages/overview.png, which README.md and the first page show: python docs/overview.py [another.png].

Left: the weekly CO2 record of Mauna Loa, a linear system fitted to its first four fifths, and the forecast of the rest.
Right: how wrong dL/dXi is where two eigenvalues come close, by linode and by the usual code around torch.linalg.eig;
the truth is ball arithmetic. The picture is committed, as README.md cannot make it; `gradient_errors` is tested.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import flint
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import linode

PICTURE = Path(__file__).parent / "pages/overview.png"
GAPS = 10.0 ** -np.arange(0.0, 16.1, 0.5)
TIMES = np.linspace(0.0, 2.0, 20)
EXACT = 5e-17  # where errors of 0 are drawn
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.45"


def matrix(gap: float) -> np.ndarray:
    """Two eigenvalues, -1 and -1 - gap, whose eigenvectors come together as they do."""
    return np.array([[-1.0, 1.0], [0.0, -1.0 - gap]])


def by_eig(Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    lam, V = torch.linalg.eig(Xi)
    coeff = torch.linalg.solve(V, z0.to(V.dtype))
    return ((coeff * torch.exp(lam * t[:, None])) @ V.mT).real


def by_linode(Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return linode.LinearODE(Xi, z0)(t)


def true_gradient(Xi: np.ndarray, z0: np.ndarray) -> np.ndarray:
    """Of the sum of z^2 with respect to Xi, by exponentials of [[Xi, E], [0, Xi]] (Van Loan 1978)."""
    gradient = np.zeros((2, 2))
    flint.ctx.prec = 300
    for i, j in np.ndindex(2, 2):
        E = np.zeros((2, 2))
        E[i, j] = 1.0
        block = np.block([[Xi, E], [np.zeros((2, 2)), Xi]])
        start = flint.arb_mat([[x] for x in (0.0, 0.0, *z0)])
        total = flint.arb(0)
        for t in TIMES.tolist():
            z = (flint.arb_mat(block.tolist()) * flint.arb(t)).exp() * start  # dz above, z below
            total += 2 * (z[0, 0] * z[2, 0] + z[1, 0] * z[3, 0])
        gradient[i, j] = float(total)
    return gradient


def gradient_errors(solve, gaps: np.ndarray = GAPS) -> np.ndarray:
    """Relative error of dL/dXi for each gap; infinite where there is no gradient, or it is NaN."""
    z0, errors = np.array([1.0, 1.0]), []
    for gap in gaps.tolist():
        Xi = torch.tensor(matrix(gap), requires_grad=True)
        truth = true_gradient(matrix(gap), z0)
        try:
            (found,) = torch.autograd.grad(solve(Xi, torch.from_numpy(z0), torch.from_numpy(TIMES)).square().sum(), Xi)
        except RuntimeError:
            errors.append(np.inf)
            continue
        error = np.linalg.norm(found.numpy() - truth) / np.linalg.norm(truth)
        errors.append(error if np.isfinite(error) else np.inf)
    return np.array(errors)


def draw() -> Figure:
    figure = Figure(figsize=(10.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    with (files("linode.cli") / "data/co2.csv").open() as file:
        t, y = np.genfromtxt(file, delimiter=",", skip_header=1).T
    k = int(0.8 * len(t))
    result = linode.fit(t[:k], y[:k], rank=6, bias=True, stable=True)
    shown, year = t > 27.0, 1958.24 + t
    left.plot(year[shown], y[shown], ".", color=GREY, ms=2.5, label="weekly record")
    early, late = shown & (t <= t[k]), t >= t[k]
    left.plot(year[early], result.predict(t[early]), color=BLUE, lw=1.3, label="fitted linear system")
    left.plot(year[late], result.predict(t[late]), color=ORANGE, lw=1.3, label="its forecast")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("CO$_2$ at Mauna Loa (ppm)")
    left.set_title("Learn a linear system, and forecast", loc="left", fontsize="medium")

    lost = 1.0  # where there is no gradient
    for solve, colour, marker, name in (
        (by_eig, ORANGE, "s", "torch.linalg.eig; 1: no digit is right, or NaN"),
        (by_linode, BLUE, "o", "linode"),
    ):
        errors = gradient_errors(solve)
        right.loglog(GAPS, np.clip(errors, EXACT, lost), "-", color=colour, lw=1.0)
        right.loglog(GAPS, np.clip(errors, EXACT, lost), marker, color=colour, ms=4.0, label=name)
    right.invert_xaxis()
    right.set(xlabel="distance of two eigenvalues", ylabel="relative error of dL/dΞ", ylim=(1e-17, 1e3))
    right.set_title("Gradients at every matrix", loc="left", fontsize="medium")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small", loc="upper left")
    return figure


if __name__ == "__main__":
    draw().savefig(sys.argv[1] if len(sys.argv) > 1 else PICTURE, dpi=110)
