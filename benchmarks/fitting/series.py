"""Forecasts of real series: the last fifth from the first four."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import linode

ROOT = Path(__file__).parents[2]
FOLDERS = {"co2": ROOT / "linode" / "cli" / "data"}
OTHERS = ROOT / "examples" / "data"
SHARE = 0.8
# by `choose`: among ranks up to 8, with a bias or without, the one that forecasts the last fifth of the first four best
OPTIONS: dict[str, dict[str, Any]] = {
    "co2": {"rank": 6, "bias": True, "stable": True},
    "elnino": {"rank": 6, "bias": False, "stable": True},
    "sunspots": {"rank": 7, "bias": False, "stable": True},
}
TARGETS = {"co2": 0.23, "elnino": 0.43, "sunspots": 1.1}


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """t and the values, NaN where one is missing."""
    t, y = np.genfromtxt(FOLDERS.get(name, OTHERS) / f"{name}.csv", delimiter=",", skip_header=1).T
    return t, y


def forecast(name: str, options: dict[str, Any], until: int | None = None) -> dict[str, Any]:
    """Root mean square error over the standard deviation of the last fifth of the first `until` samples."""
    t, y = (x[:until] for x in load(name))
    k = int(SHARE * len(t))
    start = time.process_time()
    result = linode.fit(t[:k], y[:k], **options)
    seconds = time.process_time() - start
    seen = ~np.isnan(y[k:])
    truth = y[k:][seen]
    error = np.sqrt(np.mean((result.predict(t[k:])[seen] - truth) ** 2)) / np.std(truth)
    return {"series": name, "options": options, "error": float(error), "status": result.status.name, "cpu_s": seconds}


def measure() -> list[dict[str, Any]]:
    return [forecast(name, options) | {"target": TARGETS[name]} for name, options in OPTIONS.items()]


def choose(name: str) -> dict[str, Any]:
    """The options whose forecast of the last fifth of the training part is best: nothing held out is looked at."""
    until = int(SHARE * len(load(name)[0]))
    candidates = [{"rank": rank, "bias": bias, "stable": True} for rank in range(1, 9) for bias in (False, True)]
    return min(candidates, key=lambda options: forecast(name, options, until)["error"])


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.fitting.series", description=choose.__doc__).parse_args()
    for name in OPTIONS:
        print(name, choose(name))
