"""How long does a training loop take: N_STEPS of Adam that fit one Xi to N_TRAJECTORIES with times of their own?

Contenders take turns of a few steps, in every round in another random order. Where a step is slow there are fewer; the
time of all is extrapolated, and marked. The losses tell whether they did the same work: after N_COMPARED steps and at
the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders import Solve, with_lean_eig, with_linode, with_matrix_exp, with_torchdiffeq, with_usual_eig
from benchmarks.harness import FAILURES, Settings
from tests import oracles

NAME = "job"
N, N_TIMES, N_TRAJECTORIES, N_STEPS, SPAN = 6, 200, 32, 500, 10.0
N_COMPARED = 3
TURN = 25  # steps
PAUSE = 0.02  # seconds before a turn: threads of whoever ran before go on spinning, torch's for some 7 ms
LEARNING_RATE = 0.02


@dataclass
class Training:
    """One contender's loop."""

    contender: str
    solve: Solve
    n_steps: int
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each step
    gradient_error: float = 0.0  # of the first step, relative
    note: str = ""

    def start(self, settings: Settings) -> None:
        Xi, self.z0, self.t, self.z = settings.tensors(*data())
        self.Xi = Xi.requires_grad_()
        self.optimiser = torch.optim.Adam([self.Xi], lr=LEARNING_RATE)
        self.step = settings.synchronised(self._step)
        self._step()  # warm-up
        self.gradient_error = _relative(self.Xi.grad.cpu().numpy(), first_gradient())
        self.Xi = settings.tensors(data()[0])[0].requires_grad_()
        self.optimiser = torch.optim.Adam([self.Xi], lr=LEARNING_RATE)

    def advance(self, n_steps: int) -> None:
        time.sleep(PAUSE)
        for _ in range(min(n_steps, self.n_steps - len(self.losses))):
            start = time.perf_counter()
            loss = self.step()
            self.seconds.append(time.perf_counter() - start)
            self.losses.append(float(loss))

    def _step(self) -> Tensor:
        self.optimiser.zero_grad()
        loss = ((self.solve(self.Xi, self.z0, self.t) - self.z) ** 2).mean()
        loss.backward()
        self.optimiser.step()
        return loss.detach()


def data() -> tuple[np.ndarray, ...]:
    """Xi to start from, z0 (32, n), t (32, T) and the true z (32, T, n)."""
    rng = np.random.default_rng(N)
    true = rng.standard_normal((N, N)) / np.sqrt(N) - 1.2 * np.eye(N)
    start = 0.1 * rng.standard_normal((N, N)) - 0.5 * np.eye(N)
    z0 = rng.standard_normal((N_TRAJECTORIES, N))
    t = np.sort(rng.uniform(0.0, SPAN, (N_TRAJECTORIES, N_TIMES)), axis=-1)
    return start, z0, t, _solutions(true, z0, t)


def first_gradient() -> np.ndarray:
    """dL/dXi at the start, by ball arithmetic."""
    Xi, z0, t, z = data()
    g = 2 * (_solutions(Xi, z0, t) - z) / z.size
    return sum(oracles.gradients(Xi, *arrays).S for arrays in zip(z0, t, g))


def _solutions(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.stack([oracles.trajectory(Xi, *arrays) for arrays in zip(z0, t)])


def _relative(x: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(x - truth) / np.linalg.norm(truth))


def _on_the_union_of_times(solve: Solve) -> Solve:
    """For a solver with one grid of times: all trajectories at all times, of which each takes its own."""

    def gathered(Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
        union, where = torch.unique(torch.cat([t.new_zeros(1), t.flatten()]), return_inverse=True)
        index = where[1:].reshape(t.shape)[..., None].expand(*t.shape, z0.shape[-1])
        return solve(Xi, z0, union).gather(-2, index)

    return gathered


def measure(settings: Settings, n_steps: int = N_STEPS) -> list[Training]:
    runs: list[tuple[str, Solve, int]] = [
        ("linode", with_linode("auto"), n_steps),
        ("lean eig", with_lean_eig, n_steps),
        ("usual eig", with_usual_eig, min(n_steps, 100)),
        ("matrix_exp", with_matrix_exp, min(n_steps, 25)),
        ("dopri5", _on_the_union_of_times(with_torchdiffeq("dopri5")), min(n_steps, N_COMPARED)),
    ]
    trainings = [Training(*run) for run in runs]
    rng = settings.rng()
    for turn in range(-1, -(-n_steps // TURN)):
        for j in rng.permutation(len(trainings)):
            training = trainings[j]
            _guarded(training, lambda x=training, i=turn: x.start(settings) if i < 0 else x.advance(TURN))
    return trainings


def _guarded(training: Training, action: Callable[[], None]) -> None:
    if not training.note:
        try:
            action()
        except FAILURES as error:
            training.note = f"raises {type(error).__name__}: {str(error).splitlines()[0][:80]}"


def describe(n_steps: int) -> str:
    systems = f"{N_TRAJECTORIES} trajectories of one Xi, n = {N}, T = {N_TIMES} irregular times of each"
    return f"{n_steps} steps of Adam, {systems}"


def rows(trainings: list[Training], n_steps: int) -> list[dict[str, object]]:
    """What each took for n_steps, in units of linode's too, the first."""
    return [_row(training, trainings[0], n_steps) for training in trainings]


def _row(training: Training, linode: Training, n_steps: int) -> dict[str, object]:
    if training.note:
        return {"contender": training.contender, "note": training.note}
    seconds = float(np.mean(training.seconds))
    return {
        "contender": training.contender,
        "seconds": seconds * n_steps,
        "ratio": seconds / float(np.mean(linode.seconds)) if linode.seconds else None,
        "ms_per_step": 1e3 * float(np.median(training.seconds)),
        "n_steps_run": len(training.losses),
        "extrapolated": len(training.losses) < n_steps,
        "first_gradient_error": training.gradient_error,
        f"loss_after_{N_COMPARED}": training.losses[min(N_COMPARED, n_steps) - 1],
        "last_loss": training.losses[-1],
    }
