"""`linode compare`: one system solved by several packages, with time and error of each."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..ode import LinearODE
from .console import progress, remark, seconds, show_table
from .errors import OK, Refusal
from .files import check_stdin
from .output import PICTURES, Output, json_text, sheet, write_picture
from .solving import times_after
from .systems import read_system
from .tables import Array

MOST_ROUNDS = 20  # timings of each contender
MOST_TRUTH_STATES, N_TRUTH_TIMES = 100, 8  # for ball arithmetic, which then takes some seconds
BITS = 400  # of ball arithmetic; `exact` tells where they are too few
Contender = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class OverBudgetError(Exception):
    """A contender took longer than its budget."""


@dataclass
class Row:
    """Median seconds for states, and for states with gradients; the relative error; or why there are none."""

    name: str
    forward: float | None = None
    step: float | None = None
    error: float | None = None
    note: str = ""


def compare(
    path: Path, times: str | None, z0: str | None, budget: float, plot: Path | None, *, as_json: bool, force: bool
) -> int:
    picture = None if plot is None else Output(plot, PICTURES, force)
    check_stdin(path, times, z0)
    system = read_system(path, z0)
    t = times_after(system, times, np.linspace(0.0, 10.0, 200))
    if "b" in system.arrays and system.arrays["b"].any():
        raise Refusal(f"{path} holds a constant forcing b, which the other packages' code here does not take")
    Xi, start = system.arrays["Xi"], system.arrays["z0"]
    if np.iscomplexobj(Xi) or np.iscomplexobj(start):
        raise Refusal(f"{path} is complex; compare takes real systems")
    if system.remark:
        remark(system.remark)
    machine = conditions()  # before, as this command is a load too
    with progress("comparing"):
        rows, note = measured(Xi, start, t, budget)
    if picture is not None:
        write_picture(picture, drawn(rows))
    if as_json:
        print(json_text({"rows": [vars(row) for row in rows], "note": note, **machine}))
        return OK
    table = []
    for row in rows:
        times_taken = ("" if x is None else seconds(x) for x in (row.forward, row.step))
        table.append((row.name, *times_taken, "" if row.error is None else f"{row.error:.1e}", row.note))
    title = f"{system.n} states, {len(t)} times"
    show_table(title, ("", "states", "with gradients", "relative error", "note"), table)
    print(note)
    print(f"times: medians, in turns; {told(machine)}")
    return OK


def conditions() -> dict[str, Any]:
    """What times depend on: torch's threads, the processors, and how many processes wanted them in the last minute."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows
        load = None
    return {"threads": torch.get_num_threads(), "processors": os.cpu_count(), "load": load}


def told(machine: dict[str, Any]) -> str:
    n, load, processors = machine["threads"], machine["load"], machine["processors"]
    words = f"{n} thread{'s' * (n != 1)} of torch, {processors} processors"
    if load is None:
        return words
    busy = ", more than they can serve: times are too long" if processors and load > processors + 0.5 else ""
    return f"{words}, load {load:.2g}{busy}"


def measured(Xi: Array, z0: Array, t: Array, budget: float) -> tuple[list[Row], str]:
    """A row for each contender, and what the errors refer to."""
    A, start, times = (torch.from_numpy(np.array(x, float)) for x in (Xi, z0, t))
    truth, where, note = exact(Xi, z0, t)
    rows: list[Row] = []
    alive: list[tuple[Row, Contender]] = []
    for name, contender in CONTENDERS.items():
        row = Row(name)
        rows.append(row)
        try:
            with limited(budget):
                z = contender(A, start, times).detach().numpy()
                step(contender, A, start, times)
        except OverBudgetError:
            row.note = f"took more than {budget:g} s"
            continue
        except ImportError as error:
            row.note = f"{error.name} is not installed"
            continue
        except Exception as error:
            row.note = f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"
            continue
        if truth is not None:
            scale = np.abs(truth).max(-1, keepdims=True)
            with np.errstate(all="ignore"):
                row.error = float(np.max(np.abs(z[where] - truth) / np.where(scale > 0, scale, 1.0)))
        alive.append((row, contender))
    medians = interleaved([contender for _, contender in alive], A, start, times, budget)
    for (row, _), (forward, whole) in zip(alive, medians):
        row.forward, row.step = forward, whole
    return rows, note


def step(contender: Contender, Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor) -> None:
    A, start = Xi.clone().requires_grad_(), z0.clone().requires_grad_()
    contender(A, start, t).square().sum().backward()


def interleaved(
    contenders: list[Contender], Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor, budget: float
) -> list[tuple[float, float]]:
    """Median seconds of each contender, in turns, so that a slow moment of the machine affects all."""
    forwards: list[list[float]] = [[] for _ in contenders]
    steps: list[list[float]] = [[] for _ in contenders]
    for _ in range(1 + MOST_ROUNDS):
        for contender, own, whole in zip(contenders, forwards, steps):
            if not own or sum(own) + sum(whole) < budget / 2:
                own.append(timed(partial(contender, Xi, z0, t)))
                whole.append(timed(partial(step, contender, Xi, z0, t)))
    return [(float(np.median(f)), float(np.median(s))) for f, s in zip(forwards, steps)]


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    try:
        call()
    except RuntimeError:  # it ran before, so the failure depends on rounding, as in eig's backward
        return float("nan")
    return time.perf_counter() - start


@contextmanager
def limited(budget: float) -> Iterator[None]:
    """Raise OverBudgetError after `budget` seconds; no limit where the system or thread has no alarm."""

    def stop(*_: Any) -> None:
        raise OverBudgetError

    try:
        previous = signal.signal(signal.SIGALRM, stop)
    except (AttributeError, ValueError):  # Windows, or not the main thread
        yield
        return
    shown = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is not OverBudgetError:
            shown(unraisable)

    sys.unraisablehook = hook
    # every 0.05 s, as an exception raised inside a finaliser is lost
    signal.setitimer(signal.ITIMER_REAL, budget, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        sys.unraisablehook = shown


# ---- contenders ----------------------------------------------------------------------------------------------------


def by_linode(Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return LinearODE(Xi, z0)(t)


def by_torchdiffeq(Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    odeint = importlib.import_module("torchdiffeq").odeint
    order = torch.argsort(t)
    grid, inverse = torch.unique(t[order], return_inverse=True)
    zero = torch.zeros(1, dtype=t.dtype, device=t.device)
    if (grid < 0).any():
        raise ValueError("negative times")
    with_zero = grid if grid[0] == 0 else torch.cat([zero, grid])
    z = odeint(lambda _, y: Xi @ y, z0, with_zero, rtol=1e-8, atol=1e-10, method="dopri5")
    z = z if grid[0] == 0 else z[1:]
    return z[inverse[torch.argsort(order)]]


def by_matrix_exp(Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_exp(t[:, None, None] * Xi) @ z0


def by_eig(Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    lam, V = torch.linalg.eig(Xi)
    c = torch.linalg.solve(V, z0.to(V.dtype))
    return ((c * torch.exp(lam * t[:, None])) @ V.mT).real


CONTENDERS: dict[str, Contender] = {
    "linode": by_linode,
    "torchdiffeq dopri5, rtol 1e-8": by_torchdiffeq,
    "torch.linalg.matrix_exp": by_matrix_exp,
    "torch.linalg.eig": by_eig,
}


# ---- truth ----------------------------------------------------------------------------------------------------


def exact(Xi: Array, z0: Array, t: Array) -> tuple[Array | None, Array, str]:
    """States at some times by ball arithmetic, the positions of these in t, and a note about errors."""
    where = np.unique(np.linspace(0, len(t) - 1, min(N_TRUTH_TIMES, len(t))).astype(int))
    if len(Xi) > MOST_TRUTH_STATES:
        return None, where, f"no errors: the truth takes too long for more than {MOST_TRUTH_STATES} states"
    try:
        flint = importlib.import_module("flint")
    except ImportError:
        return None, where, "no errors: their truth needs python-flint: pip install python-flint"
    before, flint.ctx.prec = flint.ctx.prec, BITS
    try:
        A, v = flint.arb_mat(Xi.tolist()), flint.arb_mat([[x] for x in z0.tolist()])
        states = []
        for x in t[where].tolist():
            z = (A * flint.arb(x)).exp() * v
            if any(not z[i, 0].rel_accuracy_bits() > 60 and z[i, 0].mid() != 0 for i in range(len(Xi))):
                return None, where, f"no errors: {BITS} bits are too few for this system"
            states.append([float(z[i, 0].mid()) for i in range(len(Xi))])
    finally:
        flint.ctx.prec = before
    return np.array(states), where, f"errors: largest of {len(where)} times, relative to |z|, against ball arithmetic"


def drawn(rows: list[Row]) -> Any:
    found = [
        {"method": row.name, "seconds": row.step, "error": max(row.error, 1e-17)}
        for row in rows
        if row.step is not None and row.error is not None and np.isfinite(row.error)
    ]
    if not found:
        raise Refusal("there is nothing to draw: no contender has a time and an error")
    return importlib.import_module("linode.plotting").plot_comparison(found, sheet()).figure
