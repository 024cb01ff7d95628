"""What is kept between calls worth: N_CALLS of ode(t) with one solver, against building it anew for every call?"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

import linode
from benchmarks.contenders import with_lean_eig
from benchmarks.harness import Row, Runner, Settings, interleave, peak_of
from benchmarks.truth import relative_errors, truth
from benchmarks.workloads import Workload

NAME = "repeat"
N_CALLS = 1000  # one timed turn
MOST_ROUNDS = 10  # a turn takes up to half a second
WORKLOAD = Workload(
    NAME, 20, 10, seeds=(0,), targets={"linode anew": 10, "lean eig anew": 10}, forward_targets={"linode anew": 10}
)


def describe(n_calls: int) -> str:
    return f"{n_calls} calls of ode(t), {WORKLOAD}"


def measure(settings: Settings, n_calls: int = N_CALLS) -> list[Row]:
    """Forward alone; seconds of all calls together."""
    problem = WORKLOAD.problem(WORKLOAD.seeds[0])
    Xi, z0, t = settings.tensors(problem.Xi, problem.z0, problem.t)
    ode, true = linode.LinearODE(Xi, z0), truth(problem)
    lam, V = torch.linalg.eig(Xi)
    coeff = torch.linalg.solve(V, z0.to(V.dtype))
    calls = {
        "linode": lambda: ode(t),
        "linode anew": lambda: linode.LinearODE(Xi, z0)(t),
        "lean eig": lambda: ((coeff * torch.exp(lam * t[:, None])) @ V.mT).real,
        "lean eig anew": lambda: with_lean_eig(Xi, z0, t),
    }
    runners = []
    for name, call in calls.items():

        def run(call=call) -> Tensor:
            for _ in range(n_calls):
                z = call()
            return z

        def check(call=call) -> dict[str, float]:
            return relative_errors({"z": call()[problem.witnesses].cpu().numpy()}, true)

        runner = Runner(Row(name), settings.synchronised(run), min(settings.n_rounds, MOST_ROUNDS), inf)
        runner.warm_up(check)
        runner.row.peak_bytes = peak_of(call, settings.device)
        runners.append(runner)
    interleave(runners, settings.rng())
    return [runner.row for runner in runners]
