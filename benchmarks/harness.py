"""How long does each contender take, how much memory, and how wrong is it?

Contenders run interleaved in one process on the same problem, warmed up. Before every sample there is a pause, for the
threads of whoever ran before, and an untimed call, unless it takes LONG. A sample is the mean time of as many calls as
take SAMPLE_SECONDS together; figures are medians and quartiles over the samples of all seeds. Memory is what one call
allocates at most at once, its output included, on the first seed. Errors are the largest over the seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median, quantiles

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders import LIMIT, N_EACH, Contender, contenders_of, limit
from benchmarks.truth import relative_errors, truth
from benchmarks.workloads import Problem, Workload
from tests.test_memory import peak_bytes

SAMPLE_SECONDS = 0.03
SLOW = 5.0  # seconds of the first call, beyond which it is the only one
PAUSE = 0.02  # seconds before a sample: threads of whoever ran before go on spinning, torch's for some 7 ms
LONG = 0.2  # seconds of one call
FAILURES = (RuntimeError, ValueError, AssertionError)  # what torch.linalg.eig, linode's methods and torchdiffeq raise


@dataclass
class Row:
    """One contender on one workload: seconds of every sample, or why there are none."""

    contender: str
    samples: list[float] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)  # relative
    peak_bytes: int | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        low, _, high = quantiles(self.samples, n=4, method="inclusive")
        return low, high


@dataclass
class Runner:
    """One contender made ready for one problem."""

    row: Row
    run: Callable[[], object]
    n_rounds: int
    seconds_left: float
    n_calls: int = 1  # in one sample
    n_untimed: int = 1  # before each
    pause: float = PAUSE

    def warm_up(self, check: Callable[[], dict[str, float]], sample_seconds: float) -> None:
        start = time.perf_counter()
        self.row.errors = _largest(self.row.errors, check())
        seconds = time.perf_counter() - start
        if seconds > SLOW:  # cold, but so slow that it does not matter
            self.row.samples.append(seconds)
            self.n_rounds = 0
            return
        start = time.perf_counter()
        self.run()
        seconds = time.perf_counter() - start
        self.n_calls, self.n_untimed = max(1, int(sample_seconds / seconds)), int(seconds < LONG)

    def sample(self) -> None:
        time.sleep(self.pause)
        for _ in range(self.n_untimed):
            self.run()
        start = time.perf_counter()
        for _ in range(self.n_calls):
            self.run()
        seconds = time.perf_counter() - start
        self.seconds_left -= seconds
        self.row.samples.append(seconds / self.n_calls)


def interleave(runners: list[Runner], n_rounds: int) -> None:
    """One sample of each in every round, until its rounds or, after three, its seconds are used up."""
    for i in range(n_rounds):
        for runner in runners:
            if i < min(runner.n_rounds, 3) or (i < runner.n_rounds and runner.seconds_left > 0):
                runner.sample()


@dataclass(frozen=True)
class Settings:
    """How much to measure, and where."""

    n_rounds: int = 15
    seconds: float = 6.0  # for each contender, seed and mode
    sample_seconds: float = SAMPLE_SECONDS
    device: str = "cpu"
    with_methods: bool = False
    with_memory: bool = True
    most_seeds: int = 3

    def synchronised(self, run: Callable[[], object]) -> Callable[[], object]:
        if torch.device(self.device).type != "cuda":
            return run

        def finished() -> object:
            result = run()
            torch.cuda.synchronize()
            return result

        return finished

    def tensors(self, *arrays: np.ndarray) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(x).to(self.device) for x in arrays)


def measure(workload: Workload, mode: str, settings: Settings, skip: frozenset[str] = frozenset()) -> list[Row]:
    """A row for each contender but those to skip, over the workload's seeds; mode is "forward" or "step"."""
    everyone = [x for x in contenders_of(workload, settings.with_methods) if x.name not in skip]
    rows = {name: Row(name) for name in (*(contender.name for contender in everyone), LIMIT)}
    for contender in everyone:
        rows[contender.name].note = _why_not(contender, workload, mode, settings)
    for seed in workload.seeds[: settings.most_seeds]:
        _measure_problem(workload.problem(seed), mode, settings, everyone, rows)
    return list(rows.values())


def _measure_problem(
    problem: Problem, mode: str, settings: Settings, everyone: list[Contender], rows: dict[str, Row]
) -> None:
    """Add samples, errors and memory on one problem to the rows."""
    true, runners = truth(problem), []
    for contender in everyone:
        row = rows[contender.name]
        if row.note:
            continue
        run = _prepared(contender, problem, problem.g, mode, settings)
        n_rounds = min(settings.n_rounds, contender.n_rounds or settings.n_rounds)
        runner = Runner(row, run, n_rounds, settings.seconds)
        try:
            runner.warm_up(partial(_check, contender, problem, true, mode, settings), settings.sample_seconds)
        except FAILURES as error:
            row.note = f"raises {type(error).__name__}: {str(error).splitlines()[0][:80]}"
            row.samples.clear()
            continue
        runners.append(runner)
        is_traced = runner.n_rounds > 0 and problem.t.shape[-1] <= contender.traced_up_to
        if settings.with_memory and is_traced and row.peak_bytes is None:
            row.peak_bytes = peak_of(run, settings.device)
    arrays = settings.tensors(problem.Xi, problem.z0, problem.t)
    run = settings.synchronised(lambda: limit(*arrays, N_EACH[mode]))
    runners.append(Runner(rows[LIMIT], run, settings.n_rounds, settings.seconds))
    runners[-1].warm_up(lambda: run() or {}, settings.sample_seconds)
    interleave(runners, settings.n_rounds)


def peak_of(run: Callable[[], object], device: str) -> int:
    if torch.device(device).type != "cuda":
        return peak_bytes(run)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _why_not(contender: Contender, workload: Workload, mode: str, settings: Settings) -> str:
    if contender.name == "expm_multiply" and settings.device != "cpu":
        return "skipped: CPU only"
    reason = contender.why_not(workload, mode)
    return f"skipped: {reason}" if reason else ""


def _prepared(
    contender: Contender, problem: Problem, g: np.ndarray, mode: str, settings: Settings
) -> Callable[[], tuple[Tensor, ...]]:
    """A call that gives (z,), or (z, dXi, dz0)."""
    Xi, z0, t, g = (x.to(contender.dtype or x.dtype) for x in settings.tensors(problem.Xi, problem.z0, problem.t, g))
    if mode == "forward":
        return settings.synchronised(lambda: (contender.solve(Xi, z0, t),))
    Xi, z0 = Xi.requires_grad_(), z0.requires_grad_()

    def step() -> tuple[Tensor, ...]:
        z = contender.solve(Xi, z0, t)
        return z.detach(), *torch.autograd.grad(z, (Xi, z0), g)

    return settings.synchronised(step)


def _check(
    contender: Contender, problem: Problem, true: dict[str, np.ndarray], mode: str, settings: Settings
) -> dict[str, float]:
    """Relative errors, of gradients for a loss that touches the witnesses only."""
    z, *gradients = _prepared(contender, problem, problem.g_of_witnesses, mode, settings)()
    answers = dict(zip(("z", "dXi", "dz0"), (z[..., problem.witnesses, :], *gradients)))
    return relative_errors({key: x.cpu().numpy() for key, x in answers.items()}, true)


def _largest(errors: dict[str, float], others: dict[str, float]) -> dict[str, float]:
    return {key: max(errors.get(key, 0.0), error) for key, error in others.items()}
