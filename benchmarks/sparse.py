"""Large sparse systems: linode beside scipy, Runge-Kutta and multistep codes, each in a process that can be stopped.

The processes of a row take turns, one call in a turn, in an order drawn anew in every round, as in `harness`; all wait
while one runs. A contender whose call exceeds the limit of time or of memory is stopped, and the row says so. All that
a call needs is in it: Xi is given as its CSR arrays, and linode plans anew. Forward alone for peers: none of them has a
gradient with respect to the entries of Xi.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import scipy.integrate
import scipy.sparse as sp
import scipy.sparse.linalg
import torch
import torchdiffeq
from torch import Tensor

import linode
from benchmarks.harness import FEWEST, SLOW, Row, Settings, interleave
from benchmarks.sparse_systems import SYSTEMS, Problem, System

START = "forkserver"  # how processes are made
LIMIT = 60.0  # seconds of a call, beyond which it is stopped
PATIENCE = 900.0  # seconds for a process to make its problem with its truth
MOST_MEMORY = 8 * 2**30  # bytes of a process; a factorisation with much fill asks for more
RTOL = 1e-8
ACCURATE = 1e-5  # relative error beyond which a peer is not counted
MOST_BAND = 2e9  # bytes of LSODA's banded Jacobian
QUICK_N, QUICK_LIMIT = 2000, 5.0


@dataclass
class Sample:
    """One call: seconds and, of the first, errors, counts and memory; or why there is none."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of all threads
    errors: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    peak_bytes: int | None = None  # beyond what the process held before the call
    process_bytes: int | None = None  # all that the process held at most
    note: str = ""


@dataclass
class Answer:
    """What a call gave: z at the witnesses (w, n), gradients, counts."""

    z: np.ndarray
    dz0: np.ndarray | None = None
    dXi: np.ndarray | None = None  # (nnz,) in CSR order
    details: dict[str, Any] = field(default_factory=dict)


Run = Callable[[], Answer]


# ---- linode ----------------------------------------------------------------------------------------------------------


def csr_of(Xi: sp.csr_array, values: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that its CSR is in beta
        return torch.sparse_csr_tensor(
            torch.from_numpy(Xi.indptr), torch.from_numpy(Xi.indices), values, Xi.shape, check_invariants=False
        )


def with_linode(problem: Problem, mode: str, method: str = "auto") -> Run:
    values, z0, t, g = (torch.from_numpy(x) for x in (problem.Xi.data, problem.z0, problem.t, problem.g))

    def forward() -> Answer:
        ode = linode.LinearODE(csr_of(problem.Xi, values), z0, method=method, rtol=RTOL)
        return Answer(ode(t)[problem.witnesses].numpy(), details=details_of(ode))

    def step() -> Answer:
        # a leaf: where a CSR tensor is made from values that need gradients, torch's own backward makes it dense
        leaves = csr_of(problem.Xi, values).requires_grad_(), z0.detach().requires_grad_()
        ode = linode.LinearODE(*leaves, method=method, rtol=RTOL)
        z = ode(t)
        dXi, dz0 = torch.autograd.grad(z, leaves, g)
        return Answer(z.detach()[problem.witnesses].numpy(), dz0.numpy(), dXi.values().numpy(), details_of(ode))

    return forward if mode == "forward" else step


def details_of(ode: linode.LinearODE) -> dict[str, Any]:
    """What the plan counted."""
    plan = ode.decomposition
    return {"method": plan.method, **plan.details}


def with_operator(problem: Problem, mode: str, knows: str) -> Run:
    """The same by products alone; knows: "nothing", "dissipative" (no eigenvalue grows) or "bounds" of real parts."""
    values, z0, t = (torch.from_numpy(x) for x in (problem.Xi.data, problem.z0, problem.t))
    forward, backward = problem.Xi, sp.csr_array(problem.Xi.conj().T)

    def product(A: sp.csr_array) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.from_numpy(np.ascontiguousarray((A @ x.numpy().reshape(-1, x.shape[-1]).T).T)).reshape(
            x.shape
        )

    told = {"nothing": {}, "dissipative": {"dissipative": True}, "bounds": {"bounds": bounds_of(problem.Xi)}}[knows]

    def run() -> Answer:
        operator = linode.Operator(
            product(forward), len(z0), rmatvec=product(backward), dtype=values.dtype, hermitian=is_hermitian, **told
        )
        ode = linode.LinearODE(operator, z0, rtol=RTOL)
        return Answer(ode(t)[problem.witnesses].numpy(), details=details_of(ode))

    is_hermitian = abs(forward - backward).max() == 0
    return run


def bounds_of(Xi: sp.csr_array) -> tuple[float, float]:
    """Ends of the real parts of the numerical range, by Gershgorin's discs."""
    hermitian = (Xi + Xi.conj().T) / 2
    centre = hermitian.diagonal().real
    radius = abs(hermitian).sum(axis=1) - abs(centre)
    return float((centre - radius).min()), float((centre + radius).max())


# ---- peers -----------------------------------------------------------------------------------------------------------


class Counted(sp.csr_array):
    """Counts the columns that it is multiplied with."""

    n_products = 0

    def dot(self, other: Any) -> Any:
        Counted.n_products += 1 if other.ndim == 1 else other.shape[1]
        return super().dot(other)


def with_expm_multiply(problem: Problem, mode: str) -> Run:
    def run() -> Answer:
        Counted.n_products = 0
        z = scipy.sparse.linalg.expm_multiply(
            Counted(problem.Xi), problem.z0, start=0.0, stop=problem.t[-1], num=len(problem.t), endpoint=True
        )
        return Answer(z[problem.witnesses], details={"n_products": Counted.n_products})

    return run


def tolerances(problem: Problem) -> dict[str, float]:
    """rtol, and an atol that counts where the state is smallest: an absolute error alone would be none of z(t_i)."""
    sizes = np.linalg.norm(problem.true.z, axis=1) / np.sqrt(len(problem.z0))
    return {"rtol": RTOL, "atol": RTOL * float(sizes.min())}


def with_solve_ivp(problem: Problem, mode: str, method: str) -> Run:
    tol, options = tolerances(problem), {}
    if method == "BDF":
        options = {"jac": sp.csc_matrix(problem.Xi)}
    elif method == "LSODA":
        options = banded(problem.Xi)

    def run() -> Answer:
        Xi = problem.Xi
        solution = scipy.integrate.solve_ivp(
            lambda t, z: Xi @ z,
            (0.0, problem.t[-1]),
            problem.z0,
            method=method,
            t_eval=problem.t,
            **tol,
            **options,
        )
        if not solution.success:
            raise ValueError(solution.message)
        return Answer(solution.y.T[problem.witnesses], details={"n_products": int(solution.nfev)})

    return run


def banded(Xi: sp.csr_array) -> dict[str, Any]:
    """LSODA's Jacobian in its packed form: row u + i - j, column j."""
    A = Xi.tocoo()
    lower, upper = int((A.row - A.col).max()), int((A.col - A.row).max())
    packed = np.zeros((lower + upper + 1, Xi.shape[0]))
    packed[upper + A.row - A.col, A.col] = A.data
    return {"lband": lower, "uband": upper, "jac": lambda t, z: packed}


def with_dopri5(problem: Problem, mode: str) -> Run:
    tol = tolerances(problem)
    Xi = csr_of(problem.Xi, torch.from_numpy(problem.Xi.data))
    z0, t = torch.from_numpy(problem.z0), torch.from_numpy(problem.t)
    count = 0

    def velocity(_: Tensor, z: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return Xi @ z

    def run() -> Answer:
        nonlocal count
        count = 0
        with torch.no_grad():
            z = torchdiffeq.odeint(velocity, z0, t, method="dopri5", **tol)
        return Answer(z[problem.witnesses].numpy(), details={"n_products": count})

    return run


def without_band(problem: Problem) -> str:
    if np.iscomplexobj(problem.Xi.data):
        return "real states only"
    A = problem.Xi.tocoo()
    lower, upper = int((A.row - A.col).max()), int((A.col - A.row).max())
    n_bytes = 8.0 * (2 * lower + upper + 10) * problem.Xi.shape[0]
    return f"its banded Jacobian takes {n_bytes / 1e9:.3g} GB" if n_bytes > MOST_BAND else ""


PEERS: dict[str, Callable[[Problem, str], Run]] = {
    "expm_multiply": with_expm_multiply,
    "DOP853": partial(with_solve_ivp, method="DOP853"),
    "BDF": partial(with_solve_ivp, method="BDF"),
    "LSODA": partial(with_solve_ivp, method="LSODA"),
    "dopri5": with_dopri5,
}
METHODS = {f"linode {name}": partial(with_linode, method=name) for name in ("faber", "rational")}
OPERATORS = {
    f"linode operator, {knows} known" if knows == "nothing" else f"linode operator, {knows}": partial(
        with_operator, knows=knows
    )
    for knows in ("nothing", "dissipative", "bounds")
}
CONTENDERS = {"linode": with_linode, **METHODS, **OPERATORS, **PEERS}
REFUSALS = {"LSODA": without_band}  # why a contender is not run, or ""


def contenders_of(system: System, mode: str, settings: Settings) -> list[str]:
    names = ["linode", *(METHODS if settings.with_methods else ())]
    if mode == "forward":
        names += [*(OPERATORS if settings.with_methods and system.is_stencil else ())]
        names += [x for x in PEERS if system.has_peers and (settings.peers is None or x in settings.peers)]
    return names


# ---- in the process of a contender -----------------------------------------------------------------------------------


def serve(connection: Connection, system: System, n: int | None, mode: str, name: str, threads: int) -> None:
    """Answer "go" by one call, until the other end closes."""
    torch.set_num_threads(threads)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    warnings.simplefilter("ignore")
    problem, is_first = system.problem(n), True
    refusal = REFUSALS[name](problem) if name in REFUSALS else ""
    run = None if refusal else CONTENDERS[name](problem, mode)
    connection.send(f"skipped: {refusal}" if refusal else "")
    with contextlib.suppress(EOFError):
        while connection.recv() == "go":
            connection.send(called(run, problem if is_first else None))
            is_first = False


def called(run: Run, problem: Problem | None) -> Sample:
    """One call; with errors, counts and memory where the problem is given."""
    before = memory("VmRSS") if problem is not None else None
    start, cpu = time.perf_counter(), time.process_time()
    try:
        answer = run()
    except Exception as error:  # whatever a package raises is the result
        return Sample(note=f"raises {type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}")
    sample = Sample(time.perf_counter() - start, time.process_time() - cpu)
    if problem is not None:
        sample.process_bytes = memory("VmHWM")
        if before is not None and sample.process_bytes is not None:
            sample.peak_bytes = sample.process_bytes - before
        sample.errors = problem.errors(answer.z, answer.dz0, answer.dXi)
        sample.details = {key: value for key, value in answer.details.items() if is_plain(value)}
    return sample


def is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def memory(key: str) -> int | None:
    """Bytes of this process: resident now (VmRSS), resetting the peak, or at most since then (VmHWM); Linux only."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    if key == "VmRSS":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))


# ---- here ------------------------------------------------------------------------------------------------------------


@dataclass
class SparseRow(Row):
    """A row with what the method counted."""

    details: dict[str, Any] = field(default_factory=dict)
    process_bytes: int | None = None
    cpu_samples: list[float] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        self.samples.append(sample.seconds)
        self.cpu_samples.append(sample.cpu_seconds)


class Contestant:
    """A contender in a process of its own, which is stopped when a call exceeds the limit."""

    def __init__(self, system: System, n: int | None, mode: str, name: str, limit: float, settings: Settings):
        self.row, self.limit, self.n_rounds = SparseRow(name), limit, 0
        context = multiprocessing.get_context(START)
        context.set_forkserver_preload(["benchmarks.sparse"])  # so that torch is imported once
        self.connection, self.theirs = context.Pipe()
        arguments = (self.theirs, system, n, mode, name, torch.get_num_threads())
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.settings = settings

    def start(self) -> None:
        """The first call, and how many are to follow."""
        self.process.start()
        self.theirs.close()
        refusal = self._answer(PATIENCE, f"no problem after {PATIENCE:g} s")
        if refusal:
            self._end(refusal)
        first = self.call() if refusal == "" else None
        if first is None:
            return
        self.row.errors, self.row.details = first.errors, first.details
        self.row.peak_bytes, self.row.process_bytes = first.peak_bytes, first.process_bytes
        if first.seconds > SLOW:  # cold, but so slow that it does not matter
            self.row.add(first)
        else:
            budget = self.settings.seconds / first.seconds
            self.n_rounds = int(min(self.settings.n_rounds, max(FEWEST, budget)))

    def take_turn(self) -> None:
        sample = self.call() if self.process.is_alive() else None
        if sample is not None:
            self.row.add(sample)

    def call(self) -> Sample | None:
        """One call; None where it did not end, which the row says."""
        self.connection.send("go")
        sample = self._answer(self.limit, f"stopped after {self.limit:g} s")
        if sample is not None and sample.note:
            self._end(sample.note)
            return None
        return sample

    def _answer(self, limit: float, note: str) -> Any:
        try:
            if self.connection.poll(limit):
                return self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join(5.0)
            note = f"its process ended with code {self.process.exitcode}"
        self._end(note)
        return None

    def _end(self, note: str) -> None:
        self.row.note = note
        self.stop()

    def stop(self) -> None:
        self.connection.close()
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()


def measure(name: str, mode: str, settings: Settings, n: int | None = None, limit: float = LIMIT) -> list[SparseRow]:
    """A row for each contender; linode first. mode: "forward", or "step" with the gradients of Xi and z0."""
    system = SYSTEMS[name]
    system.problem(n)  # makes the truth, once for all processes
    with contestants(system, n, mode, limit, settings) as taking_part:
        for x in taking_part:
            x.start()
        interleave([x for x in taking_part if x.n_rounds], settings.rng())
        return [x.row for x in taking_part]


@contextlib.contextmanager
def contestants(
    system: System, n: int | None, mode: str, limit: float, settings: Settings
) -> Iterator[list[Contestant]]:
    names = contenders_of(system, mode, settings)
    found = [Contestant(system, n, mode, name, limit, settings) for name in names]
    try:
        yield found
    finally:
        for x in found:
            x.stop()
