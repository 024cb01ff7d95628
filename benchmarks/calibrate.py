"""What do the pieces of work cost that `auto` counts? Writes linode/methods/costs.py: python -m benchmarks.calibrate.

Only pieces are timed, never linode's methods: products, elementwise functions, LAPACK's factorisations, calls. The best
of several samples each; ratios are what matters to the choice, and they carry over from one machine to the next.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
import torch
from scipy.linalg import lapack

from benchmarks.report import processor

TARGET = Path(__file__).parent.parent / "linode" / "methods" / "costs.py"
SAMPLES, SECONDS = 9, 0.02
SIZES = (8, 16, 32, 64, 100)  # of matrices to factor


def seconds(run: Callable[[], object]) -> float:
    """The best sample's time of one call."""
    run()
    start = time.perf_counter()
    run()
    n_calls = max(1, int(SECONDS / max(time.perf_counter() - start, 1e-7)))
    samples = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        for _ in range(n_calls):
            run()
        samples.append((time.perf_counter() - start) / n_calls)
    return min(samples)


def growth(factor: Callable[[np.ndarray], object]) -> tuple[float, float]:
    """Coefficients of n^2 and n^3 in the time of a factorisation, by least squares on relative errors."""
    rng = np.random.default_rng(0)
    rows, ones = [], []
    for n in SIZES:
        A = rng.standard_normal((n, n)) / np.sqrt(n)
        took = seconds(lambda A=A: factor(A))
        rows.append([n**2 / took, n**3 / took])
        ones.append(1.0)
    coefficients, *_ = np.linalg.lstsq(np.array(rows), np.array(ones), rcond=None)
    return tuple(float(max(x, 0.0)) for x in coefficients)


def measured() -> dict[str, tuple[object, str]]:
    """Values and what they are, by name."""
    rng = np.random.default_rng(0)
    states, square = (
        torch.from_numpy(rng.standard_normal((4000, 200))),
        torch.from_numpy(rng.standard_normal((200, 200))),
    )
    times = torch.from_numpy(rng.standard_normal((50, 4000)))
    small, out = rng.standard_normal((1, 8, 8)), np.empty((1, 8, 8))
    matrix, vector = torch.from_numpy(rng.standard_normal((400, 400))), torch.from_numpy(rng.standard_normal(400))
    tiny, tiny_out = torch.from_numpy(small), torch.from_numpy(out)
    entries, room = states.numpy(), torch.empty_like(times)
    exp = seconds(lambda: torch.exp(times, out=room))
    sin = seconds(lambda: torch.sin(times, out=room))
    call = seconds(lambda: np.multiply(small, small, out=out)) + seconds(lambda: np.matmul(small, small, out=out))
    torch_call = seconds(lambda: torch.mul(tiny, tiny, out=tiny_out)) + seconds(lambda: torch.bmm(tiny, tiny))
    return {
        "SECONDS_PER_FLOP": (seconds(lambda: states @ square) / (2 * 4000 * 200**2), "in products of matrices"),
        "SECONDS_PER_EXP": ((exp + sin) / times.numel(), "one mode at one time: exp, and cos or sin"),
        "SECONDS_PER_ENTRY": (seconds(lambda: entries * 2.0) / entries.size, "of a pass over an array into a new one"),
        "SECONDS_PER_MATRIX_ENTRY": (
            seconds(lambda: torch.mv(matrix, vector)) / matrix.numel(),
            "of a product of a matrix and a vector",
        ),
        "SECONDS_PER_CALL": (call / 2, "of NumPy on arrays of a few entries"),
        "SECONDS_PER_TORCH_CALL": (torch_call / 2, "of torch on the same"),
        "GEEV": (
            growth(lambda A: lapack.dgeev(A, compute_vl=0)),
            "seconds n^2 and n^3 of eigenvalues with eigenvectors",
        ),
        "GEES": (growth(lambda A: lapack.dgees(lambda *_: 0, A)), "the same of a Schur form"),
    }


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.calibrate", description=__doc__).parse_args()
    torch.set_num_threads(2)
    lines = [
        '"""Seconds of the pieces of work that costs of methods are made of; only ratios matter.',
        "",
        "Written by `python -m benchmarks.calibrate`; do not edit.",
        f"Measured {datetime.date.today()} on {processor()} ({platform.machine()}), 2 threads; "
        f"torch {torch.__version__},",
        f"numpy {np.__version__}, scipy {scipy.__version__}; float64.",
        '"""',
        "",
    ]
    for name, (value, what) in measured().items():
        shown = f"({', '.join(f'{x:.2g}' for x in value)})" if isinstance(value, tuple) else f"{value:.2g}"
        lines.append(f"{name} = {shown}  # {what}")
    TARGET.write_text("\n".join(lines) + "\n")
    print(TARGET.read_text(), end="")


if __name__ == "__main__":
    main()
