"""`linode demo`: the weekly CO2 record of Mauna Loa, fitted, forecast, and solved by torchdiffeq too.

Source of the data: C. D. Keeling, T. P. Whorf, Scripps Institution of Oceanography; public domain.
"""

from __future__ import annotations

import importlib
import time
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..fitting.fit import fit
from ..fitting.result import FitResult
from ..ode import LinearODE
from .comparing import OverBudgetError, limited
from .console import progress, seconds, show_table
from .errors import OK
from .output import PICTURES, Output, json_text, write_picture
from .tables import Array

SHARE = 0.8  # of the record that is fitted; the rest is forecast
OPTIONS: dict[str, Any] = {"rank": 6, "bias": True, "stable": True}
ORIGINS = (0.55, 0.6, 0.65, 0.7, 0.75)  # shares of the fitted part after which earlier forecasts start
LEVEL = 0.95  # of the band
BUDGET = 20.0  # seconds for torchdiffeq
ROUNDS = 5  # timed steps


def demo(out: Path, *, as_json: bool, force: bool) -> int:
    picture = Output(out, PICTURES, force)
    t, y = record()
    k = int(SHARE * len(t))
    with progress("fitting"):
        start = time.perf_counter()
        result = fit(t[:k], y[:k], **OPTIONS)
        fit_seconds = time.perf_counter() - start
    with progress("forecasts from earlier origins"):
        width = band(t[:k], y[:k], t[k:] - t[k - 1])
    held, forecast = y[k:], result.predict(t[k:])
    seen = ~np.isnan(held)
    error = float(np.sqrt(np.mean((forecast - held)[seen] ** 2)))
    facts: dict[str, Any] = {
        "weeks": int((~np.isnan(y[:k])).sum()),
        "missing": int(np.isnan(y).sum()),
        "fit_seconds": fit_seconds,
        "sigma": float(result.sigma),
        "forecast_years": float(t[-1] - t[k - 1]),
        "rmse": error,
        "relative": error / float(np.std(held[seen])),
        "band_holds": held_share(forecast, held, width),
        "naive_band_holds": held_share(forecast, held, 1.959964 * np.hypot(result.predict_stderr(t[k:]), result.sigma)),
    }
    with progress("the same by torchdiffeq"):
        facts |= beside_torchdiffeq(result, t[:k])
    with progress("drawing"):
        write_picture(picture, drawn(t, y, k, result, width))
    facts["picture"] = str(out)
    print(json_text(facts)) if as_json else shown(facts)
    return OK


def record() -> tuple[Array, Array]:
    """Years since the first sample, and ppm, NaN where a week is missing."""
    with (files("linode.cli") / "data" / "co2.csv").open() as file:
        t, y = np.genfromtxt(file, delimiter=",", skip_header=1).T
    return t, y


def band(t: Array, y: Array, ahead: Array) -> Array:
    """Half width at each time ahead: the 95 % quantile of the errors of forecasts from earlier origins.

    Residuals of this fit are correlated in time, so that standard errors are far too small; errors of forecasts of
    known years are not affected.
    """
    leads, errors = [], []
    for share in ORIGINS:
        k = int(share * len(t))
        early = fit(t[:k], y[:k], **OPTIONS)
        off = np.abs(early.predict(t[k:]) - y[k:])
        seen = ~np.isnan(off)
        leads.append((t[k:] - t[k - 1])[seen])
        errors.append(off[seen])
    lead, off = np.concatenate(leads), np.concatenate(errors)
    edges = np.linspace(0.0, float(ahead.max()), 13)
    inside = [off[(lead > a) & (lead <= b)] for a, b in pairwise(edges)]
    steps = np.maximum.accumulate([np.quantile(x, LEVEL) if len(x) else 0.0 for x in inside])
    return np.asarray(np.interp(ahead, (edges[1:] + edges[:-1]) / 2, steps))


def held_share(forecast: Array, held: Array, width: Array) -> float:
    """Share of the held-out values inside a band of this half width."""
    seen = ~np.isnan(held)
    return float(np.mean(np.abs(forecast - held)[seen] <= width[seen]))


def beside_torchdiffeq(result: FitResult, t: Array) -> dict[str, Any]:
    """Seconds of a training step on the fitted system by both packages, and the largest difference of the states."""
    since = torch.from_numpy(t - t[0])
    system = torch.from_numpy(np.array(result.Xi)), torch.from_numpy(np.array(result.z0))
    force = torch.from_numpy(np.array(result.b))

    def by_linode(Xi: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        return LinearODE(Xi, z0, b=force)(since)

    def by_torchdiffeq(Xi: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        odeint = importlib.import_module("torchdiffeq").odeint
        return odeint(lambda _, z: Xi @ z + force, z0, since, rtol=1e-8, atol=1e-8, method="dopri5")

    def step(solve: Any) -> tuple[float, Array]:
        Xi, z0 = (x.clone().requires_grad_() for x in system)
        start = time.perf_counter()
        z = solve(Xi, z0)
        z.square().mean().backward()
        return time.perf_counter() - start, z.detach().numpy()

    step(by_linode)
    own = [step(by_linode) for _ in range(ROUNDS)]
    found: dict[str, Any] = {"step_seconds": float(np.median([x for x, _ in own])), "torchdiffeq_step_seconds": None}
    try:
        with limited(BUDGET):
            other, z = step(by_torchdiffeq)
    except (ImportError, OverBudgetError) as error:
        missing = isinstance(error, ImportError)
        return found | {"torchdiffeq": "is not installed" if missing else f"took more than {BUDGET:g} s"}
    apart = float(np.abs(z - own[0][1]).max() / np.abs(z).max())
    return found | {"torchdiffeq_step_seconds": other, "apart": apart}


def shown(facts: dict[str, Any]) -> None:
    other, own = facts["torchdiffeq_step_seconds"], facts["step_seconds"]
    share, white = (f"{100 * facts[name]:.0f} %" for name in ("band_holds", "naive_band_holds"))
    compared = facts.get("torchdiffeq", "")
    if other is not None:
        compared = f"{seconds(other)} (dopri5, rtol 1e-8): {other / own:.0f} times as long, {facts['apart']:.0e} apart"
    rows = [
        ("fit", f"{facts['weeks']} weeks ({facts['missing']} of all are missing), 6 states"),
        ("", f"{seconds(facts['fit_seconds'])}, with standard errors"),
        ("forecast", f"{facts['forecast_years']:.1f} years that were held out"),
        ("", f"error {facts['rmse']:.2f} ppm (RMS), {facts['relative']:.2f} of their standard deviation"),
        ("95 % band", f"of forecasts from earlier years: holds {share} of the held-out weeks"),
        ("", f"(of standard errors for white noise: {white}; residuals are not white)"),
        ("step of training", f"{seconds(own)} by linode, states and gradients"),
        ("by torchdiffeq", compared),
        ("picture", facts["picture"]),
    ]
    show_table("CO2 at Mauna Loa, 1958-2001", ("", ""), rows)


def drawn(t: Array, y: Array, k: int, result: FitResult, width: Array) -> Any:
    """The whole record, and below it the years that were held out."""
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(8.0, 6.4), layout="constrained")
    whole, close = figure.subplots(2)
    year = 1958.24 + t
    fitted, forecast = result.predict(t[:k]), result.predict(t[k:])
    for axes, first in ((whole, 0), (close, k - 260)):
        axes.plot(year[first:], y[first:], ".", color="0.45", ms=2.5, label="weekly data", zorder=1)
        axes.plot(year[first:k], fitted[first:], color="#0072B2", lw=1.2, label="fit", zorder=2)
        axes.plot(year[k:], forecast, color="#D55E00", lw=1.2, label="forecast", zorder=3)
        low, high = forecast - width, forecast + width
        axes.fill_between(year[k:], low, high, color="#D55E00", alpha=0.2, lw=0, label="95 % of earlier errors")
        axes.axvline(year[k - 1], color="0.6", lw=0.8, ls=":")
        axes.set_ylabel("CO$_2$ (ppm)")
        axes.margins(x=0.01)
    whole.legend(frameon=False, loc="upper left")
    close.set_xlabel("year")
    title = "CO$_2$ at Mauna Loa: six states fitted to four fifths of the record"
    whole.set_title(title, fontsize="medium", loc="left")
    return figure
