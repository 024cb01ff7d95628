"""Long inputs: K samples through n = 6 states, at the samples' own times, against who steps through them in a loop.

`irregular` is linode at irregular samples, the others' are uniform. Errors are those of the first N_TRUE samples.
scipy's and python-control's loops have no gradients; the loop in torch is that of a training script, E @ z + d a step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from flint import arb_mat, ctx
from torch import Tensor

import linode
from benchmarks.harness import Row, Runner, Settings, interleave, peak_of
from benchmarks.truth import relative_errors
from benchmarks.workloads import Workload
from tests.balls import cached

N, M, K, N_TRUE, STEP = 6, 2, 100_000, 200, 0.01
MOST_ROUNDS = 15
PAUSE = (
    0.2  # seconds before a timed call: after scipy's loop NumPy's threads were seen to spin for 0.12, beside torch's
)
HOLDS = {"zero": linode.ZeroOrderHold, "first": linode.FirstOrderHold}
IRREGULAR, MOST_IRREGULAR = "irregular", 5.0  # irregular samples are to take at most so many times as long
# forward alone the loop in torch has no target
PEERS, LOOP = {"lsim": 10.0, "forced_response": 10.0, "torch loop": None}, {"torch loop": 50.0}
WORKLOADS = {
    f"forced-{hold}": Workload(f"forced-{hold}", N, K, seeds=(0,), targets=LOOP, forward_targets=PEERS)
    for hold in HOLDS
}


def describe(name: str, n_samples: int) -> str:
    return f"{name.split('-')[1]}-order hold of {n_samples} samples, n = {N}, m = {M}, asked for at their times"


@lru_cache(maxsize=8)
def problem(n_samples: int, is_uniform: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    Xi = rng.standard_normal((N, N)) / np.sqrt(N) - 1.5 * np.eye(N)
    B, z0 = rng.standard_normal((N, M)), rng.standard_normal(N)
    values, g = rng.standard_normal((n_samples, M)), rng.standard_normal((n_samples, N))
    times = STEP * np.arange(n_samples)
    if not is_uniform:
        times = np.append(0.0, np.sort(rng.uniform(0.0, STEP * n_samples, n_samples - 1)))
    return {"Xi": Xi, "z0": z0, "B": B, "times": times, "values": values, "g": g}


# ---- truth -----------------------------------------------------------------------------------------------------------


@cached
def marched(
    Xi: np.ndarray, z0: np.ndarray, B: np.ndarray, times: np.ndarray, u: np.ndarray, du: np.ndarray, g: np.ndarray
):
    """z (K, n) at the samples and dL/dXi of sum <g, z>, with B (u_k + du_k s) from sample k on; in 256 bits.

    Source: Van Loan (1978): a step is the exponential of [[Xi, w1, w0], [0, 0, 1], [0, 0, 0]], its adjoint the corner
    of that of twice the size.
    """
    n, size, n_samples = len(z0), len(z0) + 2, len(times)
    with ctx.workprec(256):
        gain, states = arb_mat(B.tolist()), [arb_mat([[x] for x in z0])]
        steps, starts = [], []
        for k in range(n_samples - 1):
            w0, w1 = (gain * arb_mat([[x] for x in v[k]]) for v in (u, du))
            rows = [[float(x) for x in Xi[i]] + [w1[i, 0], w0[i, 0]] for i in range(n)] + [[0] * n + [0, 1], [0] * size]
            steps.append(arb_mat(rows) * (arb_mat([[times[k + 1]]])[0, 0] - times[k]))
            starts.append(arb_mat([[states[-1][i, 0]] for i in range(n)] + [[0], [1]]))
            after = steps[-1].exp() * starts[-1]
            states.append(arb_mat([[after[i, 0]] for i in range(n)]))
        lam, total = arb_mat([[x] for x in g[-1]] + [[0], [0]]), arb_mat(size, size)
        for k in reversed(range(n_samples - 1)):
            h = arb_mat([[times[k + 1]]])[0, 0] - times[k]
            back, outer = steps[k].transpose(), lam * starts[k].transpose() * h
            block = arb_mat(
                [[*(back[i, j] for j in range(size)), *(outer[i, j] for j in range(size))] for i in range(size)]
                + [[0] * size + [back[i, j] for j in range(size)] for i in range(size)]
            ).exp()
            total += arb_mat([[block[i, size + j] for j in range(size)] for i in range(size)])
            lam = arb_mat([[block[i, j] for j in range(size)] for i in range(size)]) * lam
            lam = arb_mat([[lam[i, 0] + g[k][i]] for i in range(n)] + [[0], [0]])
        z = np.array([[float(x[i, 0].mid()) for i in range(n)] for x in states])
        return z, np.array([[float(total[i, j].mid()) for j in range(n)] for i in range(n)])


def truth(hold: str, is_uniform: bool, n_samples: int) -> dict[str, np.ndarray]:
    p = problem(n_samples, is_uniform)
    few = min(N_TRUE, n_samples)
    times, values = p["times"][:few], p["values"][:few]
    slopes = np.diff(values, axis=0) / np.diff(times)[:, None] * (hold == "first")
    slopes = np.concatenate([slopes, slopes[-1:] * 0])
    z, dXi = marched(p["Xi"], p["z0"], p["B"], times, values, slopes, p["g"][:few])
    return {"z": z, "dXi": dXi}


# ---- contenders ------------------------------------------------------------------------------------------------------


def with_linode(hold: str) -> Callable[..., Tensor]:
    return lambda Xi, z0, B, times, values: linode.LinearODE(Xi, z0, B=B, u=HOLDS[hold](times, values))(times)


def with_lsim(hold: str) -> Callable[..., Tensor]:
    import scipy.signal

    def solve(Xi: Tensor, z0: Tensor, B: Tensor, times: Tensor, values: Tensor) -> Tensor:
        Xi, z0, B, times, values = (x.numpy() for x in (Xi, z0, B, times, values))
        system = scipy.signal.StateSpace(Xi, B, np.eye(N), np.zeros((N, M)))
        return torch.from_numpy(scipy.signal.lsim(system, values, times, z0, interp=hold == "first")[2])

    return solve


def with_control() -> Callable[..., Tensor]:
    import control

    def solve(Xi: Tensor, z0: Tensor, B: Tensor, times: Tensor, values: Tensor) -> Tensor:
        system = control.StateSpace(Xi.numpy(), B.numpy(), np.eye(N), np.zeros((N, M)))
        return torch.from_numpy(control.forced_response(system, times.numpy(), values.numpy().T, z0.numpy()).states.T)

    return solve


def with_loop(hold: str) -> Callable[..., Tensor]:
    def solve(Xi: Tensor, z0: Tensor, B: Tensor, times: Tensor, values: Tensor) -> Tensor:
        E, *gains = linode.discretize(Xi, B, times[1] - times[0], hold=hold)
        d = sum(values[i : len(values) - 1 + i] @ gain.mT for i, gain in enumerate(gains))
        z = [z0]
        for c in d:
            z.append(E @ z[-1] + c)
        return torch.stack(z)

    return solve


def contenders(name: str) -> dict[str, Callable[..., Tensor]]:
    hold = name.split("-")[1]
    found = {"linode": with_linode(hold), IRREGULAR: with_linode(hold), "lsim": with_lsim(hold)}
    if hold == "first":
        with contextlib.suppress(ImportError):
            found["forced_response"] = with_control()
    return found | {"torch loop": with_loop(hold)}


def measure(name: str, mode: str, settings: Settings, n_samples: int = K) -> list[Row]:
    """linode first; those without gradients say so in a step's rows."""
    hold, runners, rows = name.split("-")[1], [], []
    for contender, solve in contenders(name).items():
        row = Row(contender)
        rows.append(row)
        if mode == "step" and contender in ("lsim", "forced_response"):
            row.note = "skipped: no gradients"
            continue
        is_uniform = contender != IRREGULAR

        def run(solve: Any = solve, is_uniform: bool = is_uniform, n: int = n_samples) -> tuple[Tensor, ...]:
            p = problem(n_samples, is_uniform)
            Xi, z0, B, times, values, g = settings.tensors(*p.values())
            if mode == "forward":
                return (solve(Xi, z0, B, times[:n], values[:n]),)
            inputs = [x.requires_grad_() for x in (Xi, z0, B, values)]
            z = solve(Xi, z0, B, times[:n], values[:n])
            return z.detach(), *torch.autograd.grad(z, inputs, g[:n])

        def check(run: Any = run, is_uniform: bool = is_uniform) -> dict[str, float]:
            few = min(N_TRUE, n_samples)
            answers = dict(zip(("z", "dXi"), run(n=few)[:2]))
            answers = {key: x.detach().cpu().numpy() for key, x in answers.items()}
            return relative_errors(answers, truth(hold, is_uniform, n_samples))

        most = min(settings.n_rounds, MOST_ROUNDS if contender != "torch loop" else 3)
        pause = partial(time.sleep, PAUSE)
        runners.append(Runner(row, settings.synchronised(run), most, 4 * settings.seconds, before=pause))
        runners[-1].warm_up(check)
        if settings.with_memory and contender != "torch loop":
            row.peak_bytes = peak_of(run, settings.device)
    interleave(runners, settings.rng())
    return rows
