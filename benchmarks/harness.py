"""How long does each contender take, how much memory, and how wrong is it?

All contenders run in one process on the same problem. In every round each has one turn, in an order drawn anew (from
a seed that is part of the conditions), so that what one leaves behind (caches, allocator, threads that still spin)
meets all others alike. A turn is one timed call: more calls in a row would time a loop of one contender in warm caches.
The setting `is_beside` lets a small network train before each timed call, as in a process that does other work too.
Whoever is slow takes part in fewer rounds, spread evenly over all. Figures are medians and quartiles over the calls on
all seeds. Memory is what one call allocates at most at once, its output included, on the first seed. Errors are the
largest over the seeds.
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

from benchmarks.contenders import FLOOR, LIMIT, N_EACH, Contender, Nothing, contenders_of, limit
from benchmarks.truth import relative_errors, truth
from benchmarks.workloads import BESIDE, Problem, Workload
from tests.memory import peak_bytes

SLOW = 5.0  # seconds of the first call, beyond which it is the only one
FEWEST = 3  # rounds of whoever is faster
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
    most_rounds: int
    seconds: float  # for all timed calls together: decides the number of rounds
    before: Callable[[], object] = lambda: None  # in every turn, not timed
    n_rounds: int = 0
    is_traced: bool = False  # its memory

    def warm_up(self, check: Callable[[], dict[str, float]]) -> None:
        start = time.perf_counter()
        self.row.errors = _largest(self.row.errors, check())
        seconds = time.perf_counter() - start
        if seconds > SLOW:  # cold, but so slow that it does not matter
            self.row.samples.append(seconds)
            return
        start = time.perf_counter()
        self.run()
        seconds = time.perf_counter() - start
        self.n_rounds = int(min(self.most_rounds, max(FEWEST, self.seconds / seconds)))

    def take_turn(self) -> None:
        self.before()
        start = time.perf_counter()
        self.run()
        self.row.samples.append(time.perf_counter() - start)


def interleave(runners: list[Runner], rng: np.random.Generator) -> None:
    """One turn of each in every round, in random order; those with fewer rounds than others rest in some."""
    most = max((runner.n_rounds for runner in runners), default=0)
    for i in range(most):
        taking_part = [x for x in runners if (i + 1) * x.n_rounds // most > i * x.n_rounds // most]
        for j in rng.permutation(len(taking_part)):
            taking_part[j].take_turn()


def small_network(settings: Settings) -> Callable[[], object]:
    """Forward and backward of a small network: some 0.2 ms, as other work between the calls of a solver."""
    layers = torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 64)
    network = torch.nn.Sequential(*layers).to(settings.device, torch.float32)
    x = torch.ones(32, 64, device=settings.device)

    def train() -> None:
        network.zero_grad()
        network(x).square().mean().backward()

    return settings.synchronised(train)


@dataclass(frozen=True)
class Settings:
    """How much to measure, and where."""

    n_rounds: int = 100
    seconds: float = 3.0  # for each contender, seed and mode
    order_seed: int = 0  # of the order within the rounds
    device: str = "cpu"
    with_methods: bool = False
    with_memory: bool = True
    most_seeds: int = 3
    peers: tuple[str, ...] | None = None  # beside linode, by name; None: all

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

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.order_seed)


def measure(workload: Workload, mode: str, settings: Settings, skip: frozenset[str] = frozenset()) -> list[Row]:
    """A row for each contender but those to skip, over the workload's seeds.

    mode: "forward" or "step"; with BESIDE after it a small network trains before every timed call.
    """
    is_beside, mode = mode.endswith(BESIDE), mode.removesuffix(BESIDE)

    def is_wanted(name: str) -> bool:
        return name not in skip and (settings.peers is None or name in settings.peers or name.startswith("linode"))

    everyone = [x for x in contenders_of(workload, settings.with_methods) if is_wanted(x.name)]
    least = [x for x in (LIMIT, FLOOR) if is_wanted(x)]
    rows = {name: Row(name) for name in (*(contender.name for contender in everyone), *least)}
    for contender in everyone:
        rows[contender.name].note = _why_not(contender, workload, mode, settings)
    rng, before = settings.rng(), small_network(settings) if is_beside else lambda: None
    for seed in workload.seeds[: settings.most_seeds]:
        runners = _runners(workload.problem(seed), mode, settings, everyone, rows)
        for runner in runners:
            runner.before = before
        interleave(runners, rng)
        for runner in runners:
            if settings.with_memory and runner.is_traced and runner.row.peak_bytes is None:
                runner.row.peak_bytes = peak_of(runner.run, settings.device)
    return list(rows.values())


def _runners(
    problem: Problem, mode: str, settings: Settings, everyone: list[Contender], rows: dict[str, Row]
) -> list[Runner]:
    """Those who can run on one problem, warm, with their errors in the rows."""
    true, runners = truth(problem), []
    for contender in everyone:
        row = rows[contender.name]
        if row.note:
            continue
        run = _prepared(contender, problem, problem.g, mode, settings)
        runner = Runner(row, run, min(settings.n_rounds, contender.most_rounds or settings.n_rounds), settings.seconds)
        try:
            runner.warm_up(partial(_check, contender, problem, true, mode, settings))
        except FAILURES as error:
            row.note = f"raises {type(error).__name__}: {str(error).splitlines()[0][:80]}"
            row.samples.clear()
            continue
        runner.is_traced = runner.n_rounds > 0 and problem.t.shape[-1] <= contender.traced_up_to
        runners.append(runner)
    arrays = settings.tensors(problem.Xi, problem.z0, problem.t)
    least = {
        LIMIT: settings.synchronised(lambda: limit(*arrays, N_EACH[mode])),
        FLOOR: _prepared(Contender(FLOOR, Nothing.apply), problem, problem.g, mode, settings),
    }
    for name, run in least.items():
        if name in rows:
            runners.append(Runner(rows[name], run, settings.n_rounds, settings.seconds))
            runners[-1].warm_up(lambda run=run: (run(), {})[1])
    return runners


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
