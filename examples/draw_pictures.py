"""Every kind of picture that linode draws, on one sheet.

Each function takes axes and returns them, or makes a figure of its own. Names are shown as they are, colours can be
told apart by people who confuse red and green. The last line is the share of data that lie in the bands of the fit.
"""

import sys
import time

import numpy as np
from matplotlib.figure import Figure

import linode
from linode.plotting import plot_comparison

figure = Figure(figsize=(13, 11), layout="constrained")
axes = figure.subplots(3, 2)

spring = linode.LinearODE([[0.0, 1.0], [-4.0, -0.6]], [1.0, 0.0], b=[0.0, 2.0])  # a mass on a spring, pulled by b
spring.plot(np.linspace(0.0, 10.0, 300), ax=axes[0, 0], labels=["position (m)", "velocity (m/s)"], xlabel="time (s)")
spring.plot_phase(ax=axes[0, 1], z0=[[1.0, 0.0], [-0.5, 2.0]], labels=["position (m)", "velocity (m/s)"])

saddle = linode.LinearODE([[1.0, 0.5], [1.0, -1.5]], [-1.0, 1.9])
saddle.plot_phase(ax=axes[1, 0])

rng = np.random.default_rng(0)
t = np.sort(rng.uniform(0.0, 8.0, 120))
Xi = [[-0.1, 2.0, 0.0], [-2.0, -0.1, 0.4], [0.0, 0.0, -0.8]]
z = linode.LinearODE(Xi, [1.0, 0.0, 2.0])(t) + 0.1 * rng.standard_normal((120, 3))
result = linode.fit(t, z)
result.plot(ax=axes[1, 1], channels=[0, 2], ahead=3.0, labels=["x", "y", "w"])
result.plot_eigenvalues(ax=axes[2, 0])

rows = []
for n in (2, 8, 32, 64):  # seconds for all states at 1000 times, by two methods
    A = rng.standard_normal((n, n)) / np.sqrt(n) - np.eye(n)
    for method in ("eig", "propagator"):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            linode.LinearODE(A, np.ones(n), method=method)(np.linspace(0.0, 5.0, 1000))
            times.append(time.perf_counter() - start)
        rows.append({"method": method, "n": n, "seconds": float(np.median(times))})
plot_comparison(rows, ax=axes[2, 1], x="n", y="seconds")

titles = ("Trajectories", "Phase portrait", "A saddle", "Fit and forecast", "Eigenvalues of the fit", "Comparison")
for ax, title in zip(axes.flat, titles, strict=True):
    ax.set_title(title, loc="left", fontweight="bold")
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "draw_pictures.png", dpi=150)
width = 1.96 * np.hypot(result.predict_stderr(t), result.sigma)
print(f"share of the data within 95 % bands: {np.mean(np.abs(result.predict(t) - z) <= width):.3f}")
