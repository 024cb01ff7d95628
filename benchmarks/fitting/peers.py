"""Other packages on the same problems, each with the settings that were found to serve it best.

A contender returns Xi, or where the states are not seen the observations at the sample times. It says by `NotDone` what
it is not made for. Packages are imported when they are asked for: `pip install pydmd pysindy nfoursid`.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import torch

import linode
from benchmarks.fitting.problems import Array, Problem

N_STEPS, RATE = 2000, 0.01  # of Adam
BLOCK_ROWS = 8  # of nfoursid's Hankel matrices
Result = Array


class NotDone(Exception):
    """The contender is not made for such data."""


def one_trajectory(
    problem: Problem, *, is_uniform: bool = False, takes_inputs: bool = False
) -> tuple[Array, Array, Array]:
    """t, z and clean of problems with one trajectory and several channels."""
    if isinstance(problem.t, list):
        raise NotDone("several trajectories")
    if problem.u is not None and not takes_inputs:
        raise NotDone("inputs")
    if problem.z.shape[1] < problem.options.get("rank", 1):
        raise NotDone("fewer channels than states")
    if is_uniform and not problem.is_uniform:
        raise NotDone("irregular samples")
    return problem.trajectories[0]


def from_modes(problem: Problem, t: Array, eigenvalues: Array, modes: Array, amplitudes: Array) -> Result:
    """Xi where it is asked for, else the observations, of modes (p, n)."""
    if problem.Xi is not None:
        return (modes @ np.diag(eigenvalues) @ np.linalg.pinv(modes)).real
    return ((modes * amplitudes) @ np.exp(np.outer(eigenvalues, t - t[0]))).real.T


def with_dmd(problem: Problem) -> Result:
    from pydmd import DMD

    t, z, _ = one_trajectory(problem, is_uniform=True)
    dmd = DMD(svd_rank=problem.options.get("rank", z.shape[1]), opt=True).fit(z.T)
    lam = np.log(dmd.eigs.astype(complex)) / (t[1] - t[0])
    return from_modes(problem, t, lam, dmd.modes, dmd.amplitudes)


def with_bopdmd(problem: Problem) -> Result:
    """Without bagging, in the left half-plane, conjugate pairs where all can be, iterations until they stall."""
    from pydmd import BOPDMD

    t, z, _ = one_trajectory(problem)
    settings = {"tol": 1e-8, "eps_stall": 1e-10, "maxiter": 100}
    rank = problem.options.get("rank", z.shape[1])
    constraints = {"stable", "conjugate_pairs"} if rank % 2 == 0 else {"stable"}
    dmd = BOPDMD(svd_rank=rank, num_trials=0, eig_constraints=constraints, varpro_opts_dict=settings)
    dmd.fit(z.T, t=t - t[0])
    return from_modes(problem, t, dmd.eigs, dmd.modes, dmd.amplitudes)


def with_varprodmd(problem: Problem) -> Result:
    from pydmd import VarProDMD

    t, z, _ = one_trajectory(problem)
    dmd = VarProDMD(svd_rank=problem.options.get("rank", z.shape[1])).fit(z.T, t - t[0])
    return from_modes(problem, t, dmd.eigs, dmd.modes, dmd.amplitudes)


def with_pysindy(problem: Problem) -> Result:
    """Linear library without a threshold, differences, smoothed where samples are uniform."""
    import pysindy

    if problem.Xi is None:
        raise NotDone("states that are not seen")
    n = len(problem.Xi)
    difference = pysindy.SmoothedFiniteDifference if problem.is_uniform else pysindy.FiniteDifference
    model = pysindy.SINDy(
        optimizer=pysindy.STLSQ(threshold=0.0, alpha=0.0),
        feature_library=pysindy.PolynomialLibrary(degree=1, include_bias=False),
        differentiation_method=difference(),
    )
    t, z = ([part[i] for part in problem.trajectories] for i in (0, 1))
    with contextlib.redirect_stdout(io.StringIO()):
        if isinstance(problem.t, list):
            model.fit(z, t=t)
        else:
            model.fit(z[0], t=t[0], u=problem.u)
    return model.coefficients()[:, :n]


def with_nfoursid(problem: Problem) -> Result:
    """Subspace identification of a discrete system, whose logarithm, in the basis of the channels, is Xi."""
    import pandas
    from nfoursid.nfoursid import NFourSID

    t, z, _ = one_trajectory(problem, is_uniform=True, takes_inputs=True)
    p, rank = z.shape[1], problem.options.get("rank", z.shape[1])
    if p > 50:
        raise NotDone("so many channels")
    u = np.zeros((len(t), 1)) if problem.u is None else problem.u
    inputs, outputs = [f"u{i}" for i in range(u.shape[1])], [f"y{i}" for i in range(p)]
    table = pandas.DataFrame(np.c_[u, z], columns=[*inputs, *outputs])
    model = NFourSID(table, output_columns=outputs, input_columns=inputs, num_block_rows=BLOCK_ROWS)
    model.subspace_identification()
    system, _ = model.system_identification(rank=rank)
    return (system.c @ scipy.linalg.logm(system.a) @ np.linalg.inv(system.c)).real / (t[1] - t[0])


def with_adam(problem: Problem) -> Result:
    """A training loop: 2000 steps on Xi, B and the initial states, from small random ones."""
    if problem.Xi is None:
        raise NotDone("states that are not seen")
    torch.manual_seed(0)
    n = len(problem.Xi)
    data = [(torch.from_numpy(t - t[0]), torch.from_numpy(z)) for t, z, _ in problem.trajectories]
    Xi = (0.1 * torch.randn(n, n, dtype=torch.float64)).requires_grad_()
    z0 = torch.stack([z[0] for _, z in data]).requires_grad_()
    unknowns, forcing = [Xi, z0], {}
    if problem.u is not None:
        B = torch.zeros(n, problem.u.shape[1], dtype=torch.float64, requires_grad=True)
        unknowns.append(B)
        forcing = {"B": B, "u": linode.ZeroOrderHold(data[0][0], torch.from_numpy(problem.u))}
    optimiser = torch.optim.Adam(unknowns, lr=RATE)
    for _ in range(N_STEPS):
        optimiser.zero_grad()
        loss = sum((linode.LinearODE(Xi, z0[k], **forcing)(t) - z).square().sum() for k, (t, z) in enumerate(data))
        loss.backward()
        optimiser.step()
    return Xi.detach().numpy()


PEERS: dict[str, Callable[[Problem], Result]] = {
    "PyDMD DMD": with_dmd,
    "PyDMD BOPDMD": with_bopdmd,
    "PyDMD VarProDMD": with_varprodmd,
    "pysindy": with_pysindy,
    "nfoursid": with_nfoursid,
    "Adam, 2000 steps": with_adam,
}
FEW_SEEDS = {"Adam, 2000 steps": 2}  # seconds for each


def quietly(function: Callable[[Problem], Result], problem: Problem) -> Result:
    """Without what it prints and warns of."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return np.asarray(function(problem))


def error_of(problem: Problem, result: Any) -> float:
    """|Xi - true| in the Frobenius norm, or the root mean square error of the observations."""
    if problem.Xi is not None:
        return float(np.linalg.norm(result - problem.Xi))
    return float(np.sqrt(np.mean((result - problem.clean) ** 2)))
