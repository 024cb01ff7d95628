"""Which problems are timed, and which ratios are hoped for: name, size, grid of times and targets of each workload.

Random systems are Xi = randn / sqrt(n) - 1.5 I, eigenvalues in a disc of radius 1 around -1.5, times in [0, 10].
A target is the least time of a peer that is hoped for, in units of linode's; targets are printed, never asserted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

SPAN = 10.0
FORWARD = 0.8  # forward alone is held to this part of the targets of a step, where it has none of its own
BEST_METHOD = 1 / 1.3  # auto takes at most 1.3 times as long as the best method by name
MODES = ("forward", "step")  # step: forward and the gradients with respect to Xi and z0
BESIDE = " beside a network"  # after a mode's name: a small network trains between the timed calls; same targets


@dataclass(frozen=True)
class Problem:
    """Arrays of one problem; truth is known at a few times, and where the systems are many, of the first few."""

    Xi: np.ndarray  # (*batch, n, n)
    z0: np.ndarray  # (*batch, n), or (n_starts, n) for one system
    t: np.ndarray  # (T,) or (*batch, T)
    g: np.ndarray  # (*batch, T, n) or (n_starts, T, n), the gradient with respect to z
    witnesses: np.ndarray  # indices of the times at which truth is known

    @property
    def g_of_witnesses(self) -> np.ndarray:
        """g where truth is known and zero elsewhere, so that the truth of the gradients is few exponentials."""
        sparse = np.zeros_like(self.g)
        sparse[..., self.witnesses, :] = self.g[..., self.witnesses, :]
        return sparse


@dataclass(frozen=True)
class Workload:
    """One kind of problem; a seed makes it a Problem."""

    name: str
    n: int
    n_times: int
    grid: str = "irregular"  # or "uniform", or "own": other irregular times for every system
    kind: str = "random"  # or one of MATRICES
    n_systems: int | None = None  # None: one system without a batch dimension
    n_starts: int | None = None  # initial states of one system; None: one, without a dimension of its own
    dtype: str = "float64"
    seeds: tuple[int, ...] = (0, 1, 2)  # random matrices differ in the condition of their eigenvectors
    n_witnesses: int = 4
    targets: dict[str, float] = field(default_factory=dict)
    forward_targets: dict[str, float] = field(default_factory=dict)  # where not FORWARD of the above
    most_memory: float | None = None  # hoped for, in units of the output

    def target(self, contender: str, mode: str) -> float | None:
        if contender.startswith("linode ") and contender not in self.targets:
            return BEST_METHOD
        least = self.targets.get(contender)
        if mode.removesuffix(BESIDE) == "step":
            return least
        return self.forward_targets.get(contender, None if least is None else FORWARD * least)

    def problem(self, seed: int) -> Problem:
        rng = np.random.default_rng([self.n, self.n_times, seed])
        batch = () if self.n_systems is None else (self.n_systems,)
        many = batch if self.n_starts is None else (self.n_starts,)
        Xi = MATRICES[self.kind](rng, self.n, batch)
        z0 = rng.standard_normal((*many, self.n))
        t = rng.uniform(0.0, SPAN, (*batch, self.n_times) if self.grid == "own" else self.n_times)
        t[..., 0] = 0.0  # dopri5 starts at t[0]
        t = np.linspace(0.0, SPAN, self.n_times) if self.grid == "uniform" else np.sort(t, axis=-1)
        g = rng.standard_normal((*many, self.n_times, self.n)) / np.sqrt(self.n_times * self.n)
        witnesses = np.linspace(0, self.n_times - 1, self.n_witnesses + 1).astype(int)[1:]
        return Problem(*(x.astype(self.dtype) for x in (Xi, z0, t, g)), np.unique(witnesses))

    @property
    def matrix_bytes(self) -> int:
        """Of one n x n matrix for every time, which some peers make."""
        return np.dtype(self.dtype).itemsize * (self.n_systems or 1) * self.n_times * self.n**2

    @property
    def output_bytes(self) -> int:
        """Of z."""
        n_trajectories = (self.n_systems or 1) * (self.n_starts or 1)
        return np.dtype(self.dtype).itemsize * n_trajectories * self.n_times * self.n

    def __str__(self) -> str:
        systems = f"{self.n_systems} systems, " if self.n_systems else ""
        starts = f"{self.n_starts} initial states of one system, " if self.n_starts else ""
        kind = "" if self.kind == "random" else f", {self.kind}"
        times = "own irregular" if self.grid == "own" else self.grid
        return f"{systems}{starts}n = {self.n}, T = {self.n_times} {times} times, {self.dtype}{kind}"


def _random(rng: np.random.Generator, n: int, batch: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal((*batch, n, n)) / np.sqrt(n) - 1.5 * np.eye(n)


def _stiff(rng: np.random.Generator, n: int, batch: tuple[int, ...]) -> np.ndarray:
    """Eigenvalues from -1 to -1e6, eigenvectors of condition 10."""
    Q, W = (np.linalg.qr(rng.standard_normal((*batch, n, n)))[0] for _ in range(2))
    return _similar(Q * np.logspace(0, 1, n) @ W)


def _stiff_generic(rng: np.random.Generator, n: int, batch: tuple[int, ...]) -> np.ndarray:
    """Eigenvalues from -1 to -1e6, eigenvectors random."""
    return _similar(rng.standard_normal((*batch, n, n)))


def _similar(V: np.ndarray) -> np.ndarray:
    return V * -np.logspace(0, 6, V.shape[-1]) @ np.linalg.inv(V)


def _stiff_defective(rng: np.random.Generator, n: int, batch: tuple[int, ...]) -> np.ndarray:
    """A Jordan block [[-1, 1], [0, -1]] beside eigenvalues from -1e2 to -1e6, in an orthogonal basis."""
    J = np.diag(-np.concatenate([[1.0, 1.0], np.logspace(2, 6, n - 2)]))
    J[0, 1] = 1.0
    Q = np.linalg.qr(rng.standard_normal((*batch, n, n)))[0]
    return Q @ J @ np.swapaxes(Q, -1, -2)


def _graded_triangular(rng: np.random.Generator, n: int, batch: tuple[int, ...]) -> np.ndarray:
    """Upper triangular and defective: eigenvalues from -1e4 to -1, each twice; later rows and columns are smaller."""
    root = np.sqrt(np.logspace(4, 0, n // 2).repeat(2))
    above = np.triu(rng.standard_normal((*batch, n, n)) / np.sqrt(n), 1)
    return root[:, None] * (above - np.eye(n)) * root


MATRICES = {
    "random": _random,
    "stiff": _stiff,
    "stiff generic": _stiff_generic,
    "stiff, defective": _stiff_defective,
    "graded triangular, defective": _graded_triangular,
}

MID = Workload("mid", 100, 10_000, seeds=(0,), targets={"lean eig": 4, "limit": 1 / 1.3})
LARGE = Workload("large", 256, 1000, seeds=(0,), targets={"lean eig": 2, "limit": 1 / 1.6})
STIFF = Workload("stiff", 60, 2000, kind="stiff", targets={"lean eig": 1.8}, forward_targets={"lean eig": 1.3})
BATCH = Workload(
    "batch", 8, 200, n_systems=256, targets={"lean eig": 8, "matrix_exp": 200}, forward_targets={"lean eig": 6}
)
LONG = Workload("long", 6, 1_000_000, seeds=(0,), targets={"lean eig": 3}, most_memory=6)
LONG_TENTH = "long-1e4"  # the same at 10^4 times
MOST_PER_POINT = 1.2  # hoped for: time for each point of LONG over that at LONG_TENTH

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "tiny",
            6,
            1000,
            targets={"lean eig": 3, "usual eig": 3, "matrix_exp": 25, "dopri5": 600},
            forward_targets={"lean eig": 2.5},
        ),
        Workload(
            "tiny-uniform",
            6,
            200,
            "uniform",
            targets={"lean eig": 3, "matrix_exp": 6},
            forward_targets={"lean eig": 2.5},
        ),
        Workload("small", 32, 1000, targets={"lean eig": 3, "matrix_exp": 300}, forward_targets={"lean eig": 2.5}),
        MID,
        replace(MID, name="mid-uniform", grid="uniform"),
        LARGE,
        replace(LARGE, name="large-uniform", grid="uniform"),
        Workload(
            "huge",
            600,
            300,
            seeds=(0,),
            n_witnesses=2,
            targets={"lean eig": 1.5, "limit": 1 / 1.6},
            forward_targets={"lean eig": 4},
        ),
        STIFF,
        replace(STIFF, name="stiff-generic", kind="stiff generic", targets={"lean eig": 1.5}, forward_targets={}),
        # no eigenbasis: where a Schur form with its exact diagonal could win
        Workload("stiff-defective", 30, 1000, kind="stiff, defective"),
        Workload("graded-triangular", 20, 1000, kind="graded triangular, defective"),
        BATCH,
        replace(
            BATCH,
            name="batch-own-times",
            grid="own",
            targets={"lean eig": 5, "matrix_exp": 200},
            forward_targets={"lean eig": 4},
        ),
        Workload("starts", 8, 100, n_starts=64, targets={"lean eig": 4}, forward_targets={"lean eig": 3}),
        LONG,
        replace(LONG, name=LONG_TENTH, n_times=10_000, targets={}, most_memory=None),
        replace(MID, name="float32", dtype="float32", targets={"lean eig": 4, "linode in float64": 1.4}),
    )
}

SWEEP = Workload("sweep", 6, 1000, seeds=(0,))
SWEEPS: dict[str, tuple[str, list[Workload]]] = {  # label of the axis; sizes grow until a contender is too slow
    "n": ("number of states n (T = 1000)", [replace(SWEEP, n=n) for n in (2, 4, 8, 16, 32, 64, 128, 256)]),
    "T": ("number of times T (n = 6)", [replace(SWEEP, n_times=10**k) for k in range(1, 7)]),
    "batch": (
        "number of systems (n = 8, T = 200)",
        [replace(SWEEP, n=8, n_times=200, n_systems=4**k) for k in range(6)],
    ),
}
