"""What do the pieces of work cost that `auto` counts? Writes linode/methods/costs.py: python -m benchmarks.calibrate.

Seconds of pieces, not of methods: products, elementwise functions, LAPACK's factorisations, the calls of the compiled
kernel, which must be built, and with `--device cuda` launches, waits and copies; without it these are typical figures.
The best of several samples each, which hardly depends on what else the machine does; ratios are what matters to the
choice, and they carry over from one machine to the next. Beside them, numbers of operators: a step of training by each
method is run, and what reaches torch's dispatcher is counted.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from scipy.linalg import lapack
from torch.utils._python_dispatch import TorchDispatchMode

import linode
from benchmarks.report import processor
from linode.kernels import small
from linode.methods.chain import BETWEEN, MAX_ROUNDING

TARGET = Path(__file__).parent.parent / "linode" / "methods" / "costs.py"
SAMPLES, SECONDS = 25, 0.005
SIZES = (8, 16, 32, 64, 100)  # of matrices to factor
SMALL_SIZES = (4, 8, 16, 32, 48)  # the same for the compiled kernel
MANY_SYSTEMS = 201
FEW_TIMES, MANY_TIMES = 100, 500
SMALL, LARGE = 6, 80  # states of systems that operators are counted for; the large ones are too large to be checked
ALLOCATES = ("empty", "new_empty", "_unsafe_view", "_reshape_alias", "detach")
LOOP = ("mv.out", "bmm.out", "addmv_", "baddbmm_")  # products of Xi with vectors in `taylor`, which counts them itself
# s, s, s/byte: of CUDA with PyTorch over PCIe 3 x16
TYPICAL = {"SECONDS_PER_LAUNCH": 5e-6, "SECONDS_PER_WAIT": 2e-5, "SECONDS_PER_BYTE": 1 / 12e9}

Measured = dict[str, tuple[Any, str]]  # values and what they are, by name


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


def fitted(columns: Callable[[int], tuple[float, ...]], sizes: tuple[int, ...], took: list[float]) -> tuple[float, ...]:
    """Coefficients of the columns, by least squares on relative errors."""
    rows = np.array([columns(n) for n in sizes]) / np.array(took)[:, None]
    coefficients, *_ = np.linalg.lstsq(rows, np.ones(len(sizes)), rcond=None)
    return tuple(float(max(x, 0.0)) for x in coefficients)


def growth(factor: Callable[[np.ndarray], object]) -> tuple[float, ...]:
    """Coefficients of n^2 and n^3 in the time of a factorisation."""
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((n, n)) / np.sqrt(n) for n in SIZES]
    return fitted(lambda n: (n**2, n**3), SIZES, [seconds(lambda A=A: factor(A)) for A in matrices])


def problem(S: int, n: int, T: int) -> tuple[torch.Tensor, ...]:
    """Xi, z0 and t of systems whose states decay, float64."""
    rng = torch.Generator().manual_seed(0)
    Xi = torch.randn(S, n, n, dtype=torch.float64, generator=rng) / n**0.5 - torch.eye(n)
    return Xi, torch.randn(S, n, dtype=torch.float64, generator=rng), torch.linspace(0, 5, T, dtype=torch.float64)


# ---- operators -----------------------------------------------------------------------------------------------------


class Counter(TorchDispatchMode):
    """Counts operators that compute: views and allocations do not."""

    def __init__(self) -> None:
        super().__init__()
        self.n_operators = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.__name__.removesuffix(".default")
        self.n_operators += not (operator.is_view or name.startswith(ALLOCATES) or name in LOOP)
        return operator(*args, **(kwargs or {}))


def step(method: str, n: int) -> None:
    """States at 100 times and gradients of the sum of their squares."""
    Xi, z0, t = problem(1, n, 100)
    if method == "metzler":  # compartments
        Xi = Xi.abs() - torch.diag_embed(Xi.abs().sum(-2))
    linode.LinearODE(Xi[0].requires_grad_(), z0[0].requires_grad_(), method=method)(t).square().sum().backward()


def count(method: str, n: int) -> int:
    """Operators of a step, after one that has made what is kept."""
    step(method, n)
    with Counter() as counter:
        step(method, n)
    return counter.n_operators


def operators() -> Measured:
    most, small.MOST_STATES = small.MOST_STATES, 0  # without the compiled kernel
    counts = {"chain": SMALL, "eig": SMALL, "metzler": SMALL, "propagator": LARGE, "taylor": LARGE}
    counts = {method: count(method, n) for method, n in counts.items()}
    checked, close = count("propagator", SMALL), count("eig", LARGE)
    small.MOST_STATES = most
    return {
        "OPERATORS": (counts, "of torch in a training step"),
        "OPERATORS_OF_CHECK": (checked - counts["propagator"], "more of them where `propagator` checks its rounding"),
        "OPERATORS_OF_PAIRS": (
            close - counts["eig"],
            "more of them where `eig` refines close modes",
        ),
        "SECONDS_PER_OPERATOR": (
            seconds(lambda: step("propagator", SMALL)) / checked,
            "one of these on a few numbers, with its share of views and of Python",
        ),
    }


# ---- pieces --------------------------------------------------------------------------------------------------------


def pieces() -> Measured:
    rng = np.random.default_rng(0)
    states, square = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((4000, 200), (200, 200)))
    times = torch.from_numpy(rng.standard_normal((50, 4000)))
    matrix, vector = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((400, 400), 400))
    room, small_matrix, small_vector = torch.empty_like(times), matrix[:8, :8].clone(), vector[:8].clone()
    terms, few, narrow = states[:, :20].clone(), square[:20, :4].clone(), torch.empty(4000, 4, dtype=torch.float64)
    exp = seconds(lambda: torch.exp(times, out=room)) + seconds(lambda: torch.sin(times, out=room))
    flop = seconds(lambda: states @ square) / (2 * 4000 * 200**2)
    row = max(seconds(lambda: torch.mm(terms, few, out=narrow)) / terms.numel() - 8 * flop, 0.0)
    result = torch.empty_like(small_vector)
    call = seconds(lambda: torch.mv(small_matrix, small_vector, out=result))
    return {
        "SECONDS_PER_FLOP": (flop, "in products of matrices"),
        "SECONDS_PER_ROW": (row, "of few columns, of a product: beside its flops"),
        "SECONDS_PER_CALL": (call, "of torch for a product of a small matrix and a vector"),
        "SECONDS_PER_EXP": (exp / times.numel(), "one mode at one time: exp, and cos or sin"),
        "SECONDS_PER_ENTRY": (seconds(lambda: states * 2.0) / states.numel(), "of a pass over an array into a new one"),
        "SECONDS_PER_MATRIX_ENTRY": (
            seconds(lambda: torch.mv(matrix, vector)) / matrix.numel(),
            "of a product of a matrix and a vector",
        ),
        "GEEV": (
            growth(lambda A: lapack.dgeev(A, compute_vl=0)),
            "seconds n^2 and n^3 of eigenvalues with eigenvectors",
        ),
        "GEES": (growth(lambda A: lapack.dgees(lambda *_: 0, A)), "the same of a Schur form"),
    }


def compiled_step(kind: int, S: int, n: int, T: int) -> float:
    """Seconds of a plan, states and gradients by the compiled kernel."""
    Xi, z0, t = problem(S, n, T)
    starts, times = z0[:, None], t.expand(S, 1, T)
    g = torch.ones(S, 1, T, n, dtype=torch.float64)
    limit = {small.EIG: 1e9, small.CHAIN: MAX_ROUNDING}[kind]

    def run() -> None:
        made = small.make_plans(kind, Xi, limit, 5.0)
        if made is None or made.n_refused:
            raise RuntimeError("the compiled kernel refuses some systems")
        question = small.asked(starts, times)
        question.states(made.plans)
        question.vjp(made.plans, g)

    return seconds(run)


def compiled() -> Measured:
    if not small.is_in_use():
        raise SystemExit("the compiled kernel is not in use: build it, and unset LINODE_COMPILED")
    one, many = compiled_step(small.EIG, 1, 2, 1), compiled_step(small.EIG, MANY_SYSTEMS, 2, 1)
    per_system = (many - one) / (MANY_SYSTEMS - 1)
    of_factors = [max(compiled_step(small.EIG, 1, n, 1) - one, 1e-9) for n in SMALL_SIZES]

    def per_time(kind: int) -> list[float]:
        few, many = ([compiled_step(kind, 1, n, T) for n in SMALL_SIZES] for T in (FEW_TIMES, MANY_TIMES))
        return [(y - x) / (MANY_TIMES - FEW_TIMES) for x, y in zip(few, many)]

    flops = fitted(lambda n: (3 * BETWEEN.n_terms * n,), SMALL_SIZES, per_time(small.CHAIN))
    return {
        "COMPILED_CALL": (one - per_system, "a step by the compiled kernel: its three calls"),
        "COMPILED_SYSTEM": (per_system, "each of its systems, of two states at one time"),
        "COMPILED_EIG": (
            fitted(lambda n: (n**2, n**3), SMALL_SIZES, of_factors),
            "seconds n^2 and n^3 of its eigenpairs, their check and what a gradient adds",
        ),
        "COMPILED_EIG_TIME": (
            fitted(lambda n: (n, n**2), SMALL_SIZES, per_time(small.EIG)),
            "seconds n and n^2 of a state and its gradient by modes",
        ),
        "COMPILED_FLOP": (flops[0], "its multiplications with an addition, in polynomials of `chain`"),
    }


def of_device(name: str | None) -> Measured:
    """Launches, waits and copies on a device."""
    whats = ("of an operator off the CPU", "of a value read there", "of a copy from there or to there")
    if name is None:
        values, origin = TYPICAL, "; typical of CUDA over PCIe 3 x16, not measured"
        return {key: (value, what + origin) for (key, value), what in zip(values.items(), whats)}
    device = torch.device(name)
    x, large, n_launches = torch.ones(8, 8, device=device), torch.ones(2**22, dtype=torch.float64), 1000

    def launch() -> None:
        for _ in range(n_launches):
            x.add_(1.0)
        x[0, 0].item()

    wait = seconds(lambda: x[0, 0].item())
    per_launch = max(seconds(launch) - wait, 0.0) / n_launches
    per_byte = max(seconds(lambda: large.to(device).cpu()) - wait, 0.0) / (2 * large.nbytes)
    return {
        key: (value, f"{what}; measured on {name}")
        for key, value, what in zip(TYPICAL, (per_launch, wait, per_byte), whats)
    }


def written(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))})"
    return f"{value:.2g}" if isinstance(value, float) else repr(value).replace("'", '"')


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrate", description=__doc__)
    parser.add_argument("--device", help="measure launches, waits and copies there, for example cuda")
    device = parser.parse_args().device
    torch.set_num_threads(1)  # what several are worth depends on what else the machine does
    lines = [
        '"""Pieces of work that costs of methods are made of, in seconds; only ratios matter.',
        "",
        "Written by `python -m benchmarks.calibrate`; do not edit.",
        f"Measured {datetime.date.today()} on {processor()} ({platform.machine()}), 1 thread; "
        f"torch {torch.__version__},",
        f"numpy {np.__version__}, scipy {scipy.__version__}; float64.",
        '"""',
        "",
    ]
    for name, (value, what) in (pieces() | operators() | compiled() | of_device(device)).items():
        lines.append(f"{name} = {written(value)}  # {what}")
    TARGET.write_text("\n".join(lines) + "\n")
    print(TARGET.read_text(), end="")


if __name__ == "__main__":
    main()
